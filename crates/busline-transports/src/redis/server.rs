//! The connection to a server, or to whichever the sentinels say is the primary.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::{Clock, Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, FromRedisValue, RedisError, ServerErrorKind,
};
use tokio::sync::Mutex;

use crate::url::BusUrl;

const CONNECT_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A connection that was not used for this long is tried out before what cannot be repeated.
const TRUST: Duration = Duration::from_millis(100);

/// Whether something may be sent again on a new connection when the old one broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Once,
    Never,
}

pub(super) struct Server {
    url: BusUrl,
    pub(super) clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    source: Source,
    live: Option<Live>,
}

struct Live {
    connection: MultiplexedConnection,
    number: u64,
    used: Duration,
}

enum Source {
    Single(Box<redis::Client>),
    Sentinels(Box<SentinelClient>),
}

impl Server {
    pub(super) fn new(url: BusUrl, clock: Arc<dyn Clock>) -> Result<Self> {
        let source = match url.scheme.as_str() {
            "redis+sentinel" => sentinels(&url).map(|client| Source::Sentinels(Box::new(client))),
            scheme => redis::Client::open(format!("{scheme}:{}", url.address))
                .map(|client| Source::Single(Box::new(client)))
                .map_err(|error| malformed(&url, &error.to_string())),
        }?;
        url.clone().finish("none: the database follows the host, as redis://localhost/0")?;
        let state = Mutex::new(State { source, live: None });
        Ok(Self { url, clock, state })
    }

    /// Sends and waits for the answer.
    pub(super) async fn run<T: FromRedisValue>(&self, what: &Cmd, repeat: Repeat) -> Result<T> {
        let mut may_repeat = repeat == Repeat::Once;
        loop {
            let (mut connection, mut number, is_fresh) = self.connection().await?;
            if repeat == Repeat::Never && !is_fresh {
                let ping: Result<String, _> = redis::cmd("PING").query_async(&mut connection).await;
                if ping.is_err() {
                    self.forget(number).await;
                    (connection, number, _) = self.connection().await?;
                }
            }
            let error = match what.query_async(&mut connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_broken = breaks(&error);
            if is_broken {
                self.forget(number).await;
            }
            if !(is_broken && may_repeat) {
                return Err(self.error(error));
            }
            may_repeat = false;
        }
    }

    /// A connection, its number, and whether it was used a moment ago.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64, bool)> {
        let now = self.clock.monotonic();
        let mut state = self.state.lock().await;
        if let Some(live) = &mut state.live {
            let is_fresh = now.saturating_sub(live.used) < TRUST;
            live.used = now;
            return Ok((live.connection.clone(), live.number, is_fresh));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX));
        let connected = match &mut state.source {
            Source::Single(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await
            }
            Source::Sentinels(client) => client.get_async_connection_with_config(&config).await,
        };
        let connection = connected.map_err(|error| self.error(error))?;
        let number =
            u64::from_ne_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 8]));
        state.live = Some(Live { connection: connection.clone(), number, used: now });
        Ok((connection, number, true))
    }

    /// Gives a connection up, unless somebody did already.
    async fn forget(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|live| live.number == number) {
            state.live = None;
        }
    }

    fn error(&self, error: RedisError) -> Error {
        use redis::ErrorKind as Redis;
        let (kind, what, hint) = match error.kind() {
            Redis::AuthenticationFailed => (
                ErrorKind::Unauthorized,
                "Redis does not let this user in",
                "check user and password of the URL",
            ),
            Redis::Server(ServerErrorKind::NoPerm) => (
                ErrorKind::Unauthorized,
                "Redis does not let this user do it",
                "the store needs GET, SET, DEL, PEXPIRE, EVAL and PING",
            ),
            Redis::MasterNameNotFoundBySentinel => (
                ErrorKind::NotFound,
                "no sentinel knows this service",
                "the service stands after the hosts: redis+sentinel://HOST:26379/SERVICE",
            ),
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => (
                ErrorKind::Unauthorized,
                "Redis does not let this user in",
                "check user and password of the URL",
            ),
            _ if error.code() == Some("OOM") => (
                ErrorKind::Full,
                "Redis has no memory left",
                "raise its maxmemory, or keep values for a shorter time",
            ),
            _ if error.is_timeout() => {
                (ErrorKind::Elapsed, "Redis does not answer in time", "see whether it is busy")
            }
            _ if breaks(&error) => {
                (ErrorKind::Disconnected, "Redis cannot be reached", "see whether it runs there")
            }
            _ => {
                return Error::new(ErrorKind::Other, "Redis refuses")
                    .context("store", self)
                    .source(error);
            }
        };
        Error::new(kind, what).context("store", self).source(error).hint(hint)
    }
}

/// Whether the connection is of no use any more: gone, silent, or to a server that is no primary now.
fn breaks(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            redis::ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

fn sentinels(url: &BusUrl) -> Result<SentinelClient> {
    let wrong = |why: &str| malformed(url, why);
    let rest = url.address.strip_prefix("//").ok_or_else(|| wrong("it names no host"))?;
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let mut parts = rest.split('/');
    let hosts = parts.next().unwrap_or_default();
    let service = parts.next().filter(|service| !service.is_empty());
    let service = service.ok_or_else(|| wrong("the service is missing after the hosts"))?;
    let address = |host: &str| {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, "26379"));
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|_| !name.is_empty());
        port.map(|port| ConnectionAddr::Tcp(name.to_owned(), port))
            .ok_or_else(|| wrong("a sentinel is not HOST:PORT"))
    };
    let addresses = hosts.split(',').map(address).collect::<Result<Vec<_>>>()?;
    let built = |error: RedisError| malformed(url, &error.to_string());
    let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)
        .map_err(built)?;
    if let Some(database) = parts.next().filter(|database| !database.is_empty()) {
        let number = database.parse().map_err(|_| wrong("the database is no number"))?;
        builder = builder.set_client_to_redis_db(number);
    }
    if let Some(user) = user {
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text).decode_utf8();
            text.map(std::borrow::Cow::into_owned)
                .map_err(|_| wrong("user or password is not UTF-8"))
        };
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        if !name.is_empty() {
            builder = builder.set_client_to_redis_username(decoded(name)?);
        }
        if !password.is_empty() {
            builder = builder.set_client_to_redis_password(decoded(password)?);
        }
    }
    builder.build().map_err(built)
}

fn malformed(url: &BusUrl, why: &str) -> Error {
    Error::new(ErrorKind::Limit, format!("'{url}' is no address of Redis: {why}")).hint(
        "write redis://HOST:PORT/DATABASE, or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE",
    )
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}
