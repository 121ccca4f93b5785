//! Which dead letters are meant: a dead-letter topic, a group, topic/group, or a queue of RabbitMQ.

use std::collections::BTreeSet;

use busline::transport::{Dialect, GroupInfo};
use busline::{Admin, Bus, ErrorKind, GroupName, Message, Topic, dead};

use crate::exit::{Failure, Outcome};
use crate::filter::Filter;
use crate::line::Line;
use crate::output;

/// A queue of letters, with the bus that shows it.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) bus: Bus,
    pub(super) admin: Admin,
    pub(super) topic: Topic,
    pub(super) group: GroupName,
}

impl Queue {
    /// The queue of that name, or none where a group exists that never rejected anything.
    pub(super) async fn find(bus: &Bus, name: &str) -> Outcome<Option<Self>> {
        let admin = bus.admin().await?;
        let known = match Known::of(&admin).await {
            Ok(known) => known,
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                // What is named need not be looked for in a list.
                let Some(queue) = Self::by_name(bus, &admin, name).await? else {
                    let what = format!("there is no queue '{name}', and groups cannot be listed");
                    return Err(Failure::from(error).prefixed(&what));
                };
                output::note(&format!("{error}; the queue is used by its name alone"));
                return Ok(Some(queue));
            }
            Err(error) => return Err(error.into()),
        };
        match known.resolve(name) {
            Ok(Some(topic)) => Ok(Some(Self::of_topic(bus, &admin, topic))),
            Ok(None) => Ok(None),
            Err(unknown) => Self::of_broker(bus, name).await?.map(Some).ok_or(unknown),
        }
    }

    fn of_topic(bus: &Bus, admin: &Admin, topic: Topic) -> Self {
        Self { bus: bus.clone(), admin: admin.clone(), topic, group: dead::dead_group() }
    }

    /// Without any list: letters of our own say that they are.
    async fn by_name(bus: &Bus, admin: &Admin, name: &str) -> Outcome<Option<Self>> {
        if let Ok(topic) = Topic::new(name.to_owned()) {
            let first = match admin.peek(&topic, &dead::dead_group(), None, 1).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                first => first?,
            };
            let is_own = |message: &Message| message.headers.get(dead::HEADER_GROUP).is_some();
            if first.iter().any(|peeked| is_own(&peeked.record.message)) {
                return Ok(Some(Self::of_topic(bus, admin, topic)));
            }
        }
        Self::of_broker(bus, name).await
    }

    /// A queue of the broker's by its own name: where its policies put what others rejected.
    async fn of_broker(bus: &Bus, name: &str) -> Outcome<Option<Self>> {
        let Ok(group) = GroupName::new(name.to_owned()) else { return Ok(None) };
        // That of programs which show the broker's marks, and which are put back with them.
        let bus = bus.in_dialect(Dialect::Eventail)?;
        let admin = bus.admin().await?;
        let topic = Topic::new(dead::DEFAULT_EXCHANGE)?;
        match admin.group(&topic, &group).await {
            Ok(_) => Ok(Some(Self { bus, admin, topic, group })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is a queue of the broker's, where anything may be.
    pub(super) fn is_brokers(&self) -> bool {
        self.topic.as_str() == dead::DEFAULT_EXCHANGE
    }

    /// What people call it.
    pub(super) fn name(&self) -> &str {
        if self.is_brokers() { self.group.as_str() } else { self.topic.as_str() }
    }

    /// What it holds: in a queue of the broker's not everything is a letter.
    pub(super) fn holds(&self) -> &'static str {
        if self.is_brokers() { "message" } else { "letter" }
    }

    /// The number of messages that wait in it.
    pub(super) async fn waiting(&self) -> Outcome<u64> {
        match self.admin.group(&self.topic, &self.group).await {
            Ok(info) => Ok(info.lag + info.in_flight + info.waiting),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a message is a letter that the filter, where there is one, chooses.
    pub(super) fn chooses(
        &self,
        filter: Option<&Filter>,
        message: &Message,
        line: &Line<'_>,
    ) -> bool {
        self.holds_letter(message) && super::chosen(filter, line)
    }

    /// In a queue of the broker's a letter bears its marks, and died elsewhere: what was put back bears
    /// them too.
    fn holds_letter(&self, message: &Message) -> bool {
        let died_elsewhere = |letter: dead::BrokerLetter<'_>| letter.queue != self.group.as_str();
        !self.is_brokers() || dead::BrokerLetter::of(message).is_some_and(died_elsewhere)
    }

    /// Closes its own bus, where it has one.
    pub(super) async fn close(&self) -> Outcome {
        if self.is_brokers() {
            self.bus.close(crate::app::CLOSE_MAX).await?;
        }
        Ok(())
    }
}

fn names(info: &GroupInfo) -> (Topic, String) {
    (info.topic.clone(), info.group.as_str().to_owned())
}

/// The topics and groups of a bus.
struct Known {
    topics: BTreeSet<Topic>,
    groups: Vec<(Topic, String)>,
}

impl Known {
    async fn of(admin: &Admin) -> busline::Result<Self> {
        let topics = admin.topics().await?.into_iter().map(|info| info.topic).collect();
        Ok(Self { topics, groups: admin.groups(None).await?.iter().map(names).collect() })
    }

    fn resolve(&self, name: &str) -> Outcome<Option<Topic>> {
        let mut candidates = BTreeSet::new();
        if let Some(topic) = self.topics.iter().find(|topic| topic.as_str() == name)
            && self.is_dead(topic)
        {
            candidates.insert(topic.clone());
        }
        let mut is_group = false;
        for (topic, group) in &self.groups {
            let named = group == name || name == format!("{topic}/{group}");
            if !named || group == dead::DEAD_GROUP {
                continue;
            }
            is_group = true;
            candidates.extend(self.dead_topic(topic, group));
        }
        let list = |topics: &BTreeSet<Topic>| {
            topics.iter().map(|topic| format!("'{topic}'")).collect::<Vec<_>>().join(", ")
        };
        match candidates.len() {
            0 if is_group => Ok(None),
            0 => {
                let all = self.topics.iter().filter(|topic| self.is_dead(topic)).cloned().collect();
                let hint = match list(&all) {
                    none if none.is_empty() => "there are no dead letters on this bus".to_owned(),
                    some => format!("dead letters wait in {some}"),
                };
                let what = format!("'{name}' is no dead-letter topic, group or topic/group");
                Err(Failure::usage(format!("{what}; {hint}")))
            }
            1 => Ok(candidates.pop_first()),
            _ => Err(Failure::usage(format!(
                "'{name}' is ambiguous; name one of {}",
                list(&candidates)
            ))),
        }
    }

    fn is_dead(&self, topic: &Topic) -> bool {
        self.groups.iter().any(|(of, group)| of == topic && group == dead::DEAD_GROUP)
    }

    fn dead_topic(&self, topic: &Topic, group: &str) -> Option<Topic> {
        let group = GroupName::new(group).ok()?;
        let dead = dead::dead_topic(&group, topic).ok()?;
        self.topics.contains(&dead).then_some(dead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(topics: &[&str], groups: &[(&str, &str)]) -> Known {
        let topic = |name: &str| Topic::new(name).unwrap();
        Known {
            topics: topics.iter().map(|name| topic(name)).collect(),
            groups: groups.iter().map(|(t, group)| (topic(t), (*group).to_owned())).collect(),
        }
    }

    fn bus() -> Known {
        known(
            &["quakes", "tides", "alerts.quakes.dead", "alerts.tides.dead", "stats.quakes.dead"],
            &[
                ("quakes", "alerts"),
                ("tides", "alerts"),
                ("quakes", "stats"),
                ("quakes", "calm"),
                ("alerts.quakes.dead", "busline.dead"),
                ("alerts.tides.dead", "busline.dead"),
                ("stats.quakes.dead", "busline.dead"),
            ],
        )
    }

    #[track_caller]
    fn finds(name: &str, expected: Option<&str>) {
        let found = bus().resolve(name).unwrap();
        assert_eq!(found.as_ref().map(Topic::as_str), expected, "{name}");
    }

    #[test]
    fn by_topic_by_group_and_by_both() {
        finds("alerts.quakes.dead", Some("alerts.quakes.dead"));
        finds("stats", Some("stats.quakes.dead"));
        finds("tides/alerts", Some("alerts.tides.dead"));
        finds("calm", None);
    }

    #[test]
    fn ambiguous_and_unknown_names_list_what_there_is() {
        let ambiguous = format!("{:?}", bus().resolve("alerts").unwrap_err());
        assert!(ambiguous.contains("'alerts.quakes.dead', 'alerts.tides.dead'"), "{ambiguous}");
        let unknown = format!("{:?}", bus().resolve("quakes").unwrap_err());
        assert!(unknown.contains("'quakes' is no dead-letter topic"), "{unknown}");
        assert!(unknown.contains("stats.quakes.dead"), "{unknown}");
        let none = known(&["a"], &[]).resolve("x").unwrap_err();
        assert!(format!("{none:?}").contains("no dead letters on this bus"));
    }
}
