//! The arguments: one struct a verb, with its help.

use std::path::PathBuf;
use std::time::Duration;

use busline::{Durability, GroupName, Key, KeyPattern, Patterns, Position, Topic};
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::bridge::args::BridgeArgs;
use crate::demo::args::{DemoArgs, WorkerArgs};
use crate::reference;
use crate::service::args::{
    CommandVerb, ConfigurationVerb, EventVerb, InspectArgs, LogsArgs, MonitorArgs,
};

/// Events, commands and replayable logs, on any broker or on none.
#[derive(Debug, Parser)]
#[command(name = "busline", version, max_term_width = 100, after_long_help = crate::exit::TABLE)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The options of every verb.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The bus; may repeat or take a comma list, tried in turn [env: BUSLINE_URL] [default:
    /// file:./busline-data]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub(crate) bus: Vec<String>,
    /// Print every result as one JSON object a line, and nothing else, on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// A TOML file with the fields of `BusConfig`
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Publish one message, or one a line
    #[command(after_long_help = reference::text("publish"))]
    Publish(PublishArgs),
    /// Read a topic's log: replay and follow; settles nothing
    #[command(after_long_help = reference::text("read"))]
    Read(ReadArgs),
    /// Consume a topic as a member of a group, or alone
    #[command(after_long_help = reference::text("consume"))]
    Consume(ConsumeArgs),
    /// List topics
    #[command(after_long_help = reference::text("topics"))]
    Topics,
    /// List groups with their lag, what is unsettled and who is a member
    #[command(after_long_help = reference::text("groups"))]
    Groups(GroupsArgs),
    /// Move or delete a group
    #[command(subcommand)]
    Group(GroupVerb),
    /// Delete a topic
    #[command(subcommand)]
    Topic(TopicVerb),
    /// Dead letters: see them, look into them, put them back, drop them
    #[command(subcommand)]
    Dead(DeadVerb),
    /// Publish an event of a service
    #[command(subcommand)]
    Event(EventVerb),
    /// Publish a configuration of services
    #[command(subcommand)]
    Configuration(ConfigurationVerb),
    /// Send a command to a service
    #[command(subcommand)]
    Command(CommandVerb),
    /// Show events, configurations, and commands with their results, as they pass
    #[command(after_long_help = reference::text("monitor"))]
    Monitor(MonitorArgs),
    /// Show what services log on the bus
    #[command(after_long_help = reference::text("logs"))]
    Logs(LogsArgs),
    /// Look into a queue without consuming it
    #[command(after_long_help = reference::text("inspect"))]
    Inspect(InspectArgs),
    /// Check or repair the files of an embedded log
    #[command(subcommand)]
    Log(LogVerb),
    /// Copy a topic to another bus: resumable, at least once, in order
    #[command(after_long_help = reference::text("bridge"))]
    Bridge(BridgeArgs),
    /// Say whether a bus can be used, what it promises, and what is likely wrong
    #[command(after_long_help = reference::text("doctor"))]
    Doctor(DoctorArgs),
    /// Measure a bus, beside the limit of the machine
    #[command(after_long_help = reference::text("bench"))]
    Bench(BenchArgs),
    /// The main job on real input: separate processes on one embedded bus, one of them killed
    #[command(after_long_help = reference::text("demo"))]
    Demo(DemoArgs),
    /// One process of the demo
    #[command(hide = true)]
    DemoWorker(WorkerArgs),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Print the man page of the tool, or of a verb
    #[command(hide = true)]
    Man(ManArgs),
}

impl Verb {
    /// Whether it finishes by itself on a signal; the others are dropped.
    pub(crate) fn stops_itself(&self) -> bool {
        match self {
            Self::Publish(_) | Self::Read(_) | Self::Consume(_) => true,
            Self::Command(_) | Self::Monitor(_) | Self::Logs(_) | Self::Bridge(_) => true,
            Self::Dead(verb) => matches!(verb, DeadVerb::Redrive(_) | DeadVerb::Purge(_)),
            _ => false,
        }
    }
}

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The topic; it is created where it is missing
    pub(crate) topic: Topic,
    /// The key: dotted words that patterns select by
    #[arg(long, conflicts_with = "key_field")]
    pub(crate) key: Option<Key>,
    /// Take the key from this field of a JSON payload; dots lead into nested objects
    #[arg(long, value_name = "FIELD")]
    pub(crate) key_field: Option<String>,
    /// A header; may repeat
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// The media type of the payload; `.json` and `.cbor` files are recognised by name
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Fail with exit code 4 when a message matches no group
    #[arg(long)]
    pub(crate) mandatory: bool,
    /// Fail with exit code 6 when a receipt survives less: memory, process, power, replicated
    #[arg(long, value_name = "LEAST", value_parser = durability)]
    pub(crate) durability: Option<Durability>,
    /// One message a line of standard input, or of the file
    #[arg(long, conflicts_with = "data")]
    pub(crate) lines: bool,
    /// The payload is this file, `-` is standard input, which is also the default
    #[arg(long, conflicts_with = "data")]
    pub(crate) file: Option<PathBuf>,
    /// The payload is this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
}

/// Arguments of `read`.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// The topic
    pub(crate) topic: Topic,
    /// Where to start: earliest, latest, an offset, or a time as 2018-02-07T00:31:39Z
    #[arg(long, value_name = "POSITION", default_value = "earliest")]
    pub(crate) from: Position,
    /// Only keys that match; `*` is one word, `#` any number of words; may repeat
    #[arg(long, value_name = "PATTERN")]
    pub(crate) pattern: Vec<KeyPattern>,
    /// Wait for more at the end of the log
    #[arg(long)]
    pub(crate) follow: bool,
    /// End when nothing came for this long, as 250ms, 2s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// End after this many records; exit code 3 when there are fewer
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

/// Arguments of `consume`.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// The topic
    pub(crate) topic: Topic,
    /// Be a member of this group; it is declared where it is missing
    #[arg(long, required_unless_present = "broadcast", conflicts_with = "broadcast")]
    pub(crate) group: Option<GroupName>,
    /// Get every message from now on, alone
    #[arg(long)]
    pub(crate) broadcast: bool,
    /// Only keys that match; the patterns belong to the group; may repeat
    #[arg(long, value_name = "PATTERN")]
    pub(crate) pattern: Vec<KeyPattern>,
    /// Where a new group starts: earliest (the default where the bus can replay), latest, an
    /// offset or a time
    #[arg(long, value_name = "POSITION", conflicts_with = "broadcast")]
    pub(crate) from: Option<Position>,
    /// End after this many deliveries; exit code 3 when a timeout ends it before
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End when nothing came for this long, as 250ms, 2s or 5m; without it, only a signal ends it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// The most deliveries that are not settled yet
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_in_flight: u32,
    #[command(flatten)]
    pub(crate) outcome: OutcomeArgs,
}

/// How `consume` settles.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct OutcomeArgs {
    /// Settle as done, which is the default
    #[arg(long)]
    pub(crate) ack: bool,
    /// Settle as not done: it comes again after this
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retry_after: Option<Duration>,
    /// Settle as rejected: it goes to the dead letters with this reason
    #[arg(long, value_name = "REASON")]
    pub(crate) reject: Option<String>,
}

/// Arguments of `groups`.
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// Only the groups of this topic
    pub(crate) topic: Option<Topic>,
}

/// What to do with a group.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// Move a group: what its members hold is lost to them
    #[command(after_long_help = reference::text("group reset"))]
    Reset(ResetArgs),
    /// Delete a group with everything it knows
    #[command(after_long_help = reference::text("group delete"))]
    Delete(GroupDeleteArgs),
}

/// Arguments of `group reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// The topic
    pub(crate) topic: Topic,
    /// The group
    pub(crate) group: GroupName,
    /// Where it goes on: earliest, latest, an offset, or a time
    #[arg(long, value_name = "POSITION")]
    pub(crate) to: Position,
    #[command(flatten)]
    pub(crate) caution: Caution,
}

/// Arguments of `group delete`.
#[derive(Debug, Args)]
pub(crate) struct GroupDeleteArgs {
    /// The topic
    pub(crate) topic: Topic,
    /// The group
    pub(crate) group: GroupName,
    /// Only when nobody is a member
    #[arg(long)]
    pub(crate) if_unused: bool,
    /// Only when nothing is unsettled
    #[arg(long)]
    pub(crate) if_empty: bool,
    #[command(flatten)]
    pub(crate) caution: Caution,
}

/// What to do with a topic.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicVerb {
    /// Delete a topic with its records and its groups
    #[command(after_long_help = reference::text("topic delete"))]
    Delete(TopicDeleteArgs),
}

/// Arguments of `topic delete`.
#[derive(Debug, Args)]
pub(crate) struct TopicDeleteArgs {
    /// The topic
    pub(crate) topic: Topic,
    /// Only when no group has a member
    #[arg(long)]
    pub(crate) if_unused: bool,
    /// Only when nothing is unsettled
    #[arg(long)]
    pub(crate) if_empty: bool,
    #[command(flatten)]
    pub(crate) caution: Caution,
}

/// The options of what destroys.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Caution {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask on a terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadVerb {
    /// List dead letters, one a line
    #[command(after_long_help = reference::text("dead list"))]
    List(DeadArgs),
    /// Show dead letters with headers and payload
    #[command(after_long_help = reference::text("dead show"))]
    Show(DeadArgs),
    /// Put dead letters back where they came from, for the group that had rejected them
    #[command(after_long_help = reference::text("dead redrive"))]
    Redrive(RedriveArgs),
    /// Drop dead letters
    #[command(after_long_help = reference::text("dead purge"))]
    Purge(PurgeArgs),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct DeadArgs {
    /// A dead-letter topic, a group, or TOPIC/GROUP
    #[arg(value_name = "QUEUE_OR_GROUP")]
    pub(crate) queue: String,
    /// Only letters for which this holds, as: reason ~ '#' and attempt > 2 and headers.source == 'a'
    #[arg(long, value_name = "EXPR")]
    pub(crate) filter: Option<crate::filter::Filter>,
    /// At most this many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

/// Arguments of `dead redrive`.
#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    #[command(flatten)]
    pub(crate) which: DeadArgs,
    /// How many are published, then removed, at a time
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch_size: u32,
    /// Letters that were put back this often are refused
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) max_redrives: u32,
    /// Show how many of which reason, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `dead purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) which: DeadArgs,
    /// How many are removed at a time
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch_size: u32,
    #[command(flatten)]
    pub(crate) caution: Caution,
}

/// What to do with the files of an embedded log.
#[derive(Debug, Subcommand)]
pub(crate) enum LogVerb {
    /// Check every record; exit code 7 when something is damaged
    #[command(after_long_help = reference::text("log verify"))]
    Verify(VerifyArgs),
    /// Cut a torn tail off; a damaged middle is dropped only when told so
    #[command(after_long_help = reference::text("log repair"))]
    Repair(RepairArgs),
}

/// Arguments of `log verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The directory of a bus, of a topic, or of one log
    pub(crate) dir: PathBuf,
}

/// Arguments of `log repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// The directory of a bus, of a topic, or of one log
    pub(crate) dir: PathBuf,
    /// Give up damaged records in the middle too, and keep the rest
    #[arg(long)]
    pub(crate) allow_drop: bool,
    /// Do not ask on a terminal before records are dropped
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The bus; wins over --bus
    pub(crate) url: Option<String>,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The bus; wins over --bus. Without any, one in a directory of its own that goes afterwards
    pub(crate) url: Option<String>,
    /// How many messages
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) messages: u64,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub(crate) size: u32,
    /// Messages sent at a time
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch_size: u32,
    /// How many single messages the latencies are taken of
    #[arg(long, value_name = "N", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) samples: u32,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// A verb, as `publish` or `dead redrive`
    pub(crate) verb: Vec<String>,
    /// Write the pages of all verbs into this directory
    #[arg(long, value_name = "DIR", action = ArgAction::Set)]
    pub(crate) dir: Option<PathBuf>,
}

/// The patterns, sorted; none is every key.
pub(crate) fn patterns(patterns: Vec<KeyPattern>) -> Patterns {
    Patterns::new(patterns)
}

/// A duration as `250ms`, `2s`, `5m`, `1h` or `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a duration as 250ms, 2s, 5m or 1h".to_owned();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = number.checked_mul(ms).ok_or_else(|| "the duration is too long".to_owned())?;
    Ok(Duration::from_millis(ms))
}

fn durability(text: &str) -> Result<Durability, String> {
    let all = [Durability::Memory, Durability::Process, Durability::Power, Durability::Replicated];
    let found = all.into_iter().find(|durability| durability.as_str() == text);
    found.ok_or_else(|| "it is memory, process, power or replicated".to_owned())
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write a header as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in
            ["", "5", "s", "1.5s", "-1s", "1 s", "99999999999999999999s", "9999999999999999d"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
