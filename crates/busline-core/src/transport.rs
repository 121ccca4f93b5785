//! The port: what a backend implements.
//!
//! A transport opens sessions; a session is one live connection. Neither reconnects nor retries:
//! a lost link is [`ErrorKind::Disconnected`](crate::ErrorKind::Disconnected), and
//! the link is the only place that establishes anything again. Options travel in
//! structs, so that the port can grow. Futures are boxed at the granularity of batches.

mod info;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::capability::Capabilities;
use crate::delivery::{Delivery, Record};
use crate::error::{Error, Result};
use crate::key::Patterns;
use crate::message::Message;
use crate::name::{GroupName, Topic};
use crate::offset::{Offset, Position};
use crate::receipt::PendingReceipt;
use crate::time::Timestamp;

/// A backend: what it promises, and how to open a session. Its `Display` never shows a secret.
pub trait Transport: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The upper bound of what its sessions promise, for documents. Sessions decide.
    fn capabilities(&self) -> Capabilities;

    /// Opens a session. Publishing and consuming use two.
    ///
    /// Cancel safe: a cancelled connect leaves nothing open.
    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>>;

    /// Whether a session can be lost while the program runs. Where it cannot, the link hands
    /// receipts through as they are and keeps no copies to send again.
    fn may_disconnect(&self) -> bool {
        true
    }

    /// The conventions that its sessions follow whatever who connects asks for, as its URL says;
    /// `None` follows [`Connect::dialect`].
    fn dialect(&self) -> Option<Dialect> {
        None
    }
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sending.
    Publish,
    /// Subscribing, reading and administration.
    Consume,
}

/// The wire conventions a session follows.
///
/// A transport has no mapping of its own: the dialect decides entity names, kinds and arguments,
/// the dead-letter mechanism, and which properties and headers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// Our own.
    #[default]
    Busline,
    /// The Python services on RabbitMQ.
    Eventail,
    /// Typed events on AMQP 1.0 and STOMP.
    Aspyx,
    /// Data channels.
    Pypz,
    /// Message buses on SQLite and Kafka.
    Hermes,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: &'static [Self] =
        &[Self::Busline, Self::Eventail, Self::Aspyx, Self::Pypz, Self::Hermes];

    /// The dialect of this name; `None` when there is none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dialect| dialect.as_str() == name)
    }

    /// Its name in URLs and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busline => "busline",
            Self::Eventail => "eventail",
            Self::Aspyx => "aspyx",
            Self::Pypz => "pypz",
            Self::Hermes => "hermes",
        }
    }

    /// Whether its messages bear a message id. To the others none is added: their peers expect the
    /// very bytes of the convention.
    pub fn has_message_ids(self) -> bool {
        matches!(self, Self::Busline)
    }
}

/// Validated options of a transport, `transport.option` in configuration files.
pub type Options = BTreeMap<String, String>;

/// How to open a session.
#[derive(Debug, Clone)]
pub struct Connect {
    /// What it is for.
    pub role: Role,
    /// The conventions it follows.
    pub dialect: Dialect,
    /// The name by which operators recognise this program.
    pub client_name: String,
    /// Who connects, in letters and digits: the same for all sessions of one client, also after it
    /// connected again, and for nobody else. What belongs to the client is named after it, as the
    /// address of replies to its requests.
    pub instance: String,
}

impl Connect {
    /// A session of our own dialect, of a new instance.
    pub fn new(role: Role) -> Self {
        let instance = uuid::Uuid::new_v4().simple().to_string();
        Self { role, dialect: Dialect::Busline, client_name: String::new(), instance }
    }
}

/// What the promises of a session depend on beyond its connection.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Spec {
    /// The topic concerned, where one is.
    pub topic: Option<Topic>,
    /// The group concerned, where one is.
    pub group: Option<GroupName>,
    /// Native options of the entity concerned.
    pub options: Options,
}

/// One live connection, one epoch.
///
/// Everything it returns ends with it: a delivery of an ended session is lost, its message comes
/// again elsewhere.
pub trait Session: fmt::Debug + Send + Sync + 'static {
    /// What it promises for this; decides what binds.
    fn capabilities(&self, spec: &Spec) -> Capabilities;

    /// Declares topics and groups. All or nothing is not promised: a conflict names the entity,
    /// the argument, what was found and what was wanted. Cancel safe: idempotent.
    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>>;

    /// Sends a batch to declared topics, in order.
    ///
    /// Resolves when the batch is accepted, after waiting for room in the window; each message
    /// then has a receipt of its own, in the order of the batch. An error means that nothing was
    /// accepted. Cancelled before acceptance, nothing is sent.
    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>>;

    /// Joins a group, or subscribes alone for a broadcast. Cancel safe.
    fn subscribe(&self, subscribe: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>>;

    /// Reads a topic's log without settling anything; `Refused` where there is no log.
    fn read(&self, read: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>>;

    /// The key and queue where replies for this very instance arrive: the same for every session of
    /// it ([`Connect::instance`]), so that a reply finds its way after a reconnect.
    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>>;

    /// The operator's view; `None` where the broker has none.
    fn admin(&self) -> Option<&dyn Admin>;

    /// Waits for what happens to the connection. Cancel safe; one caller at a time.
    fn next_event(&self) -> BoxFuture<'_, SessionEvent>;

    /// Flushes receipts and settles, then ends the session; at most this long.
    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>>;
}

/// What happens to a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SessionEvent {
    /// It is gone; nothing of this session will work any more.
    Ended(Error),
    /// The broker asked to stop sending.
    Blocked(String),
    /// The broker takes messages again.
    Unblocked,
    /// A client that heals itself lost its connection.
    Interrupted,
    /// A client that heals itself is back; claims of before are void.
    Resumed,
    /// The broker gave shards of a topic to this member.
    Assigned(Topic),
    /// The broker took shards of a topic from this member: what it holds of them is lost.
    Revoked(Topic),
    /// Messages of a topic are missing that were there: retention was quicker, or the broker lost
    /// them.
    Gap(Topic),
}

/// A batch to send.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The messages, sent in this order.
    pub messages: Vec<Message>,
    /// Whether a message that matches no group comes back as `Unroutable`.
    pub mandatory: bool,
}

impl From<Vec<Message>> for Batch {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, mandatory: false }
    }
}

/// Whether declaring may change the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopologyMode {
    /// What is missing is created.
    #[default]
    Create,
    /// What is missing is an error; nothing is changed.
    Verify,
    /// Nothing is looked at.
    Assume,
}

/// Topics and groups to declare.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Whether the broker may be changed.
    pub mode: TopologyMode,
    /// Topics, before the groups.
    pub topics: Vec<TopicSpec>,
    /// Groups, of declared topics.
    pub groups: Vec<GroupSpec>,
}

/// How long a topic keeps its records; the first bound that is met lets the oldest go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records older than this may go.
    pub age_max: Option<Duration>,
    /// Above this many bytes the oldest may go.
    pub bytes_max: Option<u64>,
    /// Whether records that a group still needs may go too.
    pub ignore_groups: bool,
}

/// A topic to declare.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    /// Its name.
    pub topic: Topic,
    /// How long records are kept; `None` leaves what is set, which is for ever unless set.
    pub retention: Option<Retention>,
    /// Whether it must be readable from the start; `Refused` where it cannot.
    pub replay: bool,
    /// Native options.
    pub options: Options,
}

impl TopicSpec {
    /// A topic with the defaults.
    pub fn new(topic: Topic) -> Self {
        Self { topic, retention: None, replay: false, options: Options::new() }
    }
}

/// What to do when a group exists and differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDifference {
    /// `Conflict`, naming what was found and what was wanted.
    #[default]
    Refuse,
    /// Make it as declared.
    Replace,
    /// Add the declared patterns to those it has.
    Add,
}

/// What a retry does to later messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryMode {
    /// They overtake it.
    #[default]
    Overtake,
    /// Later ones of the same ordering key wait, from the moment that it is delivered until it is
    /// settled. A message without an ordering key is ordered by its key.
    Block,
}

/// The default bound on attempts, as RabbitMQ's quorum queues have it.
pub const ATTEMPTS_MAX_DEFAULT: u32 = 20;

/// A group to declare: before readiness, apart from subscribing.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// The topic that it consumes.
    pub topic: Topic,
    /// Its name.
    pub group: GroupName,
    /// Which keys it gets; they belong to the group.
    pub patterns: Patterns,
    /// Where a new group starts; an existing one stays where it is.
    pub start: Position,
    /// What to do when it exists with other patterns or another limit.
    pub on_difference: OnDifference,
    /// After this many attempts a message is dead lettered; `None` is never, and asks for trouble.
    pub attempts_max: Option<u32>,
    /// What a retry does to later messages.
    pub retry_mode: RetryMode,
    /// Removed when nobody was a member for this long; `None` keeps it.
    pub expires_after: Option<Duration>,
    /// Native options.
    pub options: Options,
}

impl GroupSpec {
    /// A group that gets every key from now on, with the default limit of attempts.
    pub fn new(topic: Topic, group: GroupName) -> Self {
        Self {
            topic,
            group,
            patterns: Patterns::all(),
            start: Position::Latest,
            on_difference: OnDifference::Refuse,
            attempts_max: Some(ATTEMPTS_MAX_DEFAULT),
            retry_mode: RetryMode::Overtake,
            expires_after: None,
            options: Options::new(),
        }
    }
}

/// Who subscribes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// A member of a declared group.
    Group(GroupName),
    /// Alone, in a temporary group that starts now.
    Broadcast(Patterns),
}

/// A subscription to open.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The topic.
    pub topic: Topic,
    /// As a member of a group, or alone.
    pub membership: Membership,
    /// The most unsettled deliveries.
    pub max_in_flight: u32,
    /// The most bytes of unsettled deliveries; one larger message still comes, alone.
    pub max_in_flight_bytes: u64,
    /// How long a delivery is leased at a time; a member that is stopped loses it after this.
    pub lease: Duration,
    /// How long a delivery may be held in all, the lease being renewed meanwhile; `None` is as long
    /// as its process is alive and running.
    pub hold_max: Option<Duration>,
    /// Native options.
    pub options: Options,
}

impl Subscribe {
    /// With 256 deliveries or 16 MiB in flight and leases of 30 s.
    pub fn new(topic: Topic, membership: Membership) -> Self {
        Self {
            topic,
            membership,
            max_in_flight: 256,
            max_in_flight_bytes: 16 << 20,
            lease: Duration::from_secs(30),
            hold_max: None,
            options: Options::new(),
        }
    }
}

/// A stream of deliveries.
pub trait Subscription: fmt::Debug + Send + 'static {
    /// The next chunk, never empty; `None` after `stop`, when everything fetched was handed out.
    /// `Disconnected` when the session ended. Cancel safe: nothing is lost or handed out twice.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>>;

    /// Stops fetching and gives back what was not handed out, without counting an attempt. What
    /// was handed out can still be settled. Idempotent. Dropping the subscription does the same.
    fn stop(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// A log to read.
#[derive(Debug, Clone)]
pub struct Read {
    /// The topic.
    pub topic: Topic,
    /// Where to start.
    pub from: Position,
    /// Which keys to see.
    pub patterns: Patterns,
    /// The most records in a chunk.
    pub chunk_max: usize,
    /// Native options.
    pub options: Options,
}

impl Read {
    /// Every key, in chunks of at most 1024 records.
    pub fn new(topic: Topic, from: Position) -> Self {
        let (patterns, options) = (Patterns::all(), Options::new());
        Self { topic, from, patterns, chunk_max: 1024, options }
    }
}

/// A reader of a topic's log: it settles nothing, and nobody sees it.
pub trait Reader: fmt::Debug + Send + 'static {
    /// What is there now, at most a chunk; empty at the end of the log. Cancel safe.
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>>;

    /// Waits until there may be more. Cancel safe, so a time limit may be put around it.
    fn wait(&mut self) -> BoxFuture<'_, Result<()>>;

    /// Goes elsewhere. After an error the reader stays where it was.
    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>>;

    /// The place of the record that `next` looks at first.
    fn position(&self) -> Option<Offset>;
}

/// Where replies for one instance arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyAddress {
    /// The topic of replies.
    pub topic: Topic,
    /// What goes into `reply_to`.
    pub reply_to: String,
}

/// A topic as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// How many records are kept.
    pub messages: u64,
    /// How many bytes they take where they are stored; 0 where the broker does not tell.
    pub bytes: u64,
    /// The oldest record kept.
    pub earliest: Option<Offset>,
    /// The place behind the newest record.
    pub end: Option<Offset>,
    /// How many groups it has.
    pub groups: u64,
    /// How long records are kept.
    pub retention: Retention,
}

impl TopicInfo {
    /// An empty topic, to be filled by a transport.
    pub fn new(topic: Topic) -> Self {
        Self {
            topic,
            messages: 0,
            bytes: 0,
            earliest: None,
            end: None,
            groups: 0,
            retention: Retention::default(),
        }
    }
}

/// A group as the operator sees it. The counters run since the group was declared.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its topic.
    pub topic: Topic,
    /// Its name.
    pub group: GroupName,
    /// Which keys it gets.
    pub patterns: Patterns,
    /// Records not looked at yet; those that its patterns pass over count too.
    pub lag: u64,
    /// Delivered and not settled.
    pub in_flight: u64,
    /// Waiting for a retry.
    pub waiting: u64,
    /// When the oldest unsettled message was stored.
    pub oldest_unsettled: Option<Timestamp>,
    /// The place that it keeps records from being removed at.
    pub floor: Option<Offset>,
    /// Living members.
    pub members: u64,
    /// Deliveries, redeliveries included.
    pub delivered: u64,
    /// Deliveries beyond the first of their message.
    pub redelivered: u64,
    /// Settled by `Ack`.
    pub acked: u64,
    /// Settled by `Reject`, or out of attempts.
    pub rejected: u64,
    /// Temporary: it goes with its only member.
    pub broadcast: bool,
    /// The bound on attempts.
    pub attempts_max: Option<u32>,
    /// Whether rules of the broker keep what is rejected; `None` where Busline does, or nobody can tell.
    pub keeps_rejected: Option<bool>,
}

/// An unsettled message of a group, looked at and left where it is.
#[derive(Debug, Clone)]
pub struct Peeked {
    /// The record.
    pub record: Record,
    /// How often it was delivered so far.
    pub attempts: u32,
}

/// Conditions of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteIf {
    /// Only when nobody is a member.
    pub unused: bool,
    /// Only when nothing is unsettled.
    pub empty: bool,
}

/// The operator's view of a bus. Everything takes effect at once for running members too.
pub trait Admin: Send + Sync {
    /// Every topic, sorted by name.
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>>;

    /// The groups of a topic or of all, sorted by topic and name; temporary ones included.
    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>>;

    /// One group; `NotFound` where there is none.
    ///
    /// A transport that cannot list groups may still know the one that is named. Cancel safe.
    fn group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
    ) -> BoxFuture<'a, Result<GroupInfo>> {
        Box::pin(async move { GroupInfo::of(self.groups(Some(topic)).await?, topic, group) })
    }

    /// Up to `limit` unsettled messages of a group, oldest first, left where they are; `from` an
    /// offset on, so that many are looked at page by page.
    fn peek<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        from: Option<&'a Offset>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>>;

    /// Moves a group; what its members hold is lost to them.
    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        to: &'a Position,
    ) -> BoxFuture<'a, Result<()>>;

    /// Settles everything unsettled of a group; returns how many messages that were.
    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>>;

    /// Deletes a group; `Conflict` when a condition does not hold.
    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>>;

    /// Deletes a topic with its groups; `Conflict` when a condition does not hold.
    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>>;
}
