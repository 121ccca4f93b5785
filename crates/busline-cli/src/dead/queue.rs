//! Which dead letters are meant: a dead-letter topic, a group, or topic/group.

use std::collections::BTreeSet;

use busline::transport::GroupInfo;
use busline::{Admin, Topic, dead};

use crate::exit::{Failure, Outcome};

/// A dead-letter topic, or none where a group exists that never rejected anything.
pub(super) async fn resolve(admin: &Admin, name: &str) -> Outcome<Option<Topic>> {
    let topics = admin.topics().await?.into_iter().map(|info| info.topic).collect();
    let groups = admin.groups(None).await?;
    Known { topics, groups: groups.iter().map(names).collect() }.resolve(name)
}

/// The number of letters that wait in a dead-letter topic.
pub(super) async fn waiting(admin: &Admin, queue: &Topic) -> Outcome<u64> {
    let groups = admin.groups(Some(queue)).await?;
    let info = groups.iter().find(|info| info.group.as_str() == dead::DEAD_GROUP);
    Ok(info.map_or(0, |info| info.lag + info.in_flight + info.waiting))
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
        let group = busline::GroupName::new(group).ok()?;
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
