//! What a service says on the wire, as pure functions: envelopes, bodies and logs.
//!
//! The conventions are those of the Python library eventail (2.3.6), whatever the bus: the kind of a
//! message is told by its topic and its envelope, its body is CBOR or JSON as the content type says, and
//! logs are GELF. Nothing here sends, waits or reads a clock.

mod body;
mod cbor;
mod envelope;
mod format;
mod gelf;
mod incoming;
mod json;
mod json_read;
mod long;
mod meta;
mod serialize;
mod unicode;

pub use body::{Body, Value};
pub use envelope::{Conversation, Kind, Status, command, configuration, event, result, topic};
pub(crate) use format::encode_ascii;
pub use format::{Format, encode};
pub use gelf::{Level, LogLine};
pub use incoming::{Incoming, Invalid, decode};
pub(crate) use json::python_float;
pub use meta::Meta;

#[cfg(test)]
mod tests;
