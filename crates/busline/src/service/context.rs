//! What a service publishes with: from handlers, timers, and everything that it starts itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task;
use std::time::Duration;

use busline_core::gate::{ConfirmGate, GateReceipt};
use busline_core::transport::Batch;
use busline_core::{
    Error, ErrorKind, Message, PendingReceipt, PublishError, Published, Receipt, Result,
    new_message_id,
};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::call::{self, CallError};
use super::core::Core;
use super::dispatch;
use super::stop::Stopper;
use super::timer::Timer;
use super::wire::{self, Conversation, Level, LogLine, Status};

/// What a service publishes with. Cheap to clone.
///
/// In a handler it carries the conversation of the message on, and the message is acknowledged only
/// after everything that was published with it is stored; it ends with the handler. What goes on
/// longer, as a task of its own, uses a [detached](Context::detached) one.
#[derive(Clone)]
pub struct Context {
    core: Arc<Core>,
    gate: Option<ConfirmGate>,
    conversation: Conversation,
    /// Whether the service has begun the conversation by itself: then its log lines say none, as those of
    /// Python services.
    is_own: bool,
    /// The message that is being handled.
    cause: Option<ByteString>,
}

impl Context {
    /// For a message that is being handled.
    pub(crate) fn of_message(
        core: Arc<Core>,
        gate: ConfirmGate,
        conversation: Conversation,
        cause: Option<ByteString>,
    ) -> Self {
        Self { core, gate: Some(gate), conversation, is_own: false, cause }
    }

    /// For what a service does by itself, in a conversation of its own.
    pub(crate) fn of_service(core: Arc<Core>) -> Self {
        let conversation = Conversation::new(new_message_id());
        Self { core, gate: None, conversation, is_own: true, cause: None }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        self.core.service()
    }

    /// The conversation that everything published with this belongs to.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// The same in another conversation.
    #[must_use]
    pub fn in_conversation(&self, id: impl Into<ByteString>) -> Self {
        Self { conversation: Conversation::new(id.into()), is_own: false, ..self.clone() }
    }

    /// The same for what goes on after the handler: nothing waits for what it publishes.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { gate: None, ..self.clone() }
    }

    /// Publishes an event.
    ///
    /// Resolves when it is accepted for sending; what becomes of it says [`Sent`], which may be dropped.
    /// `Limit` for a key over 255 bytes or a payload that cannot be written; `Closed` when the handler
    /// has ended. Cancelled before it resolves, nothing is sent.
    pub async fn event(&self, name: &str, payload: &(impl Serialize + Sync)) -> Result<Sent> {
        self.send_event(name, payload, self.core.mandatory.events).await
    }

    /// As [`Context::event`]; when no service wants it, it goes to the handler of returned messages.
    pub async fn event_mandatory(
        &self,
        name: &str,
        payload: &(impl Serialize + Sync),
    ) -> Result<Sent> {
        self.send_event(name, payload, true).await
    }

    /// Publishes a configuration. As [`Context::event`].
    pub async fn configuration(
        &self,
        name: &str,
        payload: &(impl Serialize + Sync),
    ) -> Result<Sent> {
        let payload = wire::encode(self.core.format, payload)?;
        let message = wire::configuration(name, self.core.format, payload)?;
        self.send(message, false).await
    }

    /// Sends the command `service.Name`; its result goes to the service that handles results of
    /// `return_key` ([`Router::result`](super::Router::result)). As [`Context::event`].
    pub async fn send_command(
        &self,
        key: &str,
        payload: &(impl Serialize + Sync),
        return_key: &str,
        correlation_id: &str,
    ) -> Result<Sent> {
        let mandatory = self.core.mandatory.commands;
        let message = self.command_message(key, payload, return_key, correlation_id)?;
        self.send(message, mandatory).await
    }

    /// As [`Context::send_command`], and says itself whether it comes back when nobody takes it.
    pub async fn send_command_mandatory(
        &self,
        key: &str,
        payload: &(impl Serialize + Sync),
        return_key: &str,
        correlation_id: &str,
        mandatory: bool,
    ) -> Result<Sent> {
        let message = self.command_message(key, payload, return_key, correlation_id)?;
        self.send(message, mandatory).await
    }

    /// Sends the command `service.Name` and waits for its result.
    ///
    /// The result comes to this very instance. Cancel safe: a result that comes later is dropped. See
    /// [`CallError`] for what it can end with.
    pub async fn call<Req, Resp>(
        &self,
        key: &str,
        payload: &Req,
        timeout: Duration,
    ) -> Result<Resp, CallError>
    where
        Req: Serialize + Sync + ?Sized,
        Resp: DeserializeOwned,
    {
        call::call(self, key, payload, timeout).await
    }

    /// Tells a caller that its command is done: `destination` and `correlation_id` are those of the
    /// command. As [`Context::event`].
    pub async fn return_success(
        &self,
        destination: &str,
        payload: &(impl Serialize + Sync),
        correlation_id: &str,
    ) -> Result<Sent> {
        let payload = wire::encode(self.core.format, payload)?;
        self.send_result(destination, Some(correlation_id), Status::Success, payload).await
    }

    /// Tells a caller that its command is not done. As [`Context::return_success`].
    pub async fn return_error(
        &self,
        destination: &str,
        payload: &(impl Serialize + Sync),
        correlation_id: &str,
    ) -> Result<Sent> {
        let payload = wire::encode(self.core.format, payload)?;
        self.send_result(destination, Some(correlation_id), Status::Error, payload).await
    }

    /// Logs on the bus, in the conversation; what a service does by itself (hooks, and timers that these start)
    /// logs in none. Never waits and never fails: a line that cannot be sent at the moment is dropped.
    pub fn log(&self, level: Level, short: impl Into<String>) {
        self.log_line(&LogLine::new(level, short));
    }

    /// As [`Context::log`], with a full message and additional fields.
    pub fn log_line(&self, line: &LogLine) {
        let clock = self.core.clock();
        let conversation = if self.is_own { ByteString::new() } else { self.conversation.text() };
        match line.message(self.core.service(), &conversation, clock.now()) {
            Ok(message) => self.core.log(message),
            Err(error) => tracing::warn!(%error, "a log line cannot be written"),
        }
    }

    /// Runs this later, in the conversation of here; see [`Timer`]. It is not run once the service stops.
    pub fn after<F, Fut>(&self, wait: Duration, run: F) -> Timer
    where
        F: FnOnce(Self) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Timer::after(self.detached(), wait, run)
    }

    /// Runs this again and again, the time between the ends and the next starts; see [`Timer`].
    pub fn every<F, Fut>(&self, pause: Duration, run: F) -> Timer
    where
        F: FnMut(Self) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Timer::every(self.detached(), pause, run)
    }

    /// Stops the service.
    pub fn stopper(&self) -> &Stopper {
        &self.core.stopper
    }

    pub(crate) fn command_message(
        &self,
        key: &str,
        payload: &(impl Serialize + Sync + ?Sized),
        return_key: &str,
        correlation_id: &str,
    ) -> Result<Message> {
        let format = self.core.format;
        let payload = wire::encode(format, payload)?;
        wire::command(key, format, payload, &self.conversation, return_key, correlation_id)
    }

    pub(crate) async fn send_result(
        &self,
        destination: &str,
        correlation_id: Option<&str>,
        status: Status,
        payload: Bytes,
    ) -> Result<Sent> {
        let (format, mandatory) = (self.core.format, self.core.mandatory.results);
        let conversation = &self.conversation;
        let message =
            wire::result(destination, format, payload, conversation, status, correlation_id)?;
        self.send(message, mandatory).await
    }

    async fn send_event(
        &self,
        name: &str,
        payload: &(impl Serialize + Sync),
        mandatory: bool,
    ) -> Result<Sent> {
        let payload = wire::encode(self.core.format, payload)?;
        let message = wire::event(name, self.core.format, payload, &self.conversation)?;
        self.send(message, mandatory).await
    }

    async fn send(&self, mut message: Message, mandatory: bool) -> Result<Sent> {
        if let Some(cause) = &self.cause {
            message.properties.causation_id = Some(cause.clone());
        }
        match &self.gate {
            Some(gate) => {
                let batch = Batch { messages: vec![message], mandatory };
                let receipts = gate.send(batch, async |batch| self.core.send(batch).await).await?;
                Ok(Sent(Way::Gated(receipts.into_iter().next().ok_or_else(no_receipt)?)))
            }
            None => {
                let receipt = self.send_untracked(message.clone(), mandatory).await?;
                let (told, sent) = oneshot::channel();
                let context = self.clone();
                self.core.spawn(async move {
                    let published = context.insist(receipt, &message, mandatory).await;
                    // Nobody may want to know.
                    drop(told.send(published.clone()));
                    match published {
                        Ok(Receipt::Unroutable) => dispatch::returned(&context, message).await,
                        Err(error) => dispatch::unpublished(&context, &message, &error),
                        Ok(_) => {}
                    }
                });
                Ok(Sent(Way::Free(sent)))
            }
        }
    }

    /// Sends again what the broker refuses, until it takes it or the service stops: no message comes again
    /// that would have it sent anew.
    async fn insist(
        &self,
        mut receipt: PendingReceipt,
        message: &Message,
        mandatory: bool,
    ) -> Published {
        loop {
            let published = receipt.await;
            let Err(PublishError::Nacked(error)) = &published else { return published };
            tracing::warn!(service = self.service(), key = %message.key, %error, "refused by the broker, and sent again later");
            tokio::select! {
                biased;
                () = self.core.stopper.stopping() => return published,
                () = self.core.clock().sleep(dispatch::UNSTORED_RETRY_AFTER) => {}
            }
            receipt = match self.send_untracked(message.clone(), mandatory).await {
                Ok(receipt) => receipt,
                Err(error) => return Err(PublishError::from_send(error)),
            };
        }
    }

    /// Sends past the gate; what becomes of it is the caller's to look after.
    pub(crate) async fn send_untracked(
        &self,
        message: Message,
        mandatory: bool,
    ) -> Result<PendingReceipt> {
        let receipts = self.core.send(Batch { messages: vec![message], mandatory }).await?;
        receipts.into_iter().next().ok_or_else(no_receipt)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("service", &self.service())
            .field("conversation", &self.conversation)
            .finish_non_exhaustive()
    }
}

/// What became of a message: await it to know, or drop it. It is looked after either way: in a handler the message
/// that is handled is tried again when this one is not stored, and elsewhere this one is sent again until it is, or
/// until the service stops.
#[derive(Debug)]
pub struct Sent(Way);

#[derive(Debug)]
enum Way {
    Gated(GateReceipt),
    Free(oneshot::Receiver<Published>),
}

impl Future for Sent {
    type Output = Published;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Published> {
        match &mut self.0 {
            Way::Gated(receipt) => Pin::new(receipt).poll(context),
            Way::Free(sent) => {
                Pin::new(sent).poll(context).map(|told| told.unwrap_or_else(|_| Err(unknown())))
            }
        }
    }
}

fn unknown() -> PublishError {
    PublishError::Unknown(Error::new(ErrorKind::Closed, "the service has ended"))
}

fn no_receipt() -> Error {
    PublishError::Unknown(Error::new(ErrorKind::Other, "the transport gave no receipt")).into()
}
