//! The thread of a session that touches the logs: it writes what was sent, and settles.
//!
//! It takes everything that waits, appends it, syncs once for all of it, and only then answers:
//! so that many publishers share one `fdatasync`, and no runtime thread ever waits for a disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use busline_core::receipt::ReceiptSender;
use busline_core::{Error, ErrorKind, Message, PublishError, Receipt, Result, Topic};
use busline_log::{Appender, Group, Member};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::config::Sync;
use super::error::{of_log, worker_gone};
use super::meta;
use super::settle::{SettleJob, Settling};
use super::state::SubscriptionState;
use super::store::{Store, TopicLog};

/// How many messages are taken together at most: it bounds how long the first of them waits.
const TAKE_MAX: usize = 8192;
/// How often retention is looked at, of topics that this thread writes to and of all that are open.
const RETAIN_EVERY: Duration = Duration::from_secs(1);
const RETAIN_ALL_EVERY: Duration = Duration::from_secs(10);

/// What the thread is asked to do.
pub(super) enum Job {
    Publish(PublishJob),
    Settle(SettleJob),
    /// A subscription ended: its member leaves, behind its settles.
    Leave(Arc<SubscriptionState>, Option<Box<Member>>),
    /// Answers when everything before it is done and synced.
    Flush(oneshot::Sender<Result<()>>),
}

/// A batch to one topic.
pub(super) struct PublishJob {
    pub(super) topic: Arc<TopicLog>,
    pub(super) messages: Vec<(Message, ReceiptSender)>,
    pub(super) mandatory: bool,
    /// Room in the window, given back with the last receipt.
    pub(super) permit: Arc<OwnedSemaphorePermit>,
}

/// Starts the thread; it ends when every sender is gone.
pub(super) fn start(store: Arc<Store>) -> Result<Sender<Job>> {
    let (jobs, queue) = channel();
    let worker = Worker {
        synced_at: store.time.clock().monotonic(),
        retained_at: Duration::ZERO,
        store,
        queue,
        writers: HashMap::new(),
        unsynced: HashMap::new(),
        meta: Vec::new(),
    };
    std::thread::Builder::new()
        .name("busline-file".to_owned())
        .spawn(move || worker.run())
        .map_err(|cause| Error::new(ErrorKind::Other, "cannot start a thread").source(cause))?;
    Ok(jobs)
}

/// Sends a job; `Closed` when the thread is gone.
pub(super) fn submit(jobs: &Sender<Job>, job: Job) -> Result<()> {
    jobs.send(job).map_err(|_| worker_gone())
}

struct Worker {
    store: Arc<Store>,
    queue: Receiver<Job>,
    writers: HashMap<Topic, Writer>,
    /// Groups with settles that were not synced yet, by their logs and names.
    unsynced: Unsynced,
    synced_at: Duration,
    retained_at: Duration,
    meta: Vec<u8>,
}

/// Groups by the id of their topic's log and their name.
pub(super) type Unsynced = HashMap<(u128, String), Group>;

/// A topic that this thread writes to.
pub(super) struct Writer {
    topic: Arc<TopicLog>,
    appender: Appender,
    /// Pushed into the appender, not written yet.
    pushed: Vec<ReceiptSender>,
    /// Written, not synced yet.
    written: Vec<(ReceiptSender, u64)>,
    /// The end of what was written since the last sync.
    unsynced: Option<u64>,
    retained: Duration,
    /// Since when the disk is full, within one round: who waits behind others does not wait anew.
    full_since: Option<Duration>,
}

impl Worker {
    fn run(mut self) {
        loop {
            match self.queue.recv_timeout(self.until_sync().unwrap_or(RETAIN_EVERY)) {
                Ok(job) => self.round(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.until_sync().is_some_and(|left| left.is_zero()) {
                // It is logged, and every later write says it.
                let _ = self.sync_all();
            }
            self.retain();
        }
        let _ = self.sync_all();
    }

    /// How long until the next sync; nothing where none comes by time.
    fn until_sync(&self) -> Option<Duration> {
        let Sync::Interval(every) = self.store.config.sync else { return None };
        let now = self.store.time.clock().monotonic();
        Some((self.synced_at + every).saturating_sub(now).min(RETAIN_EVERY))
    }

    /// One job and everything that waits behind it.
    fn round(&mut self, first: Job) {
        let mut settling = Settling::default();
        let mut flushes = Vec::new();
        let mut leaving = Vec::new();
        let mut permits = Vec::new();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(job) = next.take() {
            match job {
                Job::Publish(job) => {
                    taken += job.messages.len();
                    permits.push(self.publish(job));
                }
                Job::Settle(job) => {
                    taken += 1;
                    settling.add(job);
                }
                Job::Leave(subscription, member) => leaving.push((subscription, member)),
                Job::Flush(done) => flushes.push(done),
            }
            if taken < TAKE_MAX {
                next = self.queue.try_recv().ok();
            }
        }
        settling.write_dead_letters(&self.store, &mut self.writers);
        let always = self.store.config.sync == Sync::Always;
        for writer in self.writers.values_mut() {
            writer.finish(&self.store, always);
        }
        drop(permits);
        settling.settle(always, &mut self.unsynced);
        for (subscription, member) in leaving {
            subscription.leave(member.map(|member| *member));
        }
        if !flushes.is_empty() {
            let result = self.sync_all();
            for done in flushes {
                // Nobody may be waiting any more.
                let _ = done.send(result.clone());
            }
        }
    }

    fn publish(&mut self, job: PublishJob) -> Arc<OwnedSemaphorePermit> {
        let PublishJob { topic, messages, mandatory, permit } = job;
        let routes = if mandatory { Some(topic.selections()) } else { None };
        for (message, receipt) in messages {
            self.meta.clear();
            meta::encode(&message, &mut self.meta);
            let key = message.key.as_str().as_bytes();
            match &routes {
                Some(Err(error)) => {
                    receipt.send(Err(PublishError::Nacked(error.clone())));
                    continue;
                }
                Some(Ok(groups)) if !groups.iter().any(|group| group.takes(key, &self.meta)) => {
                    receipt.send(Ok(Receipt::Unroutable));
                    continue;
                }
                _ => {}
            }
            let writer = writer_of(&mut self.writers, &topic);
            let full_wait = self.store.config.full_wait;
            writer.push(&self.store, full_wait, (key, &self.meta, &message.payload), receipt);
        }
        permit
    }

    fn sync_all(&mut self) -> Result<()> {
        self.synced_at = self.store.time.clock().monotonic();
        let mut result = Ok(());
        for writer in self.writers.values_mut() {
            if writer.unsynced.take().is_some() {
                result = result.and(writer.topic.log.sync().map(drop).map_err(of_log));
            }
        }
        for (_, group) in self.unsynced.drain() {
            match group.sync() {
                // Deleted meanwhile, with all that was to be kept.
                Err(error) if error.kind() == busline_log::ErrorKind::NotFound => {}
                synced => result = result.and(synced.map_err(of_log)),
            }
        }
        if let Err(error) = &result {
            tracing::error!(%error, "the log cannot be synced");
        }
        result
    }

    fn retain(&mut self) {
        let now = self.store.time.clock().monotonic();
        for writer in self.writers.values_mut() {
            if now.saturating_sub(writer.retained) < RETAIN_EVERY {
                continue;
            }
            writer.retained = now;
            retain(&self.store, &writer.topic);
        }
        if now.saturating_sub(self.retained_at) < RETAIN_ALL_EVERY {
            return;
        }
        self.retained_at = now;
        // Also when nobody publishes any more what is old goes.
        for topic in self.store.all_opened() {
            if !self.writers.contains_key(&topic.topic) {
                retain(&self.store, &topic);
            }
        }
    }
}

fn retain(store: &Store, topic: &TopicLog) {
    if let Err(error) = store.retain(topic) {
        tracing::warn!(%error, topic = %topic.topic, "retention failed");
    }
}

/// The writer of a topic, made at its first message.
pub(super) fn writer_of<'a>(
    writers: &'a mut HashMap<Topic, Writer>,
    topic: &Arc<TopicLog>,
) -> &'a mut Writer {
    let writer = writers.entry(topic.topic.clone()).or_insert_with(|| Writer::new(topic));
    if !Arc::ptr_eq(&writer.topic, topic) {
        // The topic was deleted and made again since.
        *writer = Writer::new(topic);
    }
    writer
}

impl Writer {
    fn new(topic: &Arc<TopicLog>) -> Self {
        Self {
            topic: Arc::clone(topic),
            appender: topic.log.appender(),
            pushed: Vec::new(),
            written: Vec::new(),
            unsynced: None,
            retained: Duration::ZERO,
            full_since: None,
        }
    }

    /// Adds a message to the frame; writes the frame when it is large enough, after waiting for
    /// room on the disk so long.
    pub(super) fn push(
        &mut self,
        store: &Store,
        full_wait: Duration,
        (key, meta, value): (&[u8], &[u8], &[u8]),
        receipt: ReceiptSender,
    ) {
        if self.appender.pending().body_len() + key.len() + meta.len() + value.len()
            > busline_log::BATCH_BYTES_TARGET
        {
            self.write(store, full_wait);
        }
        match self.appender.push(key, meta, value) {
            Ok(()) => self.pushed.push(receipt),
            Err(error) => receipt.send(Err(PublishError::from_send(of_log(error)))),
        }
    }

    /// Writes the frame, after waiting for room on the disk so long.
    pub(super) fn write(&mut self, store: &Store, full_wait: Duration) {
        if self.pushed.is_empty() {
            return;
        }
        let clock = store.time.clock();
        let error = loop {
            match self.appender.flush(store.time.wall_us()) {
                Ok(Some(appended)) => {
                    let receipts = std::mem::take(&mut self.pushed);
                    self.written.extend(receipts.into_iter().zip(appended.first..));
                    self.unsynced = Some(appended.next);
                    self.full_since = None;
                    return;
                }
                Ok(None) => break Error::new(ErrorKind::Other, "the log wrote nothing"),
                Err(error) => {
                    let error = of_log(error).context("topic", &self.topic.topic);
                    let now = clock.monotonic();
                    let since = *self.full_since.get_or_insert(now);
                    if error.kind() != ErrorKind::Full || now.saturating_sub(since) >= full_wait {
                        break error;
                    }
                    // Room may come when retention lets something go, which rings.
                    let mark = self.topic.log.mark();
                    if self.topic.log.wait(mark, Some(Duration::from_millis(50))).is_err() {
                        break error;
                    }
                }
            }
        };
        self.appender.discard();
        for receipt in self.pushed.drain(..) {
            receipt.send(Err(PublishError::Nacked(error.clone())));
        }
    }

    /// Writes what is left, syncs where receipts wait for it, and answers.
    pub(super) fn finish(&mut self, store: &Store, always: bool) {
        self.write(store, store.config.full_wait);
        self.full_since = None;
        if self.written.is_empty() {
            return;
        }
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
}
