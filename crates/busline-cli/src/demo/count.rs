//! Every figure of the demo, counted from the bus: by reading it, and from its own counters.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use busline::transport::GroupInfo;
use busline::{Bus, Durability, ErrorKind, GroupName, HeaderValue, Patterns, Position};
use busline::{Timestamp, Topic, dead};

use super::{ALERTS, STATISTICS, TOPIC};
use crate::exit::{self, Failure, Outcome};

/// What the processes told, which the bus cannot know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observed {
    /// Receipts of the publisher.
    pub(super) published: u64,
    /// When the last settle was committed.
    pub(super) ended: Timestamp,
    /// The member that was killed.
    pub(super) killed: Option<Killed>,
    /// From SIGKILL to the first redelivery that was settled.
    pub(super) takeover: Option<Duration>,
}

/// The member that was killed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(super) struct Killed {
    /// Its process id.
    pub(super) pid: u32,
    /// How many deliveries it held.
    pub(super) held: u64,
}

/// All figures.
#[derive(Debug)]
pub(super) struct Count {
    pub(super) observed: Observed,
    pub(super) durability: Durability,
    /// Records read back from the topic.
    pub(super) stored: u64,
    /// Records beyond the first with the same message id.
    pub(super) stored_twice: u64,
    pub(super) first_stored: Option<Timestamp>,
    pub(super) groups: Vec<GroupCount>,
    /// Deliveries to the ticker, before it ended.
    pub(super) broadcast: u64,
    /// Reasons of the letters read from the dead-letter topics.
    pub(super) reasons: BTreeMap<String, u64>,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
}

/// The figures of a group.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct GroupCount {
    pub(super) group: &'static str,
    pub(super) patterns: Patterns,
    /// Records of the topic that its patterns select.
    pub(super) matched: u64,
    pub(super) delivered: u64,
    pub(super) redelivered: u64,
    pub(super) acked: u64,
    pub(super) rejected: u64,
    /// Records read from its dead-letter topic.
    pub(super) dead_lettered: u64,
    /// Not settled: nothing should be.
    pub(super) unsettled: u64,
}

impl GroupCount {
    fn settled(&self) -> u64 {
        self.acked + self.rejected
    }
}

impl Count {
    pub(super) fn redelivered(&self) -> u64 {
        self.groups.iter().map(|group| group.redelivered).sum()
    }

    pub(super) fn dead_lettered(&self) -> u64 {
        self.groups.iter().map(|group| group.dead_lettered).sum()
    }

    /// Stored, or settled by a group, more than once.
    pub(super) fn duplicates(&self) -> u64 {
        let settled = self.groups.iter().map(|group| group.settled().saturating_sub(group.matched));
        self.stored_twice + settled.sum::<u64>()
    }

    /// Receipted and not in the log, or not settled by a group that should have it.
    pub(super) fn lost(&self) -> u64 {
        let unsettled =
            self.groups.iter().map(|group| group.matched.saturating_sub(group.settled()));
        self.observed.published.saturating_sub(self.stored) + unsettled.sum::<u64>()
    }

    /// From the first record to the last settle.
    pub(super) fn messages_per_second(&self) -> f64 {
        let Some(first) = self.first_stored else { return 0.0 };
        let us = self.observed.ended.unix_us().saturating_sub(first.unix_us()).max(1);
        self.stored as f64 / (us as f64 / 1e6)
    }

    /// What does not add up; nothing should be.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut equal = |what: &str, found: u64, expected: u64| {
            if found != expected {
                problems.push(format!("{what}: {found}, expected {expected}"));
            }
        };
        equal("lost", self.lost(), 0);
        equal("duplicates", self.duplicates(), 0);
        equal("records in the topic", self.stored, self.observed.published);
        equal("deliveries to the ticker", self.broadcast, self.observed.published);
        for group in &self.groups {
            let name = group.group;
            let first = group.delivered.saturating_sub(group.redelivered);
            equal(&format!("first deliveries of {name}"), first, group.matched);
            equal(&format!("unsettled of {name}"), group.unsettled, 0);
            equal(&format!("dead letters of {name}"), group.dead_lettered, group.rejected);
        }
        if let Some(killed) = self.observed.killed {
            equal("redelivered", self.redelivered(), killed.held);
        }
        problems
    }
}

/// Counts everything. `groups` was taken while the ticker was there still.
pub(super) async fn count(
    bus: &Bus,
    groups: Vec<GroupInfo>,
    observed: Observed,
    strong: &Patterns,
) -> Outcome<Count> {
    let topics = bus.admin().await?.topics().await?;
    let broadcast = groups.iter().filter(|info| info.broadcast).map(|info| info.delivered).sum();
    let mut count = Count {
        observed,
        durability: bus.capabilities().await?.durability,
        stored: 0,
        stored_twice: 0,
        first_stored: None,
        groups: vec![group(ALERTS, strong.clone()), group(STATISTICS, Patterns::all())],
        broadcast,
        reasons: BTreeMap::new(),
        bytes: topics.iter().map(|info| info.bytes).sum(),
        elapsed: Duration::ZERO,
    };
    read_topic(bus, &mut count).await?;
    // Afresh: by now everybody has ended, and nothing may be in flight.
    let infos = bus.admin().await?.groups(Some(&Topic::new(TOPIC)?)).await?;
    for group in &mut count.groups {
        let info = infos.iter().find(|info| info.group.as_str() == group.group);
        let info = info.ok_or_else(|| {
            Failure::new(exit::PROBLEM, format!("the group '{}' is gone", group.group))
        })?;
        group.delivered = info.delivered;
        group.redelivered = info.redelivered;
        group.acked = info.acked;
        group.rejected = info.rejected;
        group.unsettled = info.lag + info.in_flight + info.waiting;
        group.dead_lettered = read_letters(bus, group.group, &mut count.reasons).await?;
    }
    Ok(count)
}

fn group(group: &'static str, patterns: Patterns) -> GroupCount {
    GroupCount {
        group,
        patterns,
        matched: 0,
        delivered: 0,
        redelivered: 0,
        acked: 0,
        rejected: 0,
        dead_lettered: 0,
        unsettled: 0,
    }
}

async fn read_topic(bus: &Bus, count: &mut Count) -> Outcome {
    let mut ids = HashSet::new();
    let mut reader = bus.reader(TOPIC, Position::Earliest)?.open().await?;
    while let Some(record) = reader.next().await? {
        count.stored += 1;
        count.first_stored.get_or_insert(record.time);
        if !ids.insert(record.message.properties.message_id.as_deref().map(str::to_owned)) {
            count.stored_twice += 1;
        }
        for group in &mut count.groups {
            group.matched += u64::from(group.patterns.matches(record.message.key.as_str()));
        }
    }
    Ok(())
}

async fn read_letters(bus: &Bus, group: &str, reasons: &mut BTreeMap<String, u64>) -> Outcome<u64> {
    let queue = dead::dead_topic(&GroupName::new(group)?, &Topic::new(TOPIC)?)?;
    let mut reader = match bus.reader(queue, Position::Earliest)?.open().await {
        // It never rejected anything.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        reader => reader?,
    };
    let mut letters = 0;
    while let Some(record) = reader.next().await? {
        letters += 1;
        let reason = record.message.headers.get(dead::HEADER_REASON).and_then(HeaderValue::as_str);
        *reasons.entry(reason.unwrap_or("(no reason)").to_owned()).or_default() += 1;
    }
    Ok(letters)
}
