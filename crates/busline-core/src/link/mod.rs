//! The link: the only place that establishes anything again.
//!
//! A link keeps one session for publishing and one for consuming over one of several transports.
//! When a session is lost it connects again with back-off, declares the topology it has seen,
//! sends what was not confirmed before anything newer, and resumes subscriptions and readers, so
//! that their users see one unbroken stream. Only temporary errors are retried.

mod bind;
mod connect;
mod consume;
mod known;
mod outbox;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

pub use consume::{LinkReader, LinkSubscription};

use crate::backoff::Backoff;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::message::new_message_id;
use crate::name::{GroupName, Topic};
use crate::receipt::PendingReceipt;
use crate::transport::{
    Batch, Dialect, Read, Role, Session, Subscribe, Topology, TopologyMode, Transport,
};

/// How a link behaves.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// The clock it sleeps by.
    pub clock: Arc<dyn Clock>,
    /// The waits between attempts to connect, and between sessions that are lost without an answer. In the dialect of
    /// the Python services attempts wait as theirs do: 1, 2 … 30 s.
    pub backoff: Backoff,
    /// How long the first connect may take in all, retries included; later ones have no limit.
    pub first_connect_max: Duration,
    /// Whether the first connect is a single attempt, for those who wait by a law of their own.
    pub first_connect_once: bool,
    /// The wire conventions of its sessions, unless the transports have their own.
    pub dialect: Dialect,
    /// The name by which operators recognise this program.
    pub client_name: String,
    /// The most messages accepted and not receipted.
    pub window: usize,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            backoff: Backoff::default(),
            first_connect_max: Duration::from_secs(10),
            first_connect_once: false,
            dialect: Dialect::Busline,
            client_name: String::new(),
            window: 4096,
        }
    }
}

/// A connection that heals. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    transports: Vec<Arc<dyn Transport>>,
    /// The transport that was tried last: where its sessions are.
    current: AtomicUsize,
    /// The transport of the next attempt.
    next: AtomicUsize,
    /// Held by who connects, where there are several transports: both sessions are to be with the same broker.
    connecting: Mutex<()>,
    /// The sessions that were opened last, for publishing and for consuming.
    opened: std::sync::Mutex<[Option<Weak<dyn Session>>; 2]>,
    options: LinkOptions,
    publish: Arc<Mutex<Slot>>,
    consume: Arc<Mutex<Slot>>,
    /// What was declared through this link, to be declared again on a new session.
    known: std::sync::Mutex<known::Known>,
    outbox: std::sync::OnceLock<Arc<outbox::Outbox>>,
    /// Who connects, over all sessions.
    instance: String,
    /// Whether there was a session, for whichever role: then the bus is the right one, and is waited for.
    connected_before: AtomicBool,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct Slot {
    session: Option<Arc<dyn Session>>,
}

impl Link {
    /// A link over the transports, tried in turn; nothing is connected yet.
    ///
    /// `Limit` when there is none, or when they do not follow the same dialect.
    pub fn new(transports: Vec<Arc<dyn Transport>>, mut options: LinkOptions) -> Result<Self> {
        options.dialect = one_dialect(&transports, options.dialect)?;
        Ok(Self(Arc::new(Inner {
            transports,
            current: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            connecting: Mutex::default(),
            opened: std::sync::Mutex::default(),
            options,
            publish: Arc::default(),
            consume: Arc::default(),
            known: std::sync::Mutex::default(),
            outbox: std::sync::OnceLock::new(),
            instance: uuid::Uuid::new_v4().simple().to_string(),
            connected_before: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        })))
    }

    /// A link over the same transports that follows this dialect, unless their URLs say which: then it
    /// follows that. Where nothing changes it is this link; otherwise it has sessions of its own,
    /// declares what is declared through it, and is closed by itself.
    pub fn in_dialect(&self, dialect: Dialect) -> Result<Self> {
        let dialect = one_dialect(&self.0.transports, dialect)?;
        if dialect == self.dialect() {
            return Ok(self.clone());
        }
        let options = LinkOptions { dialect, ..self.0.options.clone() };
        let other = Self::new(self.0.transports.clone(), options)?;
        // Where this one is.
        other.0.next.store(self.0.current.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(other)
    }

    /// The wire conventions of its sessions.
    pub fn dialect(&self) -> Dialect {
        self.0.options.dialect
    }

    /// The clock it sleeps by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.options.clock
    }

    /// The live session for a role; connects, and connects again, as needed.
    ///
    /// Fails at once on errors that are not temporary, and on the first connect also when
    /// `first_connect_max` is over. Cancel safe.
    pub async fn session(&self, role: Role) -> Result<Arc<dyn Session>> {
        let opening = async {
            let slot = Arc::clone(self.slot(role)).lock_owned().await;
            if self.is_closed() {
                return Err(closed());
            }
            if let Some(session) = &slot.session {
                return Ok(Arc::clone(session));
            }
            // It goes on when nobody waits any more: who asks again and again, each time for less than
            // a connect takes, gets there too.
            let opened = tokio::spawn(self.clone().open(role, slot)).await;
            opened.unwrap_or_else(|cause| {
                Err(Error::new(ErrorKind::Other, "connecting panicked").source(cause))
            })
        };
        // Closing ends all attempts to connect, so that nobody waits for a broker that is away.
        tokio::select! {
            biased;
            session = opening => session,
            () = self.closed() => Err(closed()),
        }
    }

    /// Whether there is a session for a role now, rather than an attempt to get one.
    pub fn is_connected(&self, role: Role) -> bool {
        self.slot(role).try_lock().is_ok_and(|slot| slot.session.is_some())
    }

    async fn open(self, role: Role, mut slot: OwnedMutexGuard<Slot>) -> Result<Arc<dyn Session>> {
        let session = tokio::select! {
            biased;
            session = self.connect(role) => session?,
            () = self.closed() => return Err(closed()),
        };
        if self.is_closed() {
            return Err(closed());
        }
        self.0.connected_before.store(true, Ordering::Relaxed);
        slot.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Declares topics and groups, now and on every later session.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        self.with_session(|session| async move {
            bind(&*session, topology)?;
            session.declare(topology).await
        })
        .await?;
        if topology.mode != TopologyMode::Assume {
            self.known().add(topology);
        }
        Ok(())
    }

    /// Says that a group was deleted, or a topic with all its groups: later sessions do not declare
    /// them again.
    pub fn forget_declared(&self, topic: &Topic, group: Option<&GroupName>) {
        self.known().remove(topic, group);
    }

    /// Sends a batch; resolves when it is accepted. See [`Session::send`].
    ///
    /// Messages without an id get one, where the dialect has ids. A message whose session is lost before its receipt is sent
    /// again, with the same id, before anything newer.
    pub async fn send(&self, mut batch: Batch) -> Result<Vec<PendingReceipt>> {
        if self.is_closed() {
            return Err(closed());
        }
        if self.0.options.dialect.has_message_ids() {
            for message in &mut batch.messages {
                message.properties.message_id.get_or_insert_with(new_message_id);
            }
        }
        if !self.may_disconnect() {
            let session = self.session(Role::Publish).await?;
            bind(&*session, &batch)?;
            return session.send(batch).await;
        }
        let outbox = self.0.outbox.get_or_init(|| outbox::Outbox::new(self));
        tokio::select! {
            biased;
            sent = outbox.send(self, batch) => sent,
            () = self.closed() => Err(closed()),
        }
    }

    /// Subscribes; the subscription outlives lost sessions.
    pub async fn subscribe(&self, subscribe: Subscribe) -> Result<LinkSubscription> {
        LinkSubscription::open(self.clone(), subscribe).await
    }

    /// Opens a reader; it outlives lost sessions.
    pub async fn read(&self, read: Read) -> Result<LinkReader> {
        LinkReader::open(self.clone(), read).await
    }

    /// Runs an operation on the consuming session, again on a new one when that is lost.
    ///
    /// The operation gets the session for itself: a future that borrowed it could not be shown to
    /// be `Send` by those who spawn it.
    pub async fn with_session<T, F: Future<Output = Result<T>> + Send>(
        &self,
        operation: impl Fn(Arc<dyn Session>) -> F + Send + Sync,
    ) -> Result<T> {
        self.on_session(operation).await.map(|(_, result)| result)
    }

    /// As [`Link::with_session`], with the session that it worked on.
    async fn on_session<T, F: Future<Output = Result<T>> + Send>(
        &self,
        operation: impl Fn(Arc<dyn Session>) -> F + Send + Sync,
    ) -> Result<(Arc<dyn Session>, T)> {
        let mut waits = self.0.options.backoff.waits();
        loop {
            let session = self.session(Role::Consume).await?;
            match operation(Arc::clone(&session)).await {
                Err(error) if error.kind() == ErrorKind::Disconnected => {
                    self.forget(Role::Consume, &session).await;
                    self.pause(&mut waits).await;
                }
                result => return result.map(|result| (session, result)),
            }
        }
    }

    /// Flushes what was accepted, then ends the sessions; at most this long in all.
    ///
    /// `Elapsed` when the time was over before everything was confirmed.
    pub async fn close(&self, deadline: Duration) -> Result<()> {
        let closing = async {
            if let Some(outbox) = self.0.outbox.get() {
                outbox.drain().await;
            }
            self.0.closed.send_replace(true);
            let mut result = Ok(());
            for role in [Role::Publish, Role::Consume] {
                let session = self.slot(role).lock().await.session.take();
                if let Some(session) = session {
                    result = result.and(session.close(deadline).await);
                }
            }
            result
        };
        let closed = tokio::select! {
            result = closing => result,
            () = self.clock().sleep(deadline) => Err(Error::new(
                ErrorKind::Elapsed,
                "closing took too long: some messages have no receipt",
            )),
        };
        self.0.closed.send_replace(true);
        if let Some(outbox) = self.0.outbox.get() {
            outbox.close();
        }
        // After a close that took too long the sessions go without a word.
        for role in [Role::Publish, Role::Consume] {
            drop(self.slot(role).try_lock().map(|mut slot| slot.session.take()));
        }
        closed
    }

    fn may_disconnect(&self) -> bool {
        self.0.transports.iter().any(|transport| transport.may_disconnect())
    }

    fn slot(&self, role: Role) -> &Arc<Mutex<Slot>> {
        match role {
            Role::Publish => &self.0.publish,
            Role::Consume => &self.0.consume,
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, known::Known> {
        self.0.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        *self.0.closed.borrow()
    }

    /// Resolves when the link is closed.
    async fn closed(&self) {
        // The sender lives in the link.
        let _ = self.0.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Drops the session if it is still the live one, so that the next user connects again.
    async fn forget(&self, role: Role, session: &Arc<dyn Session>) {
        let mut slot = self.slot(role).lock().await;
        if slot.session.as_ref().is_some_and(|live| Arc::ptr_eq(live, session)) {
            tracing::warn!(transport = %self.transport(), "the session is lost, connecting again");
            slot.session = None;
        }
    }

    async fn pause(&self, waits: &mut (impl Iterator<Item = Duration> + Send)) {
        let wait = waits.next().unwrap_or(self.0.options.backoff.max);
        tokio::select! {
            () = self.clock().sleep(wait) => {}
            () = self.closed() => {}
        }
    }

    fn transport(&self) -> &Arc<dyn Transport> {
        let index = self.0.current.load(Ordering::Relaxed) % self.0.transports.len();
        self.0.transports.get(index).expect("the index is below the length")
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("transports", &self.0.transports).finish_non_exhaustive()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.transport().fmt(f)
    }
}

/// What all of them follow: their own, or what is asked for.
fn one_dialect(transports: &[Arc<dyn Transport>], asked: Dialect) -> Result<Dialect> {
    let mut all = transports.iter().map(|transport| transport.dialect().unwrap_or(asked));
    let first = all
        .next()
        .ok_or_else(|| Error::new(ErrorKind::Limit, "a link needs at least one transport"))?;
    match all.find(|other| *other != first) {
        None => Ok(first),
        Some(other) => {
            let (one, other) = (first.as_str(), other.as_str());
            let why = format!("the URLs of one bus follow two dialects, '{one}' and '{other}'");
            Err(Error::new(ErrorKind::Limit, why).hint("give all of them the same dialect"))
        }
    }
}

/// Refuses what the session does not promise, before anything reaches it.
fn bind(session: &dyn Session, wanted: &impl bind::Binds) -> Result<()> {
    wanted.bind(session)
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the bus is closed")
}
