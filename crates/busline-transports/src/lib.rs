//! The transports of Busline: one module and one feature each, and a registry from URL to transport.
//!
//! A transport never reconnects and never retries; the link of `busline-core` does.

#![forbid(unsafe_code)]

#[cfg(feature = "amqp")]
pub mod amqp;
#[cfg(any(feature = "amqp", feature = "kafka"))]
#[doc(hidden)]
pub mod ended;
#[cfg(any(feature = "amqp", feature = "kafka"))]
#[doc(hidden)]
pub mod exact;
#[cfg(all(feature = "file", unix))]
pub mod file;
#[cfg(all(any(test, feature = "fuzz"), feature = "file", unix))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(all(feature = "file", unix), feature = "sqlite"))]
mod group;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(any(all(feature = "file", unix), feature = "sqlite"))]
pub mod meta;
#[cfg(feature = "redis")]
pub mod redis;
mod registered;
pub mod registry;
pub mod settings;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod url;

pub use registered::{Registry, TransportFactory};
pub use registry::{open, schemes};
pub use url::{BusUrl, duration};
