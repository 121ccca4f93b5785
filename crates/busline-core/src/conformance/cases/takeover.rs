//! Cases of takeover: what a dead member held goes to others.

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, numbered, slices};
use crate::capability::Capability;
use crate::error::ErrorKind;

registry! {
    Takeover a_killed_members_deliveries_go_to_another
        "What a killed member held comes to a living member, in order, as attempt 2.";
    Takeover a_member_that_joins_later_takes_over
        "What a killed member held comes to one that joins after its death.";
    Takeover what_was_settled_before_death_stays_settled
        "Of a killed member's deliveries only the unsettled ones come again.";
    Takeover a_dead_members_settles_are_lost
        "Settling after the end of the session says Lost and changes nothing.";
    Takeover a_late_settle_does_not_touch_the_new_owner
        "A settle of an earlier epoch leaves the delivery with the member that has it now.";
    Takeover a_closed_session_gives_back
        "What a session held when it was closed comes to another member.";
}

/// Kept attempts are exact; elsewhere a number is the least that it can be.
fn check_attempt(world: &World, delivery: &crate::Delivery, number: u32) -> Outcome {
    if world.keeps(Capability::Attempt) {
        check_eq!(delivery.attempt, crate::Attempt::exact(number), "the attempt");
    } else {
        check!(delivery.attempt.number <= number, "attempt {:?} was not", delivery.attempt);
    }
    Ok(())
}

async fn a_killed_members_deliveries_go_to_another(world: World) -> Outcome {
    let (dying, living) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*dying, &topic, &["g"]).await?;
    let texts = numbered(20);
    world.publish_texts(&*living, &topic, &slices(&texts)).await?;
    let mut first = world.join(&*dying, &topic, "g").await?;
    let held = first.take(20).await?;
    let mut second = world.join(&*living, &topic, "g").await?;
    second.nothing().await?;
    world.kill(dying).await?;
    for text in &texts {
        let delivery = second.next().await?;
        check_text(&delivery, text)?;
        check_attempt(&world, &delivery, 2)?;
        second.ack(delivery).await?;
    }
    drop(held);
    second.nothing().await
}

async fn a_member_that_joins_later_takes_over(world: World) -> Outcome {
    let dying = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*dying, &topic, &["g"]).await?;
    world.publish_texts(&*dying, &topic, &["1", "2"]).await?;
    let mut stream = world.join(&*dying, &topic, "g").await?;
    let held = stream.take(2).await?;
    world.kill(dying).await?;
    let session = world.connect().await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for text in ["1", "2"] {
        let delivery = stream.next().await?;
        check_text(&delivery, text)?;
        check_attempt(&world, &delivery, 2)?;
        stream.ack(delivery).await?;
    }
    drop(held);
    Ok(())
}

async fn what_was_settled_before_death_stays_settled(world: World) -> Outcome {
    let dying = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*dying, &topic, &["g"]).await?;
    world.publish_texts(&*dying, &topic, &["1", "2", "3", "4"]).await?;
    let mut stream = world.join(&*dying, &topic, "g").await?;
    let mut held = stream.take(4).await?;
    for index in [2, 1] {
        let acked = held.remove(index);
        stream.ack(acked).await?;
    }
    world.kill(dying).await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["5"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for text in ["1", "4", "5"] {
        let delivery = stream.next().await?;
        check_text(&delivery, text)?;
        stream.ack(delivery).await?;
    }
    drop(held);
    stream.nothing().await
}

async fn a_dead_members_settles_are_lost(world: World) -> Outcome {
    let dying = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*dying, &topic, &["g"]).await?;
    world.publish_texts(&*dying, &topic, &["1", "2", "3"]).await?;
    let mut stream = world.join(&*dying, &topic, "g").await?;
    let held = stream.take(3).await?;
    check!(held.iter().all(|delivery| !delivery.is_lost()), "a held delivery says it is lost");
    let lost: Vec<_> = held.iter().map(crate::Delivery::lost).collect();
    world.kill(dying).await?;
    for lost in lost {
        world.within("a delivery to be told lost", lost).await?;
    }
    for (index, delivery) in held.into_iter().enumerate() {
        check!(delivery.is_lost(), "a delivery of an ended session does not say it is lost");
        let settled = match index {
            0 => delivery.ack(),
            1 => delivery.retry(None),
            _ => delivery.reject("too late"),
        };
        let settled = world.within("the answer to a late settle", settled).await?;
        let kind = settled.err().map(|error| error.kind());
        check_eq!(kind, Some(ErrorKind::Lost), "the answer to late settle {index}");
    }
    let session = world.connect().await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for text in ["1", "2", "3"] {
        let delivery = stream.next().await?;
        check_text(&delivery, text)?;
        stream.ack(delivery).await?;
    }
    Ok(())
}

async fn a_late_settle_does_not_touch_the_new_owner(world: World) -> Outcome {
    let (dying, living) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*dying, &topic, &["g"]).await?;
    world.publish_texts(&*dying, &topic, &["it"]).await?;
    let old = world.join(&*dying, &topic, "g").await?.next().await?;
    world.kill(dying).await?;
    let mut stream = world.join(&*living, &topic, "g").await?;
    let new = stream.next().await?;
    check!(old.ack().await.is_err(), "the ack of an ended session was taken");
    check!(!new.is_lost(), "a late settle took the delivery from its new owner");
    // Were it settled by the late ack, it could not be retried.
    new.retry(None).await?;
    let again = stream.next().await?;
    check_text(&again, "it")?;
    check_attempt(&world, &again, 3)?;
    stream.ack(again).await
}

async fn a_closed_session_gives_back(world: World) -> Outcome {
    let (closing, living) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*closing, &topic, &["g"]).await?;
    world.publish_texts(&*closing, &topic, &["1", "2"]).await?;
    let mut stream = world.join(&*closing, &topic, "g").await?;
    let held = stream.take(2).await?;
    closing.close(world.patience()).await?;
    let mut other = world.join(&*living, &topic, "g").await?;
    for text in ["1", "2"] {
        let delivery = other.next().await?;
        check_text(&delivery, text)?;
        other.ack(delivery).await?;
    }
    drop(held);
    Ok(())
}
