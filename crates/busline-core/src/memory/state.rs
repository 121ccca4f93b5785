//! What the broker in memory holds: topics, groups and sessions, changed under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::MemoryOptions;
use super::broker::{Line, Now};
use super::group::{Config, Group};
use super::log::TopicLog;
use super::settle::Dead;
use crate::dead::{self, Rejection};
use crate::delivery::{Outcome, lost};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::message::Message;
use crate::name::{GroupName, Topic};
use crate::offset::Offset;
use crate::receipt::{PublishError, Published, Receipt, ReceiptSender};
use crate::transport::{Retention, RetryMode};

/// How long a message waits that could not be buried.
const BURY_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) names: BTreeMap<Topic, u64>,
    pub(super) topics: HashMap<u64, TopicLog>,
    pub(super) groups: HashMap<u64, Group>,
    pub(super) sessions: BTreeMap<u64, Live>,
    pub(super) faults: Faults,
    /// The groups that go when nobody is a member for long.
    mortal: BTreeSet<u64>,
    retention: Retention,
    deduplicate_max: usize,
    next: u64,
}

/// A session that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) line: Arc<Line>,
    /// Its members: group and member.
    pub(super) members: Vec<(u64, u64)>,
    /// What was accepted while the broker took nothing.
    pub(super) outbox: VecDeque<Queued>,
}

/// A message that waits for the broker to take messages again.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: Message,
    pub(super) mandatory: bool,
    pub(super) receipt: ReceiptSender,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// What a test injected.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) refusing: bool,
    pub(super) blocked: Option<String>,
    pub(super) nacks: u32,
    pub(super) nack_reason: String,
}

impl State {
    pub(super) fn new(options: &MemoryOptions) -> Self {
        Self {
            names: BTreeMap::new(),
            topics: HashMap::new(),
            groups: HashMap::new(),
            sessions: BTreeMap::new(),
            faults: Faults::default(),
            mortal: BTreeSet::new(),
            retention: options.retention,
            deduplicate_max: options.deduplicate_max,
            next: 0,
        }
    }

    /// A number that nothing else of this bus has.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The topic of this name; `NotFound` says what to do.
    pub(super) fn topic(&self, name: &Topic) -> Result<u64> {
        self.names.get(name).copied().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("topic '{name}' does not exist"))
                .hint("declare it, or publish to it once")
        })
    }

    /// The group of this name; `NotFound` says what to do.
    pub(super) fn group(&self, topic: &Topic, name: &GroupName) -> Result<u64> {
        let id = self.topic(topic)?;
        let found = self.topics.get(&id).and_then(|log| log.groups.get(name)).copied();
        found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("group '{name}' of topic '{topic}' does not exist"),
            )
            .hint("declare it before joining it")
        })
    }

    /// The topic of this name, made if it is not there.
    pub(super) fn ensure_topic(&mut self, name: &Topic) -> u64 {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let mut id = 0;
        while id == 0 || self.topics.contains_key(&id) {
            // Random, so that an offset of another bus is recognised as one.
            id = uuid::Uuid::new_v4().as_u64_pair().1 >> 32;
        }
        let log = TopicLog::new(id, name.clone(), self.retention, self.deduplicate_max);
        self.topics.insert(id, log);
        self.names.insert(name.clone(), id);
        id
    }

    pub(super) fn add_group(&mut self, group: Group) -> u64 {
        let id = self.fresh();
        if let Some(log) = self.topics.get_mut(&group.topic) {
            log.groups.insert(group.name.clone(), id);
        }
        if group.config.expires_after.is_some() {
            self.mortal.insert(id);
        }
        self.groups.insert(id, group);
        id
    }

    /// Says anew whether a group expires.
    pub(super) fn reconfigured(&mut self, id: u64) {
        match self.groups.get(&id).and_then(|group| group.config.expires_after) {
            Some(_) => self.mortal.insert(id),
            None => self.mortal.remove(&id),
        };
    }

    pub(super) fn remove_group(&mut self, id: u64) {
        self.mortal.remove(&id);
        let Some(mut group) = self.groups.remove(&id) else { return };
        group.wake_all();
        group.reset(0);
        if let Some(log) = self.topics.get_mut(&group.topic) {
            log.groups.remove(&group.name);
        }
    }

    pub(super) fn remove_topic(&mut self, id: u64) {
        let Some(log) = self.topics.remove(&id) else { return };
        self.names.remove(&log.name);
        for group in log.groups.values() {
            self.remove_group(*group);
        }
        log.changed.notify_waiters();
    }

    /// Removes the groups that nobody was a member of for too long.
    pub(super) fn expire(&mut self, now: Now) {
        if self.mortal.is_empty() {
            return;
        }
        let expired: Vec<u64> = self
            .mortal
            .iter()
            .filter(|id| self.groups.get(id).is_some_and(|group| group.is_expired(now.monotonic)))
            .copied()
            .collect();
        for id in expired {
            self.remove_group(id);
        }
    }

    /// Takes one message; see [`State::grown`] for what is to be done behind a batch.
    pub(super) fn store(&mut self, message: Message, mandatory: bool, now: Now) -> Published {
        if self.faults.nacks > 0 {
            self.faults.nacks -= 1;
            let why = Error::new(ErrorKind::Other, self.faults.nack_reason.clone());
            return Err(PublishError::Nacked(why));
        }
        let Ok(id) = self.topic(&message.topic) else {
            let gone = format!("topic '{}' was deleted", message.topic);
            return Err(PublishError::Nacked(Error::new(ErrorKind::NotFound, gone)));
        };
        let Some(log) = self.topics.get_mut(&id) else { return Ok(Receipt::Unroutable) };
        let routable = |group: &u64| self.groups.get(group).is_some_and(|g| g.routes(&message));
        if mandatory && !log.groups.values().any(routable) {
            return Ok(Receipt::Unroutable);
        }
        let number = match log.duplicate_of(&message) {
            Some(earlier) => earlier,
            None => log.append(message, now.wall),
        };
        let offset = log.offset(number);
        Ok(Receipt::Stored { offset: Some(offset) })
    }

    /// Lets go of what retention does not keep.
    pub(super) fn trim(&mut self, id: u64, now: Now) {
        let Some(log) = self.topics.get_mut(&id).filter(|log| log.is_bounded()) else { return };
        let floors = log.groups.values().filter_map(|group| self.groups.get(group));
        let floor = floors.map(Group::floor).min().unwrap_or(u64::MAX);
        log.trim(floor, now.wall);
    }

    /// After records came: lets go of what retention does not keep, and wakes who waits.
    pub(super) fn grown(&mut self, topic: u64, now: Now) {
        self.trim(topic, now);
        let Some(log) = self.topics.get(&topic) else { return };
        log.changed.notify_waiters();
        for group in log.groups.values().filter_map(|id| self.groups.get(id)) {
            group.wake();
        }
    }

    /// Does what has fallen due in a group.
    pub(super) fn tick(&mut self, id: u64, now: Now) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let dead = group.tick(now.monotonic);
        let over = group.is_over();
        self.bury_all(id, dead, now);
        if over {
            self.remove_group(id);
        }
    }

    pub(super) fn settle(&mut self, id: u64, tag: u64, outcome: Outcome, now: Now) -> Result<()> {
        self.tick(id, now);
        let group = self.groups.get_mut(&id).ok_or_else(|| lost("its group is gone"))?;
        let dead = group.settle(tag, outcome, now.monotonic)?;
        let over = group.is_over();
        let buried = dead.map_or(Ok(()), |dead| self.bury(id, dead, now));
        if over {
            self.remove_group(id);
        }
        buried
    }

    pub(super) fn release(&mut self, id: u64, tag: u64, now: Now) {
        self.tick(id, now);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let dead = group.release(tag, now.monotonic);
        let over = group.is_over();
        self.bury_all(id, dead, now);
        if over {
            self.remove_group(id);
        }
    }

    /// A member fetches no more.
    pub(super) fn stop(&mut self, id: u64, member: u64, now: Now) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.stop(member, now.monotonic);
        if group.is_over() {
            self.remove_group(id);
        }
    }

    pub(super) fn end_session(&mut self, epoch: u64, why: Error, now: Now) {
        let Some(live) = self.sessions.remove(&epoch) else { return };
        live.line.end(why);
        for (id, member) in live.members {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let dead = group.leave(member, now.monotonic);
            let over = group.is_over();
            self.bury_all(id, dead, now);
            if over {
                self.remove_group(id);
            }
        }
    }

    fn bury_all(&mut self, id: u64, dead: impl IntoIterator<Item = Dead>, now: Now) {
        for dead in dead {
            if let Err(error) = self.bury(id, dead, now) {
                tracing::warn!(%error, "a message cannot be dead lettered and comes again");
            }
        }
    }

    /// Puts a message to the dead letters of its group; on an error it stays in the group.
    fn bury(&mut self, id: u64, dead: Dead, now: Now) -> Result<()> {
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        if group.broadcast {
            // There is no group whose dead letters these could be.
            tracing::warn!(topic = %dead.record.message.topic, reason = dead.reason,
                "a message rejected by a broadcast is dropped");
            return Ok(());
        }
        let origin = Offset::new(group.topic, dead.number);
        let rejection = Rejection {
            group: &group.name,
            offset: Some(&origin),
            reason: &dead.reason,
            attempts: dead.attempts,
            time: now.wall,
        };
        let letter = match dead::dead_letter(dead.record.message.clone(), &rejection) {
            Ok(letter) => letter,
            Err(error) => {
                group.unbury(dead, now.monotonic.saturating_add(BURY_AGAIN));
                return Err(error);
            }
        };
        let topic = self.ensure_topic(&letter.topic);
        self.ensure_dead_group(topic, now);
        if let Some(log) = self.topics.get_mut(&topic) {
            log.append(letter, now.wall);
        }
        self.grown(topic, now);
        Ok(())
    }

    fn ensure_dead_group(&mut self, topic: u64, now: Now) {
        let name = dead::dead_group();
        let Some(log) = self.topics.get(&topic) else { return };
        if log.groups.contains_key(&name) {
            return;
        }
        let config = Config {
            patterns: Patterns::all(),
            // Looking at letters must not use them up.
            attempts_max: None,
            retry_mode: RetryMode::Overtake,
            expires_after: None,
        };
        let first = log.first();
        self.add_group(Group::new(topic, name, config, first, now.monotonic));
    }
}
