//! What the processes of these tests do.

use std::time::Duration;

use busline::{Bus, Delivery, Position, Result};

use crate::harness::wire::{Decision, Got, Settle};
use crate::harness::worker::{Stop, report};
use crate::harness::{Event, number};

/// Takes this many deliveries and holds them until they are lost, or it is told to stop; then it
/// acks them and says what came of it.
pub(crate) async fn hold(
    bus: &Bus,
    topic: &str,
    group: &str,
    lease: Duration,
    count: usize,
    mut stop: Stop,
) -> Result<()> {
    let builder = bus.group(topic, group)?.start(Position::Earliest).lease(lease);
    let mut consumer = builder.max_in_flight(count as u32).subscribe().await?;
    report(&Event::Ready { end: 0 });
    let mut held = Vec::new();
    while held.len() < count {
        let chunk = consumer.next_chunk().await?.unwrap_or_default();
        report(&Event::Took { got: chunk.iter().map(got).collect() });
        held.extend(chunk);
    }
    tokio::select! {
        () = all_lost(&held) => {}
        () = stop.wait() => {}
    }
    let told = held.iter().filter(|delivery| delivery.is_lost()).count();
    let mut settles = Vec::new();
    for delivery in held {
        let Got { offset, attempt, decision } = got(&delivery);
        let error = delivery.ack().await.err().map(|error| error.kind().as_str().to_owned());
        settles.push(Settle { offset, attempt, decision, error });
    }
    report(&Event::Lost { told, settles });
    stop.wait().await;
    report(&Event::Done);
    Ok(())
}

async fn all_lost(held: &[Delivery]) {
    for delivery in held {
        delivery.lost().await;
    }
}

fn got(delivery: &Delivery) -> Got {
    let offset = number(delivery.offset.as_ref().unwrap());
    Got { offset, attempt: delivery.attempt.number, decision: Decision::Ack }
}

/// Acks what comes and says how long it was under way; the payload says when it was sent.
pub(crate) async fn time(bus: &Bus, topic: &str, group: &str, mut stop: Stop) -> Result<()> {
    let mut consumer = bus.group(topic, group)?.start(Position::Earliest).subscribe().await?;
    report(&Event::Ready { end: 0 });
    loop {
        let chunk = tokio::select! {
            chunk = consumer.next_chunk() => chunk?.unwrap_or_default(),
            () = stop.wait() => break,
        };
        let us = machine_us();
        for delivery in chunk {
            let text = std::str::from_utf8(&delivery.message.payload).unwrap();
            let sent: u64 = text.parse().unwrap();
            report(&Event::Delay { us: us.saturating_sub(sent) });
            delivery.ack().await?;
        }
    }
    report(&Event::Done);
    Ok(())
}

/// A clock that all processes of the machine share, in microseconds.
pub(crate) fn machine_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}
