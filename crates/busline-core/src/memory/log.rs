//! A topic in memory: its records, its end, and what retention takes from its start.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytestring::ByteString;
use tokio::sync::Notify;

use crate::dead;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::{GroupName, Topic};
use crate::offset::{Offset, Position};
use crate::time::Timestamp;
use crate::transport::{Retention, TopicInfo};

/// A message with what the broker knows about it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) time: Timestamp,
    pub(super) bytes: u64,
}

impl Stored {
    /// What it is kept in order by, where retries block: a message without an ordering key is
    /// ordered by its key.
    pub(super) fn lane(&self) -> ByteString {
        let Message { ordering_key, key, .. } = &self.message;
        ordering_key.clone().unwrap_or_else(|| key.as_str().into())
    }
}

/// One topic.
#[derive(Debug)]
pub(super) struct TopicLog {
    pub(super) id: u64,
    pub(super) name: Topic,
    pub(super) retention: Retention,
    /// The groups by name, temporary ones included.
    pub(super) groups: BTreeMap<GroupName, u64>,
    /// Rings when records came or the topic is gone; readers wait for it.
    pub(super) changed: Arc<Notify>,
    records: VecDeque<Arc<Stored>>,
    first: u64,
    bytes: u64,
    time_last: Timestamp,
    seen: Seen,
}

impl TopicLog {
    pub(super) fn new(id: u64, name: Topic, retention: Retention, deduplicate_max: usize) -> Self {
        Self {
            id,
            name,
            retention,
            groups: BTreeMap::new(),
            changed: Arc::default(),
            records: VecDeque::new(),
            first: 0,
            bytes: 0,
            time_last: Timestamp::from_unix_us(i64::MIN),
            seen: Seen { max: deduplicate_max, ..Seen::default() },
        }
    }

    /// The number of the oldest record kept.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next record gets.
    pub(super) fn tail(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub(super) fn get(&self, number: u64) -> Option<&Arc<Stored>> {
        let index = number.checked_sub(self.first)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    pub(super) fn offset(&self, number: u64) -> Offset {
        Offset::new(self.id, number)
    }

    /// The number of an earlier copy of this message, where de-duplication still knows it.
    pub(super) fn duplicate_of(&self, message: &Message) -> Option<u64> {
        self.seen.numbers.get(&Seen::name(message)?).copied()
    }

    /// Appends; record times never go back, so that they can be searched.
    pub(super) fn append(&mut self, message: Message, now: Timestamp) -> u64 {
        let number = self.tail();
        self.seen.remember(&message, number);
        self.time_last = self.time_last.max(now);
        let bytes = message.size_bytes() as u64;
        self.bytes += bytes;
        self.records.push_back(Arc::new(Stored { message, time: self.time_last, bytes }));
        number
    }

    /// The number where a position starts; says what is wrong with an offset.
    pub(super) fn resolve(&self, position: &Position) -> Result<u64> {
        match position {
            Position::Earliest => Ok(self.first),
            Position::Latest => Ok(self.tail()),
            Position::Time(time) => {
                let before = self.records.partition_point(|stored| stored.time < *time);
                Ok(self.first + before as u64)
            }
            Position::Offset(offset) => self.resolve_offset(offset),
        }
    }

    fn resolve_offset(&self, offset: &Offset) -> Result<u64> {
        let mut pairs = offset.pairs();
        let number = match (pairs.next(), pairs.next()) {
            (Some((shard, number)), None) if shard == self.id => number,
            _ => {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("offset {offset} is not one of topic '{}'", self.name),
                )
                .hint("use an offset as a receipt or a record of this very topic gave it"));
            }
        };
        if number > self.tail() {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("offset {offset} is beyond the end of topic '{}'", self.name),
            )
            .context("end", self.offset(self.tail())));
        }
        if number < self.first {
            return Err(self.removed(number));
        }
        Ok(number)
    }

    /// The error of a place whose record retention has taken.
    pub(super) fn removed(&self, number: u64) -> Error {
        let offset = self.offset(number);
        Error::new(
            ErrorKind::NotFound,
            format!("the record at {offset} of topic '{}' was removed by retention", self.name),
        )
        .context("oldest kept", self.offset(self.first))
        .hint("start at 'earliest', or keep records longer")
    }

    /// Lets go what retention does not keep; `floor` is what a group needs still.
    pub(super) fn trim(&mut self, floor: u64, now: Timestamp) {
        let Retention { age_max, bytes_max, ignore_groups } = self.retention;
        let oldest = age_max.map(|age| {
            now.unix_us().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))
        });
        while let Some(front) = self.records.front() {
            let aged = oldest.is_some_and(|oldest| front.time.unix_us() < oldest);
            let large = bytes_max.is_some_and(|max| self.bytes > max);
            if !(aged || large) || (self.first >= floor && !ignore_groups) {
                return;
            }
            self.bytes -= front.bytes;
            self.first += 1;
            self.records.pop_front();
        }
    }

    /// Whether there is anything that `trim` could do at all.
    pub(super) fn is_bounded(&self) -> bool {
        self.retention.age_max.is_some() || self.retention.bytes_max.is_some()
    }

    pub(super) fn info(&self) -> TopicInfo {
        let mut info = TopicInfo::new(self.name.clone());
        info.messages = self.records.len() as u64;
        info.bytes = self.bytes;
        info.earliest = Some(self.offset(self.first));
        info.end = Some(self.offset(self.tail()));
        info.groups = self.groups.len() as u64;
        info.retention = self.retention;
        info
    }
}

/// The last message ids, to recognise what is sent again.
#[derive(Debug, Default)]
struct Seen {
    max: usize,
    numbers: HashMap<(ByteString, u32), u64>,
    order: VecDeque<(ByteString, u32)>,
}

impl Seen {
    /// A redriven message bears the id of its first life and is not a duplicate of that.
    fn name(message: &Message) -> Option<(ByteString, u32)> {
        message.properties.message_id.clone().map(|id| (id, dead::redrives(message)))
    }

    fn remember(&mut self, message: &Message, number: u64) {
        if self.max == 0 {
            return;
        }
        let Some(name) = Self::name(message) else { return };
        if self.numbers.insert(name.clone(), number).is_none() {
            self.order.push_back(name);
        }
        if self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;
    use std::time::Duration;

    fn log(retention: Retention) -> TopicLog {
        TopicLog::new(7, Topic::new("t").unwrap(), retention, 2)
    }

    fn message(payload: &'static str) -> Message {
        Message::new(Topic::new("t").unwrap(), Key::empty(), payload)
    }

    #[test]
    fn positions_find_their_record() {
        let mut log = log(Retention::default());
        for ms in [10, 20, 15, 30] {
            log.append(message("x"), Timestamp::from_unix_ms(ms));
        }
        let at = |position| log.resolve(&position).unwrap();
        assert_eq!((at(Position::Earliest), at(Position::Latest)), (0, 4));
        // The clock went back at the third record, which counts as 20.
        assert_eq!(at(Position::Time(Timestamp::from_unix_ms(11))), 1);
        assert_eq!(at(Position::Time(Timestamp::from_unix_ms(21))), 3);
        assert_eq!(at(Position::Time(Timestamp::from_unix_ms(31))), 4);
        assert_eq!(at(Position::Offset(Offset::new(7, 4))), 4);
        for (wrong, words) in [((7, 5), "beyond the end"), ((8, 1), "not one of topic 't'")] {
            let offset = Offset::new(wrong.0, wrong.1);
            let error = log.resolve(&Position::Offset(offset)).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn retention_stops_at_what_a_group_needs() {
        let age = Retention { age_max: Some(Duration::from_millis(5)), ..Retention::default() };
        let mut kept = log(age);
        for ms in 0..10 {
            kept.append(message("x"), Timestamp::from_unix_ms(ms));
        }
        kept.trim(3, Timestamp::from_unix_ms(10));
        assert_eq!(kept.first(), 3);
        kept.trim(u64::MAX, Timestamp::from_unix_ms(10));
        assert_eq!(kept.first(), 5);
        let error = kept.resolve(&Position::Offset(Offset::new(7, 1))).unwrap_err();
        assert!(error.to_string().contains("removed by retention (oldest kept: 7.5)"), "{error}");

        let each = message("x").size_bytes() as u64;
        let size = Retention { bytes_max: Some(2 * each), ignore_groups: true, age_max: None };
        let mut kept = log(size);
        for _ in 0..10 {
            kept.append(message("x"), Timestamp::default());
        }
        kept.trim(0, Timestamp::default());
        assert_eq!((kept.first(), kept.info().bytes), (8, 2 * each));
    }

    #[test]
    fn the_last_ids_are_remembered() {
        let mut log = log(Retention::default());
        for id in ["a", "b", "c"] {
            log.append(message("x").message_id(id), Timestamp::default());
        }
        assert_eq!(log.duplicate_of(&message("y").message_id("c")), Some(2));
        assert_eq!(log.duplicate_of(&message("y").message_id("a")), None);
        let redriven = message("y").message_id("c").header(dead::HEADER_REDRIVES, 1);
        assert_eq!(log.duplicate_of(&redriven), None);
    }
}
