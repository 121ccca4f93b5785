//! The management API, for what AMQP cannot tell: which exchanges, queues and bindings there are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::config::AmqpConfig;

/// No list is longer; a broker that claims more is not believed.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How often a list is asked for that the broker cannot make at the moment.
const ASKED_MAX: u32 = 50;

const SEGMENT: &AsciiSet = NON_ALPHANUMERIC;

/// An exchange.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Exchange {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A queue; the counts are some seconds old.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Queue {
    pub(super) name: String,
    #[serde(default)]
    pub(super) arguments: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    pub(super) messages_ready: u64,
    #[serde(default)]
    pub(super) messages_unacknowledged: u64,
    #[serde(default)]
    pub(super) consumers: u64,
    #[serde(default)]
    pub(super) message_bytes: u64,
    /// What policies say about it.
    #[serde(default)]
    effective_policy_definition: serde_json::Value,
}

impl Queue {
    /// Where what is rejected goes.
    pub(super) fn dead_letter_exchange(&self) -> Option<&str> {
        let argument = self.arguments.get("x-dead-letter-exchange");
        argument.or_else(|| self.effective_policy_definition.get("dead-letter-exchange"))?.as_str()
    }

    pub(super) fn is_stream(&self) -> bool {
        self.arguments.get("x-queue-type").is_some_and(|kind| kind == "stream")
    }
}

/// A binding of a queue to an exchange.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Binding {
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) destination_type: String,
    pub(super) routing_key: String,
}

/// All of a kind in the virtual host: `exchanges`, `queues` or `bindings`.
pub(super) async fn list<T: DeserializeOwned>(config: &AmqpConfig, kind: &str) -> Result<Vec<T>> {
    let vhost = utf8_percent_encode(&config.vhost, SEGMENT);
    let body = get(config, &format!("/api/{kind}/{vhost}")).await?;
    serde_json::from_slice(&body).map_err(|cause| {
        Error::new(ErrorKind::Other, "the management API says something else than a list")
            .source(cause)
    })
}

fn address(config: &AmqpConfig) -> String {
    let given = config.management.as_deref().and_then(|url| url.strip_prefix("http://"));
    match given {
        Some(given) => given.trim_end_matches('/').to_owned(),
        // The management port of a broker is 10,000 above that of AMQP, in its defaults.
        None => format!("{}:{}", config.host, config.port.saturating_add(10_000)),
    }
}

async fn get(config: &AmqpConfig, path: &str) -> Result<Bytes> {
    let address = address(config);
    let getting = async {
        let mut asked = 1;
        loop {
            match get_from(config, &address, path).await {
                // A queue that goes while the list is made turns all of it into an error of the server.
                Err(error) if error.kind() == ErrorKind::Other && asked < ASKED_MAX => asked += 1,
                got => return got,
            }
        }
    };
    let got = tokio::time::timeout(config.connect_timeout, getting).await;
    let late = |_| unusable("the management API does not answer in time");
    got.map_err(late).and_then(|got| got).map_err(|error| error.context("management", address))
}

/// Not [`ErrorKind::Disconnected`]: the session lives, and another would not help.
fn unusable(what: &str) -> Error {
    Error::new(ErrorKind::Unauthorized, what)
        .hint("enable rabbitmq_management, or say where it is: ?management=http://host:15672")
}

async fn get_from(config: &AmqpConfig, address: &str, path: &str) -> Result<Bytes> {
    let absent =
        |cause: std::io::Error| unusable("the management API cannot be reached").source(cause);
    let failed = |cause: hyper::Error| unusable("the management API does not answer").source(cause);
    let socket = TcpStream::connect(address).await.map_err(absent)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
    // It ends with the request.
    tokio::spawn(connection);
    let login = STANDARD.encode(format!("{}:{}", config.user, config.password.read()?));
    let request = Request::get(path)
        .header("host", address)
        .header("authorization", format!("Basic {login}"))
        .body(Empty::<Bytes>::new())
        .map_err(|cause| Error::new(ErrorKind::Limit, "this is no address").source(cause))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    if !status.is_success() {
        let kind = match status.as_u16() {
            401 | 403 => ErrorKind::Unauthorized,
            404 => ErrorKind::NotFound,
            _ => ErrorKind::Other,
        };
        return Err(Error::new(kind, format!("the management API says {status}"))
            .hint("the user needs the tag 'management'"));
    }
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|cause| {
        Error::new(ErrorKind::Other, format!("the management API breaks off: {cause}"))
    })
}
