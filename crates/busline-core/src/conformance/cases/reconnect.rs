//! Cases of reconnecting: what a session tells at its end, and how the link goes on.

use std::collections::BTreeSet;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, group, message, numbered, text};
use crate::delivery::Delivery;
use crate::error::ErrorKind;
use crate::link::{Link, LinkSubscription};
use crate::name::{GroupName, Topic};
use crate::offset::Position;
use crate::transport::{Membership, Read, SessionEvent, Subscribe, TopicSpec, Topology};

registry! {
    Reconnect an_ended_session_says_so
        "After a restart of the broker a session is Disconnected everywhere, and tells its end.";
    Reconnect a_publisher_goes_on
        "What is published through a link before and after a restart of the broker arrives.";
    Reconnect a_consumer_goes_on
        "A subscription of a link yields what comes after a restart of the broker.";
    Reconnect what_was_held_comes_again
        "A delivery held over a restart is Lost when settled, and its message comes again.";
    Reconnect a_broadcast_goes_on
        "A broadcast through a link gets what is published after a restart of the broker." also Broadcast;
    Reconnect a_reader_goes_on
        "A reader of a link reads on where it was after a restart of the broker." also Replay;
    Reconnect what_was_settled_stays_settled
        "What was acked before a restart of the broker does not come again.";
    Reconnect a_publisher_waits_while_the_broker_is_away
        "A publish while the broker is away is accepted and receipted once it is back.";
    Reconnect a_consumer_waits_while_the_broker_is_away
        "A subscription waits while the broker is away, and goes on once it is back.";
}

async fn an_ended_session_says_so(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    world.restart_broker().await?;
    let told = async {
        loop {
            if let SessionEvent::Ended(why) = session.next_event().await {
                return why;
            }
        }
    };
    let why = world.within("the session to tell its end", told).await?;
    let next = world.within("the subscription to end", stream.subscription().next()).await?;
    let sent = session.send(vec![message(&topic, "x")].into()).await;
    let errors = [Some(why), next.err(), sent.err()];
    for (what, error) in ["its event", "next", "send"].iter().zip(errors) {
        let kind = error.map(|error| error.kind());
        check_eq!(kind, Some(ErrorKind::Disconnected), "what {what} says after a restart");
    }
    Ok(())
}

/// A link with the topic and group `g` declared through it.
async fn linked(world: &World, topic: &Topic) -> Result<Link, Failure> {
    let link = world.link()?;
    let mut spec = group(topic, "g")?;
    world.without_limit(&mut spec);
    let topology = Topology {
        topics: vec![TopicSpec::new(topic.clone())],
        groups: vec![spec],
        ..Topology::default()
    };
    world.within("a declaration", link.declare(&topology)).await??;
    Ok(link)
}

async fn join(world: &World, link: &Link, topic: &Topic) -> Result<LinkSubscription, Failure> {
    let membership = Membership::Group(GroupName::new("g")?);
    let subscribe = Subscribe::new(topic.clone(), membership);
    Ok(world.within("a subscription", link.subscribe(subscribe)).await??)
}

async fn publish(world: &World, link: &Link, topic: &Topic, text: &str) -> Outcome {
    let sent = world.within("acceptance", link.send(vec![message(topic, text)].into())).await?;
    for receipt in sent? {
        world.within("a receipt", receipt).await??;
    }
    Ok(())
}

async fn chunk(world: &World, stream: &mut LinkSubscription) -> Result<Vec<Delivery>, Failure> {
    let chunk = world.within("a delivery", stream.next()).await??;
    chunk.ok_or_else(|| Failure::new("the subscription ended by itself"))
}

/// Acks what comes until all of these were there, in any order and as often as they like.
async fn until_all(world: &World, stream: &mut LinkSubscription, texts: &[String]) -> Outcome {
    let mut missing: BTreeSet<&String> = texts.iter().collect();
    while !missing.is_empty() {
        for delivery in chunk(world, stream).await? {
            missing.remove(&text(&delivery.message.payload));
            // What the restart took comes again; that is at least once.
            drop(delivery.ack());
        }
    }
    Ok(())
}

async fn a_publisher_goes_on(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let texts = numbered(40);
    let mut pending = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let sent =
            world.within("acceptance", link.send(vec![message(&topic, text)].into())).await?;
        pending.extend(sent?);
        if index % 10 == 5 {
            world.restart_broker().await?;
        }
    }
    for receipt in pending {
        world.within("a receipt", receipt).await??;
    }
    let mut stream = join(&world, &link, &topic).await?;
    until_all(&world, &mut stream, &texts).await
}

async fn a_consumer_goes_on(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let mut stream = join(&world, &link, &topic).await?;
    for text in numbered(4) {
        publish(&world, &link, &topic, &text).await?;
        until_all(&world, &mut stream, &[text]).await?;
        world.restart_broker().await?;
    }
    Ok(())
}

async fn what_was_held_comes_again(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let mut stream = join(&world, &link, &topic).await?;
    publish(&world, &link, &topic, "held").await?;
    let mut held = chunk(&world, &mut stream).await?;
    world.restart_broker().await?;
    let Some(held) = held.pop() else { return Err(Failure::new("a chunk is empty")) };
    world.within("the holder to be told", held.lost()).await?;
    let settled = world.within("the answer", held.ack()).await?;
    check_eq!(settled.err().map(|error| error.kind()), Some(ErrorKind::Lost), "the late ack");
    let mut again = chunk(&world, &mut stream).await?;
    let Some(again) = again.pop() else { return Err(Failure::new("a chunk is empty")) };
    check_eq!(text(&again.message.payload), "held", "what came again");
    check!(again.attempt.number >= 2 || !again.attempt.exact, "it came as {:?}", again.attempt);
    world.within("an ack", again.ack()).await??;
    Ok(())
}

async fn a_broadcast_goes_on(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let membership = Membership::Broadcast(crate::Patterns::all());
    let subscribe = Subscribe::new(topic.clone(), membership);
    let mut stream = world.within("a subscription", link.subscribe(subscribe)).await??;
    publish(&world, &link, &topic, "before").await?;
    until_all(&world, &mut stream, &["before".to_owned()]).await?;
    world.restart_broker().await?;
    // It starts anew when it is asked; what is published from then on it gets.
    let mut number = 0;
    let found = async {
        loop {
            number += 1;
            publish(&world, &link, &topic, &format!("after {number}")).await?;
            // Long enough to connect again in: who gives up sooner starts anew each time.
            let next = tokio::time::timeout(world.patience() / 20, stream.next()).await;
            if let Ok(next) = next {
                return Ok::<_, Failure>(next?);
            }
        }
    };
    let chunk = world.within("a broadcast after a restart", found).await??;
    check!(chunk.is_some_and(|chunk| !chunk.is_empty()), "the broadcast ended by itself");
    Ok(())
}

async fn a_reader_goes_on(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let read = Read::new(topic.clone(), Position::Earliest);
    let mut reader = world.within("a reader", link.read(read)).await??;
    for text in numbered(5) {
        publish(&world, &link, &topic, &text).await?;
        let next = async {
            loop {
                let records = reader.next().await?;
                if !records.is_empty() {
                    return Ok::<_, Failure>(records);
                }
                reader.wait().await?;
            }
        };
        let records = world.within("a record", next).await??;
        let found: Vec<_> = records.iter().map(|record| record.message.payload.clone()).collect();
        check_eq!(found, [text], "the records after a restart");
        world.restart_broker().await?;
    }
    Ok(())
}

async fn a_publisher_waits_while_the_broker_is_away(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    publish(&world, &link, &topic, "before").await?;
    world.stop_broker().await?;
    let texts = numbered(5);
    let sending = async {
        for text in &texts {
            publish(&world, &link, &topic, text).await?;
        }
        Ok::<_, Failure>(())
    };
    let mut sending = Box::pin(sending);
    let away = tokio::time::timeout(world.grace(), &mut sending).await;
    check!(away.is_err(), "publishing ended while the broker was away: {away:?}");
    world.start_broker().await?;
    world.within("receipts after the broker was away", sending).await??;
    let mut stream = join(&world, &link, &topic).await?;
    until_all(&world, &mut stream, &texts).await
}

async fn a_consumer_waits_while_the_broker_is_away(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let mut stream = join(&world, &link, &topic).await?;
    publish(&world, &link, &topic, "before").await?;
    until_all(&world, &mut stream, &["before".to_owned()]).await?;
    world.stop_broker().await?;
    let away = tokio::time::timeout(world.grace(), stream.next()).await;
    check!(away.is_err(), "the subscription ended while the broker was away: {away:?}");
    world.start_broker().await?;
    publish(&world, &link, &topic, "after").await?;
    until_all(&world, &mut stream, &["after".to_owned()]).await
}

async fn what_was_settled_stays_settled(world: World) -> Outcome {
    let topic = world.topic("t")?;
    let link = linked(&world, &topic).await?;
    let mut stream = join(&world, &link, &topic).await?;
    publish(&world, &link, &topic, "acked").await?;
    for delivery in chunk(&world, &mut stream).await? {
        world.within("an ack", delivery.ack()).await??;
    }
    world.restart_broker().await?;
    publish(&world, &link, &topic, "next").await?;
    for delivery in chunk(&world, &mut stream).await? {
        check_eq!(text(&delivery.message.payload), "next", "what came after the restart");
        world.within("an ack", delivery.ack()).await??;
    }
    Ok(())
}
