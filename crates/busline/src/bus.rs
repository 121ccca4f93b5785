//! The bus: opened by URL, cheap to clone, shared by everything that a program does with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::link::{Link, LinkOptions};
use busline_core::transport::{
    DeleteIf, Dialect, GroupInfo, Peeked, Role, Spec, TopicInfo, TopicSpec, Topology, TopologyMode,
    Transport,
};
use busline_core::{
    Capabilities, Capability, Clock, Durability, Error, GroupName, Offset, Position, Result,
    SystemClock, Topic,
};
use busline_transports::Registry;

use crate::config::BusConfig;
use crate::consume::{BroadcastBuilder, GroupBuilder, ReaderBuilder};
use crate::publish::Publisher;

/// A bus. All clones share its sessions.
#[derive(Clone)]
pub struct Bus {
    link: Link,
    topology: TopologyMode,
}

impl Bus {
    /// Opens the bus of a URL, as `file:./bus`; several, separated by commas, are tried in turn.
    ///
    /// Errors: `Limit` for a malformed URL, an unknown scheme or option; `Unauthorized`, `Conflict`
    /// when the bus may not be used or is none; `Disconnected` when it cannot be reached in time.
    pub async fn open(url: &str) -> Result<Self> {
        Self::connect(BusConfig::new(url)).await
    }

    /// Opens a bus by its configuration. Cancel safe.
    pub async fn connect(config: BusConfig) -> Result<Self> {
        Self::connect_with_clock(config, SystemClock::shared()).await
    }

    /// As [`Bus::connect`], with the clock that all waiting goes by.
    pub async fn connect_with_clock(config: BusConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::over(config.transports(&Registry::new())?, config, clock).await
    }

    /// As [`Bus::connect`], by a registry that has transports of others too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> busline::Result<()> {
    /// use busline::transport::Registry;
    ///
    /// let registry = Registry::new(); // .with(Pigeons)?
    /// let bus = busline::Bus::connect_by(&registry, "memory:".into()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_by(registry: &Registry, config: BusConfig) -> Result<Self> {
        Self::over(config.transports(registry)?, config, SystemClock::shared()).await
    }

    /// Opens a bus over transports of one's own, tried in turn; the URLs of the configuration are
    /// not looked at. Cancel safe.
    pub async fn over(
        transports: Vec<Arc<dyn Transport>>,
        config: BusConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Self::connect_over(transports, config, clock, false).await
    }

    /// As [`Bus::over`], with one attempt a transport.
    pub(crate) async fn over_once(
        transports: Vec<Arc<dyn Transport>>,
        config: BusConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Self::connect_over(transports, config, clock, true).await
    }

    async fn connect_over(
        transports: Vec<Arc<dyn Transport>>,
        config: BusConfig,
        clock: Arc<dyn Clock>,
        first_connect_once: bool,
    ) -> Result<Self> {
        let options = LinkOptions {
            clock,
            dialect: config.dialect,
            client_name: config.client_name.clone(),
            window: config.window,
            first_connect_max: config.first_connect_max(),
            first_connect_once,
            ..LinkOptions::default()
        };
        let bus = Self { link: Link::new(transports, options)?, topology: config.topology };
        bus.link.session(Role::Consume).await?;
        Ok(bus)
    }

    /// This bus for a style that follows the conventions of other programs: over the same brokers, in
    /// this dialect, unless the URL says which (`?dialect=`): then in that.
    ///
    /// Where nothing changes it is this bus. Otherwise it has sessions of its own, connected when they
    /// are needed, and is closed by itself; closing this one does not close it.
    pub fn in_dialect(&self, dialect: Dialect) -> Result<Self> {
        Ok(Self { link: self.link.in_dialect(dialect)?, topology: self.topology })
    }

    /// The wire conventions that it follows.
    pub fn dialect(&self) -> Dialect {
        self.link.dialect()
    }

    /// What the bus promises.
    pub async fn capabilities(&self) -> Result<Capabilities> {
        let session = self.link.session(Role::Consume).await?;
        Ok(session.capabilities(&Spec::default()))
    }

    /// Fails with `Refused` unless the bus keeps this promise; the error names the way out.
    pub async fn require(&self, capability: Capability) -> Result<()> {
        self.capabilities().await?.require(capability)
    }

    /// Fails with `Refused` unless receipts survive at least this; the error says what they survive.
    pub async fn require_durability(&self, least: Durability) -> Result<()> {
        self.capabilities().await?.require_durability(least)
    }

    /// Declares topics and groups.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        self.link.declare(topology).await
    }

    /// A publisher to a topic, which is declared first.
    pub async fn publisher<T>(&self, topic: T) -> Result<Publisher>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic: Topic = topic.try_into()?;
        let topology = Topology {
            mode: self.topology,
            topics: vec![TopicSpec::new(topic.clone())],
            groups: Vec::new(),
        };
        self.link.declare(&topology).await?;
        Ok(Publisher::new(self.link.clone(), topic))
    }

    /// Declares a topic whose log can be read.
    pub(crate) async fn declare_log(&self, topic: &Topic) -> Result<()> {
        let spec = TopicSpec { replay: true, ..TopicSpec::new(topic.clone()) };
        let topology = Topology { mode: self.topology, topics: vec![spec], groups: Vec::new() };
        self.link.declare(&topology).await
    }

    /// A publisher to a topic that was declared.
    pub(crate) fn publisher_to(&self, topic: Topic) -> Publisher {
        Publisher::new(self.link.clone(), topic)
    }

    /// Whether what is missing may be created.
    pub(crate) fn creates(&self) -> bool {
        self.topology == TopologyMode::Create
    }

    /// Whether there is a session to consume by, rather than an attempt to get one.
    pub(crate) fn is_connected(&self) -> bool {
        self.link.is_connected(Role::Consume)
    }

    /// A group of a topic, to declare and to join.
    pub fn group<T, G>(&self, topic: T, group: G) -> Result<GroupBuilder>
    where
        T: TryInto<Topic>,
        G: TryInto<GroupName>,
        Error: From<T::Error> + From<G::Error>,
    {
        let (topic, group) = (topic.try_into()?, group.try_into()?);
        Ok(GroupBuilder::new(self.link.clone(), self.topology, topic, group))
    }

    /// A subscription that gets every message from now on, alone.
    pub fn broadcast<T>(&self, topic: T) -> Result<BroadcastBuilder>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Ok(BroadcastBuilder::new(self.link.clone(), self.topology, topic.try_into()?))
    }

    /// A reader of a topic's log; it settles nothing.
    pub fn reader<T>(&self, topic: T, from: Position) -> Result<ReaderBuilder>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Ok(ReaderBuilder::new(self.link.clone(), topic.try_into()?, from))
    }

    /// The operator's view; `Refused` where the broker has none.
    pub async fn admin(&self) -> Result<Admin> {
        self.require(Capability::Admin).await?;
        Ok(Admin { link: self.link.clone() })
    }

    /// The clock that all waiting goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.link.clock()
    }

    /// Flushes what was accepted and settled, then disconnects; at most this long.
    ///
    /// `Elapsed` when the time was over first. Everything that uses the bus fails afterwards.
    pub async fn close(&self, deadline: Duration) -> Result<()> {
        self.link.close(deadline).await
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus({})", self.link)
    }
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.fmt(f)
    }
}

/// The operator's view of a bus. Everything takes effect at once for running members too.
#[derive(Debug, Clone)]
pub struct Admin {
    link: Link,
}

/// Runs one call on the admin of the live session.
macro_rules! call {
    ($self:ident, $admin:ident => $call:expr) => {
        $self
            .link
            .with_session(|session| async move {
                match session.admin() {
                    Some($admin) => $call.await,
                    None => session.capabilities(&Spec::default()).require(Capability::Admin).and(
                        Err(Error::refused("admin", "this session", "use the broker's own tools")),
                    ),
                }
            })
            .await
    };
}

impl Admin {
    /// Every topic, sorted by name.
    pub async fn topics(&self) -> Result<Vec<TopicInfo>> {
        call!(self, admin => admin.topics())
    }

    /// The groups of a topic or of all, sorted by topic and name; temporary ones included.
    pub async fn groups(&self, topic: Option<&Topic>) -> Result<Vec<GroupInfo>> {
        call!(self, admin => admin.groups(topic))
    }

    /// One group; `NotFound` where there is none. It may be known where groups cannot be listed.
    pub async fn group(&self, topic: &Topic, group: &GroupName) -> Result<GroupInfo> {
        call!(self, admin => admin.group(topic, group))
    }

    /// Up to `limit` unsettled messages of a group, oldest first, left where they are; `from` an
    /// offset on, so that many are looked at page by page.
    pub async fn peek(
        &self,
        topic: &Topic,
        group: &GroupName,
        from: Option<&Offset>,
        limit: usize,
    ) -> Result<Vec<Peeked>> {
        call!(self, admin => admin.peek(topic, group, from, limit))
    }

    /// Moves a group; what its members hold is lost to them.
    pub async fn reset_group(&self, topic: &Topic, group: &GroupName, to: &Position) -> Result<()> {
        call!(self, admin => admin.reset_group(topic, group, to))
    }

    /// Settles everything unsettled of a group; returns how many messages that were.
    pub async fn purge(&self, topic: &Topic, group: &GroupName) -> Result<u64> {
        call!(self, admin => admin.purge(topic, group))
    }

    /// Deletes a group; `Conflict` when a condition does not hold.
    pub async fn delete_group(
        &self,
        topic: &Topic,
        group: &GroupName,
        condition: DeleteIf,
    ) -> Result<()> {
        call!(self, admin => admin.delete_group(topic, group, condition))?;
        self.link.forget_declared(topic, Some(group));
        Ok(())
    }

    /// Deletes a topic with its groups; `Conflict` when a condition does not hold.
    pub async fn delete_topic(&self, topic: &Topic, condition: DeleteIf) -> Result<()> {
        call!(self, admin => admin.delete_topic(topic, condition))?;
        self.link.forget_declared(topic, None);
        Ok(())
    }
}
