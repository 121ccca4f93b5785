//! Cases of settling: each delivery by itself, and once.

use std::time::Duration;

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, text};
use crate::capability::Capability;
use crate::delivery::{Attempt, Delivery};

registry! {
    Settle an_acked_message_never_comes_again
        "What was acked does not come again, not to this member and not after a reopen." also Resume;
    Settle a_retried_message_comes_again
        "A retry at once brings the message back, unchanged.";
    Settle each_delivery_is_settled_by_itself
        "Settling one delivery settles no other, in whatever order.";
    Settle an_unsettled_message_does_not_come_twice
        "While a member holds a delivery, nobody else gets its message.";
    Settle a_settle_that_nobody_waits_for_counts
        "An ack whose answer is dropped, or that asks for none, is committed all the same." also Resume;
    Settle a_dropped_delivery_comes_again
        "A delivery dropped unsettled is given back, and backs off from the second time on.";
    AllFields a_message_arrives_as_it_was_sent
        "Headers, properties, ordering key and payload arrive as they were sent.";
    DelayedRetry a_delayed_retry_is_not_early
        "A retry after a delay comes when the delay is over, and others overtake it.";
    DelayedRetry the_shorter_delay_comes_first
        "Of two delayed retries the one that is due earlier comes first.";
    DelayedRetry a_delayed_retry_survives_its_member
        "A message that waits for its retry comes also when its member is dead.";
}

/// A delay that no machine passes by being slow.
const DELAY: Duration = Duration::from_millis(400);

async fn an_acked_message_never_comes_again(mut world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["1", "2"]).await?;
    stream.nothing().await?;
    world.kill(session).await?;
    drop(stream);
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["3"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["3"]).await?;
    stream.nothing().await
}

async fn a_retried_message_comes_again(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let first = stream.next().await?;
    let message = first.message.clone();
    first.retry(None).await?;
    let second = stream.next().await?;
    check!(second.message == message, "it came back changed: {second:?}");
    if world.keeps(Capability::Attempt) {
        check_eq!(second.attempt, Attempt::exact(2), "the attempt after a retry");
    }
    stream.ack(second).await?;
    stream.nothing().await
}

async fn each_delivery_is_settled_by_itself(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3", "4", "5"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let mut held: Vec<Option<Delivery>> = stream.take(5).await?.into_iter().map(Some).collect();
    let mut take = |index: usize| held.get_mut(index).and_then(Option::take);
    for index in [3, 1] {
        if let Some(delivery) = take(index) {
            stream.ack(delivery).await?;
        }
    }
    let retried = take(2).map(|delivery| delivery.retry(None));
    if let Some(settled) = retried {
        settled.await?;
    }
    let again = stream.next().await?;
    check_text(&again, "3")?;
    stream.ack(again).await?;
    for index in [4, 0] {
        let delivery = take(index);
        let Some(delivery) = delivery else { continue };
        check!(!delivery.is_lost(), "settling others lost delivery {index}");
        stream.ack(delivery).await?;
    }
    stream.nothing().await
}

async fn an_unsettled_message_does_not_come_twice(world: World) -> Outcome {
    let (one, two) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*one, &topic, &["g"]).await?;
    let mut first = world.join(&*one, &topic, "g").await?;
    world.publish_texts(&*one, &topic, &["held"]).await?;
    let held = first.next().await?;
    let mut second = world.join(&*two, &topic, "g").await?;
    second.nothing().await?;
    first.nothing().await?;
    first.ack(held).await?;
    second.nothing().await
}

async fn a_settle_that_nobody_waits_for_counts(mut world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["dropped", "quiet", "held"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    drop(stream.next().await?.ack());
    stream.next().await?.settle_quietly(crate::Outcome::Ack);
    let held = stream.next().await?;
    session.close(world.patience()).await?;
    drop((held, stream, session));
    world.reopen().await?;
    let session = world.connect().await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let left = stream.next().await?;
    check_text(&left, "held")?;
    stream.ack(left).await?;
    stream.nothing().await
}

async fn a_dropped_delivery_comes_again(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for number in 1..=4 {
        let delivery = stream.next().await?;
        check_text(&delivery, "it")?;
        if world.keeps(Capability::Attempt) {
            check_eq!(delivery.attempt, Attempt::exact(number), "the attempt");
        }
        if number == 4 {
            stream.ack(delivery).await?;
            continue;
        }
        let before = world.clock().monotonic();
        drop(delivery);
        if number > 1 {
            // Given back again and again it must not spin.
            stream.nothing().await?;
            world.advance(Duration::from_secs(60));
            let next = stream.next().await?;
            let waited = world.clock().monotonic().saturating_sub(before);
            check!(waited >= Duration::from_millis(10), "it came back after {waited:?}");
            stream.fetched().push_front(next);
        }
    }
    stream.nothing().await
}

async fn a_message_arrives_as_it_was_sent(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let message = super::dead_letters::rich(&topic)?;
    world.publish(&*session, vec![message.clone()]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let delivery = stream.next().await?;
    super::dead_letters::check_same(&delivery.message, &message)?;
    check_eq!(delivery.group.as_ref().map(ToString::to_string).as_deref(), Some("g"), "the group");
    stream.ack(delivery).await
}

async fn a_delayed_retry_is_not_early(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["late", "2"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let late = stream.next().await?;
    let before = world.clock().monotonic();
    late.retry(DELAY).await?;
    stream.expect(&["2"]).await?;
    world.publish_texts(&*session, &topic, &["3"]).await?;
    stream.expect(&["3"]).await?;
    world.advance(DELAY / 2);
    stream.nothing().await?;
    world.advance(DELAY);
    let again = stream.next().await?;
    let waited = world.clock().monotonic().saturating_sub(before);
    check_text(&again, "late")?;
    check!(waited >= DELAY, "a retry after {DELAY:?} came after {waited:?}");
    stream.ack(again).await
}

async fn the_shorter_delay_comes_first(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["long", "short"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let long = stream.next().await?;
    let short = stream.next().await?;
    long.retry(3 * DELAY).await?;
    short.retry(DELAY).await?;
    let mut found = Vec::new();
    for _ in 0..2 {
        world.advance(2 * DELAY);
        let delivery = stream.next().await?;
        found.push(text(&delivery.message.payload));
        stream.ack(delivery).await?;
    }
    check_eq!(found, ["short", "long"], "the order of delayed retries");
    Ok(())
}

async fn a_delayed_retry_survives_its_member(world: World) -> Outcome {
    let (dying, living) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*dying, &topic, &["g"]).await?;
    world.publish_texts(&*dying, &topic, &["it"]).await?;
    let mut stream = world.join(&*dying, &topic, "g").await?;
    stream.next().await?.retry(DELAY).await?;
    drop(stream);
    world.kill(dying).await?;
    let mut stream = world.join(&*living, &topic, "g").await?;
    world.advance(2 * DELAY);
    let again = stream.next().await?;
    check_text(&again, "it")?;
    stream.ack(again).await
}
