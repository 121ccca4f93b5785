//! The table itself: the form that Hermes gives it, and statements that leave nothing open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use busline_core::{Error, ErrorKind, Offset, Position, Result, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::super::config::{SqliteConfig, Sync};
use super::super::database::{FileId, connect, missing};
use super::super::error::of_sqlite;
use super::TABLE;

/// As Hermes' producer makes it, letter by letter.
const MAKE: &str = "CREATE TABLE IF NOT EXISTS hermesmessages (msgid INTEGER PRIMARY KEY AUTOINCREMENT, \
                    data TEXT NOT NULL, timestamp REAL NOT NULL)";
/// The most rows that one statement passes over, so that a producer never waits long.
pub(super) const SCAN_MAX: i64 = 4096;
/// The first second of the year 10000.
const SECONDS_END: f64 = 253_402_300_800.0;
/// The first second of the year 1, with which Python's dates begin.
const SECONDS_START: f64 = -62_135_596_800.0;

/// A database with, perhaps one day, the table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) path: PathBuf,
    busy: Duration,
    sync: Sync,
    may_create: bool,
    writes: bool,
    open: Option<(Connection, FileId)>,
}

/// Which rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The oldest row; `None` when there is none at the moment.
    pub(super) first: Option<i64>,
    /// The number that the next row gets.
    pub(super) end: i64,
}

/// A row, borrowed until the next one.
pub(super) struct Event<'a> {
    pub(super) text: &'a str,
    pub(super) time: Timestamp,
}

impl Table {
    /// Opens the database, or waits for it: who only reads needs no file yet.
    pub(super) fn open(config: &SqliteConfig, path: &Path, writes: bool) -> Result<Self> {
        let mut table = Self {
            path: path.to_owned(),
            busy: config.busy,
            sync: config.sync,
            may_create: config.create,
            writes,
            open: None,
        };
        table.connection()?;
        Ok(table)
    }

    /// The connection, once the table is there; `None` before. Who writes makes it.
    pub(super) fn connection(&mut self) -> Result<Option<&Connection>> {
        if self.open.is_none() {
            self.open = self.try_open()?;
        }
        Ok(self.open.as_ref().map(|(connection, _)| connection))
    }

    /// The connection of who writes.
    pub(super) fn writer(&mut self) -> Result<&Connection> {
        if !self.writes {
            // A session that was opened for reading publishes too.
            (self.open, self.writes) = (None, true);
        }
        let path = self.path.clone();
        self.connection()?.ok_or_else(|| missing(&path))
    }

    fn try_open(&self) -> Result<Option<(Connection, FileId)>> {
        if !self.writes && !self.path.exists() {
            return Ok(None);
        }
        let create = if self.writes && self.may_create {
            OpenFlags::SQLITE_OPEN_CREATE
        } else {
            OpenFlags::empty()
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
        // Who only reads may still have to undo what a killed producer left half done; nothing else is written.
        let connection = connect(&self.path, flags, self.busy)?;
        let is_there = check_table(&connection)?;
        if self.writes {
            let level = if self.sync == Sync::Always { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", level).map_err(of_sqlite)?;
            if !is_there {
                connection.execute_batch(MAKE).map_err(of_sqlite)?;
            }
        } else {
            connection.pragma_update(None, "query_only", true).map_err(of_sqlite)?;
            if !is_there {
                return Ok(None);
            }
        }
        Ok(Some((connection, FileId::of(&self.path))))
    }

    /// Fails when another file has taken the place of the one that is open.
    pub(super) fn check_file(&mut self) -> Result<()> {
        let Some((_, id)) = &self.open else { return Ok(()) };
        if FileId::of(&self.path) == *id {
            return Ok(());
        }
        self.open = None;
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the file '{}' was replaced or removed", self.path.display()),
        )
        .hint("open the bus again; offsets of the old file mean nothing in the new one"))
    }

    /// Another number after any other connection has committed; `None` without a table.
    pub(super) fn data_version(&mut self) -> Result<Option<i64>> {
        let Some(connection) = self.connection()? else { return Ok(None) };
        let mut select = connection.prepare_cached("PRAGMA data_version").map_err(of_sqlite)?;
        select.query_row([], |row| row.get(0)).map(Some).map_err(of_sqlite)
    }

    pub(super) fn bounds(&mut self) -> Result<Option<Bounds>> {
        self.connection()?.map(bounds).transpose()
    }
}

/// Whether the table is there; `Conflict` when there is something else in its place.
fn check_table(connection: &Connection) -> Result<bool> {
    let sql = "SELECT name, type FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type = 'index', name \
               LIMIT 50";
    let mut select = connection.prepare(sql).map_err(of_sqlite)?;
    let names = select.query_map([], |row| row.get(0)).map_err(of_sqlite)?;
    let names: Vec<String> = names.collect::<rusqlite::Result<_>>().map_err(of_sqlite)?;
    if !names.iter().any(|name| name.eq_ignore_ascii_case(TABLE)) {
        if names.is_empty() {
            return Ok(false);
        }
        let error = Error::new(ErrorKind::Conflict, format!("the database has no table '{TABLE}'"))
            .context("tables", names.join(", "));
        return Err(
            if names.iter().any(|name| name == "records")
                && names.iter().any(|name| name == "topics")
            {
                error.hint("it is a bus of our own: leave layout=hermes out of the URL")
            } else {
                error.hint("it is another program's: give the path that Hermes has as its 'uri'")
            },
        );
    }
    let sql = "SELECT name FROM pragma_table_info('hermesmessages')";
    let mut select = connection.prepare(sql).map_err(of_sqlite)?;
    let columns = select.query_map([], |row| row.get(0)).map_err(of_sqlite)?;
    let columns: Vec<String> = columns.collect::<rusqlite::Result<_>>().map_err(of_sqlite)?;
    let wanted = ["msgid", "data", "timestamp"];
    match wanted
        .iter()
        .find(|wanted| !columns.iter().any(|column| column.eq_ignore_ascii_case(wanted)))
    {
        None => Ok(true),
        Some(column) => Err(Error::new(
            ErrorKind::Conflict,
            format!("the table '{TABLE}' has no column '{column}'"),
        )
        .context("columns", columns.join(", "))
        .hint("it is not the table of a Hermes bus: give the path that Hermes has as its 'uri'")),
    }
}

pub(super) fn bounds(connection: &Connection) -> Result<Bounds> {
    // Each by itself is found at once, together they would be searched for.
    let sql = "SELECT (SELECT min(msgid) FROM hermesmessages WHERE msgid >= 0), \
               (SELECT max(msgid) FROM hermesmessages)";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let (first, last): (Option<i64>, Option<i64>) =
        select.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(of_sqlite)?;
    let sequence = || -> Result<Option<i64>> {
        let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'hermesmessages'";
        match connection.prepare_cached(sql) {
            Ok(mut select) => select.query_row([], |row| row.get(0)).optional().map_err(of_sqlite),
            // A table that was made without AUTOINCREMENT.
            Err(_) => Ok(None),
        }
    };
    let used = last.into_iter().chain(sequence()?).max().unwrap_or(0).max(0);
    Ok(Bounds { first, end: used.saturating_add(1) })
}

impl Bounds {
    /// The row that a position names; a time is searched for, row by row, for nothing says that they are in order.
    pub(super) fn resolve(self, connection: &Connection, position: &Position) -> Result<i64> {
        match position {
            Position::Earliest => Ok(self.first.unwrap_or(self.end)),
            Position::Latest => Ok(self.end),
            Position::Time(time) => {
                first_from(connection, *time).map(|found| found.unwrap_or(self.end))
            }
            Position::Offset(offset) => self.resolve_offset(offset),
        }
    }

    fn resolve_offset(self, offset: &Offset) -> Result<i64> {
        let mut pairs = offset.pairs();
        let number = match (pairs.next(), pairs.next()) {
            (Some((0, number)), None) => i64::try_from(number).unwrap_or(i64::MAX),
            _ => {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("offset {offset} is not one of a Hermes bus"),
                )
                .hint("its offsets are 0.MSGID, as 0.17"));
            }
        };
        if number > self.end {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("offset {offset} is beyond the end of the bus"),
            )
            .context("end", offset_of(self.end)));
        }
        if number < self.first.unwrap_or(self.end) { Err(self.removed(number)) } else { Ok(number) }
    }

    /// The error of a row that retention has taken.
    pub(super) fn removed(self, number: i64) -> Error {
        let offset = offset_of(number);
        let error = Error::new(
            ErrorKind::NotFound,
            format!("the event at {offset} was removed by retention"),
        );
        let error = match self.first {
            Some(first) => error.context("oldest kept", offset_of(first)),
            None => error.context("oldest kept", "none").context("end", offset_of(self.end)),
        };
        error.hint("start at 'earliest', and keep events for longer than readers are away")
    }
}

fn first_from(connection: &Connection, time: Timestamp) -> Result<Option<i64>> {
    let seconds = seconds_of(time);
    let sql = "SELECT max(msgid), min(CASE WHEN timestamp >= ?2 THEN msgid END) FROM \
               (SELECT msgid, timestamp FROM hermesmessages WHERE msgid >= ?1 ORDER BY msgid LIMIT ?3)";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let mut from = 0_i64;
    loop {
        let (last, found): (Option<i64>, Option<i64>) = select
            .query_row(params![from, seconds, SCAN_MAX], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(of_sqlite)?;
        match (last, found) {
            (_, Some(found)) => return Ok(Some(found)),
            (None, None) => return Ok(None),
            (Some(last), None) => from = last.saturating_add(1),
        }
    }
}

/// How many rows there are, a part at a time.
pub(super) fn count(connection: &Connection) -> Result<u64> {
    let sql = "SELECT count(*), max(msgid) FROM \
               (SELECT msgid FROM hermesmessages WHERE msgid >= ?1 ORDER BY msgid LIMIT ?2)";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let (mut all, mut from) = (0, 0_i64);
    loop {
        let (found, last): (i64, Option<i64>) = select
            .query_row([from, SCAN_MAX], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(of_sqlite)?;
        all += found.unsigned_abs();
        let Some(last) = last else { return Ok(all) };
        from = last.saturating_add(1);
    }
}

/// Removes what is older than retention keeps, as Hermes' producer does when it opens the bus.
pub(super) fn purge(connection: &Connection, oldest: Timestamp) -> Result<()> {
    let sql = "DELETE FROM hermesmessages WHERE timestamp < ?1";
    connection.execute(sql, [seconds_of(oldest)]).map_err(of_sqlite).map(drop)
}

/// Appends an event; its number.
pub(super) fn insert(connection: &Connection, text: &str, time: Timestamp) -> Result<i64> {
    let sql = "INSERT INTO hermesmessages (data, timestamp) VALUES (?1, ?2)";
    let mut insert = connection.prepare_cached(sql).map_err(of_sqlite)?;
    insert.execute(params![text, seconds_of(time)]).map_err(of_sqlite)?;
    Ok(connection.last_insert_rowid())
}

impl<'a> Event<'a> {
    /// A row of `msgid, data, timestamp`; an error says what is wrong with which row, and what to do.
    pub(super) fn of(row: &'a Row<'_>, number: i64) -> Result<Self> {
        let kind = |value: ValueRef<'_>| match value {
            ValueRef::Null => "NULL",
            ValueRef::Integer(_) => "an integer",
            ValueRef::Real(_) => "a number",
            ValueRef::Text(_) => "text",
            ValueRef::Blob(_) => "a BLOB",
        };
        let data = row.get_ref(1).map_err(of_sqlite)?;
        let ValueRef::Text(text) = data else {
            return Err(unreadable(number, format!("its data is {} and no text", kind(data))));
        };
        let text = std::str::from_utf8(text)
            .map_err(|cause| unreadable(number, format!("its data is not UTF-8: {cause}")))?;
        #[allow(clippy::cast_precision_loss, reason = "whole seconds of real times are exact")]
        let seconds = match row.get_ref(2).map_err(of_sqlite)? {
            ValueRef::Real(seconds) => seconds,
            ValueRef::Integer(seconds) => seconds as f64,
            other => {
                return Err(unreadable(
                    number,
                    format!("its timestamp is {} and no number", kind(other)),
                ));
            }
        };
        if !(SECONDS_START..SECONDS_END).contains(&seconds) {
            let why = format!(
                "its timestamp {seconds} is no time in seconds, perhaps one in milliseconds"
            );
            return Err(unreadable(number, why));
        }
        #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
        let time = Timestamp::from_unix_us((seconds * 1e6).round() as i64);
        Ok(Self { text, time })
    }
}

/// The error of a row that is no event.
pub(super) fn unreadable(number: i64, why: impl std::fmt::Display) -> Error {
    let offset = offset_of(number);
    Error::new(ErrorKind::Damaged, format!("the event at {offset} cannot be read: {why}"))
        .context("row", format!("msgid {number}"))
        .hint(format!(
            "reading goes on behind it, or from {} on; Hermes' own clients stop there until the row is mended or \
             deleted",
            offset_of(number.saturating_add(1))
        ))
}

/// The place of a row.
pub(super) fn offset_of(number: i64) -> Offset {
    Offset::new(0, number.max(0).unsigned_abs())
}

#[allow(clippy::cast_precision_loss, reason = "a double holds microseconds until the year 2255")]
fn seconds_of(time: Timestamp) -> f64 {
    time.unix_us() as f64 / 1e6
}
