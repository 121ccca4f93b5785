//! The operator's view of a bus directory.

use std::sync::Arc;

use busline_core::transport::{Admin, DeleteIf, GroupInfo, Peeked, TopicInfo};
use busline_core::{Error, ErrorKind, GroupName, Offset, Position, Result, Timestamp, Topic};
use busline_log::{ErrorKind as LogKind, Group};
use futures_util::future::BoxFuture;

use super::error::of_log;
use super::mapping::{Chunk, GroupConfig, Selection};
use super::store::{Store, TopicLog};

/// Runs on threads that may block.
#[derive(Debug)]
pub(super) struct FileAdmin {
    pub(super) store: Arc<Store>,
}

impl FileAdmin {
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let store = Arc::clone(&self.store);
        Box::pin(super::blocking(move || operation(&store)))
    }
}

impl Admin for FileAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        self.run(|store| {
            let mut infos = Vec::new();
            for name in store.topic_names()? {
                match store.topic(&name) {
                    Ok(topic) => infos.push(topic_info(store, &topic)?),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(infos)
        })
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        let only = topic.cloned();
        self.run(move |store| {
            let names = match only {
                Some(topic) => vec![topic],
                None => store.topic_names()?,
            };
            let mut infos = Vec::new();
            for name in names {
                let topic = store.topic(&name)?;
                // A temporary group whose member died is no group any more.
                topic.log.collect_groups(topic.now()).map_err(of_log)?;
                for (group_name, group) in topic.open_groups()? {
                    match group_info(&topic, &group_name, &group) {
                        Ok(info) => infos.push(info),
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(infos)
        })
    }

    fn peek<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        from: Option<&'a Offset>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>> {
        let (topic, name, from) = (topic.clone(), group.clone(), from.cloned());
        self.run(move |store| {
            let topic = store.topic(&topic)?;
            let from = from.map_or(Ok(0), |from| topic.seq_of(&Position::Offset(from)))?;
            let unsettled = unsettled(&topic, &name, from, limit)?;
            let mut chunk = Chunk::default();
            let mut scanner = topic.log.scanner();
            for (seq, attempts) in unsettled {
                match scanner.read(seq) {
                    Ok(Some(record)) => chunk.push(&record, attempts),
                    // Retention, or a loss of power, took what the group does not know to be gone yet.
                    Ok(None) => {}
                    Err(error) if matches!(error.kind(), LogKind::Removed { .. }) => {}
                    Err(error) => return Err(of_log(error)),
                }
            }
            chunk
                .into_records()
                .map(|raw| {
                    let attempts = raw.attempts;
                    Ok(Peeked { record: raw.into_record(&topic)?, attempts })
                })
                .collect()
        })
    }

    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        to: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        let (topic, name, to) = (topic.clone(), group.clone(), to.clone());
        self.run(move |store| {
            let topic = store.topic(&topic)?;
            let group = topic.group(&name)?;
            let to = topic.seq_of(&to)?;
            group.reset(to, topic.now()).map_err(|e| topic.group_error(&name, e))
        })
    }

    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        let (topic, name) = (topic.clone(), group.clone());
        self.run(move |store| {
            let topic = store.topic(&topic)?;
            purge(&topic, &name)
        })
    }

    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        let (topic, name) = (topic.clone(), group.clone());
        self.run(move |store| {
            let topic = store.topic(&topic)?;
            let check = busline_log::DeleteIf { unused: condition.unused, empty: condition.empty };
            let now = topic.now();
            let deleted = Group::delete(&topic.log, name.as_str(), check, now);
            deleted.map_err(|error| topic.group_error(&name, error))?;
            topic.forget_group(&name);
            Ok(())
        })
    }

    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        let name = topic.clone();
        self.run(move |store| {
            let topic = store.topic(&name)?;
            let conflict = |why: String| {
                Err(Error::new(ErrorKind::Conflict, format!("topic '{name}' {why}"))
                    .hint("delete it without the condition, or make it hold"))
            };
            for (group_name, group) in topic.open_groups()? {
                let info = group_info(&topic, &group_name, &group)?;
                if condition.unused && info.members > 0 {
                    return conflict(format!("is in use by group '{group_name}'"));
                }
                if condition.empty && info.lag + info.in_flight + info.waiting > 0 {
                    return conflict(format!("has messages for group '{group_name}'"));
                }
            }
            drop(topic);
            store.delete_topic(&name)
        })
    }
}

fn topic_info(store: &Store, topic: &TopicLog) -> Result<TopicInfo> {
    let stats = topic.log.stats().map_err(of_log)?;
    let mut info = TopicInfo::new(topic.topic.clone());
    info.messages = stats.records;
    info.bytes = stats.bytes;
    info.earliest = Some(topic.offset(stats.first_seq));
    info.end = Some(topic.offset(stats.next_seq));
    info.groups = topic.log.groups().map_err(of_log)?.len() as u64;
    info.retention = store.retention(topic)?;
    Ok(info)
}

fn group_info(topic: &TopicLog, name: &GroupName, group: &Group) -> Result<GroupInfo> {
    let found = group.info(topic.now()).map_err(|e| topic.group_error(name, e))?;
    let config = GroupConfig::from_bytes(&found.config.bytes)?;
    let mut info = GroupInfo::new(topic.topic.clone(), name.clone());
    info.patterns = config.patterns;
    info.attempts_max = config.attempts_max;
    info.broadcast = config.broadcast;
    info.lag = found.lag;
    info.in_flight = found.claimed;
    info.waiting = found.parked + found.ready;
    info.oldest_unsettled = found.oldest_us.map(Timestamp::from_unix_us);
    info.floor = Some(topic.offset(found.floor));
    info.members = found.members.iter().filter(|member| member.alive).count() as u64;
    info.delivered = found.counters.delivered;
    info.redelivered = found.counters.redelivered;
    info.acked = found.counters.acked;
    info.rejected = found.counters.rejected;
    Ok(info)
}

/// The unsettled records of a group with how often each was delivered.
fn unsettled(
    topic: &TopicLog,
    name: &GroupName,
    from: u64,
    limit: usize,
) -> Result<Vec<(u64, u32)>> {
    let group = topic.group(name)?;
    let config = group.config().map_err(|error| topic.group_error(name, error))?;
    let selection = Selection::new(&GroupConfig::from_bytes(&config.bytes)?, name.clone());
    let filter = |key: &[u8], meta: &[u8]| selection.takes(key, meta);
    let mut found = Vec::new();
    group
        .peek(from, limit, &filter, &mut |peeked| found.push((peeked.seq, peeked.attempts)))
        .map_err(|error| topic.group_error(name, error))?;
    Ok(found)
}

/// Counts what is unsettled, then moves the group to the end.
fn purge(topic: &TopicLog, name: &GroupName) -> Result<u64> {
    let group = topic.group(name)?;
    let end = topic.log.next_seq();
    let unsettled = unsettled(topic, name, 0, usize::MAX)?;
    group.reset(end, topic.now()).map_err(|error| topic.group_error(name, error))?;
    Ok(unsettled.iter().filter(|(seq, _)| *seq < end).count() as u64)
}
