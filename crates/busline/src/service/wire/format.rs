//! The two formats of bodies, and writing them as the Python side does.

use std::fmt;

use busline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Serialize;

use super::cbor::CborSink;
use super::json::JsonSink;
use super::serialize::{Sink, Writer};

/// How a service writes its payloads; what it receives is read by its own content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `application/cbor`, RFC 8949.
    #[default]
    Cbor,
    /// `application/json`.
    Json,
}

impl Format {
    /// The content type that is written.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Cbor => "application/cbor",
            Self::Json => "application/json",
        }
    }

    /// How a body of this content type is read: as CBOR if it is exactly `application/cbor`, as JSON in
    /// every other case.
    pub fn of_content_type(content_type: Option<&str>) -> Self {
        match content_type {
            Some("application/cbor") => Self::Cbor,
            _ => Self::Json,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content_type())
    }
}

/// A payload as a body, byte for byte as Python's `cbor2` and `json` write the same value.
///
/// `Limit` when the format cannot hold it: bytes, tags and keys that are no scalars in JSON.
pub fn encode<T: Serialize + ?Sized>(format: Format, payload: &T) -> Result<Bytes> {
    match format {
        Format::Cbor => write(CborSink::default(), format, payload),
        Format::Json => write(JsonSink::default(), format, payload),
    }
}

/// As [`encode`]; what is not ASCII is escaped in JSON.
pub(crate) fn encode_ascii<T: Serialize + ?Sized>(format: Format, payload: &T) -> Result<Bytes> {
    match format {
        Format::Cbor => encode(format, payload),
        Format::Json => write(JsonSink::ascii(), format, payload),
    }
}

pub(super) fn write<S: Sink, T: Serialize + ?Sized>(
    mut sink: S,
    format: Format,
    payload: &T,
) -> Result<Bytes> {
    match payload.serialize(Writer(&mut sink)) {
        Ok(()) => Ok(sink.into_bytes().into()),
        Err(cause) => {
            let why = format!("the payload cannot be written as {format}");
            Err(Error::new(ErrorKind::Limit, why).source(cause))
        }
    }
}
