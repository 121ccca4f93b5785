//! A channel with its consumer: both go together, and in one order only.

use lapin::{Channel, Consumer};

/// A consumer and the channel that is there for it.
///
/// A consumer that is dropped is cancelled by its client, in its own time; on a channel that is closed
/// meanwhile, that ends the whole connection. So the channel is closed first, also when whoever had it was
/// given up.
pub(super) struct ConsumerChannel(Option<(Channel, Consumer)>);

impl ConsumerChannel {
    pub(super) fn new(channel: Channel, consumer: Consumer) -> Self {
        Self(Some((channel, consumer)))
    }

    /// The consumer.
    pub(super) fn consumer(&mut self) -> lapin::Result<&mut Consumer> {
        self.get().map(|(_, consumer)| consumer)
    }

    /// Both.
    pub(super) fn get(&mut self) -> lapin::Result<&mut (Channel, Consumer)> {
        let closed = lapin::ErrorKind::InvalidChannelState(lapin::ChannelState::Closed, "consume");
        self.0.as_mut().ok_or_else(|| closed.into())
    }

    /// Closes both; whatever the consumer was in the middle of ends with it.
    pub(super) async fn close(mut self) {
        if let Some((channel, consumer)) = self.0.take() {
            close(channel, consumer).await;
        }
    }
}

impl Drop for ConsumerChannel {
    fn drop(&mut self) {
        let Some((channel, consumer)) = self.0.take() else { return };
        // Without a runtime the connection has ended too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(close(channel, consumer));
        }
    }
}

async fn close(channel: Channel, consumer: Consumer) {
    // One that is closed already has what it wants.
    drop(channel.close(200, "done".into()).await);
    drop(consumer);
}
