//! Sending to a log.

use std::time::Duration;

use busline_core::{Error, ErrorKind, Key, Message, Offset, PublishError, Receipt, Result, Topic};
use bytes::Bytes;

use super::hermes::Event;
use crate::bus::Bus;
use crate::publish::Publisher;

/// How long closing may take.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Sends messages to the log of a topic. Clones share it.
#[derive(Debug, Clone)]
pub struct Producer {
    publisher: Publisher,
    /// Closed with it, when it was opened for it.
    bus: Option<Bus>,
}

impl Producer {
    /// Opens the bus of a URL for this producer, which closes it. The topic is declared.
    ///
    /// Errors: as [`Bus::open`]; `Refused` where topics have no log.
    pub async fn open<T>(url: &str, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic: Topic = topic.try_into()?;
        Self::owning(Bus::open(url).await?, topic).await
    }

    /// On a bus that is closed with it.
    pub(super) async fn owning(bus: Bus, topic: Topic) -> Result<Self> {
        Ok(Self { bus: Some(bus.clone()), ..Self::on(&bus, topic).await? })
    }

    /// On a bus that is open, and stays so. The topic is declared; `Refused` where topics have no log.
    ///
    /// Ask the bus before what a receipt has to survive: [`Bus::require_durability`].
    pub async fn on<T>(bus: &Bus, topic: T) -> Result<Self>
    where
        T: TryInto<Topic>,
        Error: From<T::Error>,
    {
        let topic = topic.try_into()?;
        bus.declare_log(&topic).await?;
        Ok(Self { publisher: bus.publisher_to(topic), bus: None })
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        self.publisher.topic()
    }

    /// Sends a message of a category; without one it is "". Resolves when it is stored under the durability that
    /// the bus promises: then with its place, where the bus tells.
    ///
    /// A message that failed with `Nacked` or `TooLarge` is not in the log and will not get there. Only `Unknown` says
    /// that nobody can tell, as when the bus was closed meanwhile. Cancelled while it waits, the message may
    /// be stored nevertheless.
    pub async fn send<K>(
        &self,
        category: K,
        payload: impl Into<Bytes>,
    ) -> Result<Option<Offset>, PublishError>
    where
        K: TryInto<Key>,
        Error: From<K::Error>,
    {
        let message = self.publisher.message(category, payload);
        self.send_message(message.map_err(PublishError::TooLarge)?).await
    }

    /// Sends an event of Hermes. As [`Producer::send`].
    pub async fn send_event(&self, event: &Event) -> Result<Option<Offset>, PublishError> {
        let message = event.to_message(self.topic().clone());
        self.send_message(message.map_err(PublishError::TooLarge)?).await
    }

    /// Sends a message of this topic. As [`Producer::send`].
    pub async fn send_message(&self, message: Message) -> Result<Option<Offset>, PublishError> {
        if message.topic != *self.topic() {
            let why = format!("the message is for topic '{}'", message.topic);
            let error = Error::new(ErrorKind::Limit, why).context("topic", self.topic());
            return Err(PublishError::TooLarge(error));
        }
        match self.publisher.publish(message).await? {
            Receipt::Stored { offset } => Ok(offset),
            // Nothing was mandatory.
            _ => Ok(None),
        }
    }

    /// A publisher to the same topic, for batches and for receipts that are waited for later.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Flushes what was sent, and closes the bus if it was opened by [`Producer::open`].
    pub async fn close(self) -> Result<()> {
        match self.bus {
            Some(bus) => bus.close(CLOSE_MAX).await,
            None => Ok(()),
        }
    }
}
