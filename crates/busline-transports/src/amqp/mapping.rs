//! Messages as AMQP properties, headers and bodies, and back; the dialect decides which travel.
//!
//! Standard properties stand where AMQP has a place for them. What it has none for travels in headers
//! that start with `busline-`. Headers of a message are entries of the AMQP table; where that cannot
//! hold them as they are (order, repetition, microseconds, names that mean something to the broker)
//! they stand in `busline-headers` as well, as JSON, and are read from there.

use std::time::Duration;

use busline_core::dead::{BrokerLetter, HEADER_ONLY_GROUP};
use busline_core::message::RareProperties;
use busline_core::transport::Dialect;
use busline_core::{
    Error, ErrorKind, HeaderValue, Key, Message, Native, Properties, Timestamp, Topic,
};
use bytes::Bytes;
use bytestring::ByteString;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::back::Without;
use super::header::{integer, native, plain};
use crate::exact;

const CONVERSATION: &str = "busline-conversation-id";
const CAUSATION: &str = "busline-causation-id";
const ORDERING_KEY: &str = "busline-ordering-key";
const TIMESTAMP: &str = "busline-timestamp-us";
const HEADERS: &str = "busline-headers";
/// For logs: when it was sent. The broker knows and does not tell.
const SENT: &str = "busline-sent-us";
/// Of a copy that went straight to a queue: the key of its message.
const KEY: &str = "busline-key";
/// Of a copy: how often its message was delivered before.
const ATTEMPTS: &str = "busline-attempts";
/// Of a copy: that nobody counted all of them.
const ATTEMPTS_LEAST: &str = "busline-attempts-least";
/// Of a copy: the expiration of its message, which would end a delay early.
const EXPIRATION: &str = "busline-expiration-ms";

/// RabbitMQ's frames have 128 KiB unless it is told otherwise; properties and names want room too.
const HEADERS_FRAME_BYTES_MAX: usize = 100 << 10;

/// In the dialect of the Python services: the conversation.
const CONVERSATION_ID: &str = "conversation_id";
/// And the user whom the broker has checked, as they call that property among the headers.
pub(super) const USER_ID: &str = "user_id";

const RESERVED: &[&str] = &[
    CONVERSATION,
    CAUSATION,
    ORDERING_KEY,
    TIMESTAMP,
    SENT,
    HEADERS,
    KEY,
    ATTEMPTS,
    ATTEMPTS_LEAST,
    EXPIRATION,
];

/// The header by which a quorum queue counts deliveries before this one.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The header in which a stream tells the place of a message.
pub(super) const STREAM_OFFSET: &str = "x-stream-offset";

/// A message as it goes to the broker.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) payload: Bytes,
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) payload: Bytes,
    pub(super) redelivered: bool,
}

/// How often a message was delivered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) count: u32,
    pub(super) exact: bool,
}

/// To a topic; the message was checked against the limits.
pub(super) fn encode(dialect: Dialect, message: &Message) -> busline_core::Result<Wire> {
    let properties = match dialect {
        Dialect::Eventail => eventail(message)?,
        _ => own(message)?,
    };
    wire(message, properties)
}

/// As [`encode`], of what a stranger may have sent: headers that do not fit exactly stand in the table only,
/// so that there is no message that cannot be rejected.
pub(super) fn encode_letter(dialect: Dialect, message: &Message) -> busline_core::Result<Wire> {
    match encode(dialect, message) {
        Err(error) if error.kind() == ErrorKind::Limit => wire(message, inexact(message)?),
        encoded => encoded,
    }
}

pub(super) fn wire(message: &Message, properties: BasicProperties) -> busline_core::Result<Wire> {
    Ok(Wire {
        exchange: super::names::exchange(&message.topic)?,
        key: super::names::short(message.key.as_str())?,
        properties,
        payload: message.payload.clone(),
    })
}

/// Stamps what goes to a log with the time.
pub(super) fn stamp(wire: &mut Wire, now: Timestamp) {
    let mut headers = wire.properties.headers().clone().unwrap_or_default();
    headers.insert(SENT.into(), AMQPValue::LongLongInt(now.unix_us()));
    wire.properties = wire.properties.clone().with_headers(headers);
}

/// When a record of a log was sent, where it says.
pub(super) fn sent_at(came: &Came) -> Option<Timestamp> {
    let table = came.properties.headers().as_ref().map(FieldTable::inner);
    let stamped = table.and_then(|table| table.get(SENT)).and_then(integer);
    let seconds = || came.properties.timestamp().and_then(|s| i64::try_from(s).ok());
    let us = stamped.or_else(|| seconds().map(|s| s.saturating_mul(1_000_000)));
    us.map(Timestamp::from_unix_us)
}

/// A copy of what came, for one queue: kept as it was, but for what is known about its attempts.
pub(super) fn copy(came: &Came, queue: &ShortString, attempts: Before) -> Wire {
    let mut headers = came.properties.headers().clone().unwrap_or_default();
    let key = match headers.inner().get(KEY) {
        Some(AMQPValue::LongString(key)) => key.clone(),
        _ => came.key.as_str().into(),
    };
    // The broker's own marks are about the message that came, not about its copy.
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner().iter().filter(|(name, _)| !is_brokers(name.as_str())) {
        kept.insert(name.clone(), value.clone());
    }
    headers = kept;
    headers.insert(KEY.into(), AMQPValue::LongString(key));
    headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(attempts.count.into()));
    if !attempts.exact {
        headers.insert(ATTEMPTS_LEAST.into(), AMQPValue::Boolean(true));
    }
    let mut properties = came.properties.clone();
    if let Some(ms) = properties.expiration() {
        headers.insert(EXPIRATION.into(), AMQPValue::LongString(ms.as_str().into()));
        properties = Without { expiration: true, ..Without::default() }.of(&properties);
    }
    Wire {
        exchange: ShortString::default(),
        key: queue.clone(),
        properties: properties.with_headers(headers).with_delivery_mode(2),
        payload: came.payload.clone(),
    }
}

/// The message that came.
pub(super) fn decode(dialect: Dialect, topic: &Topic, came: &Came) -> Message {
    let empty = FieldTable::default();
    let table = came.properties.headers().as_ref().unwrap_or(&empty).inner();
    let string = |name: &str| match table.get(name) {
        Some(AMQPValue::LongString(text)) => {
            std::str::from_utf8(text.as_bytes()).ok().map(ByteString::from)
        }
        _ => None,
    };
    let own = dialect == Dialect::Busline;
    let key = own.then(|| string(KEY)).flatten().unwrap_or_else(|| came.key.as_str().into());
    let mut message =
        Message::new(topic.clone(), Key::new(key).unwrap_or_default(), came.payload.clone());
    message.properties = standard(&came.properties);
    if !own {
        read_eventail(&mut message, &came.properties);
        if BrokerLetter::of(&message).is_some() {
            message.properties.native = Some(Native::new(came.properties.clone()));
        }
        return message;
    }
    message.ordering_key = string(ORDERING_KEY);
    let properties = &mut message.properties;
    if let Some(id) = string(CONVERSATION) {
        properties.conversation_id = Some(id);
    }
    if let Some(id) = string(CAUSATION) {
        properties.causation_id = Some(id);
    }
    if let Some(AMQPValue::LongLongInt(us)) = table.get(TIMESTAMP) {
        properties.timestamp = Some(Timestamp::from_unix_us(*us));
    }
    if let Some(ms) = string(EXPIRATION).and_then(|ms| ms.parse().ok()) {
        properties.expiration = Some(Duration::from_millis(ms));
    }
    let exactly = string(HEADERS).and_then(|json| exact::parse(&json));
    message.headers = exactly.unwrap_or_else(|| {
        plain(table.iter(), |name| !RESERVED.contains(&name) && !is_brokers(name))
    });
    message
}

/// How often what came was delivered before; the redelivered mark alone counts as at least once.
pub(super) fn delivered_before(came: &Came) -> Before {
    let table = came.properties.headers().as_ref().map(FieldTable::inner);
    let get = |name: &str| table.and_then(|table| table.get(name));
    let (earlier, least) = (get(ATTEMPTS).and_then(integer), get(ATTEMPTS_LEAST).is_some());
    let (here, counted) = match get(DELIVERY_COUNT).and_then(integer) {
        Some(count) => (count, true),
        None => (i64::from(came.redelivered), !came.redelivered),
    };
    let count = earlier.unwrap_or(0).max(0).saturating_add(here.max(0));
    Before { count: u32::try_from(count).unwrap_or(u32::MAX), exact: counted && !least }
}

/// Whether what came is for this group: everything is, but what was redriven for another.
pub(super) fn is_for_group(came: &Came, group: &str) -> bool {
    let table = came.properties.headers().as_ref().map(FieldTable::inner);
    match table.and_then(|table| table.get(HEADER_ONLY_GROUP)) {
        Some(AMQPValue::LongString(only)) => only.as_bytes() == group.as_bytes(),
        _ => true,
    }
}

/// What orders a message among others: its ordering key, or its key.
pub(super) fn lane(came: &Came) -> ByteString {
    let table = came.properties.headers().as_ref().map(FieldTable::inner);
    let get = |name: &str| match table.and_then(|table| table.get(name)) {
        Some(AMQPValue::LongString(text)) => {
            std::str::from_utf8(text.as_bytes()).ok().map(ByteString::from)
        }
        _ => None,
    };
    get(ORDERING_KEY).or_else(|| get(KEY)).unwrap_or_else(|| came.key.as_str().into())
}

/// The place in a stream.
pub(super) fn stream_offset(properties: &BasicProperties) -> Option<u64> {
    let value = properties.headers().as_ref()?.inner().get(STREAM_OFFSET)?;
    integer(value).and_then(|offset| u64::try_from(offset).ok())
}

fn own(message: &Message) -> busline_core::Result<BasicProperties> {
    let (properties, mut headers, is_exact) = table(message)?;
    if !is_exact {
        let json = AMQPValue::LongString(exact::write(&message.headers).into());
        headers.insert(HEADERS.into(), json);
    }
    if headers.inner().is_empty() {
        return Ok(properties);
    }
    check_size(&headers)?;
    Ok(properties.with_headers(headers))
}

fn inexact(message: &Message) -> busline_core::Result<BasicProperties> {
    table(message).map(|(properties, headers, _)| properties.with_headers(headers))
}

/// Properties and table, and whether the headers of the message are exactly what stands there.
fn table(message: &Message) -> busline_core::Result<(BasicProperties, FieldTable, bool)> {
    let from = &message.properties;
    let mut properties = common(from)?.with_delivery_mode(2);
    let mut headers = FieldTable::default();
    let mut put = |name: &str, value: AMQPValue| {
        headers.insert(name.into(), value);
    };
    for (name, value) in [
        (CONVERSATION, &from.conversation_id),
        (CAUSATION, &from.causation_id),
        (ORDERING_KEY, &message.ordering_key),
    ] {
        if let Some(value) = value {
            put(name, super::names::text(value));
        }
    }
    if let Some(time) = from.timestamp {
        match whole_seconds(time) {
            Some(seconds) => properties = properties.with_timestamp(seconds),
            None => put(TIMESTAMP, AMQPValue::LongLongInt(time.unix_us())),
        }
    }
    let mut last: Option<&ByteString> = None;
    let mut is_exact = true;
    for (name, value) in message.headers.iter() {
        let meant = RESERVED.contains(&&**name) || is_brokers(name);
        // The broker sorts the table, and an entry has one value.
        is_exact &= !meant && is_simple(value) && last.is_none_or(|last| last < name);
        last = Some(name);
        if !meant {
            headers.insert(super::names::short(name)?, native(value)?);
        }
    }
    Ok((properties, headers, is_exact))
}

/// All properties stand in one frame.
fn check_size(headers: &FieldTable) -> busline_core::Result<()> {
    let texts = headers.inner().values().map(|value| match value {
        AMQPValue::LongString(text) => text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => bytes.len(),
        _ => 16,
    });
    let bytes = texts.sum::<usize>();
    if bytes <= HEADERS_FRAME_BYTES_MAX {
        return Ok(());
    }
    let why = format!(
        "all headers together have {bytes} bytes as they are written, at most {HEADERS_FRAME_BYTES_MAX} fit a frame"
    );
    Err(Error::new(ErrorKind::Limit, why))
}

/// The Python services': no id, empty texts where there is nothing, logs without any property.
fn eventail(message: &Message) -> busline_core::Result<BasicProperties> {
    let from = &message.properties;
    // A letter is put back as it was.
    let is_letter = BrokerLetter::of(message).is_some();
    if !is_letter && is_of_endpoint(message) {
        return endpoint(message);
    }
    if message.topic.as_str() == super::session::LOGS {
        return Ok(BasicProperties::default());
    }
    let mut headers = FieldTable::default();
    for (name, value) in message.headers.iter().filter(|(name, _)| !is_letter || **name != *USER_ID)
    {
        headers.insert(super::names::short(name)?, native(value)?);
    }
    let conversation = from.conversation_id.as_deref();
    if conversation.is_some() || !is_letter && !headers.contains_key(CONVERSATION_ID) {
        let id = conversation.unwrap_or_default();
        headers.insert(CONVERSATION_ID.into(), super::names::text(id));
    }
    check_size(&headers)?;
    let text = |text: &Option<ByteString>| super::names::short(text.as_deref().unwrap_or_default());
    if is_letter {
        let properties = common(from)?.with_headers(headers).with_delivery_mode(2);
        let seconds = from.timestamp.and_then(whole_seconds);
        return Ok(seconds.into_iter().fold(properties, BasicProperties::with_timestamp));
    }
    let properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_content_type(super::names::short(
            from.content_type.as_deref().unwrap_or("application/cbor"),
        )?)
        .with_reply_to(text(&from.reply_to)?);
    // The answer to a command without the id has none, not an empty one.
    let is_result = message.topic.as_str() == super::session::COMMANDS && from.reply_to.is_none();
    if is_result && from.correlation_id.is_none() {
        return Ok(properties);
    }
    Ok(properties.with_correlation_id(text(&from.correlation_id)?))
}

/// Whether it is as programs without async send it: these say how the payload is encoded, services never do.
pub(super) fn is_of_endpoint(message: &Message) -> bool {
    message.properties.content_encoding.is_some()
}

/// Theirs: what there is, headers always, and only events outlive a restart of the broker.
fn endpoint(message: &Message) -> busline_core::Result<BasicProperties> {
    let mut headers = FieldTable::default();
    for (name, value) in message.headers.iter() {
        headers.insert(super::names::short(name)?, native(value)?);
    }
    if let Some(id) = &message.properties.conversation_id {
        headers.insert(CONVERSATION_ID.into(), super::names::text(id));
    }
    check_size(&headers)?;
    let is_transient = ["configurations", super::session::LOGS].contains(&message.topic.as_str());
    let mode = if is_transient { 1 } else { 2 };
    Ok(common(&message.properties)?.with_headers(headers).with_delivery_mode(mode))
}

/// What any of those programs sent. That there is no conversation and that it is empty are two things,
/// and an id that is no text stays a header.
pub(super) fn read_eventail(message: &mut Message, came: &BasicProperties) {
    let empty = FieldTable::default();
    let table = came.headers().as_ref().unwrap_or(&empty).inner();
    let conversation = table.get(CONVERSATION_ID).and_then(|id| match id {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    });
    message.properties.conversation_id = conversation.map(ByteString::from);
    let is_text = conversation.is_some();
    message.headers =
        plain(table.iter(), |name| name != USER_ID && !(is_text && name == CONVERSATION_ID));
    // The only property that they show and we have no place for.
    if let Some(user) = came.user_id() {
        message.headers.append(USER_ID, user.as_str().to_owned());
    }
}

/// Sets a property.
pub(super) type With = fn(BasicProperties, ShortString) -> BasicProperties;

/// What AMQP has a place for.
fn common(from: &Properties) -> busline_core::Result<BasicProperties> {
    let mut properties = BasicProperties::default();
    let set: [(&Option<ByteString>, With); 7] = [
        (&from.message_id, BasicProperties::with_message_id),
        (&from.correlation_id, BasicProperties::with_correlation_id),
        (&from.reply_to, BasicProperties::with_reply_to),
        (&from.content_type, BasicProperties::with_content_type),
        (&from.content_encoding, BasicProperties::with_content_encoding),
        (&from.kind, BasicProperties::with_type),
        (&from.app_id, BasicProperties::with_app_id),
    ];
    for (value, with) in set {
        if let Some(value) = value {
            properties = with(properties, super::names::short(value)?);
        }
    }
    if let Some(expiration) = from.expiration {
        // RabbitMQ takes 32 bits of milliseconds.
        let ms = expiration.as_millis().min(u128::from(u32::MAX));
        properties = properties.with_expiration(super::names::short(&ms.to_string())?);
    }
    Ok(match from.priority {
        Some(priority) => properties.with_priority(priority),
        None => properties,
    })
}

pub(super) fn standard(came: &BasicProperties) -> Properties {
    // An empty text is how some conventions write that there is none.
    let text = |value: &Option<ShortString>| {
        value
            .as_ref()
            .filter(|text| !text.as_str().is_empty())
            .map(|text| ByteString::from(text.as_str()))
    };
    let expiration = came.expiration().as_ref().and_then(|ms| ms.as_str().parse().ok());
    let seconds = came.timestamp().and_then(|seconds| i64::try_from(seconds).ok());
    let rare = RareProperties {
        correlation_id: text(came.correlation_id()),
        conversation_id: None,
        causation_id: None,
        reply_to: text(came.reply_to()),
        content_encoding: text(came.content_encoding()),
        kind: text(came.kind()),
        app_id: text(came.app_id()),
        timestamp: seconds.map(|s| Timestamp::from_unix_us(s.saturating_mul(1_000_000))),
        expiration: expiration.map(Duration::from_millis),
        priority: *came.priority(),
        native: None,
    };
    let mut properties = Properties::default();
    properties.message_id = text(came.message_id());
    properties.content_type = text(came.content_type());
    if rare != RareProperties::default() {
        *properties = rare;
    }
    properties
}

/// Names that the broker writes, or reads as orders to send copies elsewhere.
fn is_brokers(name: &str) -> bool {
    name.starts_with("x-") || name == "CC" || name == "BCC"
}

fn is_simple(value: &HeaderValue) -> bool {
    matches!(value, HeaderValue::Bool(_) | HeaderValue::Int(_) | HeaderValue::Str(_))
        || matches!(value, HeaderValue::Float(value) if value.is_finite())
}

fn whole_seconds(time: Timestamp) -> Option<u64> {
    let us = time.unix_us();
    u64::try_from(us / 1_000_000).ok().filter(|_| us >= 0 && us % 1_000_000 == 0)
}
