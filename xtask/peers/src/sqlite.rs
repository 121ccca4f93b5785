//! SQLite with a write-ahead log: a table of messages, prepared statements.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::measure::now_us;
use crate::payload::{Count, Payload};
use crate::store::{Store, Sync, Target, on_threads};
use crate::{Result, failed};

const INSERT: &str = "INSERT INTO log(key, body, time) VALUES(?1, ?2, ?3)";

/// A connection of its own; NORMAL syncs at checkpoints, FULL at each commit.
#[derive(Debug)]
pub(crate) struct Sqlite {
    connection: Connection,
}

/// Of the library that is linked.
pub(crate) fn version() -> &'static str {
    rusqlite::version()
}

fn connect(dir: &Path, sync: Sync) -> Result<Connection> {
    let connection = Connection::open(dir.join("bus.sqlite")).map_err(failed)?;
    let synchronous = if sync == Sync::Power { "FULL" } else { "NORMAL" };
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; \
             PRAGMA cache_size = -65536; PRAGMA mmap_size = 4294967296; \
             CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY, key BLOB NOT NULL, \
             body BLOB NOT NULL, time INTEGER NOT NULL);"
        ))
        .map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(30)).map_err(failed)?;
    Ok(connection)
}

/// One message; a commit of its own outside of a transaction.
fn insert(connection: &Connection, number: u64, payload: &mut Payload, time_us: i64) -> Result<()> {
    let (key, body) = payload.message(number);
    let mut insert = connection.prepare_cached(INSERT).map_err(failed)?;
    insert.execute(params![key, body, time_us]).map_err(failed).map(|_| ())
}

impl Store for Sqlite {
    fn open(target: &Target) -> Result<Self> {
        Ok(Self { connection: connect(&target.dir, target.sync)? })
    }

    fn publish(
        &mut self,
        payload: &mut Payload,
        numbers: Range<u64>,
        commit_len: u64,
    ) -> Result<()> {
        if commit_len == 1 {
            let connection = &self.connection;
            return numbers
                .into_iter()
                .try_for_each(|number| insert(connection, number, payload, now_us()));
        }
        let mut next = numbers.start;
        while next < numbers.end {
            let transaction = self.connection.transaction().map_err(failed)?;
            let end = numbers.end.min(next + commit_len);
            let mut insert = transaction.prepare_cached(INSERT).map_err(failed)?;
            let time_us = now_us();
            for number in next..end {
                let (key, body) = payload.message(number);
                insert.execute(params![key, body, time_us]).map_err(failed)?;
            }
            drop(insert);
            transaction.commit().map_err(failed)?;
            next = end;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        // A commit under FULL syncs the whole write-ahead log before it.
        let commit = "PRAGMA synchronous = FULL; PRAGMA user_version = 1;";
        self.connection.execute_batch(commit).map_err(failed)
    }

    fn read(&mut self) -> Result<Count> {
        let mut select = self
            .connection
            .prepare("SELECT id, key, body, time FROM log ORDER BY id")
            .map_err(failed)?;
        let mut rows = select.query([]).map_err(failed)?;
        let mut count = Count::default();
        while let Some(row) = rows.next().map_err(failed)? {
            std::hint::black_box(row.get_ref(1).map_err(failed)?);
            count.add(row.get_ref(2).map_err(failed)?.as_blob().map_err(failed)?);
        }
        Ok(count)
    }

    /// A claim marks rows with a lease; removing them acknowledges. Both in one transaction.
    fn settle(&mut self, commit_len: u64) -> Result<Count> {
        self.connection
            .execute_batch(
                "ALTER TABLE log ADD COLUMN lease INTEGER; \
                 CREATE INDEX free ON log(id) WHERE lease IS NULL;",
            )
            .map_err(failed)?;
        let claim = "UPDATE log SET lease = ?1 WHERE id IN \
                     (SELECT id FROM log WHERE lease IS NULL ORDER BY id LIMIT ?2) RETURNING id, body";
        let mut count = Count::default();
        let mut claimed: Vec<i64> = Vec::new();
        loop {
            let transaction = self.connection.transaction().map_err(failed)?;
            let mut claim = transaction.prepare_cached(claim).map_err(failed)?;
            let commit_len = i64::try_from(commit_len).map_err(failed)?;
            let mut rows = claim.query(params![now_us(), commit_len]).map_err(failed)?;
            claimed.clear();
            while let Some(row) = rows.next().map_err(failed)? {
                claimed.push(row.get(0).map_err(failed)?);
                count.add(row.get_ref(1).map_err(failed)?.as_blob().map_err(failed)?);
            }
            drop(rows);
            drop(claim);
            let mut remove =
                transaction.prepare_cached("DELETE FROM log WHERE id = ?1").map_err(failed)?;
            for id in &claimed {
                remove.execute([id]).map_err(failed)?;
            }
            drop(remove);
            transaction.commit().map_err(failed)?;
            if claimed.is_empty() {
                return Ok(count);
            }
        }
    }

    fn last(&mut self) -> Result<u64> {
        let last = "SELECT max(id) FROM log";
        let last: i64 = self.connection.query_row(last, [], |row| row.get(0)).map_err(failed)?;
        u64::try_from(last).map_err(failed)
    }

    /// They share the connection: with one each, writers sleep before they try again, and it is slower.
    fn publish_from_many(&mut self, publishers: u64, each: u64) -> Result<()> {
        let dir = self.connection.path().map(Path::new).and_then(Path::parent);
        let dir = dir.ok_or("the database has no folder")?;
        let shared = Arc::new(Mutex::new(connect(dir, Sync::Power)?));
        on_threads(publishers, each, || {
            let shared = Arc::clone(&shared);
            Ok(move |number, payload: &mut Payload| {
                let connection = shared.lock().map_err(failed)?;
                insert(&connection, number, payload, now_us())
            })
        })
    }
}
