//! Messages as rows and back.

use busline_core::{Error, HeaderValue, Key, Message, Record, Result, Timestamp, Topic};
use bytes::Bytes;
use bytestring::ByteString;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::error::{foreign, of_sqlite};
use super::topics::{NUMBER_BITS, TopicRow};
use crate::meta;

/// What a record takes beside its key, properties and payload, about.
pub(super) const RECORD_BYTES: i64 = 24;

/// What a record's bytes are kept under that is no message.
const HEADER_RAW_META: &str = "busline-raw-meta";

/// The columns that [`Raw::of`] reads, payload last: what is passed over need not be fetched.
pub(super) const COLUMNS: &str = "id, time, key, meta, payload";

/// A row of `records`, borrowed from SQLite until the next one.
pub(super) struct Raw<'a> {
    pub(super) number: i64,
    pub(super) time: i64,
    pub(super) key: &'a str,
    pub(super) meta: &'a [u8],
    row: &'a Row<'a>,
}

impl<'a> Raw<'a> {
    /// The row without its payload; `Conflict` when it is none of ours.
    pub(super) fn of(row: &'a Row<'a>) -> Result<Self> {
        let id: i64 = row.get(0).map_err(of_sqlite)?;
        let number = number_of(id);
        let time = row.get(1).map_err(of_sqlite)?;
        let key = match row.get_ref(2).map_err(of_sqlite)? {
            ValueRef::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        };
        let key = key.ok_or_else(|| foreign(format!("record {number} has no valid key")))?;
        let ValueRef::Blob(meta) = row.get_ref(3).map_err(of_sqlite)? else {
            return Err(foreign(format!("record {number} has no valid properties")));
        };
        Ok(Self { number, time, key, meta, row })
    }

    fn payload(&self) -> Result<Bytes> {
        match self.row.get_ref(4).map_err(of_sqlite)? {
            ValueRef::Blob(payload) | ValueRef::Text(payload) => {
                Ok(Bytes::copy_from_slice(payload))
            }
            _ => Err(foreign(format!("record {} has no valid payload", self.number))),
        }
    }

    /// The message; `Conflict` when a newer version wrote it.
    pub(super) fn message(&self, topic: &Topic) -> Result<Message> {
        let wrong = |cause: &dyn std::fmt::Display| {
            foreign(format!("record {} is no message: {cause}", self.number))
                .context("topic", topic)
        };
        let (properties, ordering_key, headers) =
            meta::decode(&Bytes::copy_from_slice(self.meta)).map_err(|cause| wrong(&cause))?;
        let key = Key::new(ByteString::from(self.key)).map_err(|cause| wrong(&cause))?;
        let payload = self.payload()?;
        Ok(Message { topic: topic.clone(), key, ordering_key, headers, properties, payload })
    }

    /// The message, or one that bears the bytes of a record that is none, so that it can be settled.
    pub(super) fn message_or_opaque(&self, topic: &Topic) -> Result<Message> {
        self.message(topic).or_else(|_| {
            let key = Key::new(ByteString::from(self.key)).unwrap_or_else(|_| Key::empty());
            let mut message = Message::new(topic.clone(), key, self.payload()?);
            message
                .headers
                .append(HEADER_RAW_META, HeaderValue::Bytes(Bytes::copy_from_slice(self.meta)));
            Ok(message)
        })
    }

    pub(super) fn record(&self, topic: &TopicRow) -> Result<Record> {
        let message = self.message(&topic.name)?;
        let (offset, time) = (topic.offset(self.number), Timestamp::from_unix_us(self.time));
        Ok(Record { message, offset, time })
    }
}

/// The number of a record in its topic.
pub(super) fn number_of(id: i64) -> i64 {
    id & ((1 << NUMBER_BITS) - 1)
}

/// The properties and headers of a message as they are stored.
pub(super) fn meta_of(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    meta::encode(message, &mut out);
    out
}

/// The error of what a topic's table cannot hold.
pub(super) fn too_many(what: &str) -> Error {
    Error::new(
        busline_core::ErrorKind::Limit,
        format!("the database has no number left for a {what}"),
    )
    .hint("begin a new database")
}
