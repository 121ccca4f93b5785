//! The arguments of `bridge`, and what they come to.

use std::path::PathBuf;

use busline::{GroupName, KeyPattern, Patterns, Topic};
use clap::Args;

use crate::exit::{Failure, Outcome};

/// Arguments of `bridge`.
#[derive(Debug, Args)]
pub(crate) struct BridgeArgs {
    /// The bus and the topic that are copied from
    #[arg(long, num_args = 2, value_names = ["URL", "TOPIC"], required = true)]
    pub(crate) from: Vec<String>,
    /// The bus and the topic that are copied to; the topic is created where it is missing
    #[arg(long, num_args = 2, value_names = ["URL", "TOPIC"], required = true)]
    pub(crate) to: Vec<String>,
    /// Only keys that match; `*` is one word, `#` any number of words; may repeat
    #[arg(long, value_name = "PATTERN")]
    pub(crate) pattern: Vec<KeyPattern>,
    /// Wait for more when everything is copied
    #[arg(long)]
    pub(crate) follow: bool,
    /// Keep the progress in this group of the source, instead of one named after the target
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<GroupName>,
    /// Keep the progress in this file, instead of in a group of the source
    #[arg(long, value_name = "FILE", conflicts_with = "group")]
    pub(crate) state: Option<PathBuf>,
}

/// One side of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) url: String,
    pub(super) topic: Topic,
    /// Which bus it is, wherever the program is started: without options and secrets, paths absolute.
    pub(super) identity: String,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) patterns: Patterns,
    pub(super) follow: bool,
    pub(super) group: Option<GroupName>,
    pub(super) state: Option<PathBuf>,
}

impl Plan {
    pub(super) fn of(args: BridgeArgs) -> Outcome<Self> {
        let (from, to) = (End::of(&args.from)?, End::of(&args.to)?);
        if (&from.identity, &from.topic) == (&to.identity, &to.topic) {
            let why = "a topic cannot be copied to itself: it would never end";
            return Err(Failure::usage(why));
        }
        let patterns = Patterns::new(args.pattern);
        Ok(Self { from, to, patterns, follow: args.follow, group: args.group, state: args.state })
    }

    /// A name for this very bridge: the same for the same source, target and patterns, wherever it is started.
    pub(super) fn name(&self) -> String {
        let Self { from, to, patterns, .. } = self;
        let parts = [&from.identity, from.topic.as_str(), &to.identity, to.topic.as_str()];
        let text = parts.join("\0") + "\0" + &patterns.to_string();
        // FNV-1a.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("bridge-{hash:016x}")
    }
}

impl End {
    fn of(values: &[String]) -> Outcome<Self> {
        let [url, topic] = values else {
            return Err(Failure::usage("give a URL and a topic"));
        };
        let here = std::env::current_dir().unwrap_or_default();
        let identity = identity(url, &here.to_string_lossy());
        Ok(Self { url: url.clone(), topic: topic.parse::<Topic>()?, identity })
    }
}

/// The URL without options and secrets, and with a path that is the same from everywhere.
fn identity(url: &str, here: &str) -> String {
    let url = url.split('?').next().unwrap_or(url);
    let Some((scheme, address)) = url.split_once(':') else { return url.to_owned() };
    let scheme = scheme.to_ascii_lowercase();
    match address.strip_prefix("//") {
        // A path behind an empty or local host.
        Some(rest) if rest.starts_with('/') => format!("{scheme}:{}", tidied(rest)),
        Some(rest) => {
            format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
        }
        None if address.starts_with('/') => format!("{scheme}:{}", tidied(address)),
        None => format!("{scheme}:{}", tidied(&format!("{here}/{address}"))),
    }
}

/// A path without `.` and without doubled and trailing slashes.
fn tidied(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.fold(String::new(), |path, part| path + "/" + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_the_same_from_everywhere() {
        for (url, expected) in [
            ("file:./a?sync=os", "file:/here/a"),
            ("file:a/", "file:/here/a"),
            ("FILE:///x//a", "file:/x/a"),
            ("file:/x/a?create=false", "file:/x/a"),
            ("amqp://me:secret@host:5672/v?replay=true", "amqp://host:5672/v"),
            ("amqp://host:5672/v", "amqp://host:5672/v"),
        ] {
            assert_eq!(identity(url, "/here"), expected, "{url}");
        }
    }

    fn plan(from: [&str; 2], to: [&str; 2]) -> Outcome<Plan> {
        let own = |values: [&str; 2]| values.map(str::to_owned).to_vec();
        Plan::of(BridgeArgs {
            from: own(from),
            to: own(to),
            pattern: Vec::new(),
            follow: false,
            group: None,
            state: None,
        })
    }

    #[test]
    fn each_bridge_has_a_name_and_none_leads_back_to_itself() {
        let name = |to| plan(["file:/a", "t"], to).unwrap().name();
        assert_eq!(name(["file:/b", "t"]), name(["file:///b/?sync=os", "t"]));
        assert_ne!(name(["file:/b", "t"]), name(["file:/b", "u"]));
        assert_ne!(name(["file:/b", "t"]), name(["file:/c", "t"]));
        assert!(plan(["file:/a", "t"], ["file:/a?sync=os", "t"]).is_err());
        assert!(plan(["file:/a", "t"], ["file:/a", "u"]).is_ok());
        assert!(plan(["file:/a", ""], ["file:/b", "t"]).is_err());
    }
}
