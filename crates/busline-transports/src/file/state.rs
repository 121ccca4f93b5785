//! What a subscription and its deliveries share: what is held, and the queue that settles it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use busline_core::delivery::{SettleQueue, SettledSender, lost};
use busline_core::{Error, GroupName, Outcome, PendingReceipt};
use busline_log::{ClaimId, Group, Member};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use super::mapping::{GroupConfig, Raw};
use super::settle::{Decision, SettleJob};
use super::store::{Store, TopicLog};
use super::worker::{Job, submit};

/// What a subscription and its deliveries share.
pub(super) struct SubscriptionState {
    pub(super) topic: Arc<TopicLog>,
    pub(super) group: Group,
    /// `None` for a broadcast.
    pub(super) group_name: Option<GroupName>,
    /// 0 is no limit.
    attempts_max: AtomicU32,
    pub(super) store: Arc<Store>,
    pub(super) jobs: Sender<Job>,
    in_flight: Mutex<InFlight>,
    pub(super) room: Notify,
    /// Counts losses, so that who waits for one looks again.
    pub(super) losses: watch::Sender<u64>,
    next_tag: AtomicU64,
    /// The member of a subscription that ended, kept alive for the deliveries still held.
    pub(super) member: Mutex<Option<Member>>,
    me: Weak<Self>,
}

#[derive(Default)]
pub(super) struct InFlight {
    pub(super) held: HashMap<u64, Held>,
    pub(super) bytes: u64,
    /// The subscription is gone; only settles go on.
    pub(super) closed: bool,
}

/// A delivery that was handed out and is not settled.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) claim: ClaimId,
    pub(super) seq: u64,
    pub(super) attempts: u32,
    pub(super) bytes: u64,
    /// When it was handed out, and until when it is leased, by the monotonic clock.
    pub(super) since: Duration,
    pub(super) leased_until: Duration,
    pub(super) lost: bool,
    /// Its dead letter, on its way.
    pub(super) letter: Option<PendingReceipt>,
    /// Why its dead letter could not be written.
    pub(super) failed: Option<Error>,
}

impl SubscriptionState {
    pub(super) fn new(
        store: &Arc<Store>,
        jobs: &Sender<Job>,
        topic: &Arc<TopicLog>,
        group: Group,
        group_name: Option<GroupName>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            topic: Arc::clone(topic),
            group,
            group_name,
            attempts_max: AtomicU32::new(0),
            store: Arc::clone(store),
            jobs: jobs.clone(),
            in_flight: Mutex::default(),
            room: Notify::new(),
            losses: watch::Sender::new(0),
            next_tag: AtomicU64::new(1),
            member: Mutex::default(),
            me: Weak::clone(me),
        })
    }

    /// Notes a delivery that is handed out; its tag.
    pub(super) fn hold(&self, held: Held) -> u64 {
        let tag = self.next_tag.fetch_add(1, Ordering::Relaxed);
        let mut in_flight = self.in_flight();
        in_flight.bytes += held.bytes;
        in_flight.held.insert(tag, held);
        tag
    }

    pub(super) fn attempts_max(&self) -> Option<u32> {
        Some(self.attempts_max.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    pub(super) fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn apply(&self, config: &GroupConfig) {
        self.attempts_max.store(config.attempts_max.unwrap_or(0), Ordering::Relaxed);
    }

    fn decide(&self, tag: u64, decision: Decision, done: Option<SettledSender>) {
        let held = {
            let mut in_flight = self.in_flight();
            let held = in_flight.held.remove(&tag);
            in_flight.bytes -= held.as_ref().map_or(0, |held| held.bytes);
            held
        };
        self.room.notify_one();
        let (Some(held), Some(me)) = (held, self.me.upgrade()) else {
            if let Some(done) = done {
                done.send(Err(lost("it was settled before")));
            }
            return;
        };
        let job = SettleJob { subscription: me, held, decision, done };
        // Without the thread nothing is settled: the sender is dropped, which says `Lost`.
        if let Err(error) = submit(&self.jobs, Job::Settle(job)) {
            tracing::warn!(%error, "a delivery cannot be settled any more");
        }
    }
}

impl Held {
    /// A record of a claim, held from `since` on and leased for this long.
    pub(super) fn new(claim: ClaimId, raw: &Raw, since: Duration, lease: Duration) -> Self {
        Self {
            claim,
            seq: raw.seq,
            attempts: raw.attempts,
            bytes: raw.size_bytes(),
            since,
            leased_until: since + lease,
            lost: false,
            letter: None,
            failed: None,
        }
    }
}

impl SettleQueue for SubscriptionState {
    fn settle(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        self.decide(tag, Decision::Outcome(outcome), done);
    }

    fn release(&self, tag: u64) {
        self.decide(tag, Decision::Release, None);
    }

    fn is_lost(&self, tag: u64) -> bool {
        let now = self.store.time.clock().monotonic();
        self.in_flight().held.get(&tag).is_none_or(|held| held.lost || held.leased_until <= now)
    }

    fn lost(&self, tag: u64) -> BoxFuture<'static, ()> {
        let Some(me) = self.me.upgrade() else { return Box::pin(std::future::ready(())) };
        let mut losses = self.losses.subscribe();
        Box::pin(async move {
            while me.in_flight().held.get(&tag).is_some_and(|held| !held.lost) {
                if losses.changed().await.is_err() {
                    return;
                }
            }
            if !me.in_flight().held.contains_key(&tag) {
                // Settled: it can no longer be lost.
                std::future::pending::<()>().await;
            }
        })
    }
}

impl Drop for SubscriptionState {
    /// The last delivery is settled, the subscription gone: the member leaves.
    fn drop(&mut self) {
        let member = self.member.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let now = self.topic.now();
        let left = member.map_or(Ok(()), |member| member.leave(now));
        let temporary = self.group_name.is_none();
        let collected =
            if temporary { self.topic.log.collect_groups(now).map(drop) } else { Ok(()) };
        if let Err(error) = left.and(collected) {
            // The others find its lock free, and take over.
            tracing::warn!(%error, "a member could not leave its group");
        }
    }
}

impl fmt::Debug for SubscriptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = &self.topic.topic;
        f.debug_struct("SubscriptionState").field("topic", topic).finish_non_exhaustive()
    }
}
