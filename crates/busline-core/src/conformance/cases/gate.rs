//! Cases of the confirm gate over a real session.

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, message};
use crate::delivery::Outcome as Settle;
use crate::error::{Error, ErrorKind};
use crate::gate::ConfirmGate;
use crate::receipt::{PendingReceipt, PublishError};
use crate::transport::{Batch, Role};

registry! {
    ConfirmGate what_a_handler_published_is_stored_before_the_ack
        "When the gate lets an ack through, everything published through it has arrived.";
    ConfirmGate a_failed_publish_turns_the_ack_into_a_retry
        "When one publish failed the delivery comes again instead of being acked.";
    ConfirmGate an_ack_waits_for_an_outstanding_receipt
        "While a receipt is outstanding the delivery is not acked and stays with its member.";
    ConfirmGate an_unroutable_publish_is_returned_and_acked
        "A mandatory message without a group is handed back and the delivery is acked."
        also Unroutable;
}

async fn what_a_handler_published_is_stored_before_the_ack(world: World) -> Outcome {
    let (publisher, session) = (world.connect_as(Role::Publish).await?, world.connect().await?);
    let (from, to) = (world.topic("in")?, world.topic("out")?);
    world.declare(&*session, &from, &["g"]).await?;
    world.declare(&*session, &to, &["g"]).await?;
    world.publish_texts(&*publisher, &from, &["request"]).await?;
    let mut stream = world.join(&*session, &from, "g").await?;
    let delivery = stream.next().await?;
    let gate = ConfirmGate::new();
    for text in ["1", "2"] {
        let batch = vec![message(&to, text)].into();
        gate.send(batch, async |batch| publisher.send(batch).await).await?;
    }
    let verdict = world.within("the gate", gate.close(Settle::Ack, None, drop)).await?;
    check_eq!(verdict.outcome, Settle::Ack, "what the gate decided");
    delivery.settle(verdict.outcome).await?;
    stream.nothing().await?;
    world.join(&*session, &to, "g").await?.expect(&["1", "2"]).await
}

async fn a_failed_publish_turns_the_ack_into_a_retry(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("in")?;
    world.declare(&*session, &topic, &["g"]).await?;
    world.publish_texts(&*session, &topic, &["request"]).await?;
    let mut stream = world.join(&*session, &topic, "g").await?;
    let delivery = stream.next().await?;
    let gate = ConfirmGate::new();
    let nacked = PublishError::Nacked(Error::new(ErrorKind::Other, "the broker said no"));
    let receipts = vec![PendingReceipt::ready(Err(nacked))];
    let batch: Batch = vec![message(&topic, "not sent")].into();
    gate.send(batch, async |_| Ok(receipts)).await?;
    let verdict = gate.close(Settle::Ack, None, drop).await;
    check_eq!(verdict.outcome, Settle::Retry { after: None }, "what the gate decided");
    delivery.settle(verdict.outcome).await?;
    let again = stream.next().await?;
    check_text(&again, "request")?;
    check_eq!(again.attempt.number, 2, "the attempt after a failed publish");
    stream.ack(again).await
}

async fn an_ack_waits_for_an_outstanding_receipt(world: World) -> Outcome {
    let (holder, other) = (world.connect().await?, world.connect().await?);
    let topic = world.topic("in")?;
    world.declare(&*holder, &topic, &["g"]).await?;
    world.publish_texts(&*holder, &topic, &["request"]).await?;
    let mut stream = world.join(&*holder, &topic, "g").await?;
    let delivery = stream.next().await?;
    let gate = ConfirmGate::new();
    let (_unanswered, receipt) = PendingReceipt::channel();
    let batch: Batch = vec![message(&topic, "not sent")].into();
    gate.send(batch, async |_| Ok(vec![receipt])).await?;
    let closing = tokio::time::timeout(world.grace(), gate.close(Settle::Ack, None, drop)).await;
    check!(closing.is_err(), "the gate did not wait for an outstanding receipt");
    // The process dies while it waits: the request must not be lost with it.
    world.kill(holder).await?;
    drop((delivery, stream));
    let mut stream = world.join(&*other, &topic, "g").await?;
    let again = stream.next().await?;
    check_text(&again, "request")?;
    stream.ack(again).await
}

async fn an_unroutable_publish_is_returned_and_acked(world: World) -> Outcome {
    let session = world.connect().await?;
    let (from, to) = (world.topic("in")?, world.topic("out")?);
    world.declare(&*session, &from, &["g"]).await?;
    world.declare(&*session, &to, &[]).await?;
    world.publish_texts(&*session, &from, &["request"]).await?;
    let mut stream = world.join(&*session, &from, "g").await?;
    let delivery = stream.next().await?;
    let gate = ConfirmGate::new();
    let batch = Batch { messages: vec![message(&to, "nobody wants it")], mandatory: true };
    gate.send(batch, async |batch| session.send(batch).await).await?;
    let mut returned = Vec::new();
    let closing = gate.close(Settle::Ack, None, |message| returned.push(message.payload));
    let verdict = world.within("the gate", closing).await?;
    check_eq!(verdict.outcome, Settle::Ack, "what the gate decided");
    check_eq!(returned, ["nobody wants it"], "what came back");
    delivery.settle(verdict.outcome).await?;
    stream.nothing().await
}
