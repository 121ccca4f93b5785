//! Publishers of numbered messages, and what a message must look like.

use std::collections::VecDeque;
use std::time::Duration;

use busline::{Bus, Error, ErrorKind, Message, PendingReceipt, Publisher, Receipt, Result};

use crate::harness::worker::{Stop, report};
use crate::harness::{Event, Random, number};

/// The keys that messages may have.
pub(crate) const KEYS: &[&str] = &["", "a", "a.b", "a.c.d", "b.x", "c.d.e", "quake.us.strong"];

/// The key and the text of message `index` of a publisher: anybody can tell.
pub(crate) fn content(name: &str, index: u64) -> (&'static str, String) {
    let seed = name.bytes().fold(index, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let mut random = Random::new(seed);
    let key = *random.pick(KEYS);
    let long = if random.once_in(50) { 20_000 } else { 200 };
    let filler = "x".repeat(random.below(long) as usize);
    (key, format!("{name}:{index}:{filler}"))
}

/// Who published this message, and its number.
pub(crate) fn origin(payload: &str) -> (String, u64) {
    let mut parts = payload.splitn(3, ':');
    let name = parts.next().unwrap().to_owned();
    (name, parts.next().unwrap().parse().unwrap())
}

/// Publishes singles and batches, several on their way at once, until it is stopped.
pub(crate) async fn publish(
    bus: &Bus,
    topic: &str,
    name: &str,
    seed: u64,
    stop: Stop,
) -> Result<()> {
    let mut random = Random::new(seed);
    let publisher = bus.publisher(topic).await?;
    let mut pending: VecDeque<(u64, Vec<PendingReceipt>)> = VecDeque::new();
    let mut next = 0;
    report(&Event::Ready { end: 0 });
    while !stop.is_set() {
        let count = if random.once_in(2) { 1 } else { 1 + random.below(12) };
        let batch: Result<Vec<Message>> =
            (next..next + count).map(|index| message(&publisher, name, index)).collect();
        report(&Event::Trying { first: next, count });
        pending.push_back((next, publisher.send(batch?).await?));
        next += count;
        let outstanding = random.below(4) as usize;
        while pending.len() > outstanding {
            receipts(pending.pop_front()).await?;
        }
        // A pace at which the members of a busy machine keep up.
        bus.clock().sleep(Duration::from_millis(random.below(20))).await;
    }
    while !pending.is_empty() {
        receipts(pending.pop_front()).await?;
    }
    bus.close(Duration::from_secs(30)).await?;
    report(&Event::Done);
    Ok(())
}

fn message(publisher: &Publisher, name: &str, index: u64) -> Result<Message> {
    let (key, text) = content(name, index);
    publisher.message(key, text)
}

async fn receipts(batch: Option<(u64, Vec<PendingReceipt>)>) -> Result<()> {
    let Some((first, receipts)) = batch else { return Ok(()) };
    let mut offsets = Vec::new();
    for receipt in receipts {
        match receipt.await {
            Ok(Receipt::Stored { offset: Some(offset) }) => offsets.push(number(&offset)),
            other => {
                return Err(Error::new(ErrorKind::Other, format!("no receipt but {other:?}")));
            }
        }
    }
    report(&Event::Stored { first, offsets });
    Ok(())
}
