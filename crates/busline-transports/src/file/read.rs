//! Readers: a topic's log from any place on, without settling anything.

use std::fmt;
use std::sync::Arc;

use busline_core::transport::{Read, Reader};
use busline_core::{Error, ErrorKind, Offset, Position, Record, Result};
use busline_log::{KeySet, Mark, Scanner};
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::error::{of_log, worker_gone};
use super::mapping::{Chunk, key_matches, key_set};
use super::state::Scope;
use super::store::{Store, TopicLog};
use super::wait::Waiter;

/// The most bytes copied into one block.
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// The same for what a runtime's thread reads by itself, and the most records that it looks at.
const READY_BYTES_MAX: usize = 64 << 10;
const READY_RECORDS_MAX: u64 = 4096;

pub(super) struct FileReader {
    topic: Arc<TopicLog>,
    spec: Read,
    /// With the scanner between two calls.
    cursor: Option<Cursor>,
    /// A read or a seek under way: kept here, so that a cancelled call loses nothing.
    working: Option<JoinHandle<(Cursor, Done)>>,
    scope: Arc<Scope>,
    position: u64,
    mark: Mark,
    waiter: Waiter,
}

/// What a cursor came back with.
enum Done {
    Read(Result<Vec<Record>>),
    Sought(Result<u64>),
}

struct Cursor {
    topic: Arc<TopicLog>,
    scanner: Scanner,
    /// The only keys that are read, where the patterns have no wildcards.
    keys: Option<KeySet>,
}

pub(super) fn open(
    topic: &Arc<TopicLog>,
    spec: Read,
    store: &Store,
    scope: &Arc<Scope>,
) -> Result<FileReader> {
    if spec.chunk_max == 0 {
        return Err(Error::new(ErrorKind::Limit, "chunk_max is 0: nothing would ever be read")
            .context("topic", &spec.topic));
    }
    let mark = topic.log.mark();
    let position = topic.seq_of(&spec.from)?;
    let mut scanner = topic.log.scanner();
    let position = scanner.seek(position).map_err(of_log)?;
    Ok(FileReader {
        cursor: Some(Cursor { topic: Arc::clone(topic), scanner, keys: key_set(&spec.patterns) }),
        working: None,
        scope: Arc::clone(scope),
        position,
        mark,
        waiter: Waiter::new(
            topic.log.clone(),
            Arc::clone(store.time.clock()),
            Arc::clone(&store.bells),
        ),
        topic: Arc::clone(topic),
        spec,
    })
}

impl Cursor {
    fn read(&mut self, spec: &Read) -> Result<Vec<Record>> {
        let mut chunk = Chunk::default();
        let wanted = |key: &[u8], _: &[u8]| key_matches(&spec.patterns, key);
        while chunk.len() < spec.chunk_max.max(1) && chunk.bytes() < CHUNK_BYTES_MAX {
            let next = match &self.keys {
                Some(keys) => self.scanner.next_of(keys, u64::MAX),
                None => self.scanner.next_where(u64::MAX, wanted),
            };
            match next.map_err(of_log) {
                Ok(Some(record)) => chunk.push(&record, 0),
                Ok(None) => break,
                // What was read before it comes first; then the error, again and again.
                Err(error) if chunk.len() == 0 => {
                    return Err(error.context("topic", &self.topic.topic));
                }
                Err(_) => break,
            }
        }
        self.records(chunk)
    }

    /// What can be had without waiting for the disk, a little at a time: a message that was just
    /// written is in memory, and another thread would be woken for nothing. `None` when nobody can say
    /// without waiting whether there is something.
    fn read_ready(&mut self, spec: &Read) -> Option<Result<Vec<Record>>> {
        let mut chunk = Chunk::default();
        let wanted = |key: &[u8], _: &[u8]| key_matches(&spec.patterns, key);
        let last = self.scanner.position().saturating_add(READY_RECORDS_MAX);
        let mut at_tail = false;
        while chunk.len() < spec.chunk_max
            && chunk.bytes() < READY_BYTES_MAX
            && self.scanner.position() < last
        {
            let Some(end) = self.scanner.ready_until(READY_BYTES_MAX as u64) else { break };
            at_tail = end == self.scanner.position();
            if at_tail {
                break;
            }
            match self.scanner.next_where(end.min(last), wanted) {
                Ok(Some(record)) => chunk.push(&record, 0),
                Ok(None) => {}
                // It comes again to who reads on.
                Err(_) => break,
            }
        }
        (at_tail || chunk.len() > 0).then(|| self.records(chunk))
    }

    fn records(&mut self, chunk: Chunk) -> Result<Vec<Record>> {
        let mut records = Vec::with_capacity(chunk.len());
        for raw in chunk.into_records() {
            let seq = raw.seq;
            match raw.into_record(&self.topic) {
                Ok(record) => records.push(record),
                Err(error) => {
                    // As above: the reader stays before what it does not understand.
                    self.scanner.seek(seq).map_err(of_log)?;
                    return if records.is_empty() { Err(error) } else { Ok(records) };
                }
            }
        }
        Ok(records)
    }
}

impl FileReader {
    async fn next_chunk(&mut self) -> Result<Vec<Record>> {
        loop {
            if self.working.is_none() {
                // Before looking: what comes later than this wakes `wait`.
                self.mark = self.topic.log.mark();
                let ready = self.cursor.as_mut().and_then(|cursor| {
                    let ready = cursor.read_ready(&self.spec);
                    self.position = cursor.scanner.position();
                    ready
                });
                if let Some(ready) = ready {
                    return ready;
                }
                let spec = self.spec.clone();
                self.start(move |cursor| Done::Read(cursor.read(&spec)))?;
            }
            match self.work().await? {
                Some(Done::Read(records)) => return records,
                // Of a seek that was cancelled: it goes on from there.
                Some(Done::Sought(_)) | None => {}
            }
        }
    }

    async fn go_to(&mut self, to: Position) -> Result<()> {
        // What a cancelled call has read was not handed out: the reader still stands before it.
        let mut before = self.position;
        if let Some(Done::Sought(Ok(seq))) = self.work().await? {
            before = seq;
        }
        let topic = Arc::clone(&self.topic);
        self.start(move |cursor| {
            let sought = topic.seq_of(&to).and_then(|seq| cursor.scanner.seek(seq).map_err(of_log));
            if sought.is_err() {
                // Back to where it was; if that is gone too, the next read says so.
                let _ = cursor.scanner.seek(before);
            }
            Done::Sought(sought)
        })?;
        match self.work().await? {
            Some(Done::Sought(sought)) => sought.map(drop),
            _ => Err(worker_gone()),
        }
    }

    fn start(&mut self, work: impl FnOnce(&mut Cursor) -> Done + Send + 'static) -> Result<()> {
        let mut cursor = self.cursor.take().ok_or_else(worker_gone)?;
        self.working = Some(tokio::task::spawn_blocking(move || {
            let done = work(&mut cursor);
            (cursor, done)
        }));
        Ok(())
    }

    /// Waits for what is under way. Cancelled, it stays under way.
    async fn work(&mut self) -> Result<Option<Done>> {
        let Some(working) = &mut self.working else { return Ok(None) };
        let joined = working.await;
        self.working = None;
        let (cursor, done) = joined.map_err(|_| worker_gone())?;
        self.position = cursor.scanner.position();
        self.cursor = Some(cursor);
        Ok(Some(done))
    }
}

/// Fails when the session has ended, also while the work is waited for.
async fn within<T>(scope: Arc<Scope>, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = scope.ended() => Err(worker_gone()),
        done = work => done,
    }
}

impl Reader for FileReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        let scope = Arc::clone(&self.scope);
        Box::pin(within(scope, self.next_chunk()))
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        let (scope, mark) = (Arc::clone(&self.scope), self.mark);
        Box::pin(within(scope, self.waiter.wait(mark, None, || false)))
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        let scope = Arc::clone(&self.scope);
        Box::pin(within(scope, self.go_to(to)))
    }

    fn position(&self) -> Option<Offset> {
        Some(self.topic.offset(self.position))
    }
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("topic", &self.spec.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
