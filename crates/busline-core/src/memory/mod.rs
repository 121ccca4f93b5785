//! The memory transport: the reference of the contract, and a bus inside one process.
//!
//! Topics are logs in memory, groups are cursors over them; everything is gone with the last
//! handle. Nothing runs in the background: retries, leases and expiries fall due when somebody
//! looks, and who waits sleeps by the clock until then. What is held is what retention keeps, and
//! a topic without retention keeps everything.
//!
//! ```
//! use busline_core::memory::MemoryTransport;
//! use busline_core::transport::{Connect, Role, Transport};
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let transport = MemoryTransport::named("orders");
//! assert_eq!(transport.to_string(), "memory:orders");
//! let session = transport.connect(Connect::new(Role::Publish)).await?;
//! # drop(session);
//! # Ok::<(), busline_core::Error>(()) }).unwrap();
//! ```

mod admin;
mod broker;
mod declare;
mod faults;
mod group;
mod log;
mod member;
#[cfg(test)]
mod model;
mod reader;
mod session;
mod settle;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use faults::MemoryBroker;

use crate::capability::{Capabilities, Capability, Durability, Lease, Support};
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::limits::Limits;
use crate::transport::{Connect, Dialect, Retention, Session, Transport};
use broker::Broker;

/// How a bus in memory behaves.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// What it takes the time from.
    pub clock: Arc<dyn Clock>,
    /// The bounds on messages.
    pub limits: Limits,
    /// The most messages of a session that are accepted and not receipted.
    pub window: usize,
    /// How long topics keep their records that were declared without saying.
    pub retention: Retention,
    /// How many message ids a topic remembers to recognise what is sent again; 0 is none, and
    /// de-duplication is refused.
    pub deduplicate_max: usize,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            limits: Limits::default(),
            window: 4096,
            retention: Retention::default(),
            deduplicate_max: 0,
        }
    }
}

impl MemoryOptions {
    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::all("memory", Durability::Memory, self.limits)
            .set(Capability::ConfirmGate, Support::Emulated("the gate of the core holds the ack"))
            .set(Capability::Reconnect, Support::Emulated("the link connects and sends again"));
        if self.deduplicate_max == 0 {
            let way_out = "set deduplicate_max, or make handlers idempotent";
            all = all.set(Capability::Deduplication, Support::Refused(way_out));
        }
        all.lease = Lease::Renewable(LEASE);
        all
    }
}

/// A bus in the memory of this process. Cheap to clone; clones share the bus.
#[derive(Clone)]
pub struct MemoryTransport {
    name: Option<Arc<str>>,
    broker: Arc<Broker>,
    dialect: Option<Dialect>,
}

/// The named buses that somebody holds.
static NAMED: LazyLock<Mutex<HashMap<String, Weak<Broker>>>> = LazyLock::new(Mutex::default);

impl MemoryTransport {
    /// A bus of its own.
    pub fn new() -> Self {
        Self::with_options(MemoryOptions::default())
    }

    /// A bus of its own that takes the time from this clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::with_options(MemoryOptions { clock, ..MemoryOptions::default() })
    }

    /// A bus of its own with these options.
    pub fn with_options(options: MemoryOptions) -> Self {
        Self::of(None, Arc::new(Broker::new(options)))
    }

    /// The bus of this name, shared by the whole process for as long as somebody holds it.
    pub fn named(name: &str) -> Self {
        Self::named_with_options(name, MemoryOptions::default())
    }

    /// As [`MemoryTransport::named`]; the options are those of who comes first.
    pub fn named_with_options(name: &str, options: MemoryOptions) -> Self {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, broker| broker.strong_count() > 0);
        let broker = named.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let broker = Arc::new(Broker::new(options));
            named.insert(name.to_owned(), Arc::downgrade(&broker));
            broker
        });
        Self::of(Some(name.into()), broker)
    }

    /// The handle for tests that ends sessions, refuses, blocks and nacks. From now on
    /// [`Transport::may_disconnect`] is true for every transport onto this bus.
    pub fn broker(&self) -> MemoryBroker {
        self.broker.faults.store(true, Ordering::Release);
        MemoryBroker::new(Arc::clone(&self.broker))
    }

    /// The same bus with sessions that follow this dialect, whatever they are asked for. Nothing of it
    /// can be seen but that messages get no ids where it has none.
    #[must_use]
    pub fn in_dialect(self, dialect: Dialect) -> Self {
        Self { dialect: Some(dialect), ..self }
    }

    fn of(name: Option<Arc<str>>, broker: Arc<Broker>) -> Self {
        Self { name, broker, dialect: None }
    }
}

impl Default for MemoryTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport for MemoryTransport {
    fn capabilities(&self) -> Capabilities {
        self.broker.options.capabilities()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        // One mapping serves every dialect: nothing of it can be seen on a wire.
        Box::pin(async move { session::MemorySession::open(&self.broker, &connect) })
    }

    fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    fn may_disconnect(&self) -> bool {
        self.broker.faults.load(Ordering::Acquire)
    }
}

impl fmt::Display for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory:{}", self.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a member may hold a delivery for when nobody renews it.
const LEASE: Duration = Duration::from_secs(30);

/// No wait is longer than this before somebody looks again.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
