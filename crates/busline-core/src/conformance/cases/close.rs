//! Cases of closing: nothing accepted is dropped, nothing held is kept.

use std::time::Duration;

use super::super::case::{Failure, Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, message, numbered, slices, text};
use crate::delivery::Attempt;
use crate::error::ErrorKind;
use crate::transport::{Role, Subscribe};

registry! {
    Close closing_flushes_receipts
        "What was accepted before a close is stored, and its receipts say so.";
    Close closing_flushes_settles
        "What was settled before a close stays settled, though nobody waited for the answer.";
    Close stopping_gives_back_what_was_not_handed_out
        "A stopped subscription settles what it handed out, and the rest goes to others.";
    GiveBack what_was_not_handed_out_is_not_counted
        "What a stopped subscription had not handed out comes to others as attempt 1.";
    Close a_stopped_subscription_ends
        "After a stop a subscription yields None, however often it is stopped.";
    Close dropping_a_subscription_is_stopping_it
        "A dropped subscription takes nothing more, and what it had not handed out goes to others."
        also Sharing;
    Close a_closed_session_does_nothing_more
        "After a close a session sends, declares, subscribes and reads nothing.";
    Close closing_twice_is_no_error
        "A session may be closed again.";
}

async fn closing_flushes_receipts(mut world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    let texts = numbered(100);
    let mut pending = Vec::new();
    for text in &texts {
        let sent = publisher.send(vec![message(&topic, text)].into());
        pending.extend(world.within("acceptance", sent).await??);
    }
    world.within("a close", publisher.close(world.patience())).await??;
    for receipt in pending {
        world.within("a receipt after the close", receipt).await??;
    }
    drop(publisher);
    world.reopen().await?;
    let session = world.connect().await?;
    world.join(&*session, &topic, "g").await?.expect(&slices(&texts)).await
}

async fn closing_flushes_settles(mut world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(100);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for delivery in stream.take(texts.len()).await? {
        delivery.settle_quietly(crate::Outcome::Ack);
    }
    world.within("a close", session.close(world.patience())).await??;
    drop((stream, session));
    world.reopen().await?;
    let session = world.connect().await?;
    world.publish_texts(&*session, &topic, &["end"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    stream.expect(&["end"]).await?;
    stream.nothing().await
}

async fn stopping_gives_back_what_was_not_handed_out(world: World) -> Outcome {
    stop_and_give_back(&world).await.map(drop)
}

async fn what_was_not_handed_out_is_not_counted(world: World) -> Outcome {
    for (text, attempt) in stop_and_give_back(&world).await? {
        check_eq!(attempt, Attempt { number: 1, ..attempt }, "'{text}'");
    }
    Ok(())
}

/// The attempts of what one member gave back and another got.
async fn stop_and_give_back(world: &World) -> Result<Vec<(String, Attempt)>, Failure> {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(20);
    world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let first = stream.next().await?;
    let mut handed_out = vec![first];
    handed_out.extend(stream.fetched().drain(..));
    stream.stop().await?;
    let count = handed_out.len();
    for delivery in handed_out {
        check!(!delivery.is_lost(), "stopping lost a delivery that was handed out");
        stream.ack(delivery).await?;
    }
    let mut other = world.join(&*session, &topic, "g").await?;
    let mut attempts = Vec::new();
    for wanted in &texts[count..] {
        let delivery = other.next().await?;
        check_text(&delivery, wanted)?;
        attempts.push((wanted.clone(), delivery.attempt));
        other.ack(delivery).await?;
    }
    world.publish_texts(&*session, &topic, &["end"]).await?;
    other.expect(&["end"]).await?;
    Ok(attempts)
}

async fn a_stopped_subscription_ends(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    for _ in 0..2 {
        stream.stop().await?;
        let next = world.within("the end", stream.subscription().next()).await??;
        check!(next.is_none(), "a stopped subscription yields {next:?}");
    }
    world.publish_texts(&*session, &topic, &["later"]).await?;
    let next = world.within("the end", stream.subscription().next()).await??;
    check!(next.is_none(), "a stopped subscription yields {next:?}");
    world.join(&*session, &topic, "g").await?.expect(&["later"]).await
}

async fn dropping_a_subscription_is_stopping_it(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let one = |subscribe: &mut Subscribe| subscribe.max_in_flight = 1;
    let mut stream = world.join_with(&*session, &topic, "g", one).await?;
    world.publish_texts(&*session, &topic, &["held", "2", "3"]).await?;
    let held = stream.next().await?;
    drop(stream);
    let mut other = world.join(&*session, &topic, "g").await?;
    other.expect(&["2", "3"]).await?;
    check!(!held.is_lost(), "dropping the subscription lost what was handed out");
    other.ack(held).await?;
    other.nothing().await
}

async fn a_closed_session_does_nothing_more(world: World) -> Outcome {
    let (session, other) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    session.close(world.patience()).await?;
    let sent = session.send(vec![message(&topic, "x")].into()).await;
    let joined = world.join(&*session, &topic, "g").await;
    let declared = world.declare(&*session, &topic, &["late"]).await;
    check!(joined.is_err() && declared.is_err(), "a closed session subscribes or declares");
    let kind = sent.err().map(|error| error.kind());
    let ended = matches!(kind, Some(ErrorKind::Closed | ErrorKind::Disconnected));
    check!(ended, "sending on a closed session says {kind:?}");
    world.publish_texts(&*other, &topic, &["end"]).await?;
    let mut stream = world.join(&*other, &topic, "g").await?;
    let first = stream.next().await?;
    check_eq!(text(&first.message.payload), "end", "the first message");
    stream.ack(first).await
}

async fn closing_twice_is_no_error(world: World) -> Outcome {
    let session = world.connect().await?;
    session.close(world.patience()).await?;
    session.close(Duration::ZERO).await?;
    Ok(())
}
