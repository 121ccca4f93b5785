//! Writing to one topic: frames, receipts, and what waits while the disk is full.
//!
//! Nothing here waits for room on the disk. What finds none stays, in its order, and is tried again
//! by the thread that owns the writer; what waited for too long is refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use busline_core::receipt::ReceiptSender;
use busline_core::{Error, ErrorKind, Message, PublishError, Receipt, Result};
use busline_log::Appender;
use tokio::sync::OwnedSemaphorePermit;

use super::error::of_log;
use super::mapping::Selection;
use super::meta;
use super::store::{Store, TopicLog};

/// Room in the window by messages and by bytes, given back with the last receipt.
pub(super) type Permit = Arc<[OwnedSemaphorePermit; 2]>;

/// A batch to one topic.
pub(super) struct PublishJob {
    pub(super) topic: Arc<TopicLog>,
    pub(super) messages: VecDeque<(Message, ReceiptSender)>,
    pub(super) mandatory: bool,
    pub(super) permit: Permit,
}

/// A record to write: key, meta, value.
pub(super) type Bytes<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// A topic that a thread writes to.
pub(super) struct Writer {
    pub(super) topic: Arc<TopicLog>,
    appender: Appender,
    /// How long a frame may wait for room on the disk.
    patience: Duration,
    /// Pushed into the appender, not written yet.
    pushed: Vec<ReceiptSender>,
    /// When the first of them came.
    came: Duration,
    /// The disk was full at the last try: what is pushed waits, and everything newer behind it.
    is_full: bool,
    backlog: VecDeque<(Duration, PublishJob)>,
    /// Of batches that are pushed or written.
    permits: Vec<Permit>,
    /// Written, not synced yet.
    written: Vec<(ReceiptSender, u64)>,
    /// The end of what was written since the last sync.
    unsynced: Option<u64>,
    /// Where the log ended when retention was looked at.
    pub(super) retained: u64,
    meta: Vec<u8>,
}

impl Writer {
    pub(super) fn new(topic: &Arc<TopicLog>, patience: Duration) -> Self {
        Self {
            topic: Arc::clone(topic),
            appender: topic.log.appender(),
            patience,
            pushed: Vec::new(),
            came: Duration::ZERO,
            is_full: false,
            backlog: VecDeque::new(),
            permits: Vec::new(),
            written: Vec::new(),
            unsynced: None,
            retained: 0,
            meta: Vec::new(),
        }
    }

    /// Whether something waits for room on the disk.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_full
    }

    /// Whether something is on its way.
    pub(super) fn is_busy(&self) -> bool {
        !(self.pushed.is_empty() && self.backlog.is_empty() && self.written.is_empty())
    }

    /// Whether something was written and not synced.
    pub(super) fn is_dirty(&self) -> bool {
        self.unsynced.is_some()
    }

    /// Takes a batch, behind what waits.
    pub(super) fn publish(&mut self, store: &Store, job: PublishJob) {
        self.backlog.push_back((store.time.clock().monotonic(), job));
        self.go_on(store);
    }

    /// Takes one record; it is written by the next [`Writer::finish`], or before.
    pub(super) fn push(&mut self, store: &Store, record: Bytes<'_>, receipt: ReceiptSender) {
        let now = store.time.clock().monotonic();
        if self.has_room(record) || self.write(store) {
            self.push_record(now, record, receipt);
        }
    }

    /// Pushes what waits in its order, as far as the disk has room.
    fn go_on(&mut self, store: &Store) {
        while !self.is_full
            && let Some((came, job)) = self.backlog.pop_front()
        {
            self.push_all(store, came, job);
        }
    }

    fn push_all(&mut self, store: &Store, came: Duration, mut job: PublishJob) {
        let routes = if job.mandatory { Some(self.topic.selections()) } else { None };
        let mut meta_bytes = std::mem::take(&mut self.meta);
        while let Some((message, receipt)) = job.messages.pop_front() {
            meta_bytes.clear();
            meta::encode(&message, &mut meta_bytes);
            let record = (message.key.as_str().as_bytes(), &*meta_bytes, &*message.payload);
            if let Some(routes) = &routes
                && let Some(answer) = unroutable(routes, record)
            {
                receipt.send(answer);
                continue;
            }
            if !self.has_room(record) && !self.write(store) {
                job.messages.push_front((message, receipt));
                self.backlog.push_front((came, job));
                self.meta = meta_bytes;
                return;
            }
            self.push_record(came, record, receipt);
        }
        self.meta = meta_bytes;
        self.permits.push(job.permit);
    }

    fn has_room(&self, (key, meta, value): Bytes<'_>) -> bool {
        let pending = self.appender.pending().body_len();
        pending + key.len() + meta.len() + value.len() <= busline_log::BATCH_BYTES_TARGET
    }

    fn push_record(
        &mut self,
        came: Duration,
        (key, meta, value): Bytes<'_>,
        receipt: ReceiptSender,
    ) {
        match self.appender.push(key, meta, value) {
            Ok(()) => {
                if self.pushed.is_empty() {
                    self.came = came;
                }
                self.pushed.push(receipt);
            }
            Err(error) => receipt.send(Err(PublishError::from_send(of_log(error)))),
        }
    }

    /// Writes the frame. False when it waits for room on the disk; else nothing is left of it.
    fn write(&mut self, store: &Store) -> bool {
        if self.pushed.is_empty() {
            return true;
        }
        self.is_full = false;
        let flushed = match store.check_room() {
            Ok(()) => self.appender.flush(store.time.wall_us()).map_err(of_log),
            Err(error) => Err(error),
        };
        let error = match flushed {
            Ok(Some(appended)) => {
                let receipts = self.pushed.drain(..);
                self.written.extend(receipts.zip(appended.first..));
                self.unsynced = Some(appended.next);
                return true;
            }
            Ok(None) => Error::new(ErrorKind::Other, "the log wrote nothing"),
            Err(error) => error.context("topic", &self.topic.topic),
        };
        if error.kind() == ErrorKind::Full {
            store.note_full();
        }
        let waited = store.time.clock().monotonic().saturating_sub(self.came);
        self.is_full = error.kind() == ErrorKind::Full && waited < self.patience;
        if !self.is_full {
            self.appender.discard();
            for receipt in self.pushed.drain(..) {
                receipt.send(Err(PublishError::Nacked(error.clone())));
            }
        }
        !self.is_full
    }

    /// Writes what is left, syncs where receipts wait for it, and answers.
    pub(super) fn finish(&mut self, store: &Store, always: bool) {
        while self.write(store) && !self.backlog.is_empty() {
            self.go_on(store);
        }
        if !self.written.is_empty() {
            self.answer(always);
        }
        if self.pushed.is_empty() {
            self.permits.clear();
        }
    }

    fn answer(&mut self, always: bool) {
        let synced = match self.unsynced {
            Some(next) if always => self.topic.log.commit(next).map_err(of_log),
            _ => Ok(()),
        };
        if always && synced.is_ok() {
            self.unsynced = None;
        }
        for (receipt, seq) in self.written.drain(..) {
            receipt.send(match &synced {
                Ok(()) => Ok(Receipt::Stored { offset: Some(self.topic.offset(seq)) }),
                Err(error) => Err(PublishError::Unknown(error.clone())),
            });
        }
    }

    /// Makes durable what was written.
    pub(super) fn sync(&mut self) -> Result<()> {
        if self.unsynced.is_some() {
            self.topic.log.sync().map_err(of_log)?;
            self.unsynced = None;
        }
        Ok(())
    }
}

/// The answer to a mandatory message that goes nowhere; nothing when a group takes it.
fn unroutable(
    routes: &Result<Vec<Selection>>,
    (key, meta_bytes, _): Bytes<'_>,
) -> Option<busline_core::Published> {
    match routes {
        Err(error) => Some(Err(PublishError::Nacked(error.clone()))),
        Ok(groups) if groups.iter().any(|group| group.takes(key, meta_bytes)) => None,
        Ok(_) => Some(Ok(Receipt::Unroutable)),
    }
}
