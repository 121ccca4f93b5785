//! The options of `sqlite:` URLs.

use std::path::PathBuf;
use std::time::Duration;

use busline_core::transport::Dialect;
use busline_core::{Durability, Error, ErrorKind, Result, Topic};

use crate::url::{BusUrl, duration};

/// What [`SqliteConfig::from_url`] knows, for messages.
const KNOWN: &str = "layout (busline, hermes), dialect, sync (always, os), poll, busy, window, create, copied \
                     (accept), topic (with layout=hermes)";

/// When a receipt is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// After a commit with `synchronous=FULL`, shared by all who wait: survives loss of power.
    #[default]
    Always,
    /// After a commit; the operating system syncs when it likes: survives the death of every process.
    Os,
}

/// Which tables there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Our own.
    Busline,
    /// The single table of Hermes.
    Hermes,
}

/// How a database is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteConfig {
    /// The file.
    pub path: PathBuf,
    /// Which tables there are; `None` follows the dialect that a session asks for.
    pub layout: Option<Layout>,
    /// The conventions that sessions follow, whatever they are asked for.
    pub dialect: Option<Dialect>,
    /// When a receipt is given.
    pub sync: Sync,
    /// How often who waits looks whether another process wrote something.
    pub poll: Duration,
    /// How long is waited for others who hold the database locked.
    pub busy: Duration,
    /// The most messages accepted and not receipted, a session.
    pub window: usize,
    /// Whether a missing file is made.
    pub create: bool,
    /// Whether a database is opened that was copied without its newest part.
    pub accept_copied: bool,
    /// What the only topic of a table of Hermes is called.
    pub topic: Topic,
}

impl SqliteConfig {
    /// The defaults: durable, our own layout unless a session asks for another, created when missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            layout: None,
            dialect: None,
            sync: Sync::Always,
            poll: Duration::from_millis(20),
            busy: Duration::from_secs(5),
            window: 16_384,
            create: true,
            accept_copied: false,
            topic: Topic::new(super::hermes::TABLE).expect("the name is valid"),
        }
    }

    /// Reads the options of a URL; an unknown or malformed one is `Limit`.
    pub fn from_url(mut url: BusUrl) -> Result<Self> {
        let path = url.path()?;
        if path.as_os_str() == ":memory:" {
            return Err(Error::new(ErrorKind::Limit, "a database in memory is no bus for others")
                .hint("use memory:NAME inside of one process, or give the path of a file"));
        }
        let mut config = Self::new(path);
        let is_bool = |text: &str| text.parse::<bool>().ok();
        let positive = |text: &str| duration(text).filter(|duration| !duration.is_zero());
        config.layout = url.take("layout", "busline or hermes", |text| match text {
            "busline" => Some(Layout::Busline),
            "hermes" => Some(Layout::Hermes),
            _ => None,
        })?;
        config.dialect = url.take_dialect()?;
        config.agree_on_layout()?;
        let sync = url.take("sync", "always or os", |text| match text {
            "always" => Some(Sync::Always),
            "os" => Some(Sync::Os),
            _ => None,
        })?;
        config.sync = sync.unwrap_or_default();
        if let Some(poll) = url.take("poll", "a duration above 0 as 20ms", positive)? {
            config.poll = poll;
        }
        let patience =
            |text: &str| positive(text).filter(|busy| *busy <= Duration::from_secs(3600));
        if let Some(busy) = url.take("busy", "a duration above 0, at most 1h, as 5s", patience)? {
            config.busy = busy;
        }
        let count = |text: &str| text.parse().ok().filter(|count| (1..=1 << 20).contains(count));
        if let Some(window) = url.take("window", "a number from 1 to 2^20", count)? {
            config.window = window;
        }
        if let Some(create) = url.take("create", "true or false", is_bool)? {
            config.create = create;
        }
        let accept = |text: &str| (text == "accept").then_some(());
        config.accept_copied = url.take("copied", "accept", accept)?.is_some();
        if config.layout == Some(Layout::Hermes) {
            let name = |text: &str| Topic::new(text.to_owned()).ok();
            if let Some(topic) = url.take("topic", "the name of a topic", name)? {
                config.topic = topic;
            }
        }
        url.finish(KNOWN)?;
        Ok(config)
    }

    /// `layout=hermes` and `dialect=hermes` are the same thing under both names.
    fn agree_on_layout(&mut self) -> Result<()> {
        let hermes = Some(Dialect::Hermes);
        match (self.layout, self.dialect) {
            (Some(Layout::Hermes), None) => self.dialect = hermes,
            (None, dialect) if dialect == hermes => self.layout = Some(Layout::Hermes),
            (None, Some(_)) => self.layout = Some(Layout::Busline),
            (Some(Layout::Hermes), dialect) if dialect != hermes => return Err(contradiction()),
            (Some(Layout::Busline), dialect) if dialect == hermes => return Err(contradiction()),
            _ => {}
        }
        Ok(())
    }

    /// Which tables a session sees that asks for this dialect.
    pub(super) fn layout_for(&self, asked: Dialect) -> Layout {
        let follows = if asked == Dialect::Hermes { Layout::Hermes } else { Layout::Busline };
        self.layout.unwrap_or(follows)
    }

    /// What a receipt survives.
    pub fn durability(&self) -> Durability {
        match self.sync {
            Sync::Always => Durability::Power,
            Sync::Os => Durability::Process,
        }
    }
}

fn contradiction() -> Error {
    Error::new(ErrorKind::Limit, "the options layout and dialect contradict one another")
        .hint("layout=hermes and dialect=hermes are the same: give one of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<SqliteConfig> {
        SqliteConfig::from_url(BusUrl::parse(url)?)
    }

    #[test]
    fn options() {
        assert_eq!(config("sqlite:./bus.db").unwrap(), SqliteConfig::new("./bus.db"));
        assert_eq!(config("sqlite:b").unwrap().durability(), Durability::Power);
        assert_eq!(config("sqlite:b?sync=os").unwrap().durability(), Durability::Process);
        let tuned = config("sqlite:b?poll=5ms&busy=1m&window=7&create=false").unwrap();
        assert_eq!((tuned.poll, tuned.busy), (Duration::from_millis(5), Duration::from_secs(60)));
        assert_eq!((tuned.window, tuned.create), (7, false));
        for (bad, words) in [
            ("sqlite:b?sync=never", "always or os"),
            ("sqlite:b?poll=0ms", "above 0"),
            ("sqlite:b?busy=2h", "at most 1h"),
            ("sqlite:b?layout=klingon", "busline or hermes"),
            ("sqlite:b?topic=t", "no option 'topic'"),
            ("sqlite:b?fsync=off", "no option 'fsync'; its options are layout"),
            ("sqlite::memory:", "memory:NAME"),
            ("sqlite:", "names no directory"),
        ] {
            let error = config(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().contains(words), "{bad}: {error}");
        }
    }

    #[test]
    fn layout_and_dialect_are_two_names_of_one_thing() {
        for url in [
            "sqlite:b?layout=hermes",
            "sqlite:b?dialect=hermes",
            "sqlite:b?dialect=hermes&layout=hermes",
        ] {
            let config = config(url).unwrap();
            assert_eq!(
                (config.layout, config.dialect),
                (Some(Layout::Hermes), Some(Dialect::Hermes)),
                "{url}"
            );
        }
        for url in
            ["sqlite:b?dialect=hermes&layout=busline", "sqlite:b?dialect=eventail&layout=hermes"]
        {
            let error = config(url).unwrap_err().to_string();
            assert!(error.contains("contradict"), "{url}: {error}");
        }
        let open = config("sqlite:b").unwrap();
        assert_eq!(open.layout_for(Dialect::Hermes), Layout::Hermes);
        assert_eq!(open.layout_for(Dialect::Busline), Layout::Busline);
        let eventail = config("sqlite:b?dialect=eventail").unwrap();
        assert_eq!(eventail.layout_for(Dialect::Hermes), Layout::Busline);
        assert_eq!(config("sqlite:b?layout=hermes&topic=people").unwrap().topic.as_str(), "people");
    }
}
