//! Settling: what consumers decided, within a transaction; and what the dead held.

use std::collections::{HashMap, hash_map};

use busline_core::delivery::lost;
use busline_core::{Backoff, GroupName, Outcome, Result, Timestamp, dead};
use rusqlite::{Connection, OptionalExtension, params};

use super::claims::{end, message_of, topic_of};
use super::error::of_sqlite;
use super::groups::{GroupRow, leave};
use super::topics::TopicRow;
use crate::group::GroupConfig;

/// The wait before a message whose dead letter cannot be written comes again.
const BURY_AGAIN_US: i64 = 1_000_000;

/// A delivery, as its claim stands in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) group: i64,
    pub(super) member: i64,
    pub(super) number: i64,
    pub(super) epoch: i64,
}

/// What is to become of a delivery.
#[derive(Debug, Clone)]
pub(super) enum Decision {
    Outcome(Outcome),
    /// Given back: it counts as an attempt and backs off from the second on.
    Release,
    /// Given back without having been handed out: it does not count.
    Return,
    /// Held for too long.
    Expired,
}

/// The groups that a transaction settles in, and the topics that may be trimmed behind it.
#[derive(Debug, Default)]
pub(super) struct Settling {
    groups: HashMap<i64, Option<GroupRow>>,
}

impl Settling {
    /// Settles one delivery; the inner error is for who settled, the outer one ends the transaction.
    pub(super) fn settle(
        &mut self,
        connection: &Connection,
        held: Held,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<Result<()>> {
        let group = match self.groups.entry(held.group) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(new) => new.insert(GroupRow::at(connection, held.group)?),
        };
        let Some(group) = group else { return Ok(Err(lost("its group was deleted"))) };
        let sql =
            "SELECT attempts, releases FROM entries WHERE grp = ?1 AND number = ?2 AND owner = ?3";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let found = select.query_row([held.group, held.number, held.member], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        let found: Option<(u32, u32)> = found.optional().map_err(of_sqlite)?;
        let Some((attempts, releases)) = found.filter(|_| group.epoch == held.epoch) else {
            return Ok(Err(lost("its lease ran out, or the group was reset")));
        };
        drop(select);
        let entry = Entry { number: held.number, attempts, releases };
        decide(connection, group, entry, decision, now)
    }

    /// Writes down what the groups counted, and lets retention go on behind them.
    pub(super) fn finish(self, connection: &Connection, now: Timestamp) -> Result<()> {
        for group in self.groups.into_values().flatten() {
            group.save(connection)?;
            let mut topic = topic_of(connection, &group)?;
            topic.trim(connection, now)?;
        }
        Ok(())
    }
}

/// An entry that is being settled.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: i64,
    attempts: u32,
    releases: u32,
}

fn decide(
    connection: &Connection,
    group: &mut GroupRow,
    entry: Entry,
    decision: &Decision,
    now: Timestamp,
) -> Result<Result<()>> {
    match decision {
        Decision::Outcome(Outcome::Ack) => {
            group.counts.acked += 1;
            return end(connection, group.id, entry.number).map(Ok);
        }
        Decision::Outcome(Outcome::Reject { reason }) => {
            return bury(connection, group, entry, reason, now);
        }
        Decision::Outcome(Outcome::Retry { .. }) | Decision::Release | Decision::Expired => {}
        Decision::Return => {
            group.counts.delivered -= 1;
            group.counts.redelivered -= i64::from(entry.attempts > 1);
            let sql = "UPDATE entries SET owner = 0, due = 0, attempts = attempts - 1 WHERE grp = ?1 AND number = ?2";
            let mut update = connection.prepare_cached(sql).map_err(of_sqlite)?;
            return update.execute([group.id, entry.number]).map_err(of_sqlite).map(|_| Ok(()));
        }
    }
    if let Some(reason) = out_of_attempts(group, entry) {
        return bury(connection, group, entry, &reason, now);
    }
    let mut releases = entry.releases;
    let wait = match decision {
        Decision::Outcome(Outcome::Retry { after: Some(after) }) => *after,
        Decision::Release => {
            releases = releases.saturating_add(1);
            // Nothing after the first release, then doubling.
            Backoff::default().before_attempt(releases)
        }
        _ => std::time::Duration::ZERO,
    };
    let us = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    let due = if us == 0 { 0 } else { now.unix_us().saturating_add(us) };
    put_back(connection, group.id, entry.number, due, releases).map(Ok)
}

fn put_back(
    connection: &Connection,
    group: i64,
    number: i64,
    due: i64,
    releases: u32,
) -> Result<()> {
    let sql =
        "UPDATE entries SET owner = 0, due = ?3, releases = ?4 WHERE grp = ?1 AND number = ?2";
    let mut update = connection.prepare_cached(sql).map_err(of_sqlite)?;
    update.execute(params![group, number, due, releases]).map_err(of_sqlite).map(drop)
}

/// Why a message does not come again, if it does not.
fn out_of_attempts(group: &GroupRow, entry: Entry) -> Option<String> {
    let max = group.config.attempts_max.filter(|max| entry.attempts >= *max)?;
    Some(format!("attempts exhausted: {} of {max}", entry.attempts))
}

/// Puts a message to the dead letters of its group; what cannot be put there comes again later.
fn bury(
    connection: &Connection,
    group: &mut GroupRow,
    entry: Entry,
    reason: &str,
    now: Timestamp,
) -> Result<Result<()>> {
    let topic = topic_of(connection, group)?;
    if group.config.broadcast {
        // There is no group whose dead letters these could be.
        tracing::warn!(topic = %topic.name, reason, "a message rejected by a broadcast is dropped");
    } else if let Some(message) = message_of(connection, &topic, entry.number, &topic.name)? {
        let offset = topic.offset(entry.number);
        let rejection = dead::Rejection {
            group: &group.name,
            offset: Some(&offset),
            reason,
            attempts: entry.attempts,
            time: now,
        };
        let letter = match dead::dead_letter(message, &rejection) {
            Ok(letter) => letter,
            Err(error) => {
                let due = now.unix_us().saturating_add(BURY_AGAIN_US);
                put_back(connection, group.id, entry.number, due, entry.releases)?;
                return Ok(Err(error));
            }
        };
        let mut dead = TopicRow::ensure(connection, &letter.topic)?;
        ensure_dead_group(connection, &dead, now)?;
        dead.append(connection, &letter, now)?;
        dead.save(connection)?;
    }
    group.counts.rejected += 1;
    end(connection, group.id, entry.number).map(Ok)
}

fn ensure_dead_group(connection: &Connection, topic: &TopicRow, now: Timestamp) -> Result<()> {
    let name: GroupName = dead::dead_group();
    let sql = "SELECT EXISTS (SELECT 1 FROM groups WHERE topic = ?1 AND name = ?2)";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let there: bool = select
        .query_row(params![topic.slot, name.as_str()], |row| row.get(0))
        .map_err(of_sqlite)?;
    if there {
        return Ok(());
    }
    // Looking at letters must not use them up, so there is no limit of attempts.
    let config = GroupConfig {
        patterns: busline_core::Patterns::all(),
        attempts_max: None,
        expires_after_ms: None,
        blocking: false,
        broadcast: false,
    };
    GroupRow::create(connection, topic, &name, &config, topic.first, now).map(drop)
}

/// Gives back what a member held that is gone, or that lost it; those that are gone leave.
pub(super) fn take_over(
    connection: &Connection,
    group: i64,
    member: i64,
    is_gone: bool,
    now: Timestamp,
) -> Result<()> {
    if let Some(mut row) = GroupRow::at(connection, group)? {
        let sql = "SELECT number, attempts, releases FROM entries WHERE grp = ?1 AND owner = ?2 ORDER BY number";
        let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
        let entry = |row: &rusqlite::Row<'_>| {
            Ok(Entry { number: row.get(0)?, attempts: row.get(1)?, releases: row.get(2)? })
        };
        let held = select.query_map([group, member], entry).map_err(of_sqlite)?;
        let held: Vec<Entry> = held.collect::<rusqlite::Result<_>>().map_err(of_sqlite)?;
        drop(select);
        for entry in held {
            if let Some(reason) = out_of_attempts(&row, entry) {
                if let Err(error) = bury(connection, &mut row, entry, &reason, now)? {
                    tracing::warn!(%error, "a message cannot be dead lettered and comes again");
                }
            } else {
                put_back(connection, group, entry.number, 0, entry.releases)?;
            }
        }
        row.save(connection)?;
    }
    if is_gone {
        leave(connection, group, member, now)?;
    }
    Ok(())
}
