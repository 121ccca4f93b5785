//! What a handler can ask for as an argument.

use std::fmt;

use busline_core::{Attempt, Outcome, Result, Settled};
use bytestring::ByteString;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::{Context, Sent};
use super::fault::BoxError;
use super::request::{Environment, Held, Request};
use super::respond::Response;
use super::wire::{self, Kind, Status};

use super::wire::Meta;

/// Something that can be taken out of a message, or of the service around it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument of a handler",
    note = "take `Payload<T>`, `Context`, `State<T>`, `Conversation`, `Correlation`, `Key`, `Meta`, `ReplyTo`, `Replier`, `ResultStatus`, `Attempt`, `Lease` or `Manual`, or implement `FromRequest`"
)]
pub trait FromRequest: Sized {
    /// Takes it; a rejection settles the message without calling the handler.
    fn from_request(request: &mut Request) -> Result<Self, Rejection>;

    /// Whether it can ever be had; looked at when the service starts.
    fn check(environment: &Environment) -> Result<()> {
        let _ = environment;
        Ok(())
    }
}

/// Why a handler was not called.
///
/// A command is answered with `{"reason": …}`; any other message goes to the dead letters at once, as
/// trying again would not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection(String);

impl Rejection {
    /// A rejection for this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    pub(crate) fn into_response(self, request: &Request) -> Result<Response, BoxError> {
        if request.kind() != Kind::Command {
            return Err(Box::new(self));
        }
        let answer = super::Fault::new(self.0).into_answer(request.format())?;
        Ok(Response::Answer(Status::Error, answer))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Rejection {}

/// The payload, as a type of your own or as a value of any shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Payload<T> {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        request.payload().map(Payload)
    }
}

/// A state that was given with [`App::state`](super::App::state); it is cloned for each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State<S>(pub S);

impl<S: Clone + Send + Sync + 'static> FromRequest for State<S> {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        let state = request.context().core().environment.state();
        state.map(State).map_err(|error| Rejection::new(error.to_string()))
    }

    fn check(environment: &Environment) -> Result<()> {
        environment.state::<S>().map(drop)
    }
}

impl FromRequest for Context {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(request.context().clone())
    }
}

impl FromRequest for Attempt {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(request.attempt())
    }
}

impl FromRequest for Meta {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(request.incoming().meta.clone())
    }
}

/// The conversation that the message is part of, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation(pub ByteString);

impl FromRequest for Conversation {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self(request.incoming().conversation()))
    }
}

/// The correlation id of a command or result; empty when the sender gave none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correlation(pub ByteString);

impl FromRequest for Correlation {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self(request.incoming().correlation_id.clone().unwrap_or_default()))
    }
}

/// The routing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(pub String);

impl FromRequest for Key {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self(request.key().to_owned()))
    }
}

/// Where the answer to a command goes; empty where there is none to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo(pub ByteString);

impl FromRequest for ReplyTo {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self(request.incoming().reply_to.clone().unwrap_or_default()))
    }
}

/// What a result says: `success`, `error`, or any other text of the sender; empty for other messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultStatus(pub ByteString);

impl ResultStatus {
    /// Whether it is `success`.
    pub fn is_success(&self) -> bool {
        self.0 == Status::Success.as_str()
    }
}

impl FromRequest for ResultStatus {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self(request.incoming().status.clone().unwrap_or_default()))
    }
}

/// The duty to answer a command, from anywhere and at any time.
///
/// Whoever takes one answers by hand: what the handler returns is sent to nobody, but for a
/// [`Fault`](super::Fault). The command is acknowledged when the handler ends: what must survive a crash
/// until the answer is given stays in the handler, or is settled by hand ([`Manual`]).
#[derive(Debug, Clone)]
#[must_use = "a caller waits for the answer"]
pub struct Replier {
    context: Context,
    reply_to: ByteString,
    correlation_id: Option<ByteString>,
}

impl Replier {
    /// Where the answer goes.
    pub fn reply_to(&self) -> &str {
        &self.reply_to
    }

    /// Answers that it is done. Resolves when the answer is accepted for sending.
    pub async fn success(&self, payload: &(impl Serialize + Sync)) -> Result<Sent> {
        self.answer(Status::Success, payload).await
    }

    /// Answers that it is not.
    pub async fn error(&self, payload: &(impl Serialize + Sync)) -> Result<Sent> {
        self.answer(Status::Error, payload).await
    }

    async fn answer(&self, status: Status, payload: &(impl Serialize + Sync)) -> Result<Sent> {
        let payload = wire::encode(self.context.core().format, payload)?;
        let correlation_id = self.correlation_id.as_deref();
        self.context.send_result(&self.reply_to, correlation_id, status, payload).await
    }
}

impl FromRequest for Replier {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        request.answer_by_hand();
        let (reply_to, correlation_id) =
            (request.incoming().reply_to.clone(), request.incoming().correlation_id.clone());
        let reply_to = reply_to.ok_or_else(|| Rejection::new("the message asks for no answer"))?;
        // The handler may be gone by then, and its gate with it.
        Ok(Self { context: request.context().detached(), reply_to, correlation_id })
    }
}

/// The duty to settle the message: from anywhere, at any time, without waiting for what the handler
/// published. Dropped, it gives the message back, which comes again. A message whose handler is not called, because
/// another argument is missing, is settled as any other.
#[derive(Debug)]
#[must_use = "a message that nobody settles comes again"]
pub struct Manual(Held);

impl Manual {
    /// Done. As the others it resolves to `Lost` when the message is somebody else's by now.
    pub fn ack(self) -> Settled {
        self.settle(Outcome::Ack)
    }

    /// It comes again, at the earliest after this; `None` is at once.
    pub fn retry(self, after: impl Into<Option<std::time::Duration>>) -> Settled {
        self.settle(Outcome::Retry { after: after.into() })
    }

    /// To the dead letters, with the reason.
    pub fn reject(self, reason: impl Into<String>) -> Settled {
        self.settle(Outcome::Reject { reason: reason.into() })
    }

    fn settle(self, outcome: Outcome) -> Settled {
        match self.0.take_by_hand() {
            Some(delivery) => delivery.settle(outcome),
            // It was settled when its handler was not called, for whoever kept this nevertheless: `Lost`.
            None => Settled::channel().1,
        }
    }
}

impl Drop for Manual {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl FromRequest for Manual {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        let held = request.settle_by_hand();
        held.map(Self).ok_or_else(|| Rejection::new("the message is settled by another argument"))
    }
}

/// The claim on the message: it is lost when the broker gives the message to somebody else, because its connection
/// is gone or its lease ran out. A handler that goes on then does it twice; its acknowledgement counts for nothing.
#[derive(Debug, Clone)]
pub struct Lease(Shared<BoxFuture<'static, ()>>);

impl Lease {
    /// Resolves when it is lost; never when the message is settled before. Cancel safe.
    pub async fn lost(&self) {
        self.0.clone().await;
    }
}

impl FromRequest for Lease {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(Self(request.lost().shared()))
    }
}

/// For handlers that look at a rejection themselves.
impl<T: FromRequest> FromRequest for Result<T, Rejection> {
    fn from_request(request: &mut Request) -> Result<Self, Rejection> {
        Ok(T::from_request(request))
    }

    fn check(environment: &Environment) -> Result<()> {
        T::check(environment)
    }
}
