//! One connection to the broker: opened within its time, watched for its end, never reopened.

use std::sync::Arc;
use std::time::Duration;

use busline_core::{Error, ErrorKind, Result};
use futures_util::StreamExt;
use lapin::tcp::OwnedTLSConfig;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, ConnectionProperties, Event};
use tokio::sync::watch;

pub(super) use crate::ended::{Ended, gone};

use super::config::AmqpConfig;
use super::error::{connect_error, error};

/// Whether the broker takes messages, and why not.
pub(super) type Blocked = watch::Sender<Option<String>>;

/// A live connection.
pub(super) struct Connection(Arc<lapin::Connection>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Connects; its end ends the session.
    pub(super) async fn open(
        config: &AmqpConfig,
        name: &str,
        ended: &Ended,
        blocked: &Blocked,
    ) -> Result<Self> {
        let uri = uri(config)?;
        let tls = tls(config)?;
        // Recovery is the link's: this client's own reads streams twice and loses queues.
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "busline".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = lapin::runtime::default_runtime().map_err(error)?;
        let connecting = lapin::Connection::connect_uri_with_config(uri, properties, tls, runtime);
        let connected = tokio::time::timeout(config.connect_timeout, connecting).await;
        let late = |_| {
            Error::new(ErrorKind::Disconnected, "the broker does not answer").context("bus", config)
        };
        let connection =
            connected.map_err(late)?.map_err(|said| connect_error(said).context("bus", config))?;
        let mut events = Box::pin(connection.events_listener());
        let connection = Arc::new(connection);
        let (ended, blocked) = (ended.clone(), blocked.clone());
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    _ = ended.wait() => return,
                };
                match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        blocked.send_replace(Some(why));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        blocked.send_replace(None);
                    }
                    Some(Event::Error(said)) if said.is_amqp_soft_error() => {}
                    Some(Event::Error(said)) => ended.end(disconnected(said)),
                    Some(_) => {}
                    None => ended.end(gone()),
                }
            }
        });
        Ok(Self(connection))
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel> {
        let connection = Arc::clone(&self.0);
        // Given up in the middle, nobody would close it.
        let created = tokio::spawn(async move { connection.create_channel().await }).await;
        created.map_err(|_| gone())?.map_err(error)
    }

    /// Says goodbye, at most this long.
    pub(super) async fn close(&self, deadline: Duration) {
        // One that does not go in time goes without a word.
        let closing = self.0.close(200, "closed".into());
        drop(tokio::time::timeout(deadline, closing).await);
    }
}

/// Whatever ends a connection, another may be opened.
pub(super) fn disconnected(said: lapin::Error) -> Error {
    let said = error(said);
    if said.kind() == ErrorKind::Disconnected {
        return said;
    }
    Error::new(ErrorKind::Disconnected, "the broker closed the connection").source(said)
}

fn uri(config: &AmqpConfig) -> Result<AMQPUri> {
    let whole = |duration: Duration| u16::try_from(duration.as_secs()).unwrap_or(u16::MAX);
    Ok(AMQPUri {
        scheme: if config.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: config.user.clone(),
                password: config.password.read()?,
            },
            host: config.host.clone(),
            port: config.port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString {
            heartbeat: Some(whole(config.heartbeat)),
            connection_timeout: u64::try_from(config.connect_timeout.as_millis()).ok(),
            ..AMQPQueryString::default()
        },
    })
}

fn tls(config: &AmqpConfig) -> Result<OwnedTLSConfig> {
    let mut tls = OwnedTLSConfig::default();
    if let Some(ca) = &config.ca {
        let read = std::fs::read_to_string(ca).map_err(|cause| {
            let what = format!("the certificates {} cannot be read", ca.display());
            Error::new(ErrorKind::Unauthorized, what).source(cause)
        })?;
        tls.cert_chain = Some(read);
    }
    Ok(tls)
}
