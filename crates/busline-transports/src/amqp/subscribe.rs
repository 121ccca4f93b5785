//! Subscribing: as a member of a group, or alone on a queue that goes with its connection.

use std::sync::Arc;

use busline_core::delivery::{SettleQueue, Settler};
use busline_core::transport::{Dialect, Membership, Subscribe, Subscription};
use busline_core::{Attempt, Delivery, Error, ErrorKind, Patterns, Result, Topic};
use futures_util::future::BoxFuture;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::oneshot;

use super::consume::{Worker, opened};
use super::consuming::{About, Consuming, Job};
use super::declare;
use super::held::Held;
use super::mapping;
use super::names;
use super::session::Core;

/// A subscription that fetches ahead, as far as its bounds allow.
#[derive(Debug)]
pub(super) struct AmqpSubscription {
    dialect: Dialect,
    consuming: Arc<Consuming>,
    count_max: usize,
    bytes_max: u64,
    stopped: bool,
}

pub(super) async fn open(core: &Arc<Core>, spec: Subscribe) -> Result<AmqpSubscription> {
    core.ended.check()?;
    if spec.max_in_flight == 0 || spec.max_in_flight_bytes == 0 {
        let why = "max_in_flight is 0: nothing would ever come";
        return Err(Error::new(ErrorKind::Limit, why).context("topic", &spec.topic));
    }
    let about = match &spec.membership {
        Membership::Group(group) => {
            let queue = declare::queue_of(core, &spec.topic, group).await?;
            let settings = declare::settings_of(core, &queue).await?;
            let is = |of: fn(&super::settings::Settings) -> bool| settings.as_ref().is_some_and(of);
            About {
                topic: spec.topic.clone(),
                group: Some(group.clone()),
                attempts_max: settings.as_ref().and_then(|settings| settings.attempts_max),
                counts: is(|settings| settings.quorum),
                blocking: is(|settings| settings.blocking),
                queue,
            }
        }
        Membership::Broadcast(patterns) => broadcast(core, &spec.topic, patterns).await?,
    };
    let channel = core.channel().await?;
    // One that holds later ones back must see beyond them.
    let ahead =
        if about.blocking { spec.max_in_flight.saturating_mul(4) } else { spec.max_in_flight };
    let prefetch = u16::try_from(ahead).unwrap_or(u16::MAX);
    opened(channel.basic_qos(prefetch, BasicQosOptions::default()).await)?;
    let consume = channel.basic_consume(
        about.queue.clone(),
        ShortString::default(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let consumer = opened(consume.await).map_err(|error| core.why(error))?;
    let (consuming, jobs) = Consuming::new(about);
    Worker::start(core, &consuming, channel, consumer, jobs, prefetch);
    core.remember(&consuming);
    Ok(AmqpSubscription {
        dialect: core.dialect,
        consuming,
        count_max: usize::try_from(spec.max_in_flight).unwrap_or(usize::MAX),
        bytes_max: spec.max_in_flight_bytes,
        stopped: false,
    })
}

async fn broadcast(core: &Core, topic: &Topic, patterns: &Patterns) -> Result<About> {
    declare::check_topic(core, topic).await?;
    let own = core.dialect == Dialect::Busline;
    let name = match own {
        true => format!("{}{}", names::BROADCAST, uuid::Uuid::now_v7().simple()),
        // The broker chooses.
        false => String::new(),
    };
    let name = names::short(&name)?;
    // It goes with its connection. Theirs is declared with nothing else, so it is deleted when it is left.
    let exclusive = QueueDeclareOptions { auto_delete: own, ..QueueDeclareOptions::exclusive() };
    let declared = core.control(|channel: lapin::Channel| {
        let name = name.clone();
        async move { channel.queue_declare(name, exclusive, FieldTable::default()).await }
    });
    let queue = declared.await?.name().clone();
    declare::bind(core, &queue, topic, patterns).await?;
    let attempts_max = own.then_some(busline_core::transport::ATTEMPTS_MAX_DEFAULT);
    let (topic, group) = (topic.clone(), None);
    Ok(About { topic, group, queue, attempts_max, counts: false, blocking: false })
}

impl AmqpSubscription {
    async fn next_chunk(&mut self) -> Result<Option<Vec<Delivery>>> {
        loop {
            if self.stopped {
                return Ok(None);
            }
            let mut chunk = Vec::new();
            {
                let mut hands = self.consuming.hands();
                while let Some((tag, held)) = hands.hand_out(self.count_max, self.bytes_max) {
                    chunk.push((tag, held));
                }
            }
            if !chunk.is_empty() {
                let deliveries = chunk.into_iter().map(|(tag, held)| self.delivery(tag, &held));
                return Ok(Some(deliveries.collect()));
            }
            self.consuming.ended.check()?;
            tokio::select! {
                () = self.consuming.bell.notified() => {}
                why = self.consuming.ended.wait() => return Err(why),
            }
        }
    }

    fn delivery(&self, tag: u64, held: &Held) -> Delivery {
        let about = &self.consuming.about;
        let message = mapping::decode(self.dialect, &about.topic, &held.came);
        let number = held.before.count.saturating_add(1);
        let attempt = Attempt { number, exact: held.before.exact };
        let queue: Arc<dyn SettleQueue> = Arc::clone(&self.consuming) as Arc<dyn SettleQueue>;
        let mut delivery = Delivery::new(message, attempt, Settler { queue, tag });
        delivery.group.clone_from(&about.group);
        delivery
    }
}

impl Subscription for AmqpSubscription {
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

impl Drop for AmqpSubscription {
    fn drop(&mut self) {
        self.consuming.job(Job::Stop(None));
    }
}
