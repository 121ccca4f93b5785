//! Bodies as they came: known to be well-formed, and read when somebody asks.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;

use busline_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize, Serializer};

pub use cbor2::Value;

use super::format::Format;
use super::{json_read, unicode};

/// How deeply lists and maps may stand in one another: in CBOR as many as on the Python side. In JSON Python takes
/// more than twice as many, which the stack of a thread would not.
pub(super) const DEPTH_MAX: usize = 400;

/// The tag that says of what follows that it is CBOR (RFC 8949, 3.4.6), and no more.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

/// A body as it came: it is known to be well-formed, and read when somebody asks.
///
/// Written again (it implements `Serialize`) it is the same value.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    format: Format,
    /// UTF-8 when it is JSON; never empty.
    bytes: Bytes,
}

impl Body {
    /// Looks a body over; `Limit` says why it is none. Nothing at all is null.
    pub fn new(format: Format, bytes: Bytes) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self { format: Format::Json, bytes: Bytes::from_static(b"null") });
        }
        let bytes = match format {
            // That it is CBOR is said already.
            Format::Cbor if bytes.starts_with(&SELF_DESCRIBED) => {
                bytes.slice(SELF_DESCRIBED.len()..)
            }
            Format::Cbor => bytes,
            Format::Json => match unicode::text(&bytes).map_err(|why| unreadable(format, why))? {
                Cow::Borrowed(text) if text.len() == bytes.len() => bytes,
                text => Bytes::from(text.into_owned()),
            },
        };
        let body = Self { format, bytes };
        body.read::<IgnoredAny>()?;
        Ok(body)
    }

    /// The format it came in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The payload as a value of this type; `Limit` says where the shapes differ.
    ///
    /// Of a key that stands in a map more than once the last is taken. What CBOR carries as JSON would,
    /// is taken as from JSON: a whole number for a float, an id or a time as text.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let error = match self.read() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        // The slow way, for what is right and looks unusual to the library.
        let mut value = self.read::<Value>()?;
        if !last_wins(&mut value) && self.format == Format::Json {
            return Err(error);
        }
        for format in [Format::Json, Format::Cbor] {
            if let Ok(bytes) = super::encode(format, &value)
                && let Ok(value) = (Self { format, bytes }).read()
            {
                return Ok(value);
            }
        }
        Err(error)
    }

    /// The payload as a value of whatever shape, nothing of it lost.
    pub fn value(&self) -> Result<Value> {
        let mut value = self.read()?;
        last_wins(&mut value);
        Ok(value)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T> {
        match self.format {
            Format::Cbor => {
                // What follows the first item is not looked at, as on the Python side.
                let bytes: &[u8] = &self.bytes;
                // The library counts what stands in the innermost one too.
                let depth = DEPTH_MAX + 1;
                let mut reader =
                    cbor2::de::Deserializer::from_slice_with_recursion_limit(bytes, depth);
                T::deserialize(&mut reader).map_err(|why| unreadable(self.format, why))
            }
            Format::Json => {
                let text = std::str::from_utf8(&self.bytes);
                let text = text.map_err(|why| unreadable(self.format, why))?;
                json_read::from_str(text).map_err(|why| unreadable(self.format, why))
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({}, {} bytes)", self.format, self.bytes.len())
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    /// For handlers that take a payload of whatever shape and give it on.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let bytes = super::encode(Format::Cbor, &value).map_err(serde::de::Error::custom)?;
        Ok(Self { format: Format::Cbor, bytes })
    }
}

fn unreadable(format: Format, why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Limit, format!("the payload is not {format} of the expected shape"))
        .source(why)
}

/// Keeps of each key of a map its first place and its last value; whether anything had to go.
fn last_wins(value: &mut Value) -> bool {
    let mut any = false;
    match value {
        Value::Array(items) => {
            for item in items {
                any |= last_wins(item);
            }
        }
        Value::Tag(_, item) => any = last_wins(item),
        Value::Map(entries) => {
            for (_, item) in entries.iter_mut() {
                any |= last_wins(item);
            }
            if has_doubles(entries) {
                any = true;
                drop_doubles(entries);
            }
        }
        _ => {}
    }
    any
}

fn drop_doubles(entries: &mut Vec<(Value, Value)>) {
    let mut places = HashMap::new();
    let mut kept: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
    for (key, item) in entries.drain(..) {
        match places.entry(bytes_of(&key)) {
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push((key, item));
            }
            Entry::Occupied(place) => kept[*place.get()].1 = item,
        }
    }
    *entries = kept;
}

fn has_doubles(entries: &[(Value, Value)]) -> bool {
    /// Up to here comparing each with each is faster than hashing.
    const FEW: usize = 12;
    if entries.len() <= FEW {
        return (1..entries.len())
            .any(|at| entries[..at].iter().any(|(key, _)| *key == entries[at].0));
    }
    let mut seen = HashSet::with_capacity(entries.len());
    entries.iter().any(|(key, _)| !seen.insert(bytes_of(key)))
}

/// A key as bytes, equal when keys are.
fn bytes_of(key: &Value) -> Vec<u8> {
    match key {
        Value::Text(text) => text.as_bytes().to_vec(),
        // A text cannot start like this.
        other => [vec![0xff], cbor2::to_vec(other).unwrap_or_default()].concat(),
    }
}
