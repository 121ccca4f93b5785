//! The groups that there are, followed in the topic that keeps them.

use std::sync::Arc;

use busline_core::transport::TopicSpec;
use busline_core::{Error, ErrorKind, Result, Topic};
use bytes::Bytes;
use futures_util::future::Either;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{OnceCell, watch};

use super::client::{Context, configure};
use super::error::error;
use super::mapping::Wire;
use super::names::GROUPS;
use super::session::Core;
use super::settings::{Groups, Settings};
use super::topics::{self, Shards};

/// What was read so far; changes as it does.
#[derive(Debug, Default, Clone)]
pub(super) struct Read {
    /// The place behind the last record.
    place: u64,
    pub(super) groups: Arc<Groups>,
}

/// The groups that there are.
#[derive(Debug, Default)]
pub(super) struct Directory {
    read: OnceCell<watch::Receiver<Read>>,
}

/// The groups of this moment.
pub(super) async fn groups(core: &Arc<Core>) -> Result<Arc<Groups>> {
    let Some(mut read) = follow(core).await? else { return Ok(Arc::default()) };
    let (_, end) = topics::extent(core, GROUPS, 0).await?;
    let reached = async {
        let read = read.wait_for(|read| read.place >= end).await;
        read.map(|read| Arc::clone(&read.groups)).map_err(|_| broken())
    };
    let limit = core.clock.sleep(core.config.connect_timeout);
    core.unless_ended(async {
        match futures_util::future::select(Box::pin(reached), limit).await {
            Either::Left((groups, _)) => groups,
            Either::Right(_) => Err(broken()),
        }
    })
    .await
}

fn broken() -> Error {
    Error::new(ErrorKind::Elapsed, format!("the topic '{GROUPS}' cannot be read in time"))
}

/// The groups, as they change; `None` when nobody ever declared one.
pub(super) async fn follow(core: &Arc<Core>) -> Result<Option<watch::Receiver<Read>>> {
    if let Some(read) = core.directory.read.get() {
        return Ok(Some(read.clone()));
    }
    if topics::partitions(core, GROUPS).await?.is_none() {
        return Ok(None);
    }
    let read = core.directory.read.get_or_try_init(async || start(core)).await?;
    Ok(Some(read.clone()))
}

fn start(core: &Arc<Core>) -> Result<watch::Receiver<Read>> {
    let mut client = configure(&core.config, &core.name)?;
    client
        .set("group.id", "busline")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "500");
    let context = Context(Arc::clone(&core.faults));
    let consumer: StreamConsumer<Context> = client.create_with_context(context).map_err(error)?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(GROUPS, 0, Offset::Beginning).map_err(error)?;
    consumer.assign(&from).map_err(error)?;
    let (told, read) = watch::channel(Read::default());
    let ended = core.ended.clone();
    tokio::spawn(async move {
        let mut end = Box::pin(ended.wait());
        loop {
            let came = tokio::select! {
                biased;
                _ = &mut end => break,
                () = told.closed() => break,
                came = consumer.recv() => came,
            };
            match came {
                Ok(record) => {
                    let place = u64::try_from(record.offset()).unwrap_or(0) + 1;
                    let key = record.key().and_then(|key| std::str::from_utf8(key).ok());
                    let value = record.payload();
                    told.send_modify(|read| {
                        read.place = place;
                        if let Some(key) = key {
                            take_in(&mut read.groups, key, value);
                        }
                    });
                }
                Err(said) => tracing::debug!(%said, "the directory of groups waits"),
            }
        }
        super::client::drop_elsewhere(consumer);
    });
    Ok(read)
}

fn take_in(groups: &mut Arc<Groups>, key: &str, value: Option<&[u8]>) {
    let settings = value.filter(|value| !value.is_empty()).map(serde_json::from_slice::<Settings>);
    let groups = Arc::make_mut(groups);
    match settings {
        Some(Ok(settings)) => drop(groups.insert(key.to_owned(), settings)),
        None => drop(groups.remove(key)),
        Some(Err(why)) => tracing::warn!(key, %why, "these are no settings of a group"),
    }
}

/// Keeps the settings of a group, or forgets it; returns when that is stored and read again here.
pub(super) async fn write(
    core: &Arc<Core>,
    group: &str,
    settings: Option<&Settings>,
) -> Result<()> {
    if topics::partitions(core, GROUPS).await?.is_none() {
        let mut spec = TopicSpec::new(Topic::new(GROUPS)?);
        spec.options.insert("kafka.partitions".to_owned(), "1".to_owned());
        topics::create(core, &spec, &[("cleanup.policy", "compact")]).await?;
    }
    let json = settings
        .map(serde_json::to_vec)
        .transpose()
        .map_err(|cause| Error::new(ErrorKind::Other, "settings are no JSON").source(cause))?;
    let wire = Wire {
        topic: GROUPS.to_owned(),
        partition: Some(0),
        key: Some(Bytes::copy_from_slice(group.as_bytes())),
        payload: json.unwrap_or_default().into(),
        headers: None,
    };
    core.publish(wire, Shards::of(GROUPS, 0)).await?;
    groups(core).await.map(drop)
}
