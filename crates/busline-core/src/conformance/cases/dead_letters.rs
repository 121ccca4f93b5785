//! Cases of dead letters: kept unchanged, with what is known about them, and put back to their group.

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, keyed, text};
use crate::dead;
use crate::headers::HeaderValue;
use crate::message::Message;
use crate::name::Topic;
use crate::offset::Offset;
use crate::time::Timestamp;

registry! {
    DeadLetter a_rejected_message_is_kept_unchanged
        "A dead letter has key, headers, properties and payload of the message, and says why, \
         where from, how often tried, and when.";
    DeadLetter a_rejected_message_leaves_its_group
        "What was rejected does not come again to its group, and what follows does.";
    DeadLetter dead_letters_wait_for_whoever_looks
        "Dead letters are there for one who looks for them only later, in order.";
    DeadLetter other_groups_keep_the_message
        "A message that one group rejects is delivered to the others as ever.";
    DeadLetter a_redriven_letter_reaches_only_its_group
        "A redriven dead letter comes to the group that had rejected it, and to no other.";
    DeadLetter a_letter_rejected_again_counts_its_redrives
        "A redriven message that is rejected again says how often it was put back.";
}

/// A message with something in every field.
pub(super) fn rich(topic: &Topic) -> Result<Message, Failure> {
    let mut message = keyed(topic, "a.key", "")?
        .header("twice", "first")
        .header("int", i64::MIN)
        .header("twice", "second")
        .header("float", 0.5)
        .header("yes", true)
        .header("null", HeaderValue::Null)
        .header("bytes", bytes::Bytes::from_static(&[0, 255, 13, 10]))
        .header("time", Timestamp::from_unix_ms(1_517_963_499_650))
        .header("list", HeaderValue::List(vec![1.into(), "two".into()]))
        .header("map", HeaderValue::Map(vec![("in".into(), HeaderValue::List(Vec::new()))]));
    message.payload = (0..=255).collect::<Vec<u8>>().into();
    message.ordering_key = Some("lane".into());
    let properties = &mut message.properties;
    properties.message_id = Some("not a uuid".into());
    properties.correlation_id = Some("correlation".into());
    properties.conversation_id = Some("conversation".into());
    properties.causation_id = Some("causation".into());
    properties.reply_to = Some("reply".into());
    properties.content_type = Some("application/x-test".into());
    properties.content_encoding = Some("identity".into());
    properties.kind = Some("kind".into());
    properties.app_id = Some("app".into());
    properties.timestamp = Some(Timestamp::from_unix_ms(1_000));
    properties.priority = Some(4);
    Ok(message)
}

/// Fails unless the messages are the same, field by field.
pub(super) fn check_same(found: &Message, sent: &Message) -> Outcome {
    check_eq!(found.key, sent.key, "the key");
    check_eq!(found.ordering_key, sent.ordering_key, "the ordering key");
    check_eq!(found.properties, sent.properties, "the properties");
    check_eq!(found.payload, sent.payload, "the payload");
    let own = found.headers.iter().filter(|(name, _)| {
        !name.starts_with(dead::HEADER_PREFIX) && *name != dead::HEADER_REDRIVES
    });
    let own: Vec<_> = own.collect();
    check_eq!(own, sent.headers.iter().collect::<Vec<_>>(), "the headers");
    Ok(())
}

/// The dead letters of a group, for one who looks.
async fn letters(
    world: &World,
    session: &dyn crate::transport::Session,
    topic: &Topic,
    group: &str,
) -> Result<super::super::Stream, Failure> {
    let dead = dead::dead_topic(&group.try_into()?, topic)?;
    world.join(session, &dead, dead::DEAD_GROUP).await
}

fn header<'a>(letter: &'a Message, name: &str) -> Result<&'a HeaderValue, Failure> {
    let value = letter.headers.get(name);
    value.ok_or_else(|| Failure::new(format!("the dead letter has no header '{name}'")))
}

async fn a_rejected_message_is_kept_unchanged(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let sent = rich(&topic)?;
    world.publish(&*session, vec![sent.clone()]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.next().await?.retry(None).await?;
    let second = stream.next().await?;
    let offset = second.offset.clone();
    let before = world.clock().now();
    second.reject("the reason, in words: ü").await?;
    let after = world.clock().now();

    let mut dead = letters(&world, &*session, &topic, "g").await?;
    let delivery = dead.next().await?;
    let letter = &delivery.message;
    check_same(letter, &sent)?;
    let text = |name| header(letter, name).map(|value| value.as_str().map(str::to_owned));
    check_eq!(text(dead::HEADER_REASON)?.as_deref(), Some("the reason, in words: ü"), "the reason");
    check_eq!(text(dead::HEADER_TOPIC)?.as_deref(), Some(topic.as_str()), "the origin");
    check_eq!(text(dead::HEADER_GROUP)?.as_deref(), Some("g"), "the group");
    check_eq!(header(letter, dead::HEADER_ATTEMPTS)?.as_int(), Some(2), "the attempts");
    let HeaderValue::Time(time) = header(letter, dead::HEADER_TIME)? else {
        return Err(Failure::new("the time of the dead letter is none"));
    };
    check!(before <= *time && *time <= after, "it was rejected at {time}, not {before}..{after}");
    if let Some(offset) = offset {
        let found = text(dead::HEADER_OFFSET)?.and_then(|text| text.parse::<Offset>().ok());
        check_eq!(found, Some(offset), "the origin's offset");
    }
    dead.ack(delivery).await
}

async fn a_rejected_message_leaves_its_group(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["bad", "good"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let bad = stream.next().await?;
    check_text(&bad, "bad")?;
    bad.reject("bad").await?;
    stream.expect(&["good"]).await?;
    stream.nothing().await
}

async fn dead_letters_wait_for_whoever_looks(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for delivery in stream.take(3).await? {
        let reason = text(&delivery.message.payload);
        delivery.reject(reason).await?;
    }
    session.close(world.patience()).await?;
    let later = world.connect().await?;
    letters(&world, &*later, &topic, "g").await?.expect(&["1", "2", "3"]).await
}

async fn other_groups_keep_the_message(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["rejects", "keeps"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2"]).await?;
    let mut rejects = world.join(&*session, &topic, "rejects").await?;
    for delivery in rejects.take(2).await? {
        delivery.reject("no").await?;
    }
    let mut keeps = world.join(&*session, &topic, "keeps").await?;
    keeps.expect(&["1", "2"]).await?;
    keeps.nothing().await
}

/// Puts the next dead letter back: published before it is removed.
async fn redrive(
    world: &World,
    session: &dyn crate::transport::Session,
    letters: &mut super::super::Stream,
) -> Result<u32, Failure> {
    let letter = letters.next().await?;
    let back = dead::redriven(letter.message.clone());
    let back = back.ok_or_else(|| Failure::new("a dead letter bears no valid origin"))?;
    let redrives = dead::redrives(&back);
    world.publish(session, vec![back]).await?;
    letters.ack(letter).await?;
    Ok(redrives)
}

async fn a_redriven_letter_reaches_only_its_group(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["rejects", "keeps"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut keeps = world.join(&*session, &topic, "keeps").await?;
    keeps.expect(&["it"]).await?;
    let mut rejects = world.join(&*session, &topic, "rejects").await?;
    rejects.next().await?.reject("not now").await?;
    let mut broadcast = world.broadcast(&*session, &topic, &[]).await?;
    let mut dead = letters(&world, &*session, &topic, "rejects").await?;
    redrive(&world, &*session, &mut dead).await?;
    rejects.expect(&["it"]).await?;
    world.publish_texts(&*session, &topic, &["end"]).await?;
    for stream in [&mut rejects, &mut keeps, &mut broadcast] {
        stream.expect(&["end"]).await?;
        stream.nothing().await?;
    }
    dead.nothing().await
}

async fn a_letter_rejected_again_counts_its_redrives(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.next().await?.reject("first").await?;
    let mut dead = letters(&world, &*session, &topic, "g").await?;
    for number in 1..=3 {
        let redrives = redrive(&world, &*session, &mut dead).await?;
        check_eq!(redrives, number, "the redrives");
        let again = stream.next().await?;
        check_eq!(again.attempt.number, 1, "the attempt of a redriven message");
        again.reject("again").await?;
    }
    let letter = dead.next().await?;
    check_eq!(dead::redrives(&letter.message), 3, "the redrives of the last letter");
    let reason = header(&letter.message, dead::HEADER_REASON)?.as_str();
    check_eq!(reason, Some("again"), "the reason of the last letter");
    let reasons = letter.message.headers.get_all(dead::HEADER_REASON).count();
    check_eq!(reasons, 1, "the reasons that the last letter gives");
    dead.ack(letter).await
}
