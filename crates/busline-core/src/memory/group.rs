//! A group in memory: a cursor over its topic, and what became of every message before it.
//!
//! A state machine without a clock: `now` comes in, what falls due comes out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use tokio::sync::{Notify, oneshot};

use super::log::{Stored, TopicLog};
use super::settle::{Back, Dead};
use crate::dead;
use crate::key::Patterns;
use crate::message::Message;
use crate::name::GroupName;
use crate::transport::{GroupInfo, RetryMode, Subscribe};

/// The most deliveries of one chunk.
const CHUNK_MAX: usize = 256;

/// What a group was declared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) patterns: Patterns,
    pub(super) attempts_max: Option<u32>,
    pub(super) retry_mode: RetryMode,
    pub(super) expires_after: Option<Duration>,
}

/// One group of one topic.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) topic: u64,
    pub(super) name: GroupName,
    pub(super) config: Config,
    /// Temporary: it goes with its only member.
    pub(super) broadcast: bool,
    /// The first record not looked at yet.
    cursor: u64,
    /// Every unsettled message below the cursor.
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) ready: BTreeSet<u64>,
    pub(super) delayed: BTreeSet<(Duration, u64)>,
    pub(super) claims: HashMap<u64, Claim>,
    /// The tag of the last claim.
    tag: u64,
    pub(super) deadlines: BTreeSet<(Duration, u64)>,
    /// With `Block`: the unsettled messages of each ordering key; only the first one goes out.
    pub(super) lanes: HashMap<ByteString, BTreeSet<u64>>,
    pub(super) members: BTreeMap<u64, Member>,
    /// Since when it has had no living member.
    idle_since: Duration,
    delivered: u64,
    redelivered: u64,
    pub(super) acked: u64,
    pub(super) rejected: u64,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: Arc<Stored>,
    pub(super) attempts: u32,
    pub(super) releases: u32,
    pub(super) place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Claimed(u64),
    Ready,
    Delayed(Duration),
    /// Behind an earlier message of its ordering key.
    Blocked,
}

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) number: u64,
    pub(super) member: u64,
    pub(super) bytes: u64,
    pub(super) deadline: Option<Duration>,
    /// Who wants to know when it is lost.
    pub(super) watchers: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) bell: Arc<Notify>,
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    pub(super) bytes: u64,
    pub(super) bytes_max: u64,
    pub(super) hold_max: Option<Duration>,
    pub(super) stopped: bool,
}

impl Member {
    fn has_room(&self) -> bool {
        !self.stopped && self.in_flight < self.in_flight_max && self.bytes < self.bytes_max
    }

    /// One message larger than the bound still comes, alone.
    fn has_room_for(&self, bytes: u64) -> bool {
        self.in_flight == 0 || self.bytes.saturating_add(bytes) <= self.bytes_max
    }
}

/// A message handed out.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) tag: u64,
    pub(super) number: u64,
    pub(super) attempts: u32,
    pub(super) record: Arc<Stored>,
}

impl Group {
    pub(super) fn new(
        topic: u64,
        name: GroupName,
        config: Config,
        cursor: u64,
        now: Duration,
    ) -> Self {
        Self {
            topic,
            name,
            config,
            broadcast: false,
            cursor,
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            claims: HashMap::new(),
            tag: 0,
            deadlines: BTreeSet::new(),
            lanes: HashMap::new(),
            members: BTreeMap::new(),
            idle_since: now,
            delivered: 0,
            redelivered: 0,
            acked: 0,
            rejected: 0,
        }
    }

    /// Whether a message is for this group.
    pub(super) fn wants(&self, message: &Message) -> bool {
        self.config.patterns.matches(message.key.as_str())
            && dead::is_for_group(message, self.name.as_str())
    }

    /// Whether publishing the message has a point because of this group.
    pub(super) fn routes(&self, message: &Message) -> bool {
        self.wants(message) && (!self.broadcast || self.living() > 0)
    }

    /// A new member; `bell` rings when there may be something for it.
    pub(super) fn join(&mut self, member: u64, subscribe: &Subscribe, bell: Arc<Notify>) {
        self.members.insert(
            member,
            Member {
                bell,
                in_flight: 0,
                in_flight_max: subscribe.max_in_flight.max(1),
                bytes: 0,
                bytes_max: subscribe.max_in_flight_bytes.max(1),
                hold_max: subscribe.hold_max,
                stopped: false,
            },
        );
    }

    /// The member fetches no more; what it holds it can still settle.
    pub(super) fn stop(&mut self, member: u64, now: Duration) {
        let Some(found) = self.members.get_mut(&member) else { return };
        found.stopped = true;
        found.bell.notify_one();
        if found.in_flight == 0 {
            self.members.remove(&member);
        }
        self.left(now);
    }

    /// The member is gone; what it held comes again.
    pub(super) fn leave(&mut self, member: u64, now: Duration) -> Vec<Dead> {
        let mut held: Vec<u64> = Vec::new();
        for (tag, claim) in &self.claims {
            if claim.member == member {
                held.push(*tag);
            }
        }
        held.sort_unstable();
        let give_back = |tag| self.unclaim(tag, Back::Lost("its member is gone"), now);
        let dead = held.into_iter().filter_map(give_back).collect();
        if let Some(gone) = self.members.remove(&member) {
            gone.bell.notify_one();
        }
        self.left(now);
        dead
    }

    fn left(&mut self, now: Duration) {
        if self.living() == 0 {
            self.idle_since = now;
        }
        self.wake();
    }

    /// How many members are there that fetch.
    pub(super) fn living(&self) -> usize {
        self.members.values().filter(|member| !member.stopped).count()
    }

    /// Whether the temporary group of a broadcast has done its work.
    pub(super) fn is_over(&self) -> bool {
        self.broadcast && self.members.is_empty()
    }

    /// Whether it was without members for longer than it may be.
    pub(super) fn is_expired(&self, now: Duration) -> bool {
        let idle = now.saturating_sub(self.idle_since);
        self.members.is_empty() && self.config.expires_after.is_some_and(|after| idle >= after)
    }

    /// Rings for the members that have room.
    pub(super) fn wake(&self) {
        for member in self.members.values().filter(|member| member.has_room()) {
            member.bell.notify_one();
        }
    }

    /// Rings for every member: the group is gone, or has moved.
    pub(super) fn wake_all(&self) {
        for member in self.members.values() {
            member.bell.notify_one();
        }
    }

    /// Whether this member is there, be it only to settle what it holds.
    pub(super) fn has_member(&self, member: u64) -> bool {
        self.members.contains_key(&member)
    }

    /// When something falls due by itself: a retry, or a lease.
    pub(super) fn due(&self) -> Option<Duration> {
        let retry = self.delayed.first().map(|(due, _)| *due);
        let lease = self.deadlines.first().map(|(due, _)| *due);
        retry.into_iter().chain(lease).min()
    }

    /// Does what has fallen due.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<Dead> {
        let mut woken = false;
        while let Some((due, number)) = self.delayed.first().copied()
            && due <= now
        {
            self.delayed.pop_first();
            self.put(number, Place::Ready);
            woken = true;
        }
        let mut dead = Vec::new();
        while let Some((due, tag)) = self.deadlines.first().copied()
            && due <= now
        {
            dead.extend(self.unclaim(tag, Back::Lost("it was held for too long"), now));
            woken = true;
        }
        if woken {
            self.wake();
        }
        dead
    }

    /// Hands out what the member has room for; earlier messages first.
    pub(super) fn claim(&mut self, id: u64, log: &TopicLog, now: Duration) -> Vec<Claimed> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_MAX
            && self.members.get(&id).is_some_and(Member::has_room)
            && let Some((number, record)) = self.candidate(log)
        {
            let Some(member) = self.members.get_mut(&id) else { break };
            if !member.has_room_for(record.bytes) {
                break;
            }
            member.in_flight += 1;
            member.bytes += record.bytes;
            let deadline = member.hold_max.map(|hold| now.saturating_add(hold));
            self.tag += 1;
            let tag = self.tag;
            self.deadlines.extend(deadline.map(|deadline| (deadline, tag)));
            let bytes = record.bytes;
            let claim = Claim { number, member: id, bytes, deadline, watchers: Vec::new() };
            self.claims.insert(tag, claim);
            self.ready.remove(&number);
            self.cursor = self.cursor.max(number + 1);
            let entry = self.entries.entry(number).or_insert_with(|| Entry {
                record: Arc::clone(&record),
                attempts: 0,
                releases: 0,
                place: Place::Ready,
            });
            entry.attempts += 1;
            entry.place = Place::Claimed(tag);
            self.delivered += 1;
            self.redelivered += u64::from(entry.attempts > 1);
            chunk.push(Claimed { tag, number, attempts: entry.attempts, record });
        }
        chunk
    }

    /// The next message to hand out; the cursor passes over what is not for this group.
    fn candidate(&mut self, log: &TopicLog) -> Option<(u64, Arc<Stored>)> {
        if let Some(number) = self.ready.first() {
            return self.entries.get(number).map(|entry| (*number, Arc::clone(&entry.record)));
        }
        self.cursor = self.cursor.max(log.first());
        while let Some(record) = log.get(self.cursor) {
            if self.wants(&record.message) {
                if self.may_go(self.cursor, record) {
                    return Some((self.cursor, Arc::clone(record)));
                }
                let entry = Entry {
                    record: Arc::clone(record),
                    attempts: 0,
                    releases: 0,
                    place: Place::Blocked,
                };
                self.entries.insert(self.cursor, entry);
            }
            self.cursor += 1;
        }
        None
    }

    /// With `Block`, whether it is the first unsettled message of its ordering key.
    pub(super) fn may_go(&mut self, number: u64, record: &Stored) -> bool {
        if self.config.retry_mode != RetryMode::Block {
            return true;
        }
        let lane = self.lanes.entry(record.lane()).or_default();
        lane.insert(number);
        lane.first() == Some(&number)
    }

    /// Forgets everything unsettled and goes on at `cursor`; claims are lost.
    pub(super) fn reset(&mut self, cursor: u64) {
        for claim in std::mem::take(&mut self.claims).into_values() {
            for watcher in claim.watchers {
                // Nobody may be listening any more.
                let _ = watcher.send(());
            }
        }
        self.entries.clear();
        self.ready.clear();
        self.delayed.clear();
        self.deadlines.clear();
        self.lanes.clear();
        self.members.retain(|_, member| !member.stopped);
        for member in self.members.values_mut() {
            (member.in_flight, member.bytes) = (0, 0);
        }
        self.cursor = cursor;
        self.wake_all();
    }

    /// The oldest record that it needs still.
    pub(super) fn floor(&self) -> u64 {
        self.entries.keys().next().map_or(self.cursor, |number| self.cursor.min(*number))
    }

    /// Every unsettled message with its attempts, oldest first.
    pub(super) fn unsettled<'a>(
        &'a self,
        log: &'a TopicLog,
    ) -> impl Iterator<Item = (u64, &'a Arc<Stored>, u32)> {
        let known = self.entries.iter().map(|(n, entry)| (*n, &entry.record, entry.attempts));
        let ahead = (self.cursor.max(log.first())..log.tail())
            .filter_map(|number| log.get(number).map(|record| (number, record, 0)));
        known.chain(ahead.filter(|(_, record, _)| self.wants(&record.message)))
    }

    pub(super) fn info(&self, log: &TopicLog) -> GroupInfo {
        let mut info = GroupInfo::new(log.name.clone(), self.name.clone());
        info.patterns = self.config.patterns.clone();
        info.lag = log.tail().saturating_sub(self.cursor.max(log.first()));
        info.in_flight = self.claims.len() as u64;
        info.waiting = (self.entries.len() - self.claims.len()) as u64;
        info.oldest_unsettled = self.unsettled(log).next().map(|(_, record, _)| record.time);
        info.floor = Some(log.offset(self.floor()));
        info.members = self.living() as u64;
        info.delivered = self.delivered;
        info.redelivered = self.redelivered;
        info.acked = self.acked;
        info.rejected = self.rejected;
        info.broadcast = self.broadcast;
        info.attempts_max = self.config.attempts_max;
        info
    }
}
