//! One message from its delivery to its settling.

use std::any::Any;
use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use busline_core::gate::ConfirmGate;
use busline_core::{Delivery, Error, ErrorKind, Message, Outcome, PublishError};
use bytes::Bytes;
use futures_util::FutureExt;

use super::batch::Unstored;
use super::context::Context;
use super::core::Core;
use super::extract::Rejection;
use super::fault::{BoxError, Fault};
use super::request::{Held, Request};
use super::respond::Response;
use super::returned::Returned;
use super::router::Router;
use super::wire::{self, Kind, Level, LogLine, Status};

/// How long a message waits that is tried again because something that its handler published was not
/// stored, and how long something that was published outside of handlers is not sent again.
pub(super) const UNSTORED_RETRY_AFTER: Duration = Duration::from_secs(15);

/// Handles a delivery and settles it; whether it configured the service.
pub(super) async fn handle(
    core: &Arc<Core>,
    router: &Router,
    kind: Kind,
    delivery: Delivery,
) -> bool {
    let incoming = match wire::decode(kind, &delivery.message) {
        Ok(incoming) => incoming,
        Err(invalid) => {
            let line = invalid.log_line();
            let context = Context::of_service(Arc::clone(core));
            let reason = invalid.to_string();
            context.in_conversation(invalid.conversation()).log_line(&line);
            delivery.settle_quietly(Outcome::Reject { reason });
            return false;
        }
    };
    let (kind, key, attempt) = (incoming.kind, incoming.key.clone(), delivery.attempt);
    let gate = ConfirmGate::new();
    let cause = delivery.message.properties.message_id.clone();
    let context =
        Context::of_message(Arc::clone(core), gate.clone(), incoming.conversation.clone(), cause);
    let answer = (incoming.reply_to.clone(), incoming.correlation_id.clone());
    let held = Held::new(delivery);
    let request = Request::new(incoming, attempt, context.clone(), held.clone());
    let handling = async {
        let route = router.route(kind, &key).ok_or_else(|| unhandled(kind, &key))?;
        let response = route.handle(request).await?;
        if let (Response::Answer(status, payload), (Some(reply_to), correlation_id)) =
            (&response, &answer)
        {
            let id = correlation_id.as_deref();
            let sent = context.send_result(reply_to, id, *status, payload.clone()).await;
            if let Err(error) = sent {
                // What is too large stays so; the caller is to know.
                let fault = unanswerable(core, error)?;
                context.send_result(reply_to, id, Status::Error, fault).await?;
            }
        }
        Ok::<Response, BoxError>(response)
    };
    let handled = tokio::select! {
        biased;
        handled = AssertUnwindSafe(handling).catch_unwind() => handled,
        // Nothing is waited for any more: the message is given back, and comes again.
        () = core.stopper.ending() => return false,
    };
    let handled = handled.unwrap_or_else(|panic| Err(panicked(&*panic)));
    let configured = matches!(handled, Ok(Response::Configured(true)));
    let outcome = match handled {
        Ok(_) => Outcome::Ack,
        Err(error) => failure(&context, &key, attempt.number, &error),
    };
    let mut unroutable = Vec::new();
    let retry_after = Some(UNSTORED_RETRY_AFTER);
    let verdict = gate.close(outcome, retry_after, |message| unroutable.push(message)).await;
    for message in unroutable {
        returned(&context.detached(), message).await;
    }
    if let Some(error) = verdict.failure {
        let what = format!("What handling {key} published is not stored");
        log_error(&context, Level::ERROR, what, &error);
    }
    if let Some(delivery) = held.take() {
        if delivery.is_lost() {
            // Settling would change nothing; whoever has it now settles it.
            tracing::warn!(service = core.service(), %key, "a message was lost while it was handled, and comes again");
        }
        delivery.settle_quietly(verdict.outcome);
    }
    configured
}

/// Logs a failure, and decides: tried again at once, and the second time dead lettered.
fn failure(context: &Context, key: &str, attempt: u32, error: &BoxError) -> Outcome {
    if let Some(unstored) = error.downcast_ref::<Unstored>() {
        let what = format!("What handling {key} published is not stored");
        log_error(context, Level::ERROR, what, unstored);
        return Outcome::Retry { after: Some(UNSTORED_RETRY_AFTER) };
    }
    failed(context, key, error);
    // Another try would end the same.
    if attempt < 2 && !error.is::<Rejection>() {
        return Outcome::Retry { after: None };
    }
    log_error(context, Level::EMERGENCY, format!("Giving up on {key}"), &**error);
    Outcome::Reject { reason: error.to_string() }
}

/// Says that something of the service's own failed.
pub(super) fn failed(context: &Context, key: &str, error: &BoxError) {
    let what = format!("Unhandled error while processing message {key}");
    log_error(context, Level::ALERT, what, &**error);
}

/// Gives a message that came back to the handler of such.
pub(super) async fn returned(context: &Context, message: Message) {
    let core = context.core();
    let Some(handler) = &core.returned else {
        let (topic, key) = (&message.topic, &message.key);
        tracing::warn!(service = core.service(), %topic, %key, "a message matched no group");
        return;
    };
    let Some(returned) =
        wire::decode(kind_of(&message), &message).ok().map(|sent| Returned::new(&sent, message))
    else {
        return;
    };
    let context = context.in_conversation(returned.conversation.clone());
    let handling = handler(returned, context.clone());
    let ended = AssertUnwindSafe(handling).catch_unwind().await;
    if let Err(error) = ended.unwrap_or_else(|panic| Err(panicked(&*panic))) {
        let what = format!("in handle_returned_message [{}] {error}", core.service());
        context.log(Level::EMERGENCY, what);
    }
}

/// Says that something published outside of a handler is not stored.
pub(super) fn unpublished(context: &Context, message: &Message, error: &PublishError) {
    let what = format!("What was published as {} is not stored", message.key);
    log_error(context, Level::ERROR, what, error);
}

/// A panic as an error.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> BoxError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message")).into()
}

fn log_error(context: &Context, level: Level, what: String, error: &(dyn StdError + 'static)) {
    let mut full = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        full = format!("{full}\ncaused by: {cause}");
        source = cause.source();
    }
    tracing::warn!(service = context.service(), error = %full, "{what}");
    context.log_line(&LogLine::new(level, what).full(full));
}

/// The answer in the place of one that no bus takes; the error itself when that is another.
fn unanswerable(core: &Core, error: Error) -> Result<Bytes, BoxError> {
    if error.kind() != ErrorKind::Limit {
        return Err(error.into());
    }
    tracing::warn!(service = core.service(), %error, "an answer is too large, the caller gets an error");
    Fault::new(format!("the answer cannot be sent: {error}")).into_answer(core.format)
}

fn unhandled(kind: Kind, key: &str) -> BoxError {
    format!("no handler takes the {kind} {key}: handle it, or set a fallback").into()
}

/// The kind of what was sent, as far as its topic tells.
fn kind_of(message: &Message) -> Kind {
    let kinds = [Kind::Event, Kind::Command, Kind::Configuration];
    let kind = kinds.into_iter().find(|kind| wire::topic(*kind) == message.topic);
    kind.unwrap_or(Kind::Log)
}
