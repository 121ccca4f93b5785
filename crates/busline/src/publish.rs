//! Publishing to one topic.

use busline_core::link::Link;
use busline_core::transport::Batch;
use busline_core::{
    Error, ErrorKind, Key, Message, PendingReceipt, PublishError, Published, Result, Topic,
};
use bytes::Bytes;

/// Publishes to a topic. Cheap to clone; dropping it has no side effect.
#[derive(Debug, Clone)]
pub struct Publisher {
    link: Link,
    topic: Topic,
}

impl Publisher {
    pub(crate) fn new(link: Link, topic: Topic) -> Self {
        Self { link, topic }
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// A message to this topic, to be completed and published.
    pub fn message<K>(&self, key: K, payload: impl Into<Bytes>) -> Result<Message>
    where
        K: TryInto<Key>,
        Error: From<K::Error>,
    {
        Ok(Message::new(self.topic.clone(), key.try_into()?, payload))
    }

    /// Publishes one message and waits for its receipt.
    ///
    /// For throughput use [`Publisher::send`], which does not wait. Cancelled while it waits, the
    /// message may be stored nevertheless.
    pub async fn publish(&self, message: Message) -> Published {
        self.one(Batch { messages: vec![message], mandatory: false }).await
    }

    /// As [`Publisher::publish`]; a message that matches no group comes back as `Unroutable`.
    pub async fn publish_mandatory(&self, message: Message) -> Published {
        self.one(Batch { messages: vec![message], mandatory: true }).await
    }

    /// Sends a batch and returns its receipts, one a message in the order of the batch, as soon as
    /// it is accepted. Waits for room in the window; cancelled before acceptance, nothing is sent.
    pub async fn send(&self, batch: impl Into<Batch>) -> Result<Vec<PendingReceipt>> {
        self.link.send(batch.into()).await.map_err(|error| error.during("publish"))
    }

    async fn one(&self, batch: Batch) -> Published {
        // An error of sending means that nothing was accepted: that much is known.
        let receipts = self.send(batch).await.map_err(|error| match error.kind() {
            ErrorKind::Limit => PublishError::TooLarge(error),
            _ => PublishError::Nacked(error),
        })?;
        match receipts.into_iter().next() {
            Some(receipt) => receipt.await,
            None => Err(PublishError::Unknown(Error::new(
                ErrorKind::Other,
                "the transport gave no receipt",
            ))),
        }
    }
}
