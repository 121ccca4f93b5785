//! The operator's view of a bus in memory.

use std::sync::{Arc, MutexGuard};

use futures_util::future::{BoxFuture, ready};

use super::broker::{Broker, Line, Now};
use super::state::State;
use crate::delivery::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{GroupName, Topic};
use crate::offset::{Offset, Position};
use crate::transport::{Admin, DeleteIf, GroupInfo, Peeked, TopicInfo};

/// Looks and acts at once, under the lock.
#[derive(Debug)]
pub(super) struct MemoryAdmin {
    broker: Arc<Broker>,
    line: Arc<Line>,
}

impl MemoryAdmin {
    pub(super) fn new(broker: Arc<Broker>, line: Arc<Line>) -> Self {
        Self { broker, line }
    }

    fn with<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&mut State, Now) -> Result<T>,
    ) -> BoxFuture<'_, Result<T>> {
        let result = self.line.check().and_then(|()| {
            let (mut state, now): (MutexGuard<'_, State>, Now) = self.broker.lock();
            let ids: Vec<u64> = state.groups.keys().copied().collect();
            for id in ids {
                state.tick(id, now);
            }
            operation(&mut state, now)
        });
        Box::pin(ready(result))
    }
}

impl Admin for MemoryAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        self.with(|state, now| {
            let ids: Vec<u64> = state.names.values().copied().collect();
            let info = |id| {
                state.trim(id, now);
                state.topics.get(&id).map(super::log::TopicLog::info)
            };
            Ok(ids.into_iter().filter_map(info).collect())
        })
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        self.with(|state, _| {
            let ids: Vec<u64> = match topic {
                Some(topic) => vec![state.topic(topic)?],
                None => state.names.values().copied().collect(),
            };
            let logs = ids.iter().filter_map(|id| state.topics.get(id));
            let infos = logs.flat_map(|log| {
                let groups = log.groups.values().filter_map(|id| state.groups.get(id));
                groups.map(|group| group.info(log))
            });
            Ok(infos.collect())
        })
    }

    fn peek<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        from: Option<&'a Offset>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>> {
        self.with(|state, _| {
            let id = state.group(topic, group)?;
            let Some(group) = state.groups.get(&id) else { return Ok(Vec::new()) };
            let Some(log) = state.topics.get(&group.topic) else { return Ok(Vec::new()) };
            let from = from.map_or(Ok(0), |from| log.resolve(&Position::Offset(from.clone())))?;
            let unsettled = group.unsettled(log).skip_while(|(number, ..)| *number < from);
            let peeked = unsettled.take(limit).map(|(number, stored, attempts)| {
                let (message, time) = (stored.message.clone(), stored.time);
                Peeked { record: Record { message, offset: log.offset(number), time }, attempts }
            });
            Ok(peeked.collect())
        })
    }

    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        to: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        self.with(|state, _| {
            let id = state.group(topic, group)?;
            let log = state.topic(topic)?;
            let to = state.topics.get(&log).map_or(Ok(0), |log| log.resolve(to))?;
            if let Some(group) = state.groups.get_mut(&id) {
                group.reset(to);
            }
            Ok(())
        })
    }

    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        self.with(|state, now| {
            let id = state.group(topic, group)?;
            let State { groups, topics, .. } = &mut *state;
            let Some(group) = groups.get_mut(&id) else { return Ok(0) };
            let Some(log) = topics.get(&group.topic) else { return Ok(0) };
            let purged = group.unsettled(log).count() as u64;
            group.reset(log.tail());
            let topic = group.topic;
            state.trim(topic, now);
            Ok(purged)
        })
    }

    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        self.with(|state, _| {
            let id = state.group(topic, group)?;
            may_delete(state, id, condition)?;
            state.remove_group(id);
            Ok(())
        })
    }

    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        self.with(|state, _| {
            let id = state.topic(topic)?;
            let groups = state.topics.get(&id).map(|log| log.groups.clone()).unwrap_or_default();
            for group in groups.values() {
                may_delete(state, *group, condition)?;
            }
            state.remove_topic(id);
            Ok(())
        })
    }
}

fn may_delete(state: &State, id: u64, condition: DeleteIf) -> Result<()> {
    let Some(group) = state.groups.get(&id) else { return Ok(()) };
    let Some(log) = state.topics.get(&group.topic) else { return Ok(()) };
    let refuse = |why: String, hint: &str| {
        Err(Error::new(
            ErrorKind::Conflict,
            format!("group '{}' of topic '{}' {why}", group.name, log.name),
        )
        .hint(hint))
    };
    let members = group.living();
    if condition.unused && members > 0 {
        return refuse(format!("has {members} members"), "stop them first");
    }
    let unsettled = group.unsettled(log).count();
    if condition.empty && unsettled > 0 {
        return refuse(format!("has {unsettled} unsettled messages"), "purge it first");
    }
    Ok(())
}
