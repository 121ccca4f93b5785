//! The verbs of services: `event publish`, `configuration publish`, `command send`, `monitor`, `logs`,
//! `inspect`.

pub(crate) mod args;
mod command;
mod inspect;
mod logs;
mod monitor;
mod payload;
mod publish;

use std::time::Duration;

use busline::service::wire::{self, Kind};
use busline::transport::Dialect;
use busline::{Bus, Capability, Consumer, KeyPattern};

use self::args::{CommandVerb, ConfigurationVerb, EventVerb};
use crate::app::{App, Missing};
use crate::args::patterns;
use crate::exit::Outcome;

pub(crate) use inspect::run as inspect;
pub(crate) use logs::run as logs;
pub(crate) use monitor::run as monitor;

/// Publishes an event.
pub(crate) async fn event(app: &mut App, verb: EventVerb) -> Outcome {
    let EventVerb::Publish(args) = verb;
    publish::event(app, args).await
}

/// Publishes a configuration.
pub(crate) async fn configuration(app: &mut App, verb: ConfigurationVerb) -> Outcome {
    let ConfigurationVerb::Publish(args) = verb;
    publish::configuration(app, args).await
}

/// Sends a command and waits for its result.
pub(crate) async fn command(app: &mut App, verb: CommandVerb) -> Outcome {
    let CommandVerb::Send(args) = verb;
    command::send(app, args).await
}

/// The bus in the dialect of services: a URL that says another has the last word.
async fn open(app: &App, missing: Missing) -> Outcome<Bus> {
    Ok(app.open(missing).await?.in_dialect(Dialect::Eventail)?)
}

/// Gets what passes on the topic of a kind from now on; nobody else misses anything by it.
async fn watch(bus: &Bus, kind: Kind, wanted: &[KeyPattern]) -> Outcome<Consumer> {
    let broadcast = bus.broadcast(wire::topic(kind))?;
    Ok(broadcast.patterns(patterns(wanted.to_vec())).subscribe().await?)
}

/// Fails unless what nobody takes comes back; looked at before anything is sent.
async fn require_unroutable(bus: &Bus) -> Outcome {
    Ok(bus.capabilities().await?.require(Capability::Unroutable)?)
}

/// Resolves after this; never without one.
async fn quiet(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
