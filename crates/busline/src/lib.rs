//! Events, commands and replayable logs for Rust services, on any broker or on none.
//!
//! ```
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! A [`Bus`] is opened by URL: `file:./bus` is an embedded durable log that many processes share,
//! `memory:` is for tests. What a transport cannot promise is refused when a program binds to it,
//! never silently weakened.
//!
//! # What this is not
//!
//! It is no broker: nothing listens on a port. It is no stream processor and knows no SQL. Delivery
//! is at least once: handlers may see a message twice, and the attempt tells.

#![forbid(unsafe_code)]

pub mod blocking;
mod bus;
mod config;
mod consume;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod log;
mod publish;
pub mod service;
pub mod store;

pub use bus::{Admin, Bus};
pub use busline_core::{
    Attempt, Backoff, Capabilities, Capability, Clock, Codec, Delivery, Durability, Error,
    ErrorKind, GroupName, HeaderValue, Headers, Key, KeyPattern, Lease, Limits, ManualClock,
    Message, Offset, OrderScope, Outcome, Patterns, PendingReceipt, Position, Properties,
    PublishError, Published, Receipt, Record, Result, Settled, Support, SystemClock, Timestamp,
    Topic, dead, new_message_id,
};
pub use config::BusConfig;
pub use consume::{BroadcastBuilder, Consumer, GroupBuilder, LogReader, ReaderBuilder};
pub use publish::Publisher;

/// The port, for what the friendlier types of this crate do not offer.
pub mod transport {
    pub use busline_core::transport::*;
    pub use busline_transports::registry::{profiles, schemes};
    pub use busline_transports::settings::{Schema, Setting, SettingValue, Settings};
    pub use busline_transports::{BusUrl, Registry, TransportFactory, open};
}

#[cfg(all(feature = "file", unix))]
pub mod file;
