//! Reading history: from the start, by pattern, from a kept offset, and following with a limit.
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::time::Duration;

use busline::transport::Batch;
use busline::{Bus, Codec, Patterns, Position, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bus = Bus::open(&format!("file:{}", directory.path().display())).await?;
    let publisher = bus.publisher("quakes").await?;

    // One batch, one receipt a message: accepted first, receipted later.
    let mut batch = Batch::default();
    for (net, magnitude) in [("us", 5.3), ("ci", 0.8), ("us", 4.7), ("ak", 1.9)] {
        let band = if magnitude < 2.5 { "minor" } else { "strong" };
        let message = publisher.message(format!("quake.{net}.{band}"), "")?;
        batch.messages.push(message.encode(Codec::Json, &magnitude)?);
    }
    for receipt in publisher.send(batch).await? {
        receipt.await?;
    }

    let strong: Patterns = ["quake.*.strong".parse()?].into_iter().collect();
    let mut reader = bus.reader("quakes", Position::Earliest)?.patterns(strong).open().await?;
    let mut kept = None;
    while let Some(record) = reader.next().await? {
        let magnitude: f64 = record.message.decode()?;
        println!("{} {} {magnitude}", record.offset, record.message.key);
        kept = Some(record.offset.next()); // small enough to store with your own state
    }

    let from = kept.map_or(Position::Earliest, Position::Offset);
    let mut follower = bus.reader("quakes", from)?.open().await?;
    let more = tokio::time::timeout(Duration::from_millis(100), async {
        loop {
            let record = follower.follow().await?;
            println!("later: {}", record.message.key);
        }
    });
    match more.await {
        Ok(result) => result,
        Err(_) => bus.close(Duration::from_secs(5)).await, // nothing more came in time
    }
}
