//! Consuming: as a member of a group, alone, or as a reader of the log.

use std::collections::VecDeque;
use std::time::Duration;

use busline_core::link::{Link, LinkReader, LinkSubscription};
use busline_core::transport::{
    GroupSpec, Membership, OnDifference, Read, RetryMode, Subscribe, TopicSpec, Topology,
    TopologyMode,
};
use busline_core::{
    Delivery, Error, GroupName, KeyPattern, Offset, Patterns, Position, Record, Result, Topic,
};
use tokio::sync::watch;

/// The setters that both kinds of subscriptions share.
macro_rules! subscribe_setters {
    () => {
        /// The most unsettled deliveries.
        pub fn max_in_flight(mut self, count: u32) -> Self {
            self.subscribe.max_in_flight = count;
            self
        }

        /// The most bytes of unsettled deliveries; one larger message still comes, alone.
        pub fn max_in_flight_bytes(mut self, bytes: u64) -> Self {
            self.subscribe.max_in_flight_bytes = bytes;
            self
        }

        /// How long a delivery is leased at a time; a member that is stopped loses it after this.
        pub fn lease(mut self, lease: Duration) -> Self {
            self.subscribe.lease = lease;
            self
        }

        /// How long a delivery may be held in all before it is lost.
        pub fn hold_max(mut self, hold_max: Duration) -> Self {
            self.subscribe.hold_max = Some(hold_max);
            self
        }
    };
}

/// A group to declare and to join.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it declares, subscribes or joins"]
pub struct GroupBuilder {
    link: Link,
    mode: TopologyMode,
    spec: GroupSpec,
    subscribe: Subscribe,
}

impl GroupBuilder {
    pub(crate) fn new(link: Link, mode: TopologyMode, topic: Topic, group: GroupName) -> Self {
        let subscribe = Subscribe::new(topic.clone(), Membership::Group(group.clone()));
        Self { link, mode, spec: GroupSpec::new(topic, group), subscribe }
    }

    /// Adds a pattern; without any the group gets every key.
    pub fn pattern<P>(mut self, pattern: P) -> Result<Self>
    where
        P: TryInto<KeyPattern>,
        Error: From<P::Error>,
    {
        let mut patterns = self.spec.patterns.as_slice().to_vec();
        patterns.push(pattern.try_into()?);
        self.spec.patterns = Patterns::new(patterns);
        Ok(self)
    }

    /// Sets all patterns.
    pub fn patterns(mut self, patterns: Patterns) -> Self {
        self.spec.patterns = patterns;
        self
    }

    /// Where a new group starts; an existing one stays where it is. From now on unless set.
    pub fn start(mut self, start: Position) -> Self {
        self.spec.start = start;
        self
    }

    /// After this many attempts a message is dead lettered; `None` is never.
    pub fn attempts_max(mut self, attempts_max: impl Into<Option<u32>>) -> Self {
        self.spec.attempts_max = attempts_max.into();
        self
    }

    /// What a retry does to later messages.
    pub fn retry_mode(mut self, retry_mode: RetryMode) -> Self {
        self.spec.retry_mode = retry_mode;
        self
    }

    /// What to do when the group exists and differs; it is refused unless set.
    pub fn on_difference(mut self, on_difference: OnDifference) -> Self {
        self.spec.on_difference = on_difference;
        self
    }

    /// Removes the group when nobody was a member for this long.
    pub fn expires_after(mut self, idle: Duration) -> Self {
        self.spec.expires_after = Some(idle);
        self
    }

    subscribe_setters!();

    /// Declares topic and group: from here on the group misses nothing.
    pub async fn declare(&self) -> Result<()> {
        let topology = Topology {
            mode: self.mode,
            topics: vec![TopicSpec::new(self.spec.topic.clone())],
            groups: vec![self.spec.clone()],
        };
        self.link.declare(&topology).await
    }

    /// Declares the group and joins it.
    pub async fn subscribe(self) -> Result<Consumer> {
        self.declare().await?;
        self.join().await
    }

    /// Joins the group, which must exist.
    pub async fn join(self) -> Result<Consumer> {
        Consumer::open(&self.link, self.subscribe).await
    }
}

/// A subscription alone in its own temporary group.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it subscribes"]
pub struct BroadcastBuilder {
    link: Link,
    mode: TopologyMode,
    subscribe: Subscribe,
}

impl BroadcastBuilder {
    pub(crate) fn new(link: Link, mode: TopologyMode, topic: Topic) -> Self {
        let subscribe = Subscribe::new(topic, Membership::Broadcast(Patterns::all()));
        Self { link, mode, subscribe }
    }

    /// Which keys to get; every key unless set.
    pub fn patterns(mut self, patterns: Patterns) -> Self {
        self.subscribe.membership = Membership::Broadcast(patterns);
        self
    }

    subscribe_setters!();

    /// Declares the topic and subscribes: everything published from here on comes.
    pub async fn subscribe(self) -> Result<Consumer> {
        let topology = Topology {
            mode: self.mode,
            topics: vec![TopicSpec::new(self.subscribe.topic.clone())],
            groups: Vec::new(),
        };
        self.link.declare(&topology).await?;
        Consumer::open(&self.link, self.subscribe).await
    }
}

/// A stream of deliveries that outlives lost sessions.
#[derive(Debug)]
pub struct Consumer {
    subscription: LinkSubscription,
    fetched: VecDeque<Delivery>,
}

impl Consumer {
    async fn open(link: &Link, subscribe: Subscribe) -> Result<Self> {
        let subscription = link.subscribe(subscribe).await?;
        Ok(Self { subscription, fetched: VecDeque::new() })
    }

    /// The next delivery; waits for it. `None` after [`Consumer::stop`]. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Delivery>> {
        if let Some(delivery) = self.fetched.pop_front() {
            return Ok(Some(delivery));
        }
        let Some(chunk) = self.subscription.next().await? else { return Ok(None) };
        self.fetched = chunk.into();
        Ok(self.fetched.pop_front())
    }

    /// As many deliveries as are there, at least one; waits for it. `None` after
    /// [`Consumer::stop`]. Cancel safe.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<Delivery>>> {
        if !self.fetched.is_empty() {
            return Ok(Some(std::mem::take(&mut self.fetched).into()));
        }
        self.subscription.next().await
    }

    /// How often it subscribed: the number grows when it went on after a lost connection. A broadcast misses what was
    /// published in between.
    pub(crate) fn openings(&self) -> watch::Receiver<u64> {
        self.subscription.openings()
    }

    /// Stops fetching. What was fetched still comes, then `None`; what is held can be settled.
    pub async fn stop(&mut self) -> Result<()> {
        self.subscription.stop().await
    }
}

impl Drop for Consumer {
    /// What was fetched and not asked for yet was seen by nobody: no attempt of it is used up.
    fn drop(&mut self) {
        self.fetched.drain(..).for_each(Delivery::give_back);
    }
}

/// A reader to open.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it opens"]
pub struct ReaderBuilder {
    link: Link,
    read: Read,
}

impl ReaderBuilder {
    pub(crate) fn new(link: Link, topic: Topic, from: Position) -> Self {
        Self { link, read: Read::new(topic, from) }
    }

    /// Which keys to see; every key unless set.
    pub fn patterns(mut self, patterns: Patterns) -> Self {
        self.read.patterns = patterns;
        self
    }

    /// The most records fetched at once.
    pub fn chunk_max(mut self, records: usize) -> Self {
        self.read.chunk_max = records;
        self
    }

    /// Opens the reader; the topic must exist.
    pub async fn open(self) -> Result<LogReader> {
        let reader = self.link.read(self.read).await?;
        Ok(LogReader { reader, fetched: VecDeque::new() })
    }
}

/// A reader of a topic's log: it settles nothing, and nobody sees it.
#[derive(Debug)]
pub struct LogReader {
    reader: LinkReader,
    fetched: VecDeque<Record>,
}

impl LogReader {
    /// The next record; `None` at the end of the log as it is now. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        self.fill().await?;
        Ok(self.fetched.pop_front())
    }

    /// The next record; waits for it. Cancel safe: put a time limit around it.
    pub async fn follow(&mut self) -> Result<Record> {
        loop {
            if let Some(record) = self.next().await? {
                return Ok(record);
            }
            self.reader.wait().await?;
        }
    }

    /// Fetches what comes next, if nothing is fetched, and keeps it. Cancel safe.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        if self.fetched.is_empty() {
            self.fetched = self.reader.next().await?.into();
        }
        Ok(())
    }

    /// Waits until there may be more. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        self.reader.wait().await
    }

    /// Goes elsewhere. After an error the reader stays where it was.
    pub async fn seek(&mut self, to: Position) -> Result<()> {
        self.reader.seek(to).await?;
        self.fetched.clear();
        Ok(())
    }

    /// The place of the next record, to go on from later.
    pub fn position(&self) -> Option<Offset> {
        match self.fetched.front() {
            Some(record) => Some(record.offset.clone()),
            None => self.reader.position(),
        }
    }
}
