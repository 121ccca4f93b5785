//! The options of `file:` URLs.

use std::path::PathBuf;
use std::time::Duration;

use busline_core::transport::Dialect;
use busline_core::{Durability, Error, ErrorKind, Result};

use crate::url::{BusUrl, duration};

/// What [`FileConfig::from_url`] knows, for messages.
const KNOWN: &str = "sync (always, interval, os), sync_interval, segment_bytes, window, full_wait, \
                     create, allow_remote, dialect";

/// When a receipt is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// After `fdatasync`, shared by all who wait: survives loss of power.
    #[default]
    Always,
    /// Once written; synced this often: survives the death of every process.
    Interval(Duration),
    /// Once written; the operating system syncs when it likes: survives the death of every process.
    Os,
}

/// How the embedded log is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The directory of the bus.
    pub path: PathBuf,
    /// When a receipt is given.
    pub sync: Sync,
    /// A segment is closed and the next begun above this many bytes.
    pub segment_bytes: u64,
    /// The most messages accepted and not receipted, a session.
    pub window: usize,
    /// How long a publisher waits for room on a full disk before it fails with `Full`.
    pub full_wait: Duration,
    /// Whether a missing directory is made into a bus.
    pub create: bool,
    /// Whether a network file system is accepted, against advice: locks may not work there.
    pub allow_remote: bool,
    /// The conventions that sessions follow, whatever they are asked for; nothing of it can be seen
    /// but that messages get no ids where the dialect has none.
    pub dialect: Option<Dialect>,
}

impl FileConfig {
    /// The defaults: durable, 64 MiB segments, created when missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            sync: Sync::Always,
            segment_bytes: 64 << 20,
            window: 16_384,
            full_wait: Duration::from_secs(5),
            create: true,
            allow_remote: false,
            dialect: None,
        }
    }

    /// Reads the options of a URL; an unknown or malformed one is `Limit`.
    pub fn from_url(mut url: BusUrl) -> Result<Self> {
        let mut config = Self::new(url.path()?);
        let is_bool = |text: &str| text.parse::<bool>().ok();
        let positive = |text: &str| duration(text).filter(|duration| !duration.is_zero());
        let interval = url.take("sync_interval", "a duration above 0 as 100ms", positive)?;
        let mode = url.take("sync", "always, interval or os", |text| {
            ["always", "interval", "os"].into_iter().find(|known| *known == text)
        })?;
        config.sync = match (mode, interval) {
            (Some("os"), None) => Sync::Os,
            (Some("interval"), interval) => {
                Sync::Interval(interval.unwrap_or(Duration::from_millis(100)))
            }
            (None | Some("always"), None) => Sync::Always,
            _ => {
                return Err(Error::new(
                    ErrorKind::Limit,
                    "option sync_interval needs sync=interval beside it",
                ));
            }
        };
        let bytes = |text: &str| text.parse().ok().filter(|bytes| (4096..=1 << 30).contains(bytes));
        if let Some(bytes) = url.take("segment_bytes", "a number from 4096 to 2^30", bytes)? {
            config.segment_bytes = bytes;
        }
        let count = |text: &str| text.parse().ok().filter(|count| (1..=1 << 20).contains(count));
        if let Some(window) = url.take("window", "a number from 1 to 2^20", count)? {
            config.window = window;
        }
        if let Some(wait) = url.take("full_wait", "a duration as 5s", duration)? {
            config.full_wait = wait;
        }
        if let Some(create) = url.take("create", "true or false", is_bool)? {
            config.create = create;
        }
        if let Some(allow) = url.take("allow_remote", "true or false", is_bool)? {
            config.allow_remote = allow;
        }
        config.dialect = url.take_dialect()?;
        url.finish(KNOWN)?;
        Ok(config)
    }

    /// What a receipt survives.
    pub fn durability(&self) -> Durability {
        match self.sync {
            Sync::Always => Durability::Power,
            Sync::Interval(_) | Sync::Os => Durability::Process,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<FileConfig> {
        FileConfig::from_url(BusUrl::parse(url)?)
    }

    #[test]
    fn options() {
        assert_eq!(config("file:./bus").unwrap(), FileConfig::new("./bus"));
        assert_eq!(config("file:b").unwrap().durability(), Durability::Power);
        assert_eq!(config("file:b?sync=os").unwrap().durability(), Durability::Process);
        let every = config("file:b?sync=interval&sync_interval=20ms").unwrap();
        assert_eq!(every.sync, Sync::Interval(Duration::from_millis(20)));
        let eventail = config("file:b?dialect=eventail").unwrap();
        assert_eq!(eventail.dialect, Some(Dialect::Eventail));
        assert_eq!(config("file:b?segment_bytes=4096").unwrap().segment_bytes, 4096);
        for (bad, words) in [
            ("file:b?sync=never", "always, interval or os"),
            ("file:b?sync_interval=1s", "needs sync=interval"),
            ("file:b?sync=interval&sync_interval=0ms", "above 0"),
            ("file:b?segment_bytes=1", "2^30"),
            ("file:b?dialect=none", "busline, eventail"),
            ("file:b?window=0", "window='0'"),
            ("file:b?fsync=off", "no option 'fsync'; its options are sync"),
        ] {
            let error = config(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
