//! A session: one producer, whose client also answers questions, and a consumer for each subscription and reader.
//!
//! The library heals its connections by itself. When no broker is left, or one denies us, the session is over all the
//! same: whoever holds a delivery then holds it no longer, and the link opens another session.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use busline_core::clock::{Clock, SystemClock};
use busline_core::transport::{
    Admin, Batch, Connect, Dialect, Read, Reader, ReplyAddress, Session, SessionEvent, Spec,
    Subscribe, Subscription, TopicSpec, Topology,
};
use busline_core::{
    Capabilities, Capability, Error, ErrorKind, PendingReceipt, Receipt, Result, Topic,
};
use futures_util::future::BoxFuture;
use rdkafka::admin::AdminClient;
use tokio::sync::mpsc;

use super::admin::KafkaAdmin;
use super::capabilities;
use super::client::{Context, Faults, blocking, configure, drop_elsewhere};
use super::config::KafkaConfig;
use super::consuming::Consuming;
use super::declare;
use super::directory::Directory;
use super::error::error;
use super::mapping::{self, Wire};
use super::names;
use super::publish::Publisher;
use super::topics::{self, About, Shards};
use crate::ended::{Ended, gone};

/// A broker that lives answers sooner; one that only closed an idle connection does.
const PROBE_MAX: Duration = Duration::from_millis(750);

/// A live session.
pub(super) struct KafkaSession {
    core: Arc<Core>,
    admin: KafkaAdmin,
    reply_to: String,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<SessionEvent>>,
}

/// What everything of a session shares.
pub(super) struct Core {
    pub(super) config: Arc<KafkaConfig>,
    pub(super) dialect: Dialect,
    pub(super) ended: Ended,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) name: String,
    pub(super) faults: Arc<Faults>,
    pub(super) directory: Directory,
    /// The topics of dead letters that are there, with their group.
    pub(super) dead_letters: tokio::sync::Mutex<HashSet<Topic>>,
    events: mpsc::UnboundedSender<SessionEvent>,
    /// `None` only as it is dropped.
    publisher: Option<Publisher>,
    admin: OnceLock<AdminClient<Context>>,
    known: Mutex<HashMap<Topic, Arc<About>>>,
    consuming: Mutex<Vec<Weak<Consuming>>>,
    /// Seen by each member until it has left its group.
    pub(super) members: tokio::sync::watch::Sender<()>,
}

impl KafkaSession {
    pub(super) async fn open(config: Arc<KafkaConfig>, connect: Connect) -> Result<Self> {
        let name = match connect.client_name.as_str() {
            "" => "busline".to_owned(),
            name => name.to_owned(),
        };
        let (ended, faults) = (Ended::new(), Arc::<Faults>::default());
        let publisher = Publisher::start(&config, &name, &faults, &ended)?;
        let (told, events) = mpsc::unbounded_channel();
        let core = Arc::new(Core {
            config,
            dialect: connect.dialect,
            ended,
            clock: SystemClock::shared(),
            name,
            faults,
            directory: Directory::default(),
            dead_letters: tokio::sync::Mutex::default(),
            events: told,
            publisher: Some(publisher),
            admin: OnceLock::new(),
            known: Mutex::default(),
            consuming: Mutex::default(),
            members: tokio::sync::watch::channel(()).0,
        });
        core.reach().await?;
        tokio::spawn(watch(Arc::downgrade(&core)));
        let admin = KafkaAdmin::new(Arc::clone(&core));
        let events = tokio::sync::Mutex::new(events);
        Ok(Self { core, admin, reply_to: connect.instance, events })
    }

    async fn send_batch(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        let core = &self.core;
        core.ended.check()?;
        let promised = core.capabilities();
        if batch.mandatory {
            promised.require(Capability::Unroutable)?;
        }
        let mut wires = Vec::with_capacity(batch.messages.len());
        let mut last: Option<(&Topic, Arc<About>)> = None;
        for message in &batch.messages {
            promised.limits.check(message)?;
            let about = match &last {
                Some((topic, about)) if *topic == &message.topic => Arc::clone(about),
                _ => core.topic(&message.topic).await?,
            };
            let wire = mapping::encode(core.dialect, message, about.partitions)?;
            wires.push((wire, about.shards));
            last = Some((&message.topic, about));
        }
        if wires.is_empty() {
            return Ok(Vec::new());
        }
        core.publisher().send(wires).await.map_err(|gone| core.why(gone))
    }

    async fn close_within(&self, deadline: Duration) {
        let core = &self.core;
        let closing = async {
            let consuming: Vec<_> = core.lock_consuming().drain(..).collect();
            for consuming in consuming.iter().filter_map(Weak::upgrade) {
                consuming.finish().await;
            }
            core.publisher().drain().await;
        };
        let mut late = core.clock.sleep(deadline);
        let mut is_in_time = false;
        if core.ended.get().is_none() {
            tokio::select! {
                () = closing => is_in_time = true,
                _ = core.ended.wait() => {}
                () = &mut late => {}
            }
        }
        core.end(Error::new(ErrorKind::Closed, "the session is closed"));
        if is_in_time {
            // A process that ends before its members have left keeps their partitions from others.
            tokio::select! {
                () = core.members.closed() => {}
                () = late => {}
            }
        }
    }
}

/// Looks after the brokers for as long as the session lives.
async fn watch(core: Weak<Core>) {
    loop {
        let Some((faults, ended)) =
            core.upgrade().map(|core| (Arc::clone(&core.faults), core.ended.clone()))
        else {
            return;
        };
        tokio::select! {
            biased;
            _ = ended.wait() => return,
            () = faults.bell.notified() => {}
        }
        let Some(core) = core.upgrade() else { return };
        match core.probe(PROBE_MAX).await {
            Ok(()) => tracing::debug!(cluster = %core.config, "a connection was lost and is back"),
            Err(_) => {
                let why = core.faults.why();
                core.end(why.context("bus", &core.config));
            }
        }
    }
}

impl Core {
    /// Waits until a broker answers, or none will.
    async fn reach(self: &Arc<Self>) -> Result<()> {
        let longest = self.config.connect_timeout;
        tokio::select! {
            answered = self.probe(longest) => match answered {
                Ok(()) => return Ok(()),
                Err(said) if said.kind() == ErrorKind::Unauthorized => return Err(said),
                Err(_) => {}
            },
            () = self.faults.bell.notified() => {}
        }
        let why = self.faults.why().context("bus", &self.config);
        self.end(why.clone());
        Err(why)
    }

    /// Asks whichever broker there is.
    async fn probe(self: &Arc<Self>, longest: Duration) -> Result<()> {
        let core = Arc::clone(self);
        blocking(move || {
            let asked = core.publisher().client().fetch_metadata(Some(names::GROUPS), longest);
            asked.map(drop).map_err(error)
        })
        .await
    }

    /// Ends it, for everybody.
    pub(super) fn end(&self, why: Error) {
        self.ended.end(why);
        self.publisher().give_up();
    }

    /// What this session promises.
    pub(super) fn capabilities(&self) -> Capabilities {
        capabilities::of(&self.config, self.dialect)
    }

    /// The producer.
    pub(super) fn publisher(&self) -> &Publisher {
        self.publisher.as_ref().expect("it is taken by the drop alone")
    }

    /// What administers the cluster, made when it is needed.
    pub(super) fn admin(&self) -> Result<&AdminClient<Context>> {
        if let Some(admin) = self.admin.get() {
            return Ok(admin);
        }
        let client = configure(&self.config, &self.name)?;
        let made = client.create_with_context(Context(Arc::clone(&self.faults)));
        let made = made.map_err(error)?;
        Ok(self.admin.get_or_init(|| made))
    }

    /// What it comes to; the session's end, where that is first.
    pub(super) async fn unless_ended<T>(
        &self,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let done = tokio::select! {
            biased;
            done = operation => done,
            why = self.ended.wait() => return Err(why),
        };
        done.map_err(|error| self.why(error))
    }

    /// The reason why the session ended, where it has; what happened otherwise.
    pub(super) fn why(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Disconnected {
            return error;
        }
        self.ended.get().unwrap_or(error)
    }

    /// What is known about a topic, looked at the first time.
    pub(super) async fn topic(self: &Arc<Self>, topic: &Topic) -> Result<Arc<About>> {
        if let Some(known) = self.lock_known().get(topic) {
            return Ok(Arc::clone(known));
        }
        self.look(topic).await
    }

    /// What is so about a topic at this moment.
    pub(super) async fn look(self: &Arc<Self>, topic: &Topic) -> Result<Arc<About>> {
        self.ended.check()?;
        let looked = topics::look(self, topic).await;
        let about = match looked {
            Ok(about) => Arc::new(about),
            Err(error) => {
                self.forget_topic(topic);
                return Err(error);
            }
        };
        if self.dialect == Dialect::Hermes && about.partitions != 1 {
            let why = format!(
                "the topic '{topic}' has {} partitions, and the dialect hermes has one",
                about.partitions
            );
            return Err(Error::new(ErrorKind::Conflict, why)
                .hint("make it anew with one partition, as its other programs expect it"));
        }
        self.lock_known().insert(topic.clone(), Arc::clone(&about));
        Ok(about)
    }

    pub(super) fn forget_topic(&self, topic: &Topic) {
        self.lock_known().remove(topic);
    }

    /// Publishes one record and waits for its receipt.
    pub(super) async fn publish(&self, wire: Wire, shards: Shards) -> Result<Receipt> {
        let mut receipts = self.publisher().send(vec![(wire, shards)]).await?;
        match receipts.pop() {
            Some(receipt) => receipt.await.map_err(Error::from),
            None => Err(gone()),
        }
    }

    /// Tells what happened to whoever listens.
    pub(super) fn tell(&self, event: SessionEvent) {
        // Nobody may be listening any more.
        drop(self.events.send(event));
    }

    /// Keeps hold of what a close must wait for.
    pub(super) fn remember(&self, consuming: &Arc<Consuming>) {
        let mut all = self.lock_consuming();
        all.retain(|consuming| consuming.strong_count() > 0);
        all.push(Arc::downgrade(consuming));
    }

    fn lock_known(&self) -> MutexGuard<'_, HashMap<Topic, Arc<About>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_consuming(&self) -> MutexGuard<'_, Vec<Weak<Consuming>>> {
        self.consuming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        drop_elsewhere((self.publisher.take(), self.admin.take()));
    }
}

impl Session for KafkaSession {
    fn capabilities(&self, _spec: &Spec) -> Capabilities {
        self.core.capabilities()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.core.ended.check()?;
            let declared = declare::declare(&self.core, topology).await;
            declared.map_err(|error| error.during("declare"))
        })
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        Box::pin(
            async move { self.send_batch(batch).await.map_err(|error| error.during("publish")) },
        )
    }

    fn subscribe(&self, subscribe: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        Box::pin(async move {
            let opened = super::subscribe::open(&self.core, subscribe).await;
            let subscription = opened.map_err(|error| error.during("subscribe"))?;
            Ok(Box::new(subscription) as Box<dyn Subscription>)
        })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            let opened = super::read::open(&self.core, read).await;
            let reader = opened.map_err(|error| error.during("read"))?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        Box::pin(async move {
            self.core.capabilities().require(Capability::Requests)?;
            let topic = Topic::new(names::REPLIES)?;
            let mut spec = TopicSpec::new(topic.clone());
            spec.options.insert("kafka.partitions".to_owned(), "1".to_owned());
            spec.retention = Some(busline_core::transport::Retention {
                age_max: Some(REPLIES_KEPT),
                bytes_max: None,
                ignore_groups: true,
            });
            if topics::partitions(&self.core, names::REPLIES).await?.is_none() {
                topics::create(&self.core, &spec, &[]).await?;
            }
            Ok(ReplyAddress { topic, reply_to: self.reply_to.clone() })
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.core.capabilities().get(Capability::Admin).is_kept().then_some(&self.admin as _)
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        Box::pin(async move {
            let mut events = self.events.lock().await;
            tokio::select! {
                biased;
                why = self.core.ended.wait() => SessionEvent::Ended(why),
                Some(event) = events.recv() => event,
            }
        })
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.close_within(deadline).await;
            Ok(())
        })
    }
}

/// Nobody waits longer for a reply.
const REPLIES_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A session that nobody has any more ends.
impl Drop for KafkaSession {
    fn drop(&mut self) {
        self.core.end(gone());
    }
}

impl fmt::Debug for KafkaSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSession").field("bus", &self.core.config).finish_non_exhaustive()
    }
}
