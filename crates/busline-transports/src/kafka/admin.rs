//! The operator's view.

use std::sync::Arc;

use busline_core::transport::{Admin, DeleteIf, GroupInfo, Peeked, Read, Reader, TopicInfo};
use busline_core::{Error, ErrorKind, GroupName, Offset, Patterns, Position, Result, Topic};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};

use super::directory;
use super::groups;
use super::ledger::{Known, Ledger};
use super::names;
use super::read;
use super::session::Core;
use super::settings::{Groups, Settings};
use super::topics::{self, About};

/// The operator's view of a cluster.
pub(super) struct KafkaAdmin {
    core: Arc<Core>,
}

/// Topics that are looked at together.
const AT_ONCE: usize = 16;

/// A group with where it is.
struct Found {
    name: String,
    settings: Settings,
    about: Arc<About>,
    ledgers: Vec<(i32, Ledger)>,
}

impl KafkaAdmin {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn topic_infos(&self) -> Result<Vec<TopicInfo>> {
        let all = directory::groups(&self.core).await?;
        let retries: Vec<_> = all
            .values()
            .filter_map(|settings| names::retry(&settings.topic, &settings.group).ok().flatten())
            .collect();
        let mut topics = Vec::new();
        for (topic, _) in topics::all(&self.core).await? {
            let name = names::topic(&topic)?;
            // They belong to their groups.
            if name != names::GROUPS && !retries.contains(&name) {
                topics.push(topic);
            }
        }
        let looking = topics.into_iter().map(|topic| self.topic_info(topic, Arc::clone(&all)));
        let looking = futures_util::stream::iter(looking).buffered(AT_ONCE);
        let infos: Vec<_> = looking.try_collect().await?;
        Ok(infos.into_iter().flatten().collect())
    }

    /// One that was deleted meanwhile is not there.
    async fn topic_info(&self, topic: Topic, all: Arc<Groups>) -> Result<Option<TopicInfo>> {
        let found = async {
            let about = topics::look(&self.core, &topic).await?;
            let mut info = TopicInfo::new(topic.clone());
            let (mut first, mut last) = (Vec::new(), Vec::new());
            for partition in 0..about.partitions {
                let extent = topics::extent(&self.core, &about.name, partition).await?;
                info.messages += extent.1 - extent.0;
                let shard = about.shards.shard(partition);
                first.push((shard, extent.0));
                last.push((shard, extent.1));
            }
            info.earliest = Offset::of(first).ok();
            info.end = Offset::of(last).ok();
            info.retention = about.retention;
            info.groups = all.values().filter(|settings| settings.topic == topic).count() as u64;
            Ok::<_, Error>(info)
        };
        match found.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Groups that nobody used for too long go as they are looked at.
    async fn living(&self, topic: Option<&Topic>) -> Result<Vec<(String, Settings)>> {
        let all = directory::groups(&self.core).await?;
        let mut living = Vec::new();
        for (name, settings) in all.iter() {
            if topic.is_some_and(|topic| *topic != settings.topic) {
                continue;
            }
            let over = settings.is_over(self.core.clock.now());
            if over && groups::members(&self.core, name).await? == 0 {
                self.remove(name, settings).await?;
            } else {
                living.push((name.clone(), settings.clone()));
            }
        }
        living.sort_by(|(_, a), (_, b)| (&a.topic, &a.group).cmp(&(&b.topic, &b.group)));
        Ok(living)
    }

    async fn group_infos(&self, topic: Option<&Topic>) -> Result<Vec<GroupInfo>> {
        let mut infos = Vec::new();
        for (name, settings) in self.living(topic).await? {
            let found = match self.locate(name, settings).await {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            infos.push(self.info(&found).await?);
        }
        Ok(infos)
    }

    async fn info(&self, found: &Found) -> Result<GroupInfo> {
        let settings = &found.settings;
        let mut info = GroupInfo::new(settings.topic.clone(), settings.group.clone());
        info.patterns = settings.patterns()?;
        info.attempts_max = settings.attempts_max;
        info.members = groups::members(&self.core, &found.name).await?;
        let mut floor = Vec::new();
        for (partition, ledger) in &found.ledgers {
            let (first, end) = topics::extent(&self.core, &found.about.name, *partition).await?;
            let base = ledger.base().max(first);
            let seen = ledger.settled_behind() + ledger.delivered();
            info.lag += end.saturating_sub(base).saturating_sub(seen);
            info.in_flight += ledger.delivered();
            floor.push((found.about.shards.shard(*partition), base));
        }
        info.floor = Offset::of(floor).ok();
        Ok(info)
    }

    /// A group, where it is; `NotFound` names what is missing.
    async fn find(&self, topic: &Topic, group: &GroupName) -> Result<Found> {
        topics::look(&self.core, topic).await?;
        let name = names::group(topic, group);
        let found = self.living(Some(topic)).await?.into_iter().find(|(found, _)| *found == name);
        let (name, settings) = found.ok_or_else(|| groups::missing(topic, group))?;
        self.locate(name, settings).await
    }

    async fn locate(&self, name: String, settings: Settings) -> Result<Found> {
        let about = self.core.look(&settings.topic).await?;
        let places = groups::committed(&self.core, &name, &about.name, about.partitions).await?;
        let mut ledgers = Vec::new();
        for committed in places {
            let partition = committed.partition;
            let ledger = match committed.place {
                Some(place) => Ledger::restore(place, &committed.text),
                None => Ledger::new(topics::extent(&self.core, &about.name, partition).await?.0),
            };
            ledgers.push((partition, ledger));
        }
        Ok(Found { name, settings, about, ledgers })
    }

    async fn peek_at(
        &self,
        topic: &Topic,
        group: &GroupName,
        from: Option<&Offset>,
        limit: usize,
    ) -> Result<Vec<Peeked>> {
        let found = self.find(topic, group).await?;
        let mut start = Vec::new();
        for (partition, ledger) in &found.ledgers {
            let (first, end) = topics::extent(&self.core, &found.about.name, *partition).await?;
            let place = ledger.base().clamp(first, end.max(first));
            start.push((found.about.shards.shard(*partition), place));
        }
        let start = match from {
            Some(from) => from.clone(),
            None => Offset::of(start)?,
        };
        let patterns = found.settings.patterns()?;
        let mut reader = self.reader(topic, Position::Offset(start), patterns).await?;
        let mut peeked = Vec::new();
        loop {
            let chunk = reader.next().await?;
            if chunk.is_empty() {
                return Ok(peeked);
            }
            for record in chunk {
                if peeked.len() >= limit {
                    return Ok(peeked);
                }
                if let Some(attempts) = found.attempts(&record.offset)
                    && busline_core::dead::is_for_group(&record.message, group.as_str())
                {
                    peeked.push(Peeked { record, attempts });
                }
            }
        }
    }

    async fn reader(
        &self,
        topic: &Topic,
        from: Position,
        patterns: Patterns,
    ) -> Result<read::KafkaReader> {
        read::open(&self.core, Read { patterns, ..Read::new(topic.clone(), from) }).await
    }

    /// Retries that wait are passed over too.
    async fn move_to(&self, found: &Found, to: &Position) -> Result<()> {
        let places = groups::resolve(&self.core, &found.about, to).await?;
        if groups::members(&self.core, &found.name).await? > 0 {
            let why = format!("the group '{}' has members", found.settings.group);
            return Err(Error::new(ErrorKind::Conflict, why)
                .hint("Kafka moves a group only while it has none: stop them first"));
        }
        let mut topics = vec![(found.about.name.as_str(), places)];
        let retry = names::retry(&found.settings.topic, &found.settings.group)?;
        if let Some(retry) = &retry
            && topics::partitions(&self.core, retry).await?.is_some()
        {
            let (_, end) = topics::extent(&self.core, retry, 0).await?;
            topics.push((retry, vec![(0, end)]));
        }
        groups::commit(&self.core, &found.name, &topics).await
    }

    async fn remove(&self, name: &str, settings: &Settings) -> Result<()> {
        directory::write(&self.core, name, None).await?;
        // Its members hear of it and leave.
        for _ in 0..LEAVES_MAX {
            if groups::members(&self.core, name).await? == 0 {
                break;
            }
            self.core.clock.sleep(LEAVE_PAUSE).await;
        }
        groups::forget(&self.core, name).await?;
        match names::retry(&settings.topic, &settings.group)? {
            Some(retry) if topics::partitions(&self.core, &retry).await?.is_some() => {
                topics::delete(&self.core, &retry).await
            }
            _ => Ok(()),
        }
    }
}

/// A member that was killed is one until its session is over; then the broker says so.
const LEAVES_MAX: u32 = 200;
const LEAVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

impl Found {
    /// How often a record was delivered; `None` when it is settled.
    fn attempts(&self, offset: &Offset) -> Option<u32> {
        self.ledgers.iter().find_map(|(partition, ledger)| {
            let place = offset.number(self.about.shards.shard(*partition))?;
            match ledger.known(place) {
                Known::Settled => None,
                Known::Delivered(count) => Some(count),
            }
        })
    }

    fn is_empty(&self, info: &GroupInfo) -> bool {
        info.lag == 0 && info.in_flight == 0
    }
}

impl Admin for KafkaAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        Box::pin(self.topic_infos())
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        Box::pin(self.group_infos(topic))
    }

    fn peek<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        from: Option<&'a Offset>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>> {
        Box::pin(self.peek_at(topic, group, from, limit))
    }

    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        to: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let found = self.find(topic, group).await?;
            self.move_to(&found, to).await
        })
    }

    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let found = self.find(topic, group).await?;
            let unsettled = self.peek_at(topic, group, None, usize::MAX).await?.len() as u64;
            self.move_to(&found, &Position::Latest).await?;
            Ok(unsettled)
        })
    }

    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let found = self.find(topic, group).await?;
            let info = self.info(&found).await?;
            let conflict = |why: String| Err(Error::new(ErrorKind::Conflict, why));
            if condition.unused && info.members > 0 {
                return conflict(format!("the group '{group}' has {} members", info.members));
            }
            if condition.empty && !found.is_empty(&info) {
                return conflict(format!("the group '{group}' has unsettled messages"));
            }
            self.remove(&found.name, &found.settings).await
        })
    }

    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let about = self.core.look(topic).await?;
            let conflict = |why: String| Err(Error::new(ErrorKind::Conflict, why));
            let of_topic = self.living(Some(topic)).await?;
            for (name, settings) in &of_topic {
                let found = self.locate(name.clone(), settings.clone()).await?;
                let info = self.info(&found).await?;
                if condition.unused && info.members > 0 {
                    return conflict(format!("the group '{}' has members", settings.group));
                }
                if condition.empty && !found.is_empty(&info) {
                    return conflict(format!(
                        "the group '{}' has unsettled messages",
                        settings.group
                    ));
                }
            }
            for (name, settings) in &of_topic {
                self.remove(name, settings).await?;
            }
            self.core.forget_topic(topic);
            topics::delete(&self.core, &about.name).await
        })
    }
}
