//! Failing on purpose: a retry, a rejection, the dead letter, and putting it back.
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::time::Duration;

use busline::{Bus, Position, Result, dead};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bus = Bus::open(&format!("file:{}", directory.path().display())).await?;
    let publisher = bus.publisher("orders").await?;
    let mut consumer = bus.group("orders", "billing")?.subscribe().await?;
    publisher.publish(publisher.message("order.placed", "not a number")?).await?;

    // The first attempt fails for a while, the second for good.
    while let Some(delivery) = consumer.next().await? {
        println!("attempt {} of {}", delivery.attempt.number, delivery.message.key);
        if delivery.attempt.number == 1 {
            delivery.retry(Duration::from_millis(20)).await?;
        } else {
            delivery.reject("the amount is not a number").await?;
            break;
        }
    }

    // The dead letter keeps body, key and headers, and says why it is there.
    let letters = dead::dead_topic(&"billing".try_into()?, publisher.topic())?;
    let group = bus.group(&letters, dead::DEAD_GROUP)?.start(Position::Earliest);
    let mut dead_letters = group.join().await?;
    let Some(letter) = dead_letters.next().await? else { return Ok(()) };
    println!("{:?}", letter.message.headers.get(dead::HEADER_REASON));

    // Put back: published first, settled after the receipt. Only its group sees it again.
    let Some(again) = dead::redriven(letter.message.clone()) else { return Ok(()) };
    publisher.publish(again).await?;
    letter.ack().await?;
    if let Some(delivery) = consumer.next().await? {
        println!("back after {} redrive", dead::redrives(&delivery.message));
        delivery.ack().await?;
    }
    Ok(())
}
