//! Reading a topic from any position.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use busline_core::transport::{Read, Reader};
use busline_core::{Error, ErrorKind, Offset, Position, Record, Result};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::error::{of_sqlite, session_closed};
use super::mapping::{COLUMNS, Raw};
use super::topics::TopicRow;
use super::worker::{Job, Worker, call};

/// The most records that one look passes over.
const SCAN_MAX: i64 = 16_384;
/// The most bytes of one chunk, but for a single large message.
const CHUNK_BYTES: usize = 4 << 20;
/// How many records room is made for at once.
const ROOM: usize = 1024;

/// A reader: a number, and what it looks for.
#[derive(Debug)]
pub(super) struct SqliteReader {
    jobs: Sender<Job>,
    read: Arc<Read>,
    slot: i64,
    next: i64,
    position: Offset,
}

/// What a look came to.
struct Looked {
    records: Vec<Record>,
    next: i64,
    position: Offset,
    is_at_end: bool,
}

impl SqliteReader {
    pub(super) async fn open(jobs: &Sender<Job>, read: Read) -> Result<Self> {
        let read = Arc::new(read);
        let spec = Arc::clone(&read);
        let (slot, next, position) = call(jobs, move |worker| {
            let topic = trimmed(worker, TopicRow::get(worker.database.connection(), &spec.topic)?)?;
            let next = topic.resolve(worker.database.connection(), &spec.from)?;
            Ok((topic.slot, next, topic.offset(next)))
        })
        .await?;
        Ok(Self { jobs: jobs.clone(), read, slot, next, position })
    }

    async fn look(&self) -> Result<Looked> {
        let (read, slot, next) = (Arc::clone(&self.read), self.slot, self.next);
        call(&self.jobs, move |worker| look(worker.database.connection(), &read, slot, next)).await
    }
}

/// The topic behind what retention takes from it by now.
pub(super) fn trimmed(worker: &mut Worker, topic: TopicRow) -> Result<TopicRow> {
    if !topic.is_bounded() {
        return Ok(topic);
    }
    let slot = topic.slot;
    worker.change(|connection, now| {
        let Some(mut topic) = TopicRow::at(connection, slot)? else { return Ok(topic) };
        topic.trim(connection, now)?;
        Ok(topic)
    })
}

fn look(connection: &Connection, read: &Read, slot: i64, from: i64) -> Result<Looked> {
    let topic = topic_of(connection, read, slot)?;
    if from < topic.first {
        return Err(topic.removed(from));
    }
    let sql =
        format!("SELECT {COLUMNS} FROM records WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3");
    let mut select = connection.prepare_cached(&sql).map_err(of_sqlite)?;
    let bounds = params![topic.id(from), topic.id(topic.next), SCAN_MAX];
    let mut rows = select.query(bounds).map_err(of_sqlite)?;
    let (mut records, mut next, mut bytes) = (Vec::new(), from, 0);
    while let Some(row) = rows.next().map_err(of_sqlite)? {
        let raw = Raw::of(row)?;
        if read.patterns.matches(raw.key) {
            match raw.record(&topic) {
                Ok(record) => {
                    if records.is_empty() {
                        let left = usize::try_from(topic.next - raw.number).unwrap_or(usize::MAX);
                        records.reserve(left.min(read.chunk_max).min(ROOM));
                    }
                    bytes += record.message.size_bytes();
                    records.push(record);
                }
                // What is before it first; then it is told of, once.
                Err(_) if !records.is_empty() => break,
                Err(error) => return Err(error.context("offset", topic.offset(raw.number))),
            }
        }
        next = raw.number + 1;
        if records.len() >= read.chunk_max.max(1) || bytes >= CHUNK_BYTES {
            break;
        }
    }
    Ok(Looked { records, next, position: topic.offset(next), is_at_end: next >= topic.next })
}

fn topic_of(connection: &Connection, read: &Read, slot: i64) -> Result<TopicRow> {
    let gone = || Error::new(ErrorKind::NotFound, format!("topic '{}' was deleted", read.topic));
    TopicRow::at(connection, slot)?.ok_or_else(gone)
}

impl Reader for SqliteReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(async move {
            loop {
                let looked = self.look().await?;
                (self.next, self.position) = (looked.next, looked.position);
                if looked.is_at_end || !looked.records.is_empty() {
                    return Ok(looked.records);
                }
            }
        })
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        let (slot, next) = (self.slot, self.next);
        Box::pin(async move {
            let (done, over) = oneshot::channel();
            let wait = move |worker: &mut Worker| worker.wait(slot, next, done);
            self.jobs.send(Job::Call(Box::new(wait))).map_err(|_| session_closed())?;
            over.await.unwrap_or_else(|_| Err(session_closed()))
        })
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        let (read, slot) = (Arc::clone(&self.read), self.slot);
        Box::pin(async move {
            let found = call(&self.jobs, move |worker| {
                let topic = topic_of(worker.database.connection(), &read, slot)?;
                let next = topic.resolve(worker.database.connection(), &to)?;
                Ok((next, topic.offset(next)))
            });
            (self.next, self.position) = found.await?;
            Ok(())
        })
    }

    fn position(&self) -> Option<Offset> {
        Some(self.position.clone())
    }
}
