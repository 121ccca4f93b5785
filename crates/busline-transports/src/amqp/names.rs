//! What our words are called at the broker: exchanges, queues and their arguments, by dialect.

use busline_core::dead::{DEAD_GROUP, DEFAULT_EXCHANGE};
use busline_core::transport::{Dialect, GroupSpec, RetryMode};
use busline_core::{Error, ErrorKind, GroupName, Result, Topic};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::config::QueueKind;

/// A name for the broker, which bounds each at 255 bytes.
pub(super) fn short(name: &str) -> Result<ShortString> {
    ShortString::try_new(name).map_err(|_| {
        let message = format!("'{name}' has {} bytes, RabbitMQ takes 255", name.len());
        Error::new(ErrorKind::Limit, message).hint("choose shorter names")
    })
}

/// The exchange of a topic: its very name.
pub(super) fn exchange(topic: &Topic) -> Result<ShortString> {
    if is_default(topic) {
        return Ok(ShortString::default());
    }
    short(topic.as_str())
}

/// Whether a topic is the exchange to which every queue is bound by its name: its groups are all queues
/// that there are, whoever declared them.
pub(super) fn is_default(topic: &Topic) -> bool {
    topic.as_str() == DEFAULT_EXCHANGE
}

/// The queue of a group, `{group}.{topic}`.
///
/// In our own dialect no two groups share a name: a dot in a group's name is escaped, and where a
/// topic would let it look like a dead-letter queue or a log the two are joined by `%.`. The queue of
/// dead letters has the name of their topic.
pub(super) fn queue(dialect: Dialect, topic: &Topic, group: &GroupName) -> Result<ShortString> {
    let (name, of) = (group.as_str(), topic.as_str());
    if is_default(topic) {
        return short(name);
    }
    if dialect != Dialect::Busline {
        return short(&format!("{name}.{of}"));
    }
    if name == DEAD_GROUP && of.ends_with(".dead") {
        return short(of);
    }
    let group = name.replace('%', "%25").replace('.', "%2E");
    let ambiguous = ["dead", "log"]
        .iter()
        .any(|end| of.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    short(&format!("{group}{}{of}", if ambiguous { "%." } else { "." }))
}

/// The group of a queue that is bound to the exchange of a topic; `None` when it is no group of ours.
pub(super) fn group_of(dialect: Dialect, queue: &str, topic: &str) -> Option<GroupName> {
    if dialect != Dialect::Busline {
        return GroupName::new(queue.strip_suffix(topic)?.strip_suffix('.')?.to_owned()).ok();
    }
    if queue == topic && topic.ends_with(".dead") {
        return GroupName::new(DEAD_GROUP).ok();
    }
    let group = queue.strip_suffix(topic)?.strip_suffix('.')?;
    let group = group.strip_suffix('%').unwrap_or(group);
    GroupName::new(group.replace("%2E", ".").replace("%25", "%")).ok()
}

/// The stream that is a topic's log.
pub(super) fn log(topic: &Topic) -> Result<ShortString> {
    short(&format!("{topic}.log"))
}

/// The queue that holds what is known about a group; only in our own dialect.
pub(super) fn settings(queue: &ShortString) -> Result<ShortString> {
    short(&format!("{queue}%group"))
}

/// What the queue of a broadcast of ours starts with.
pub(super) const BROADCAST: &str = "busline%broadcast.";

/// Whether a queue goes with the connection of who declared it: ours, or one that the broker named.
pub(super) fn is_broadcast(queue: &str) -> bool {
    queue.starts_with(BROADCAST) || queue.starts_with("amq.gen-")
}

/// What exchange and queue of a delay start with; its milliseconds follow.
pub(super) const DELAY: &str = "busline%delay.";

/// RabbitMQ 4 drops what a quorum queue delivered 20 times, unless told otherwise; the limit is ours to
/// keep. That there is none, every version would say in another way, and some would drop everything.
const DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The arguments of a group's queue. A classic one that asks for nothing has none, so that it is the
/// same queue for whoever else declares it.
pub(super) fn queue_arguments(spec: &GroupSpec, kind: QueueKind) -> FieldTable {
    let mut arguments = FieldTable::default();
    if kind == QueueKind::Quorum {
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    }
    if spec.retry_mode == RetryMode::Block {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    if let Some(idle) = spec.expires_after {
        let ms = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX).max(1);
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(ms));
    }
    arguments
}

/// A text argument.
pub(super) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn no_two_groups_share_a_queue_and_each_is_found_again() {
        let names = ["a", "b", "a.b", "a%2Eb", "busline.dead", "a.log", "log", "dead", "a.b.dead"];
        let names = names.iter().chain(&["b.dead", "b.log", "x.y", "%", "b.log.dead"]);
        let names: Vec<_> = names.copied().collect();
        let mut seen = HashMap::new();
        for topic in names.iter().map(|name| Topic::new(*name).unwrap()) {
            let log = log(&topic).unwrap().to_string();
            assert_eq!(seen.insert(log.clone(), (topic.clone(), None)), None, "{log}");
            for group in names.iter().map(|name| GroupName::new(*name).unwrap()) {
                let queue = queue(Dialect::Busline, &topic, &group).unwrap().to_string();
                let found = group_of(Dialect::Busline, &queue, topic.as_str());
                assert_eq!(found, Some(group.clone()), "{queue}");
                let other = seen.insert(queue.clone(), (topic.clone(), Some(group.clone())));
                assert_eq!(other, None, "{queue} is also of {topic} {group}");
            }
        }
        let (group, topic) = (GroupName::new("S").unwrap(), Topic::new("events").unwrap());
        assert_eq!(queue(Dialect::Busline, &topic, &group).unwrap().as_str(), "S.events");
        let dotted = GroupName::new("a.S").unwrap();
        let theirs = queue(Dialect::Eventail, &topic, &dotted).unwrap();
        assert_eq!(theirs.as_str(), "a.S.events");
        assert_eq!(group_of(Dialect::Eventail, theirs.as_str(), "events"), Some(dotted));
    }

    #[test]
    fn a_plain_group_has_no_arguments() {
        let (group, topic) = (GroupName::new("S").unwrap(), Topic::new("events").unwrap());
        let spec = GroupSpec::new(topic, group);
        assert!(queue_arguments(&spec, QueueKind::Classic).inner().is_empty());
        let quorum = queue_arguments(&spec, QueueKind::Quorum);
        let names: Vec<_> = quorum.inner().keys().map(ToString::to_string).collect();
        assert_eq!(names, ["x-delivery-limit", "x-queue-type"]);
    }
}
