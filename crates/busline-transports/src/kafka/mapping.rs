//! Messages as records with keys and headers, and back; the dialect decides what travels.
//!
//! In our own dialect the record key is the key of the message, none for the empty one, so that others see it and
//! compaction goes by it. Everything else travels in headers: properties and ordering key in such that start with
//! `busline-`, headers of the message under their own names. Kafka keeps their order and repetition; what is no
//! text stands as text for others, and exactly in `busline-headers`, as JSON, from which it is read.

use std::time::Duration;

use busline_core::dead::HEADER_ONLY_GROUP;
use busline_core::message::RareProperties;
use busline_core::transport::Dialect;
use busline_core::{
    Error, ErrorKind, HeaderValue, Headers, Key, Message, Offset, Properties, Result, Timestamp,
    Topic,
};
use bytes::Bytes;
use bytestring::ByteString;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};

use crate::exact;

const MESSAGE_ID: &str = "busline-message-id";
const CORRELATION: &str = "busline-correlation-id";
const CONVERSATION: &str = "busline-conversation-id";
const CAUSATION: &str = "busline-causation-id";
const REPLY_TO: &str = "busline-reply-to";
const CONTENT_TYPE: &str = "busline-content-type";
const CONTENT_ENCODING: &str = "busline-content-encoding";
const KIND: &str = "busline-kind";
const APP_ID: &str = "busline-app-id";
const ORDERING_KEY: &str = "busline-ordering-key";
const TIMESTAMP: &str = "busline-timestamp-us";
const EXPIRATION: &str = "busline-expiration-ms";
const PRIORITY: &str = "busline-priority";
const HEADERS: &str = "busline-headers";
/// Of a copy: how often its message was delivered before.
const ATTEMPTS: &str = "busline-attempts";
/// Of a copy: when it may be delivered.
const DUE: &str = "busline-due-us";
/// Of a copy: the place of its message.
const ORIGIN: &str = "busline-origin";
/// Of what others sent: a record key that is no key of ours. Never written.
const RECORD_KEY: &str = "kafka-record-key";

const RESERVED: &[&str] = &[
    MESSAGE_ID,
    CORRELATION,
    CONVERSATION,
    CAUSATION,
    REPLY_TO,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    KIND,
    APP_ID,
    ORDERING_KEY,
    TIMESTAMP,
    EXPIRATION,
    PRIORITY,
    HEADERS,
    ATTEMPTS,
    DUE,
    ORIGIN,
];

/// A record as it goes to the broker.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) topic: String,
    pub(super) partition: Option<i32>,
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
    pub(super) headers: Option<OwnedHeaders>,
}

/// A record as it came.
#[derive(Debug, Clone)]
pub(super) struct Came {
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
    pub(super) headers: Vec<(ByteString, Option<Bytes>)>,
    pub(super) time: Timestamp,
    pub(super) partition: i32,
    pub(super) offset: u64,
}

impl Came {
    /// Takes a record out of the client's memory.
    pub(super) fn of(message: &BorrowedMessage<'_>) -> Self {
        let bytes = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let header =
            |header: Header<'_, &[u8]>| (ByteString::from(header.key), bytes(header.value));
        let headers = message.headers();
        Self {
            key: bytes(message.key()),
            payload: bytes(message.payload()).unwrap_or_default(),
            headers: headers.map(|all| all.iter().map(header).collect()).unwrap_or_default(),
            time: Timestamp::from_unix_ms(message.timestamp().to_millis().unwrap_or_default()),
            partition: message.partition(),
            offset: u64::try_from(message.offset()).unwrap_or_default(),
        }
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().find(|(found, _)| &**found == name);
        found.and_then(|(_, value)| value.as_deref())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    /// How often its message was delivered before it was copied.
    pub(super) fn attempts(&self) -> u32 {
        self.number(ATTEMPTS).and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
    }

    /// When a copy may be delivered.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.number(DUE).map(Timestamp::from_unix_us)
    }

    /// The place of the message that it is a copy of.
    pub(super) fn origin(&self) -> Option<Offset> {
        self.text(ORIGIN)?.parse().ok()
    }

    /// Whether it is for this group: everything is, but what was redriven for another.
    pub(super) fn is_for_group(&self, group: &str) -> bool {
        self.header(HEADER_ONLY_GROUP).is_none_or(|only| only == group.as_bytes())
    }

    /// The key that patterns look at.
    pub(super) fn key(&self) -> &str {
        self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default()
    }

    /// What orders it among others: its ordering key, or its key.
    pub(super) fn lane(&self) -> ByteString {
        self.text(ORDERING_KEY).unwrap_or_else(|| self.key()).into()
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> u64 {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len) + 48)
            .sum();
        (self.payload.len() + headers + 256) as u64
    }
}

/// To a topic; the message was checked against the limits.
pub(super) fn encode(dialect: Dialect, message: &Message, partitions: i32) -> Result<Wire> {
    let key = message.key.as_str();
    let headers = match dialect {
        Dialect::Hermes => plain(message)?,
        _ => own(message),
    };
    let lane = message.ordering_key.as_ref();
    Ok(Wire {
        topic: super::names::topic(&message.topic)?,
        partition: lane.filter(|_| partitions > 1).map(|lane| partition(lane, partitions)),
        key: (!key.is_empty()).then(|| Bytes::copy_from_slice(key.as_bytes())),
        payload: message.payload.clone(),
        headers,
    })
}

/// A copy of what came, to wait for its retry.
pub(super) fn copy(
    came: &Came,
    to: String,
    attempts: u32,
    due: Timestamp,
    origin: &Offset,
) -> Wire {
    let mut headers = OwnedHeaders::new_with_capacity(came.headers.len() + 3);
    for (key, value) in &came.headers {
        if ![ATTEMPTS, DUE, ORIGIN].contains(&&**key) {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
    }
    let marks = [
        (ATTEMPTS, attempts.to_string()),
        (DUE, due.unix_us().to_string()),
        (ORIGIN, origin.to_string()),
    ];
    for (key, value) in marks {
        headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
    }
    let (key, payload) = (came.key.clone(), came.payload.clone());
    Wire { topic: to, partition: Some(0), key, payload, headers: Some(headers) }
}

/// The message that came.
pub(super) fn decode(dialect: Dialect, topic: &Topic, came: &Came) -> Message {
    let known = came.key.as_ref().and_then(|key| {
        let text = ByteString::try_from(key.clone()).ok()?;
        Key::new(text).ok()
    });
    let strange = came.key.as_ref().filter(|_| known.is_none());
    let mut message = Message::new(topic.clone(), known.unwrap_or_default(), came.payload.clone());
    if dialect == Dialect::Hermes {
        message.headers = came.headers.iter().map(native).collect();
    } else {
        read_own(&mut message, came);
    }
    if let Some(strange) = strange {
        message.headers.append(RECORD_KEY, strange.clone());
    }
    message
}

fn read_own(message: &mut Message, came: &Came) {
    if came.headers.is_empty() {
        return;
    }
    let text = |name: &str| came.text(name).map(ByteString::from);
    message.ordering_key = text(ORDERING_KEY);
    let rare = RareProperties {
        correlation_id: text(CORRELATION),
        conversation_id: text(CONVERSATION),
        causation_id: text(CAUSATION),
        reply_to: text(REPLY_TO),
        content_encoding: text(CONTENT_ENCODING),
        kind: text(KIND),
        app_id: text(APP_ID),
        timestamp: came.number(TIMESTAMP).map(Timestamp::from_unix_us),
        expiration: came
            .number(EXPIRATION)
            .and_then(|ms| u64::try_from(ms).ok())
            .map(Duration::from_millis),
        priority: came.number(PRIORITY).and_then(|priority| u8::try_from(priority).ok()),
        native: None,
    };
    let mut properties = Properties::default();
    properties.message_id = text(MESSAGE_ID);
    properties.content_type = text(CONTENT_TYPE);
    if rare != RareProperties::default() {
        *properties = rare;
    }
    message.properties = properties;
    let exactly = came.text(HEADERS).and_then(exact::parse);
    message.headers = exactly.unwrap_or_else(|| {
        let of_ours = |name: &ByteString| RESERVED.contains(&&**name);
        came.headers.iter().filter(|(name, _)| !of_ours(name)).map(native).collect()
    });
}

fn native((name, value): &(ByteString, Option<Bytes>)) -> (ByteString, HeaderValue) {
    let value = match value {
        None => HeaderValue::Null,
        Some(bytes) => match ByteString::try_from(bytes.clone()) {
            Ok(text) => HeaderValue::Str(text),
            Err(_) => HeaderValue::Bytes(bytes.clone()),
        },
    };
    (name.clone(), value)
}

fn own(message: &Message) -> Option<OwnedHeaders> {
    let from = &message.properties;
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len() + 4);
    let mut count = 0;
    let mut put = |key: &str, value: Option<&[u8]>| {
        headers = std::mem::take(&mut headers).insert(Header { key, value });
        count += 1;
    };
    for (name, value) in [
        (MESSAGE_ID, &from.message_id),
        (CONTENT_TYPE, &from.content_type),
        (CORRELATION, &from.correlation_id),
        (CONVERSATION, &from.conversation_id),
        (CAUSATION, &from.causation_id),
        (REPLY_TO, &from.reply_to),
        (CONTENT_ENCODING, &from.content_encoding),
        (KIND, &from.kind),
        (APP_ID, &from.app_id),
        (ORDERING_KEY, &message.ordering_key),
    ] {
        if let Some(value) = value {
            put(name, Some(value.as_bytes()));
        }
    }
    let expiration = from.expiration.map(|wait| wait.as_millis().to_string());
    for (name, value) in [
        (TIMESTAMP, from.timestamp.map(|time| time.unix_us().to_string())),
        (EXPIRATION, expiration),
        (PRIORITY, from.priority.map(|priority| priority.to_string())),
    ] {
        if let Some(value) = value {
            put(name, Some(value.as_bytes()));
        }
    }
    let mut is_exact = true;
    for (name, value) in message.headers.iter() {
        let meant = RESERVED.contains(&&**name);
        is_exact &= !meant && is_native(value);
        if !meant {
            put(name, readable(value).as_deref());
        }
    }
    if !is_exact {
        put(HEADERS, Some(exact::write(&message.headers).as_bytes()));
    }
    (count > 0).then_some(headers)
}

/// Records of message buses that know no headers; what they cannot hold is refused, not dropped.
fn plain(message: &Message) -> Result<Option<OwnedHeaders>> {
    let has_properties = message.properties != Properties::default();
    let extra = [
        (!message.headers.is_empty(), "headers"),
        (has_properties, "properties"),
        (message.ordering_key.is_some(), "an ordering key"),
    ];
    if let Some((_, what)) = extra.iter().find(|(is_there, _)| *is_there) {
        let why = format!("the message has {what}, and records of the dialect hermes have none");
        return Err(Error::new(ErrorKind::Limit, why).hint("send key and payload alone"));
    }
    if std::str::from_utf8(&message.payload).is_err() {
        let why = "the payload is no text, and events of the dialect hermes are JSON";
        return Err(Error::new(ErrorKind::Limit, why));
    }
    Ok(None)
}

fn is_native(value: &HeaderValue) -> bool {
    match value {
        HeaderValue::Null | HeaderValue::Str(_) => true,
        HeaderValue::Bytes(bytes) => std::str::from_utf8(bytes).is_err(),
        _ => false,
    }
}

/// For whoever reads it there.
fn readable(value: &HeaderValue) -> Option<Vec<u8>> {
    Some(match value {
        HeaderValue::Bool(value) => value.to_string().into(),
        HeaderValue::Int(value) => value.to_string().into(),
        HeaderValue::Float(value) => value.to_string().into(),
        HeaderValue::Str(value) => value.as_bytes().to_vec(),
        HeaderValue::Bytes(value) => value.to_vec(),
        HeaderValue::Time(value) => value.to_string().into(),
        HeaderValue::List(_) | HeaderValue::Map(_) => {
            let one: Headers = [("", value.clone())].into_iter().collect();
            exact::write(&one).into()
        }
        _ => return None,
    })
}

/// As Kafka's own clients spread keys: murmur2 over the partitions.
fn partition(lane: &str, partitions: i32) -> i32 {
    let positive = murmur2(lane.as_bytes()) & 0x7fff_ffff;
    let count = u32::try_from(partitions).unwrap_or(1).max(1);
    i32::try_from(positive % count).unwrap_or(0)
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let word = word.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ word >> 24).wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let rest = rest.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_as_by_other_clients() {
        // As the specification of the message bus has them, from kafka-python.
        assert_eq!(partition("base", 4), 3);
        assert_eq!(partition("initsync", 4), 2);
    }

    fn came(wire: Wire) -> Came {
        let headers = wire.headers.unwrap_or_default();
        let header = |header: Header<'_, &[u8]>| {
            (ByteString::from(header.key), header.value.map(Bytes::copy_from_slice))
        };
        Came {
            key: wire.key,
            payload: wire.payload,
            headers: headers.iter().map(header).collect(),
            time: Timestamp::default(),
            partition: 0,
            offset: 7,
        }
    }

    fn message() -> Message {
        Message::new(Topic::new("t").unwrap(), Key::new("a.b").unwrap(), "body")
    }

    fn there_and_back(message: &Message) -> (Came, Message) {
        let came = came(encode(Dialect::Busline, message, 1).unwrap());
        let back = decode(Dialect::Busline, &message.topic, &came);
        (came, back)
    }

    #[test]
    fn text_is_native_and_everything_else_exact_too() {
        let texts = message().header("b", "x").header("a", "y").header("b", HeaderValue::Null);
        let (came, back) = there_and_back(&texts);
        assert_eq!(back, texts);
        assert!(came.header(HEADERS).is_none());
        let typed = message()
            .header("n", 5)
            .header("f", f64::NEG_INFINITY)
            .header("utf8", Bytes::from_static(b"bytes"))
            .header(ATTEMPTS, "mine");
        let (came, back) = there_and_back(&typed);
        assert_eq!(back, typed);
        assert_eq!((came.text("n"), came.attempts()), (Some("5"), 0));
    }

    #[test]
    fn a_copy_keeps_everything() {
        let sent = message().header("n", 5).message_id("id");
        let (first, _) = there_and_back(&sent);
        let origin = Offset::new(3, 4);
        let again = copy(&first, "r".to_owned(), 2, Timestamp::from_unix_ms(9), &origin);
        let twice = copy(&came(again), "r".to_owned(), 3, Timestamp::from_unix_ms(10), &origin);
        let came = came(twice);
        assert_eq!((came.attempts(), came.due()), (3, Some(Timestamp::from_unix_ms(10))));
        assert_eq!(came.origin(), Some(origin));
        assert_eq!(decode(Dialect::Busline, &sent.topic, &came), sent);
    }

    #[test]
    fn keys_of_others_are_not_lost() {
        let (mut came, _) = there_and_back(&message());
        came.key = Some(Bytes::from_static(&[0xff, 1]));
        let read = decode(Dialect::Busline, &Topic::new("t").unwrap(), &came);
        assert_eq!(read.key, Key::empty());
        let kept = read.headers.get(RECORD_KEY);
        assert_eq!(kept, Some(&HeaderValue::Bytes(Bytes::from_static(&[0xff, 1]))));
    }

    #[test]
    fn a_bus_without_headers_refuses_what_it_would_drop() {
        let wire = encode(Dialect::Hermes, &message(), 1).unwrap();
        assert!(wire.headers.is_none());
        let null = Message { key: Key::empty(), ..message() };
        assert_eq!(encode(Dialect::Hermes, &null, 1).unwrap().key, None);
        for bad in [message().header("a", 1), message().message_id("x")] {
            let error = encode(Dialect::Hermes, &bad, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
        }
    }
}
