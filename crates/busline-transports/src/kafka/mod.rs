//! Apache Kafka: `kafka://host:9092,host:9092`, and `kafkas:` with TLS.
//!
//! The broker's words for ours:
//!
//! | ours | Kafka's |
//! |---|---|
//! | topic | a topic; one that is created has one partition unless asked (`kafka.partitions`), and keeps its records for ever |
//! | key | the record key; the empty key is none |
//! | ordering key | a header; it chooses the partition, as Kafka's own clients spread keys |
//! | group | the consumer group `{group}.{topic}`; how it was declared stands in the topic `busline.groups` |
//! | settle | the place before which all is settled; what is settled behind it, and how often the rest was delivered, stands beside it in the commit's text |
//! | broadcast | a consumer without a group, from the end on |
//! | retry | in its place, kept by its member; delayed, by a copy in the topic `{group}.{topic}.retry`, confirmed before the original is settled |
//! | dead letter | a record of the topic `{group}.{topic}.dead`, confirmed before the original is settled |
//! | offset | partition and number; the shard also names the life of the topic, so that one that was deleted and made again is noticed |
//!
//! In the dialect `hermes` it is the message bus of that name: one partition, the record key is the category, the value is
//! JSON text, no headers; for publishing and reading a log alone.
//!
//! Members share by partitions: of a topic with one partition one member gets everything. Order is per ordering key, and
//! over the whole topic where it has one partition. Not supported: mandatory messages, deduplication, moving a group that
//! has members, counters. An offset of a topic that others made, and then deleted and made again, is only noticed when
//! it is behind the end: such topics bear no mark of ours.

mod admin;
mod assign;
mod capabilities;
mod client;
mod config;
mod consume;
mod consuming;
mod declare;
mod directory;
mod error;
mod groups;
mod hands;
mod lanes;
mod ledger;
mod mapping;
mod member;
mod names;
mod part;
mod publish;
mod read;
mod route;
mod session;
mod settings;
mod settle;
mod subscribe;
mod topics;

use std::fmt;
use std::sync::Arc;

use busline_core::transport::{Connect, Dialect, Session, Transport};
use busline_core::{Capabilities, Error, Result};
use futures_util::future::BoxFuture;

pub use config::{KafkaConfig, Password};

use crate::url::BusUrl;

/// Apache Kafka.
#[derive(Debug, Clone)]
pub struct KafkaTransport {
    config: Arc<KafkaConfig>,
}

impl KafkaTransport {
    /// Onto the cluster of this configuration; nothing is connected yet.
    pub fn new(config: KafkaConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

/// The registry's way in.
pub(crate) fn open(url: BusUrl) -> Result<Arc<dyn Transport>> {
    Ok(Arc::new(KafkaTransport::new(KafkaConfig::from_url(url)?)))
}

impl fmt::Display for KafkaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl Transport for KafkaTransport {
    fn capabilities(&self) -> Capabilities {
        capabilities::of(&self.config, self.config.dialect.unwrap_or_default())
    }

    fn dialect(&self) -> Option<Dialect> {
        self.config.dialect
    }

    fn connect(&self, mut connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        connect.dialect = self.config.dialect.unwrap_or(connect.dialect);
        Box::pin(async move {
            if !matches!(connect.dialect, Dialect::Busline | Dialect::Hermes) {
                let what = format!("dialect '{}'", connect.dialect.as_str());
                return Err(Error::refused(&what, "kafka", "it speaks busline and hermes"));
            }
            let session = session::KafkaSession::open(Arc::clone(&self.config), connect).await?;
            Ok(Arc::new(session) as Arc<dyn Session>)
        })
    }
}
