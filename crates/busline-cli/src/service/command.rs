//! `command send`: sends, waits for the result, and says how it went.

use std::time::Duration;

use busline::service::wire::{self, Conversation, Incoming, Kind, Status};
use busline::{Bus, Consumer, KeyPattern, Message, Receipt, new_message_id};
use serde::Serialize;
use serde_json::Value;

use super::args::CommandSendArgs;
use super::{open, payload, require_unroutable, watch};
use crate::app::{App, Missing};
use crate::exit::{self, Failure, Outcome};

/// How long a result is waited for unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The JSON line.
#[derive(Serialize)]
struct Line<'a> {
    status: &'a str,
    payload: Value,
    conversation_id: &'a str,
    correlation_id: &'a str,
}

/// Sends a command and waits for its result.
pub(super) async fn send(app: &mut App, args: CommandSendArgs) -> Outcome {
    let format = payload::format(args.json_payload);
    let payload = payload::read(&args.payload, format)?;
    let id = new_message_id();
    let conversation = args.conversation.clone().unwrap_or_else(|| new_message_id().to_string());
    // A return key of its own: nobody else's result can be taken for this one.
    let return_key = format!("busline-cli-{id}.Result");
    let in_conversation = Conversation::new(conversation.clone());
    let message =
        wire::command(&args.command, format, payload, &in_conversation, &return_key, &id)?;
    let bus = open(app, Missing::Create).await?;
    require_unroutable(&bus).await?;
    let result = ask(app, &bus, message, &return_key, args.timeout.unwrap_or(TIMEOUT)).await;
    let outcome = match result {
        Ok(Some(result)) => print(app, &result),
        // A signal: what was asked for is not waited for any more.
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    let closed = app.close(&bus).await;
    outcome.and(closed)
}

/// The result; `None` when a signal came first.
async fn ask(
    app: &App,
    bus: &Bus,
    message: Message,
    return_key: &str,
    timeout: Duration,
) -> Outcome<Option<Incoming>> {
    let key = message.key.clone();
    let mut results = watch(bus, Kind::Result, &[KeyPattern::new(return_key.to_owned())?]).await?;
    let id = message.properties.correlation_id.clone();
    let publisher = bus.publisher(wire::topic(Kind::Command)).await?;
    let asking = async {
        if !matches!(publisher.publish_mandatory(message).await?, Receipt::Stored { .. }) {
            let why = format!("unroutable: no service takes the command {key}");
            return Err(Failure::new(exit::UNROUTABLE, why));
        }
        result_of(&mut results, id.as_deref()).await
    };
    let mut stop = app.stop.clone();
    tokio::select! {
        () = stop.requested() => Ok(None),
        result = tokio::time::timeout(timeout, asking) => match result {
            Ok(result) => result.map(Some),
            Err(_) => Err(Failure::new(
                exit::ELAPSED,
                format!("no result of {key} came within {timeout:?}; whether it is done is unknown"),
            )),
        },
    }
}

async fn result_of(results: &mut Consumer, id: Option<&str>) -> Outcome<Incoming> {
    loop {
        let Some(delivery) = results.next().await? else {
            return Err(Failure::new(exit::PROBLEM, "the bus was closed"));
        };
        let result = wire::decode(Kind::Result, &delivery.message);
        delivery.ack().await?;
        match result {
            Ok(result) if result.correlation_id.as_deref() == id => return Ok(result),
            Ok(_) => {}
            Err(invalid) => {
                return Err(Failure::new(
                    exit::PROBLEM,
                    format!("the result is invalid: {invalid}"),
                ));
            }
        }
    }
}

fn print(app: &mut App, result: &Incoming) -> Outcome {
    let status = result.status.as_deref().unwrap_or_default();
    let (conversation_id, payload) = (result.conversation(), payload::shown(&result.body));
    let correlation_id = result.correlation_id.as_deref().unwrap_or_default();
    if app.out.is_json() {
        let conversation_id = &*conversation_id;
        app.out.line(&Line { status, payload, conversation_id, correlation_id })?;
    } else {
        let text = serde_json::to_string_pretty(&payload).unwrap_or_default();
        app.out.text(&text)?;
    }
    if status == Status::Success.as_str() {
        return Ok(());
    }
    Err(Failure::new(exit::PROBLEM, format!("the service answers with the status '{status}'")))
}
