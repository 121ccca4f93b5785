//! Leases: renewed while deliveries are held, and told when they are lost.

use std::collections::HashSet;
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
            let renewals = due(&state, now, lease, hold_max);
            if !renewals.is_empty() {
                renew(&state, renewals).await;
            }
        }
    }
}

/// A lease to renew: whose, and until when by the monotonic clock.
struct Renewal {
    tag: u64,
    until: Duration,
    settle: Settle,
}

/// What is held and may be held on; what may not is told lost when its lease is over.
fn due(
    state: &SubscriptionState,
    now: Duration,
    lease: Duration,
    hold_max: Option<Duration>,
) -> Vec<Renewal> {
    let mut renewals = Vec::new();
    let mut in_flight = state.in_flight();
    for (&tag, held) in in_flight.held.iter_mut().filter(|(_, held)| !held.lost) {
        if held.leased_until <= now {
            held.lost = true;
            state.losses.send_modify(|count| *count += 1);
            continue;
        }
        // The last renewal ends with the time that it may be held in all.
        let left =
            hold_max.map_or(lease, |hold| held.since.saturating_add(hold).saturating_sub(now));
        let until = now.saturating_add(left.min(lease)).max(held.leased_until);
        let lease_us = u64::try_from((until - now).as_micros()).unwrap_or(u64::MAX);
        let (claim, seqs) = (held.claim, SeqRange::one(held.seq));
        let how = Settlement::Renew { lease_us };
        renewals.push(Renewal { tag, until, settle: Settle { claim, seqs, how } });
    }
    drop(in_flight);
    // In order, so that neighbours become one entry of the group's log.
    renewals.sort_unstable_by_key(|renewal| (renewal.settle.claim, renewal.settle.seqs.first));
    renewals
}

async fn renew(state: &Arc<SubscriptionState>, renewals: Vec<Renewal>) {
    let group = state.group.clone();
    let now = state.topic.now();
    let items: Vec<Settle> = renewals.iter().map(|renewal| renewal.settle).collect();
    let all = items.len();
    let result = super::blocking(move || {
        let mut gone = Vec::new();
        match group.settle(&items, now, &mut gone) {
            Ok(()) => Ok(gone.into_iter().map(|lost| lost.item).collect::<HashSet<_>>()),
            // The group was deleted, and with it every claim.
            Err(error) if error.kind() == busline_log::ErrorKind::NotFound => {
                Ok((0..all).collect())
            }
            Err(error) => Err(of_log(error)),
        }
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
    for (index, renewal) in renewals.iter().enumerate() {
        let Some(held) = in_flight.held.get_mut(&renewal.tag) else { continue };
        if gone.contains(&index) {
            held.lost = true;
            state.losses.send_modify(|count| *count += 1);
        } else {
            held.leased_until = renewal.until;
        }
    }
}
