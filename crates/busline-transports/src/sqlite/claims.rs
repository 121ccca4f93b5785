//! Claims: which messages a member gets, written down before it sees them.

use busline_core::{Message, Result, Timestamp, Topic};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::of_sqlite;
use super::groups::{BLOCKED, GroupRow, WAITING};
use super::mapping::{COLUMNS, Raw};
use super::topics::TopicRow;
use crate::meta;

/// The most deliveries of one chunk.
const CHUNK_MAX: usize = 256;
/// The most bytes of one chunk, but for a single large message.
const CHUNK_BYTES: u64 = 4 << 20;
/// The most records that one transaction looks at.
const SCAN_MAX: i64 = 8192;

/// A message handed to a member.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) number: i64,
    pub(super) attempts: u32,
    pub(super) time: Timestamp,
    pub(super) message: Message,
    pub(super) bytes: u64,
}

/// What a member has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Nothing is held at the moment: one message comes, however large.
    pub(super) is_idle: bool,
    pub(super) count: usize,
    pub(super) bytes: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> bool {
        if self.count == 0 || !(self.is_idle || bytes <= self.bytes) {
            return false;
        }
        self.is_idle = false;
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// Whether a claim could find something, without writing; else when something falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    Something,
    Nothing { due: Option<i64> },
}

/// Looks whether there is something for the members of a group.
pub(super) fn outlook(
    connection: &Connection,
    group: &GroupRow,
    now: Timestamp,
) -> Result<Outlook> {
    let sql = "SELECT next FROM topics WHERE slot = ?1";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let next: Option<i64> =
        select.query_row([group.slot], |row| row.get(0)).optional().map_err(of_sqlite)?;
    if next.is_some_and(|next| next > group.cursor) {
        return Ok(Outlook::Something);
    }
    let sql = "SELECT due FROM entries WHERE grp = ?1 AND owner = 0 ORDER BY due, number LIMIT 1";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let due: Option<i64> =
        select.query_row([group.id], |row| row.get(0)).optional().map_err(of_sqlite)?;
    Ok(match due {
        Some(due) if due <= now.unix_us() => Outlook::Something,
        due => Outlook::Nothing { due },
    })
}

/// Hands out what the member has room for, within a transaction; earlier messages first.
pub(super) fn claim(
    connection: &Connection,
    group: &mut GroupRow,
    topic: &TopicRow,
    member: i64,
    room: Room,
    now: Timestamp,
) -> Result<Vec<Claimed>> {
    let room = Room { count: room.count.min(CHUNK_MAX), ..room };
    let mut claim = Claim { connection, group, topic, member, room, claimed: Vec::new(), bytes: 0 };
    if claim.again(now)? {
        claim.ahead()?;
    }
    let claimed = claim.claimed;
    group.counts.delivered += i64::try_from(claimed.len()).unwrap_or(0);
    let again = claimed.iter().filter(|claimed| claimed.attempts > 1).count();
    group.counts.redelivered += i64::try_from(again).unwrap_or(0);
    group.save(connection)?;
    Ok(claimed)
}

/// A claim under way.
struct Claim<'a> {
    connection: &'a Connection,
    group: &'a mut GroupRow,
    topic: &'a TopicRow,
    member: i64,
    room: Room,
    claimed: Vec<Claimed>,
    bytes: u64,
}

impl Claim<'_> {
    /// Whether one more may be handed out.
    fn take(&mut self, bytes: u64) -> bool {
        let fits = self.claimed.is_empty() || self.bytes.saturating_add(bytes) <= CHUNK_BYTES;
        let taken = fits && self.room.take(bytes);
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    fn push(&mut self, raw: &Raw<'_>, message: Message, attempts: u32) {
        let bytes = message.size_bytes() as u64;
        let time = Timestamp::from_unix_us(raw.time);
        self.claimed.push(Claimed { number: raw.number, attempts, time, message, bytes });
    }

    /// Messages that come again and are due; says whether there is room for more.
    fn again(&mut self, now: Timestamp) -> Result<bool> {
        let sql = "SELECT number, attempts FROM entries WHERE grp = ?1 AND owner = 0 AND due <= ?2 \
                   ORDER BY due, number LIMIT ?3";
        let mut select = self.connection.prepare_cached(sql).map_err(of_sqlite)?;
        let count = i64::try_from(self.room.count).unwrap_or(i64::MAX);
        let bounds = params![self.group.id, now.unix_us(), count];
        let found =
            select.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?))).map_err(of_sqlite)?;
        let due: Vec<(i64, u32)> = found.collect::<rusqlite::Result<_>>().map_err(of_sqlite)?;
        drop(select);
        for (number, attempts) in due {
            if !self.again_one(number, attempts)? {
                return Ok(false);
            }
        }
        Ok(self.room.count > 0)
    }

    fn again_one(&mut self, number: i64, attempts: u32) -> Result<bool> {
        let connection = self.connection;
        let sql = "SELECT id, time, key, meta, payload FROM records WHERE id = ?1";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let mut rows = select.query([self.topic.id(number)]).map_err(of_sqlite)?;
        let Some(row) = rows.next().map_err(of_sqlite)? else {
            // Retention that ignores groups took it.
            return end(connection, self.group.id, number).map(|()| true);
        };
        let raw = Raw::of(row)?;
        let message = raw.message_or_opaque(&self.topic.name)?;
        if !self.take(message.size_bytes() as u64) {
            return Ok(false);
        }
        let sql =
            "UPDATE entries SET owner = ?3, attempts = attempts + 1 WHERE grp = ?1 AND number = ?2";
        let mut update = connection.prepare_cached(sql).map_err(of_sqlite)?;
        update.execute([self.group.id, number, self.member]).map_err(of_sqlite)?;
        self.push(&raw, message, attempts.saturating_add(1));
        Ok(true)
    }

    /// Messages that nobody looked at yet; the cursor passes over what is not for this group.
    fn ahead(&mut self) -> Result<()> {
        let connection = self.connection;
        self.group.cursor = self.group.cursor.max(self.topic.first);
        let sql = format!(
            "SELECT {COLUMNS} FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3"
        );
        let mut select = connection.prepare_cached(&sql).map_err(of_sqlite)?;
        let (from, to) = (self.topic.id(self.group.cursor), self.topic.id(self.topic.next));
        let mut rows = select.query(params![from, to, SCAN_MAX]).map_err(of_sqlite)?;
        while let Some(row) = rows.next().map_err(of_sqlite)? {
            let raw = Raw::of(row)?;
            if self.group.wants(raw.key, raw.meta) && !self.ahead_one(&raw)? {
                return Ok(());
            }
            self.group.cursor = raw.number + 1;
        }
        Ok(())
    }

    fn ahead_one(&mut self, raw: &Raw<'_>) -> Result<bool> {
        let lane =
            self.group.config.blocking.then(|| meta::ordering_key(raw.key.as_bytes(), raw.meta));
        if let Some(lane) = &lane
            && has_lane(self.connection, self.group.id, lane)?
        {
            self.insert(raw.number, BLOCKED, 0, Some(lane))?;
            return Ok(true);
        }
        let message = raw.message_or_opaque(&self.topic.name)?;
        if !self.take(message.size_bytes() as u64) {
            return Ok(false);
        }
        self.insert(raw.number, self.member, 1, lane.as_deref())?;
        self.push(raw, message, 1);
        Ok(self.room.count > 0 || {
            // The next look begins behind it.
            self.group.cursor = raw.number + 1;
            false
        })
    }

    fn insert(&self, number: i64, owner: i64, attempts: u32, lane: Option<&[u8]>) -> Result<()> {
        let sql = "INSERT INTO entries (grp, number, owner, due, attempts, lane) VALUES (?1, ?2, ?3, 0, ?4, ?5)";
        let mut insert = self.connection.prepare_cached(sql).map_err(of_sqlite)?;
        insert
            .execute(params![self.group.id, number, owner, attempts, lane])
            .map_err(of_sqlite)
            .map(drop)
    }
}

fn has_lane(connection: &Connection, group: i64, lane: &[u8]) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM entries WHERE grp = ?1 AND lane = ?2)";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    select.query_row(params![group, lane], |row| row.get(0)).map_err(of_sqlite)
}

/// Takes a message out of its group, and lets the next of its lane go.
pub(super) fn end(connection: &Connection, group: i64, number: i64) -> Result<()> {
    let sql = "DELETE FROM entries WHERE grp = ?1 AND number = ?2 RETURNING lane";
    let mut delete = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let lane: Option<Option<Vec<u8>>> =
        delete.query_row([group, number], |row| row.get(0)).optional().map_err(of_sqlite)?;
    if let Some(Some(lane)) = lane {
        let sql = "UPDATE entries SET owner = ?3, due = 0 WHERE grp = ?1 AND owner = ?4 AND number = \
                   (SELECT min(number) FROM entries WHERE grp = ?1 AND lane = ?2)";
        let mut next = connection.prepare_cached(sql).map_err(of_sqlite)?;
        next.execute(params![group, lane, WAITING, BLOCKED]).map_err(of_sqlite)?;
    }
    Ok(())
}

/// The topic of the group, which is there as long as the group is.
pub(super) fn topic_of(connection: &Connection, group: &GroupRow) -> Result<TopicRow> {
    let missing =
        || super::error::foreign(format!("the topic of group '{}' is missing", group.name));
    TopicRow::at(connection, group.slot)?.ok_or_else(missing)
}

/// The message of a record, for a dead letter; `None` when retention took it.
pub(super) fn message_of(
    connection: &Connection,
    topic: &TopicRow,
    number: i64,
    name: &Topic,
) -> Result<Option<Message>> {
    let sql = "SELECT id, time, key, meta, payload FROM records WHERE id = ?1";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let mut rows = select.query([topic.id(number)]).map_err(of_sqlite)?;
    match rows.next().map_err(of_sqlite)? {
        Some(row) => Raw::of(row)?.message_or_opaque(name).map(Some),
        None => Ok(None),
    }
}
