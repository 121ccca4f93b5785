//! Codecs: typed payloads to bytes and back, chosen by content type.

use std::cell::Cell;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// The payload formats that come with the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Codec {
    /// `application/json`
    #[default]
    Json,
    /// `application/cbor`, RFC 8949.
    Cbor,
    /// `application/octet-stream`: the payload is what it is, no type goes through it.
    Raw,
}

impl Codec {
    /// The media type that is written.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
            Self::Raw => "application/octet-stream",
        }
    }

    /// The codec of a media type, parameters such as `; charset=utf-8` apart; `+json` and `+cbor`
    /// suffixes count (RFC 6839, RFC 8949). `None` when it is unknown.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let ends = |suffix: &str| {
            let at = media_type.len().checked_sub(suffix.len());
            at.and_then(|at| media_type.get(at..))
                .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        };
        let is = |whole: &str| media_type.eq_ignore_ascii_case(whole);
        if is("application/json") || is("text/json") || ends("+json") {
            Some(Self::Json)
        } else if is("application/cbor") || ends("+cbor") {
            Some(Self::Cbor)
        } else if is("application/octet-stream") {
            Some(Self::Raw)
        } else {
            None
        }
    }

    /// Encodes a value; `Limit` when the format cannot hold it, `Refused` for `Raw`.
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Bytes> {
        match self {
            Self::Json => in_scratch(|bytes| {
                serde_json::to_writer(bytes, value).map_err(|cause| unencodable(self).source(cause))
            }),
            Self::Cbor => in_scratch(|bytes| {
                cbor2::to_writer(value, bytes).map_err(|cause| unencodable(self).source(cause))
            }),
            Self::Raw => Err(no_types()),
        }
    }

    /// Decodes a payload; `Limit` names the format and what is wrong. The whole payload must be
    /// one value: what follows it is an error.
    pub fn decode<T: DeserializeOwned>(self, payload: &[u8]) -> Result<T> {
        match self {
            Self::Json => {
                serde_json::from_slice(payload).map_err(|cause| undecodable(self).source(cause))
            }
            Self::Cbor => {
                cbor_one(payload).map_err(|cause| undecodable(self).context("cause", cause))
            }
            Self::Raw => Err(no_types()),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.content_type())
    }
}

impl Message {
    /// Sets payload and content type from a value.
    pub fn encode<T: Serialize + ?Sized>(mut self, codec: Codec, value: &T) -> Result<Self> {
        self.payload = codec.encode(value)?;
        Ok(self.content_type(codec.content_type()))
    }

    /// The payload as a value, by its content type; without one it is read as JSON.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let codec = match self.properties.content_type.as_deref() {
            None | Some("") => Codec::Json,
            Some(content_type) => Codec::of_content_type(content_type).ok_or_else(|| {
                Error::new(ErrorKind::Limit, format!("no codec for content type '{content_type}'"))
                    .hint("application/json and application/cbor are known")
            })?,
        };
        codec.decode(&self.payload).map_err(|error| {
            error.during("decode").context("topic", &self.topic).context("key", &self.key)
        })
    }
}

thread_local! {
    /// Where values are encoded: how long one becomes is known only afterwards, and a payload that grew on its
    /// way would be moved several times and keep more memory than it needs.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A thread keeps no larger buffer than this for its next value.
const SCRATCH_LEN_MAX: usize = 64 << 10;

/// What was written, in one allocation of its own length.
fn in_scratch(write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Bytes> {
    // Taken, so that a value that encodes others while it is encoded finds another buffer.
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let written = write(&mut scratch).map(|()| Bytes::copy_from_slice(&scratch));
    if scratch.capacity() <= SCRATCH_LEN_MAX {
        SCRATCH.set(scratch);
    }
    written
}

/// One CBOR value and nothing behind it, which the decoder itself would not mind.
fn cbor_one<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    let mut rest = payload;
    let value = cbor2::from_reader(&mut rest).map_err(|cause| cause.to_string())?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes follow the value", rest.len())) }
}

fn unencodable(codec: Codec) -> Error {
    Error::new(ErrorKind::Limit, format!("the value cannot be written as {codec}"))
}

fn undecodable(codec: Codec) -> Error {
    Error::new(ErrorKind::Limit, format!("the payload is not {codec} of the expected shape"))
}

fn no_types() -> Error {
    Error::refused("typed payload", "the raw codec", "use the payload bytes, or JSON or CBOR")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Topic};

    #[test]
    fn there_and_back_by_content_type() {
        for codec in [Codec::Json, Codec::Cbor] {
            let message = Message::new(Topic::new("t").unwrap(), Key::empty(), Bytes::new())
                .encode(codec, &(1, "two", [3.5]))
                .unwrap();
            let back: (i32, String, Vec<f64>) = message.decode().unwrap();
            assert_eq!(back, (1, "two".to_owned(), vec![3.5]));
        }
        assert_eq!(Codec::of_content_type("Application/JSON; charset=utf-8"), Some(Codec::Json));
        assert_eq!(Codec::of_content_type("application/problem+json"), Some(Codec::Json));
        assert_eq!(Codec::of_content_type("text/plain"), None);
    }

    #[test]
    fn a_value_may_encode_others_while_it_is_encoded() {
        struct Nested(u32);
        impl Serialize for Nested {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let inner = Codec::Json.encode(&[self.0; 3]).map_err(serde::ser::Error::custom)?;
                serializer.serialize_str(std::str::from_utf8(&inner).expect("JSON is UTF-8"))
            }
        }
        let encode = |value| Codec::Json.encode(&[Nested(value), Nested(2)]).unwrap();
        assert_eq!(encode(1), r#"["[1,1,1]","[2,2,2]"]"#);
        // One that failed leaves nothing behind.
        let key_of_no_text = std::collections::BTreeMap::from([([1, 2], 3)]);
        assert!(Codec::Json.encode(&key_of_no_text).is_err());
        assert_eq!(encode(3), r#"["[3,3,3]","[2,2,2]"]"#);
        // A large one keeps no memory, and its payload no more than it needs.
        let large = Codec::Cbor.encode(&"x".repeat(2 * SCRATCH_LEN_MAX)).unwrap();
        assert_eq!(large.len(), 2 * SCRATCH_LEN_MAX + 5);
        assert!(SCRATCH.take().capacity() <= SCRATCH_LEN_MAX);
    }

    #[test]
    fn what_follows_a_value_is_an_error() {
        assert!(Codec::Json.decode::<u8>(b"1 2").is_err());
        assert!(Codec::Cbor.decode::<u8>(&[1, 2]).is_err());
        assert!(Codec::Cbor.decode::<u8>(&[1]).is_ok());
        // A length that nothing stands behind takes no memory.
        assert!(
            Codec::Cbor.decode::<Vec<u8>>(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).is_err()
        );
        assert!(Codec::Raw.encode(&1).is_err());
    }
}
