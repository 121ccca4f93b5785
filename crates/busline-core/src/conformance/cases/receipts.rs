//! Cases of the durable receipt.

use futures_util::FutureExt;

use super::super::case::{Outcome, check, check_eq, registry};
use super::super::world::{World, check_text, message, numbered, slices};
use crate::capability::Capability;
use crate::message::Message;
use crate::offset::Position;
use crate::receipt::Receipt;
use crate::transport::{Batch, Read, Role};

registry! {
    DurableReceipt a_receipt_means_stored
        "Once a receipt is in, the message is there for whoever looks.";
    ReceiptOffset a_receipt_names_the_place
        "The offset of a receipt is the place where the message is read." also Replay;
    DurableReceipt receipts_come_in_the_order_of_the_batch
        "The receipt at an index of a batch is that of the message at this index." also Replay;
    DurableReceipt an_empty_batch_is_accepted
        "A batch without messages has no receipts and is no error.";
    DurableReceipt dropped_receipts_cancel_nothing
        "A message whose receipt nobody waits for is stored all the same.";
    DurableReceipt cancelled_before_acceptance_sends_nothing
        "A send that is dropped before it was accepted has sent nothing.";
    DurableReceipt what_was_receipted_survives_every_process
        "A message with a receipt is there after every process has died."
        durable Process;
    Deduplication a_message_id_is_stored_once
        "A message sent again with the same message id is stored once, and both have a receipt.";
    Deduplication other_message_ids_are_stored_each
        "Messages with other ids, and messages without one, are no duplicates.";
}

async fn a_receipt_means_stored(world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    let session = world.connect().await?;
    for text in ["one", "two", "three"] {
        world.publish_texts(&*publisher, &topic, &[text]).await?;
        if world.keeps(Capability::Replay) {
            let read = Read::new(topic.clone(), Position::Earliest);
            let mut reader = world.read(&*session, read).await?;
            let records = world.read_all(&mut *reader).await?;
            let last = records.last().map(|record| record.message.payload.clone());
            check!(
                last.is_some_and(|last| last == text),
                "'{text}' has a receipt and is not there"
            );
        }
    }
    world.join(&*session, &topic, "g").await?.expect(&["one", "two", "three"]).await
}

async fn a_receipt_names_the_place(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &[]).await?;
    let texts = numbered(20);
    let receipts = world.publish_texts(&*session, &topic, &slices(&texts)).await?;
    for (text, receipt) in texts.iter().zip(receipts) {
        let Receipt::Stored { offset: Some(offset) } = receipt else {
            check!(false, "a receipt of a log has no offset");
            continue;
        };
        let read = Read::new(topic.clone(), Position::Offset(offset.clone()));
        let records = world.read(&*session, read).await?.next().await?;
        let first = records.first().map(|record| (record.message.payload.clone(), &record.offset));
        check_eq!(
            first,
            Some((text.clone().into(), &offset)),
            "the record at the receipt's offset"
        );
    }
    Ok(())
}

async fn receipts_come_in_the_order_of_the_batch(world: World) -> Outcome {
    let session = world.connect().await?;
    let topics = [world.topic("a")?, world.topic("b")?];
    for topic in &topics {
        world.declare(&*session, topic, &[]).await?;
    }
    // Two topics in turn: a transport that sorts its batches must sort the receipts back.
    let texts = numbered(30);
    let numbered = texts.iter().enumerate();
    let to = |index: usize| topics.get(index % 2).unwrap_or(&topics[0]);
    let batch: Vec<_> = numbered.map(|(index, text)| message(to(index), text)).collect();
    let receipts = world.publish(&*session, batch).await?;
    for (index, (text, receipt)) in texts.iter().zip(receipts).enumerate() {
        let Receipt::Stored { offset: Some(offset) } = receipt else { continue };
        let read = Read::new(to(index).clone(), Position::Offset(offset));
        let records = world.read(&*session, read).await?.next().await?;
        let found = records.first().map(|record| record.message.payload.clone());
        check_eq!(found, Some(text.clone().into()), "the message of receipt {index}");
    }
    Ok(())
}

async fn an_empty_batch_is_accepted(world: World) -> Outcome {
    let session = world.connect().await?;
    let receipts = world.send(&*session, Batch::default()).await?;
    check_eq!(receipts.len(), 0, "receipts of nothing");
    Ok(())
}

async fn dropped_receipts_cancel_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let texts = numbered(40);
    for text in &texts {
        drop(session.send(vec![message(&topic, text)].into()).await?);
    }
    world.join(&*session, &topic, "g").await?.expect(&slices(&texts)).await
}

async fn cancelled_before_acceptance_sends_nothing(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let mut due = Vec::new();
    for text in numbered(20) {
        drop(session.send(vec![message(&topic, &format!("never polled {text}"))].into()));
        // Polled once: what is accepted by then is sent, and nothing else is.
        match session.send(vec![message(&topic, &text)].into()).now_or_never() {
            Some(accepted) => {
                accepted?;
                due.push(text);
            }
            None => world
                .publish_texts(&*session, &topic, &["after a cancelled send"])
                .await
                .map(|_| due.push("after a cancelled send".to_owned()))?,
        }
    }
    world.publish_texts(&*session, &topic, &["end"]).await?;
    due.push("end".to_owned());
    let mut stream = world.join(&*session, &topic, "g").await?;
    for text in due {
        let delivery = stream.next().await?;
        check_text(&delivery, &text)?;
        stream.ack(delivery).await?;
    }
    Ok(())
}

async fn what_was_receipted_survives_every_process(mut world: World) -> Outcome {
    let publisher = world.connect_as(Role::Publish).await?;
    let topic = world.topic("t")?;
    world.declare(&*publisher, &topic, &["g"]).await?;
    let texts = numbered(50);
    world.publish_texts(&*publisher, &topic, &slices(&texts)).await?;
    world.kill(publisher).await?;
    world.reopen().await?;
    let session = world.connect().await?;
    world.join(&*session, &topic, "g").await?.expect(&slices(&texts)).await
}

async fn a_message_id_is_stored_once(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let copy = || message(&topic, "once").message_id("the-id");
    world.publish(&*session, vec![copy(), copy()]).await?;
    world.publish(&*session, vec![copy(), message(&topic, "end")]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["once", "end"]).await
}

async fn other_message_ids_are_stored_each(world: World) -> Outcome {
    let session = world.connect().await?;
    let topic = world.topic("t")?;
    world.declare(&*session, &topic, &["g"]).await?;
    let with = |id: &'static str| message(&topic, id).message_id(id);
    let without = || -> Message { message(&topic, "none") };
    world.publish(&*session, vec![with("a"), with("b"), without(), without()]).await?;
    world.join(&*session, &topic, "g").await?.expect(&["a", "b", "none", "none"]).await
}
