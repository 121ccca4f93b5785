//! A session on a database in our own layout.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busline_core::transport::{
    Admin, Batch, Connect, Options, Read, Reader, ReplyAddress, Retention, Session, SessionEvent,
    Spec, Subscribe, Subscription, TopicSpec, Topology, TopologyMode,
};
use busline_core::{Capabilities, Clock, Error, ErrorKind, Message, PendingReceipt, Result, Topic};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::admin::SqliteAdmin;
use super::config::SqliteConfig;
use super::error::{check_process, session_closed};
use super::groups;
use super::member::SqliteSubscription;
use super::publish::{Permit, PublishJob};
use super::read::SqliteReader;
use super::topics::{self, TopicRow};
use super::worker::{Job, call, start};

/// The topic of replies; each instance listens to its own key.
const REPLIES: &str = "busline.replies";
/// Who asked and does not listen any more has no use for an older reply.
const REPLIES_AGE_MAX: Duration = Duration::from_secs(600);
/// The most bytes accepted and not receipted, a session, in units of [`WINDOW_UNIT`].
pub(super) const WINDOW_UNITS: u32 = 64 << 10;
/// A message counts as at least one: what it takes in memory beside its payload.
const WINDOW_UNIT: usize = 1 << 10;

/// One program's use of a database. It cannot be lost: there is no connection to anybody.
pub(super) struct SqliteSession {
    path: PathBuf,
    profile: Capabilities,
    clock: Arc<dyn Clock>,
    window: usize,
    room: [Arc<Semaphore>; 2],
    admin: SqliteAdmin,
    /// Topics that were there when somebody looked.
    known: Mutex<HashSet<Topic>>,
    /// The key of replies to this very instance.
    reply_to: String,
    jobs: Sender<Job>,
    /// `None` once closed.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl SqliteSession {
    /// Opens the database. Blocking.
    pub(super) fn open(
        config: &SqliteConfig,
        profile: Capabilities,
        clock: &Arc<dyn Clock>,
        connect: &Connect,
    ) -> Result<Self> {
        let path = super::database::absolute(&config.path);
        let (jobs, ended) = start(config, &path, clock)?;
        Ok(Self {
            path,
            profile,
            clock: Arc::clone(clock),
            window: config.window,
            room: [
                Arc::new(Semaphore::new(config.window)),
                Arc::new(Semaphore::new(WINDOW_UNITS as usize)),
            ],
            admin: SqliteAdmin::new(jobs.clone()),
            known: Mutex::default(),
            reply_to: format!("reply.{}", connect.instance),
            jobs,
            ended: Mutex::new(Some(ended)),
        })
    }

    /// Fails when the session is closed.
    fn check_open(&self) -> Result<()> {
        check_process()?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_some() { Ok(()) } else { Err(session_closed()) }
    }

    async fn send_batch(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        self.check_open()?;
        let mut last = None;
        for message in &batch.messages {
            self.profile.limits.check(message).map_err(|error| error.during("publish"))?;
            if last != Some(&message.topic) {
                self.check_topic(&message.topic).await?;
                last = Some(&message.topic);
            }
        }
        let permit = room(&self.room, self.window, &batch.messages).await?;
        let mut pending = Vec::with_capacity(batch.messages.len());
        let mandatory = batch.mandatory;
        let job = |message| {
            let (receipt, waiting) = PendingReceipt::channel();
            pending.push(waiting);
            PublishJob { message, mandatory, receipt, _permit: Arc::clone(&permit) }
        };
        let jobs = batch.messages.into_iter().map(job).collect();
        self.jobs.send(Job::Publish(jobs)).map_err(|_| session_closed())?;
        Ok(pending)
    }

    /// Fails unless the topic is there, or was: then its receipts say that it is gone.
    async fn check_topic(&self, topic: &Topic) -> Result<()> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(topic) {
            return Ok(());
        }
        let name = topic.clone();
        call(&self.jobs, move |worker| TopicRow::get(worker.database.connection(), &name)).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone());
        Ok(())
    }

    async fn declare_all(&self, topology: Topology) -> Result<()> {
        self.check_open()?;
        for topic in &topology.topics {
            no_options(&topic.options)?;
        }
        for group in &topology.groups {
            no_options(&group.options)?;
        }
        if topology.mode == TopologyMode::Assume {
            return Ok(());
        }
        call(&self.jobs, move |worker| {
            worker.clear_away()?;
            worker.change(|connection, now| {
                for spec in &topology.topics {
                    topics::declare(connection, spec, topology.mode, now)?;
                }
                for spec in &topology.groups {
                    groups::declare(connection, spec, topology.mode, now)?;
                }
                Ok(())
            })
        })
        .await
    }
}

/// Room in a window; a batch larger than it takes all of it.
pub(super) async fn room(
    room: &[Arc<Semaphore>; 2],
    window: usize,
    messages: &[Message],
) -> Result<Permit> {
    let count = u32::try_from(messages.len().min(window)).unwrap_or(u32::MAX);
    let units = |message: &Message| message.payload.len() / WINDOW_UNIT + 1;
    let units: usize = messages.iter().map(units).sum();
    let units = u32::try_from(units).unwrap_or(u32::MAX).min(WINDOW_UNITS);
    let closed = |_| session_closed();
    let count = Arc::clone(&room[0]).acquire_many_owned(count).await.map_err(closed)?;
    let units = Arc::clone(&room[1]).acquire_many_owned(units).await.map_err(closed)?;
    Ok(Arc::new([count, units]))
}

impl Session for SqliteSession {
    fn capabilities(&self, _: &Spec) -> Capabilities {
        self.profile.clone()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.declare_all(topology.clone()))
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        Box::pin(self.send_batch(batch))
    }

    fn subscribe(&self, spec: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        Box::pin(async move {
            self.check_open()?;
            no_options(&spec.options)?;
            let subscription = SqliteSubscription::open(&self.jobs, spec).await?;
            Ok(Box::new(subscription) as Box<dyn Subscription>)
        })
    }

    fn read(&self, spec: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            self.check_open()?;
            no_options(&spec.options)?;
            Ok(Box::new(SqliteReader::open(&self.jobs, spec).await?) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        Box::pin(async {
            let topic = Topic::new(REPLIES)?;
            let retention =
                Retention { age_max: Some(REPLIES_AGE_MAX), bytes_max: None, ignore_groups: true };
            let spec = TopicSpec { retention: Some(retention), ..TopicSpec::new(topic.clone()) };
            self.declare_all(Topology { topics: vec![spec], ..Topology::default() }).await?;
            Ok(ReplyAddress { topic, reply_to: self.reply_to.clone() })
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(&self.admin)
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        // There is no connection that anything could happen to.
        Box::pin(std::future::pending())
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(ended) = ended else { return Ok(()) };
            self.room.iter().for_each(|room| room.close());
            let (done, flushed) = oneshot::channel();
            if self.jobs.send(Job::Close(done)).is_err() {
                return Ok(());
            }
            let finished = async {
                // Neither says anything but that it is over; behind the second one the file is closed.
                let _ = flushed.await;
                let _ = ended.await;
            };
            tokio::select! {
                biased;
                () = finished => Ok(()),
                () = self.clock.sleep(deadline) => {
                    Err(Error::new(ErrorKind::Elapsed, "the database did not take everything in time"))
                }
            }
        })
    }
}

impl Drop for SqliteSession {
    fn drop(&mut self) {
        if self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            // Nobody waits for it.
            let (done, _) = oneshot::channel();
            let _ = self.jobs.send(Job::Close(done));
        }
    }
}

/// There are none of ours, so each one with our prefix is misspelt.
pub(super) fn no_options(options: &Options) -> Result<()> {
    match options.keys().find(|option| option.starts_with("sqlite.")) {
        Some(option) => {
            Err(Error::new(ErrorKind::Limit, format!("sqlite: has no option '{option}'")))
        }
        None => Ok(()),
    }
}

impl fmt::Debug for SqliteSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSession").field("path", &self.path).finish_non_exhaustive()
    }
}
