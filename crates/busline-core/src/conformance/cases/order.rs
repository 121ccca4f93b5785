//! Cases of order: first copies, one publisher, a group of one member.

use super::super::case::{Outcome, check_eq, registry};
use super::super::world::{World, message, numbered, slices, text};
use crate::capability::OrderScope;
use crate::message::Message;
use crate::name::Topic;
use crate::transport::Role;

registry! {
    Order one_by_one_without_waiting_for_receipts
        "Messages sent one after the other, receipts not awaited, arrive in that order.";
    Order pipelined_batches
        "Batches sent one after the other, receipts not awaited, arrive in that order.";
    Order within_an_ordering_key
        "Messages of one ordering key arrive in the order in which they were sent.";
    Order across_sessions_of_a_publisher
        "What is sent on a new session after the receipts of the old one arrives after it.";
}

/// On a partitioned profile only an ordering key promises anything.
fn ordered(world: &World, topic: &Topic, payload: &str) -> Message {
    let mut message = message(topic, payload);
    if world.profile.order_scope == OrderScope::Key {
        message.ordering_key = Some("one".into());
    }
    message
}

async fn one_by_one_without_waiting_for_receipts(world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    let consumer = world.connect().await?;
    let mut stream = world.join(&*consumer, &topic, "g").await?;
    let texts = numbered(200);
    let mut pending = Vec::new();
    for text in &texts {
        let sent = publisher.send(vec![ordered(&world, &topic, text)].into());
        pending.extend(world.within("acceptance", sent).await??);
    }
    stream.expect(&slices(&texts)).await?;
    for receipt in pending {
        world.within("a receipt", receipt).await??;
    }
    Ok(())
}

async fn pipelined_batches(world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    let texts = numbered(500);
    let mut pending = Vec::new();
    for chunk in texts.chunks(25) {
        let batch: Vec<_> = chunk.iter().map(|text| ordered(&world, &topic, text)).collect();
        pending.extend(world.within("acceptance", publisher.send(batch.into())).await??);
    }
    for receipt in pending {
        world.within("a receipt", receipt).await??;
    }
    let consumer = world.connect().await?;
    world.join(&*consumer, &topic, "g").await?.expect(&slices(&texts)).await
}

async fn within_an_ordering_key(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let keys = ["red", "green", "blue"];
    let mut batch = Vec::new();
    for number in 0..30 {
        for key in keys {
            let mut message = message(&topic, &format!("{key} {number}"));
            message.ordering_key = Some(key.into());
            batch.push(message);
        }
    }
    world.publish(&*session, batch).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let mut found = [const { Vec::new() }; 3];
    for delivery in stream.take(90).await? {
        let payload = text(&delivery.message.payload);
        for (key, found) in keys.iter().zip(&mut found) {
            if payload.starts_with(key) {
                found.push(payload.clone());
            }
        }
        stream.ack(delivery).await?;
    }
    for (key, found) in keys.iter().zip(found) {
        let wanted: Vec<_> = (0..30).map(|number| format!("{key} {number}")).collect();
        check_eq!(found, wanted, "the messages of ordering key '{key}'");
    }
    Ok(())
}

async fn across_sessions_of_a_publisher(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let texts = numbered(10);
    for (index, text) in texts.iter().enumerate() {
        let publisher = world.connect_as(Role::Publish).await?;
        if index == 0 {
            world.declare(&*publisher, &topic, &["g"]).await?;
        }
        world.publish(&*publisher, vec![ordered(&world, &topic, text)]).await?;
        publisher.close(world.patience()).await?;
    }
    let consumer = world.connect().await?;
    world.join(&*consumer, &topic, "g").await?.expect(&slices(&texts)).await
}
