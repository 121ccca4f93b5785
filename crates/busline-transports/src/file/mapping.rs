//! Messages as records and back; what a group selects.

use busline_core::{
    Error, ErrorKind, GroupName, Key, Message, Patterns, Record, Result, Timestamp, Topic,
};
use busline_log::KeySet;
use bytes::Bytes;
use bytestring::ByteString;

use super::meta;
use super::store::TopicLog;
pub(super) use crate::group::GroupConfig;

/// Records copied out of the log into one block of memory, to be sliced into messages.
///
/// One allocation serves a whole chunk. A payload that is kept for long keeps its chunk: chunks
/// are small, and a large payload is alone in its own.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    block: Vec<u8>,
    spans: Vec<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    seq: u64,
    time_us: i64,
    attempts: u32,
    key: usize,
    meta: usize,
    value: usize,
}

/// What the bytes of a record are kept under that is no message.
const HEADER_RAW_KEY: &str = "busline-raw-key";
const HEADER_RAW_META: &str = "busline-raw-meta";

/// One record of a chunk.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) attempts: u32,
    key: Bytes,
    meta: Bytes,
    value: Bytes,
}

impl Chunk {
    pub(super) fn push(&mut self, record: &busline_log::Record<'_>, attempts: u32) {
        self.block.extend_from_slice(record.key);
        self.block.extend_from_slice(record.meta);
        self.block.extend_from_slice(record.value);
        self.spans.push(Span {
            seq: record.seq,
            time_us: record.time_us,
            attempts,
            key: record.key.len(),
            meta: record.meta.len(),
            value: record.value.len(),
        });
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.block.len()
    }

    pub(super) fn clear(&mut self) {
        self.block.clear();
        self.spans.clear();
    }

    pub(super) fn into_records(self) -> impl ExactSizeIterator<Item = Raw> {
        let mut block = Bytes::from(self.block);
        self.spans.into_iter().map(move |span| Raw {
            seq: span.seq,
            time: Timestamp::from_unix_us(span.time_us),
            attempts: span.attempts,
            key: split_to(&mut block, span.key),
            meta: split_to(&mut block, span.meta),
            value: split_to(&mut block, span.value),
        })
    }
}

/// Nothing is no share of the block.
fn split_to(block: &mut Bytes, len: usize) -> Bytes {
    if len == 0 { Bytes::new() } else { block.split_to(len) }
}

impl Raw {
    pub(super) fn size_bytes(&self) -> u64 {
        (self.key.len() + self.meta.len() + self.value.len()) as u64
    }

    /// The message; `Conflict` when a newer version wrote it.
    pub(super) fn into_message(self, topic: &Topic) -> Result<Message> {
        let seq = self.seq;
        let foreign = |cause: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Conflict, format!("record {seq} is no message: {cause}"))
                .context("topic", topic)
                .hint("a newer version of Busline, or another program, wrote it")
        };
        let key = ByteString::try_from(self.key).map_err(|cause| foreign(&cause))?;
        let key = Key::new(key).map_err(|cause| foreign(&cause))?;
        let (properties, ordering_key, headers) =
            meta::decode(&self.meta).map_err(|cause| foreign(&cause))?;
        Ok(Message {
            topic: topic.clone(),
            key,
            ordering_key,
            headers,
            properties,
            payload: self.value,
        })
    }

    /// A message that bears the bytes of a record that is none: the value as payload, the others as
    /// headers.
    pub(super) fn into_opaque(self, topic: &Topic) -> Message {
        let key = ByteString::try_from(self.key.clone()).ok().and_then(|key| Key::new(key).ok());
        let mut message =
            Message::new(topic.clone(), key.clone().unwrap_or_else(Key::empty), self.value);
        if key.is_none() {
            message.headers.append(HEADER_RAW_KEY, self.key);
        }
        message.headers.append(HEADER_RAW_META, self.meta);
        message
    }

    pub(super) fn into_record(self, topic: &TopicLog) -> Result<Record> {
        let (offset, time) = (topic.offset(self.seq), self.time);
        Ok(Record { message: self.into_message(&topic.topic)?, offset, time })
    }
}

/// Which records a group gets.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    patterns: Patterns,
    group: GroupName,
    /// The only keys of its records, where the patterns have no wildcards.
    pub(super) keys: Option<KeySet>,
    pub(super) blocking: bool,
}

impl Selection {
    pub(super) fn new(config: &GroupConfig, group: GroupName) -> Self {
        let patterns = config.patterns.clone();
        Self { keys: key_set(&patterns), patterns, group, blocking: config.blocking }
    }

    pub(super) fn takes(&self, key: &[u8], meta_bytes: &[u8]) -> bool {
        key_matches(&self.patterns, key) && meta::is_for_group(meta_bytes, self.group.as_str())
    }

    /// A hash of the ordering key, for groups whose retries block.
    pub(super) fn order(key: &[u8], meta_bytes: &[u8]) -> Option<u64> {
        // FNV-1a: the same in every process and version.
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        Some(meta::ordering_key(key, meta_bytes).iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }
}

/// The only keys that are selected, where the patterns have no wildcards: the log finds them by its filters.
pub(super) fn key_set(patterns: &Patterns) -> Option<KeySet> {
    patterns.as_keys().map(KeySet::new)
}

/// Whether a record's key is selected; one that is not UTF-8 is seen by who sees everything.
pub(super) fn key_matches(patterns: &Patterns, key: &[u8]) -> bool {
    patterns.is_all() || std::str::from_utf8(key).is_ok_and(|key| patterns.matches(key))
}
