//! The options of `kafka:` and `kafkas:` URLs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use busline_core::transport::{Dialect, Options};
use busline_core::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;

use crate::url::{BusUrl, duration};

/// What [`KafkaConfig::from_url`] knows, for messages.
const KNOWN: &str = "partitions, replication, message_max, window, linger, compression (none, gzip, \
                     snappy, lz4), connect_timeout, delivery_timeout, session_timeout, heartbeat, \
                     revoke_wait, sasl (plain, scram-sha-256, scram-sha-512), password_file, \
                     password_env, ca, certificate, certificate_key, dialect";

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

/// How a cluster is reached and used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Whether connections are encrypted.
    pub tls: bool,
    /// Brokers to ask first, as `host:port`.
    pub servers: Vec<String>,
    /// Who connects, where anybody is asked.
    pub user: Option<(String, Password)>,
    /// How that is shown, as Kafka writes it.
    pub sasl: String,
    /// Certificates, in PEM, to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, in PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How many partitions a topic gets that is created and does not say.
    pub partitions: i32,
    /// How often its records are kept; `None` is as the brokers are configured.
    pub replication: Option<i32>,
    /// The largest payload, in bytes.
    pub message_max: usize,
    /// The most messages accepted and not receipted, a session.
    pub window: usize,
    /// How long a message may wait for others to go with.
    pub linger: Duration,
    /// How batches are compressed, as Kafka writes it.
    pub compression: String,
    /// The longest until a broker must answer.
    pub connect_timeout: Duration,
    /// The longest until a message must have its receipt.
    pub delivery_timeout: Duration,
    /// A member that is not heard of for this long is dead.
    pub session_timeout: Duration,
    /// How often a member is heard of.
    pub heartbeat: Duration,
    /// How long what is in flight may take when a partition goes to another member.
    pub revoke_wait: Duration,
    /// The conventions that sessions follow, whatever they are asked for.
    pub dialect: Option<Dialect>,
}

impl KafkaConfig {
    /// Reads the address and options of a URL; an unknown or malformed one is `Limit`.
    pub fn from_url(mut url: BusUrl) -> Result<Self> {
        let shown = url.to_string();
        let wrong = |why: &str| {
            Error::new(ErrorKind::Limit, format!("'{shown}' {why}"))
                .hint("write kafka://user:password@host:9092,host:9092")
        };
        let address = url.address.strip_prefix("//").ok_or_else(|| wrong("has no host"))?;
        let (login, hosts) = address.rsplit_once('@').unwrap_or(("", address));
        if hosts.contains('/') {
            return Err(wrong("has a path: topics are named apart from the bus"));
        }
        let servers = hosts.split(',').map(|host| server(host).ok_or(()));
        let servers: Vec<_> = servers
            .collect::<Result<_, ()>>()
            .map_err(|()| wrong("has no valid hosts and ports"))?;
        let decode = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(std::borrow::Cow::into_owned).map_err(|_| wrong("is not UTF-8"))
        };
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (decode(user)?, Some(decode(password)?)),
            None => (decode(login)?, None),
        };
        let file = url.take("password_file", "a path", |text| Some(text.into()))?;
        let env = url.take("password_env", "a name", |text| Some(text.to_owned()))?;
        let password = match (password, file, env) {
            (None, None, None) => None,
            (Some(literal), None, None) => Some(Password::Literal(literal)),
            (None, Some(file), None) => Some(Password::File(file)),
            (None, None, Some(env)) => Some(Password::Env(env)),
            _ => return Err(wrong("has more than one password")),
        };
        let user = match (user.is_empty(), password) {
            (true, None) => None,
            (false, Some(password)) => Some((user, password)),
            (true, Some(_)) => return Err(wrong("has a password and no user")),
            (false, None) => return Err(wrong("has a user and no password")),
        };
        let tls = url.scheme == "kafkas";
        let mut config = Self { tls, servers, user, ..Self::default() };
        config.dialect = url.take_dialect()?;
        config.secure(&mut url)?;
        config.tune(&mut url)?;
        url.finish(KNOWN)?;
        Ok(config)
    }

    fn secure(&mut self, url: &mut BusUrl) -> Result<()> {
        let mechanism = |text: &str| {
            let known = ["plain", "scram-sha-256", "scram-sha-512"];
            known.contains(&text).then(|| text.to_ascii_uppercase())
        };
        let known = "plain, scram-sha-256 or scram-sha-512";
        if let Some(sasl) = url.take("sasl", known, mechanism)? {
            self.sasl = sasl;
        }
        self.ca = url.take("ca", "a path", |text| Some(text.into()))?;
        let certificate = url.take("certificate", "a path", |text| Some(text.into()))?;
        let key = url.take("certificate_key", "a path", |text| Some(text.into()))?;
        self.certificate = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                let why = "certificate and certificate_key are given together or not at all";
                return Err(Error::new(ErrorKind::Limit, why));
            }
        };
        if !self.tls && (self.ca.is_some() || self.certificate.is_some()) {
            return Err(Error::new(ErrorKind::Limit, "there are certificates and no TLS")
                .hint("write kafkas:// instead of kafka://"));
        }
        Ok(())
    }

    fn tune(&mut self, url: &mut BusUrl) -> Result<()> {
        let positive = |text: &str| duration(text).filter(|duration| !duration.is_zero());
        let count =
            |max: i32| move |text: &str| text.parse().ok().filter(|n| (1..=max).contains(n));
        if let Some(partitions) = url.take("partitions", "a number from 1 to 4096", count(4096))? {
            self.partitions = partitions;
        }
        self.replication = url.take("replication", "a number from 1 to 100", count(100))?;
        let bytes = |text: &str| text.parse().ok().filter(|n| (1024..=900 << 20).contains(n));
        if let Some(max) = url.take("message_max", "bytes from 1024 to 900 MiB", bytes)? {
            self.message_max = max;
        }
        let window = |text: &str| text.parse().ok().filter(|count| (1..=1 << 16).contains(count));
        if let Some(window) = url.take("window", "a number from 1 to 2^16", window)? {
            self.window = window;
        }
        let linger = |text: &str| duration(text).filter(|wait| wait.as_secs() < 900);
        if let Some(linger) = url.take("linger", "a duration below 15m as 5ms", linger)? {
            self.linger = linger;
        }
        let known =
            |text: &str| ["none", "gzip", "snappy", "lz4"].contains(&text).then(|| text.to_owned());
        if let Some(compression) = url.take("compression", "none, gzip, snappy or lz4", known)? {
            self.compression = compression;
        }
        for (name, place) in [
            ("connect_timeout", &mut self.connect_timeout),
            ("delivery_timeout", &mut self.delivery_timeout),
            ("session_timeout", &mut self.session_timeout),
            ("heartbeat", &mut self.heartbeat),
            ("revoke_wait", &mut self.revoke_wait),
        ] {
            let bounded = |text: &str| positive(text).filter(|wait| wait.as_secs() <= 3600);
            if let Some(wait) = url.take(name, "a duration up to 1h as 10s", bounded)? {
                *place = wait;
            }
        }
        if self.heartbeat >= self.session_timeout {
            let why = "the heartbeat is not shorter than the session_timeout";
            return Err(Error::new(ErrorKind::Limit, why)
                .hint("a third of it is usual: heartbeat=3s&session_timeout=10s"));
        }
        Ok(())
    }

    /// How many partitions the options of a topic ask for; `Limit` for unknown options.
    pub(super) fn partitions_of(&self, options: &Options) -> Result<i32> {
        let mut partitions = self.partitions;
        for (name, value) in options.iter().filter(|(name, _)| name.starts_with("kafka.")) {
            if name != "kafka.partitions" {
                return Err(Error::new(ErrorKind::Limit, format!("kafka: has no option '{name}'"))
                    .hint("the option of a topic is kafka.partitions"));
            }
            let parsed = value.parse().ok().filter(|count| (1..=4096).contains(count));
            partitions = parsed.ok_or_else(|| {
                let why = format!("option kafka.partitions='{value}' is no number from 1 to 4096");
                Error::new(ErrorKind::Limit, why)
            })?;
        }
        Ok(partitions)
    }
}

/// On this machine, with nothing said.
impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            tls: false,
            servers: vec!["localhost:9092".to_owned()],
            user: None,
            sasl: "PLAIN".to_owned(),
            ca: None,
            certificate: None,
            partitions: 1,
            replication: None,
            message_max: 1 << 20,
            window: 4096,
            linger: Duration::ZERO,
            compression: "none".to_owned(),
            connect_timeout: Duration::from_secs(10),
            delivery_timeout: Duration::from_secs(30),
            session_timeout: Duration::from_secs(45),
            heartbeat: Duration::from_secs(1),
            revoke_wait: Duration::from_secs(10),
            dialect: None,
        }
    }
}

/// No secret, and enough to tell one cluster from another.
impl fmt::Display for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "kafkas" } else { "kafka" };
        write!(f, "{scheme}://{}", self.servers.join(","))
    }
}

/// A host, perhaps a numeric one in brackets, with its port.
fn server(text: &str) -> Option<String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(numeric) => {
            let (host, rest) = numeric.split_once(']')?;
            (format!("[{host}]"), rest)
        }
        None => {
            let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (host.to_owned(), rest)
        }
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    let port: u16 = match rest.strip_prefix(':') {
        None if rest.is_empty() => 9092,
        None => return None,
        Some(port) => port.parse().ok()?,
    };
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<KafkaConfig> {
        KafkaConfig::from_url(BusUrl::parse(url)?)
    }

    #[test]
    fn addresses() {
        let plain = config("kafka://localhost").unwrap();
        assert_eq!(plain, KafkaConfig::default());
        assert_eq!(config("kafka://").unwrap(), plain);
        let full = config("kafkas://me:p%3A%2F@a:1,[::1]:2?sasl=scram-sha-256&ca=f.pem").unwrap();
        assert_eq!(full.servers, ["a:1", "[::1]:2"]);
        assert_eq!(full.user, Some(("me".to_owned(), Password::Literal("p:/".to_owned()))));
        assert_eq!((full.tls, full.sasl.as_str()), (true, "SCRAM-SHA-256"));
        assert_eq!(full.to_string(), "kafkas://a:1,[::1]:2");
        assert!(!format!("{full:?}").contains("p:/"));
    }

    #[test]
    fn what_is_wrong_is_named_without_the_secret() {
        for (bad, words) in [
            ("kafka:host", "has no host"),
            ("kafka://u:hush@host:x", "hosts and ports"),
            ("kafka://a,b:1,:x", "hosts and ports"),
            ("kafka://host/topic", "has a path"),
            ("kafka://u:hush@host?password_env=P", "more than one password"),
            ("kafka://u@host", "a user and no password"),
            ("kafka://host?partitons=3", "no option 'partitons'"),
            ("kafka://host?partitions=0", "1 to 4096"),
            ("kafka://host?ca=x", "no TLS"),
            ("kafkas://host?certificate=x", "together"),
            ("kafka://host?heartbeat=50s", "not shorter"),
            ("kafka://host?compression=zip", "none, gzip"),
        ] {
            let error = config(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit, "{bad}");
            let said = format!("{error} {error:?}");
            assert!(said.contains(words) && !said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn options_of_topics() {
        let config = config("kafka://localhost?partitions=2").unwrap();
        let with = |name: &str, value: &str| Options::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(config.partitions_of(&Options::new()).unwrap(), 2);
        assert_eq!(config.partitions_of(&with("kafka.partitions", "6")).unwrap(), 6);
        assert_eq!(config.partitions_of(&with("amqp.queue", "x")).unwrap(), 2);
        for (name, value) in [("kafka.partition", "6"), ("kafka.partitions", "0")] {
            let error = config.partitions_of(&with(name, value)).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
