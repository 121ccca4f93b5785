//! Messages that came back because no group wanted them.

use busline_core::Message;
use bytestring::ByteString;

use super::wire::{Incoming, Kind};

/// A mandatory message that matched no group when it was sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Returned {
    /// What kind of message it is.
    pub kind: Kind,
    /// Its routing key.
    pub key: String,
    /// Its conversation.
    pub conversation: ByteString,
    /// Its correlation id, where it has one.
    pub correlation_id: Option<ByteString>,
    /// Where its answer was to go, where it asked for one.
    pub reply_to: Option<ByteString>,
    /// The message as it was sent.
    pub message: Message,
}

impl Returned {
    pub(crate) fn new(incoming: &Incoming, message: Message) -> Self {
        Self {
            kind: incoming.kind,
            key: incoming.key.to_string(),
            conversation: incoming.conversation(),
            correlation_id: incoming.correlation_id.clone(),
            reply_to: incoming.reply_to.clone(),
            message,
        }
    }
}
