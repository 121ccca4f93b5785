//! Subscriptions: claims on a group's log, handed out as deliveries.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use busline_core::delivery::{SettleQueue, Settler};
use busline_core::transport::{ATTEMPTS_MAX_DEFAULT, Membership, Subscribe, Subscription};
use busline_core::{Attempt, Delivery, GroupName, Outcome, Result};
use busline_log::{Group, GroupOptions, Lifetime};
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::claim::{Claim, Claimer, give_back};
use super::error::{of_log, worker_gone};
use super::lease::keep_leases;
use super::mapping::GroupConfig;
use super::state::{Held, SubscriptionState};
use super::store::{Store, TopicLog};
use super::wait::Waiter;
use super::worker::Job;

/// The most records claimed at once, and their bytes: they are copied into one block.
const CHUNK_RECORDS_MAX: usize = 1024;
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// A member of a group that claims when it is asked for more.
pub(super) struct FileSubscription {
    state: Arc<SubscriptionState>,
    spec: Subscribe,
    /// With the member between two claims.
    claimer: Option<Claimer>,
    /// A claim under way: kept here, so that a cancelled `next` loses nothing.
    claiming: Option<JoinHandle<(Claimer, Result<Claim>)>>,
    waiter: Waiter,
    stopped: bool,
}

/// Joins a group, or makes a temporary one.
pub(super) fn open(
    store: &Arc<Store>,
    jobs: &Sender<Job>,
    spec: Subscribe,
    topic: &Arc<TopicLog>,
) -> Result<FileSubscription> {
    let now = topic.now();
    let (name, group_name, group, member, config) = match &spec.membership {
        Membership::Group(name) => {
            let group = topic.group(name)?;
            let mut member = group.join(now).map_err(|error| topic.group_error(name, error))?;
            let config = member.accept_config().map_err(of_log)?;
            let config = GroupConfig::from_bytes(&config.bytes)?;
            (name.clone(), Some(name.clone()), group, member, config)
        }
        Membership::Broadcast(patterns) => {
            let name = GroupName::new(format!("broadcast-{}", uuid::Uuid::now_v7().simple()))?;
            let config = GroupConfig {
                patterns: patterns.clone(),
                attempts_max: Some(ATTEMPTS_MAX_DEFAULT),
                blocking: false,
                broadcast: true,
            };
            let declaration = busline_log::GroupSpec {
                name: name.as_str(),
                config: &config.to_bytes()?,
                start: topic.log.next_seq(),
                lifetime: Lifetime::Ephemeral,
            };
            let options = GroupOptions::default();
            let joined = Group::declare_and_join(&topic.log, &declaration, &options, now);
            let (declared, member) = joined.map_err(|error| topic.group_error(&name, error))?;
            (name, None, declared.group, member, config)
        }
    };
    let state = SubscriptionState::new(store, jobs, topic, group, group_name);
    let lease = lease_of(&spec);
    let claimer = Claimer::new(&state, member, &config, name, lease);
    tokio::spawn(keep_leases(Arc::downgrade(&state), lease, spec.hold_max));
    let waiter = Waiter::new(topic.log.clone(), Arc::clone(store.time.clock()));
    Ok(FileSubscription {
        state,
        spec,
        claimer: Some(claimer),
        claiming: None,
        waiter,
        stopped: false,
    })
}

impl FileSubscription {
    async fn next_chunk(&mut self) -> Result<Option<Vec<Delivery>>> {
        loop {
            if self.stopped {
                return Ok(None);
            }
            if self.claiming.is_none() {
                let (records_max, bytes_max) = self.room().await;
                let Some(mut claimer) = self.claimer.take() else {
                    return Err(worker_gone());
                };
                self.claiming = Some(tokio::task::spawn_blocking(move || {
                    let claim = claimer.claim(records_max, bytes_max);
                    (claimer, claim)
                }));
            }
            let Some(claiming) = &mut self.claiming else { continue };
            let joined = claiming.await;
            self.claiming = None;
            let (claimer, claim) = joined.map_err(|_| worker_gone())?;
            self.claimer = Some(claimer);
            let claim = claim?;
            let (mark, wait, idle) =
                (claim.mark, claim.wait, claim.chunk.len() == 0 && !claim.more);
            let deliveries = self.hand_out(claim)?;
            if !deliveries.is_empty() {
                return Ok(Some(deliveries));
            }
            if idle {
                self.waiter.wait(mark, wait).await?;
            }
        }
    }

    /// Waits until something may be claimed; how many records and bytes.
    async fn room(&self) -> (usize, usize) {
        loop {
            {
                let in_flight = self.state.in_flight();
                let count =
                    (self.spec.max_in_flight.max(1) as usize).saturating_sub(in_flight.held.len());
                let bytes = self.spec.max_in_flight_bytes.max(1).saturating_sub(in_flight.bytes);
                if count > 0 && bytes > 0 {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    return (count.min(CHUNK_RECORDS_MAX), bytes.min(CHUNK_BYTES_MAX));
                }
            }
            self.state.room.notified().await;
        }
    }

    fn hand_out(&self, claim: Claim) -> Result<Vec<Delivery>> {
        let state = &self.state;
        let lease = lease_of(&self.spec);
        let mut deliveries = Vec::with_capacity(claim.chunk.len());
        let mut failed = Ok(());
        for raw in claim.chunk.into_records() {
            let tag = state.hold(Held::new(claim.id, &raw, claim.at, lease));
            let (attempts, seq, time) = (raw.attempts, raw.seq, raw.time);
            if let Some(limit) = state.attempts_max().filter(|limit| attempts > *limit) {
                // Members died with it, again and again: it is not handed out once more.
                let reason = format!("attempts exhausted: {} of {limit}", attempts - 1);
                state.settle(tag, Outcome::Reject { reason }, None);
                continue;
            }
            match raw.into_message(&state.topic.topic) {
                Ok(message) => {
                    let queue = Arc::clone(state) as Arc<dyn SettleQueue>;
                    let settler = Settler { queue, tag };
                    let mut delivery = Delivery::new(message, Attempt::exact(attempts), settler);
                    delivery.group.clone_from(&state.group_name);
                    delivery.offset = Some(state.topic.offset(seq));
                    delivery.time = Some(time);
                    deliveries.push(delivery);
                }
                Err(error) => {
                    state.release(tag);
                    failed = Err(error);
                }
            }
        }
        // What is understood comes first; the error shows when only that is left.
        if deliveries.is_empty() { failed.map(|()| deliveries) } else { Ok(deliveries) }
    }

    async fn finish(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        if let Some(claiming) = self.claiming.take() {
            let (claimer, claim) = claiming.await.map_err(|_| worker_gone())?;
            self.claimer = Some(claimer);
            if let Ok(claim) = claim {
                give_back(&self.state, claim);
            }
        }
        self.retire();
        Ok(())
    }

    /// The member stays for as long as one of its deliveries is held.
    fn retire(&mut self) {
        self.state.in_flight().closed = true;
        if let Some(claimer) = self.claimer.take() {
            claimer.retire();
        }
    }
}

impl Subscription for FileSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>> {
        Box::pin(self.next_chunk())
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.finish())
    }
}

impl Drop for FileSubscription {
    fn drop(&mut self) {
        self.retire();
        let Some(claiming) = self.claiming.take() else { return };
        // The claim under way may still get something, which must go back.
        let state = Arc::clone(&self.state);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Ok((claimer, claim)) = claiming.await {
                    if let Ok(claim) = claim {
                        give_back(&state, claim);
                    }
                    claimer.retire();
                }
            });
        }
    }
}

impl fmt::Debug for FileSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSubscription")
            .field("topic", &self.spec.topic)
            .field("membership", &self.spec.membership)
            .finish_non_exhaustive()
    }
}

/// One lease is no longer than a delivery may be held in all.
fn lease_of(spec: &Subscribe) -> Duration {
    spec.hold_max.map_or(spec.lease, |hold_max| spec.lease.min(hold_max))
}
