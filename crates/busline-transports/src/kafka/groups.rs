//! Where groups are: the places that Kafka keeps for them, and who is a member.

use std::sync::Arc;

use busline_core::{Error, ErrorKind, GroupName, Offset as Place, Position, Result, Topic};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Context, blocking, configure};
use super::error::{error, of_code};
use super::names;
use super::session::Core;
use super::topics::{self, About};

/// A place that a group has on a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) partition: i32,
    /// `None` where it has none.
    pub(super) place: Option<u64>,
    pub(super) text: String,
}

/// A client that speaks for a consumer group without being a member.
fn speaker(core: &Core, group: &str) -> Result<BaseConsumer<Context>> {
    let mut client = configure(&core.config, &core.name)?;
    client.set("group.id", group).set("enable.auto.commit", "false");
    client.create_with_context(Context(Arc::clone(&core.faults))).map_err(error)
}

/// Sets the places of a group without members, on all of these topics.
pub(super) async fn commit(
    core: &Arc<Core>,
    group: &str,
    topics: &[(&str, Vec<(i32, u64)>)],
) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for (name, places) in topics {
        for (partition, place) in places {
            let place = Offset::Offset(i64::try_from(*place).unwrap_or(i64::MAX));
            list.add_partition_offset(name, *partition, place).map_err(error)?;
        }
    }
    let client = speaker(core, group)?;
    let about = group.to_owned();
    core.unless_ended(blocking(move || {
        let committed = client.commit(&list, CommitMode::Sync);
        committed.map_err(|said| match said.rdkafka_error_code() {
            Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress) => {
                let why =
                    format!("the group '{about}' has members, and Kafka lets only them move it");
                Error::new(ErrorKind::Conflict, why).hint("stop its members first")
            }
            _ => error(said),
        })
    }))
    .await
}

/// The places of a group on all partitions of a topic.
pub(super) async fn committed(
    core: &Arc<Core>,
    group: &str,
    name: &str,
    partitions: i32,
) -> Result<Vec<Committed>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(name, 0, partitions - 1);
    let client = speaker(core, group)?;
    let longest = core.config.connect_timeout;
    core.unless_ended(blocking(move || {
        let list = client.committed_offsets(list, longest).map_err(error)?;
        Ok(of_list(&list))
    }))
    .await
}

/// What a list of places says.
pub(super) fn of_list(list: &TopicPartitionList) -> Vec<Committed> {
    let place = |offset| match offset {
        Offset::Offset(number) => u64::try_from(number).ok(),
        _ => None,
    };
    let of = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| Committed {
        partition: element.partition(),
        place: place(element.offset()),
        text: element.metadata().to_owned(),
    };
    list.elements().iter().map(of).collect()
}

/// How many members a consumer group has.
pub(super) async fn members(core: &Arc<Core>, group: &str) -> Result<u64> {
    let (client, group) = (Arc::clone(core), group.to_owned());
    let longest = core.config.connect_timeout;
    core.unless_ended(blocking(move || {
        let asked = client.publisher().client().fetch_group_list(Some(&group), longest);
        let found = asked.map_err(error)?;
        let group = found.groups().iter().find(|found| found.name() == group);
        Ok(group.map_or(0, |group| group.members().len() as u64))
    }))
    .await
}

/// Forgets a consumer group that has no members.
pub(super) async fn forget(core: &Arc<Core>, group: &str) -> Result<()> {
    let options = topics::options(core);
    let names = [group];
    let asked = core.admin()?.delete_groups(&names, &options);
    let deleted = core.unless_ended(async { asked.await.map_err(error) }).await?;
    match deleted.into_iter().next() {
        Some(Err((_, Code::GroupIdNotFound))) | Some(Ok(_)) | None => Ok(()),
        Some(Err((_, code))) => Err(of_code(code).context("group", group)),
    }
}

/// The place on each partition that a position means now.
pub(super) async fn resolve(
    core: &Arc<Core>,
    about: &About,
    position: &Position,
) -> Result<Vec<(i32, u64)>> {
    let mut extents = Vec::new();
    for partition in 0..about.partitions {
        extents.push((partition, topics::extent(core, &about.name, partition).await?));
    }
    let all = extents.iter();
    Ok(match position {
        Position::Earliest => all.map(|(partition, (first, _))| (*partition, *first)).collect(),
        Position::Latest => all.map(|(partition, (_, end))| (*partition, *end)).collect(),
        Position::Time(time) => {
            // Records have milliseconds: the first that is not older.
            let ms = time.unix_us().saturating_add(999).div_euclid(1000);
            at_time(core, about, ms.max(0), &extents).await?
        }
        Position::Offset(offset) => {
            let places = about.shards.places(offset, about)?;
            let place = |(partition, (first, end)): &(i32, (u64, u64))| {
                let named = places.iter().find(|(named, _)| named == partition);
                let number = named.map_or(*first, |(_, number)| *number);
                check(about, offset, *partition, number, (*first, *end))?;
                Ok((*partition, number))
            };
            all.map(place).collect::<Result<_>>()?
        }
    })
}

fn check(
    about: &About,
    offset: &Place,
    partition: i32,
    number: u64,
    (first, end): (u64, u64),
) -> Result<()> {
    let place = |number| Place::new(about.shards.shard(partition), number);
    let wrong = |kind, why: String| Err(Error::new(kind, why).context("topic", &about.topic));
    if number > end {
        return wrong(ErrorKind::Limit, format!("{offset} is behind the end, {}", place(end)));
    }
    if number < first {
        let first = place(first);
        let why = format!("{offset} was removed by retention, the log begins at {first}");
        return wrong(ErrorKind::NotFound, why);
    }
    Ok(())
}

async fn at_time(
    core: &Arc<Core>,
    about: &About,
    ms: i64,
    extents: &[(i32, (u64, u64))],
) -> Result<Vec<(i32, u64)>> {
    let mut list = TopicPartitionList::new();
    for partition in 0..about.partitions {
        list.add_partition_offset(&about.name, partition, Offset::Offset(ms)).map_err(error)?;
    }
    let client = speaker(core, "busline")?;
    let longest = core.config.connect_timeout;
    let found = core.unless_ended(blocking(move || {
        let found = client.offsets_for_times(list, longest).map_err(error)?;
        Ok(of_list(&found))
    }));
    let found = found.await?;
    let place = |(partition, (_, end)): &(i32, (u64, u64))| {
        let at = found.iter().find(|found| found.partition == *partition);
        (*partition, at.and_then(|at| at.place).unwrap_or(*end))
    };
    Ok(extents.iter().map(place).collect())
}

/// The group is not there; names it.
pub(super) fn missing(topic: &Topic, group: &GroupName) -> Error {
    Error::new(ErrorKind::NotFound, format!("topic '{topic}' has no group '{group}'"))
        .hint("declare it first")
}

/// The consumer group of a group, and the topic in which its retries wait.
pub(super) fn names_of(topic: &Topic, group: &GroupName) -> Result<(String, Option<String>)> {
    Ok((names::group(topic, group), names::retry(topic, group)?))
}
