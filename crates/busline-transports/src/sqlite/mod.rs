//! A bus in one SQLite database: `sqlite:./bus.db`, shared by every process on the machine.
//!
//! | port | here |
//! |---|---|
//! | topic | a row of `topics`; its records are rows of `records` |
//! | group | a row of `groups`, with the unsettled messages below its cursor in `entries` |
//! | member | a row of `members`; a locked file in the folder `FILE-busline` says that it is alive |
//! | broadcast | a group that lives as long as its only member |
//! | offset | a random number of the topic as shard, the record's number |
//! | dead letters | a topic of their own, see `busline_core::dead` |
//!
//! A session has a thread of its own, which alone uses its connection. What is published and settled at the same time
//! is joined into one transaction; a receipt is given after its commit, with `synchronous=FULL` unless `sync=os`.
//! Claims are written down before anybody sees them, without a sync: they survive the death of every process.
//! Writers stand in a queue (`presence::Turn`), so that none is kept from its turn by another.
//!
//! Who waits in the same process is woken at once. Others look every 20 ms (`poll`) whether the database has changed,
//! which is the bound between a commit in one process and its sight in another, and find out within 250 ms that a
//! process has died; one that stands still loses what it holds when its lease is over. Delayed retries go by the wall
//! clock.
//!
//! With `layout=hermes` it is the table of a Hermes message bus instead, see [`hermes`].

mod admin;
mod claims;
mod config;
mod database;
mod error;
mod groups;
pub mod hermes;
mod hub;
mod life;
mod mapping;
mod member;
mod presence;
mod publish;
mod read;
mod schema;
mod session;
mod settle;
mod topics;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Connect, Dialect, Session, Transport};
use busline_core::{Capabilities, Capability, Clock, Lease, Limits, Result, Support, SystemClock};
use futures_util::future::BoxFuture;

pub use config::{Layout, SqliteConfig, Sync};

use crate::url::BusUrl;
use session::SqliteSession;

/// A bus in a database.
#[derive(Clone)]
pub struct SqliteTransport {
    config: SqliteConfig,
    clock: Arc<dyn Clock>,
}

/// The transport of a `sqlite:` URL.
pub(crate) fn open(url: BusUrl) -> Result<Arc<dyn Transport>> {
    Ok(Arc::new(SqliteTransport::new(SqliteConfig::from_url(url)?)))
}

impl SqliteTransport {
    /// A bus in a file; nothing is opened yet.
    pub fn new(config: SqliteConfig) -> Self {
        Self { config, clock: SystemClock::shared() }
    }

    fn profile(&self) -> Capabilities {
        let refused = Support::Refused;
        let mut profile = Capabilities::all("sqlite", self.config.durability(), Limits::default())
            .set(
                Capability::Takeover,
                Support::Emulated("a locked file tells the living; looked at every 250 ms"),
            )
            .set(
                Capability::Deduplication,
                refused("make handlers idempotent: a message may come twice after a crash"),
            )
            .set(
                Capability::Reconnect,
                Support::Emulated("there is no connection that could be lost"),
            )
            .set(Capability::ConfirmGate, Support::Emulated("in the port, the same everywhere"));
        profile.lease = Lease::Renewable(Duration::from_secs(30));
        profile
    }
}

impl Transport for SqliteTransport {
    fn capabilities(&self) -> Capabilities {
        match self.config.layout {
            Some(Layout::Hermes) => hermes::profile(&self.config),
            _ => self.profile(),
        }
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        let (config, clock, profile) =
            (self.config.clone(), Arc::clone(&self.clock), self.profile());
        Box::pin(async move {
            let open = move || -> Result<Arc<dyn Session>> {
                match config.layout_for(connect.dialect) {
                    Layout::Busline => {
                        Ok(Arc::new(SqliteSession::open(&config, profile, &clock, &connect)?))
                    }
                    Layout::Hermes => hermes::open(&config, &clock, &connect),
                }
            };
            let opened = tokio::task::spawn_blocking(open).await;
            opened.unwrap_or_else(|_| Err(error::session_closed()))
        })
    }

    fn may_disconnect(&self) -> bool {
        false
    }

    fn dialect(&self) -> Option<Dialect> {
        self.config.dialect
    }
}

impl fmt::Display for SqliteTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.config.path.display())
    }
}

impl fmt::Debug for SqliteTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTransport").field("config", &self.config).finish_non_exhaustive()
    }
}
