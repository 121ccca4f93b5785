//! Topics: rows, positions, and what retention takes from their start.

use busline_core::transport::{Retention, TopicInfo, TopicSpec, TopologyMode};
use busline_core::{Error, ErrorKind, Message, Offset, Position, Result, Timestamp, Topic};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::of_sqlite;
use super::mapping::{self, RECORD_BYTES, meta_of};

/// The bits of a record's id that are its number in the topic.
pub(super) const NUMBER_BITS: u32 = 42;
const SLOT_MAX: i64 = 1 << (62 - NUMBER_BITS);
/// The most records that one transaction lets go, so that it stays short.
const TRIM_MAX: i64 = 4096;

/// A topic as it stands in its table.
#[derive(Debug, Clone)]
pub(super) struct TopicRow {
    pub(super) slot: i64,
    shard: u64,
    pub(super) name: Topic,
    pub(super) first: i64,
    pub(super) next: i64,
    bytes: i64,
    time_last: i64,
    retention: Retention,
}

const BY_NAME: &str = "SELECT slot, shard, name, first, next, bytes, time_last, age_max_us, bytes_max, \
                       ignore_groups FROM topics WHERE name = ?1";
const BY_SLOT: &str = "SELECT slot, shard, name, first, next, bytes, time_last, age_max_us, bytes_max, \
                       ignore_groups FROM topics WHERE slot = ?1";
const ALL: &str = "SELECT slot, shard, name, first, next, bytes, time_last, age_max_us, bytes_max, \
                   ignore_groups FROM topics ORDER BY name";

impl TopicRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        let name: String = row.get(2)?;
        let invalid = |cause: Error| {
            rusqlite::Error::FromSqlConversionFailure(
                2,
                rusqlite::types::Type::Text,
                Box::new(cause),
            )
        };
        let age: Option<i64> = row.get(7)?;
        let bytes: Option<i64> = row.get(8)?;
        Ok(Self {
            slot: row.get(0)?,
            shard: row.get::<_, i64>(1)?.unsigned_abs(),
            name: Topic::new(name).map_err(invalid)?,
            first: row.get(3)?,
            next: row.get(4)?,
            bytes: row.get(5)?,
            time_last: row.get(6)?,
            retention: Retention {
                age_max: age.map(|us| std::time::Duration::from_micros(us.unsigned_abs())),
                bytes_max: bytes.map(i64::unsigned_abs),
                ignore_groups: row.get(9)?,
            },
        })
    }

    /// The topic of this name, if there is one.
    pub(super) fn find(connection: &Connection, name: &Topic) -> Result<Option<Self>> {
        let mut select = connection.prepare_cached(BY_NAME).map_err(of_sqlite)?;
        select.query_row([name.as_str()], Self::of).optional().map_err(of_sqlite)
    }

    /// The topic of this name; `NotFound` says what to do.
    pub(super) fn get(connection: &Connection, name: &Topic) -> Result<Self> {
        Self::find(connection, name)?.ok_or_else(|| not_found(name))
    }

    /// The topic of this slot, if it is still there.
    pub(super) fn at(connection: &Connection, slot: i64) -> Result<Option<Self>> {
        let mut select = connection.prepare_cached(BY_SLOT).map_err(of_sqlite)?;
        select.query_row([slot], Self::of).optional().map_err(of_sqlite)
    }

    /// Every topic, sorted by name.
    pub(super) fn all(connection: &Connection) -> Result<Vec<Self>> {
        let mut select = connection.prepare_cached(ALL).map_err(of_sqlite)?;
        let rows = select.query_map([], Self::of).map_err(of_sqlite)?;
        rows.collect::<rusqlite::Result<_>>().map_err(of_sqlite)
    }

    /// The topic of this name, made if it is not there.
    pub(super) fn ensure(connection: &Connection, name: &Topic) -> Result<Self> {
        if let Some(found) = Self::find(connection, name)? {
            return Ok(found);
        }
        // Random, so that an offset of another bus, or of an earlier topic of that name, is recognised as one.
        let insert = "INSERT INTO topics (shard, name) VALUES (abs(random()) >> 31, ?1)";
        connection.execute(insert, [name.as_str()]).map_err(of_sqlite)?;
        if connection.last_insert_rowid() >= SLOT_MAX {
            return Err(mapping::too_many("topic"));
        }
        Self::get(connection, name)
    }

    /// The id of a record.
    pub(super) fn id(&self, number: i64) -> i64 {
        (self.slot << NUMBER_BITS) | number
    }

    /// The place of a record.
    pub(super) fn offset(&self, number: i64) -> Offset {
        Offset::new(self.shard, number.unsigned_abs())
    }

    /// Appends a message; record times never go back, so that they can be searched.
    pub(super) fn append(
        &mut self,
        connection: &Connection,
        message: &Message,
        now: Timestamp,
    ) -> Result<i64> {
        let number = self.next;
        if number >> NUMBER_BITS != 0 {
            return Err(mapping::too_many("record of this topic"));
        }
        let sql = "INSERT INTO records (id, time, key, meta, payload) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut insert = connection.prepare_cached(sql).map_err(of_sqlite)?;
        self.time_last = self.time_last.max(now.unix_us());
        let (key, meta) = (message.key.as_str(), meta_of(message));
        let row = params![self.id(number), self.time_last, key, meta, &message.payload[..]];
        insert.execute(row).map_err(of_sqlite)?;
        let bytes = key.len() + meta.len() + message.payload.len();
        self.bytes =
            self.bytes.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX) + RECORD_BYTES);
        self.next += 1;
        Ok(number)
    }

    /// Writes down what appending and trimming changed.
    pub(super) fn save(&self, connection: &Connection) -> Result<()> {
        let sql =
            "UPDATE topics SET first = ?2, next = ?3, bytes = ?4, time_last = ?5 WHERE slot = ?1";
        let mut update = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let row = params![self.slot, self.first, self.next, self.bytes, self.time_last];
        update.execute(row).map_err(of_sqlite).map(drop)
    }

    /// The number where a position starts; says what is wrong with an offset.
    pub(super) fn resolve(&self, connection: &Connection, position: &Position) -> Result<i64> {
        match position {
            Position::Earliest => Ok(self.first),
            Position::Latest => Ok(self.next),
            Position::Time(time) => self.first_from(connection, *time),
            Position::Offset(offset) => self.resolve_offset(offset),
        }
    }

    /// The first record that is not older, by halves.
    fn first_from(&self, connection: &Connection, time: Timestamp) -> Result<i64> {
        let sql = "SELECT time FROM records WHERE id >= ?1 ORDER BY id LIMIT 1";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let (mut low, mut high) = (self.first, self.next);
        while low < high {
            let middle = low + (high - low) / 2;
            let found: Option<i64> = select
                .query_row([self.id(middle)], |row| row.get(0))
                .optional()
                .map_err(of_sqlite)?;
            if found.is_some_and(|found| found < time.unix_us()) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn resolve_offset(&self, offset: &Offset) -> Result<i64> {
        let mut pairs = offset.pairs();
        let number = match (pairs.next(), pairs.next()) {
            (Some((shard, number)), None) if shard == self.shard => number,
            _ => {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("offset {offset} is not one of topic '{}'", self.name),
                )
                .hint("use an offset as a receipt or a record of this very topic gave it"));
            }
        };
        if number > self.next.unsigned_abs() {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("offset {offset} is beyond the end of topic '{}'", self.name),
            )
            .context("end", self.offset(self.next)));
        }
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        if number < self.first { Err(self.removed(number)) } else { Ok(number) }
    }

    /// The error of a place whose record retention has taken.
    pub(super) fn removed(&self, number: i64) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!(
                "the record at {} of topic '{}' was removed by retention",
                self.offset(number),
                self.name
            ),
        )
        .context("oldest kept", self.offset(self.first))
        .hint("start at 'earliest', or keep records longer")
    }

    /// Whether there is anything that [`TopicRow::trim`] could do at all.
    pub(super) fn is_bounded(&self) -> bool {
        self.retention.age_max.is_some() || self.retention.bytes_max.is_some()
    }

    /// Lets go what retention does not keep, and no more than a transaction may take; says whether that was
    /// anything.
    pub(super) fn trim(&mut self, connection: &Connection, now: Timestamp) -> Result<bool> {
        if !self.is_bounded() || self.first >= self.next {
            return Ok(false);
        }
        let Retention { age_max, bytes_max, ignore_groups } = self.retention;
        let floor = if ignore_groups { self.next } else { self.floor(connection)? };
        let us = |age: std::time::Duration| i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let oldest = age_max.map(|age| now.unix_us().saturating_sub(us(age)));
        let (first, mut bytes) = (self.first, self.bytes);
        let sql = "SELECT id, time, octet_length(key) + length(meta) + length(payload) FROM records \
                   WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let bounds = params![self.id(first), self.id(floor.max(first)), TRIM_MAX];
        let mut rows = select.query(bounds).map_err(of_sqlite)?;
        let mut keep = first;
        while let Some(row) = rows.next().map_err(of_sqlite)? {
            let (id, time, size): (i64, i64, i64) = (
                row.get(0).map_err(of_sqlite)?,
                row.get(1).map_err(of_sqlite)?,
                row.get(2).map_err(of_sqlite)?,
            );
            let aged = oldest.is_some_and(|oldest| time < oldest);
            let large = bytes_max.is_some_and(|max| bytes.unsigned_abs() > max);
            if !(aged || large) {
                break;
            }
            bytes = bytes.saturating_sub(size + RECORD_BYTES).max(0);
            keep = mapping::number_of(id) + 1;
        }
        drop(rows);
        if keep == first {
            return Ok(false);
        }
        let delete = "DELETE FROM records WHERE id >= ?1 AND id < ?2";
        connection.execute(delete, [self.id(first), self.id(keep)]).map_err(of_sqlite)?;
        (self.first, self.bytes) = (keep, bytes);
        self.save(connection)?;
        Ok(true)
    }

    /// The oldest record that a group needs still.
    fn floor(&self, connection: &Connection) -> Result<i64> {
        let sql = "SELECT min(min(g.cursor, ifnull((SELECT min(e.number) FROM entries e WHERE e.grp = g.id), \
                   g.cursor))) FROM groups g WHERE g.topic = ?1";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let floor: Option<i64> =
            select.query_row([self.slot], |row| row.get(0)).map_err(of_sqlite)?;
        Ok(floor.unwrap_or(self.next))
    }

    /// Removes the topic with its groups.
    pub(super) fn delete(&self, connection: &Connection) -> Result<()> {
        for sql in [
            "DELETE FROM entries WHERE grp IN (SELECT id FROM groups WHERE topic = ?1)",
            "DELETE FROM members WHERE grp IN (SELECT id FROM groups WHERE topic = ?1)",
            "DELETE FROM groups WHERE topic = ?1",
            "DELETE FROM topics WHERE slot = ?1",
        ] {
            connection.execute(sql, [self.slot]).map_err(of_sqlite)?;
        }
        let records = "DELETE FROM records WHERE id >= ?1 AND id < ?2";
        connection.execute(records, [self.id(0), self.id(self.next)]).map_err(of_sqlite)?;
        Ok(())
    }

    pub(super) fn info(&self, groups: i64) -> TopicInfo {
        let mut info = TopicInfo::new(self.name.clone());
        info.messages = (self.next - self.first).unsigned_abs();
        info.bytes = self.bytes.unsigned_abs();
        info.earliest = Some(self.offset(self.first));
        info.end = Some(self.offset(self.next));
        info.groups = groups.unsigned_abs();
        info.retention = self.retention;
        info
    }
}

/// Declares a topic, or verifies that it is as declared.
pub(super) fn declare(
    connection: &Connection,
    spec: &TopicSpec,
    mode: TopologyMode,
    now: Timestamp,
) -> Result<()> {
    if mode == TopologyMode::Verify {
        let found = TopicRow::get(connection, &spec.topic)?.retention;
        return match spec.retention {
            Some(wanted) if wanted != found => Err(Error::new(
                ErrorKind::Conflict,
                format!("topic '{}' exists with another retention", spec.topic),
            )
            .context("found", format!("{found:?}"))
            .context("wanted", format!("{wanted:?}"))
            .hint("declare it with the mode 'create' to change it")),
            _ => Ok(()),
        };
    }
    let mut topic = TopicRow::ensure(connection, &spec.topic)?;
    if let Some(retention) = spec.retention {
        let us = |age: std::time::Duration| i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let bytes = |max: u64| i64::try_from(max).unwrap_or(i64::MAX);
        let sql =
            "UPDATE topics SET age_max_us = ?2, bytes_max = ?3, ignore_groups = ?4 WHERE slot = ?1";
        let row = params![
            topic.slot,
            retention.age_max.map(us),
            retention.bytes_max.map(bytes),
            retention.ignore_groups
        ];
        connection.execute(sql, row).map_err(of_sqlite)?;
        topic.retention = retention;
        topic.trim(connection, now)?;
    }
    Ok(())
}

pub(super) fn not_found(name: &Topic) -> Error {
    Error::new(ErrorKind::NotFound, format!("topic '{name}' does not exist"))
        .hint("declare it, or publish to it once")
}
