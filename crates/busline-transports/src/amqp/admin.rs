//! The operator's view. Lists come from the management API; everything else is done by AMQP.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Admin, DeleteIf, Dialect, GroupInfo, Peeked, TopicInfo};
use busline_core::{
    Capability, Error, ErrorKind, GroupName, KeyPattern, Offset, Patterns, Position, Record,
    Result, Topic,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt};
use lapin::Channel;
use lapin::options::{
    BasicGetOptions, BasicNackOptions, ExchangeDeleteOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::ShortString;

use super::declare;
use super::error::error;
use super::management::{self, Binding, Exchange, Queue};
use super::mapping::{self, Came};
use super::names;
use super::session::Core;
use super::stream;

/// The operator's view of a virtual host.
pub(super) struct AmqpAdmin {
    core: Arc<Core>,
}

/// What was looked at is back at once; a broker whose disk is busy gets ten seconds.
const GIVEN_BACK_LOOKS_MAX: u32 = 500;
const GIVEN_BACK_PAUSE: Duration = Duration::from_millis(20);

/// Topics that are looked at together.
const AT_ONCE: usize = 16;

/// What there is in the virtual host.
struct Everything {
    /// Without the exchange that has no name.
    topics: Vec<Topic>,
    groups: BTreeMap<Topic, Vec<Found>>,
    /// Queues that held messages some seconds ago.
    filled: HashSet<String>,
    /// Queues that are logs of ours.
    logs: HashSet<String>,
}

/// A group that was found, with its queue.
struct Found {
    group: GroupName,
    queue: Queue,
    patterns: Vec<String>,
    keeps_rejected: Option<bool>,
}

impl AmqpAdmin {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn found(&self) -> Result<Everything> {
        let config = &self.core.config;
        let exchanges: Vec<Exchange> = management::list(config, "exchanges").await?;
        let queues: Vec<Queue> = management::list(config, "queues").await?;
        let bindings: Vec<Binding> = management::list(config, "bindings").await?;
        let is_ours = |exchange: &Exchange| {
            exchange.kind == "topic"
                && !exchange.name.is_empty()
                && !exchange.name.starts_with("amq.")
        };
        let mut topics = Vec::new();
        for exchange in exchanges.into_iter().filter(is_ours) {
            topics.extend(Topic::new(exchange.name).ok());
        }
        topics.sort();
        let mut groups: BTreeMap<Topic, Vec<Found>> = BTreeMap::new();
        // The default one needs no binding.
        let leads_on: HashSet<String> =
            bindings.iter().map(|binding| binding.source.clone()).chain([String::new()]).collect();
        for binding in bindings.into_iter().filter(|b| b.destination_type == "queue") {
            let Some(topic) = topics.iter().find(|topic| topic.as_str() == binding.source) else {
                continue;
            };
            let Some(queue) = queues.iter().find(|queue| queue.name == binding.destination) else {
                continue;
            };
            let Some(group) = group_name(self.core.dialect, &queue.name, topic) else { continue };
            let of_topic = groups.entry(topic.clone()).or_default();
            match of_topic.iter_mut().find(|found| found.group == group) {
                Some(found) => found.patterns.push(binding.routing_key),
                None => of_topic.push(Found {
                    group,
                    keeps_rejected: self.is_policed(queue, &queues).then(|| {
                        queue.dead_letter_exchange().is_some_and(|name| leads_on.contains(name))
                    }),
                    queue: queue.clone(),
                    patterns: vec![binding.routing_key],
                }),
            }
        }
        groups.values_mut().for_each(|of_topic| of_topic.sort_by(|a, b| a.group.cmp(&b.group)));
        let logs = queues
            .iter()
            .filter(|queue| self.core.dialect == Dialect::Busline && queue.is_stream());
        let logs = logs.map(|queue| queue.name.clone()).collect();
        let filled = queues.into_iter().filter(|queue| queue.messages_ready > 0);
        let filled = filled.map(|queue| queue.name).collect();
        Ok(Everything { topics, groups, filled, logs })
    }

    /// Whether policies decide what becomes of what is rejected there, as the convention of Python services has it:
    /// it is of one of their kinds, and was not declared in our own dialect.
    fn is_policed(&self, queue: &Queue, all: &[Queue]) -> bool {
        let is_theirs = [".events", ".commands"].iter().any(|end| queue.name.ends_with(end));
        let settings = format!("{}%group", queue.name);
        is_theirs && all.iter().all(|other| other.name != settings)
    }

    /// All queues as groups of the exchange that each of them is bound to.
    async fn queues(&self, default: &Topic) -> Result<BTreeMap<Topic, Vec<Found>>> {
        let queues: Vec<Queue> = management::list(&self.core.config, "queues").await?;
        let found = |queue: Queue| {
            let group = GroupName::new(queue.name.clone()).ok()?;
            Some(Found { group, queue, patterns: Vec::new(), keeps_rejected: None })
        };
        Ok(BTreeMap::from([(default.clone(), queues.into_iter().filter_map(found).collect())]))
    }

    /// Ready messages and members; a look renews the lease of a queue that expires, so none there.
    async fn counts(&self, queue: &Queue) -> Result<(u64, u64)> {
        let late = (queue.messages_ready, queue.consumers);
        // One that is another connection's alone cannot be looked at either.
        if queue.arguments.contains_key("x-expires") || names::is_broadcast(&queue.name) {
            return Ok(late);
        }
        let found = declare::count(&self.core, &names::short(&queue.name)?).await?;
        Ok(found
            .map_or(late, |found| (found.message_count().into(), found.consumer_count().into())))
    }

    async fn topic_info(
        &self,
        topic: &Topic,
        groups: &[Found],
        filled: &HashSet<String>,
        logs: &HashSet<String>,
    ) -> Result<TopicInfo> {
        let mut info = TopicInfo::new(topic.clone());
        info.groups = groups.len() as u64;
        for found in groups {
            info.messages = info.messages.max(self.counts(&found.queue).await?.0);
            info.bytes = info.bytes.max(found.queue.message_bytes);
        }
        // That figure comes late; no message takes less than a byte.
        info.bytes = info.bytes.max(info.messages);
        let log = names::short(&format!("{topic}.log"));
        if let Some(log) = log.ok().filter(|log| logs.contains(log.as_str())) {
            // That a log is empty takes a moment to see; most are known not to be.
            let is_filled = filled.contains(log.as_str()) || self.core.has_seen_log(&log);
            let extent = match is_filled {
                true => stream::extent(&self.core, &log).await?,
                false => stream::Extent { first: 0, end: 0 },
            };
            let shard = stream::shard(topic);
            info.messages = extent.end - extent.first;
            info.earliest = Some(Offset::new(shard, extent.first));
            info.end = Some(Offset::new(shard, extent.end));
        }
        Ok(info)
    }

    async fn group_info(&self, topic: &Topic, found: &Found) -> Result<GroupInfo> {
        let mut info = GroupInfo::new(topic.clone(), found.group.clone());
        let patterns = found.patterns.iter().filter_map(|key| KeyPattern::new(key.clone()).ok());
        info.patterns = Patterns::new(patterns);
        (info.lag, info.members) = self.counts(&found.queue).await?;
        // That figure comes late. Where nobody is, nobody holds anything.
        info.in_flight = if info.members == 0 { 0 } else { found.queue.messages_unacknowledged };
        info.broadcast = names::is_broadcast(&found.queue.name);
        info.keeps_rejected = found.keeps_rejected;
        let queue = names::short(&found.queue.name)?;
        if !info.broadcast {
            let settings = declare::settings_of(&self.core, &queue).await?;
            info.attempts_max = settings.and_then(|settings| settings.attempts_max);
        }
        Ok(info)
    }

    /// Up to so many messages, which come back when the channel is closed.
    async fn look_into(
        &self,
        topic: &Topic,
        queue: ShortString,
        max: usize,
    ) -> Result<Vec<Peeked>> {
        let channel = self.core.channel().await?;
        let has_members = self.counted(&channel, &queue).await?.consumer_count() > 0;
        let mut peeked = Vec::new();
        let mut last = None;
        let mut left_behind = 0;
        while peeked.len() < max {
            let got = channel.basic_get(queue.clone(), BasicGetOptions::default()).await;
            let Some(got) = got.map_err(error)? else { break };
            left_behind = got.message_count;
            let delivery = got.delivery;
            // Of any queue it is worth knowing where its messages were published.
            let from =
                names::is_default(topic).then(|| Topic::new(delivery.exchange.as_str()).ok());
            let from = from.flatten().unwrap_or_else(|| topic.clone());
            last = Some(delivery.delivery_tag);
            let came = Came {
                key: delivery.routing_key,
                properties: delivery.properties,
                payload: delivery.data.into(),
                redelivered: delivery.redelivered,
            };
            let record = Record {
                message: mapping::decode(self.core.dialect, &from, &came),
                offset: Offset::new(0, peeked.len() as u64),
                time: mapping::sent_at(&came).unwrap_or_default(),
            };
            peeked.push(Peeked { record, attempts: mapping::delivered_before(&came).count });
        }
        if let Some(last) = last {
            // Members take what comes back, and then the count says nothing.
            let all = if has_members { 0 } else { peeked.len() + left_behind as usize };
            self.give_back(&channel, &queue, last, all).await?;
        }
        channel.close(200, "looked".into()).await.map_err(error)?;
        Ok(peeked)
    }

    /// Puts what was looked at back, and waits until `count` are there again: who looks next would miss it.
    async fn give_back(
        &self,
        channel: &Channel,
        queue: &ShortString,
        last: u64,
        count: usize,
    ) -> Result<()> {
        let all = BasicNackOptions { multiple: true, requeue: true };
        channel.basic_nack(last, all).await.map_err(error)?;
        for _ in 0..GIVEN_BACK_LOOKS_MAX {
            // Each message that is looked at in a quorum queue is a consumer of its own there, until it is back.
            if self.counted(channel, queue).await?.message_count() as usize >= count {
                break;
            }
            self.core.clock.sleep(GIVEN_BACK_PAUSE).await;
        }
        Ok(())
    }

    async fn counted(&self, channel: &Channel, queue: &ShortString) -> Result<lapin::Queue> {
        let counted = declare::count_on(channel, self.core.clock.as_ref(), queue).await;
        counted.map_err(error)?.ok_or_else(|| declare::uncounted(queue))
    }

    async fn delete_queue(&self, queue: &ShortString, condition: DeleteIf) -> Result<()> {
        if let Some(found) = declare::count(&self.core, queue).await? {
            // What members hold is not counted anywhere that is up to date: they may hold something.
            let in_use = (condition.unused || condition.empty) && found.consumer_count() > 0;
            if in_use || condition.empty && found.message_count() > 0 {
                let why = if in_use { "it has members" } else { "it has unsettled messages" };
                return Err(Error::new(ErrorKind::Conflict, why).context("queue", queue));
            }
        }
        let gone = Error::new(ErrorKind::NotFound, format!("the queue '{queue}' was deleted"));
        let settings = (self.core.dialect == Dialect::Busline).then(|| names::settings(queue));
        for name in std::iter::once(Ok(queue.clone())).chain(settings) {
            let name = name?;
            let delete = |channel: Channel| {
                let name = name.clone();
                async move { channel.queue_delete(name, QueueDeleteOptions::default()).await }
            };
            self.core.control(delete).await?;
        }
        self.core.end_consuming(queue, &gone);
        Ok(())
    }

    async fn delete_whole_topic(&self, topic: &Topic, condition: DeleteIf) -> Result<()> {
        if names::is_default(topic) {
            return Err(Error::refused("topic delete", "amqp", "this exchange is always there"));
        }
        self.core.forget_topic(topic);
        declare::check_topic(&self.core, topic).await?;
        let Everything { mut groups, logs, .. } = self.found().await?;
        let groups = groups.remove(topic).unwrap_or_default();
        for found in &groups {
            let (ready, members) = self.counts(&found.queue).await?;
            if condition.unused && members > 0 || condition.empty && ready > 0 {
                let why = format!("the group '{}' is in use", found.group);
                return Err(Error::new(ErrorKind::Conflict, why).context("topic", topic));
            }
        }
        // Nothing comes in any more, then nothing is left.
        let exchange = names::exchange(topic)?;
        self.core
            .control(|channel: Channel| {
                let exchange = exchange.clone();
                async move { channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await }
            })
            .await?;
        self.core.forget_topic(topic);
        for found in &groups {
            self.delete_queue(&names::short(&found.queue.name)?, DeleteIf::default()).await?;
        }
        let log = format!("{topic}.log");
        if logs.contains(&log) {
            self.delete_queue(&names::short(&log)?, DeleteIf::default()).await?;
        }
        Ok(())
    }
}

fn group_name(dialect: Dialect, queue: &str, topic: &Topic) -> Option<GroupName> {
    if names::is_broadcast(queue) {
        return GroupName::new(queue.to_owned()).ok();
    }
    names::group_of(dialect, queue, topic.as_str())
}

impl Admin for AmqpAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        Box::pin(async move {
            let Everything { topics, groups, filled, logs } = self.found().await?;
            let (filled, logs) = (&filled, &logs);
            // An empty log takes a moment to be known as one: so look at several at once.
            let looking = topics.into_iter().map(|topic| {
                let of_topic = groups.get(&topic).map(Vec::as_slice).unwrap_or_default();
                async move { self.topic_info(&topic, of_topic, filled, logs).await }
            });
            let looking: Vec<_> = looking.collect();
            futures_util::stream::iter(looking).buffered(AT_ONCE).try_collect().await
        })
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        Box::pin(async move {
            if let Some(topic) = topic {
                self.core.forget_topic(topic);
                declare::check_topic(&self.core, topic).await?;
            }
            let groups = match topic {
                Some(topic) if names::is_default(topic) => self.queues(topic).await?,
                _ => self.found().await?.groups,
            };
            let mut infos = Vec::new();
            for (of, found) in &groups {
                if topic.is_some_and(|topic| topic != of) {
                    continue;
                }
                for found in found {
                    infos.push(self.group_info(of, found).await?);
                }
            }
            Ok(infos)
        })
    }

    /// By AMQP alone, but for what its members hold.
    fn group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
    ) -> BoxFuture<'a, Result<GroupInfo>> {
        Box::pin(async move {
            let queue = declare::queue_of(&self.core, topic, group).await?;
            let mut info = GroupInfo::new(topic.clone(), group.clone());
            if let Some(found) = declare::count(&self.core, &queue).await? {
                (info.lag, info.members) =
                    (found.message_count().into(), found.consumer_count().into());
            }
            if info.members > 0
                && let Ok(queues) = management::list::<Queue>(&self.core.config, "queues").await
            {
                let found = queues.into_iter().find(|found| found.name == queue.as_str());
                info.in_flight = found.map_or(0, |found| found.messages_unacknowledged);
            }
            let settings = declare::settings_of(&self.core, &queue).await?;
            info.attempts_max = settings.and_then(|settings| settings.attempts_max);
            Ok(info)
        })
    }

    fn peek<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        from: Option<&'a Offset>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>> {
        Box::pin(async move {
            let queue = declare::queue_of(&self.core, topic, group).await?;
            // Places in a queue have no names: what is given out as one is the distance from its head.
            let skip = from.and_then(|from| from.number(0)).unwrap_or(0);
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let mut peeked = self.look_into(topic, queue, skip.saturating_add(limit)).await?;
            Ok(peeked.split_off(skip.min(peeked.len())))
        })
    }

    fn reset_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        _to: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            declare::queue_of(&self.core, topic, group).await?;
            let way_out = "purge it to start from now, or read the log from anywhere";
            Err(Error::refused(Capability::Reset.as_str(), "amqp", way_out))
        })
    }

    fn purge<'a>(&'a self, topic: &'a Topic, group: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let queue = declare::queue_of(&self.core, topic, group).await?;
            let purge = |channel: Channel| {
                let queue = queue.clone();
                async move { channel.queue_purge(queue, QueuePurgeOptions::default()).await }
            };
            Ok(self.core.control(purge).await?.into())
        })
    }

    fn delete_group<'a>(
        &'a self,
        topic: &'a Topic,
        group: &'a GroupName,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let queue = declare::queue_of(&self.core, topic, group).await?;
            let deleted = self.delete_queue(&queue, condition).await;
            deleted.map_err(|error| error.context("group", group))
        })
    }

    fn delete_topic<'a>(
        &'a self,
        topic: &'a Topic,
        condition: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.delete_whole_topic(topic, condition))
    }
}
