//! Cases of attempts, their limit, leases, and retries that block.

use std::time::Duration;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, group, keyed, message, text};
use crate::capability::{Capability, Lease};
use crate::dead;
use crate::delivery::Attempt;
use crate::error::ErrorKind;
use crate::headers::HeaderValue;
use crate::message::Message;
use crate::name::Topic;
use crate::transport::{ATTEMPTS_MAX_DEFAULT, GroupSpec, RetryMode, Session, Subscribe};

registry! {
    Attempt attempts_count_up
        "The attempts of a message are 1, 2, 3, and each message has its own.";
    Attempt attempts_count_over_members_and_reopens
        "The attempt goes on over the death of a member and a reopen of everything." also Resume;
    RetryLimit attempts_are_bounded
        "After the last attempt a message is dead lettered, and says so." also DeadLetter;
    RetryLimit drops_and_deaths_count_as_attempts
        "Deliveries that were dropped, or whose member died, use up attempts." also DeadLetter;
    RetryLimit there_is_a_limit_by_default
        "A group declared without saying bounds its attempts." also DeadLetter;
    Lease held_for_too_long_is_lost_knowingly
        "A delivery held beyond its time is told lost, settles as Lost, and goes to another.";
    Lease a_lease_is_renewed_while_it_is_held
        "A delivery held for longer than a lease, by a living session, stays its own." also DelayedRetry;
    Lease settling_in_time_is_not_lost
        "A delivery that was settled in time is not told lost when its time is over.";
    BlockingRetry later_ones_of_an_ordering_key_wait
        "With RetryMode Block a retried message holds back later ones of its ordering key only."
        also DelayedRetry;
    BlockingRetry without_an_ordering_key_the_key_orders
        "With RetryMode Block messages without an ordering key wait for those of the same key."
        also DelayedRetry;
    BlockingRetry the_first_of_a_key_goes_on_after_any_settle
        "With RetryMode Block an ack and a reject let the next of the ordering key go.";
}

async fn attempts_count_up(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for number in 1..=5 {
        let delivery = stream.next().await?;
        check_eq!(delivery.attempt, Attempt::exact(number), "the attempt");
        if number < 5 {
            delivery.retry(None).await?;
        } else {
            stream.ack(delivery).await?;
        }
    }
    world.publish_texts(&*session, &topic, &["other"]).await?;
    stream.expect(&["other"]).await
}

async fn attempts_count_over_members_and_reopens(mut world: World) -> Outcome {
    let topic = world.topic("t")?;
    let session = world.connect().await?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.next().await?.retry(None).await?;
    let second = stream.next().await?;
    check_eq!(second.attempt, Attempt::exact(2), "the attempt after a retry");
    world.kill(session).await?;
    drop((second, stream));
    let session = world.connect().await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let third = stream.next().await?;
    check_eq!(third.attempt, Attempt::exact(3), "the attempt after the death of a member");
    world.kill(session).await?;
    drop((third, stream));
    world.reopen().await?;
    let session = world.connect().await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let fourth = stream.next().await?;
    check_eq!(fourth.attempt, Attempt::exact(4), "the attempt after a reopen");
    stream.ack(fourth).await
}

/// The only dead letter of group `g`; it must say how often it was tried.
async fn check_letter(
    world: &World,
    session: &dyn Session,
    topic: &Topic,
    attempts: u32,
) -> Outcome {
    let dead = dead::dead_topic(&"g".try_into()?, topic)?;
    // It may be on its way while what follows its message is delivered.
    let joined = async {
        loop {
            match world.join(session, &dead, dead::DEAD_GROUP).await {
                Ok(letters) => return letters,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mut letters = world.within("the topic of the dead letters", joined).await?;
    let letter = letters.next().await?;
    check_text(&letter, "it")?;
    let found = letter.message.headers.get(dead::HEADER_ATTEMPTS).and_then(HeaderValue::as_int);
    check_eq!(found, Some(i64::from(attempts)), "the attempts of the dead letter");
    let reason = letter.message.headers.get(dead::HEADER_REASON).and_then(HeaderValue::as_str);
    check!(reason.is_some_and(|why| why.contains("attempt")), "the reason is {reason:?}");
    letters.ack(letter).await?;
    letters.nothing().await
}

async fn attempts_are_bounded(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { attempts_max: Some(3), ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for number in 1..=3 {
        let delivery = stream.next().await?;
        check_text(&delivery, "it")?;
        check_eq!(delivery.attempt.number, number, "the attempt");
        delivery.retry(None).await?;
    }
    world.publish_texts(&*session, &topic, &["end"]).await?;
    stream.expect(&["end"]).await?;
    stream.nothing().await?;
    check_letter(&world, &*session, &topic, 3).await
}

async fn drops_and_deaths_count_as_attempts(world: World) -> Outcome {
    let (dying, session) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    let spec = GroupSpec { attempts_max: Some(2), ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*dying, &topic, "g").await?;
    let first = stream.next().await?;
    if world.keeps(Capability::Attempt) {
        drop(first);
    } else {
        // Counted by a copy, which death in the middle of it may double: so wait for its end.
        first.retry(None).await?;
    }
    let second = stream.next().await?;
    check_eq!(second.attempt.number, 2, "the attempt after a drop");
    world.kill(dying).await?;
    drop((second, stream));
    let mut stream = world.join(&*session, &topic, "g").await?;
    world.publish_texts(&*session, &topic, &["end"]).await?;
    stream.expect(&["end"]).await?;
    check_letter(&world, &*session, &topic, 2).await
}

async fn there_is_a_limit_by_default(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for _ in 0..ATTEMPTS_MAX_DEFAULT {
        let delivery = stream.next().await?;
        check_text(&delivery, "it")?;
        delivery.retry(None).await?;
    }
    world.publish_texts(&*session, &topic, &["end"]).await?;
    stream.expect(&["end"]).await?;
    check_letter(&world, &*session, &topic, ATTEMPTS_MAX_DEFAULT).await
}

/// How long a delivery is leased, in cases about it.
const LEASE: Duration = Duration::from_millis(300);

fn hold(lease: Duration, hold_max: Option<Duration>) -> impl FnOnce(&mut Subscribe) {
    move |subscribe| (subscribe.lease, subscribe.hold_max) = (lease, hold_max)
}

fn renewable(world: &World) -> Outcome {
    match world.profile.lease {
        Lease::Renewable(_) => Ok(()),
        Lease::Fixed(lease) => {
            Err(Failure::skip(format!("lease is fixed: {lease:?} is too long to wait for")))
        }
        Lease::None => Err(Failure::skip("lease is none: a member may hold for ever")),
    }
}

async fn held_for_too_long_is_lost_knowingly(world: World) -> Outcome {
    renewable(&world)?;
    let (slow, quick) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*slow, &topic, &["g"]).await?;
    world.publish_texts(&*slow, &topic, &["it"]).await?;
    let mut first = world.join_with(&*slow, &topic, "g", hold(LEASE, Some(LEASE))).await?;
    let held = first.next().await?;
    let before = world.clock().monotonic();
    let mut second = world.join(&*quick, &topic, "g").await?;
    second.nothing().await?;
    check!(!held.is_lost(), "it is lost before its time");
    world.advance(2 * LEASE);
    world.within("the holder to be told that it lost it", held.lost()).await?;
    check!(held.is_lost(), "it is told lost and says it is not");
    let again = second.next().await?;
    let waited = world.clock().monotonic().saturating_sub(before);
    check!(waited >= LEASE / 2, "it was taken after {waited:?} of {LEASE:?}");
    check_text(&again, "it")?;
    check_eq!(again.attempt.number, 2, "the attempt after a lost lease");
    let settled = world.within("the answer to a late settle", held.ack()).await?;
    check_eq!(settled.err().map(|error| error.kind()), Some(ErrorKind::Lost), "the late ack");
    // Had the late ack settled it, this one would be lost.
    second.ack(again).await?;
    second.nothing().await
}

async fn a_lease_is_renewed_while_it_is_held(world: World) -> Outcome {
    renewable(&world)?;
    let (holder, other) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*holder, &topic, &["g"]).await?;
    world.publish_texts(&*holder, &topic, &["held"]).await?;
    let mut first = world.join_with(&*holder, &topic, "g", hold(LEASE, None)).await?;
    let held = first.next().await?;
    // A delayed retry of another message tells when the time of several leases is over.
    let mut second = world.join_with(&*other, &topic, "g", hold(LEASE, None)).await?;
    first.stop().await?;
    world.publish_texts(&*holder, &topic, &["timer"]).await?;
    let timer = second.next().await?;
    check_text(&timer, "timer")?;
    timer.retry(3 * LEASE).await?;
    world.advance(3 * LEASE);
    let timer = second.next().await?;
    check_text(&timer, "timer")?;
    check!(!held.is_lost(), "a lease was not renewed");
    first.ack(held).await?;
    second.ack(timer).await?;
    second.nothing().await
}

async fn settling_in_time_is_not_lost(world: World) -> Outcome {
    renewable(&world)?;
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["it"]).await?;
    let mut stream = world.join_with(&*session, &topic, "g", hold(LEASE, Some(LEASE))).await?;
    let held = stream.next().await?;
    let lost = held.lost();
    stream.ack(held).await?;
    world.advance(2 * LEASE);
    let told = tokio::time::timeout(world.grace(), lost).await;
    check!(told.is_err(), "a delivery that was settled is told lost");
    stream.nothing().await
}

fn in_lane(topic: &Topic, lane: &str, payload: &str) -> Message {
    let mut message = message(topic, payload);
    message.ordering_key = Some(lane.to_owned().into());
    message
}

async fn later_ones_of_an_ordering_key_wait(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { retry_mode: RetryMode::Block, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let batch = ["red 1", "red 2", "blue 1", "red 3", "blue 2"];
    let lane = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    let batch = batch.iter().map(|text| in_lane(&topic, &lane(text), text)).collect();
    world.publish(&*session, batch).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let red = stream.next().await?;
    check_text(&red, "red 1")?;
    red.retry(LEASE).await?;
    // The other lane goes on; this one waits for its first.
    stream.expect(&["blue 1", "blue 2"]).await?;
    stream.nothing().await?;
    world.advance(LEASE);
    let mut found = Vec::new();
    for _ in 0..3 {
        let delivery = stream.next().await?;
        found.push((text(&delivery.message.payload), delivery.attempt.number));
        stream.ack(delivery).await?;
    }
    let wanted = [("red 1", 2), ("red 2", 1), ("red 3", 1)];
    check_eq!(found, wanted.map(|(text, n)| (text.to_owned(), n)), "what was held back");
    Ok(())
}

async fn without_an_ordering_key_the_key_orders(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { retry_mode: RetryMode::Block, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let batch =
        vec![keyed(&topic, "a", "a 1")?, keyed(&topic, "a", "a 2")?, keyed(&topic, "b", "b")?];
    world.publish(&*session, batch).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let first = stream.next().await?;
    check_text(&first, "a 1")?;
    first.retry(LEASE).await?;
    stream.expect(&["b"]).await?;
    stream.nothing().await?;
    world.advance(LEASE);
    let again = stream.next().await?;
    check_text(&again, "a 1")?;
    stream.ack(again).await?;
    stream.expect(&["a 2"]).await
}

async fn the_first_of_a_key_goes_on_after_any_settle(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    let spec = GroupSpec { retry_mode: RetryMode::Block, ..group(&topic, "g")? };
    world.declare_groups(&*session, &topic, vec![spec]).await?;
    let batch = ["1", "2", "3"].map(|text| in_lane(&topic, "one", text));
    world.publish(&*session, batch.into()).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["1"]).await?;
    let second = stream.next().await?;
    check_text(&second, "2")?;
    second.reject("out of the way").await?;
    stream.expect(&["3"]).await?;
    stream.nothing().await
}
