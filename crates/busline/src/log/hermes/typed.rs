//! Attributes as types of one's own, through serde.

use busline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::value::{Map, Value};
use super::{read, write};
use crate::service::wire::{Body, Format, encode};

impl Map {
    /// The fields of a value, as attributes; those that are none are left out, as Hermes does.
    ///
    /// Dates are [`DateTime`](super::DateTime) and bytes [`Binary`](super::Binary). `Limit` when the value is no struct or
    /// map with text for names.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let bytes = encode(Format::Json, value)?;
        let text = std::str::from_utf8(&bytes).map_err(|cause| wrong("no UTF-8").source(cause))?;
        match read::value(text).map_err(|why| wrong(&why))? {
            Value::Map(map) => Ok(map.into_iter().filter(|(_, value)| !value.is_null()).collect()),
            other => Err(wrong(&format!("it is {}, not an object", other.kind()))),
        }
    }

    /// A value of these fields; names that it does not know are passed over unless it refuses them.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        let text = write::value(&Value::Map(self.clone())).map_err(|why| wrong(&why))?;
        Body::new(Format::Json, Bytes::from(text))?.decode()
    }
}

fn wrong(why: &str) -> Error {
    Error::new(ErrorKind::Limit, format!("the value cannot be attributes: {why}"))
}
