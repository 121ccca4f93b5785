//! Members, broadcasts, readers, and one that keeps making and deleting things.

use std::time::Duration;

use busline::transport::DeleteIf;
use busline::{
    Bus, Consumer, Delivery, ErrorKind, GroupName, Outcome, Position, Record, Result, Settled,
    Topic,
};

use crate::harness::wire::{Decision, Got, Saw, Settle};
use crate::harness::worker::{Stop, report};
use crate::harness::{Event, Random, number};

/// A group of the test: its name, its patterns, its limit of attempts.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) patterns: &'static [&'static str],
    pub(crate) attempts_max: u32,
}

/// Every message matches the second.
pub(crate) const GROUPS: &[Spec] = &[
    Spec { name: "strict", patterns: &["a.#", "*.x", "#.strong"], attempts_max: 4 },
    Spec { name: "all", patterns: &[], attempts_max: 30 },
];

/// Consumes as a member, settling at random: it says what it will do, does it, and says what came
/// of it.
pub(crate) async fn consume(
    bus: &Bus,
    topic: &str,
    group: &str,
    seed: u64,
    mut stop: Stop,
) -> Result<()> {
    let mut random = Random::new(seed);
    let spec = GROUPS.iter().find(|spec| spec.name == group).unwrap();
    let in_flight = 1 + random.below(64) as u32;
    let mut builder = bus
        .group(topic, group)?
        .start(Position::Earliest)
        .attempts_max(spec.attempts_max)
        .max_in_flight(in_flight);
    for pattern in spec.patterns {
        builder = builder.pattern(*pattern)?;
    }
    let mut consumer = builder.subscribe().await?;
    report(&Event::Ready { end: 0 });
    let mut held = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = next_chunk(&mut consumer, &mut stop) => chunk?,
            // Nothing comes: it may be waiting for what is in hand.
            () = bus.clock().sleep(Duration::from_millis(50)), if !held.is_empty() => {
                settle(std::mem::take(&mut held)).await;
                continue;
            }
        };
        let Some(chunk) = chunk else { break };
        assert!(chunk.len() + held.len() <= in_flight as usize, "more than asked for");
        let chunk: Vec<_> =
            chunk.into_iter().map(|delivery| (decide(&mut random), delivery)).collect();
        let got = chunk.iter().map(|(decision, delivery)| got(*decision, delivery)).collect();
        report(&Event::Took { got });
        held.extend(chunk);
        // Some stay in hand, so that a kill finds them there; a full hand would get no more.
        let keep = random.below(4).min(u64::from(in_flight) - 1) as usize;
        let from = held.len().saturating_sub(keep);
        let later = held.split_off(from);
        settle(std::mem::replace(&mut held, later)).await;
    }
    settle(held).await;
    bus.close(Duration::from_secs(30)).await?;
    report(&Event::Done);
    Ok(())
}

/// The next chunk; after a stop what is left, then nothing.
async fn next_chunk(consumer: &mut Consumer, stop: &mut Stop) -> Result<Option<Vec<Delivery>>> {
    tokio::select! {
        chunk = consumer.next_chunk() => return chunk,
        () = stop.wait() => {}
    }
    consumer.stop().await?;
    consumer.next_chunk().await
}

fn decide(random: &mut Random) -> Decision {
    match random.below(100) {
        0..=5 => Decision::Retry(0),
        6..=11 => Decision::Retry(1 + random.below(40)),
        12..=16 => Decision::Drop,
        17..=20 => Decision::Reject,
        21..=28 => Decision::Quiet,
        _ => Decision::Ack,
    }
}

fn got(decision: Decision, delivery: &Delivery) -> Got {
    let offset = number(delivery.offset.as_ref().unwrap());
    assert!(delivery.attempt.exact && !delivery.is_lost(), "{delivery:?}");
    Got { offset, attempt: delivery.attempt.number, decision }
}

/// Settles all as decided, awaits the answers and reports them.
pub(crate) async fn settle(deliveries: Vec<(Decision, Delivery)>) {
    let mut answers = Vec::new();
    for (decision, delivery) in deliveries {
        let got = got(decision, &delivery);
        if let Some(settled) = settle_one(decision, delivery) {
            answers.push((got, settled));
        }
    }
    let mut settles = Vec::new();
    for (Got { offset, attempt, decision }, settled) in answers {
        let error = settled.await.err().map(|error| error.to_string());
        settles.push(Settle { offset, attempt, decision, error });
    }
    if !settles.is_empty() {
        report(&Event::Settled { settles });
    }
}

fn settle_one(decision: Decision, delivery: Delivery) -> Option<Settled> {
    match decision {
        Decision::Ack => Some(delivery.ack()),
        Decision::Retry(0) => Some(delivery.retry(None)),
        Decision::Retry(ms) => Some(delivery.retry(Duration::from_millis(ms))),
        Decision::Reject => Some(delivery.reject("a test rejects it")),
        Decision::Quiet => {
            delivery.settle_quietly(Outcome::Ack);
            None
        }
        Decision::Drop => None,
    }
}

/// Consumes alone, in order, and acks.
pub(crate) async fn broadcast(bus: &Bus, topic: &str, mut stop: Stop) -> Result<()> {
    let mut consumer = bus.broadcast(topic)?.max_in_flight(100).subscribe().await?;
    let end = bus.reader(topic, Position::Latest)?.open().await?.position();
    report(&Event::Ready { end: number(&end.unwrap()) });
    while let Some(chunk) = next_chunk(&mut consumer, &mut stop).await? {
        let records = chunk.iter().map(|delivery| {
            let offset = delivery.offset.clone().unwrap();
            saw(&offset, delivery.attempt.number, &delivery.message.payload)
        });
        report(&Event::Saw { records: records.collect() });
        for delivery in chunk {
            delivery.ack().await?;
        }
    }
    bus.close(Duration::from_secs(30)).await?;
    report(&Event::Done);
    Ok(())
}

fn saw(offset: &busline::Offset, attempt: u32, payload: &[u8]) -> Saw {
    let payload = String::from_utf8(payload.to_vec()).unwrap();
    Saw { offset: number(offset), attempt, text: offset.to_string(), payload }
}

/// Reads from an offset that the user kept, and follows.
pub(crate) async fn follow(
    bus: &Bus,
    topic: &str,
    from: Option<String>,
    mut stop: Stop,
) -> Result<()> {
    bus.publisher(topic).await?;
    let from = match from {
        Some(text) => Position::Offset(text.parse()?),
        None => Position::Earliest,
    };
    let mut reader = bus.reader(topic, from)?.chunk_max(64).open().await?;
    report(&Event::Ready { end: 0 });
    let mut stopped = false;
    loop {
        let mut records: Vec<Record> = Vec::new();
        while let Some(record) = reader.next().await? {
            records.push(record);
            if records.len() == 64 {
                break;
            }
        }
        if records.is_empty() {
            if stopped {
                break;
            }
            tokio::select! {
                record = reader.follow() => records.push(record?),
                // What is there by then is still read.
                () = stop.wait() => stopped = true,
            }
        }
        let records: Vec<_> =
            records.iter().map(|r| saw(&r.offset, 0, &r.message.payload)).collect();
        if !records.is_empty() {
            report(&Event::Saw { records });
        }
    }
    report(&Event::Done);
    Ok(())
}

/// Makes groups and topics, uses and deletes them, beside all the others.
pub(crate) async fn churn(bus: &Bus, topic: &str, name: &str, seed: u64, stop: Stop) -> Result<()> {
    let mut random = Random::new(seed);
    bus.publisher(topic).await?;
    report(&Event::Ready { end: 0 });
    let admin = bus.admin().await?;
    let shared = Topic::new(topic)?;
    for round in 0.. {
        if stop.is_set() {
            break;
        }
        // Some names are shared with others who do the same.
        let own = format!("churn-{name}-{round}");
        let group = if random.once_in(2) { "churn-shared" } else { own.as_str() };
        let group = GroupName::new(group)?;
        let start = if random.once_in(2) { Position::Earliest } else { Position::Latest };
        let consumer = bus.group(shared.clone(), group.clone())?.start(start).subscribe().await;
        if let Some(mut consumer) = or_gone(consumer)? {
            let a_while = Duration::from_millis(random.below(30));
            tokio::select! {
                chunk = consumer.next_chunk() => drop(or_gone(chunk)?),
                () = bus.clock().sleep(a_while) => {}
            }
        }
        or_gone(admin.delete_group(&shared, &group, DeleteIf::default()).await)?;
        let other = Topic::new(format!("churn-{name}"))?;
        let publisher = bus.publisher(other.clone()).await?;
        publisher.publish(publisher.message("k", "v")?).await?;
        drop(publisher);
        or_gone(admin.delete_topic(&other, DeleteIf::default()).await)?;
        bus.clock().sleep(Duration::from_millis(random.below(50))).await;
    }
    report(&Event::Done);
    Ok(())
}

/// Somebody else may delete a group at any moment.
fn or_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
