//! A session on a bus directory.

use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busline_core::receipt::ReceiptSender;
use busline_core::transport::{
    Admin, Batch, Connect, Options, Read, Reader, ReplyAddress, Retention, Session, SessionEvent,
    Spec, Subscribe, Subscription, TopicSpec, Topology, TopologyMode,
};
use busline_core::{Capabilities, Error, ErrorKind, Message, PendingReceipt, Result, Topic};
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::admin::FileAdmin;
use super::error::worker_gone;
use super::state::Scope;
use super::store::{Store, TopicLog};
use super::worker::{Job, start, submit};
use super::writer::{Permit, PublishJob};
use super::{groups, read, subscribe};

/// The topic of replies; each instance listens to its own key.
const REPLIES: &str = "busline.replies";
/// The most bytes accepted and not receipted, a session, in units of [`WINDOW_UNIT`].
const WINDOW_UNITS: u32 = 64 << 10;
/// A message counts as at least one: what it takes in memory beside its payload.
const WINDOW_UNIT: usize = 1 << 10;
/// Who asked and does not listen any more has no use for an older reply.
const REPLIES_AGE_MAX: Duration = Duration::from_secs(600);

/// One program's use of a bus directory. It cannot be lost: there is no connection.
pub(super) struct FileSession {
    store: Arc<Store>,
    profile: Capabilities,
    window: Arc<Semaphore>,
    window_bytes: Arc<Semaphore>,
    admin: FileAdmin,
    scope: Arc<Scope>,
    /// The key of replies to this very instance.
    reply_to: String,
    /// `None` once closed.
    jobs: Mutex<Option<Sender<Job>>>,
    /// Closed by the thread when it has let go of the logs. `None` once somebody waits for it.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl FileSession {
    pub(super) fn start(
        store: Arc<Store>,
        profile: Capabilities,
        connect: &Connect,
    ) -> Result<Self> {
        let (jobs, ended) = start(Arc::clone(&store))?;
        Ok(Self {
            window: Arc::new(Semaphore::new(store.config.window)),
            window_bytes: Arc::new(Semaphore::new(WINDOW_UNITS as usize)),
            admin: FileAdmin { store: Arc::clone(&store) },
            scope: Scope::new(),
            reply_to: format!("reply.{}", connect.instance),
            jobs: Mutex::new(Some(jobs)),
            ended: Mutex::new(Some(ended)),
            profile,
            store,
        })
    }

    fn jobs(&self) -> Result<Sender<Job>> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.clone().ok_or_else(worker_gone)
    }

    async fn send_batch(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        let jobs = self.jobs()?;
        let mut topics: Vec<Arc<TopicLog>> = Vec::new();
        for message in &batch.messages {
            self.profile.limits.check(message).map_err(|error| error.during("publish"))?;
            if !topics.iter().any(|open| open.topic == message.topic) {
                topics.push(self.topic(&message.topic).await?);
            }
        }
        let permit = self.room(&batch.messages).await?;
        let mut pending = Vec::with_capacity(batch.messages.len());
        let mut split: Vec<VecDeque<(Message, ReceiptSender)>> = Vec::new();
        split.resize_with(topics.len(), VecDeque::new);
        for message in batch.messages {
            let (sender, receipt) = PendingReceipt::channel();
            pending.push(receipt);
            let mut of_topics = topics.iter().zip(&mut split);
            if let Some((_, messages)) = of_topics.find(|(open, _)| open.topic == message.topic) {
                messages.push_back((message, sender));
            }
        }
        for (topic, messages) in topics.into_iter().zip(split) {
            let (mandatory, permit) = (batch.mandatory, Arc::clone(&permit));
            submit(&jobs, Job::Publish(PublishJob { topic, messages, mandatory, permit }))?;
        }
        Ok(pending)
    }

    /// Room for a batch. One beyond the window takes all of it: its memory is the caller's anyway.
    async fn room(&self, messages: &[Message]) -> Result<Permit> {
        let count = messages.len().min(self.store.config.window);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let units = |message: &Message| message.payload.len() / WINDOW_UNIT + 1;
        let units: usize = messages.iter().map(units).sum();
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(WINDOW_UNITS);
        let gone = |_| worker_gone();
        let count = Arc::clone(&self.window).acquire_many_owned(count).await.map_err(gone)?;
        let bytes = Arc::clone(&self.window_bytes).acquire_many_owned(units);
        Ok(Arc::new([count, bytes.await.map_err(gone)?]))
    }

    /// An existing topic that can be written to.
    async fn topic(&self, name: &Topic) -> Result<Arc<TopicLog>> {
        let topic = match self.store.opened(name) {
            Some(open) => open,
            None => self.open(name).await?,
        };
        topic.log.check_writable().map_err(super::error::of_log)?;
        Ok(topic)
    }

    /// An existing topic. What this session keeps open for no use at the moment makes room for it, where
    /// no more files may be open.
    async fn open(&self, name: &Topic) -> Result<Arc<TopicLog>> {
        let open = || {
            let (store, name) = (Arc::clone(&self.store), name.clone());
            super::blocking(move || store.topic(&name))
        };
        let opened = open().await;
        if opened.is_err() && self.store.take_out_of_files() {
            let (done, made) = oneshot::channel();
            submit(&self.jobs()?, Job::LetGo(done))?;
            made.await.map_err(|_| worker_gone())?;
            return open().await;
        }
        opened
    }

    /// Waits until everything is written, and until the thread has let go of the logs, unless a subscription or a
    /// delivery, which the thread serves, is still there.
    async fn finish(&self, jobs: Sender<Job>, deadline: Duration) -> Result<()> {
        let (done, flushed) = oneshot::channel();
        submit(&jobs, Job::Flush(done))?;
        drop(jobs);
        let finished = async {
            let result = flushed.await.unwrap_or_else(|_| Err(worker_gone()));
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(ended) = ended.filter(|_| !self.scope.is_held()) {
                // It says nothing but that it ended.
                let _ = ended.await;
            }
            result
        };
        tokio::select! {
            result = finished => result,
            () = self.store.time.clock().sleep(deadline) => Err(Error::new(
                ErrorKind::Elapsed,
                "the log did not take everything in time",
            )),
        }
    }
}

impl Session for FileSession {
    fn capabilities(&self, _: &Spec) -> Capabilities {
        self.profile.clone()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        let (store, topology) = (Arc::clone(&self.store), topology.clone());
        let open = self.jobs();
        Box::pin(super::blocking(move || {
            open?;
            if topology.mode == TopologyMode::Assume {
                return Ok(());
            }
            for spec in &topology.topics {
                store.declare_topic(spec, topology.mode)?;
            }
            for spec in &topology.groups {
                groups::declare(&store, spec, topology.mode)?;
            }
            Ok(())
        }))
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        Box::pin(self.send_batch(batch))
    }

    fn subscribe(&self, spec: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        Box::pin(async move {
            let jobs = self.jobs()?;
            no_options(&spec.options)?;
            let (store, scope) = (Arc::clone(&self.store), Arc::clone(&self.scope));
            let topic = self.open(&spec.topic).await?;
            let subscription =
                super::blocking(move || subscribe::open(&store, &jobs, &scope, spec, &topic))
                    .await?;
            Ok(Box::new(subscription) as Box<dyn Subscription>)
        })
    }

    fn read(&self, spec: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            self.jobs()?;
            no_options(&spec.options)?;
            let (store, scope) = (Arc::clone(&self.store), Arc::clone(&self.scope));
            let topic = self.open(&spec.topic).await?;
            let reader = super::blocking(move || read::open(&topic, spec, &store, &scope)).await?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        Box::pin(async {
            self.jobs()?;
            let topic = Topic::new(REPLIES)?;
            let retention =
                Retention { age_max: Some(REPLIES_AGE_MAX), bytes_max: None, ignore_groups: true };
            let spec = TopicSpec { retention: Some(retention), ..TopicSpec::new(topic.clone()) };
            let store = Arc::clone(&self.store);
            super::blocking(move || store.declare_topic(&spec, TopologyMode::Create)).await?;
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
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.window.close();
            self.window_bytes.close();
            self.scope.end();
            match jobs {
                Some(jobs) => self.finish(jobs, deadline).await,
                None => Ok(()),
            }
        })
    }
}

/// There are none of ours for subscribing and reading, so each one with our prefix is misspelt.
fn no_options(options: &Options) -> Result<()> {
    match options.keys().find(|option| option.starts_with("file.")) {
        Some(option) => {
            Err(Error::new(ErrorKind::Limit, format!("file: has no option '{option}'")))
        }
        None => Ok(()),
    }
}

impl fmt::Debug for FileSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSession").field("path", &self.store.config.path).finish_non_exhaustive()
    }
}
