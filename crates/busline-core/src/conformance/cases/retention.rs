//! Cases of retention: what may go, and what is said about it.

use bytes::Bytes;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, group, message, numbered, slices};
use crate::error::ErrorKind;
use crate::message::Message;
use crate::name::Topic;
use crate::offset::{Offset, Position};
use crate::transport::{Read, Retention, Session, TopicSpec, Topology};

registry! {
    Replay retention_spares_what_a_group_needs
        "Records that a group has not settled are kept, whatever the bounds of their topic.";
    Replay what_retention_removed_is_refused
        "Reading from a record that retention has removed fails, names it, and says where to start."
        also Admin;
}

async fn declare(
    world: &World,
    session: &dyn Session,
    topic: &Topic,
    groups: &[&str],
    ignore_groups: bool,
) -> Outcome {
    let least = Retention { age_max: None, bytes_max: Some(1), ignore_groups };
    let groups: Result<Vec<_>, Failure> = groups.iter().map(|name| group(topic, name)).collect();
    let topics = vec![TopicSpec { retention: Some(least), ..TopicSpec::new(topic.clone()) }];
    let topology = Topology { topics, groups: groups?, ..Topology::default() };
    match world.within("a declaration", session.declare(&topology)).await? {
        // Where records go whoever needs them, nobody may be told otherwise.
        Err(error) if error.kind() == ErrorKind::Refused => Err(Failure::skip(error.to_string())),
        declared => Ok(declared?),
    }
}

async fn retention_spares_what_a_group_needs(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    declare(&world, &*session, &topic, &["g", "held"], false).await?;
    let texts = numbered(30);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let mut holder = world.join(&*session, &topic, "held").await?;
    let held = holder.next().await?;
    world.join(&*session, &topic, "g").await?.expect(&slices(&texts)).await?;
    world.publish_texts(&*session, &topic, &["end"]).await?;
    held.retry(None).await?;
    let mut left = Vec::new();
    for _ in 0..=texts.len() {
        let delivery = holder.next().await?;
        left.push(super::super::world::text(&delivery.message.payload));
        holder.ack(delivery).await?;
    }
    left.sort();
    let mut wanted: Vec<_> = texts.iter().cloned().chain(["end".to_owned()]).collect();
    wanted.sort();
    check_eq!(left, wanted, "what the slow group got");
    Ok(())
}

/// So many messages of so many bytes are enough for every engine to let the first go.
const MESSAGES: usize = 80;

/// See [`MESSAGES`].
const MESSAGE_BYTES: usize = 1 << 20;

async fn what_retention_removed_is_refused(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    // Without groups it is the same.
    declare(&world, &*session, &topic, &[], true).await?;
    let first = earliest(&world, &*session, &topic).await?;
    let payload = Bytes::from(vec![7; MESSAGE_BYTES]);
    for _ in 0..MESSAGES {
        let large = Message { payload: payload.clone(), ..message(&topic, "") };
        world.publish(&*session, vec![large]).await?;
        if earliest(&world, &*session, &topic).await? != first {
            break;
        }
    }
    let now = earliest(&world, &*session, &topic).await?;
    if now == first {
        let why = format!("{MESSAGES} MiB are not enough for retention to remove something");
        return Err(Failure::skip(why));
    }
    let read = Read::new(topic.clone(), Position::Offset(first.clone()));
    let Err(error) = session.read(read).await else {
        return Err(Failure::new(format!("{first} was removed and is read")));
    };
    check_eq!(error.kind(), ErrorKind::NotFound, "the error");
    let said = error.to_string();
    for named in [&first, &now] {
        check!(said.contains(&named.to_string()), "it does not name {named}: {said}");
    }
    let mut reader = world.read(&*session, Read::new(topic, Position::Earliest)).await?;
    world.read_all(&mut *reader).await.map(drop)
}

async fn earliest(world: &World, session: &dyn Session, topic: &Topic) -> Result<Offset, Failure> {
    let topics = world.admin(session)?.topics().await?;
    let info = topics.into_iter().find(|info| info.topic == *topic);
    let earliest = info.and_then(|info| info.earliest);
    earliest.ok_or_else(|| Failure::new("the topic is not listed with its earliest record"))
}
