//! Declaring topics and groups in memory, and saying how what exists differs.

use std::fmt::Display;

use super::broker::Now;
use super::group::{Config, Group};
use super::state::State;
use crate::dead::dead_topic;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::transport::{GroupSpec, OnDifference, Options, TopicSpec, Topology, TopologyMode};

/// Declares topics, then groups.
pub(super) fn declare(state: &mut State, topology: &Topology, now: Now) -> Result<()> {
    for topic in &topology.topics {
        check_options(&topic.options, "topic", &topic.topic)?;
    }
    for group in &topology.groups {
        check_options(&group.options, "group", &group.group)?;
        // Its dead letters must have somewhere to go before there is one.
        dead_topic(&group.group, &group.topic)?;
        if group.attempts_max == Some(0) {
            return Err(Error::new(ErrorKind::Limit, "attempts_max is 0: nothing would be tried")
                .context("group", &group.group));
        }
    }
    if topology.mode == TopologyMode::Assume {
        return Ok(());
    }
    for topic in &topology.topics {
        declare_topic(state, topic, topology.mode, now)?;
    }
    for group in &topology.groups {
        declare_group(state, group, topology.mode, now)?;
    }
    Ok(())
}

fn declare_topic(state: &mut State, spec: &TopicSpec, mode: TopologyMode, now: Now) -> Result<()> {
    if mode == TopologyMode::Verify {
        let id = state.topic(&spec.topic)?;
        let found = state.topics.get(&id).map(|log| log.retention);
        return match (found, spec.retention) {
            (Some(found), Some(wanted)) if found != wanted => Err(conflict(
                &format!("topic '{}'", spec.topic),
                "retention",
                format!("{found:?}"),
                format!("{wanted:?}"),
                "declare it with the mode 'create' to change it",
            )),
            _ => Ok(()),
        };
    }
    let id = state.ensure_topic(&spec.topic);
    if let (Some(log), Some(retention)) = (state.topics.get_mut(&id), spec.retention) {
        log.retention = retention;
    }
    state.trim(id, now);
    Ok(())
}

fn declare_group(state: &mut State, spec: &GroupSpec, mode: TopologyMode, now: Now) -> Result<()> {
    let topic = state.topic(&spec.topic)?;
    let wanted = Config {
        patterns: spec.patterns.clone(),
        attempts_max: spec.attempts_max,
        retry_mode: spec.retry_mode,
        expires_after: spec.expires_after,
    };
    match state.group(&spec.topic, &spec.group) {
        Ok(id) => {
            let Some(group) = state.groups.get_mut(&id) else { return Ok(()) };
            let merged = merge(spec, &group.config, wanted, mode)?;
            group.config = merged;
            group.wake();
            state.reconfigured(id);
            Ok(())
        }
        Err(missing) if mode == TopologyMode::Verify => Err(missing),
        Err(_) => {
            let Some(log) = state.topics.get(&topic) else { return Ok(()) };
            let start = log.resolve(&spec.start)?;
            state.add_group(Group::new(topic, spec.group.clone(), wanted, start, now.monotonic));
            Ok(())
        }
    }
}

/// What an existing group is to become; `Conflict` where it may not change.
fn merge(spec: &GroupSpec, found: &Config, wanted: Config, mode: TopologyMode) -> Result<Config> {
    let change = mode == TopologyMode::Create;
    match spec.on_difference {
        OnDifference::Replace if change => Ok(wanted),
        OnDifference::Add => {
            let patterns = union(&found.patterns, &wanted.patterns);
            let merged = Config { patterns, ..found.clone() };
            if change || merged == *found {
                return Ok(merged);
            }
            differs(spec, found, &merged)
        }
        _ if *found == wanted => Ok(wanted),
        _ => differs(spec, found, &wanted),
    }
}

fn union(some: &Patterns, others: &Patterns) -> Patterns {
    if some.is_all() || others.is_all() {
        return Patterns::all();
    }
    some.as_slice().iter().chain(others.as_slice()).cloned().collect()
}

fn differs(spec: &GroupSpec, found: &Config, wanted: &Config) -> Result<Config> {
    let entity = format!("group '{}' of topic '{}'", spec.group, spec.topic);
    let hint = "declare it with on_difference Replace or Add, or delete it first";
    let (argument, was, want) = if found.patterns != wanted.patterns {
        ("patterns", found.patterns.to_string(), wanted.patterns.to_string())
    } else if found.attempts_max != wanted.attempts_max {
        ("attempts_max", or_none(found.attempts_max), or_none(wanted.attempts_max))
    } else if found.retry_mode != wanted.retry_mode {
        ("retry_mode", format!("{:?}", found.retry_mode), format!("{:?}", wanted.retry_mode))
    } else {
        let text = |config: &Config| format!("{:?}", config.expires_after);
        ("expires_after", text(found), text(wanted))
    };
    Err(conflict(&entity, argument, was, want, hint))
}

fn conflict(entity: &str, argument: &str, found: String, wanted: String, hint: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{entity} exists with another {argument}"))
        .context("found", found)
        .context("wanted", wanted)
        .hint(hint)
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// There are none of ours, so each one with our prefix is misspelt.
pub(super) fn check_options(
    options: &Options,
    entity: &'static str,
    name: impl Display,
) -> Result<()> {
    match options.keys().find(|option| option.starts_with("memory.")) {
        Some(option) => {
            Err(Error::new(ErrorKind::Limit, format!("the memory transport has no '{option}'"))
                .context(entity, name))
        }
        None => Ok(()),
    }
}
