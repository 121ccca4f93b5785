//! A session: a connection for what it is opened for, one more for publishing where both are needed.
//!
//! RabbitMQ stops reading from connections that publish while it is short of memory. What consumes must
//! go on acking then, so that memory gets free: it never publishes on its own connection.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use busline_core::clock::{Clock, SystemClock};
use busline_core::transport::{
    Admin, Batch, Connect, Dialect, Read, Reader, ReplyAddress, Role, Session, SessionEvent, Spec,
    Subscribe, Subscription, TopicSpec, Topology,
};
use busline_core::{
    Capabilities, Capability, Error, ErrorKind, PendingReceipt, Receipt, Result, Topic,
};
use futures_util::future::BoxFuture;
use lapin::types::ShortString;
use lapin::{Channel, ErrorKind as Said};
use tokio::sync::watch;

use super::admin::AmqpAdmin;
use super::back;
use super::capabilities;
use super::config::AmqpConfig;
use super::connection::{Blocked, Connection, Ended};
use super::consuming::Consuming;
use super::declare;
use super::error::error;
use super::mapping::{self, Wire};
use super::names;
use super::publish::Publisher;

/// The topic of all replies; the key of a reply is the `reply_to` of its request.
const REPLIES: &str = "busline.replies";

/// In the dialect of the Python services: the topic of commands and of their results.
pub(super) const COMMANDS: &str = "commands";

/// And the topic of logs, which are neither kept nor confirmed.
pub(super) const LOGS: &str = "logs";

/// A delay that was declared this long ago is declared again; its queue lives twice as long unused.
pub(super) const DELAY_FRESH_MS: u64 = 60_000;

/// Nothing is owed any more when a connection says goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// A channel whose end comes in between is replaced by the next, so often.
const CHANNELS_MAX: u32 = 4;

/// A live session.
pub(super) struct AmqpSession {
    core: Arc<Core>,
    admin: AmqpAdmin,
    reply_to: String,
    /// What was told of blocking so far, for one caller at a time.
    blocked: tokio::sync::Mutex<watch::Receiver<Option<String>>>,
}

/// What everything of a session shares.
pub(super) struct Core {
    pub(super) config: Arc<AmqpConfig>,
    pub(super) dialect: Dialect,
    pub(super) ended: Ended,
    pub(super) clock: Arc<dyn Clock>,
    connection: Connection,
    name: String,
    role: Role,
    blocked: Blocked,
    /// A publishing connection of a consuming session, opened when it is needed.
    publishing: tokio::sync::OnceCell<(Option<Connection>, Publisher)>,
    /// For logs in the dialect of the Python services.
    logs: tokio::sync::OnceCell<Publisher>,
    /// The channel of declarations; an error closes it.
    control: tokio::sync::Mutex<Option<Channel>>,
    known: Mutex<Known>,
    /// The topics of dead letters whose group is there and bound.
    pub(super) dead_letters: tokio::sync::Mutex<HashSet<Topic>>,
    consuming: Mutex<Vec<Weak<Consuming>>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Topics that are there, and whether they have a log, where that was looked at.
    topics: HashMap<Topic, Option<bool>>,
    logs: HashMap<Topic, bool>,
    /// Queues of logs that held something.
    seen_logs: HashSet<String>,
    /// When each delay was declared last.
    delays: HashMap<u64, Duration>,
}

impl AmqpSession {
    /// Runs to its end also when nobody waits for it any more: an answer that nobody expects would end the
    /// connection.
    async fn spawned<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let spawned = tokio::spawn(operation);
        let done = async { spawned.await.unwrap_or_else(|_| Err(super::connection::gone())) };
        self.core.unless_ended(done).await
    }

    pub(super) async fn open(config: Arc<AmqpConfig>, connect: Connect) -> Result<Self> {
        let (ended, blocked) = (Ended::new(), Blocked::new(None));
        let name = match connect.client_name.as_str() {
            "" => "busline".to_owned(),
            name => name.to_owned(),
        };
        let connection = Connection::open(&config, &name, &ended, &blocked).await?;
        let told = tokio::sync::Mutex::new(blocked.subscribe());
        let core = Arc::new(Core {
            config,
            dialect: connect.dialect,
            ended,
            clock: SystemClock::shared(),
            connection,
            name,
            role: connect.role,
            blocked,
            publishing: tokio::sync::OnceCell::new(),
            logs: tokio::sync::OnceCell::new(),
            control: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            dead_letters: tokio::sync::Mutex::default(),
            consuming: Mutex::default(),
        });
        let admin = AmqpAdmin::new(Arc::clone(&core));
        Ok(Self { core, admin, reply_to: connect.instance, blocked: told })
    }

    async fn send_batch(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        let core = &self.core;
        core.ended.check()?;
        let promised = core.capabilities(&Spec::default());
        let mut wires = Vec::with_capacity(batch.messages.len());
        let mut last: Option<&Topic> = None;
        let mut stamp = None;
        for message in &batch.messages {
            let put_back = back::put_back(core.dialect, &core.config.user, message);
            if put_back.is_none() {
                promised.limits.check(message)?;
            }
            if last != Some(&message.topic) {
                declare::check_topic(core, &message.topic).await?;
                let has_log = declare::has_log(core, &message.topic).await?;
                if batch.mandatory {
                    let spec = core.spec_of(&message.topic);
                    core.capabilities(&spec).require(Capability::Unroutable)?;
                }
                stamp = has_log.then(|| core.clock.now());
                if has_log {
                    core.see_log(&names::log(&message.topic)?);
                }
                last = Some(&message.topic);
            }
            let mut wire = match put_back {
                Some(wire) => wire,
                None => mapping::encode(core.dialect, message)?,
            };
            if let Some(now) = stamp {
                mapping::stamp(&mut wire, now);
            }
            wires.push(wire);
        }
        if wires.is_empty() {
            return Ok(Vec::new());
        }
        let only_logs = core.dialect == Dialect::Eventail
            && batch
                .messages
                .iter()
                .all(|message| message.topic.as_str() == LOGS && !mapping::is_of_endpoint(message));
        if core.publishing.get().is_none() || only_logs && core.logs.get().is_none() {
            let core = Arc::clone(core);
            let opening = async move {
                match only_logs {
                    true => core.log_publisher().await.map(drop),
                    false => core.publisher().await.map(drop),
                }
            };
            self.spawned(opening).await?;
        }
        let publisher = match only_logs {
            true => core.log_publisher().await?,
            false => core.publisher().await?,
        };
        publisher.send(wires, batch.mandatory).await.map_err(|gone| core.why(gone))
    }

    async fn close_within(&self, deadline: Duration) {
        let core = &self.core;
        let closing = async {
            let consuming: Vec<_> = core.lock_consuming().drain(..).collect();
            for consuming in consuming.iter().filter_map(Weak::upgrade) {
                consuming.finish().await;
            }
            if let Some((_, publisher)) = core.publishing.get() {
                publisher.drain().await;
            }
            if let Some(logs) = core.logs.get() {
                logs.drain().await;
            }
        };
        if core.ended.get().is_none() {
            tokio::select! {
                () = closing => {}
                _ = core.ended.wait() => {}
                () = core.clock.sleep(deadline) => {}
            }
        }
        core.ended.end(Error::new(ErrorKind::Closed, "the session is closed"));
        core.disconnect().await;
    }
}

impl Core {
    async fn disconnect(&self) {
        if let Some((Some(connection), _)) = self.publishing.get() {
            connection.close(GOODBYE_MAX).await;
        }
        self.connection.close(GOODBYE_MAX).await;
    }

    /// What this session promises for that.
    pub(super) fn capabilities(&self, spec: &Spec) -> Capabilities {
        let has_log = spec.topic.as_ref().is_some_and(|topic| self.known_log(topic) == Some(true));
        capabilities::session(&self.config, self.dialect, spec, has_log)
    }

    fn spec_of(&self, topic: &Topic) -> Spec {
        let mut spec = Spec::default();
        spec.topic = Some(topic.clone());
        spec
    }

    /// A new channel for whoever needs one of its own.
    pub(super) async fn channel(&self) -> Result<Channel> {
        self.unless_ended(self.connection.channel()).await.map_err(|error| self.why(error))
    }

    /// What it comes to; the session's end, where that is first: its client does not answer everything that
    /// was asked when a connection ends.
    pub(super) async fn unless_ended<T>(
        &self,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            done = operation => done,
            why = self.ended.wait() => Err(why),
        }
    }

    /// Runs a declaration on the channel that is there for them.
    pub(super) async fn control<T, F>(&self, operation: impl Fn(Channel) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = lapin::Result<T>> + Send + 'static,
    {
        let mut control = self.control.lock().await;
        // One that was given up in the middle leaves a channel whose end is still to come.
        let mut channels = 0;
        loop {
            channels += 1;
            self.ended.check()?;
            let channel = match control.take() {
                Some(channel) if channel.status().connected() => channel,
                _ => self.channel().await?,
            };
            // Given up in the middle it goes on: an answer that nobody expects ends the connection.
            let done = tokio::spawn(operation(channel.clone()));
            let done = self.unless_ended(async { Ok(done.await) }).await?;
            match done.map_err(|_| super::connection::gone())? {
                Ok(done) => {
                    *control = Some(channel);
                    return Ok(done);
                }
                Err(said) => match said.kind() {
                    Said::InvalidChannelState(..) if channels < CHANNELS_MAX => {}
                    _ => return Err(self.why(error(said))),
                },
            }
        }
    }

    /// What publishes, on a connection of its own unless the session is there for publishing.
    pub(super) async fn publisher(&self) -> Result<&Publisher> {
        let start = async || {
            let window = self.config.window;
            if self.role == Role::Publish {
                let publisher =
                    Publisher::start(&self.connection, self.ended.clone(), window).await?;
                return Ok::<_, Error>((None, publisher));
            }
            let opening = Connection::open(&self.config, &self.name, &self.ended, &self.blocked);
            let connection = opening.await?;
            let publisher = Publisher::start(&connection, self.ended.clone(), window).await?;
            Ok((Some(connection), publisher))
        };
        self.ended.check()?;
        Ok(&self.publishing.get_or_try_init(start).await?.1)
    }

    /// What publishes logs without asking for confirms, so that no event ever waits for one.
    async fn log_publisher(&self) -> Result<&Publisher> {
        self.publisher().await?;
        let other = self.publishing.get().and_then(|(connection, _)| connection.as_ref());
        let (connection, window) = (other.unwrap_or(&self.connection), self.config.window);
        let start = || Publisher::start_unconfirmed(connection, self.ended.clone(), window);
        self.logs.get_or_try_init(start).await
    }

    /// Publishes what must arrive in a queue: a confirm alone also comes for what no queue took.
    pub(super) async fn publish(&self, wire: Wire) -> Result<Receipt> {
        let mut receipts = self.publisher().await?.send(vec![wire], true).await?;
        match receipts.pop() {
            Some(receipt) => receipt.await.map_err(Error::from),
            None => Err(super::connection::gone()),
        }
    }

    /// The reason why the session ended, where it has; what happened otherwise.
    pub(super) fn why(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Disconnected {
            return error;
        }
        self.ended.get().unwrap_or(error)
    }

    pub(super) fn knows(&self, topic: &Topic) -> bool {
        self.lock_known().topics.contains_key(topic)
    }

    pub(super) fn learn(&self, topic: &Topic) {
        self.lock_known().topics.insert(topic.clone(), None);
    }

    pub(super) fn forget_topic(&self, topic: &Topic) {
        let mut known = self.lock_known();
        known.topics.remove(topic);
        known.logs.remove(topic);
        known.seen_logs.remove(&format!("{topic}.log"));
    }

    pub(super) fn known_log(&self, topic: &Topic) -> Option<bool> {
        self.lock_known().logs.get(topic).copied()
    }

    pub(super) fn learn_log(&self, topic: &Topic, has_log: bool) {
        self.lock_known().logs.insert(topic.clone(), has_log);
    }

    /// Whether a log held something once.
    pub(super) fn has_seen_log(&self, queue: &ShortString) -> bool {
        self.lock_known().seen_logs.contains(queue.as_str())
    }

    pub(super) fn see_log(&self, queue: &ShortString) {
        self.lock_known().seen_logs.insert(queue.to_string());
    }

    /// Whether the queue of a delay will be there for long enough.
    pub(super) fn has_fresh_delay(&self, ms: u64) -> bool {
        let now = self.clock.monotonic();
        let fresh = Duration::from_millis(DELAY_FRESH_MS);
        self.lock_known().delays.get(&ms).is_some_and(|declared| now < *declared + fresh)
    }

    pub(super) fn freshen_delay(&self, ms: u64) {
        let now = self.clock.monotonic();
        self.lock_known().delays.insert(ms, now);
    }

    /// Ends its subscriptions of a queue that was deleted.
    pub(super) fn end_consuming(&self, queue: &ShortString, why: &Error) {
        let all: Vec<_> = self.lock_consuming().iter().filter_map(Weak::upgrade).collect();
        let of_queue = all.iter().filter(|consuming| consuming.about.queue == *queue);
        of_queue.for_each(|consuming| consuming.ended.end(why.clone()));
    }

    /// Keeps hold of what a close must wait for.
    pub(super) fn remember(&self, consuming: &Arc<Consuming>) {
        let mut all = self.lock_consuming();
        all.retain(|consuming| consuming.strong_count() > 0);
        all.push(Arc::downgrade(consuming));
    }

    fn lock_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_consuming(&self) -> MutexGuard<'_, Vec<Weak<Consuming>>> {
        self.consuming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session for AmqpSession {
    fn capabilities(&self, spec: &Spec) -> Capabilities {
        self.core.capabilities(spec)
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (core, topology) = (Arc::clone(&self.core), topology.clone());
            let declared =
                self.spawned(async move { declare::declare(&core, &topology).await }).await;
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
            let core = Arc::clone(&self.core);
            let opening = async move { super::subscribe::open(&core, subscribe).await };
            let opened = self.spawned(opening).await;
            let subscription = opened.map_err(|error| error.during("subscribe"))?;
            Ok(Box::new(subscription) as Box<dyn Subscription>)
        })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            let core = Arc::clone(&self.core);
            let opened = self.spawned(async move { super::stream::open(&core, read).await }).await;
            let reader = opened.map_err(|error| error.during("read"))?;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        Box::pin(async move {
            let (topic, reply_to) = match self.core.dialect {
                Dialect::Eventail => (COMMANDS, format!("reply.{}", self.reply_to)),
                _ => (REPLIES, self.reply_to.clone()),
            };
            let topic = Topic::new(topic)?;
            let topics = vec![TopicSpec::new(topic.clone())];
            declare::declare(&self.core, &Topology { topics, ..Topology::default() }).await?;
            Ok(ReplyAddress { topic, reply_to })
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(&self.admin)
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        Box::pin(async move {
            let mut blocked = self.blocked.lock().await;
            tokio::select! {
                biased;
                why = self.core.ended.wait() => SessionEvent::Ended(why),
                Ok(()) = blocked.changed() => match &*blocked.borrow_and_update() {
                    Some(why) => SessionEvent::Blocked(why.clone()),
                    None => SessionEvent::Unblocked,
                },
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

/// A session that nobody has any more ends.
impl Drop for AmqpSession {
    fn drop(&mut self) {
        self.core.ended.end(super::connection::gone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // Deliveries that somebody still holds must not keep the connection.
        let core = Arc::clone(&self.core);
        runtime.spawn(async move { core.disconnect().await });
    }
}

impl fmt::Debug for AmqpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpSession").field("broker", &self.core.config).finish_non_exhaustive()
    }
}
