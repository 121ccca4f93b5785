//! A member of a group: its stream of deliveries, what it holds, and the queue that settles it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use busline_core::delivery::{SettleQueue, SettledSender, Settler, lost};
use busline_core::transport::{ATTEMPTS_MAX_DEFAULT, Membership, Subscribe, Subscription};
use busline_core::{Attempt, Delivery, Error, ErrorKind, GroupName, Outcome, Result, Topic};
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use tokio::sync::{Notify, watch};

use super::claims::{Claimed, Room};
use super::error::{check_process, of_sqlite, session_closed};
use super::groups::{self, GroupRow};
use super::settle::{Decision, Held};
use super::topics::TopicRow;
use super::worker::{Job, Worker, call};
use crate::group::GroupConfig;

/// What a subscription, its deliveries and the thread share.
pub(super) struct MemberState {
    id: i64,
    pub(super) group: i64,
    topic: Topic,
    /// `None` for a broadcast.
    name: Option<GroupName>,
    jobs: Sender<Job>,
    count_max: usize,
    bytes_max: u64,
    pub(super) lease: Duration,
    hold_max: Option<Duration>,
    inner: Mutex<Inner>,
    bell: Notify,
    /// Counts losses, so that who waits for one looks again.
    losses: watch::Sender<u64>,
    /// Settles that are decided and not written.
    under_way: AtomicUsize,
    me: Weak<Self>,
}

#[derive(Default)]
struct Inner {
    held: HashMap<u64, Out>,
    /// Of what is held and not lost.
    count: usize,
    bytes: u64,
    ready: VecDeque<Vec<Delivery>>,
    failed: Option<Error>,
    stopped: bool,
    /// The thread knows that somebody waits.
    wanted: bool,
    tag: u64,
}

/// A delivery that was handed out and is not settled.
#[derive(Debug)]
struct Out {
    held: Held,
    bytes: u64,
    since: Duration,
    lost: bool,
}

impl Inner {
    fn lose(&mut self, which: impl Fn(&Out) -> bool) -> Vec<Held> {
        let mut lost = Vec::new();
        for out in self.held.values_mut().filter(|out| !out.lost && which(out)) {
            out.lost = true;
            self.count -= 1;
            self.bytes -= out.bytes;
            lost.push(out.held);
        }
        lost
    }
}

impl MemberState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is room for; `None` when there is none.
    pub(super) fn room(&self) -> Option<Room> {
        let inner = self.lock();
        let count = self.count_max.saturating_sub(inner.count);
        let bytes = self.bytes_max.saturating_sub(inner.bytes);
        (count > 0 && bytes > 0).then_some(Room { is_idle: inner.count == 0, count, bytes })
    }

    /// Whether something is held that is not lost.
    pub(super) fn is_holding(&self) -> bool {
        self.lock().count > 0
    }

    /// Whether something is held or being settled.
    pub(super) fn is_busy(&self) -> bool {
        self.is_holding() || self.under_way.load(Ordering::Acquire) > 0
    }

    /// Hands out what was claimed.
    pub(super) fn deliver(
        &self,
        claimed: Vec<Claimed>,
        topic: &TopicRow,
        epoch: i64,
        now: Duration,
    ) {
        let Some(me) = self.me.upgrade() else { return };
        let mut inner = self.lock();
        let mut chunk = Vec::with_capacity(claimed.len());
        for Claimed { number, attempts, time, message, bytes } in claimed {
            inner.tag += 1;
            let tag = inner.tag;
            let held = Held { group: self.group, member: self.id, number, epoch };
            inner.held.insert(tag, Out { held, bytes, since: now, lost: false });
            inner.count += 1;
            inner.bytes += bytes;
            let queue: Arc<dyn SettleQueue> = Arc::<Self>::clone(&me);
            let mut delivery =
                Delivery::new(message, Attempt::exact(attempts), Settler { queue, tag });
            delivery.group.clone_from(&self.name);
            delivery.offset = Some(topic.offset(number));
            delivery.time = Some(time);
            chunk.push(delivery);
        }
        inner.ready.push_back(chunk);
        inner.wanted = false;
        drop(inner);
        self.bell.notify_one();
    }

    /// Everything held is lost; who holds it is told.
    pub(super) fn lose_all(&self) {
        if !self.lock().lose(|_| true).is_empty() {
            self.losses.send_modify(|count| *count += 1);
        }
    }

    /// Loses what the database no longer says is held.
    pub(super) fn check_held(
        &self,
        connection: &Connection,
        member: i64,
        epoch: i64,
    ) -> Result<()> {
        let group = GroupRow::at(connection, self.group)?;
        if group.is_none_or(|group| group.epoch != epoch) {
            self.lose_all();
            return Ok(());
        }
        let sql = "SELECT number FROM entries WHERE grp = ?1 AND owner = ?2";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let numbers =
            select.query_map([self.group, member], |row| row.get(0)).map_err(of_sqlite)?;
        let numbers: HashSet<i64> = numbers.collect::<rusqlite::Result<_>>().map_err(of_sqlite)?;
        if !self.lock().lose(|out| !numbers.contains(&out.held.number)).is_empty() {
            self.losses.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// What was held for too long, and is lost now.
    pub(super) fn expired(&self, now: Duration) -> Vec<Held> {
        let Some(hold_max) = self.hold_max else { return Vec::new() };
        let expired = self.lock().lose(|out| now.saturating_sub(out.since) >= hold_max);
        if !expired.is_empty() {
            self.losses.send_modify(|count| *count += 1);
        }
        expired
    }

    /// The end of the subscription, other than by stopping it.
    pub(super) fn fail(&self, error: Error) {
        self.lock().failed.get_or_insert(error);
        self.lose_all();
        self.bell.notify_one();
    }

    pub(super) fn deleted(&self) -> Error {
        let what = match &self.name {
            Some(name) => format!("group '{name}' of topic '{}' was deleted", self.topic),
            None => format!("topic '{}' was deleted", self.topic),
        };
        Error::new(ErrorKind::NotFound, what)
    }

    fn decide(&self, tag: u64, decision: Decision, done: Option<SettledSender>) {
        if let Err(error) = check_process() {
            // The thread that settles is the parent's, and so is the delivery.
            if let Some(done) = done {
                done.send(Err(error));
            }
            return;
        }
        let held = {
            let mut inner = self.lock();
            let out = inner.held.remove(&tag).filter(|out| !out.lost);
            if let Some(out) = &out {
                inner.count -= 1;
                inner.bytes -= out.bytes;
            }
            out.map(|out| out.held)
        };
        match (held, self.me.upgrade()) {
            (Some(held), Some(me)) => {
                // Without the thread nothing is settled: the sender is dropped, which says `Lost`.
                let _ = self.jobs.send(Job::Settle(SettleJob::new(&me, held, decision, done)));
            }
            _ => {
                if let Some(done) = done {
                    done.send(Err(lost("its lease ran out, or its session has ended")));
                }
            }
        }
    }
}

impl SettleQueue for MemberState {
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
        self.lock().held.get(&tag).is_none_or(|out| out.lost)
    }

    fn lost(&self, tag: u64) -> BoxFuture<'static, ()> {
        let Some(me) = self.me.upgrade() else { return Box::pin(std::future::ready(())) };
        let mut losses = self.losses.subscribe();
        Box::pin(async move {
            loop {
                match me.lock().held.get(&tag).map(|out| out.lost) {
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

impl fmt::Debug for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberState").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// A delivery to settle.
pub(super) struct SettleJob {
    state: Arc<MemberState>,
    pub(super) held: Held,
    pub(super) decision: Decision,
    pub(super) done: Option<SettledSender>,
}

impl SettleJob {
    pub(super) fn new(
        state: &Arc<MemberState>,
        held: Held,
        decision: Decision,
        done: Option<SettledSender>,
    ) -> Self {
        state.under_way.fetch_add(1, Ordering::AcqRel);
        Self { state: Arc::clone(state), held, decision, done }
    }

    /// Answers who asked.
    pub(super) fn finish(mut self, result: Result<()>) {
        if let Some(done) = self.done.take() {
            done.send(result);
        }
    }
}

impl Drop for SettleJob {
    fn drop(&mut self) {
        self.state.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A stream of deliveries.
#[derive(Debug)]
pub(super) struct SqliteSubscription {
    state: Arc<MemberState>,
}

impl SqliteSubscription {
    /// Joins a group, or makes the temporary one of a broadcast.
    pub(super) async fn open(jobs: &Sender<Job>, subscribe: Subscribe) -> Result<Self> {
        if subscribe.max_in_flight == 0 || subscribe.max_in_flight_bytes == 0 {
            return Err(Error::new(ErrorKind::Limit, "max_in_flight is 0: nothing could come")
                .context("topic", &subscribe.topic));
        }
        let of_member = jobs.clone();
        let state = call(jobs, move |worker| join(worker, of_member, &subscribe)).await?;
        Ok(Self { state })
    }

    /// Gives back what nobody saw; the thread is told behind that.
    fn retire(&self) {
        let unseen = {
            let mut inner = self.state.lock();
            inner.stopped = true;
            std::mem::take(&mut inner.ready)
        };
        unseen.into_iter().flatten().for_each(Delivery::give_back);
    }
}

fn join(worker: &mut Worker, jobs: Sender<Job>, subscribe: &Subscribe) -> Result<Arc<MemberState>> {
    worker.clear_away()?;
    let session = worker.announced()?;
    let lease_us = i64::try_from(subscribe.lease.as_micros()).unwrap_or(i64::MAX);
    let (id, group, epoch, name) = worker.change(|connection, now| {
        let (group, epoch, name) = match &subscribe.membership {
            Membership::Group(name) => {
                let (_, found) = GroupRow::get(connection, &subscribe.topic, name)?;
                (found.id, found.epoch, Some(name.clone()))
            }
            Membership::Broadcast(patterns) => {
                let topic = TopicRow::get(connection, &subscribe.topic)?;
                let name = GroupName::new(format!("broadcast-{}", uuid::Uuid::new_v4()))?;
                let config = GroupConfig {
                    patterns: patterns.clone(),
                    attempts_max: Some(ATTEMPTS_MAX_DEFAULT),
                    expires_after_ms: None,
                    blocking: false,
                    broadcast: true,
                };
                (GroupRow::create(connection, &topic, &name, &config, topic.next, now)?, 0, None)
            }
        };
        Ok((groups::join(connection, group, &session, lease_us)?, group, epoch, name))
    })?;
    let state = Arc::new_cyclic(|me| MemberState {
        id,
        group,
        topic: subscribe.topic.clone(),
        name,
        jobs,
        count_max: subscribe.max_in_flight as usize,
        bytes_max: subscribe.max_in_flight_bytes,
        lease: subscribe.lease,
        hold_max: subscribe.hold_max,
        inner: Mutex::default(),
        bell: Notify::new(),
        losses: watch::Sender::new(0),
        under_way: AtomicUsize::new(0),
        me: Weak::clone(me),
    });
    worker.admit(&state, id, epoch);
    Ok(state)
}

impl Subscription for SqliteSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>> {
        Box::pin(async move {
            loop {
                {
                    let mut inner = self.state.lock();
                    if let Some(error) = &inner.failed {
                        return Err(error.clone());
                    }
                    if inner.stopped {
                        return Ok(None);
                    }
                    if let Some(chunk) = inner.ready.pop_front() {
                        return Ok(Some(chunk));
                    }
                    check_process()?;
                    if !std::mem::replace(&mut inner.wanted, true) {
                        let asked = self.state.jobs.send(Job::Want(self.state.id));
                        asked.map_err(|_| session_closed())?;
                    }
                }
                // A bell that rang since we looked keeps its permit.
                self.state.bell.notified().await;
            }
        })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.retire();
            let id = self.state.id;
            match call(&self.state.jobs, move |worker| worker.stop(id)).await {
                Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
                stopped => stopped,
            }
        })
    }
}

impl Drop for SqliteSubscription {
    fn drop(&mut self) {
        self.retire();
        let id = self.state.id;
        let stop = move |worker: &mut Worker| {
            if let Err(error) = worker.stop(id) {
                tracing::warn!(%error, "a member could not leave its group");
            }
        };
        // A session that has ended has no members.
        let _ = self.state.jobs.send(Job::Call(Box::new(stop)));
    }
}
