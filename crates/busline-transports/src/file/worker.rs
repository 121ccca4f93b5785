//! The thread of a session that touches the logs: it writes what was sent, and settles.
//!
//! It takes everything that waits, appends it, syncs once for all of it, and only then answers:
//! so that many publishers share one `fdatasync`, and no runtime thread ever waits for a disk. What
//! finds the disk full is put off and tried again: it holds up nobody else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use busline_core::{Error, ErrorKind, Result, Topic};
use busline_log::{Group, Member};
use tokio::sync::oneshot;

use super::config::Sync;
use super::error::{of_log, worker_gone};
use super::settle::{SettleJob, Settling};
use super::state::SubscriptionState;
use super::store::{Store, TopicLog};
use super::writer::{PublishJob, Writer};

/// How many messages are taken together at most: it bounds how long the first of them waits.
const TAKE_MAX: usize = 8192;
/// How often retention is looked at, of topics that this thread writes to and of all that are open.
const RETAIN_EVERY: Duration = Duration::from_secs(1);
const RETAIN_ALL_EVERY: Duration = Duration::from_secs(10);
/// How soon a settle becomes durable that nobody waits for.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// How often a full disk is tried again.
const FULL_EVERY: Duration = Duration::from_millis(20);

/// What the thread is asked to do.
pub(super) enum Job {
    Publish(PublishJob),
    Settle(SettleJob),
    /// A subscription ended: its member leaves, behind its settles.
    Leave(Arc<SubscriptionState>, Option<Box<Member>>),
    /// Answers when everything before it is done and synced.
    Flush(oneshot::Sender<Result<()>>),
    /// Answers when no topic is kept open that nothing is written to at the moment.
    LetGo(oneshot::Sender<()>),
}

/// Starts the thread. It ends when every sender is gone, and lets go of the logs before the second channel
/// is closed, on which nothing comes.
pub(super) fn start(store: Arc<Store>) -> Result<(Sender<Job>, oneshot::Receiver<()>)> {
    let (jobs, queue) = channel();
    let (alive, ended) = oneshot::channel();
    let worker = Worker {
        store,
        queue,
        writers: HashMap::new(),
        at_work: HashSet::new(),
        letters: HashMap::new(),
        settling: Settling::default(),
        leaving: Vec::new(),
        flushes: Vec::new(),
        letting_go: Vec::new(),
        unsynced: HashMap::new(),
        gathering: Gathering::default(),
        dirty_since: None,
        retained_at: Duration::ZERO,
        looked_at: Duration::ZERO,
    };
    std::thread::Builder::new()
        .name("busline-file".to_owned())
        .spawn(move || {
            worker.run();
            drop(alive);
        })
        .map_err(|cause| Error::new(ErrorKind::Other, "cannot start a thread").source(cause))?;
    Ok((jobs, ended))
}

/// Sends a job; `Closed` when the thread is gone.
pub(super) fn submit(jobs: &Sender<Job>, job: Job) -> Result<()> {
    jobs.send(job).map_err(|_| worker_gone())
}

struct Worker {
    store: Arc<Store>,
    queue: Receiver<Job>,
    writers: Writers,
    /// The topics of this round; after it, those that wait for room on the disk. A session may have many more.
    at_work: HashSet<Topic>,
    /// Dead letters do not wait behind what was published, nor on a full disk.
    letters: Writers,
    /// Settles of this round, and those that found the disk full.
    settling: Settling,
    leaving: Vec<(Arc<SubscriptionState>, Option<Box<Member>>)>,
    flushes: Vec<oneshot::Sender<Result<()>>>,
    letting_go: Vec<oneshot::Sender<()>>,
    unsynced: Unsynced,
    gathering: Gathering,
    /// Since when something is to be synced by time.
    dirty_since: Option<Duration>,
    retained_at: Duration,
    /// When it was looked how much room there is.
    looked_at: Duration,
}

/// What the last round was like: those who were answered in it are about to publish again.
#[derive(Debug, Default)]
struct Gathering {
    batches: usize,
    took: Duration,
}

/// The topics that a thread writes to.
pub(super) type Writers = HashMap<Topic, Writer>;

/// Groups with settles that were not synced yet, by the id of their topic's log and their name.
pub(super) type Unsynced = HashMap<(u128, String), Group>;

impl Worker {
    fn run(mut self) {
        loop {
            match self.queue.recv_timeout(self.wait()) {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                // What still waits for room on the disk holds no sender.
                Err(RecvTimeoutError::Disconnected) if self.is_waiting() => self.pause(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.round();
            if self.until_sync().is_some_and(|left| left.is_zero()) {
                // It is logged, and every later write says it.
                let _ = self.sync_all();
            }
            self.retain();
        }
        let _ = self.sync_all();
    }

    /// How long to wait for something to do.
    fn wait(&self) -> Duration {
        let full = if self.is_waiting() { FULL_EVERY } else { RETAIN_EVERY };
        self.until_sync().unwrap_or(full).min(full)
    }

    /// Whether anything waits for room on the disk.
    fn is_waiting(&self) -> bool {
        !self.settling.is_empty() || !self.at_work.is_empty()
    }

    fn pause(&self) {
        if let Some(writer) = self.writers.values().find(|writer| writer.is_waiting()) {
            // Room may come when retention lets something go, which rings.
            let _ = writer.topic.log.wait(writer.topic.log.mark(), Some(FULL_EVERY));
        }
    }

    /// How long until the next sync; nothing where none comes by time.
    fn until_sync(&self) -> Option<Duration> {
        let every = match self.store.config.sync {
            Sync::Interval(every) => every,
            Sync::Always => QUIET_MAX,
            Sync::Os => return None,
        };
        let now = self.store.time.clock().monotonic();
        Some(self.dirty_since?.saturating_add(every).saturating_sub(now))
    }

    /// Takes one job and everything that waits behind it. Where receipts wait for a sync, and several batches
    /// shared the last one, the next waits for as many: without that each second sync is for the first alone
    /// who came back, and all others wait for it. Half the time of a sync is the most that this costs.
    fn take(&mut self, first: Job) {
        let last = std::mem::take(&mut self.gathering);
        let until = self.store.time.clock().monotonic().saturating_add(last.took / 2);
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(job) = next.take() {
            match job {
                Job::Publish(job) => {
                    taken += job.messages.len();
                    self.gathering.batches += 1;
                    let patience = self.store.config.full_wait;
                    let topic = Arc::clone(&job.topic);
                    if !self.at_work.contains(&topic.topic) {
                        self.at_work.insert(topic.topic.clone());
                    }
                    writer_of(&mut self.writers, &topic, patience).publish(&self.store, job);
                }
                Job::Settle(job) => {
                    taken += 1;
                    self.settling.add(job);
                }
                Job::Leave(subscription, member) => self.leaving.push((subscription, member)),
                Job::Flush(done) => self.flushes.push(done),
                Job::LetGo(done) => self.letting_go.push(done),
            }
            if taken < TAKE_MAX {
                next = self.queue.try_recv().ok();
                if next.is_none() && self.gathering.batches < last.batches {
                    let left = until.saturating_sub(self.store.time.clock().monotonic());
                    next = self.queue.recv_timeout(left).ok();
                }
            }
        }
    }

    /// Writes, settles and answers what was taken, and tries again what was put off.
    fn round(&mut self) {
        let always = self.store.config.sync == Sync::Always;
        self.settling.write_dead_letters(&self.store, &mut self.letters);
        let began = self.store.time.clock().monotonic();
        for writer in self.letters.values_mut() {
            writer.finish(&self.store, always);
        }
        let (store, writers) = (&self.store, &mut self.writers);
        self.at_work.retain(|topic| {
            writers.get_mut(topic).is_some_and(|writer| {
                writer.finish(store, always);
                writer.is_waiting()
            })
        });
        if always {
            self.gathering.took = self.store.time.clock().monotonic().saturating_sub(began);
        }
        self.settling.settle(&self.store, &mut self.unsynced);
        let done = |(subscription, _): &mut (Arc<SubscriptionState>, _)| {
            // What it gives back would count as an attempt if the member had left before.
            !subscription.is_under_way()
        };
        for (subscription, member) in self.leaving.extract_if(.., done) {
            subscription.leave(member.map(|member| *member));
        }
        if self.dirty_since.is_none() && self.is_dirty() {
            self.dirty_since = Some(self.store.time.clock().monotonic());
        }
        if !self.letting_go.is_empty() {
            self.let_go();
        }
        if !self.flushes.is_empty() && !self.is_waiting() {
            let result = self.sync_all();
            for done in self.flushes.drain(..) {
                // Nobody may be waiting any more.
                let _ = done.send(result.clone());
            }
        }
    }

    /// Forgets the writers that have nothing to do; what they wrote is synced before, as nobody
    /// knows of it later.
    fn let_go(&mut self) {
        for writers in [&mut self.letters, &mut self.writers] {
            writers.retain(|_, writer| writer.is_busy() || writer.sync().is_err());
        }
        for done in self.letting_go.drain(..) {
            // Nobody may be waiting any more.
            let _ = done.send(());
        }
    }

    fn is_dirty(&self) -> bool {
        let mut writers = self.letters.values().chain(self.writers.values());
        !self.unsynced.is_empty() || writers.any(Writer::is_dirty)
    }

    /// Dead letters first: none of them may be lost with the power when its settle is not.
    fn sync_all(&mut self) -> Result<()> {
        self.dirty_since = None;
        let mut result = Ok(());
        for writer in self.letters.values_mut().chain(self.writers.values_mut()) {
            result = result.and(writer.sync());
        }
        if result.is_ok() {
            self.unsynced.retain(|_, group| match group.sync() {
                Ok(()) => false,
                // Deleted meanwhile, with all that was to be kept.
                Err(error) if error.kind() == busline_log::ErrorKind::NotFound => false,
                Err(error) => {
                    result = Err(of_log(error));
                    true
                }
            });
        }
        if let Err(error) = &result {
            tracing::error!(%error, "the log cannot be synced");
        }
        result
    }

    fn retain(&mut self) {
        let now = self.store.time.clock().monotonic();
        // A look at every topic takes longer than a round does.
        if now.saturating_sub(self.looked_at) < RETAIN_EVERY {
            return;
        }
        self.looked_at = now;
        // Others may have filled the disk.
        self.store.look_for_room();
        let all = now.saturating_sub(self.retained_at) >= RETAIN_ALL_EVERY;
        for writer in self.writers.values_mut() {
            let end = writer.retained;
            // Where nothing was written only time lets something go.
            let grown = writer.topic.log.next_seq() != end || writer.is_waiting();
            if all || grown {
                writer.retained = writer.topic.log.next_seq();
                retain(&self.store, &writer.topic);
            }
        }
        if !all {
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
    writers: &'a mut Writers,
    topic: &Arc<TopicLog>,
    patience: Duration,
) -> &'a mut Writer {
    let writer = writers.entry(topic.topic.clone()).or_insert_with(|| Writer::new(topic, patience));
    if !Arc::ptr_eq(&writer.topic, topic) {
        // The topic was deleted and made again since.
        *writer = Writer::new(topic, patience);
    }
    writer
}
