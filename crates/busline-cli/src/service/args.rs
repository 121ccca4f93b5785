//! The arguments of the verbs of services, with their help.

use std::path::PathBuf;
use std::time::Duration;

use busline::KeyPattern;
use busline::service::wire::Level;
use clap::{Args, Subcommand};

use crate::args::duration;
use crate::reference;

/// What to do with events.
#[derive(Debug, Subcommand)]
pub(crate) enum EventVerb {
    /// Publish one event
    #[command(after_long_help = reference::text("event publish"))]
    Publish(EventPublishArgs),
}

/// Arguments of `event publish`.
#[derive(Debug, Args)]
pub(crate) struct EventPublishArgs {
    /// The event, as UserCreated
    pub(crate) name: String,
    /// The file of the payload, `-` for standard input; JSON unless its name ends with .cbor
    pub(crate) payload: PathBuf,
    /// The conversation that it is part of; a new one unless given
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<String>,
    /// Send the payload as JSON instead of CBOR
    #[arg(long)]
    pub(crate) json_payload: bool,
    /// Fail with exit code 4 when no service wants it
    #[arg(long)]
    pub(crate) mandatory: bool,
}

/// What to do with configurations.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigurationVerb {
    /// Publish one configuration, to the services that run
    #[command(after_long_help = reference::text("configuration publish"))]
    Publish(ConfigurationPublishArgs),
}

/// Arguments of `configuration publish`.
#[derive(Debug, Args)]
pub(crate) struct ConfigurationPublishArgs {
    /// The configuration, as DatabaseSettings
    pub(crate) name: String,
    /// The file of the payload, `-` for standard input; JSON unless its name ends with .cbor
    pub(crate) payload: PathBuf,
    /// Send the payload as JSON instead of CBOR
    #[arg(long)]
    pub(crate) json_payload: bool,
}

/// What to do with commands.
#[derive(Debug, Subcommand)]
pub(crate) enum CommandVerb {
    /// Send one command and wait for its result
    #[command(after_long_help = reference::text("command send"))]
    Send(CommandSendArgs),
}

/// Arguments of `command send`.
#[derive(Debug, Args)]
pub(crate) struct CommandSendArgs {
    /// The command, as service.Command
    #[arg(value_name = "SERVICE.COMMAND")]
    pub(crate) command: String,
    /// The file of the payload, `-` for standard input; JSON unless its name ends with .cbor
    pub(crate) payload: PathBuf,
    /// How long the result is waited for, as 250ms, 2s or 5m [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// The conversation that it is part of; a new one unless given
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<String>,
    /// Send the payload as JSON instead of CBOR
    #[arg(long)]
    pub(crate) json_payload: bool,
}

/// Arguments of `monitor`.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Events of these keys; may repeat. Without any of the three everything is shown
    #[arg(long, value_name = "PATTERN")]
    pub(crate) events: Vec<KeyPattern>,
    /// Commands of these keys, with their results; may repeat
    #[arg(long, value_name = "PATTERN")]
    pub(crate) commands: Vec<KeyPattern>,
    /// Configurations of these keys; may repeat
    #[arg(long, value_name = "PATTERN")]
    pub(crate) configurations: Vec<KeyPattern>,
    /// Only messages for which this holds, as: kind == 'result' and payload.n > 2
    #[arg(long, value_name = "EXPR")]
    pub(crate) filter: Option<crate::filter::Filter>,
    /// Keep each payload in a file of this directory, in the format that it came in
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
    /// End after this many; exit code 3 when a timeout ends it before
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End when nothing came for this long, as 250ms, 2s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Lines of these keys, which are SERVICE.LEVEL, as '*.ERROR'; may repeat
    #[arg(long, value_name = "PATTERN")]
    pub(crate) filter: Vec<KeyPattern>,
    /// Lines of this service; may repeat
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Vec<String>,
    /// Only lines that are this bad or worse, as warning, or 4
    #[arg(long, value_name = "LEVEL", value_parser = super::logs::level)]
    pub(crate) level: Option<Level>,
    /// End after this many; exit code 3 when a timeout ends it before
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End when nothing came for this long, as 250ms, 2s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The queue: its name at the broker, GROUP.TOPIC, TOPIC/GROUP, or a topic of dead letters
    pub(crate) queue: String,
    /// Show at most this many, from the head of the queue; 0 is all
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<usize>,
    /// Keep each payload in a file of this directory, in the format that it came in
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
}
