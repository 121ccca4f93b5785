//! The log style for code without async: threads that wait, and a consumer that is an iterator.
//!
//! ```
//! use std::time::Duration;
//! use busline::log::blocking::{Consumer, Producer};
//!
//! let producer = Producer::open("memory:log", "people")?;
//! producer.send("base", "hello")?;
//!
//! let consumer = Consumer::open("memory:log", "people")?.timeout(Duration::ZERO);
//! for record in consumer {
//!     assert_eq!(record?.message.payload, "hello");
//! }
//! producer.close()?;
//! # Ok::<(), busline::Error>(())
//! ```
//!
//! In async code every call fails with `Refused`, as it would hold up others. In a process that was forked every call
//! fails with `Closed`: open another one there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::{
    Error, ErrorKind, Key, Message, Offset, PublishError, Record, Result, Timestamp, Topic,
};
use busline_transports::Registry;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use super::OnUnreadable;
use super::hermes::Event;
use crate::blocking::worker::Worker;
use crate::bus::Bus;
use crate::config::BusConfig;

/// Sends messages to the log of a topic, and waits for each until it is stored. Clones share it, on any threads.
#[derive(Clone)]
pub struct Producer(Arc<(Worker, super::Producer)>);

impl Producer {
    /// Opens the bus of a URL. As [`Producer`](super::Producer::open) in async code.
    pub fn open<T>(url: &str, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Self::connect(BusConfig::new(url), topic)
    }

    /// Opens a bus by its configuration.
    pub fn connect<T>(config: BusConfig, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Self::connect_by(&Registry::new(), config, topic)
    }

    /// Opens a bus by its configuration, and by a registry that has transports of others too.
    pub fn connect_by<T>(registry: &Registry, config: BusConfig, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic: Topic = topic.try_into()?;
        let (worker, registry) = (Worker::start("producer")?, registry.clone());
        let producer = worker.wait(async move {
            super::Producer::owning(Bus::connect_by(&registry, config).await?, topic).await
        })??;
        Ok(Self(Arc::new((worker, producer))))
    }

    /// Sends a message of a category; returns when it is stored, with its place where the bus tells. See
    /// [`send`](super::Producer::send) for what a failure means.
    pub fn send<K>(
        &self,
        category: K,
        payload: impl Into<Bytes>,
    ) -> Result<Option<Offset>, PublishError>
    where
        K: TryInto<Key>,
        Error: From<K::Error>,
    {
        let message = self.0.1.publisher().message(category, payload);
        self.send_message(message.map_err(PublishError::TooLarge)?)
    }

    /// Sends an event of Hermes. As [`Producer::send`].
    pub fn send_event(&self, event: &Event) -> Result<Option<Offset>, PublishError> {
        let message = event.to_message(self.0.1.topic().clone());
        self.send_message(message.map_err(PublishError::TooLarge)?)
    }

    /// Sends a message of this topic. As [`Producer::send`].
    pub fn send_message(&self, message: Message) -> Result<Option<Offset>, PublishError> {
        let (worker, producer) = &*self.0;
        let producer = producer.clone();
        let sent = worker.wait(async move { producer.send_message(message).await });
        // A call that is refused here has sent nothing; one whose thread has ended may have.
        sent.map_err(|error| match error.kind() {
            ErrorKind::Refused => PublishError::Nacked(error),
            _ => PublishError::Unknown(error),
        })?
    }

    /// Flushes and disconnects; every later call fails with `Closed`.
    pub fn close(&self) -> Result<()> {
        let (worker, producer) = &*self.0;
        let producer = producer.clone();
        let closed = worker.wait(async move { producer.close().await });
        worker.stop()?;
        closed?
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Producer").field(self.0.1.topic()).finish()
    }
}

/// A reader of a log that keeps its own place. As an iterator it gives the messages from where it stands, and ends
/// when none comes in time, and behind an error unless that is of a message which is skipped.
pub struct Consumer {
    worker: Worker,
    consumer: Arc<Mutex<super::Consumer>>,
    /// The iterator ends here once: it gave an error that would come again.
    ends: bool,
}

impl Consumer {
    /// Opens the bus of a URL. As [`Consumer`](super::Consumer::open) in async code.
    pub fn open<T>(url: &str, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Self::connect(BusConfig::new(url), topic)
    }

    /// Opens a bus by its configuration.
    pub fn connect<T>(config: BusConfig, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        Self::connect_by(&Registry::new(), config, topic)
    }

    /// Opens a bus by its configuration, and by a registry that has transports of others too.
    pub fn connect_by<T>(registry: &Registry, config: BusConfig, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic: Topic = topic.try_into()?;
        let (worker, registry) = (Worker::start("consumer")?, registry.clone());
        let consumer = worker.wait(async move {
            super::Consumer::owning(&Bus::connect_by(&registry, config).await?, topic)
        })??;
        Ok(Self { worker, consumer: Arc::new(Mutex::new(consumer)), ends: false })
    }

    /// How long to wait for each next message; `None`, as it is unless set, waits for ever. See
    /// [`set_timeout`](super::Consumer::set_timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.set_timeout(timeout);
        self
    }

    /// As [`Consumer::timeout`].
    pub fn set_timeout(&mut self, timeout: impl Into<Option<Duration>>) {
        if let Some(consumer) = self.idle() {
            consumer.set_timeout(timeout);
        }
    }

    /// What becomes of a message that cannot be read; it stops there unless set.
    #[must_use]
    pub fn on_unreadable(mut self, on_unreadable: OnUnreadable) -> Self {
        if let Some(consumer) = self.idle() {
            consumer.set_on_unreadable(on_unreadable);
        }
        self
    }

    /// The place of the next message, to keep and to go on from later; `None` before it is known.
    pub fn position(&self) -> Option<Offset> {
        self.consumer.try_lock().ok()?.position()
    }

    /// Where the last message is that could not be read.
    pub fn unreadable(&self) -> Option<Offset> {
        self.consumer.try_lock().ok()?.unreadable().cloned()
    }

    /// Goes behind the message that it stopped at; does nothing when it has not stopped.
    pub fn skip_unreadable(&mut self) {
        if let Some(consumer) = self.idle() {
            consumer.skip_unreadable();
        }
    }

    /// Goes to a place. See [`seek`](super::Consumer::seek).
    pub fn seek(&mut self, offset: &Offset) -> Result<()> {
        let offset = offset.clone();
        self.call(move |consumer| Box::pin(async move { consumer.seek(&offset).await }))?
    }

    /// Goes to the oldest message that there is.
    pub fn seek_to_beginning(&mut self) -> Result<()> {
        self.call(|consumer| Box::pin(consumer.seek_to_beginning()))?
    }

    /// Goes behind the newest message.
    pub fn seek_to_end(&mut self) -> Result<()> {
        self.call(|consumer| Box::pin(consumer.seek_to_end()))?
    }

    /// Goes to the first message that is not older than this.
    pub fn seek_to_time(&mut self, time: Timestamp) -> Result<()> {
        self.call(move |consumer| Box::pin(consumer.seek_to_time(time)))?
    }

    /// The next message; `None` when none came in time.
    pub fn next_message(&mut self) -> Result<Option<Record>> {
        self.call(|consumer| Box::pin(consumer.next()))?
    }

    /// The next event of Hermes; `None` when none came in time.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        self.call(|consumer| Box::pin(consumer.next_event()))?
    }

    /// The next message of a category. See [`find_next`](super::Consumer::find_next).
    pub fn find_next<K>(&mut self, category: K) -> Result<Option<Record>>
    where
        K: TryInto<Key>,
        Error: From<K::Error>,
    {
        let category: Key = category.try_into()?;
        self.call(move |consumer| Box::pin(consumer.find_next::<Key>(category)))?
    }

    /// The events of Hermes from here on, as the iterator that it is itself of messages.
    pub fn events(&mut self) -> impl Iterator<Item = Result<Event>> + '_ {
        std::iter::from_fn(|| self.item(|consumer| Box::pin(consumer.next_event())))
    }

    /// Disconnects.
    pub fn close(self) -> Result<()> {
        let Self { worker, consumer, .. } = self;
        let consumer = Arc::into_inner(consumer).map(Mutex::into_inner);
        let closed = match consumer {
            Some(consumer) => worker.wait(async move { consumer.close().await }),
            // No call is under way: each holds it exclusively until it ends.
            None => Ok(Ok(())),
        };
        worker.stop()?;
        closed?
    }

    /// The consumer; always there between two calls.
    fn idle(&mut self) -> Option<&mut super::Consumer> {
        Arc::get_mut(&mut self.consumer).map(Mutex::get_mut)
    }

    fn call<T: Send + 'static>(
        &self,
        what: impl for<'a> FnOnce(&'a mut super::Consumer) -> BoxFuture<'a, T> + Send + 'static,
    ) -> Result<T> {
        let consumer = Arc::clone(&self.consumer);
        self.worker.wait(async move { what(&mut *consumer.lock().await).await })
    }

    /// What an iterator gives: nothing when there is nothing in time, and once behind an error that would come again.
    fn item<T: Send + 'static>(
        &mut self,
        what: impl for<'a> FnOnce(&'a mut super::Consumer) -> BoxFuture<'a, Result<Option<T>>>
        + Send
        + 'static,
    ) -> Option<Result<T>> {
        if std::mem::take(&mut self.ends) {
            return None;
        }
        let skipped = |idle: &Mutex<super::Consumer>| idle.try_lock().map_or(0, |c| c.skipped());
        let before = skipped(&self.consumer);
        let item = self.call(what).and_then(|item| item).transpose()?;
        self.ends = item.is_err() && skipped(&self.consumer) == before;
        Some(item)
    }
}

impl Iterator for Consumer {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.item(|consumer| Box::pin(consumer.next()))
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("position", &self.position()).finish_non_exhaustive()
    }
}
