//! The bus, through the interface that programs use.

use std::collections::VecDeque;

use busline::{Bus, ErrorKind, Position, Receipt, Topic};
use bytes::Bytes;

use super::{Of, Report};
use crate::app::App;
use crate::args::BenchArgs;
use crate::exit::{self, Failure, Outcome};
use crate::progress::Progress;

/// The group that consumes.
const GROUP: &str = "bench";

/// The group that is to consume: declared first, since not every bus lets one start in the past.
pub(super) async fn declare(bus: &Bus, topic: &Topic) -> Outcome {
    Ok(bus.group(topic.clone(), GROUP)?.declare().await?)
}

/// Publishes everything, pipelined, and waits for every receipt.
pub(super) async fn publish(
    app: &App,
    args: &BenchArgs,
    bus: &Bus,
    topic: &Topic,
    report: &mut Report,
) -> Outcome {
    let publisher = bus.publisher(topic.clone()).await?;
    let payload = Bytes::from(vec![b'x'; args.size as usize]);
    let mut progress = Progress::new(app, "published", Some(args.messages));
    let mut pending = VecDeque::new();
    let started = app.clock.monotonic();
    let mut sent = 0;
    while sent < args.messages {
        let batch = u64::from(args.batch_size).min(args.messages - sent);
        let messages: Result<Vec<_>, _> =
            (0..batch).map(|_| publisher.message("bench.key", payload.clone())).collect();
        pending.extend(publisher.send(messages?).await?);
        sent += batch;
        progress.advance(app, batch);
        while pending.len() > 65_536 {
            stored(pending.pop_front()).await?;
        }
    }
    while !pending.is_empty() {
        stored(pending.pop_front()).await?;
    }
    let took = app.clock.monotonic() - started;
    report.add_rate(Of::Bus, "publish, pipelined", args.messages, took);
    Ok(())
}

async fn stored(receipt: Option<busline::PendingReceipt>) -> Outcome {
    match receipt {
        None => Ok(()),
        Some(receipt) => match receipt.await? {
            Receipt::Stored { .. } => Ok(()),
            _ => Err(Failure::new(exit::PROBLEM, "a message was not stored")),
        },
    }
}

/// Reads everything back, where there is a log.
pub(super) async fn read(
    app: &App,
    args: &BenchArgs,
    bus: &Bus,
    topic: &Topic,
    report: &mut Report,
) -> Outcome {
    let mut reader = match bus.reader(topic.clone(), Position::Earliest)?.open().await {
        Err(error) if error.kind() == ErrorKind::Refused => return Ok(()),
        reader => reader?,
    };
    let started = app.clock.monotonic();
    let mut count = 0;
    while reader.next().await?.is_some() {
        count += 1;
    }
    let took = app.clock.monotonic() - started;
    check(args, count, "read")?;
    report.add_rate(Of::Bus, "read", count, took);
    Ok(())
}

/// Consumes everything as one member, settling each.
pub(super) async fn consume(
    app: &App,
    args: &BenchArgs,
    bus: &Bus,
    topic: &Topic,
    report: &mut Report,
) -> Outcome {
    let group = bus.group(topic.clone(), GROUP)?.max_in_flight(4096);
    let mut consumer = group.join().await?;
    let mut progress = Progress::new(app, "consumed", Some(args.messages));
    let started = app.clock.monotonic();
    let mut last = None;
    let mut count = 0;
    while count < args.messages {
        let Some(chunk) = consumer.next_chunk().await? else { break };
        count += chunk.len() as u64;
        progress.advance(app, chunk.len() as u64);
        for delivery in chunk {
            last = Some(delivery.ack());
        }
    }
    // Settles are committed in order: the last answer stands for all.
    if let Some(settled) = last {
        settled.await?;
    }
    let took = app.clock.monotonic() - started;
    consumer.stop().await?;
    check(args, count, "consumed")?;
    report.add_rate(Of::Bus, "consume and ack", count, took);
    Ok(())
}

/// One message at a time: to its receipt, and to a consumer that waits for it.
pub(super) async fn latencies(
    app: &App,
    args: &BenchArgs,
    bus: &Bus,
    topic: &Topic,
    report: &mut Report,
) -> Outcome {
    let publisher = bus.publisher(topic.clone()).await?;
    let payload = Bytes::from(vec![b'x'; args.size as usize]);
    let group = bus.group(topic.clone(), "bench-latency")?.start(Position::Latest);
    let mut consumer = group.subscribe().await?;
    let mut receipts = Vec::with_capacity(args.samples as usize);
    let mut deliveries = Vec::with_capacity(args.samples as usize);
    for _ in 0..args.samples {
        let message = publisher.message("bench.key", payload.clone())?;
        let started = app.clock.monotonic();
        let publish = async {
            let receipt = publisher.publish(message).await;
            (receipt, app.clock.monotonic() - started)
        };
        let deliver = async {
            let delivery = consumer.next().await;
            (delivery, app.clock.monotonic() - started)
        };
        let ((receipt, to_receipt), (delivery, to_delivery)) = tokio::join!(publish, deliver);
        receipt?;
        if let Some(delivery) = delivery? {
            delivery.ack().await?;
        }
        receipts.push(to_receipt);
        deliveries.push(to_delivery);
    }
    consumer.stop().await?;
    report.add_latency(Of::Bus, "one message to its receipt", receipts);
    report.add_latency(Of::Bus, "one message to a waiting consumer", deliveries);
    Ok(())
}

fn check(args: &BenchArgs, count: u64, what: &str) -> Outcome {
    if count == args.messages {
        return Ok(());
    }
    let text = format!("{count} of {} messages were {what}", args.messages);
    Err(Failure::new(exit::PROBLEM, text))
}
