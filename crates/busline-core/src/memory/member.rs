//! A member of a group in memory: its stream of deliveries, and the queue that settles them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::broker::{Broker, Line, Now};
use super::group::{Config, Group};
use super::state::State;
use crate::delivery::{Attempt, Delivery, Outcome, SettleQueue, SettledSender, Settler};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{GroupName, Topic};
use crate::transport::{ATTEMPTS_MAX_DEFAULT, Membership, RetryMode, Subscribe, Subscription};

/// A stream of deliveries. It claims a message at the moment that it hands it out.
#[derive(Debug)]
pub(super) struct MemorySubscription {
    broker: Arc<Broker>,
    line: Arc<Line>,
    topic: Topic,
    /// `None` for a broadcast.
    name: Option<GroupName>,
    queue: Arc<MemberQueue>,
    bell: Arc<Notify>,
    stopped: bool,
}

/// What a look for messages came to.
enum Looked {
    Found(Vec<Delivery>),
    /// Nothing yet; something falls due then.
    Wait(Option<Duration>),
}

impl MemorySubscription {
    /// Joins the group, or makes the temporary one of a broadcast.
    pub(super) fn open(
        broker: &Arc<Broker>,
        line: &Arc<Line>,
        subscribe: &Subscribe,
    ) -> Result<Self> {
        if subscribe.max_in_flight == 0 || subscribe.max_in_flight_bytes == 0 {
            return Err(Error::new(ErrorKind::Limit, "max_in_flight is 0: nothing could come")
                .context("topic", &subscribe.topic));
        }
        let (mut state, now) = broker.lock();
        line.check()?;
        let (group, name) = match &subscribe.membership {
            Membership::Group(name) => (state.group(&subscribe.topic, name)?, Some(name.clone())),
            Membership::Broadcast(_) => (broadcast(&mut state, subscribe, now)?, None),
        };
        let member = state.fresh();
        let bell = Arc::new(Notify::new());
        if let Some(group) = state.groups.get_mut(&group) {
            group.join(member, subscribe, Arc::clone(&bell));
        }
        let State { sessions, groups, .. } = &mut *state;
        if let Some(live) = sessions.get_mut(&line.epoch) {
            // Members that stopped meanwhile are not kept in mind for ever.
            live.members.retain(|(g, m)| groups.get(g).is_some_and(|g| g.has_member(*m)));
            live.members.push((group, member));
        }
        state.tick(group, now);
        drop(state);
        let queue = Arc::new(MemberQueue { broker: Arc::clone(broker), group, member });
        let (broker, line) = (Arc::clone(broker), Arc::clone(line));
        let topic = subscribe.topic.clone();
        Ok(Self { broker, line, topic, name, queue, bell, stopped: false })
    }

    fn look(&self) -> Result<Looked> {
        let (mut state, now) = self.broker.lock();
        self.line.check()?;
        state.tick(self.queue.group, now);
        let State { topics, groups, .. } = &mut *state;
        let group = groups.get_mut(&self.queue.group).ok_or_else(|| self.deleted())?;
        let log = topics.get(&group.topic).ok_or_else(|| self.deleted())?;
        let claimed = group.claim(self.queue.member, log, now.monotonic);
        if claimed.is_empty() {
            return Ok(Looked::Wait(group.due()));
        }
        let deliver = |claimed: super::group::Claimed| {
            let queue = Arc::clone(&self.queue) as Arc<dyn SettleQueue>;
            let settler = Settler { queue, tag: claimed.tag };
            let attempt = Attempt::exact(claimed.attempts);
            let mut delivery = Delivery::new(claimed.record.message.clone(), attempt, settler);
            delivery.group.clone_from(&self.name);
            delivery.offset = Some(log.offset(claimed.number));
            delivery.time = Some(claimed.record.time);
            delivery
        };
        Ok(Looked::Found(claimed.into_iter().map(deliver).collect()))
    }

    fn deleted(&self) -> Error {
        let what = match &self.name {
            Some(name) => format!("group '{name}' of topic '{}' was deleted", self.topic),
            None => format!("topic '{}' was deleted", self.topic),
        };
        Error::new(ErrorKind::NotFound, what)
    }

    fn stop_now(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            let (mut state, now) = self.broker.lock();
            state.stop(self.queue.group, self.queue.member, now);
        }
    }
}

impl Subscription for MemorySubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>> {
        Box::pin(async move {
            loop {
                if self.stopped {
                    return Ok(None);
                }
                let due = match self.look()? {
                    Looked::Found(chunk) => return Ok(Some(chunk)),
                    Looked::Wait(due) => due,
                };
                // A bell that rang since we looked keeps its permit.
                tokio::select! {
                    () = self.bell.notified() => {}
                    () = self.broker.sleep_until(due) => {}
                }
            }
        })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.stop_now();
            Ok(())
        })
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// The temporary group of a broadcast, which starts now.
fn broadcast(state: &mut State, subscribe: &Subscribe, now: Now) -> Result<u64> {
    let Membership::Broadcast(patterns) = &subscribe.membership else {
        return Err(Error::new(ErrorKind::Limit, "this is no broadcast"));
    };
    let topic = state.topic(&subscribe.topic)?;
    let name = GroupName::new(format!("broadcast-{}", uuid::Uuid::new_v4()))?;
    let config = Config {
        patterns: patterns.clone(),
        attempts_max: Some(ATTEMPTS_MAX_DEFAULT),
        retry_mode: RetryMode::Overtake,
        expires_after: None,
    };
    let tail = state.topics.get(&topic).map_or(0, super::log::TopicLog::tail);
    let mut group = Group::new(topic, name, config, tail, now.monotonic);
    group.broadcast = true;
    Ok(state.add_group(group))
}

/// Settles what one member holds. Committed when the call returns: there is nothing to flush.
#[derive(Debug)]
struct MemberQueue {
    broker: Arc<Broker>,
    group: u64,
    member: u64,
}

impl SettleQueue for MemberQueue {
    fn settle(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        let result = {
            let (mut state, now) = self.broker.lock();
            state.settle(self.group, tag, outcome, now)
        };
        if let Some(done) = done {
            done.send(result);
        }
    }

    fn release(&self, tag: u64) {
        let (mut state, now) = self.broker.lock();
        state.release(self.group, tag, now);
    }

    fn is_lost(&self, tag: u64) -> bool {
        let (mut state, now) = self.broker.lock();
        state.tick(self.group, now);
        !state.groups.get(&self.group).is_some_and(|group| group.holds(tag))
    }

    fn lost(&self, tag: u64) -> BoxFuture<'static, ()> {
        let watched = {
            let (mut state, now) = self.broker.lock();
            state.tick(self.group, now);
            state.groups.get_mut(&self.group).and_then(|group| group.watch(tag))
        };
        let (broker, group) = (Arc::clone(&self.broker), self.group);
        Box::pin(async move {
            let Some((mut lost, deadline)) = watched else { return };
            let answer = tokio::select! {
                answer = &mut lost => answer,
                () = deadline_of(&broker, deadline) => {
                    // Looking is what makes it lost; it may have been settled in between.
                    broker.tick(group);
                    lost.await
                }
            };
            if answer.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

async fn deadline_of(broker: &Broker, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => broker.options.clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
