//! Leases: renewed while deliveries are held, and told when they are lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use busline_log::{SeqRange, Settle, Settlement};

use super::error::of_log;
use super::state::SubscriptionState;

/// Renews the leases of what is held, and says what was lost, until nothing is left to keep.
pub(super) async fn keep_leases(
    state: Weak<SubscriptionState>,
    lease: Duration,
    hold_max: Option<Duration>,
) {
    let step = (lease / 3).max(Duration::from_millis(5));
    loop {
        let Some(clock) = state.upgrade().map(|state| Arc::clone(state.store.time.clock())) else {
            return;
        };
        clock.sleep(step).await;
        let Some(state) = state.upgrade() else { return };
        let now = clock.monotonic();
        let mut renewed = Vec::new();
        let mut items = Vec::new();
        {
            let mut in_flight = state.in_flight();
            if in_flight.closed && in_flight.held.is_empty() {
                return;
            }
            for (tag, held) in in_flight.held.iter_mut().filter(|(_, held)| !held.lost) {
                if held.leased_until <= now {
                    held.lost = true;
                    state.losses.send_modify(|count| *count += 1);
                    continue;
                }
                // The last renewal ends with the time that it may be held in all.
                let left = hold_max.map(|hold| (held.since + hold).saturating_sub(now));
                let until = now + left.map_or(lease, |left| left.min(lease));
                if until > held.leased_until {
                    let us = u64::try_from((until - now).as_micros()).unwrap_or(u64::MAX);
                    items.push(Settle {
                        claim: held.claim,
                        seqs: SeqRange::one(held.seq),
                        how: Settlement::Renew { lease_us: us },
                    });
                    renewed.push((*tag, until));
                }
            }
        }
        if !items.is_empty() {
            renew(&state, items, renewed).await;
        }
    }
}

async fn renew(state: &Arc<SubscriptionState>, items: Vec<Settle>, renewed: Vec<(u64, Duration)>) {
    let group = state.group.clone();
    let now = state.topic.now();
    let result = super::blocking(move || {
        let mut gone = Vec::new();
        group.settle(&items, now, &mut gone).map_err(of_log)?;
        Ok(gone)
    })
    .await;
    let gone = match result {
        Ok(gone) => gone,
        Err(error) => {
            tracing::warn!(%error, "leases cannot be renewed");
            return;
        }
    };
    let mut in_flight = state.in_flight();
    for (index, (tag, until)) in renewed.into_iter().enumerate() {
        let Some(held) = in_flight.held.get_mut(&tag) else { continue };
        if gone.iter().any(|lost| lost.item == index) {
            held.lost = true;
            state.losses.send_modify(|count| *count += 1);
        } else {
            held.leased_until = until;
        }
    }
}
