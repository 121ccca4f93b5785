//! Cases of groups: every group sees everything, one member of it gets each.

use std::collections::BTreeMap;

use super::super::case::{Outcome, check_eq, registry};
use super::super::world::{World, group, message, numbered, slices, text};
use crate::offset::Position;
use crate::receipt::Receipt;
use crate::transport::{GroupSpec, Role};

registry! {
    Group every_group_sees_every_message
        "Three groups of one topic get every message each.";
    Group members_share_without_duplicates
        "Of a group with three members one gets each message, once, as attempt 1.";
    Group messages_wait_for_a_member
        "What is published while no member is there is delivered to the first that joins.";
    Group a_group_starts_from_now
        "A new group gets what is published after it was declared, unless asked otherwise.";
    GroupStart a_group_starts_where_asked
        "A new group starts at the earliest record, at an offset, or at a time."
        also Replay ReceiptOffset;
    Group topics_do_not_mix
        "Groups of the same name on two topics have nothing to do with one another.";
    Resume a_group_continues_after_all_have_stopped
        "A group goes on behind what it has settled after every process of it has stopped.";
    Resume what_was_unsettled_comes_again_after_all_have_stopped
        "What was held at the end comes again, and what waited is there.";
    Resume settled_out_of_order_stays_settled
        "What was settled behind something unsettled does not come again after a reopen.";
    Resume every_group_keeps_its_own_place
        "After all have stopped each group goes on at its own place.";
}

async fn every_group_sees_every_message(world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    let names = ["a", "b", "c"];
    world.declare(&*publisher, &topic, &names).await?;
    let consumer = world.connect().await?;
    let mut streams = Vec::new();
    for name in names {
        streams.push(world.join(&*consumer, &topic, name).await?);
    }
    let texts = numbered(30);
    world.publish_texts(&*publisher, &topic, &slices(&texts)).await?;
    for stream in &mut streams {
        stream.expect(&slices(&texts)).await?;
        stream.nothing().await?;
    }
    Ok(())
}

async fn members_share_without_duplicates(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let publisher = world.connect_as(Role::Publish).await?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    let mut members = Vec::new();
    for _ in 0..3 {
        let session = world.connect().await?;
        let tune = |subscribe: &mut crate::transport::Subscribe| subscribe.max_in_flight = 5;
        let stream = world.join_with(&*session, &topic, "g", tune).await?;
        members.push((session, stream));
    }
    let texts = numbered(120);
    world.publish_texts(&*publisher, &topic, &slices(&texts)).await?;
    let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut left = texts.len();
    while left > 0 {
        let nexts = members.iter_mut().map(|(_, stream)| Box::pin(stream.next()));
        let (delivery, index, _) = futures_util::future::select_all(nexts).await;
        let delivery = delivery?;
        seen.entry(text(&delivery.message.payload)).or_default().push(delivery.attempt.number);
        left -= 1;
        if let Some((_, stream)) = members.get_mut(index) {
            stream.ack(delivery).await?;
        }
    }
    for text in &texts {
        check_eq!(seen.get(text), Some(&vec![1]), "the attempts of '{text}' over all members");
    }
    for (_, stream) in &mut members {
        stream.nothing().await?;
    }
    Ok(())
}

async fn messages_wait_for_a_member(world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    world.publish_texts(&*publisher, &topic, &["one", "two"]).await?;
    publisher.close(world.patience()).await?;
    let consumer = world.connect().await?;
    world.join(&*consumer, &topic, "g").await?.expect(&["one", "two"]).await
}

async fn a_group_starts_from_now(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    world.publish_texts(&*session, &topic, &["before"]).await?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["after"]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["after"]).await
}

async fn a_group_starts_where_asked(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    world.publish_texts(&*session, &topic, &["one"]).await?;
    world.advance(std::time::Duration::from_secs(1));
    let receipts = world.publish_texts(&*session, &topic, &["two", "three"]).await?;
    let Some(Receipt::Stored { offset: Some(three) }) = receipts.get(1) else {
        return Err(super::super::Failure::new("a receipt of a log has no offset"));
    };
    let read = crate::transport::Read::new(topic.clone(), Position::Offset(three.clone()));
    let records = world.read(&*session, read).await?.next().await?;
    let time = records.first().map(|record| record.time).unwrap_or_default();
    let all = ["one", "two", "three"];
    let cases: [(&str, Position, &[&str]); 4] = [
        ("earliest", Position::Earliest, &all),
        ("offset", Position::Offset(three.clone()), &["three"]),
        ("behind", Position::Offset(three.next()), &[]),
        ("long ago", Position::Time(crate::time::Timestamp::from_unix_us(0)), &all),
    ];
    for (name, start, texts) in cases {
        let spec = GroupSpec { start, ..group(&topic, name)? };
        world.declare_groups(&*session, &topic, vec![spec]).await?;
        let mut stream = world.join(&*session, &topic, name).await?;
        stream.expect(texts).await?;
        stream.nothing().await?;
    }
    // At its own time a record is included; which of the others share it depends on the clock.
    let spec = GroupSpec { start: Position::Time(time), ..group(&topic, "time")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let mut stream = world.join(&*session, &topic, "time").await?;
    loop {
        let delivery = stream.next().await?;
        let last = delivery.message.payload == "three";
        stream.ack(delivery).await?;
        if last {
            return stream.nothing().await;
        }
    }
}

async fn topics_do_not_mix(world: World) -> Outcome {
    let session = world.connect().await?;
    let (one, two) = (world.topic("one")?, world.topic("two")?);
    world.declare(&*session, &one, &["g"]).await?;
    world.declare(&*session, &two, &["g"]).await?;
    let batch = vec![message(&one, "1"), message(&two, "2"), message(&one, "3")];
    world.publish(&*session, batch).await?;
    let mut first = world.join(&*session, &one, "g").await?;
    let mut second = world.join(&*session, &two, "g").await?;
    first.expect(&["1", "3"]).await?;
    second.expect(&["2"]).await?;
    first.nothing().await?;
    second.nothing().await
}

async fn a_group_continues_after_all_have_stopped(mut world: World) -> Outcome {
    let topic = world.topic("t")?;
    let session = world.connect().await?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2", "3", "4"]).await?;
    let one_at_a_time = |subscribe: &mut crate::transport::Subscribe| subscribe.max_in_flight = 1;
    let mut stream = world.join_with(&*session, &topic, "g", one_at_a_time).await?;
    stream.expect(&["1", "2"]).await?;
    stream.stop().await?;
    session.close(world.patience()).await?;
    drop((stream, session));
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["5"]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["3", "4", "5"]).await
}

async fn what_was_unsettled_comes_again_after_all_have_stopped(mut world: World) -> Outcome {
    let topic = world.topic("t")?;
    let session = world.connect().await?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["held", "acked"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let held = stream.next().await?;
    stream.expect(&["acked"]).await?;
    world.kill(session).await?;
    drop((held, stream));
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["new"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let again = stream.next().await?;
    check_eq!(text(&again.message.payload), "held", "the first after the reopen");
    stream.expect(&["new"]).await
}

async fn settled_out_of_order_stays_settled(mut world: World) -> Outcome {
    let topic = world.topic("t")?;
    let session = world.connect().await?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(10);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let mut odd = Vec::new();
    for (index, delivery) in stream.take(10).await?.into_iter().enumerate() {
        if index % 2 == 0 {
            stream.ack(delivery).await?;
        } else {
            odd.push(delivery);
        }
    }
    world.kill(session).await?;
    drop((odd, stream));
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["end"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let mut found = Vec::new();
    for delivery in stream.take(6).await? {
        found.push(text(&delivery.message.payload));
        stream.ack(delivery).await?;
    }
    found.sort();
    check_eq!(found, ["end", "text 1", "text 3", "text 5", "text 7", "text 9"], "what is left");
    Ok(())
}

async fn every_group_keeps_its_own_place(mut world: World) -> Outcome {
    let topic = world.topic("t")?;
    let session = world.connect().await?;
    world.declare(&*session, &topic, &["fast", "slow"]).await?;
    world.publish_texts(&*session, &topic, &["1", "2"]).await?;
    let mut fast = world.join(&*session, &topic, "fast").await?;
    fast.expect(&["1", "2"]).await?;
    drop(fast);
    session.close(world.patience()).await?;
    drop(session);
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["3"]).await?;
    world.join(&*session, &topic, "slow").await?.expect(&["1", "2", "3"]).await?;
    world.join(&*session, &topic, "fast").await?.expect(&["3"]).await
}
