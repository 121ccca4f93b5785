//! The message: pure data, without behaviour.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use crate::headers::{HeaderValue, Headers};
use crate::key::Key;
use crate::name::Topic;
use crate::time::Timestamp;

/// The standard properties; a dialect decides which of them travel and how.
///
/// Received ids are opaque text; the ones Busline makes are UUIDv7. What most messages do not have is a part
/// of its own, [`RareProperties`], so that a message is small; its fields are read and set as if they
/// stood here.
#[derive(Clone, Default)]
pub struct Properties {
    /// Names this message, and no other.
    pub message_id: Option<ByteString>,
    /// The media type of the payload; chooses the codec.
    pub content_type: Option<ByteString>,
    rare: Option<Box<RareProperties>>,
}

/// The properties that most messages do not have; see [`Properties`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RareProperties {
    /// Ties a reply to its request.
    pub correlation_id: Option<ByteString>,
    /// Names the whole exchange that this message is part of.
    pub conversation_id: Option<ByteString>,
    /// The message id of what caused this message.
    pub causation_id: Option<ByteString>,
    /// Where a reply goes.
    pub reply_to: Option<ByteString>,
    /// How the payload is encoded over its media type, as `gzip`.
    pub content_encoding: Option<ByteString>,
    /// What kind of message this is, in the words of the application.
    pub kind: Option<ByteString>,
    /// The application that sent it.
    pub app_id: Option<ByteString>,
    /// When the sender says it was made.
    pub timestamp: Option<Timestamp>,
    /// How long after sending it is worth delivering.
    pub expiration: Option<Duration>,
    /// 0 (least) to 9.
    pub priority: Option<u8>,
    /// The message as its transport got it, of one that may be put back as it was.
    pub native: Option<Native>,
}

/// What a transport keeps of a message as it came, to put it back as it was. It travels nowhere, and is no part
/// of what a message says: any two are equal.
#[derive(Clone)]
pub struct Native(Arc<dyn Any + Send + Sync>);

impl Native {
    /// Keeps this.
    pub fn new(kept: impl Any + Send + Sync) -> Self {
        Self(Arc::new(kept))
    }

    /// What was kept, where it is of this type: another transport's is not.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Native")
    }
}

impl PartialEq for Native {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Native {}

impl RareProperties {
    const NONE: &Self = &Self {
        correlation_id: None,
        conversation_id: None,
        causation_id: None,
        reply_to: None,
        content_encoding: None,
        kind: None,
        app_id: None,
        timestamp: None,
        expiration: None,
        priority: None,
        native: None,
    };
}

impl Deref for Properties {
    type Target = RareProperties;

    fn deref(&self) -> &RareProperties {
        self.rare.as_deref().unwrap_or(RareProperties::NONE)
    }
}

impl DerefMut for Properties {
    fn deref_mut(&mut self) -> &mut RareProperties {
        self.rare.get_or_insert_default()
    }
}

impl PartialEq for Properties {
    fn eq(&self, other: &Self) -> bool {
        self.message_id == other.message_id
            && self.content_type == other.content_type
            && **self == **other
    }
}

impl Eq for Properties {}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Properties")
            .field("message_id", &self.message_id)
            .field("content_type", &self.content_type)
            .field("rare", &**self)
            .finish()
    }
}

/// What is sent: topic, key, headers, properties and payload.
///
/// ```
/// use busline_core::{Message, Topic};
/// let message = Message::new(Topic::new("quakes")?, "quake.us.strong".try_into()?, "{}")
///     .content_type("application/json")
///     .header("source", "usgs");
/// assert_eq!(message.payload, "{}");
/// # Ok::<(), busline_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The named stream it goes to.
    pub topic: Topic,
    /// The words that patterns select by.
    pub key: Key,
    /// What a partitioned broker keeps in order, where that is not the whole topic.
    pub ordering_key: Option<ByteString>,
    /// Named values beside the payload.
    pub headers: Headers,
    /// The standard properties.
    pub properties: Properties,
    /// The body, opaque to every transport.
    pub payload: Bytes,
}

impl Message {
    /// A message without headers and properties.
    pub fn new(topic: Topic, key: Key, payload: impl Into<Bytes>) -> Self {
        Self {
            topic,
            key,
            ordering_key: None,
            headers: Headers::new(),
            properties: Properties::default(),
            payload: payload.into(),
        }
    }

    /// Adds a header behind the others.
    #[must_use]
    pub fn header(mut self, name: impl Into<ByteString>, value: impl Into<HeaderValue>) -> Self {
        self.headers.append(name, value);
        self
    }

    /// Sets the media type of the payload.
    #[must_use]
    pub fn content_type(mut self, media_type: impl Into<ByteString>) -> Self {
        self.properties.content_type = Some(media_type.into());
        self
    }

    /// Sets the message id.
    #[must_use]
    pub fn message_id(mut self, id: impl Into<ByteString>) -> Self {
        self.properties.message_id = Some(id.into());
        self
    }

    /// An estimate of its bytes in memory and on the wire: key, headers, properties and payload.
    pub fn size_bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.size_bytes()).sum();
        self.payload.len() + self.key.as_str().len() + headers + 64
    }
}

/// A new message id: a UUIDv7, so that ids sort by the time they were made.
pub fn new_message_id() -> ByteString {
    uuid::Uuid::now_v7().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_equal_by_what_they_say() {
        let plain = Properties::default();
        let mut other = plain.clone();
        other.priority = Some(4);
        assert_ne!(plain, other);
        other.priority = None;
        assert_eq!(plain, other);
        let kept = Native::new(7_u8);
        assert_eq!((kept.get(), kept.get::<i8>()), (Some(&7_u8), None));
        let (mut one, mut two) = (plain.clone(), plain.clone());
        (one.native, two.native) = (Some(kept), Some(Native::new("x")));
        assert_eq!(one, two);
        other.message_id = Some("id".into());
        assert_ne!(plain, other);
        assert!(format!("{other:?}").contains("\"id\""));
    }

    /// Messages are moved more often than anything else is done with them.
    #[test]
    fn a_message_is_small() {
        assert!(size_of::<Message>() <= 232, "{}", size_of::<Message>());
    }
}
