//! Lines of logs on the bus, in GELF 1.1.

use std::fmt;
use std::sync::OnceLock;

use busline_core::{Error, ErrorKind, Key, Message, Result, Timestamp};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::body::Value;
use super::envelope::{Kind, topic};
use super::format::{self, Format};
use super::json::JsonSink;

/// How bad it is: the eight levels of syslog, 0 the worst.
///
/// Other numbers are sent as they are, and named by their remainder by 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub i64);

impl Level {
    /// The system is unusable.
    pub const EMERGENCY: Self = Self(0);
    /// Something must be done at once.
    pub const ALERT: Self = Self(1);
    /// A part has failed.
    pub const CRITICAL: Self = Self(2);
    /// An operation has failed.
    pub const ERROR: Self = Self(3);
    /// Something may go wrong.
    pub const WARNING: Self = Self(4);
    /// Normal, but worth to be seen.
    pub const NOTICE: Self = Self(5);
    /// Normal.
    pub const INFO: Self = Self(6);
    /// For those who look for an error.
    pub const DEBUG: Self = Self(7);

    /// Its name, the last word of a line's routing key.
    pub fn name(self) -> &'static str {
        match self.0.rem_euclid(8) {
            0 => "EMERGENCY",
            1 => "ALERT",
            2 => "CRITICAL",
            3 => "ERROR",
            4 => "WARNING",
            5 => "NOTICE",
            6 => "INFO",
            _ => "DEBUG",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    level: Level,
    short: String,
    full: String,
    /// With their underscores.
    fields: Vec<(String, Value)>,
}

impl LogLine {
    /// A line of a short message alone.
    pub fn new(level: Level, short: impl Into<String>) -> Self {
        Self { level, short: short.into(), full: String::new(), fields: Vec::new() }
    }

    /// With a full message, as a backtrace.
    #[must_use]
    pub fn full(mut self, full: impl Into<String>) -> Self {
        self.full = full.into();
        self
    }

    /// With an additional field; its name gets a `_` in front unless it has one.
    ///
    /// `Limit` for the name `id`, which GELF keeps for itself, and for a value that is no JSON.
    pub fn field(mut self, name: &str, value: impl Serialize) -> Result<Self> {
        let wrong = |why: String| Error::new(ErrorKind::Limit, why);
        if matches!(name, "id" | "_id") {
            return Err(wrong(format!("a log line cannot have a field '{name}'"))
                .hint("GELF keeps that name for itself: choose another"));
        }
        let body = format::encode(Format::Json, &value)?;
        let value = super::Body::new(Format::Json, body)?.value()?;
        let name = if name.starts_with('_') { name.to_owned() } else { format!("_{name}") };
        self.fields.push((name, value));
        Ok(self)
    }

    /// How bad it is.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The short message.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// The line as this process of a service sends it; the conversation may be empty. `Limit` for a
    /// service whose name makes the routing key longer than 255 bytes.
    pub fn message(&self, service: &str, conversation: &str, now: Timestamp) -> Result<Message> {
        let host = format!("{service}@{}", machine());
        let origin = Origin { service, host: &host, worker_pid: std::process::id() };
        let key = Key::new(format!("{service}.{}", self.level.name()))?;
        Ok(Message::new(topic(Kind::Log), key, self.body(origin, conversation, now)?))
    }

    pub(super) fn body(
        &self,
        origin: Origin<'_>,
        conversation: &str,
        now: Timestamp,
    ) -> Result<bytes::Bytes> {
        let gelf = Gelf { line: self, origin, conversation, now };
        format::write(JsonSink::ascii(), Format::Json, &gelf)
    }
}

/// Who sends a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) service: &'a str,
    pub(super) host: &'a str,
    pub(super) worker_pid: u32,
}

/// The name of this machine; it is asked for once.
fn machine() -> &'static str {
    static MACHINE: OnceLock<String> = OnceLock::new();
    MACHINE.get_or_init(|| gethostname::gethostname().to_string_lossy().into_owned())
}

struct Gelf<'a> {
    line: &'a LogLine,
    origin: Origin<'a>,
    conversation: &'a str,
    now: Timestamp,
}

impl Serialize for Gelf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, origin) = (self.line, self.origin);
        let text = |text: &str| Value::from(text);
        // Additional fields may stand for those that start with an underscore.
        let mut fields: Vec<(&str, Value)> = vec![
            ("version", text("1.1")),
            ("short_message", text(&line.short)),
            ("full_message", text(&line.full)),
            ("level", line.level.0.into()),
            ("_levelname", text(line.level.name())),
            ("host", text(origin.host)),
            ("timestamp", (self.now.unix_us() as f64 / 1e6).into()),
            ("_conversation_id", text(self.conversation)),
            ("_logical_service", text(origin.service)),
            ("_worker_pid", origin.worker_pid.into()),
        ];
        for (name, value) in &line.fields {
            match fields.iter_mut().find(|(other, _)| other == name) {
                Some(field) => field.1 = value.clone(),
                None => fields.push((name, value.clone())),
            }
        }
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in fields {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}
