//! The options of `amqp:` and `amqps:` URLs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use busline_core::transport::{Dialect, Options};
use busline_core::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;

use crate::url::{BusUrl, duration};

/// What [`AmqpConfig::from_url`] knows, for messages.
const KNOWN: &str = "queue (classic, quorum), replay, heartbeat, connect_timeout, window, \
                     password_file, password_env, ca, management, dialect; \
                     those of pika are taken too";

/// Options of pika, the client of Python services, that have no meaning here, and what has it instead. Their URLs
/// work as they are.
const OF_PIKA: &[(&str, &str)] = &[
    ("connection_attempts", "attempts go on until they succeed"),
    ("retry_delay", "waits between attempts grow by themselves"),
    ("blocked_connection_timeout", "a blocked connection is waited for"),
    ("stack_timeout", "connect_timeout bounds all of a connection's opening"),
    ("channel_max", "what the broker proposes is taken"),
    ("frame_max", "what the broker proposes is taken"),
    ("locale", "it is en_US"),
    ("backpressure_detection", "the broker says when it is blocked"),
    ("client_properties", "a client names itself"),
    ("tcp_options", "the system's are taken"),
    ("ssl_options", "certificates to trust are named by ca, and are always verified"),
];

/// What kind of queue a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueKind {
    /// On one node, without arguments: what other programs declare too.
    #[default]
    Classic,
    /// Replicated, and it counts deliveries: attempts are exact.
    Quorum,
}

impl QueueKind {
    /// Its name in URLs and queue arguments.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Classic, Self::Quorum].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Where the password comes from; what is not in the URL is read again at each connect.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As it stands in the URL.
    Literal(String),
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(***)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
        }
    }
}

impl Password {
    pub(super) fn read(&self) -> Result<String> {
        let missing = |what: String| Error::new(ErrorKind::Unauthorized, what);
        match self {
            Self::Literal(password) => Ok(password.clone()),
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|cause| {
                    missing(format!("the password file {} cannot be read", path.display()))
                        .source(cause)
                })?;
                Ok(text.lines().next().unwrap_or_default().to_owned())
            }
            Self::Env(name) => std::env::var(name).map_err(|cause| {
                missing(format!("the environment variable {name} has no password")).source(cause)
            }),
        }
    }
}

/// How a broker is reached and used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpConfig {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The broker's host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who connects.
    pub user: String,
    /// With which password.
    pub password: Password,
    /// The virtual host.
    pub vhost: String,
    /// The kind of queue for groups that do not say.
    pub queue: QueueKind,
    /// Whether every topic that is declared gets a log to be read from.
    pub replay: bool,
    /// The heartbeat offered; the lower of both sides is taken.
    pub heartbeat: Duration,
    /// The longest a connection may take to be opened.
    pub connect_timeout: Duration,
    /// The most messages accepted and not receipted, a session.
    pub window: usize,
    /// Certificates, in PEM, to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// Where the management API is, as `http://host:15672`; next to the broker unless said.
    pub management: Option<String>,
    /// The conventions that sessions follow, whatever they are asked for.
    pub dialect: Option<Dialect>,
}

impl AmqpConfig {
    /// Reads the address and options of a URL; an unknown or malformed one is `Limit`.
    pub fn from_url(mut url: BusUrl) -> Result<Self> {
        let shown = url.to_string();
        let wrong = |why: &str| {
            Error::new(ErrorKind::Limit, format!("'{shown}' {why}"))
                .hint("write amqp://user:password@host:5672/vhost")
        };
        let tls = url.scheme == "amqps";
        let address = url.address.strip_prefix("//").ok_or_else(|| wrong("has no host"))?;
        let (authority, vhost) = address.split_once('/').unwrap_or((address, ""));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(std::borrow::Cow::into_owned).map_err(|_| wrong("is not UTF-8"))
        };
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (decode(user)?, Some(decode(password)?)),
            None => (decode(login)?, None),
        };
        let (host, port) =
            host_and_port(host).ok_or_else(|| wrong("has no valid host and port"))?;
        let vhost = if vhost.is_empty() { "/".to_owned() } else { decode(vhost)? };
        let file = url.take("password_file", "a path", |text| Some(text.into()))?;
        let env = url.take("password_env", "a name", |text| Some(text.to_owned()))?;
        let password = match (password, file, env) {
            (None, None, None) => Password::Literal("guest".to_owned()),
            (Some(literal), None, None) => Password::Literal(literal),
            (None, Some(file), None) => Password::File(file),
            (None, None, Some(env)) => Password::Env(env),
            _ => return Err(wrong("has more than one password")),
        };
        let mut config = Self {
            tls,
            host,
            port: port.unwrap_or(if tls { 5671 } else { 5672 }),
            user: if user.is_empty() { "guest".to_owned() } else { user },
            password,
            vhost,
            queue: QueueKind::Classic,
            replay: false,
            heartbeat: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            window: 4096,
            ca: url.take("ca", "a path", |text| Some(text.into()))?,
            management: None,
            dialect: url.take_dialect()?,
        };
        config.tune(&mut url)?;
        url.finish(KNOWN)?;
        Ok(config)
    }

    fn tune(&mut self, url: &mut BusUrl) -> Result<()> {
        let is_bool = |text: &str| text.parse::<bool>().ok();
        let positive = |text: &str| duration(text).filter(|duration| !duration.is_zero());
        if let Some(queue) = url.take("queue", "classic or quorum", QueueKind::parse)? {
            self.queue = queue;
        }
        if let Some(replay) = url.take("replay", "true or false", is_bool)? {
            self.replay = replay;
        }
        // Plain seconds too, as other clients write them. The protocol has whole ones, and 0 leaves
        // it to the broker.
        let heartbeat = |text: &str| match text.parse().ok().map(Duration::from_secs) {
            None => positive(text).filter(|beat| beat.subsec_nanos() == 0),
            seconds => seconds,
        };
        let bounded = |text: &str| heartbeat(text).filter(|beat| beat.as_secs() <= 3600);
        let expected = "a duration in whole seconds up to 1h as 60s, or 0 for the broker's";
        if let Some(heartbeat) = url.take("heartbeat", expected, bounded)? {
            self.heartbeat = heartbeat;
        }
        // That of pika: seconds, perhaps with a fraction.
        let seconds = |text: &str| {
            let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
            seconds.filter(|timeout| !timeout.is_zero())
        };
        if let Some(timeout) = url.take("socket_timeout", "a number of seconds as 10", seconds)? {
            self.connect_timeout = timeout;
        }
        if let Some(timeout) = url.take("connect_timeout", "a duration as 10s", positive)? {
            self.connect_timeout = timeout;
        }
        for (name, instead) in OF_PIKA {
            if url.take(name, "", |_| Some(()))?.is_some() {
                tracing::warn!(
                    option = name,
                    "this option of the bus URL has no effect: {instead}"
                );
            }
        }
        let count = |text: &str| text.parse().ok().filter(|count| (1..=1 << 16).contains(count));
        if let Some(window) = url.take("window", "a number from 1 to 2^16", count)? {
            self.window = window;
        }
        let web = |text: &str| text.starts_with("http://").then(|| text.to_owned());
        self.management = url.take("management", "a URL as http://host:15672", web)?;
        Ok(())
    }

    /// The kind of queue that the options of a group ask for; `Limit` for unknown options.
    pub(super) fn queue_of(&self, options: &Options) -> Result<QueueKind> {
        let mut kind = self.queue;
        for (name, value) in options.iter().filter(|(name, _)| name.starts_with("amqp.")) {
            if name != "amqp.queue" {
                return Err(Error::new(ErrorKind::Limit, format!("amqp: has no option '{name}'"))
                    .hint("the option of a group is amqp.queue"));
            }
            kind = QueueKind::parse(value).ok_or_else(|| {
                let why = format!("option amqp.queue='{value}' is not classic or quorum");
                Error::new(ErrorKind::Limit, why)
            })?;
        }
        Ok(kind)
    }
}

/// No secret, and enough to tell one broker from another.
impl fmt::Display for AmqpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{host}:{}", self.port)?;
        if self.vhost == "/" { Ok(()) } else { write!(f, "/{}", self.vhost) }
    }
}

/// A host, perhaps a numeric one in brackets, and a port.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(numeric) => numeric.split_once(']')?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host.to_owned(), None)),
        None => None,
        Some(port) => Some((host.to_owned(), Some(port.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<AmqpConfig> {
        AmqpConfig::from_url(BusUrl::parse(url)?)
    }

    #[test]
    fn addresses() {
        let plain = config("amqp://localhost").unwrap();
        assert_eq!((plain.port, plain.vhost.as_str(), plain.user.as_str()), (5672, "/", "guest"));
        for url in ["amqp://localhost/", "amqp://localhost:5672/%2F", "amqp://guest:guest@"] {
            assert_eq!(config(url).unwrap(), plain, "{url}");
        }
        let full = config("amqps://me%40x:p%3A%2F@[::1]:7/a%20b?queue=quorum&heartbeat=5").unwrap();
        assert_eq!((full.host.as_str(), full.port, full.tls), ("::1", 7, true));
        assert_eq!((full.user.as_str(), full.vhost.as_str()), ("me@x", "a b"));
        assert_eq!(full.password, Password::Literal("p:/".to_owned()));
        assert_eq!(full.heartbeat, Duration::from_secs(5));
        assert_eq!(full.to_string(), "amqps://[::1]:7/a b");
        assert!(!format!("{full:?}").contains("p:/"));
    }

    #[test]
    fn what_is_wrong_is_named_without_the_secret() {
        for (bad, words) in [
            ("amqp:host", "has no host"),
            ("amqp://u:hush@host:x/", "host and port"),
            ("amqp://u:hush@host?password_env=P", "more than one password"),
            ("amqp://u:hush@host?queue=best", "classic or quorum"),
            ("amqp://u:hush@host?prefetch=1", "no option 'prefetch'"),
            ("amqp://u:hush@host?heartbeat=500ms", "heartbeat='500ms' is not a duration in whole"),
            ("amqp://u:hush@host?socket_timeout=soon", "socket_timeout='soon' is not a number"),
            ("amqp://u:hush@host?socket_timeout=0", "socket_timeout='0' is not a number"),
        ] {
            let error = config(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            let said = error.to_string();
            assert!(said.contains(words) && !said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn urls_of_python_services_work_as_they_are() {
        let theirs = "amqp://h?connection_attempts=3&retry_delay=5&socket_timeout=2.5&heartbeat=30\
                      &blocked_connection_timeout=300&channel_max=9&frame_max=131072&locale=en_US\
                      &stack_timeout=15&backpressure_detection=t&tcp_options=%7B%7D\
                      &client_properties=%7B%7D&ssl_options=%7B%7D";
        let config = config(theirs).unwrap();
        assert_eq!(config.connect_timeout, Duration::from_millis(2500));
        assert_eq!(config.heartbeat, Duration::from_secs(30));
        let both = self::config("amqp://h?socket_timeout=2&connect_timeout=7s").unwrap();
        assert_eq!(both.connect_timeout, Duration::from_secs(7));
        assert_eq!(self::config("amqp://h?heartbeat=0").unwrap().heartbeat, Duration::ZERO);
    }

    #[test]
    fn a_password_comes_from_a_file_or_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from the file\nmore\n").unwrap();
        let url = format!("amqp://me@host?password_file={}", file.path().display());
        assert_eq!(config(&url).unwrap().password.read().unwrap(), "from the file");
        let error = Password::Env("BUSLINE_NO_SUCH_VARIABLE".to_owned()).read().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
    }
}
