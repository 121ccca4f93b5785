//! Cases with many at once, and with futures that are given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use tokio::sync::Notify;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, message, numbered, text};
use crate::message::Message;
use crate::name::Topic;
use crate::transport::{Role, Session, Subscribe};

registry! {
    Group many_publishers_and_members_at_once
        "With several publishers and members at work each message is delivered once.";
    Order concurrent_publishers_keep_their_own_order
        "Beside others a publisher's messages arrive in the order in which it sent them.";
    Settle a_next_that_is_given_up_loses_nothing
        "What a cancelled wait for deliveries would have got comes to the next, as attempt 1.";
}

/// How many publish, and how many consume.
const MANY: usize = 4;

/// How many messages each publisher sends.
const EACH: usize = 60;

/// Publishes the messages of one of the many, in pipelined batches.
async fn publish_one(session: Arc<dyn Session>, topic: Topic, name: usize) -> Outcome {
    let texts: Vec<_> = numbered(EACH).iter().map(|text| format!("{name} {text}")).collect();
    let mut pending = Vec::new();
    for chunk in texts.chunks(7) {
        let lane = |text: &String| Message {
            ordering_key: Some(name.to_string().into()),
            ..message(&topic, text)
        };
        let batch: Vec<_> = chunk.iter().map(lane).collect();
        pending.extend(session.send(batch.into()).await?);
        tokio::task::yield_now().await;
    }
    for receipt in pending {
        receipt.await?;
    }
    Ok(())
}

/// Starts the publishers, each with a session of its own.
async fn publishers(
    world: &World,
    topic: &Topic,
) -> Result<impl Future<Output = Outcome> + use<>, Failure> {
    let mut running = Vec::new();
    for name in 0..MANY {
        let session = world.connect_as(Role::Publish).await?;
        running.push(tokio::spawn(publish_one(session, topic.clone(), name)));
    }
    Ok(async move {
        for ended in try_join_all(running).await.map_err(|_| Failure::new("a publisher died"))? {
            ended?;
        }
        Ok(())
    })
}

async fn many_publishers_and_members_at_once(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let left = Arc::new(AtomicUsize::new(MANY * EACH));
    let done = Arc::new(Notify::new());
    let mut members = Vec::new();
    for _ in 0..MANY {
        let session = world.connect().await?;
        let tune = |subscribe: &mut Subscribe| subscribe.max_in_flight = 8;
        let mut stream = world.join_with(&*session, &topic, "g", tune).await?;
        let (left, done) = (Arc::clone(&left), Arc::clone(&done));
        members.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                let ended = done.notified();
                if left.load(Ordering::Acquire) == 0 {
                    break;
                }
                let delivery = tokio::select! {
                    delivery = stream.next() => delivery?,
                    () = ended => break,
                };
                seen.push((text(&delivery.message.payload), delivery.attempt.number));
                stream.ack(delivery).await?;
                if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    done.notify_waiters();
                }
            }
            drop(session);
            Ok::<_, Failure>(seen)
        }));
    }
    let publishing = publishers(&world, &topic).await?;
    world.within("the publishers", publishing).await??;
    let members = world.within("the members", try_join_all(members)).await?;
    let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for member in members.map_err(|_| Failure::new("a member died"))? {
        for (text, attempt) in member? {
            seen.entry(text).or_default().push(attempt);
        }
    }
    check_eq!(seen.len(), MANY * EACH, "how many different messages came");
    for (text, attempts) in seen {
        check_eq!(attempts, [1], "the attempts of '{text}'");
    }
    Ok(())
}

async fn concurrent_publishers_keep_their_own_order(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let publishing = publishers(&world, &topic).await?;
    let mut next = [0; MANY];
    for _ in 0..MANY * EACH {
        let delivery = stream.next().await?;
        let payload = text(&delivery.message.payload);
        stream.ack(delivery).await?;
        let of = payload.split(' ').next().and_then(|name| name.parse::<usize>().ok());
        let Some((name, number)) = of.and_then(|name| Some((name, next.get_mut(name)?))) else {
            return Err(Failure::new(format!("'{payload}' was not sent")));
        };
        check_eq!(payload, format!("{name} text {number}"), "the next of publisher {name}");
        *number += 1;
    }
    world.within("the publishers", publishing).await?
}

async fn a_next_that_is_given_up_loses_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for text in numbered(30) {
        // Given up while it waits, while something comes, and a few steps later.
        let polled = stream.subscription().next().now_or_never();
        check!(polled.is_none(), "something came before '{text}': {polled:?}");
        let sent = session.send(vec![message(&topic, &text)].into()).await?;
        let mut early = stream.subscription().next().now_or_never();
        for receipt in sent {
            world.within("a receipt", receipt).await??;
        }
        if early.is_none() {
            early = stream.subscription().next().now_or_never();
        }
        if let Some(early) = early {
            stream.fetched().extend(early?.into_iter().flatten());
        }
        let delivery = stream.next().await?;
        check_text(&delivery, &text)?;
        check_eq!(delivery.attempt.number, 1, "the attempt of '{text}'");
        stream.ack(delivery).await?;
    }
    stream.nothing().await
}
