//! Cases of flow: what is unsettled is bounded, by count and by bytes.

use bytes::Bytes;

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, message, numbered, slices};
use crate::message::Message;
use crate::name::Topic;
use crate::transport::Subscribe;

registry! {
    Flow max_in_flight_bounds_the_count
        "A member gets no more unsettled deliveries than it asked for, and one more for each settled.";
    Flow max_in_flight_bounds_the_bytes
        "A member gets no more bytes of unsettled deliveries than it asked for.";
    Flow one_larger_than_the_bound_comes_alone
        "A message larger than the bound in bytes comes when nothing else is in flight.";
    Sharing a_full_member_leaves_the_rest_to_others
        "What a member has no room for goes to another.";
    Flow a_retry_makes_room
        "A delivery that is given back makes room for another.";
}

async fn max_in_flight_bounds_the_count(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(12);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let three = |subscribe: &mut Subscribe| subscribe.max_in_flight = 3;
    let mut stream = world.join_with(&*session, &topic, "g", three).await?;
    let mut held = stream.take(3).await?;
    for wanted in texts.iter().skip(3) {
        stream.nothing().await?;
        let oldest = held.remove(0);
        stream.ack(oldest).await?;
        let next = stream.next().await?;
        check_text(&next, wanted)?;
        held.push(next);
    }
    for delivery in held {
        stream.ack(delivery).await?;
    }
    stream.nothing().await
}

fn sized(topic: &Topic, name: u8, bytes: usize) -> Message {
    Message { payload: Bytes::from(vec![name; bytes]), ..message(topic, "") }
}

async fn max_in_flight_bounds_the_bytes(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let batch = (0..6).map(|name| sized(&topic, name, 40_000)).collect();
    world.publish(&*session, batch).await?;
    let bound = |subscribe: &mut Subscribe| subscribe.max_in_flight_bytes = 100_000;
    let mut stream = world.join_with(&*session, &topic, "g", bound).await?;
    let mut held = stream.take(2).await?;
    for name in 2..6 {
        stream.nothing().await?;
        let oldest = held.remove(0);
        stream.ack(oldest).await?;
        let next = stream.next().await?;
        check_eq!(next.message.payload.first(), Some(&name), "the next message");
        held.push(next);
    }
    for delivery in held {
        stream.ack(delivery).await?;
    }
    Ok(())
}

async fn one_larger_than_the_bound_comes_alone(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let batch = [(1, 10_000), (2, 90_000), (3, 10_000)];
    let batch = batch.map(|(name, bytes)| sized(&topic, name, bytes)).into();
    world.publish(&*session, batch).await?;
    let bound = |subscribe: &mut Subscribe| subscribe.max_in_flight_bytes = 50_000;
    let mut stream = world.join_with(&*session, &topic, "g", bound).await?;
    for name in 1..=3 {
        let delivery = stream.next().await?;
        check_eq!(delivery.message.payload.first(), Some(&name), "the next message");
        // The large one neither comes beside another nor has one come beside it.
        stream.nothing().await?;
        stream.ack(delivery).await?;
    }
    Ok(())
}

async fn a_full_member_leaves_the_rest_to_others(world: World) -> Outcome {
    let (slow, quick) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*slow, &topic, &["g"]).await?;
    world.publish_texts(&*slow, &topic, &["1", "2", "3", "4", "5"]).await?;
    let two = |subscribe: &mut Subscribe| subscribe.max_in_flight = 2;
    let mut first = world.join_with(&*slow, &topic, "g", two).await?;
    let held = first.take(2).await?;
    let mut second = world.join(&*quick, &topic, "g").await?;
    second.expect(&["3", "4", "5"]).await?;
    second.nothing().await?;
    for delivery in held {
        check!(!delivery.is_lost(), "a slow member lost what it holds");
        first.ack(delivery).await?;
    }
    Ok(())
}

async fn a_retry_makes_room(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2"]).await?;
    let one = |subscribe: &mut Subscribe| subscribe.max_in_flight = 1;
    let mut stream = world.join_with(&*session, &topic, "g", one).await?;
    let mut found = Vec::new();
    stream.next().await?.retry(None).await?;
    for _ in 0..2 {
        let delivery = stream.next().await?;
        stream.nothing().await?;
        found.push((delivery.message.payload.clone(), delivery.attempt.number));
        stream.ack(delivery).await?;
    }
    found.sort();
    check_eq!(found, [(Bytes::from("1"), 2), (Bytes::from("2"), 1)], "what came after a retry");
    Ok(())
}
