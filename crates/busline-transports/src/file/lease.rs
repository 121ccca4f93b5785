//! Leases: renewed while deliveries are held, and told when they are lost.

use std::sync::{Arc, Weak};
use std::time::Duration;

use busline_log::{SeqRange, Settle, Settlement};

use super::error::of_log;
use super::state::SubscriptionState;

/// How often it is looked whether somebody took away what is held, as a reset of the group does:
/// two loads of shared memory, and only while something is held.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Renews the leases of what is held, and says what was lost, until nothing is left to keep.
pub(super) async fn keep_leases(
    state: Weak<SubscriptionState>,
    lease: Duration,
    hold_max: Option<Duration>,
) {
    let step = (lease / 3).max(Duration::from_millis(5));
    let Some((clock, holding)) = state
        .upgrade()
        .map(|state| (Arc::clone(state.store.time.clock()), Arc::clone(&state.holding)))
    else {
        return;
    };
    let mut seen = None;
    let mut renewed_at = clock.monotonic();
    loop {
        match state.upgrade().map(|state| state.in_flight().is_waiting()) {
            None | Some(None) => return,
            Some(Some(false)) => {}
            Some(Some(true)) => {
                holding.notified().await;
                renewed_at = clock.monotonic();
                continue;
            }
        }
        tokio::select! {
            () = clock.sleep(step) => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(state) = state.upgrade() else { return };
        let mark = state.topic.log.mark();
        let rung = seen.replace(mark).is_some_and(|seen| mark.rung_since(seen));
        let now = clock.monotonic();
        if rung || now.saturating_sub(renewed_at) >= step {
            renewed_at = now;
            let (items, renewed) = due(&state, now, lease, hold_max);
            if !items.is_empty() {
                renew(&state, items, renewed).await;
            }
        }
    }
}

/// What is held and may be held on; what may not is told lost when its lease is over.
fn due(
    state: &SubscriptionState,
    now: Duration,
    lease: Duration,
    hold_max: Option<Duration>,
) -> (Vec<Settle>, Vec<(u64, Duration)>) {
    let (mut items, mut renewed) = (Vec::new(), Vec::new());
    let mut in_flight = state.in_flight();
    for (tag, held) in in_flight.held.iter_mut().filter(|(_, held)| !held.lost) {
        if held.leased_until <= now {
            held.lost = true;
            state.losses.send_modify(|count| *count += 1);
            continue;
        }
        // The last renewal ends with the time that it may be held in all.
        let left = hold_max.map_or(lease, |hold| (held.since + hold).saturating_sub(now));
        let until = (now + left.min(lease)).max(held.leased_until);
        let us = u64::try_from((until - now).as_micros()).unwrap_or(u64::MAX);
        items.push(Settle {
            claim: held.claim,
            seqs: SeqRange::one(held.seq),
            how: Settlement::Renew { lease_us: us },
        });
        renewed.push((*tag, until));
    }
    (items, renewed)
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
