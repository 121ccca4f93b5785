//! Reading the table from any position.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use busline_core::transport::{Read, Reader};
use busline_core::{Error, Key, Message, Offset, Position, Record, Result};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::super::database::missing;
use super::super::error::{of_sqlite, session_closed};
use super::category::category_quickly;
use super::table::{self, Bounds, Event, SCAN_MAX, offset_of, unreadable};
use super::worker::{Job, Worker, call};

/// The most bytes of one chunk, but for a single large event.
const CHUNK_BYTES: usize = 4 << 20;

/// A reader: a number, and what it looks for.
#[derive(Debug)]
pub(super) struct HermesReader {
    jobs: Sender<Job>,
    read: Arc<Read>,
    place: Place,
}

/// Where a reader is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// There was no table yet: what it is to start with.
    Unborn(Position),
    /// The first row of interest. A reader that has seen nothing yet cannot miss anything before it.
    At { next: i64, is_fresh: bool },
}

/// What a look came to.
struct Looked {
    records: Vec<Record>,
    place: Place,
    is_at_end: bool,
    /// A row that cannot be read, which is told of behind the records before it.
    failed: Option<Error>,
}

impl HermesReader {
    pub(super) async fn open(jobs: &Sender<Job>, read: Read) -> Result<Self> {
        let from = read.from.clone();
        let place = call(jobs, move |worker| place_of(worker, &from)).await?;
        Ok(Self { jobs: jobs.clone(), read: Arc::new(read), place })
    }

    async fn look(&self) -> Result<Looked> {
        let (read, place) = (Arc::clone(&self.read), self.place.clone());
        call(&self.jobs, move |worker| look(worker, &read, &place)).await
    }
}

/// The place of a position; before there is a table only an offset is none.
fn place_of(worker: &mut Worker, from: &Position) -> Result<Place> {
    let path = worker.table.path.clone();
    let Some(connection) = worker.table.connection()? else {
        return match from {
            Position::Offset(_) => Err(missing(&path)),
            // Whatever comes is newer than the end of nothing.
            Position::Latest => Ok(Place::Unborn(Position::Earliest)),
            other => Ok(Place::Unborn(other.clone())),
        };
    };
    let bounds = table::bounds(connection)?;
    let next = bounds.resolve(connection, from)?;
    Ok(Place::At { next, is_fresh: *from == Position::Earliest })
}

fn look(worker: &mut Worker, read: &Read, place: &Place) -> Result<Looked> {
    let (next, is_fresh) = match place {
        Place::At { next, is_fresh } => (*next, *is_fresh),
        Place::Unborn(from) => match place_of(worker, from)? {
            Place::At { next, .. } => (next, true),
            unborn => {
                return Ok(Looked {
                    records: Vec::new(),
                    place: unborn,
                    is_at_end: true,
                    failed: None,
                });
            }
        },
    };
    let path = worker.table.path.clone();
    let connection = worker.table.connection()?.ok_or_else(|| missing(&path))?;
    let bounds = table::bounds(connection)?;
    if !is_fresh && let Some(behind) = missed(bounds, next) {
        // Told once: reading goes on with the oldest that there is.
        let place = Place::At { next: behind, is_fresh: true };
        let failed = Some(bounds.removed(next));
        return Ok(Looked { records: Vec::new(), place, is_at_end: true, failed });
    }
    let mut looked = scan(connection, read, next)?;
    if let Place::At { next: reached, is_fresh: fresh } = &mut looked.place {
        *fresh = is_fresh && *reached == next;
        if looked.is_at_end && looked.records.is_empty() && looked.failed.is_none() {
            // There was nothing from `next` on after the end was looked up: what is between was deleted.
            *reached = bounds.end.max(*reached);
        }
    }
    Ok(looked)
}

/// Where reading goes on when rows from `next` on are gone; `None` when none are.
///
/// Rows before `next` were there: if the oldest one comes behind it, then all of them were removed, and with them
/// what was between. Hermes' numbers have no gaps there, whose sequence goes up by one for each event.
fn missed(bounds: Bounds, next: i64) -> Option<i64> {
    let oldest = bounds.first.unwrap_or(bounds.end);
    (next < oldest).then_some(oldest)
}

fn scan(connection: &Connection, read: &Read, from: i64) -> Result<Looked> {
    let sql = "SELECT msgid, data, timestamp FROM hermesmessages WHERE msgid >= ?1 ORDER BY msgid LIMIT ?2";
    let mut select = connection.prepare_cached(sql).map_err(of_sqlite)?;
    let mut rows = select.query([from, SCAN_MAX]).map_err(of_sqlite)?;
    let (mut records, mut next, mut bytes) = (Vec::new(), from, 0);
    let (mut failed, mut is_at_end) = (None, false);
    let mut seen = 0;
    loop {
        let Some(row) = rows.next().map_err(of_sqlite)? else {
            is_at_end = seen < SCAN_MAX;
            break;
        };
        seen += 1;
        let number: i64 = row.get(0).map_err(of_sqlite)?;
        match record_of(row, number, read) {
            Ok(Some(record)) => {
                bytes += record.message.payload.len();
                records.push(record);
            }
            Ok(None) => {}
            // What is before it first; then it is told of, once.
            Err(_) if !records.is_empty() => break,
            Err(error) => failed = Some(error),
        }
        next = number.saturating_add(1);
        if failed.is_some() || records.len() >= read.chunk_max.max(1) || bytes >= CHUNK_BYTES {
            break;
        }
    }
    Ok(Looked { records, place: Place::At { next, is_fresh: false }, is_at_end, failed })
}

/// The record of a row; `None` when its category is not wanted.
fn record_of(row: &rusqlite::Row<'_>, number: i64, read: &Read) -> Result<Option<Record>> {
    let event = Event::of(row, number)?;
    let key = match category_quickly(event.text) {
        Ok(category) => category.unwrap_or_default(),
        // Whoever wants everything sees what is wrong with it; whoever selects cannot know what it is.
        Err(_) if read.patterns.is_all() => "".into(),
        Err(malformed) => return Err(unreadable(number, malformed)),
    };
    if !read.patterns.matches(&key) {
        return Ok(None);
    }
    let key =
        Key::new(ByteString::from(key.as_ref())).map_err(|error| unreadable(number, error))?;
    let payload = Bytes::copy_from_slice(event.text.as_bytes());
    let message = Message::new(read.topic.clone(), key, payload);
    Ok(Some(Record { message, offset: offset_of(number), time: event.time }))
}

impl Reader for HermesReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(async move {
            loop {
                let looked = self.look().await?;
                self.place = looked.place;
                if let Some(failed) = looked.failed {
                    return Err(failed);
                }
                if looked.is_at_end || !looked.records.is_empty() {
                    return Ok(looked.records);
                }
            }
        })
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        let next = match self.place {
            Place::At { next, .. } => Some(next),
            Place::Unborn(_) => None,
        };
        Box::pin(async move {
            let (done, over) = oneshot::channel();
            let wait = move |worker: &mut Worker| worker.wait(next, done);
            self.jobs.send(Job::Call(Box::new(wait))).map_err(|_| session_closed())?;
            over.await.unwrap_or_else(|_| Err(session_closed()))
        })
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.place = call(&self.jobs, move |worker| place_of(worker, &to)).await?;
            Ok(())
        })
    }

    fn position(&self) -> Option<Offset> {
        match self.place {
            Place::At { next, .. } => Some(offset_of(next)),
            Place::Unborn(_) => None,
        }
    }
}
