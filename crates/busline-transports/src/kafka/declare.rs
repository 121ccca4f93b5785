//! Declaring topics and groups.

use std::sync::Arc;

use busline_core::transport::{Dialect, GroupSpec, TopicSpec, Topology, TopologyMode};
use busline_core::{Error, ErrorKind, GroupName, Position, Result, Topic, dead};

use super::directory;
use super::groups;
use super::names;
use super::session::Core;
use super::settings::Settings;
use super::topics;

pub(super) async fn declare(core: &Arc<Core>, topology: &Topology) -> Result<()> {
    if topology.mode == TopologyMode::Assume {
        return Ok(());
    }
    for spec in &topology.groups {
        check(core, spec)?;
    }
    for spec in &topology.topics {
        let declared = topic(core, spec, topology.mode).await;
        declared.map_err(|error| error.context("topic", &spec.topic))?;
    }
    for spec in &topology.groups {
        let declared = group(core, spec, topology.mode).await;
        declared
            .map_err(|error| error.context("group", &spec.group).context("topic", &spec.topic))?;
    }
    Ok(())
}

/// What can be seen without asking anybody.
fn check(core: &Core, spec: &GroupSpec) -> Result<()> {
    if core.dialect == Dialect::Hermes {
        let way_out = "read the log and keep the offset, or use our own dialect";
        return Err(Error::refused("groups", "kafka, hermes", way_out));
    }
    if spec.attempts_max == Some(0) {
        return Err(Error::new(ErrorKind::Limit, "attempts_max is 0: nothing could be delivered")
            .context("group", &spec.group));
    }
    if let Some(name) = spec.options.keys().find(|name| name.starts_with("kafka.")) {
        return Err(Error::new(ErrorKind::Limit, format!("kafka: has no option '{name}'"))
            .hint("groups have none; topics have kafka.partitions"));
    }
    dead::dead_topic(&spec.group, &spec.topic)?;
    names::retry(&spec.topic, &spec.group)?;
    Ok(())
}

async fn topic(core: &Arc<Core>, spec: &TopicSpec, mode: TopologyMode) -> Result<()> {
    // Misspelt options are told also where the topic is there.
    let partitions = core.config.partitions_of(&spec.options)?;
    if spec.retention.is_some_and(|kept| !kept.ignore_groups) {
        let way_out = "set ignore_groups: Kafka lets records go whoever needs them; or use file:";
        return Err(Error::refused("retention that waits for groups", "kafka", way_out));
    }
    let name = names::topic(&spec.topic)?;
    match (topics::partitions(core, &name).await?, mode) {
        (None, TopologyMode::Verify) => {
            Err(Error::new(ErrorKind::NotFound, format!("there is no topic '{}'", spec.topic)))
        }
        (None, _) => topics::create(core, spec, &[]).await,
        (Some(found), _) => {
            let asked = spec.options.contains_key("kafka.partitions");
            let single = core.dialect == Dialect::Hermes && found != 1;
            if single || asked && found != partitions {
                let wanted = if single { 1 } else { partitions };
                let why = format!("the topic has {found} partitions, wanted is {wanted}");
                return Err(Error::new(ErrorKind::Conflict, why)
                    .hint("make a new topic: what is kept would lose its order"));
            }
            let about = topics::look(core, &spec.topic).await?;
            match spec.retention {
                Some(kept) if differs(&about, kept) && mode != TopologyMode::Verify => {
                    topics::retain(core, &name, kept).await
                }
                _ => Ok(()),
            }
        }
    }
}

fn differs(about: &topics::About, wanted: busline_core::transport::Retention) -> bool {
    (about.retention.age_max, about.retention.bytes_max) != (wanted.age_max, wanted.bytes_max)
}

async fn group(core: &Arc<Core>, spec: &GroupSpec, mode: TopologyMode) -> Result<()> {
    let about = topics::look(core, &spec.topic).await?;
    let (consumer_group, retry) = groups::names_of(&spec.topic, &spec.group)?;
    let wanted = Settings::of(spec, about.partitions, core.clock.now());
    let all = directory::groups(core).await?;
    let over = |found: &&Settings| !found.is_over(core.clock.now());
    let found = all.get(&consumer_group).filter(over);
    match (found, mode) {
        (Some(found), TopologyMode::Verify) => match found.reconcile(&wanted, spec)? {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Conflict, format!("the group exists as {found}"))),
        },
        (None, TopologyMode::Verify) => Err(groups::missing(&spec.topic, &spec.group)),
        (Some(found), _) => match found.reconcile(&wanted, spec)? {
            None => Ok(()),
            Some(changed) => directory::write(core, &consumer_group, Some(&changed)).await,
        },
        (None, _) => {
            let places = groups::resolve(core, &about, &spec.start).await?;
            let mut topics = vec![(about.name.as_str(), places)];
            if let Some(retry) = &retry {
                topics.push((retry, vec![(0, retries(core, retry).await?)]));
            }
            groups::commit(core, &consumer_group, &topics).await?;
            directory::write(core, &consumer_group, Some(&wanted)).await
        }
    }
}

/// The topic of a group's retries, and its end: what an earlier group of that name left there is passed over.
async fn retries(core: &Arc<Core>, name: &str) -> Result<u64> {
    if topics::partitions(core, name).await?.is_none() {
        let topic = names::topic_of(name);
        let topic = topic.ok_or_else(|| Error::new(ErrorKind::Limit, "no name for retries"))?;
        let mut spec = TopicSpec::new(topic);
        spec.options.insert("kafka.partitions".to_owned(), "1".to_owned());
        topics::create(core, &spec, &[]).await?;
    }
    Ok(topics::extent(core, name, 0).await?.1)
}

/// The topic of a group's dead letters, with the group that they wait for.
pub(super) async fn dead_letters(
    core: &Arc<Core>,
    topic: &Topic,
    group: &GroupName,
) -> Result<Topic> {
    let dead = dead::dead_topic(group, topic)?;
    let mut made = core.dead_letters.lock().await;
    if made.contains(&dead) {
        return Ok(dead);
    }
    let mut spec = TopicSpec::new(dead.clone());
    spec.options.insert("kafka.partitions".to_owned(), "1".to_owned());
    let waits = GroupSpec {
        start: Position::Earliest,
        attempts_max: None,
        ..GroupSpec::new(dead.clone(), dead::dead_group())
    };
    if topics::partitions(core, &names::topic(&dead)?).await?.is_none() {
        topics::create(core, &spec, &[]).await?;
    }
    let consumer_group = names::group(&dead, &waits.group);
    if !directory::groups(core).await?.contains_key(&consumer_group) {
        self::group(core, &waits, TopologyMode::Create).await?;
    }
    made.insert(dead.clone());
    Ok(dead)
}
