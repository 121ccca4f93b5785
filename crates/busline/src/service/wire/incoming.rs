//! Envelopes of what is received: what is valid, what kind it is, and what to log about the rest.

use std::fmt;

use busline_core::{Error, HeaderValue, Message, Result};
use bytestring::ByteString;
use serde::de::DeserializeOwned;

use super::body::Body;
use super::envelope::{CONVERSATION, Conversation, Kind, STATUS};
use super::format::Format;
use super::gelf::{Level, LogLine};
use super::meta::{self, Meta};

/// A message with a valid envelope and a well-formed body.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Incoming {
    /// What kind of message it is; a log is never received so.
    pub kind: Kind,
    /// Its routing key.
    pub key: ByteString,
    /// The conversation that it is part of.
    pub conversation: Conversation,
    /// Of a command: where its result goes. Never empty.
    pub reply_to: Option<ByteString>,
    /// Of a result: `success` or `error`, or what else the sender calls it. Never empty.
    pub status: Option<ByteString>,
    /// Of commands and results: what ties one to the other, where the sender gave it.
    pub correlation_id: Option<ByteString>,
    /// Everything else that came with it.
    pub meta: Meta,
    /// Its body.
    pub body: Body,
}

impl Incoming {
    /// The payload as a value of this type; `Limit` says where the shapes differ.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        self.body.decode()
    }

    /// The id of its conversation, as text.
    pub fn conversation(&self) -> ByteString {
        self.conversation.text()
    }
}

/// Why a message cannot be handled, by anybody, ever. It belongs to the dead letters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Invalid {
    /// It says no conversation.
    MissingHeaders {
        /// Its routing key.
        key: ByteString,
    },
    /// Its body is not what its content type says.
    Undecodable {
        /// Its routing key.
        key: ByteString,
        /// Its conversation.
        conversation: Conversation,
        /// What is wrong with it.
        cause: Error,
    },
    /// It is neither a command nor a result.
    InvalidEnvelope {
        /// Its routing key.
        key: ByteString,
        /// Its conversation.
        conversation: Conversation,
        /// What came with it.
        meta: Meta,
    },
}

impl Invalid {
    /// The line that a service logs about it.
    pub fn log_line(&self) -> LogLine {
        let short = match self {
            Self::MissingHeaders { key } => format!("Missing headers on {key}"),
            Self::Undecodable { key, .. } => {
                format!("Unable to decode payload for {key}; dead lettering.")
            }
            Self::InvalidEnvelope { meta, .. } => {
                format!("invalid enveloppe for command/result: {}; dead lettering.", meta.python())
            }
        };
        LogLine::new(Level::EMERGENCY, short)
    }

    /// The conversation of that line; empty when there is none.
    pub fn conversation(&self) -> ByteString {
        match self {
            Self::MissingHeaders { .. } => ByteString::new(),
            Self::Undecodable { conversation, .. } | Self::InvalidEnvelope { conversation, .. } => {
                conversation.text()
            }
        }
    }
}

/// The reason, for dead letters.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingHeaders { .. } => write!(f, "it has no header {CONVERSATION}"),
            Self::Undecodable { cause, .. } => cause.fmt(f),
            Self::InvalidEnvelope { .. } => {
                f.write_str("it has neither a reply-to nor a status: no command and no result")
            }
        }
    }
}

impl std::error::Error for Invalid {}

/// Checks a message that was consumed from the topic of this kind, and takes it apart.
///
/// Who consumes decides what it can be, not what a message says of itself: what was put straight into
/// a queue of events is an event.
pub fn decode(kind: Kind, message: &Message) -> Result<Incoming, Invalid> {
    let key = ByteString::from(message.key.as_str());
    let conversation = match Conversation::of(message) {
        Some(conversation) => conversation,
        None if kind == Kind::Configuration => Conversation::new(""),
        None => return Err(Invalid::MissingHeaders { key }),
    };
    let format = Format::of_content_type(message.properties.content_type.as_deref());
    let body = match Body::new(format, message.payload.clone()) {
        Ok(body) => body,
        Err(cause) => return Err(Invalid::Undecodable { key, conversation, cause }),
    };
    let is_commands = matches!(kind, Kind::Command | Kind::Result);
    let meta = Meta::of(message, is_commands.then_some(STATUS));
    let mut incoming = Incoming {
        kind,
        key,
        conversation,
        reply_to: None,
        status: None,
        correlation_id: None,
        meta,
        body,
    };
    if !is_commands {
        return Ok(incoming);
    }
    incoming.correlation_id = message.properties.correlation_id.clone();
    let reply_to = message.properties.reply_to.clone().filter(|key| !key.is_empty());
    match (reply_to, message.headers.get(STATUS).and_then(status)) {
        (Some(reply_to), _) => {
            incoming.kind = Kind::Command;
            incoming.reply_to = Some(reply_to);
        }
        (None, Some(status)) => {
            incoming.kind = Kind::Result;
            incoming.status = Some(status);
        }
        (None, None) => {
            let Incoming { key, conversation, meta, .. } = incoming;
            return Err(Invalid::InvalidEnvelope { key, conversation, meta });
        }
    }
    Ok(incoming)
}

/// The status that a header says; `None` for what Python takes for false.
fn status(value: &HeaderValue) -> Option<ByteString> {
    let is_none = match value {
        HeaderValue::Null | HeaderValue::Bool(false) | HeaderValue::Int(0) => true,
        HeaderValue::Float(value) => *value == 0.0,
        HeaderValue::Str(text) => text.is_empty(),
        HeaderValue::Bytes(bytes) => bytes.is_empty(),
        HeaderValue::List(items) => items.is_empty(),
        HeaderValue::Map(items) => items.is_empty(),
        _ => false,
    };
    (!is_none).then(|| meta::text(value))
}
