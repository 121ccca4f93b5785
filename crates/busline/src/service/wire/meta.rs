//! What comes with a message beside its payload and ids.

use std::fmt::Write as _;

use busline_core::{HeaderValue, Headers, Message};
use bytestring::ByteString;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

const TIMESTAMP: &str = "timestamp";
const EXPIRATION: &str = "expiration";
const USER_ID: &str = "user_id";
const APP_ID: &str = "app_id";

/// What comes with a message beside its payload and ids: its headers, and four properties that stand
/// for headers of the same name.
///
/// Written as a payload it is a map in the same order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta(Headers);

impl Meta {
    /// That of a message, but for the header named and the conversation.
    pub(super) fn of(message: &Message, without: Option<&str>) -> Self {
        let properties = &message.properties;
        let mut all = Headers::new();
        for (name, value) in message.headers.iter() {
            let is_elsewhere = [super::envelope::CONVERSATION, USER_ID].contains(&&**name);
            if Some(&**name) != without && !is_elsewhere {
                // In a map a name stands once: in its first place, with its last value.
                set(&mut all, name, value.clone());
            }
        }
        // Only the transport puts that there: a header of the sender's would have been replaced.
        let user = message.headers.get(USER_ID).cloned().unwrap_or(HeaderValue::Null);
        let seconds = properties.timestamp.map(|time| time.unix_us().div_euclid(1_000_000));
        let ms = properties.expiration.map(|after| after.as_millis().to_string());
        set(&mut all, TIMESTAMP, seconds.map_or(HeaderValue::Null, HeaderValue::Int));
        set(&mut all, EXPIRATION, ms.map_or(HeaderValue::Null, HeaderValue::from));
        set(&mut all, USER_ID, user);
        let app = properties.app_id.clone();
        set(&mut all, APP_ID, app.map_or(HeaderValue::Null, HeaderValue::Str));
        Self(all)
    }

    /// When the sender says the message was made, in whole seconds since 1970.
    pub fn timestamp_unix_s(&self) -> Option<i64> {
        self.get(TIMESTAMP)?.as_int()
    }

    /// How long after sending it is worth delivering, in milliseconds as text.
    pub fn expiration_ms(&self) -> Option<&str> {
        self.get(EXPIRATION)?.as_str()
    }

    /// The broker's user who sent it, where the sender gave it.
    pub fn user_id(&self) -> Option<&str> {
        self.get(USER_ID)?.as_str()
    }

    /// The application that sent it.
    pub fn app_id(&self) -> Option<&str> {
        self.get(APP_ID)?.as_str()
    }

    /// A value by its name.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.get(name)
    }

    /// A value as text; `None` when there is none, or none but null.
    pub fn text(&self, name: &str) -> Option<ByteString> {
        self.get(name).filter(|value| **value != HeaderValue::Null).map(text)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ByteString, &HeaderValue)> {
        self.0.iter()
    }

    /// As Python prints the dictionary.
    pub(super) fn python(&self) -> String {
        let mut out = String::new();
        let items = self.iter().map(|(name, value)| (&**name, value));
        python_map(&mut out, items);
        out
    }
}

impl Serialize for Meta {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(&**name, &Typed(value))?;
        }
        map.end()
    }
}

/// A header's value as a payload.
struct Typed<'a>(&'a HeaderValue);

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            HeaderValue::Bool(value) => serializer.serialize_bool(*value),
            HeaderValue::Int(value) => serializer.serialize_i64(*value),
            HeaderValue::Float(value) => serializer.serialize_f64(*value),
            HeaderValue::Str(value) => serializer.serialize_str(value),
            HeaderValue::Time(time) => serializer.serialize_str(&time.to_string()),
            HeaderValue::Bytes(value) => match std::str::from_utf8(value) {
                Ok(text) if serializer.is_human_readable() => serializer.serialize_str(text),
                _ => serializer.serialize_bytes(value),
            },
            HeaderValue::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(&Self(item))?;
                }
                list.end()
            }
            HeaderValue::Map(items) => {
                let mut map = serializer.serialize_map(Some(items.len()))?;
                for (name, value) in items {
                    map.serialize_entry(&**name, &Self(value))?;
                }
                map.end()
            }
            _ => serializer.serialize_unit(),
        }
    }
}

/// A header's value as text: as it is when it is text, empty for null, else as Python prints it.
pub(super) fn text(value: &HeaderValue) -> ByteString {
    match value {
        HeaderValue::Str(text) => text.clone(),
        HeaderValue::Null => ByteString::new(),
        other => {
            let mut out = String::new();
            python(&mut out, other);
            out.into()
        }
    }
}

/// Replaces a value in its place, or adds it.
fn set(headers: &mut Headers, name: &str, value: HeaderValue) {
    if headers.get(name).is_none() {
        return headers.append(name.to_owned(), value);
    }
    let replaced = headers.iter().map(|(other, old)| {
        let new = if *other == name { value.clone() } else { old.clone() };
        (other.clone(), new)
    });
    *headers = replaced.collect();
}

fn python(out: &mut String, value: &HeaderValue) {
    match value {
        HeaderValue::Bool(true) => out.push_str("True"),
        HeaderValue::Bool(false) => out.push_str("False"),
        HeaderValue::Int(value) => out.push_str(&value.to_string()),
        HeaderValue::Float(value) => out.push_str(&super::json::python_float(*value)),
        HeaderValue::Str(value) => python_text(out, value),
        HeaderValue::Time(time) => out.push_str(&time.to_string()),
        HeaderValue::Bytes(value) => {
            let _ = write!(out, "b'{}'", value.escape_ascii());
        }
        HeaderValue::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                python(out, item);
            }
            out.push(']');
        }
        HeaderValue::Map(items) => {
            python_map(out, items.iter().map(|(name, value)| (&**name, value)));
        }
        _ => out.push_str("None"),
    }
}

fn python_map<'a>(out: &mut String, items: impl Iterator<Item = (&'a str, &'a HeaderValue)>) {
    out.push('{');
    for (index, (name, value)) in items.enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        python_text(out, name);
        out.push_str(": ");
        python(out, value);
    }
    out.push('}');
}

fn python_text(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}
