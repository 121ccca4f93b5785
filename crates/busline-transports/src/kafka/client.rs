//! Clients of the library: how they are configured, and what they tell about the brokers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busline_core::{Error, ErrorKind, Result};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::sync::Notify;

use super::config::KafkaConfig;

/// What all have in common. Nobody creates topics by looking at them.
pub(super) fn configure(config: &KafkaConfig, name: &str) -> Result<ClientConfig> {
    let mut client = ClientConfig::new();
    let ms = |wait: Duration| wait.as_millis().to_string();
    let protocol = match (config.tls, config.user.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    client
        .set("bootstrap.servers", config.servers.join(","))
        .set("client.id", name)
        .set("security.protocol", protocol)
        .set("allow.auto.create.topics", "false")
        .set("socket.keepalive.enable", "true")
        .set("socket.connection.setup.timeout.ms", ms(config.connect_timeout.max(SECOND)))
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.propagation.max.ms", "5000")
        .set("receive.message.max.bytes", (config.message_max + (64 << 20)).to_string())
        .set_log_level(RDKafkaLogLevel::Warning);
    if let Some((user, password)) = &config.user {
        client
            .set("sasl.mechanism", &config.sasl)
            .set("sasl.username", user)
            .set("sasl.password", password.read()?);
    }
    if let Some(ca) = &config.ca {
        client.set("ssl.ca.location", ca.display().to_string());
    }
    if let Some((certificate, key)) = &config.certificate {
        client
            .set("ssl.certificate.location", certificate.display().to_string())
            .set("ssl.key.location", key.display().to_string());
    }
    Ok(client)
}

const SECOND: Duration = Duration::from_secs(1);

/// What clients tell about the brokers; one a session.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Rings when no broker is connected, or one denies us.
    pub(super) bell: Notify,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    denied: Option<Error>,
    last: Option<String>,
}

impl Faults {
    fn tell(&self, error: &KafkaError, reason: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => self.bell.notify_one(),
            Some(Code::Authentication | Code::SSL | Code::SaslAuthenticationFailed) => {
                let denied = Error::new(ErrorKind::Unauthorized, reason.to_owned());
                seen.denied = Some(denied.hint(
                    "check user and password, the name in the certificate, when it expires, \
                     and trust who signed it: ?ca=file.pem",
                ));
                self.bell.notify_one();
            }
            // Whether any is left, an answer tells.
            _ => {
                seen.last = Some(reason.to_owned());
                self.bell.notify_one();
            }
        }
    }

    /// Why no broker answers.
    pub(super) fn why(&self) -> Error {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(denied) = &seen.denied {
            return denied.clone();
        }
        let why = seen.last.as_deref().unwrap_or("no broker answers");
        Error::new(ErrorKind::Disconnected, why.to_owned())
    }
}

/// What the library calls back.
#[derive(Debug, Clone)]
pub(super) struct Context(pub(super) Arc<Faults>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info => {
                tracing::debug!(facility, "{message}");
            }
            // The session tells what matters of it.
            _ => tracing::info!(facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.tell(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// Runs what blocks where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(ErrorKind::Other, "a task of the client was given up")),
    }
}

/// Clients say goodbye as they are dropped, which takes a moment.
pub(super) fn drop_elsewhere<T: Send + 'static>(client: T) {
    // Where no thread can be had it takes its moment here.
    drop(std::thread::Builder::new().name("kafka-bye".to_owned()).spawn(move || drop(client)));
}
