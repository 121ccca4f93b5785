//! What our words are called at the broker: topics of a narrower alphabet, and groups.

use std::fmt::Write as _;

use busline_core::dead::DEAD_GROUP;
use busline_core::{Error, ErrorKind, GroupName, Result, Topic};

/// The topic in which the groups are kept as they were declared.
pub(super) const GROUPS: &str = "busline.groups";

/// Where replies arrive.
pub(super) const REPLIES: &str = "busline.replies";

/// The longest name of a topic.
const NAME_BYTES_MAX: usize = 249;

/// What a byte that Kafka does not take is written with: `-x` and its two digits.
const ESCAPE: &str = "-x";

/// The name of a topic at the broker; `Limit` when it gets too long.
pub(super) fn topic(topic: &Topic) -> Result<String> {
    checked(escape(topic.as_str()))
}

/// The topic of this name at the broker; `None` for the broker's own.
pub(super) fn topic_of(name: &str) -> Option<Topic> {
    if name.starts_with("__") {
        return None;
    }
    Topic::new(unescape(name)?).ok()
}

/// The consumer group of a group, `{group}.{topic}`; dots in the group's own name are escaped, so that no two
/// are alike.
pub(super) fn group(topic: &Topic, group: &GroupName) -> String {
    format!("{}.{topic}", joined(group))
}

/// The topic in which a group's retries wait until they are due; the group of dead letters has none.
pub(super) fn retry(topic: &Topic, group: &GroupName) -> Result<Option<String>> {
    if group.as_str() == DEAD_GROUP {
        return Ok(None);
    }
    checked(escape(&format!("{}.{topic}.retry", joined(group)))).map(Some)
}

fn joined(group: &GroupName) -> String {
    group.as_str().replace('%', "%25").replace('.', "%2E")
}

fn checked(name: String) -> Result<String> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    let bytes = name.len();
    let why = format!("the topic '{name}' has {bytes} bytes, Kafka takes {NAME_BYTES_MAX}");
    Err(Error::new(ErrorKind::Limit, why).hint("choose shorter names"))
}

fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    // Names that are nothing but dots mean directories.
    let is_dots = matches!(name, "." | "..");
    for (at, byte) in name.bytes().enumerate() {
        let looks_escaped = byte == b'-' && unescaped_at(name.as_bytes(), at).is_some();
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if plain && !looks_escaped && !is_dots {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(escaped, "{ESCAPE}{byte:02x}");
        }
    }
    escaped
}

fn unescape(name: &str) -> Option<String> {
    let bytes = name.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match unescaped_at(bytes, at) {
            Some(escaped) => {
                plain.push(escaped);
                at += 4;
            }
            None => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).ok()
}

/// The byte whose escape starts here.
fn unescaped_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digits = bytes.get(at..at + 4)?.strip_prefix(ESCAPE.as_bytes())?;
    let digits = std::str::from_utf8(digits).ok()?;
    let lower = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if !digits.chars().all(lower) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_stay_as_they_are() {
        for (ours, theirs) in [
            ("quakes", "quakes"),
            ("a.b_c-d", "a.b_c-d"),
            ("a b/ü", "a-x20b-x2f-xc3-xbc"),
            ("a-x20", "a-x2dx20"),
            ("a-xyz", "a-xyz"),
            ("..", "-x2e-x2e"),
        ] {
            assert_eq!(topic(&Topic::new(ours).unwrap()).unwrap(), theirs);
            assert_eq!(topic_of(theirs).unwrap().as_str(), ours);
        }
        assert_eq!(topic_of("__consumer_offsets"), None);
        let long = Topic::new("t".repeat(250)).unwrap();
        assert_eq!(topic(&long).unwrap_err().kind(), ErrorKind::Limit);
    }

    #[test]
    fn no_two_groups_are_alike() {
        let of = |g: &str, t: &str| group(&Topic::new(t).unwrap(), &GroupName::new(g).unwrap());
        assert_eq!(of("g", "t"), "g.t");
        assert_ne!(of("a", "b.c"), of("a.b", "c"));
        assert_ne!(of("a.b", "c"), of("a%2Eb", "c"));
    }

    proptest! {
        #[test]
        fn every_name_finds_back(name in "[a-z./ x0-9é-]{1,40}") {
            let ours = Topic::new(name).unwrap();
            prop_assert_eq!(topic_of(&escape(ours.as_str())), Some(ours));
        }
    }
}
