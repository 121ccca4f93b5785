//! Envelopes of what is sent: which topic, headers and properties each kind of message has.

use std::fmt;
use std::sync::LazyLock;

use busline_core::{Error, HeaderValue, Key, Message, Result, Topic};
use bytes::Bytes;
use bytestring::ByteString;

use super::format::Format;

/// The header of the conversation, where it is no text.
pub(super) const CONVERSATION: &str = "conversation_id";
/// The header that makes a message to `commands` a result.
pub(super) const STATUS: &str = "status";

/// What kind of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A fact.
    Event,
    /// A request to one owner.
    Command,
    /// What a command came to.
    Result,
    /// What must arrive before a service is ready.
    Configuration,
    /// A line of a log.
    Log,
}

impl Kind {
    /// Its name in texts for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Command => "command",
            Self::Result => "result",
            Self::Configuration => "configuration",
            Self::Log => "log",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The topic of a kind; commands and results share one.
pub fn topic(kind: Kind) -> Topic {
    static TOPICS: LazyLock<[Topic; 4]> = LazyLock::new(|| {
        ["events", "commands", "configurations", "logs"]
            .map(|name| Topic::new(name).expect("the names are good"))
    });
    let at = match kind {
        Kind::Event => 0,
        Kind::Command | Kind::Result => 1,
        Kind::Configuration => 2,
        Kind::Log => 3,
    };
    TOPICS[at].clone()
}

/// How a command went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is done.
    Success,
    /// It is not; the payload says why.
    Error,
}

impl Status {
    /// Its text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The id of a conversation. It is text, but senders are free to choose something else: that is given
/// on as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation(HeaderValue);

impl Conversation {
    /// The conversation of this id.
    pub fn new(id: impl Into<HeaderValue>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn text(&self) -> ByteString {
        super::meta::text(&self.0)
    }

    /// The conversation that a message says; `None` when it does not.
    pub(super) fn of(message: &Message) -> Option<Self> {
        match &message.properties.conversation_id {
            Some(id) => Some(Self(HeaderValue::Str(id.clone()))),
            None => message.headers.get(CONVERSATION).cloned().map(Self),
        }
    }

    fn put(&self, message: &mut Message) {
        match &self.0 {
            HeaderValue::Str(id) => message.properties.conversation_id = Some(id.clone()),
            other => message.headers.append(CONVERSATION, other.clone()),
        }
    }
}

/// An event; not mandatory unless who sends it wants that.
pub fn event(
    name: &str,
    format: Format,
    payload: Bytes,
    conversation: &Conversation,
) -> Result<Message> {
    let mut message = plain(Kind::Event, name, format, payload)?;
    conversation.put(&mut message);
    Ok(message)
}

/// The command `service.Name`, whose result goes to `return_key`; mandatory by default.
pub fn command(
    name: &str,
    format: Format,
    payload: Bytes,
    conversation: &Conversation,
    return_key: &str,
    correlation_id: &str,
) -> Result<Message> {
    short("return key", return_key)?;
    short("correlation id", correlation_id)?;
    if return_key.is_empty() {
        let why = "a command has no return key: nobody could tell it from a result";
        return Err(Error::new(busline_core::ErrorKind::Limit, why)
            .hint("name the key that its result is to have, as caller.NameReturn"));
    }
    let mut message = plain(Kind::Command, name, format, payload)?;
    conversation.put(&mut message);
    message.properties.reply_to = Some(return_key.into());
    message.properties.correlation_id = Some(correlation_id.into());
    Ok(message)
}

/// The result of a command, sent to its return key; mandatory by default.
pub fn result(
    destination: &str,
    format: Format,
    payload: Bytes,
    conversation: &Conversation,
    status: Status,
    correlation_id: Option<&str>,
) -> Result<Message> {
    short("correlation id", correlation_id.unwrap_or_default())?;
    let mut message =
        plain(Kind::Result, destination, format, payload)?.header(STATUS, status.as_str());
    conversation.put(&mut message);
    message.properties.correlation_id = correlation_id.map(ByteString::from);
    Ok(message)
}

/// A configuration; it belongs to no conversation and is never mandatory.
pub fn configuration(name: &str, format: Format, payload: Bytes) -> Result<Message> {
    let mut message = plain(Kind::Configuration, name, format, payload)?;
    Conversation::new("").put(&mut message);
    Ok(message)
}

fn plain(kind: Kind, key: &str, format: Format, payload: Bytes) -> Result<Message> {
    let message = Message::new(topic(kind), Key::new(key)?, payload);
    Ok(message.content_type(format.content_type()))
}

/// Names that travel as short texts.
fn short(what: &str, text: &str) -> Result<()> {
    const BYTES_MAX: usize = 255;
    if text.len() <= BYTES_MAX {
        return Ok(());
    }
    let why = format!("the {what} has {} bytes, at most {BYTES_MAX} are possible", text.len());
    Err(Error::new(busline_core::ErrorKind::Limit, why))
}
