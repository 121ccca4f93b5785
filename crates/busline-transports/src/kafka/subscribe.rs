//! Opening a subscription: as a member of a group, or alone.

use std::sync::Arc;
use std::time::Duration;

use busline_core::delivery::{SettleQueue, Settler};
use busline_core::transport::{Dialect, Membership, Subscribe, Subscription};
use busline_core::{
    Attempt, Capability, Delivery, Error, ErrorKind, GroupName, Patterns, Position, Result,
};
use futures_util::future::BoxFuture;
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::client::{Context, blocking, configure};
use super::consume::{Plan, PlanOfGroup, Worker};
use super::consuming::{Consuming, Job};
use super::directory;
use super::error::error;
use super::groups;
use super::hands::Held;
use super::ledger::Ledger;
use super::mapping;
use super::member::{Member, Told};
use super::part::Part;
use super::route;
use super::session::Core;
use super::topics::About;

#[derive(Debug)]
pub(super) struct KafkaSubscription {
    consuming: Arc<Consuming>,
    dialect: Dialect,
    stopped: bool,
}

pub(super) async fn open(core: &Arc<Core>, subscribe: Subscribe) -> Result<KafkaSubscription> {
    core.ended.check()?;
    check(&subscribe)?;
    let promised = core.capabilities();
    match &subscribe.membership {
        Membership::Group(group) => {
            promised.require(Capability::Group)?;
            join(core, &subscribe, group).await
        }
        Membership::Broadcast(patterns) => {
            promised.require(Capability::Broadcast)?;
            listen(core, &subscribe, patterns.clone()).await
        }
    }
}

fn check(subscribe: &Subscribe) -> Result<()> {
    let limit = |why: String| Error::new(ErrorKind::Limit, why).context("topic", &subscribe.topic);
    if subscribe.max_in_flight == 0 || subscribe.max_in_flight_bytes == 0 {
        return Err(limit("max_in_flight is 0: nothing could be delivered".to_owned()));
    }
    match subscribe.options.keys().find(|name| name.starts_with("kafka.")) {
        Some(name) => Err(limit(format!("kafka: has no option '{name}'"))),
        None => Ok(()),
    }
}

async fn join(
    core: &Arc<Core>,
    subscribe: &Subscribe,
    group: &GroupName,
) -> Result<KafkaSubscription> {
    let about = core.look(&subscribe.topic).await?;
    let (name, retry) = groups::names_of(&subscribe.topic, group)?;
    let all = directory::groups(core).await?;
    let settings = all.get(&name).filter(|settings| !settings.is_over(core.clock.now()));
    let settings = settings.ok_or_else(|| groups::missing(&subscribe.topic, group))?.clone();
    let Some(mut directory) = directory::follow(core).await? else {
        return Err(groups::missing(&subscribe.topic, group));
    };
    directory.mark_unchanged();
    let patterns = settings.patterns()?;
    let mut client = client(core, subscribe, &name)?;
    let ms = |wait: Duration| wait.as_millis().to_string();
    client
        .set("session.timeout.ms", ms(core.config.session_timeout))
        .set("heartbeat.interval.ms", ms(core.config.heartbeat))
        .set("partition.assignment.strategy", "cooperative-sticky");
    let (told, events) = Told::new(Context(Arc::clone(&core.faults)));
    let consumer: StreamConsumer<Told> = client.create_with_context(told).map_err(error)?;
    let consumer = know(core, consumer, [Some(about.name.clone()), retry.clone()]).await?;
    consumer.subscribe(&[&about.name]).map_err(error)?;
    let group_plan = PlanOfGroup { name, settings, retry, directory };
    let plan = plan(subscribe, &about, Some(group_plan), patterns);
    let (topic, shards) = (subscribe.topic.clone(), about.shards);
    let (consuming, jobs) = Consuming::new(topic, Some(group.clone()), shards);
    core.remember(&consuming);
    let worker =
        Worker::new(core, &consuming, Member::new(consumer, core.members.subscribe()), plan);
    tokio::spawn(worker.run(jobs, events));
    Ok(KafkaSubscription { consuming, dialect: core.dialect, stopped: false })
}

/// Lets a client look at topics that it is to fetch: left alone, it takes a second before it does.
pub(super) async fn know<C: ConsumerContext + 'static>(
    core: &Arc<Core>,
    consumer: StreamConsumer<C>,
    topics: [Option<String>; 2],
) -> Result<StreamConsumer<C>> {
    let longest = core.config.connect_timeout;
    let looking = blocking(move || {
        for topic in topics.iter().flatten() {
            consumer.fetch_metadata(Some(topic), longest).map_err(error)?;
        }
        Ok(consumer)
    });
    core.unless_ended(looking).await
}

async fn listen(
    core: &Arc<Core>,
    subscribe: &Subscribe,
    patterns: Patterns,
) -> Result<KafkaSubscription> {
    let about = core.look(&subscribe.topic).await?;
    let places = groups::resolve(core, &about, &Position::Latest).await?;
    let (told, events) = Told::new(Context(Arc::clone(&core.faults)));
    let client = client(core, subscribe, "busline")?;
    let consumer: StreamConsumer<Told> = client.create_with_context(told).map_err(error)?;
    let consumer = know(core, consumer, [Some(about.name.clone()), None]).await?;
    let mut list = TopicPartitionList::new();
    for (partition, place) in &places {
        let place = Offset::Offset(i64::try_from(*place).unwrap_or(i64::MAX));
        list.add_partition_offset(&about.name, *partition, place).map_err(error)?;
    }
    consumer.assign(&list).map_err(error)?;
    let (topic, shards) = (subscribe.topic.clone(), about.shards);
    let (consuming, jobs) = Consuming::new(topic, None, shards);
    core.remember(&consuming);
    let plan = plan(subscribe, &about, None, patterns);
    let mut worker =
        Worker::new(core, &consuming, Member::new(consumer, core.members.subscribe()), plan);
    for (partition, place) in places {
        let queue = worker.member.consumer().split_partition_queue(&about.name, partition);
        worker.next_share += 1;
        let (number, ledger) = (worker.next_share, Ledger::new(place));
        worker.parts.push(Part::new(number, &about.name, partition, false, ledger, queue));
    }
    tokio::spawn(worker.run(jobs, events));
    Ok(KafkaSubscription { consuming, dialect: core.dialect, stopped: false })
}

fn plan(
    subscribe: &Subscribe,
    about: &Arc<About>,
    group: Option<PlanOfGroup>,
    patterns: Patterns,
) -> Plan {
    Plan {
        about: Arc::clone(about),
        group,
        patterns,
        count_max: usize::try_from(subscribe.max_in_flight).unwrap_or(usize::MAX),
        bytes_max: subscribe.max_in_flight_bytes,
    }
}

/// A consumer that commits nothing by itself, and fetches about as much ahead as may be in flight.
fn client(core: &Core, subscribe: &Subscribe, group: &str) -> Result<ClientConfig> {
    let kib = (subscribe.max_in_flight_bytes / 1024).clamp(1024, 64 << 10);
    let count = subscribe.max_in_flight.saturating_mul(4).clamp(1000, 100_000);
    let mut client = configure(&core.config, &core.name)?;
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", count.to_string())
        .set("queued.max.messages.kbytes", kib.to_string());
    Ok(client)
}

impl KafkaSubscription {
    async fn next_chunk(&mut self) -> Result<Option<Vec<Delivery>>> {
        loop {
            if self.stopped {
                return Ok(None);
            }
            self.consuming.ended.check()?;
            let ready = self.consuming.hands().hand_out();
            if !ready.is_empty() {
                let deliveries = ready.into_iter().map(|(tag, held)| self.delivery(tag, &held));
                return Ok(Some(deliveries.collect()));
            }
            tokio::select! {
                () = self.consuming.bell.notified() => {}
                why = self.consuming.ended.wait() => return Err(why),
            }
        }
    }

    fn delivery(&self, tag: u64, held: &Held) -> Delivery {
        let message = mapping::decode(self.dialect, &self.consuming.topic, &held.came);
        let attempt = Attempt::exact(held.before.saturating_add(1));
        let queue: Arc<dyn SettleQueue> = Arc::clone(&self.consuming) as Arc<dyn SettleQueue>;
        let mut delivery = Delivery::new(message, attempt, Settler { queue, tag });
        delivery.group.clone_from(&self.consuming.group);
        delivery.offset = Some(route::origin(self.consuming.shards, held));
        delivery.time = Some(held.came.time);
        delivery
    }
}

impl Subscription for KafkaSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>> {
        Box::pin(self.next_chunk())
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.stopped = true;
            if self.consuming.ended.get().is_some() {
                return Ok(());
            }
            let (done, stopped) = oneshot::channel();
            self.consuming.job(Job::Stop(Some(done)));
            // Without an answer everything has ended, and was given back so.
            drop(stopped.await);
            Ok(())
        })
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        self.consuming.job(Job::Stop(None));
    }
}
