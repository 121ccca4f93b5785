//! Dead letters of our own dialect: where they go and what is written on them.
//!
//! A rejected message is published to the topic `{group}.{topic}.dead` with key, headers,
//! properties and payload unchanged and the headers below added; it is acked after that receipt.
//! Dead letters wait there for the group [`DEAD_GROUP`]. Redriven, a message goes back to the topic
//! that it came from, addressed to the group that had rejected it: no other group sees it again.

mod broker;

use bytestring::ByteString;

use crate::error::{Error, ErrorKind, Result};
use crate::headers::HeaderValue;
use crate::message::Message;
use crate::name::{GroupName, NAME_BYTES_MAX, Topic};
use crate::offset::Offset;
use crate::time::Timestamp;

pub use self::broker::{BrokerLetter, DEFAULT_EXCHANGE};

/// The group on each dead-letter topic that holds the letters until they are redriven or purged.
pub const DEAD_GROUP: &str = "busline.dead";

/// What all our dead-letter headers start with.
pub const HEADER_PREFIX: &str = "busline-dead-";

/// Why it was rejected.
pub const HEADER_REASON: &str = "busline-dead-reason";
/// The topic that it was published to.
pub const HEADER_TOPIC: &str = "busline-dead-topic";
/// The group that rejected it.
pub const HEADER_GROUP: &str = "busline-dead-group";
/// Its place in the origin's log.
pub const HEADER_OFFSET: &str = "busline-dead-offset";
/// How often it had been delivered.
pub const HEADER_ATTEMPTS: &str = "busline-dead-attempts";
/// When it was rejected.
pub const HEADER_TIME: &str = "busline-dead-time";
/// How often it was put back so far: the loop guard. It stays on the redriven message.
pub const HEADER_REDRIVES: &str = "busline-redrives";
/// The only group that a redriven message is for.
pub const HEADER_ONLY_GROUP: &str = "busline-only-group";

/// The topic of a group's dead letters; `Limit` when the name gets too long.
pub fn dead_topic(group: &GroupName, topic: &Topic) -> Result<Topic> {
    let name = format!("{group}.{topic}.dead");
    let bytes = name.len();
    Topic::new(name).map_err(|_| {
        let message = format!(
            "the topic of the dead letters is named GROUP.TOPIC.dead, here with {bytes} bytes, \
             more than {NAME_BYTES_MAX}"
        );
        Error::new(ErrorKind::Limit, message)
            .hint("choose a shorter name for the group or the topic")
            .context("topic", topic)
            .context("group", group)
    })
}

/// The name of the group that dead letters wait for.
pub fn dead_group() -> GroupName {
    GroupName::new(DEAD_GROUP).expect("the name is valid")
}

/// What is known about a message when it is rejected.
#[derive(Debug, Clone)]
pub struct Rejection<'a> {
    /// The group that rejected it.
    pub group: &'a GroupName,
    /// Its place in the origin's log.
    pub offset: Option<&'a Offset>,
    /// Why.
    pub reason: &'a str,
    /// How often it had been delivered.
    pub attempts: u32,
    /// When.
    pub time: Timestamp,
}

/// The dead letter of a rejected message.
pub fn dead_letter(mut message: Message, rejection: &Rejection<'_>) -> Result<Message> {
    let origin = message.topic.clone();
    message.topic = dead_topic(rejection.group, &origin)?;
    let reason = bounded(rejection.reason, 4096);
    message.headers.retain(|name, _| !name.starts_with(HEADER_PREFIX) && name != HEADER_ONLY_GROUP);
    message.headers.append(HEADER_REASON, reason);
    message.headers.append(HEADER_TOPIC, origin.as_str());
    message.headers.append(HEADER_GROUP, rejection.group.as_str());
    message.headers.append(HEADER_ATTEMPTS, i64::from(rejection.attempts));
    message.headers.append(HEADER_TIME, rejection.time);
    if let Some(offset) = rejection.offset {
        message.headers.append(HEADER_OFFSET, offset.to_string());
    }
    Ok(message)
}

/// Origin, group and the number of earlier redrives of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The topic that it was published to.
    pub topic: Topic,
    /// The group that rejected it.
    pub group: GroupName,
    /// How often it was put back so far.
    pub redrives: u32,
}

/// Where a dead letter came from, of our own dialect or put aside by the broker; `None` when it bears no
/// valid origin.
pub fn origin(message: &Message) -> Option<Origin> {
    own_origin(message).or_else(|| BrokerLetter::of(message)?.origin())
}

fn own_origin(message: &Message) -> Option<Origin> {
    let text = |name| message.headers.get(name).and_then(HeaderValue::as_str);
    Some(Origin {
        topic: Topic::new(text(HEADER_TOPIC)?).ok()?,
        group: GroupName::new(text(HEADER_GROUP)?).ok()?,
        redrives: redrives(message),
    })
}

/// How often a message was put back so far.
pub fn redrives(message: &Message) -> u32 {
    let count = message.headers.get(HEADER_REDRIVES).and_then(HeaderValue::as_int);
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

/// The message to publish to put a dead letter back; `None` when it bears no valid origin.
pub fn redriven(mut message: Message) -> Option<Message> {
    let Some(origin) = own_origin(&message) else {
        // The broker's marks stay: it counts on in them, and others look at nothing else.
        message.topic = BrokerLetter::of(&message)?.origin()?.topic;
        return Some(message);
    };
    message.headers.retain(|name, _| !name.starts_with(HEADER_PREFIX));
    message.headers.insert(HEADER_REDRIVES, origin.redrives.saturating_add(1));
    message.headers.insert(HEADER_ONLY_GROUP, origin.group.as_str());
    message.topic = origin.topic;
    Some(message)
}

/// Whether a message is for this group: everything is, but what was redriven for another.
pub fn is_for_group(message: &Message, group: &str) -> bool {
    message
        .headers
        .get(HEADER_ONLY_GROUP)
        .and_then(HeaderValue::as_str)
        .is_none_or(|only| only == group)
}

fn bounded(text: &str, bytes_max: usize) -> ByteString {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    #[test]
    fn a_letter_keeps_everything_and_finds_its_way_back() {
        let group = GroupName::new("alerts").unwrap();
        let sent = Message::new(Topic::new("quakes").unwrap(), Key::new("a.b").unwrap(), "body")
            .header("own", "kept");
        let rejection = Rejection {
            group: &group,
            offset: Some(&Offset::new(1, 7)),
            reason: "no earthquake",
            attempts: 2,
            time: Timestamp::from_unix_ms(5),
        };
        let letter = dead_letter(sent.clone(), &rejection).unwrap();
        assert_eq!(letter.topic.as_str(), "alerts.quakes.dead");
        assert_eq!((&letter.key, &letter.payload), (&sent.key, &sent.payload));
        assert_eq!(letter.headers.get("own"), sent.headers.get("own"));
        let back = redriven(letter).unwrap();
        assert_eq!(back.topic, sent.topic);
        assert_eq!(redrives(&back), 1);
        assert!(is_for_group(&back, "alerts") && !is_for_group(&back, "statistics"));
        let again = redriven(dead_letter(back, &rejection).unwrap()).unwrap();
        assert_eq!(redrives(&again), 2);
        assert!(redriven(sent).is_none());
    }

    #[test]
    fn names_too_long_for_dead_letters_say_so() {
        let (group, topic) = ("g".repeat(100), "t".repeat(200));
        let names = (GroupName::new(group).unwrap(), Topic::new(topic).unwrap());
        let error = dead_topic(&names.0, &names.1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains("GROUP.TOPIC.dead, here with 306 bytes"), "{error}");
    }
}
