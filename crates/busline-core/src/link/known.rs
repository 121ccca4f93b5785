//! What was declared through a link, to be declared again on every new session.

use crate::name::{GroupName, Topic};
use crate::transport::{GroupSpec, TopicSpec, Topology, TopologyMode};

/// Topics and groups as they were declared last.
#[derive(Debug, Default)]
pub(super) struct Known {
    topics: Vec<(TopologyMode, TopicSpec)>,
    groups: Vec<(TopologyMode, GroupSpec)>,
}

impl Known {
    /// Adds what was declared just now.
    pub(super) fn add(&mut self, topology: &Topology) {
        for spec in &topology.topics {
            let known = self.topics.iter_mut().find(|(_, known)| known.topic == spec.topic);
            match known {
                Some((mode, known)) => {
                    *mode = either(*mode, topology.mode);
                    merge(known, spec);
                }
                None => self.topics.push((topology.mode, spec.clone())),
            }
        }
        for spec in &topology.groups {
            let is_it = |known: &GroupSpec| known.topic == spec.topic && known.group == spec.group;
            match self.groups.iter_mut().find(|(_, known)| is_it(known)) {
                Some((mode, known)) => {
                    *mode = either(*mode, topology.mode);
                    known.clone_from(spec);
                }
                None => self.groups.push((topology.mode, spec.clone())),
            }
        }
    }

    /// Forgets a group that was deleted, or a topic with all its groups.
    pub(super) fn remove(&mut self, topic: &Topic, group: Option<&GroupName>) {
        if group.is_none() {
            self.topics.retain(|(_, known)| known.topic != *topic);
        }
        self.groups.retain(|(_, known)| {
            known.topic != *topic || group.is_some_and(|group| known.group != *group)
        });
    }

    /// All of it: every topic before any group.
    pub(super) fn topologies(&self) -> Vec<Topology> {
        const MODES: [TopologyMode; 2] = [TopologyMode::Verify, TopologyMode::Create];
        let topics = MODES.map(|mode| Topology {
            mode,
            topics: of(mode, &self.topics),
            ..Topology::default()
        });
        let groups = MODES.map(|mode| Topology {
            mode,
            groups: of(mode, &self.groups),
            ..Topology::default()
        });
        let mut all = topics.into_iter().chain(groups).collect::<Vec<_>>();
        all.retain(|topology| !topology.topics.is_empty() || !topology.groups.is_empty());
        all
    }
}

fn of<T: Clone>(mode: TopologyMode, known: &[(TopologyMode, T)]) -> Vec<T> {
    known.iter().filter(|(of, _)| *of == mode).map(|(_, spec)| spec.clone()).collect()
}

/// Who created something once creates it again.
fn either(one: TopologyMode, other: TopologyMode) -> TopologyMode {
    if one == TopologyMode::Create { one } else { other }
}

/// A later declaration that says nothing about something leaves it as it was.
fn merge(known: &mut TopicSpec, spec: &TopicSpec) {
    known.retention = spec.retention.or(known.retention);
    known.replay |= spec.replay;
    known.options.extend(spec.options.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Retention;

    #[test]
    fn a_topic_comes_before_its_groups_and_keeps_what_was_said_about_it() {
        let topic = Topic::new("t").unwrap();
        let retention = Some(Retention { bytes_max: Some(7), ..Retention::default() });
        let mut known = Known::default();
        let group = GroupSpec::new(topic.clone(), GroupName::new("g").unwrap());
        known.add(&Topology {
            topics: vec![TopicSpec { retention, replay: true, ..TopicSpec::new(topic.clone()) }],
            groups: vec![group],
            ..Topology::default()
        });
        // As every publisher does.
        let plain = || vec![TopicSpec::new(topic.clone())];
        known.add(&Topology { topics: plain(), ..Topology::default() });
        let verify = TopologyMode::Verify;
        known.add(&Topology { mode: verify, topics: plain(), ..Topology::default() });
        let all = known.topologies();
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!((all[0].topics[0].retention, all[0].topics[0].replay), (retention, true));
        assert_eq!((all[0].mode, all[1].groups.len()), (TopologyMode::Create, 1));
        known.remove(&topic, Some(&GroupName::new("other").unwrap()));
        assert_eq!(known.topologies().len(), 2);
        known.remove(&topic, None);
        assert!(known.topologies().is_empty());
    }
}
