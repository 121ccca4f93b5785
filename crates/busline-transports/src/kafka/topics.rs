//! Topics at the broker: what they are, and making and deleting them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Retention, TopicSpec};
use busline_core::{Error, ErrorKind, Offset, Result, Topic};
use rdkafka::admin::{
    AdminOptions, AlterConfig, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::client::blocking;
use super::error::{error, of_code};
use super::names;
use super::publish::{RECORD_BYTES_MAX, is_unknown};
use super::session::Core;

/// The setting that a life of a topic is recognised by: it means something to compacted topics only, and a topic
/// that is made again under the same name gets another.
const MARK: &str = "delete.retention.ms";

/// What Kafka sets there when nobody says anything.
const UNMARKED: u64 = 86_400_000;

/// How the places of a topic's partitions are named: other topics', and those of an earlier life of this one, are
/// recognised by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shards(u64);

/// The partitions that a shard has room for.
const PARTITIONS: u64 = 1 << 12;

impl Shards {
    /// By the name and the mark of a topic.
    pub(super) fn of(name: &str, mark: u64) -> Self {
        // FNV-1a.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        let mark = if mark == UNMARKED { 0 } else { mark };
        Self(mark.to_le_bytes().into_iter().fold(hash, step))
    }

    /// The shard of a partition.
    pub(super) fn shard(self, partition: i32) -> u64 {
        let partition = u64::try_from(partition).unwrap_or(0) % PARTITIONS;
        self.0 / PARTITIONS * PARTITIONS + partition
    }

    /// The place on each partition that an offset names; `Limit` when it is of another topic.
    pub(super) fn places(self, offset: &Offset, about: &About) -> Result<Vec<(i32, u64)>> {
        let place = |(shard, number): (u64, u64)| {
            let partition = i32::try_from(shard % PARTITIONS).ok()?;
            let fits = self.shard(partition) == shard && partition < about.partitions;
            fits.then_some((partition, number))
        };
        let places: Option<Vec<_>> = offset.pairs().map(place).collect();
        places.ok_or_else(|| {
            let topic = &about.topic;
            Error::new(
                ErrorKind::Limit,
                format!("{offset} is of another topic, or of an earlier one named '{topic}' that was deleted"),
            )
            .hint("start at earliest, or at a time")
        })
    }
}

/// What there is to know about a topic.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) topic: Topic,
    /// Its name at the broker.
    pub(super) name: String,
    pub(super) partitions: i32,
    pub(super) shards: Shards,
    pub(super) retention: Retention,
}

/// Looks at a topic; `NotFound` names it.
pub(super) async fn look(core: &Arc<Core>, topic: &Topic) -> Result<About> {
    let name = names::topic(topic)?;
    let Some(partitions) = partitions(core, &name).await? else {
        let missing = Error::new(ErrorKind::NotFound, format!("there is no topic '{topic}'"));
        return Err(missing.hint("declare it first"));
    };
    let settings = settings(core, &name).await?;
    let number = |wanted: &str| {
        let found = settings.iter().find(|(name, _)| name == wanted);
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    let retention = Retention {
        age_max: number("retention.ms").map(Duration::from_millis),
        bytes_max: number("retention.bytes"),
        ignore_groups: true,
    };
    let shards = Shards::of(&name, number(MARK).unwrap_or(UNMARKED));
    Ok(About { topic: topic.clone(), name, partitions, shards, retention })
}

/// How many partitions a topic has; `None` when there is none.
pub(super) async fn partitions(core: &Arc<Core>, name: &str) -> Result<Option<i32>> {
    let (client, name) = (Arc::clone(core), name.to_owned());
    let longest = core.config.connect_timeout;
    core.unless_ended(blocking(move || {
        let answer = client.publisher().client().fetch_metadata(Some(&name), longest);
        let answer = answer.map_err(error)?;
        let Some(topic) = answer.topics().iter().find(|topic| topic.name() == name) else {
            return Ok(None);
        };
        match topic.error().map(Code::from) {
            Some(code) if is_unknown(code) => Ok(None),
            // It is being made at this moment.
            Some(Code::LeaderNotAvailable) | None => {
                Ok(i32::try_from(topic.partitions().len()).ok().filter(|count| *count > 0))
            }
            Some(code) => Err(of_code(code)),
        }
    }))
    .await
}

/// The names of all topics with their partitions.
pub(super) async fn all(core: &Arc<Core>) -> Result<Vec<(Topic, i32)>> {
    let client = Arc::clone(core);
    let longest = core.config.connect_timeout;
    core.unless_ended(blocking(move || {
        let answer = client.publisher().client().fetch_metadata(None, longest).map_err(error)?;
        let count = |partitions: usize| i32::try_from(partitions).unwrap_or(i32::MAX);
        let topics = answer.topics().iter().filter_map(|topic| {
            Some((names::topic_of(topic.name())?, count(topic.partitions().len())))
        });
        let mut topics: Vec<_> = topics.collect();
        topics.sort();
        Ok(topics)
    }))
    .await
}

/// First and last place of a partition: the oldest record kept, and behind the newest.
pub(super) async fn extent(core: &Arc<Core>, name: &str, partition: i32) -> Result<(u64, u64)> {
    let (client, name) = (Arc::clone(core), name.to_owned());
    let longest = core.config.connect_timeout;
    let ask = move || {
        let client = Arc::clone(&client);
        let name = name.clone();
        blocking(move || {
            Ok(match client.publisher().client().fetch_watermarks(&name, partition, longest) {
                Ok(found) => Some(found),
                // Nobody leads a partition for a moment after it was made, or its broker was lost.
                Err(KafkaError::MetadataFetch(
                    Code::NotLeaderForPartition | Code::LeaderNotAvailable,
                )) => None,
                Err(said) => return Err(error(said)),
            })
        })
    };
    let place = |number: i64| u64::try_from(number).unwrap_or(0);
    for _ in 0..LOOKS_MAX {
        if let Some((first, end)) = core.unless_ended(ask()).await? {
            return Ok((place(first), place(end)));
        }
        core.clock.sleep(LOOK_PAUSE).await;
    }
    Err(of_code(Code::LeaderNotAvailable).context("partition", partition))
}

/// The settings of a topic; none where the user may not look at them.
async fn settings(core: &Arc<Core>, name: &str) -> Result<Vec<(String, String)>> {
    let which = [ResourceSpecifier::Topic(name)];
    let options = options(core);
    let asked = core.admin()?.describe_configs(&which, &options);
    let described = core.unless_ended(async { asked.await.map_err(error) }).await?;
    let entries = |found: ConfigResource| {
        let entries = found.entries.into_iter();
        entries.filter_map(|entry| Some((entry.name, entry.value?))).collect::<Vec<_>>()
    };
    match described.into_iter().next() {
        Some(Ok(found)) => Ok(entries(found)),
        Some(Err(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)) | None => {
            Ok(Vec::new())
        }
        Some(Err(code)) => Err(of_code(code)),
    }
}

/// Makes a topic unless it is there.
pub(super) async fn create(
    core: &Arc<Core>,
    spec: &TopicSpec,
    more: &[(&str, &str)],
) -> Result<()> {
    let name = names::topic(&spec.topic)?;
    let partitions = core.config.partitions_of(&spec.options)?;
    let random = RandomState::new().hash_one(&name) & 0xffff_ffff;
    let mark = (UNMARKED + 1 + random).to_string();
    let largest = (core.config.message_max + RECORD_BYTES_MAX).to_string();
    let replication = TopicReplication::Fixed(core.config.replication.unwrap_or(-1));
    let mut new = NewTopic::new(&name, partitions, replication).set("max.message.bytes", &largest);
    if !more.iter().any(|(name, _)| *name == "cleanup.policy") {
        new = new.set("cleanup.policy", "delete").set(MARK, &mark);
    }
    // For ever, unless somebody says otherwise.
    let kept = kept(spec.retention.unwrap_or_default(), core.config.message_max);
    for (name, value) in &kept {
        new = new.set(name, value);
    }
    for (name, value) in more {
        new = new.set(name, value);
    }
    let options = options(core);
    let asked = core.admin()?.create_topics([&new], &options);
    let made = core.unless_ended(async { asked.await.map_err(error) }).await?;
    match made.into_iter().next() {
        Some(Err((_, Code::TopicAlreadyExists))) | Some(Ok(_)) | None => wait(core, &name).await,
        Some(Err((_, code))) => Err(of_code(code).context("topic", &spec.topic)),
    }
}

/// A broker may not know yet what its controller has made.
async fn wait(core: &Arc<Core>, name: &str) -> Result<()> {
    for _ in 0..LOOKS_MAX {
        if partitions(core, name).await?.is_some() {
            return Ok(());
        }
        core.clock.sleep(LOOK_PAUSE).await;
    }
    Err(Error::new(ErrorKind::Elapsed, "the broker does not show the topic that it has made")
        .context("topic", name))
}

const LOOKS_MAX: u32 = 200;
const LOOK_PAUSE: Duration = Duration::from_millis(25);

/// Sets how long a topic keeps its records.
pub(super) async fn retain(core: &Arc<Core>, name: &str, retention: Retention) -> Result<()> {
    let kept = kept(retention, core.config.message_max);
    // What is not named here would be taken back to what the brokers have.
    let before = settings_set(core, name).await?;
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic(name));
    for (name, value) in &before {
        if !kept.iter().any(|(kept, _)| kept == name) {
            alter = alter.set(name, value);
        }
    }
    for (name, value) in &kept {
        alter = alter.set(name, value);
    }
    let options = options(core);
    let asked = core.admin()?.alter_configs([&alter], &options);
    let altered = core.unless_ended(async { asked.await.map_err(error) }).await?;
    match altered.into_iter().next() {
        Some(Err((_, code))) => Err(of_code(code).context("topic", name)),
        _ => Ok(()),
    }
}

/// What was set for this very topic.
async fn settings_set(core: &Arc<Core>, name: &str) -> Result<Vec<(String, String)>> {
    let which = [ResourceSpecifier::Topic(name)];
    let options = options(core);
    let asked = core.admin()?.describe_configs(&which, &options);
    let described = core.unless_ended(async { asked.await.map_err(error) }).await?;
    let found = match described.into_iter().next() {
        Some(Ok(found)) => found,
        Some(Err(code)) => return Err(of_code(code)),
        None => return Ok(Vec::new()),
    };
    let own = |entry: &rdkafka::admin::ConfigEntry| {
        matches!(entry.source, rdkafka::admin::ConfigSource::DynamicTopic)
    };
    let entries = found.entries.into_iter().filter(own);
    Ok(entries.filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// Retention as settings. A bound in bytes lets whole segments go, so they must be smaller than it.
fn kept(retention: Retention, message_max: usize) -> Vec<(&'static str, String)> {
    let mut kept = Vec::new();
    let age =
        retention.age_max.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    kept.push(("retention.ms", age.to_string()));
    match retention.bytes_max {
        None => kept.push(("retention.bytes", "-1".to_owned())),
        Some(bytes) => {
            kept.push(("retention.bytes", bytes.min(1 << 60).to_string()));
            // The largest message must fit into one.
            let least = SEGMENT_BYTES_MIN.max((message_max + 2 * RECORD_BYTES_MAX) as u64);
            let segment = (bytes / 4).max(least).min(SEGMENT_BYTES_MAX);
            kept.push(("segment.bytes", segment.to_string()));
        }
    }
    kept
}

/// What newer brokers take at the least.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// What Kafka has without being told.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Deletes a topic, and returns when nobody is shown it any more.
pub(super) async fn delete(core: &Arc<Core>, name: &str) -> Result<()> {
    let options = options(core);
    let names = [name];
    let asked = core.admin()?.delete_topics(&names, &options);
    let deleted = core.unless_ended(async { asked.await.map_err(error) }).await?;
    match deleted.into_iter().next() {
        Some(Err((_, code))) if !is_unknown(code) => {
            return Err(of_code(code).context("topic", name));
        }
        _ => {}
    }
    for _ in 0..LOOKS_MAX {
        if partitions(core, name).await?.is_none() {
            return Ok(());
        }
        core.clock.sleep(LOOK_PAUSE).await;
    }
    Err(Error::new(ErrorKind::Elapsed, "the broker still shows the topic that it has deleted")
        .context("topic", name))
}

/// How long an answer may take.
pub(super) fn options(core: &Core) -> AdminOptions {
    let longest = Some(core.config.connect_timeout);
    AdminOptions::new().request_timeout(longest).operation_timeout(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(shards: Shards) -> About {
        let (topic, name) = (Topic::new("t").unwrap(), "t".to_owned());
        About { topic, name, partitions: 3, shards, retention: Retention::default() }
    }

    #[test]
    fn offsets_are_of_one_life_of_one_topic() {
        let shards = Shards::of("t", UNMARKED + 5);
        let offset = Offset::new(shards.shard(2), 7);
        assert_eq!(shards.places(&offset, &about(shards)).unwrap(), [(2, 7)]);
        let others = [Shards::of("u", UNMARKED + 5), Shards::of("t", UNMARKED + 6)];
        for other in others {
            let error = other.places(&offset, &about(other)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit);
            assert!(error.to_string().contains(&offset.to_string()), "{error}");
        }
        let beyond = Offset::new(shards.shard(3), 0);
        assert!(shards.places(&beyond, &about(shards)).is_err());
        assert_eq!(Shards::of("t", UNMARKED), Shards::of("t", 0));
    }

    #[test]
    fn a_bound_in_bytes_makes_smaller_segments() {
        let small = Retention { bytes_max: Some(1), ..Retention::default() };
        let kept = kept(small, 1000);
        assert!(kept.contains(&("segment.bytes", SEGMENT_BYTES_MIN.to_string())), "{kept:?}");
        assert!(kept.contains(&("retention.ms", "-1".to_owned())), "{kept:?}");
    }
}
