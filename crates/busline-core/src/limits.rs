//! Bounds on what is sent: checked before anything leaves, and never trusted from outside.

use crate::dead::{HEADER_ONLY_GROUP, HEADER_REDRIVES};
use crate::error::{Error, ErrorKind, Result};
use crate::headers::HeaderValue;
use crate::message::Message;
use crate::name::NAME_BYTES_MAX;

/// The bounds of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest payload, in bytes.
    pub payload_bytes_max: usize,
    /// The longest header name, in bytes.
    pub header_name_bytes_max: usize,
    /// All header names and values together, in bytes.
    pub headers_bytes_max: usize,
    /// The most headers.
    pub headers_max: usize,
    /// How deeply header lists and maps may stand in one another.
    pub header_depth_max: usize,
    /// The longest conversation id, in bytes: in some dialects it travels as a header.
    pub conversation_id_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: 16 << 20,
            header_name_bytes_max: 255,
            headers_bytes_max: 64 << 10,
            headers_max: 256,
            header_depth_max: 8,
            conversation_id_bytes_max: 255,
        }
    }
}

impl Limits {
    /// Checks a message; `Limit` names the part, its size and the bound.
    ///
    /// The two headers that a redrive adds do not count: what could be sent can be put back.
    pub fn check(&self, message: &Message) -> Result<()> {
        let over = |what: &str, found: usize, bound: usize| {
            Err(Error::new(
                ErrorKind::Limit,
                format!("{what} {found} bytes, at most {bound} are allowed"),
            )
            .context("topic", &message.topic)
            .context("key", &message.key))
        };
        if message.payload.len() > self.payload_bytes_max {
            return over("the payload has", message.payload.len(), self.payload_bytes_max);
        }
        let (free, free_bytes) = of_redrive(message);
        let headers = message.headers.len() - free;
        if headers > self.headers_max {
            return Err(Error::new(
                ErrorKind::Limit,
                format!(
                    "the message has {headers} headers, at most {} are allowed",
                    self.headers_max
                ),
            )
            .context("topic", &message.topic));
        }
        let mut total = 0;
        for (name, value) in message.headers.iter() {
            if name.is_empty() || name.len() > self.header_name_bytes_max {
                let what = format!("the header name '{}' has", shortened(name));
                return over(&what, name.len(), self.header_name_bytes_max);
            }
            if value.depth() > self.header_depth_max {
                return Err(Error::new(
                    ErrorKind::Limit,
                    format!("the header '{name}' nests deeper than {}", self.header_depth_max),
                ));
            }
            total += name.len() + value.size_bytes();
        }
        let conversation = message.properties.conversation_id.as_ref().map_or(0, |id| id.len());
        if conversation > self.conversation_id_bytes_max {
            let max = self.conversation_id_bytes_max;
            return over("the property conversation_id has", conversation, max);
        }
        let properties = properties_bytes(message);
        if let Some((name, found)) = properties.into_iter().find(|(_, found)| *found > 255) {
            return over(&format!("the property {name} has"), found, 255);
        }
        let total = total - free_bytes;
        if total > self.headers_bytes_max {
            return over("all headers together have", total, self.headers_bytes_max);
        }
        Ok(())
    }
}

/// How many headers of a redrive there are, at most one of each, and their bytes.
fn of_redrive(message: &Message) -> (usize, usize) {
    let size = |name: &str| {
        let bytes = message.headers.get(name).map(HeaderValue::size_bytes)?;
        // Longer is no name of a group: somebody else's header.
        (bytes <= NAME_BYTES_MAX).then_some(name.len() + bytes)
    };
    let sizes = [HEADER_REDRIVES, HEADER_ONLY_GROUP].into_iter().filter_map(size);
    sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
}

fn shortened(name: &str) -> String {
    let mut short: String = name.chars().take(32).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

fn properties_bytes(message: &Message) -> [(&'static str, usize); 9] {
    let properties = &message.properties;
    let len = |text: &Option<bytestring::ByteString>| text.as_ref().map_or(0, |text| text.len());
    [
        ("message_id", len(&properties.message_id)),
        ("correlation_id", len(&properties.correlation_id)),
        ("causation_id", len(&properties.causation_id)),
        ("reply_to", len(&properties.reply_to)),
        ("content_type", len(&properties.content_type)),
        ("content_encoding", len(&properties.content_encoding)),
        ("kind", len(&properties.kind)),
        ("app_id", len(&properties.app_id)),
        ("ordering_key", len(&message.ordering_key)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Topic};

    #[test]
    fn every_bound_is_named() {
        let limits = Limits { payload_bytes_max: 4, headers_bytes_max: 300, ..Limits::default() };
        let message = || Message::new(Topic::new("t").unwrap(), Key::empty(), "1234");
        assert!(limits.check(&message()).is_ok());
        let fails = |message: Message, words: &str| {
            let error = limits.check(&message).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().contains(words), "{error}");
        };
        fails(Message { payload: "12345".into(), ..message() }, "payload has 5 bytes, at most 4");
        fails(message().header("n".repeat(256), 1), "header name");
        fails(message().header("", 1), "header name");
        fails(message().header("n", "v".repeat(300)), "all headers together have 301 bytes");
        fails(message().message_id("i".repeat(256)), "message_id");
        let mut talked = message();
        talked.properties.conversation_id = Some("c".repeat(256).into());
        assert!(Limits { conversation_id_bytes_max: 256, ..limits }.check(&talked).is_ok());
        fails(talked, "the property conversation_id has 256 bytes, at most 255");
        let many = (0..257).fold(message(), |message, n| message.header("n", n));
        fails(many, "257 headers");
    }

    #[test]
    fn what_could_be_sent_can_be_put_back() {
        let limits = Limits { headers_max: 2, headers_bytes_max: 20, ..Limits::default() };
        let full = |message: Message| message.header("n", "v".repeat(9)).header("m", "v".repeat(9));
        let message = || Message::new(Topic::new("t").unwrap(), Key::empty(), "");
        let back = || message().header(HEADER_REDRIVES, 3).header(HEADER_ONLY_GROUP, "g");
        assert!(limits.check(&full(message())).is_ok());
        assert!(limits.check(&full(back())).is_ok());
        for over in [
            full(back()).header("one", "more"),
            full(back()).header(HEADER_REDRIVES, 3),
            message().header(HEADER_ONLY_GROUP, "g".repeat(256)),
        ] {
            assert_eq!(limits.check(&over).unwrap_err().kind(), ErrorKind::Limit, "{over:?}");
        }
    }
}
