//! RabbitMQ by AMQP 0-9-1: `amqp://user:password@host:5672/vhost`, and `amqps:` with TLS.
//!
//! The broker's words for ours:
//!
//! | ours | RabbitMQ's |
//! |---|---|
//! | topic | a durable topic exchange of that name |
//! | key, pattern | routing key, binding |
//! | group | the queue `{group}.{topic}`, classic without arguments or, by option, quorum |
//! | broadcast | an exclusive queue |
//! | receipt | publisher confirm; `Unroutable` is a returned message |
//! | attempt | a quorum queue counts; elsewhere a header counts retries, and a redelivery is "at least" |
//! | retry, delayed | a copy through a queue of that delay, confirmed before the original is acked |
//! | dead letter | a message to the exchange `{group}.{topic}.dead`, confirmed before the original is acked |
//! | the topic `amq.default` | the exchange without a name: all queues are its groups, by their names |
//! | log | the stream queue `{topic}.log`, bound when the topic is declared with replay |
//!
//! In the dialect `eventail` it is what Python services of that name do: the topics `events`, `commands`,
//! `configurations` and `logs`, messages with five properties and no id, logs with none and unconfirmed,
//! broadcasts on queues that the broker names, no queue arguments, bindings that stay. What is rejected
//! goes where a policy says; a retry is given back at once, or held in the process until it is due.
//!
//! Options of pika, the client of those services, are taken in URLs: `heartbeat` and `socket_timeout` (the
//! same as `connect_timeout`, in seconds) mean what they mean there, the others have no effect and are warned of.
//!
//! By AMQP alone one uses a queue that one names; lists of topics and groups come from the management API.
//!
//! The client below logs each look at what is not there as an error, and messages that come back with their
//! payload: programs do well to leave its target, `lapin`, out of their logs, since what matters is said above it.
//!
//! Not supported: moving a group, looking at messages unnoticed, deduplication, and transactions. What a
//! dead member held counts as delivered also where it had not seen it: the broker fetches ahead.

mod admin;
mod back;
mod capabilities;
mod channel;
mod config;
mod connection;
mod consume;
mod consuming;
mod declare;
mod error;
mod header;
mod held;
mod lanes;
mod management;
mod mapping;
mod names;
mod publish;
mod route;
mod session;
mod settings;
mod stream;
mod subscribe;

use std::fmt;
use std::sync::Arc;

use busline_core::transport::{Connect, Dialect, Session, Transport};
use busline_core::{Capabilities, Error, Result};
use futures_util::future::BoxFuture;

pub use config::{AmqpConfig, Password, QueueKind};

use crate::url::BusUrl;

/// RabbitMQ.
#[derive(Debug, Clone)]
pub struct AmqpTransport {
    config: Arc<AmqpConfig>,
}

impl AmqpTransport {
    /// Onto the broker of this configuration; nothing is connected yet.
    pub fn new(config: AmqpConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

/// The registry's way in.
pub(crate) fn open(url: BusUrl) -> Result<Arc<dyn Transport>> {
    Ok(Arc::new(AmqpTransport::new(AmqpConfig::from_url(url)?)))
}

impl fmt::Display for AmqpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl Transport for AmqpTransport {
    fn capabilities(&self) -> Capabilities {
        capabilities::upper(&self.config)
    }

    fn dialect(&self) -> Option<Dialect> {
        self.config.dialect
    }

    fn connect(&self, mut connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        connect.dialect = self.config.dialect.unwrap_or(connect.dialect);
        Box::pin(async move {
            if !matches!(connect.dialect, Dialect::Busline | Dialect::Eventail) {
                let what = format!("dialect '{}'", connect.dialect.as_str());
                return Err(Error::refused(&what, "amqp", "it speaks busline and eventail"));
            }
            if connect.dialect == Dialect::Eventail && self.config.queue != QueueKind::Classic {
                let way_out = "its queues have no arguments: leave queue out of the URL";
                return Err(Error::refused("quorum queues", "amqp, eventail", way_out));
            }
            let session = session::AmqpSession::open(Arc::clone(&self.config), connect).await?;
            Ok(Arc::new(session) as Arc<dyn Session>)
        })
    }
}
