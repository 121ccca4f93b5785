//! A message as a JSON line, and as a line for people.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busline::{Codec, Delivery, HeaderValue, Message, Offset, Record, Timestamp, dead};
use owo_colors::Style;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::output::{Output, one_line};

/// A message, where it stands, and what its verb says beside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    message: &'a Message,
    offset: Option<&'a Offset>,
    time: Option<Timestamp>,
    beside: Beside,
    hides_payload: bool,
}

/// What stands behind the fields that every message has.
#[derive(Debug, Clone, Copy)]
enum Beside {
    Nothing,
    /// Attempt and outcome.
    Delivery(u32, &'static str),
    /// What its headers say about a dead letter.
    Letter,
}

impl<'a> Line<'a> {
    /// A record of a log.
    pub(crate) fn record(record: &'a Record) -> Self {
        let (offset, time) = (Some(&record.offset), Some(record.time));
        Self {
            message: &record.message,
            offset,
            time,
            beside: Beside::Nothing,
            hides_payload: false,
        }
    }

    /// A delivery and how it is going to be settled.
    pub(crate) fn delivery(delivery: &'a Delivery, outcome: &'static str) -> Self {
        Self {
            message: &delivery.message,
            offset: delivery.offset.as_ref(),
            time: delivery.time,
            beside: Beside::Delivery(delivery.attempt.number, outcome),
            hides_payload: false,
        }
    }

    /// A dead letter.
    pub(crate) fn letter(
        message: &'a Message,
        offset: Option<&'a Offset>,
        time: Option<Timestamp>,
    ) -> Self {
        Self { message, offset, time, beside: Beside::Letter, hides_payload: false }
    }

    /// The same with null for the payload, for one that cannot be looked into.
    pub(crate) fn without_payload(self) -> Self {
        Self { hides_payload: true, ..self }
    }

    /// The length of the payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.message.payload.len()
    }

    /// One line for people: time, offset, key, payload, and what stands beside.
    pub(crate) fn human(&self, out: &Output) -> String {
        let dim = |text: &str| out.styled(text, Style::new().dimmed());
        let mut line = String::new();
        if let Some(time) = self.time {
            line.push_str(&dim(&time.to_string()));
            line.push(' ');
        }
        if let Some(offset) = self.offset {
            line.push_str(&dim(&offset.to_string()));
            line.push(' ');
        }
        line.push_str(&out.styled(&one_line(self.message.key.as_str()), Style::new().cyan()));
        line.push(' ');
        line.push_str(&payload_text(&self.message.payload));
        if let Beside::Delivery(attempt, outcome) = self.beside
            && (attempt > 1 || outcome != "ack")
        {
            line.push_str(&dim(&format!(" (attempt {attempt}, {outcome})")));
        }
        line
    }
}

/// A payload on one line, whatever it is.
pub(crate) fn payload_text(payload: &[u8]) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) => one_line(text),
        Err(_) => format!("<{} bytes>", payload.len()),
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (message, properties) = (self.message, &self.message.properties);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", &message.topic)?;
        map.serialize_entry("offset", &self.offset)?;
        map.serialize_entry("time", &self.time)?;
        map.serialize_entry("key", message.key.as_str())?;
        map.serialize_entry("headers", &HeadersLine(message))?;
        let text = |text: &'_ Option<_>| text.as_deref().map(str::to_owned);
        map.serialize_entry("content_type", &text(&properties.content_type))?;
        map.serialize_entry("message_id", &text(&properties.message_id))?;
        map.serialize_entry("conversation_id", &text(&properties.conversation_id))?;
        map.serialize_entry("correlation_id", &text(&properties.correlation_id))?;
        map.serialize_entry("reply_to", &text(&properties.reply_to))?;
        let (encoding, payload) = match self.hides_payload {
            true => ("json", Payload::Json(Cow::Borrowed(RawValue::NULL))),
            false => Payload::of(message),
        };
        map.serialize_entry("payload", &payload)?;
        map.serialize_entry("payload_encoding", encoding)?;
        match self.beside {
            Beside::Nothing => {}
            Beside::Delivery(attempt, outcome) => {
                map.serialize_entry("attempt", &attempt)?;
                map.serialize_entry("outcome", outcome)?;
            }
            Beside::Letter => Letter::of(message).entries(&mut map)?,
        }
        map.end()
    }
}

/// What the headers of a dead letter say.
#[derive(Debug, Clone)]
pub(crate) struct Letter<'a> {
    pub(crate) reason: Option<&'a str>,
    pub(crate) origin_topic: Option<&'a str>,
    pub(crate) origin_group: Option<&'a str>,
    pub(crate) origin_offset: Option<&'a str>,
    pub(crate) attempt: Option<i64>,
    pub(crate) redrives: u32,
    pub(crate) rejected_at: Option<Timestamp>,
}

impl<'a> Letter<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        let text = |name| message.headers.get(name).and_then(HeaderValue::as_str);
        if text(dead::HEADER_TOPIC).is_none()
            && let Some(of_broker) = dead::BrokerLetter::of(message)
        {
            return Self::of_broker(&of_broker);
        }
        Self {
            reason: text(dead::HEADER_REASON),
            origin_topic: text(dead::HEADER_TOPIC),
            origin_group: text(dead::HEADER_GROUP),
            origin_offset: text(dead::HEADER_OFFSET),
            attempt: message.headers.get(dead::HEADER_ATTEMPTS).and_then(HeaderValue::as_int),
            redrives: dead::redrives(message),
            rejected_at: match message.headers.get(dead::HEADER_TIME) {
                Some(HeaderValue::Time(time)) => Some(*time),
                _ => None,
            },
        }
    }

    /// One that the broker put aside: it does not say how often it had been delivered.
    fn of_broker(letter: &dead::BrokerLetter<'a>) -> Self {
        Self {
            reason: Some(letter.reason),
            origin_topic: Some(letter.topic()),
            origin_group: Some(letter.group()),
            origin_offset: None,
            attempt: None,
            redrives: letter.deaths.saturating_sub(1),
            rejected_at: letter.time,
        }
    }

    /// Writes the fields of the reference.
    pub(crate) fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("reason", &self.reason)?;
        map.serialize_entry("origin_topic", &self.origin_topic)?;
        map.serialize_entry("origin_group", &self.origin_group)?;
        map.serialize_entry("origin_offset", &self.origin_offset)?;
        map.serialize_entry("attempt", &self.attempt)?;
        map.serialize_entry("redrives", &self.redrives)?;
        map.serialize_entry("rejected_at", &self.rejected_at)
    }
}

/// A payload by what can be said of it without losing a byte.
enum Payload<'a> {
    Json(Cow<'a, RawValue>),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    fn of(message: &'a Message) -> (&'static str, Self) {
        let Ok(text) = std::str::from_utf8(&message.payload) else {
            return ("base64", Self::Bytes(&message.payload));
        };
        let is_json = match message.properties.content_type.as_deref() {
            None | Some("") => true,
            Some(content_type) => Codec::of_content_type(content_type) == Some(Codec::Json),
        };
        match if is_json { json(text) } else { None } {
            Some(value) => ("json", Self::Json(value)),
            None => ("utf8", Self::Text(text)),
        }
    }
}

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => value.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_str(&STANDARD.encode(bytes)),
        }
    }
}

/// The text as one JSON value on one line, numbers and order as they were written.
fn json(text: &str) -> Option<Cow<'_, RawValue>> {
    let value: &RawValue = serde_json::from_str(text).ok()?;
    if !value.get().contains(['\n', '\r']) {
        return Some(Cow::Borrowed(value));
    }
    RawValue::from_string(without_line_breaks(value.get())).ok().map(Cow::Owned)
}

/// Valid JSON has line breaks only between tokens: a string must escape them.
fn without_line_breaks(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

struct HeadersLine<'a>(&'a Message);

impl Serialize for HeadersLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = &self.0.headers;
        let mut map = serializer.serialize_map(None)?;
        for (index, (name, value)) in headers.iter().enumerate() {
            if headers.iter().take(index).any(|(earlier, _)| earlier == name) {
                continue;
            }
            if headers.get_all(name).nth(1).is_none() {
                map.serialize_entry(&**name, &HeaderLine(value))?;
            } else {
                let all: Vec<_> = headers.get_all(name).map(HeaderLine).collect();
                map.serialize_entry(&**name, &all)?;
            }
        }
        map.end()
    }
}

struct HeaderLine<'a>(&'a HeaderValue);

impl Serialize for HeaderLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            HeaderValue::Bool(value) => serializer.serialize_bool(*value),
            HeaderValue::Int(value) => serializer.serialize_i64(*value),
            // JSON has no infinity and no NaN.
            HeaderValue::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            HeaderValue::Float(value) => serializer.collect_str(value),
            HeaderValue::Str(text) => serializer.serialize_str(text),
            HeaderValue::Time(time) => serializer.collect_str(time),
            HeaderValue::Bytes(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(bytes))?;
                map.end()
            }
            HeaderValue::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&HeaderLine(item)))?;
                list.end()
            }
            HeaderValue::Map(items) => {
                let mut map = serializer.serialize_map(Some(items.len()))?;
                for (name, item) in items {
                    map.serialize_entry(&**name, &HeaderLine(item))?;
                }
                map.end()
            }
            // `Null`, and kinds that are added later.
            _ => serializer.serialize_unit(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use busline::{Key, Topic};
    use bytes::Bytes;

    fn message(payload: &'static [u8]) -> Message {
        Message::new(Topic::new("t").unwrap(), Key::new("k").unwrap(), Bytes::from_static(payload))
    }

    fn check(message: &Message, payload: &str, encoding: &str) {
        let line = serde_json::to_string(&Line::letter(message, None, None)).unwrap();
        let expected = format!("\"payload\":{payload},\"payload_encoding\":\"{encoding}\"");
        assert!(line.contains(&expected), "{line} does not hold {expected}");
        assert!(!line.contains('\n'), "{line}");
    }

    #[test]
    fn payloads_lose_nothing() {
        check(
            &message(b"{\"b\":1.10,\"a\":12345678901234567890123}"),
            "{\"b\":1.10,\"a\":12345678901234567890123}",
            "json",
        );
        check(&message(b"{\n \"a\": 1\r\n}"), "{  \"a\": 1  }", "json");
        check(&message(b"{\"a\"").content_type("application/json"), "\"{\\\"a\\\"\"", "utf8");
        check(&message(b"12").content_type("text/plain"), "\"12\"", "utf8");
        check(&message(b"12").content_type("application/vnd.x+json"), "12", "json");
        check(&message(b"hello \x1b"), "\"hello \\u001b\"", "utf8");
        check(&message(b""), "\"\"", "utf8");
        check(&message(b"\xff\x00"), "\"/wA=\"", "base64");
    }

    #[test]
    fn headers_keep_types_and_repetitions() {
        let message = message(b"")
            .header("n", 1)
            .header("x", "a")
            .header("x", "b")
            .header("nan", f64::NAN)
            .header("raw", Bytes::from_static(b"\xff"))
            .header("list", HeaderValue::List(vec![HeaderValue::Null, true.into()]));
        let line = serde_json::to_value(Line::letter(&message, None, None)).unwrap();
        assert_eq!(
            line["headers"],
            serde_json::json!({
                "n": 1, "x": ["a", "b"], "nan": "NaN", "raw": {"base64": "/w=="}, "list": [null, true]
            })
        );
        assert_eq!(line["redrives"], 0);
        assert_eq!(line["offset"], serde_json::Value::Null);
    }
}
