//! The transports against the contract.

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(all(feature = "file", unix))]
mod faults;
#[cfg(all(feature = "file", unix))]
mod file;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(all(feature = "file", unix))]
mod many;
#[cfg(all(feature = "file", unix))]
mod sessions;
