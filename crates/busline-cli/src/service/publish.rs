//! `event publish` and `configuration publish`.

use busline::service::wire::{self, Conversation, Kind};
use busline::{Bus, Message, Receipt, new_message_id};
use serde::Serialize;

use super::args::{ConfigurationPublishArgs, EventPublishArgs};
use super::{open, payload, require_unroutable};
use crate::app::{App, Missing};
use crate::exit::{self, Failure, Outcome};

/// The JSON line.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    key: &'a str,
    conversation_id: &'a str,
    status: &'a str,
}

/// Publishes an event.
pub(super) async fn event(app: &mut App, args: EventPublishArgs) -> Outcome {
    let format = payload::format(args.json_payload);
    let payload = payload::read(&args.payload, format)?;
    let conversation = args.conversation.unwrap_or_else(|| new_message_id().to_string());
    let id = Conversation::new(conversation.clone());
    let message = wire::event(&args.name, format, payload, &id)?;
    let bus = open(app, Missing::Create).await?;
    if args.mandatory {
        require_unroutable(&bus).await?;
    }
    let published = publish(&bus, Kind::Event, message, args.mandatory).await;
    finish(app, &bus, Kind::Event, &args.name, &conversation, published).await
}

/// Publishes a configuration.
pub(super) async fn configuration(app: &mut App, args: ConfigurationPublishArgs) -> Outcome {
    let format = payload::format(args.json_payload);
    let payload = payload::read(&args.payload, format)?;
    let message = wire::configuration(&args.name, format, payload)?;
    let bus = open(app, Missing::Create).await?;
    let published = publish(&bus, Kind::Configuration, message, false).await;
    finish(app, &bus, Kind::Configuration, &args.name, "", published).await
}

async fn publish(bus: &Bus, kind: Kind, message: Message, mandatory: bool) -> Outcome<Receipt> {
    let publisher = bus.publisher(wire::topic(kind)).await?;
    Ok(match mandatory {
        true => publisher.publish_mandatory(message).await?,
        false => publisher.publish(message).await?,
    })
}

async fn finish(
    app: &mut App,
    bus: &Bus,
    kind: Kind,
    key: &str,
    conversation_id: &str,
    published: Outcome<Receipt>,
) -> Outcome {
    let outcome = published.and_then(|receipt| {
        let is_stored = matches!(receipt, Receipt::Stored { .. });
        let status = if is_stored { "stored" } else { "unroutable" };
        let topic = wire::topic(kind);
        if app.out.is_json() {
            app.out.line(&Line { topic: topic.as_str(), key, conversation_id, status })?;
        } else if is_stored {
            let conversation = match conversation_id {
                "" => String::new(),
                id => format!(" in conversation {id}"),
            };
            app.out.text(&format!("published {kind} {key}{conversation}"))?;
        }
        if is_stored {
            return Ok(());
        }
        Err(Failure::new(
            exit::UNROUTABLE,
            format!("unroutable: no service wants the {kind} {key}"),
        ))
    });
    let closed = app.close(bus).await;
    outcome.and(closed)
}
