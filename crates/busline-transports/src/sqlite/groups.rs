//! Groups: rows, declarations, and who is a member.

use busline_core::transport::{GroupInfo, GroupSpec, TopologyMode};
use busline_core::{Error, ErrorKind, GroupName, Result, Timestamp, Topic, dead};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{foreign, of_sqlite};
use super::mapping::{COLUMNS, Raw};
use super::topics::TopicRow;
use crate::group::GroupConfig;
use crate::meta;

/// The owner of an entry that waits.
pub(super) const WAITING: i64 = 0;
/// The owner of an entry behind an earlier one of its lane.
pub(super) const BLOCKED: i64 = -1;

/// A group as it stands in its table.
#[derive(Debug, Clone)]
pub(super) struct GroupRow {
    pub(super) id: i64,
    pub(super) slot: i64,
    pub(super) name: GroupName,
    pub(super) config: GroupConfig,
    pub(super) cursor: i64,
    pub(super) epoch: i64,
    pub(super) counts: Counts,
}

/// What a group counts since it was declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) delivered: i64,
    pub(super) redelivered: i64,
    pub(super) acked: i64,
    pub(super) rejected: i64,
}

const BY_ID: &str = "SELECT id, topic, name, config, cursor, epoch, delivered, redelivered, acked, rejected \
                     FROM groups WHERE id = ?1";
const BY_NAME: &str = "SELECT id, topic, name, config, cursor, epoch, delivered, redelivered, acked, rejected \
                       FROM groups WHERE topic = ?1 AND name = ?2";
const BY_TOPIC: &str = "SELECT id, topic, name, config, cursor, epoch, delivered, redelivered, acked, rejected \
                        FROM groups WHERE topic = ?1 ORDER BY name";

impl GroupRow {
    fn of(row: &Row<'_>) -> rusqlite::Result<Result<Self>> {
        let (name, config): (String, String) = (row.get(2)?, row.get(3)?);
        let parsed = || Ok((GroupName::new(name)?, GroupConfig::from_bytes(config.as_bytes())?));
        let (name, config) = match parsed() {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Err(error)),
        };
        let counts = Counts {
            delivered: row.get(6)?,
            redelivered: row.get(7)?,
            acked: row.get(8)?,
            rejected: row.get(9)?,
        };
        let (id, slot, cursor, epoch) = (row.get(0)?, row.get(1)?, row.get(4)?, row.get(5)?);
        Ok(Ok(Self { id, slot, name, config, cursor, epoch, counts }))
    }

    /// The group of this id, if it is still there.
    pub(super) fn at(connection: &Connection, id: i64) -> Result<Option<Self>> {
        let mut select = connection.prepare_cached(BY_ID).map_err(of_sqlite)?;
        select.query_row([id], Self::of).optional().map_err(of_sqlite)?.transpose()
    }

    fn find(connection: &Connection, topic: &TopicRow, name: &GroupName) -> Result<Option<Self>> {
        let mut select = connection.prepare_cached(BY_NAME).map_err(of_sqlite)?;
        let found = select.query_row(params![topic.slot, name.as_str()], Self::of);
        found.optional().map_err(of_sqlite)?.transpose()
    }

    /// The group of this name with its topic; `NotFound` says what to do.
    pub(super) fn get(
        connection: &Connection,
        topic: &Topic,
        name: &GroupName,
    ) -> Result<(TopicRow, Self)> {
        let row = TopicRow::get(connection, topic)?;
        let found = Self::find(connection, &row, name)?;
        let missing = || {
            Error::new(
                ErrorKind::NotFound,
                format!("group '{name}' of topic '{topic}' does not exist"),
            )
            .hint("declare it before joining it")
        };
        Ok((row, found.ok_or_else(missing)?))
    }

    /// The groups of a topic, sorted by name; temporary ones too.
    pub(super) fn of_topic(connection: &Connection, slot: i64) -> Result<Vec<Self>> {
        let mut select = connection.prepare_cached(BY_TOPIC).map_err(of_sqlite)?;
        let rows = select.query_map([slot], Self::of).map_err(of_sqlite)?;
        rows.map(|row| row.map_err(of_sqlite)?).collect()
    }

    /// Whether a record is for this group.
    pub(super) fn wants(&self, key: &str, meta: &[u8]) -> bool {
        self.config.patterns.matches(key) && meta::is_for_group(meta, self.name.as_str())
    }

    /// A new group.
    pub(super) fn create(
        connection: &Connection,
        topic: &TopicRow,
        name: &GroupName,
        config: &GroupConfig,
        cursor: i64,
        now: Timestamp,
    ) -> Result<i64> {
        let sql = "INSERT INTO groups (topic, name, config, cursor, idle_since) VALUES (?1, ?2, ?3, ?4, ?5)";
        let config = text_of(config)?;
        let row = params![topic.slot, name.as_str(), config, cursor, now.unix_us()];
        connection.execute(sql, row).map_err(of_sqlite)?;
        Ok(connection.last_insert_rowid())
    }

    /// Writes down what claims and settles changed.
    pub(super) fn save(&self, connection: &Connection) -> Result<()> {
        let sql = "UPDATE groups SET cursor = ?2, delivered = ?3, redelivered = ?4, acked = ?5, rejected = ?6 \
                   WHERE id = ?1";
        let mut update = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let Counts { delivered, redelivered, acked, rejected } = self.counts;
        let row = params![self.id, self.cursor, delivered, redelivered, acked, rejected];
        update.execute(row).map_err(of_sqlite).map(drop)
    }

    /// Forgets everything unsettled and goes on at `cursor`; what is held is lost.
    pub(super) fn reset(&self, connection: &Connection, cursor: i64) -> Result<()> {
        connection.execute("DELETE FROM entries WHERE grp = ?1", [self.id]).map_err(of_sqlite)?;
        let sql = "UPDATE groups SET cursor = ?2, epoch = epoch + 1 WHERE id = ?1";
        connection.execute(sql, [self.id, cursor]).map_err(of_sqlite).map(drop)
    }

    /// Removes the group; its members see it when they look.
    pub(super) fn delete(connection: &Connection, id: i64) -> Result<()> {
        for sql in [
            "DELETE FROM entries WHERE grp = ?1",
            "DELETE FROM members WHERE grp = ?1",
            "DELETE FROM groups WHERE id = ?1",
        ] {
            connection.execute(sql, [id]).map_err(of_sqlite)?;
        }
        Ok(())
    }

    /// How many members are there that fetch.
    pub(super) fn living(&self, connection: &Connection) -> Result<i64> {
        let sql = "SELECT count(*) FROM members WHERE grp = ?1 AND stopped = 0";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        select.query_row([self.id], |row| row.get(0)).map_err(of_sqlite)
    }

    /// Every unsettled message from `from` on with its attempts, oldest first, until `visit` says that it is
    /// enough.
    pub(super) fn unsettled(
        &self,
        connection: &Connection,
        topic: &TopicRow,
        from: i64,
        mut visit: impl FnMut(&Raw<'_>, u32) -> Result<bool>,
    ) -> Result<()> {
        let sql = "SELECT r.id, r.time, r.key, r.meta, r.payload, e.attempts FROM entries e \
             JOIN records r ON r.id = ?2 + e.number WHERE e.grp = ?1 AND e.number >= ?3 ORDER BY e.number";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let mut rows = select.query(params![self.id, topic.id(0), from]).map_err(of_sqlite)?;
        while let Some(row) = rows.next().map_err(of_sqlite)? {
            if !visit(&Raw::of(row)?, row.get(5).map_err(of_sqlite)?)? {
                return Ok(());
            }
        }
        let start = self.cursor.max(topic.first).max(from);
        let sql = format!("SELECT {COLUMNS} FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id");
        let mut select = connection.prepare_cached(&sql).map_err(of_sqlite)?;
        let mut rows = select.query([topic.id(start), topic.id(topic.next)]).map_err(of_sqlite)?;
        while let Some(row) = rows.next().map_err(of_sqlite)? {
            let raw = Raw::of(row)?;
            if self.wants(raw.key, raw.meta) && !visit(&raw, 0)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many messages are unsettled.
    pub(super) fn count_unsettled(&self, connection: &Connection, topic: &TopicRow) -> Result<u64> {
        let mut count = 0;
        self.unsettled(connection, topic, 0, |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    pub(super) fn info(&self, connection: &Connection, topic: &TopicRow) -> Result<GroupInfo> {
        let sql = "SELECT count(*) FILTER (WHERE owner > 0), count(*), min(number) FROM entries WHERE grp = ?1";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let counted = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (held, all, first): (i64, i64, Option<i64>) =
            select.query_row([self.id], counted).map_err(of_sqlite)?;
        let mut oldest = None;
        self.unsettled(connection, topic, 0, |raw, _| {
            oldest = Some(Timestamp::from_unix_us(raw.time));
            Ok(false)
        })?;
        let mut info = GroupInfo::new(topic.name.clone(), self.name.clone());
        info.patterns = self.config.patterns.clone();
        info.lag = (topic.next - self.cursor.max(topic.first)).max(0).unsigned_abs();
        info.in_flight = held.unsigned_abs();
        info.waiting = (all - held).unsigned_abs();
        info.oldest_unsettled = oldest;
        info.floor = Some(topic.offset(first.unwrap_or(self.cursor).min(self.cursor)));
        info.members = self.living(connection)?.unsigned_abs();
        info.delivered = self.counts.delivered.unsigned_abs();
        info.redelivered = self.counts.redelivered.unsigned_abs();
        info.acked = self.counts.acked.unsigned_abs();
        info.rejected = self.counts.rejected.unsigned_abs();
        info.broadcast = self.config.broadcast;
        info.attempts_max = self.config.attempts_max;
        Ok(info)
    }
}

fn text_of(config: &GroupConfig) -> Result<String> {
    String::from_utf8(config.to_bytes()?).map_err(foreign)
}

/// Declares a group of an existing topic, as its specification says about differences.
pub(super) fn declare(
    connection: &Connection,
    spec: &GroupSpec,
    mode: TopologyMode,
    now: Timestamp,
) -> Result<()> {
    if spec.attempts_max == Some(0) {
        return Err(Error::new(ErrorKind::Limit, "attempts_max is 0: nothing would ever be tried")
            .context("group", &spec.group));
    }
    // Its dead letters need a name too; better now than at the first rejection.
    dead::dead_topic(&spec.group, &spec.topic)?;
    let wanted = GroupConfig::of(spec);
    if mode != TopologyMode::Create {
        let (_, found) = GroupRow::get(connection, &spec.topic, &spec.group)?;
        let strict = GroupSpec { on_difference: Default::default(), ..spec.clone() };
        return wanted.reconcile(&found.config, &strict).map(drop);
    }
    let topic = TopicRow::get(connection, &spec.topic)?;
    let Some(found) = GroupRow::find(connection, &topic, &spec.group)? else {
        let start = topic.resolve(connection, &spec.start)?;
        return GroupRow::create(connection, &topic, &spec.group, &wanted, start, now).map(drop);
    };
    if let Some(changed) = wanted.reconcile(&found.config, spec)? {
        let sql = "UPDATE groups SET config = ?2 WHERE id = ?1";
        connection.execute(sql, params![found.id, text_of(&changed)?]).map_err(of_sqlite)?;
    }
    Ok(())
}

/// A new member of a group, known to others by its session.
pub(super) fn join(
    connection: &Connection,
    group: i64,
    session: &str,
    lease_us: i64,
) -> Result<i64> {
    let sql = "INSERT INTO members (grp, session, lease_us) VALUES (?1, ?2, ?3)";
    connection.execute(sql, params![group, session, lease_us]).map_err(of_sqlite)?;
    Ok(connection.last_insert_rowid())
}

/// A member that holds nothing leaves; with the only member of a broadcast its group goes.
pub(super) fn leave(
    connection: &Connection,
    group: i64,
    member: i64,
    now: Timestamp,
) -> Result<()> {
    connection.execute("DELETE FROM members WHERE id = ?1", [member]).map_err(of_sqlite)?;
    let sql = "UPDATE groups SET idle_since = ?2 WHERE id = ?1 \
               AND NOT EXISTS (SELECT 1 FROM members WHERE grp = ?1 AND stopped = 0)";
    connection.execute(sql, [group, now.unix_us()]).map_err(of_sqlite)?;
    let left = GroupRow::at(connection, group)?.filter(|left| left.config.broadcast);
    if left.is_some() && !has_members(connection, group)? {
        GroupRow::delete(connection, group)?;
    }
    Ok(())
}

/// The member fetches no more; what it holds it can still settle.
pub(super) fn stop(connection: &Connection, group: i64, member: i64, now: Timestamp) -> Result<()> {
    connection
        .execute("UPDATE members SET stopped = 1 WHERE id = ?1", [member])
        .map_err(of_sqlite)?;
    let sql = "UPDATE groups SET idle_since = ?2 WHERE id = ?1 \
               AND NOT EXISTS (SELECT 1 FROM members WHERE grp = ?1 AND stopped = 0)";
    connection.execute(sql, [group, now.unix_us()]).map_err(of_sqlite).map(drop)
}

fn has_members(connection: &Connection, group: i64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM members WHERE grp = ?1)";
    connection.query_row(sql, [group], |row| row.get(0)).map_err(of_sqlite)
}

/// The groups that nobody was a member of for longer than they live without.
pub(super) fn expired(connection: &Connection, now: Timestamp) -> Result<Vec<i64>> {
    let sql = "SELECT id FROM groups g WHERE config ->> '$.expires_after_ms' IS NOT NULL \
               AND idle_since + 1000 * (config ->> '$.expires_after_ms') <= ?1 \
               AND NOT EXISTS (SELECT 1 FROM members m WHERE m.grp = g.id)";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let rows = select.query_map([now.unix_us()], |row| row.get(0)).map_err(of_sqlite)?;
    rows.collect::<rusqlite::Result<_>>().map_err(of_sqlite)
}
