//! Declaring groups, and what a topic's groups select.

use busline_core::transport::{GroupSpec, TopologyMode};
use busline_core::{Error, ErrorKind, GroupName, Result, dead};
use busline_log::{Declared, Group, GroupOptions, Lifetime};

use super::config::Sync;
use super::error::of_log;
use super::mapping::{GroupConfig, Selection};
use super::store::{Store, TopicLog};

/// Declares a group of an existing topic, as its specification says about differences.
pub(super) fn declare(store: &Store, spec: &GroupSpec, mode: TopologyMode) -> Result<()> {
    if let Some(option) = spec.options.keys().next() {
        return Err(Error::new(ErrorKind::Limit, format!("file: has no group option '{option}'"))
            .context("group", &spec.group));
    }
    if spec.attempts_max == Some(0) {
        return Err(Error::new(ErrorKind::Limit, "attempts_max is 0: nothing would ever be tried")
            .context("group", &spec.group));
    }
    let topic = store.topic(&spec.topic)?;
    // Its dead letters need a name too; better now than at the first rejection.
    dead::dead_topic(&spec.group, &spec.topic)?;
    let wanted = GroupConfig::of(spec);
    if mode != TopologyMode::Create {
        let found = GroupConfig::from_bytes(&config_of(&topic, &topic.group(&spec.group)?)?)?;
        let strict = GroupSpec { on_difference: Default::default(), ..spec.clone() };
        return wanted.reconcile(&found, &strict).map(drop);
    }
    let now = topic.now();
    let declaration = busline_log::GroupSpec {
        name: spec.group.as_str(),
        config: &wanted.to_bytes()?,
        start: topic.seq_of(&spec.start)?,
        lifetime: match spec.expires_after {
            Some(idle) => {
                Lifetime::Idle { us: u64::try_from(idle.as_micros()).unwrap_or(u64::MAX) }
            }
            None => Lifetime::Durable,
        },
    };
    let declared = Group::declare(&topic.log, &declaration, &GroupOptions::default(), now);
    let Declared { group, created } =
        declared.map_err(|error| topic.group_error(&spec.group, error))?;
    topic.keep_group(&spec.group, group.clone());
    if created {
        return settled_now(store, &group);
    }
    // Somebody else may change it at the same moment: then look again.
    loop {
        let found = group.config().map_err(of_log)?;
        let existing = GroupConfig::from_bytes(&found.bytes)?;
        let Some(changed) = wanted.reconcile(&existing, spec)? else {
            // Who declared it may have died before it was durable.
            return settled_now(store, &group);
        };
        if group.set_config(&changed.to_bytes()?, Some(found.epoch), now).map_err(of_log)? {
            return settled_now(store, &group);
        }
    }
}

/// What is declared is durable when that returns, as topics are, also where nobody waits for settles: a group that
/// is lost is declared anew from where the topic ends, and misses what was published since it was declared first.
fn settled_now(store: &Store, group: &Group) -> Result<()> {
    match store.config.sync {
        Sync::Interval(_) | Sync::Os => group.sync().map_err(of_log),
        Sync::Always => Ok(()),
    }
}

fn config_of(topic: &TopicLog, group: &Group) -> Result<Vec<u8>> {
    group
        .config()
        .map(|config| config.bytes)
        .map_err(|error| of_log(error).context("topic", &topic.topic))
}

impl TopicLog {
    /// The names of its groups that can be opened, sorted, with their handles.
    pub(super) fn open_groups(&self) -> Result<Vec<(GroupName, Group)>> {
        let mut groups = Vec::new();
        for name in self.log.groups().map_err(of_log)? {
            let name = GroupName::new(name)?;
            match self.group(&name) {
                Ok(group) => groups.push((name, group)),
                // Deleted at this moment.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        groups.sort_by(|(one, _), (two, _)| one.cmp(two));
        Ok(groups)
    }

    /// What each group declared at this moment selects.
    pub(super) fn selections(&self) -> Result<Vec<Selection>> {
        let mut selections = Vec::new();
        for (name, group) in self.open_groups()? {
            match group.config() {
                Ok(config) => {
                    let config = GroupConfig::from_bytes(&config.bytes)?;
                    selections.push(Selection::new(&config, name));
                }
                Err(error) if error.kind() == busline_log::ErrorKind::NotFound => {
                    self.forget_group(&name);
                }
                Err(error) => return Err(of_log(error)),
            }
        }
        Ok(selections)
    }
}
