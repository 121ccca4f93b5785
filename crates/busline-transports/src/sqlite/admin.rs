//! The operator's view of a database.

use std::sync::mpsc::Sender;

use busline_core::transport::{Admin, DeleteIf, GroupInfo, Peeked, TopicInfo};
use busline_core::{Error, ErrorKind, GroupName, Offset, Position, Result, Topic};
use futures_util::future::BoxFuture;
use rusqlite::Connection;

use super::groups::GroupRow;
use super::read::trimmed;
use super::topics::TopicRow;
use super::worker::{Job, call};

/// Looks and acts on the thread of its session.
#[derive(Debug)]
pub(super) struct SqliteAdmin {
    jobs: Sender<Job>,
}

impl SqliteAdmin {
    pub(super) fn new(jobs: Sender<Job>) -> Self {
        Self { jobs }
    }
}

impl Admin for SqliteAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        call(&self.jobs, |worker| {
            worker.clear_away()?;
            let mut infos = Vec::new();
            for topic in TopicRow::all(worker.database.connection())? {
                let topic = trimmed(worker, topic)?;
                let groups = GroupRow::of_topic(worker.database.connection(), topic.slot)?;
                infos.push(topic.info(i64::try_from(groups.len()).unwrap_or(i64::MAX)));
            }
            Ok(infos)
        })
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        let topic = topic.cloned();
        call(&self.jobs, move |worker| {
            worker.clear_away()?;
            let connection = worker.database.connection();
            let topics = match topic {
                Some(topic) => vec![TopicRow::get(connection, &topic)?],
                None => TopicRow::all(connection)?,
            };
            let mut infos = Vec::new();
            for topic in topics {
                for group in GroupRow::of_topic(connection, topic.slot)? {
                    infos.push(group.info(connection, &topic)?);
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
        let (topic, group, from) = (topic.clone(), group.clone(), from.cloned());
        call(&self.jobs, move |worker| {
            let connection = worker.database.connection();
            let (topic, group) = GroupRow::get(connection, &topic, &group)?;
            let from =
                from.map_or(Ok(0), |from| topic.resolve(connection, &Position::Offset(from)))?;
            let mut peeked = Vec::new();
            if limit > 0 {
                group.unsettled(connection, &topic, from, |raw, attempts| {
                    peeked.push(Peeked { record: raw.record(&topic)?, attempts });
                    Ok(peeked.len() < limit)
                })?;
            }
            Ok(peeked)
        })
    }

    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        to: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        let (topic, group, to) = (topic.clone(), group.clone(), to.clone());
        call(&self.jobs, move |worker| {
            worker.change(|connection, _| {
                let (topic, group) = GroupRow::get(connection, &topic, &group)?;
                let to = topic.resolve(connection, &to)?;
                group.reset(connection, to)
            })
        })
    }

    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        let (topic, group) = (topic.clone(), group.clone());
        call(&self.jobs, move |worker| {
            worker.change(|connection, now| {
                let (mut topic, group) = GroupRow::get(connection, &topic, &group)?;
                let purged = group.count_unsettled(connection, &topic)?;
                group.reset(connection, topic.next)?;
                topic.trim(connection, now)?;
                Ok(purged)
            })
        })
    }

    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        let (topic, group) = (topic.clone(), group.clone());
        call(&self.jobs, move |worker| {
            worker.clear_away()?;
            worker.change(|connection, _| {
                let (topic, group) = GroupRow::get(connection, &topic, &group)?;
                may_delete(connection, &topic, &group, condition)?;
                GroupRow::delete(connection, group.id)
            })
        })
    }

    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        let topic = topic.clone();
        call(&self.jobs, move |worker| {
            worker.clear_away()?;
            worker.change(|connection, _| {
                let topic = TopicRow::get(connection, &topic)?;
                for group in GroupRow::of_topic(connection, topic.slot)? {
                    may_delete(connection, &topic, &group, condition)?;
                }
                topic.delete(connection)
            })
        })
    }
}

fn may_delete(
    connection: &Connection,
    topic: &TopicRow,
    group: &GroupRow,
    condition: DeleteIf,
) -> Result<()> {
    let refuse = |why: String, hint: &str| {
        let what = format!("group '{}' of topic '{}' {why}", group.name, topic.name);
        Err(Error::new(ErrorKind::Conflict, what).hint(hint))
    };
    let members = if condition.unused { group.living(connection)? } else { 0 };
    if members > 0 {
        return refuse(format!("has {members} members"), "stop them first");
    }
    let unsettled = if condition.empty { group.count_unsettled(connection, topic)? } else { 0 };
    if unsettled > 0 {
        return refuse(format!("has {unsettled} unsettled messages"), "purge it first");
    }
    Ok(())
}
