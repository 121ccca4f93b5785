//! What a subscription and its deliveries share: what is held, and the queue that settles it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use busline_core::delivery::{SettleQueue, SettledSender, lost};
use busline_core::{Error, GroupName, Outcome, PendingReceipt};
use busline_log::{ClaimId, Group, Member};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use super::error::of_log;
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
    /// Something is held, or nothing will be any more: for who keeps the leases.
    pub(super) holding: Arc<Notify>,
    scope: Arc<Scope>,
    next_tag: AtomicU64,
    /// Settles that are decided and not written.
    under_way: AtomicUsize,
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

impl InFlight {
    /// Whether nothing is held at the moment; `None` when nothing will be any more.
    pub(super) fn is_waiting(&self) -> Option<bool> {
        if self.closed && self.held.is_empty() { None } else { Some(self.held.is_empty()) }
    }
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
        scope: &Arc<Scope>,
    ) -> Arc<Self> {
        let state = Arc::new_cyclic(|me| Self {
            topic: Arc::clone(topic),
            group,
            group_name,
            attempts_max: AtomicU32::new(0),
            store: Arc::clone(store),
            jobs: jobs.clone(),
            in_flight: Mutex::default(),
            room: Notify::new(),
            losses: watch::Sender::new(0),
            holding: Arc::default(),
            scope: Arc::clone(scope),
            next_tag: AtomicU64::new(1),
            under_way: AtomicUsize::new(0),
            member: Mutex::default(),
            me: Weak::clone(me),
        });
        scope.add(&state);
        state
    }

    /// Resolves when the session has ended.
    pub(super) async fn ended(&self) {
        self.scope.ended().await;
    }

    /// The subscription is gone: its member stays for as long as something is held.
    pub(super) fn retire(&self, member: Option<Member>) {
        self.in_flight().closed = true;
        self.holding.notify_one();
        if member.is_some() {
            self.ask_to_leave(member);
        }
    }

    /// Behind all settles that are on their way: what they give back would count as an attempt if
    /// the member had left before. That is why the member itself takes this way.
    fn ask_to_leave(&self, member: Option<Member>) {
        if let Some(me) = self.me.upgrade() {
            // Without the thread the member is dropped: the others find its lock free.
            let _ = submit(&self.jobs, Job::Leave(me, member.map(Box::new)));
        }
    }

    /// Lets the member go, unless something is held: then it stays here. Blocking.
    pub(super) fn leave(&self, member: Option<Member>) {
        if let Some(member) = member {
            *self.member.lock().unwrap_or_else(PoisonError::into_inner) = Some(member);
        }
        {
            let in_flight = self.in_flight();
            if !in_flight.held.is_empty() || self.is_under_way() {
                // Whoever took the last one out after it was closed asks again, behind its settle.
                return;
            }
        }
        let member = self.member.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(member) = member else { return };
        let now = self.topic.now();
        let mut left = member.leave(now);
        if self.group_name.is_none() {
            left = left.and(self.topic.log.collect_groups(now).map(drop));
        }
        if let Err(error) = left {
            // The others find its lock free, and take over.
            tracing::warn!(%error, "a member could not leave its group");
        }
    }

    /// The session has ended: what is held is lost, and goes to others at once.
    fn end(&self) {
        let held: Vec<Held> = {
            let mut in_flight = self.in_flight();
            in_flight.closed = true;
            let held = in_flight.held.values_mut().filter(|held| !held.lost);
            held.map(|held| {
                held.lost = true;
                held.again()
            })
            .collect()
        };
        self.losses.send_modify(|count| *count += 1);
        self.holding.notify_one();
        for held in held {
            let Some(subscription) = self.me.upgrade() else { return };
            let decision = Decision::Outcome(Outcome::Retry { after: None });
            let job = SettleJob::new(UnderWay::new(&subscription), held, decision, None);
            // Without the thread the others take over when the member is gone.
            let _ = submit(&self.jobs, Job::Settle(job));
        }
    }

    /// Notes deliveries that are handed out; the first one's tag, which the others follow.
    pub(super) fn hold(&self, all: impl ExactSizeIterator<Item = Held>) -> u64 {
        let first = self.next_tag.fetch_add(all.len() as u64, Ordering::Relaxed);
        {
            let mut in_flight = self.in_flight();
            for (tag, held) in (first..).zip(all) {
                in_flight.bytes += held.bytes;
                in_flight.held.insert(tag, held);
            }
        }
        self.holding.notify_one();
        first
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
        if let Err(error) = self.topic.log.check_writable()
            && error.kind() == busline_log::ErrorKind::Forked
        {
            // The thread that settles is the parent's, and so is the delivery.
            if let Some(done) = done {
                done.send(Err(of_log(error)));
            }
            return;
        }
        let me = self.me.upgrade();
        let (held, last) = {
            let mut in_flight = self.in_flight();
            let held = in_flight.held.remove(&tag);
            in_flight.bytes -= held.as_ref().map_or(0, |held| held.bytes);
            let held = held.filter(|held| !held.lost).zip(me.as_ref());
            // Under way from the moment on at which it is not held any more: the member must not leave between.
            let held = held.map(|(held, me)| (held, UnderWay::new(me)));
            (held, in_flight.closed && in_flight.held.is_empty())
        };
        self.room.notify_one();
        match held {
            Some((held, under_way)) => self.submit(under_way, held, decision, done),
            None => {
                if let Some(done) = done {
                    done.send(Err(lost("its lease ran out, or its session has ended")));
                }
            }
        }
        if last {
            self.ask_to_leave(None);
        }
    }

    /// Whether a settle is on its way that is not written yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }

    /// Whether so many settles wait for the disk that nothing more is to be handed out.
    pub(super) fn is_behind(&self) -> bool {
        self.under_way.load(Ordering::Acquire) >= UNDER_WAY_MAX
    }

    fn submit(
        &self,
        under_way: UnderWay,
        held: Held,
        decision: Decision,
        done: Option<SettledSender>,
    ) {
        let job = SettleJob::new(under_way, held, decision, done);
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
            leased_until: since.saturating_add(lease),
            lost: false,
            letter: None,
            failed: None,
        }
    }
}

impl Held {
    /// The same claim once more, for a settle that the holder knows nothing of.
    fn again(&self) -> Self {
        Self { lost: false, letter: None, failed: None, ..*self }
    }
}

/// Somebody who settles faster than the disk takes it gets nothing more above this many: what is
/// decided and not written takes memory too.
const UNDER_WAY_MAX: usize = 16_384;

/// A subscription of which a settle is on its way.
pub(super) struct UnderWay(Arc<SubscriptionState>);

impl UnderWay {
    pub(super) fn new(subscription: &Arc<SubscriptionState>) -> Self {
        subscription.under_way.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(subscription))
    }
}

impl std::ops::Deref for UnderWay {
    type Target = Arc<SubscriptionState>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) >= UNDER_WAY_MAX {
            self.0.room.notify_one();
        }
    }
}

/// What belongs to one session and ends with it.
#[derive(Debug)]
pub(super) struct Scope {
    ended: watch::Sender<bool>,
    subscriptions: Mutex<Vec<Weak<SubscriptionState>>>,
}

impl Scope {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { ended: watch::Sender::new(false), subscriptions: Mutex::default() })
    }

    /// Resolves when the session has ended.
    pub(super) async fn ended(&self) {
        // The sender lives here.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn add(&self, state: &Arc<SubscriptionState>) {
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.retain(|state| state.strong_count() > 0);
        subscriptions.push(Arc::downgrade(state));
    }

    /// Loses what its subscriptions hold; nothing of the session works from now on.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        let subscriptions = {
            let all = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
            all.clone()
        };
        subscriptions.iter().filter_map(Weak::upgrade).for_each(|state| state.end());
    }

    /// Whether somebody still has a subscription of the session, or a delivery.
    pub(super) fn is_held(&self) -> bool {
        let all = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|state| state.strong_count() > 0)
    }
}

impl SettleQueue for SubscriptionState {
    fn settle(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        self.decide(tag, Decision::Outcome(outcome), done);
    }

    fn release(&self, tag: u64) {
        self.decide(tag, Decision::Release, None);
    }

    fn give_back(&self, tag: u64) {
        self.decide(tag, Decision::Return, None);
    }

    fn is_lost(&self, tag: u64) -> bool {
        let now = self.store.time.clock().monotonic();
        self.in_flight().held.get(&tag).is_none_or(|held| held.lost || held.leased_until <= now)
    }

    fn lost(&self, tag: u64) -> BoxFuture<'static, ()> {
        let Some(me) = self.me.upgrade() else { return Box::pin(std::future::ready(())) };
        let mut losses = self.losses.subscribe();
        Box::pin(async move {
            loop {
                match me.in_flight().held.get(&tag).map(|held| held.lost) {
                    Some(true) => return,
                    Some(false) => {}
                    // Settled: it can no longer be lost.
                    None => break,
                }
                if losses.changed().await.is_err() {
                    return;
                }
            }
            drop(me);
            std::future::pending::<()>().await;
        })
    }
}

impl Drop for SubscriptionState {
    /// The last delivery is settled, the subscription gone: the member leaves if it did not yet.
    fn drop(&mut self) {
        self.in_flight().held.clear();
        self.holding.notify_one();
        self.leave(None);
    }
}

impl fmt::Debug for SubscriptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = &self.topic.topic;
        f.debug_struct("SubscriptionState").field("topic", topic).finish_non_exhaustive()
    }
}
