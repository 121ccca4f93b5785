//! Futures that are dropped at random moments lose nothing and double nothing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::Poll;

use busline::{Position, Receipt};

use super::*;
use crate::harness::{Random, is_long};

/// Polls a future this many times, letting others run in between, then drops it.
async fn poll_at_most<T>(polls: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled =
            std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(result) = polled {
            return Some(result);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_send_and_next_at_any_moment_loses_and_doubles_nothing() {
    let mut random = Random::for_test("cancel");
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "sync=os&window=8").await;
    let publisher = bus.publisher("t").await.unwrap();
    let group = || bus.group("t", "g").unwrap().start(Position::Earliest).max_in_flight(5);
    let mut consumer = group().subscribe().await.unwrap();
    let rounds = if is_long() { 20_000 } else { 3000 };
    let (mut accepted, mut dropped, mut seen) = (BTreeMap::new(), 0, BTreeMap::new());
    let mut pending = Vec::new();
    for round in 0..rounds {
        let name = format!("m{round}");
        let batch: Vec<_> = (0..1 + random.below(3))
            .map(|part| publisher.message("k", format!("{name}.{part}")).unwrap())
            .collect();
        let count = batch.len();
        match poll_at_most(random.below(6), publisher.send(batch)).await {
            Some(receipts) => {
                accepted.insert(name, count);
                pending.extend(receipts.unwrap());
            }
            None => dropped += 1,
        }
        if random.once_in(20) {
            // As a service that restarts its consumer.
            drop(std::mem::replace(&mut consumer, group().subscribe().await.unwrap()));
        }
        while let Some(delivery) = poll_at_most(random.below(12), consumer.next()).await {
            settle(delivery.unwrap().unwrap(), &mut seen).await;
        }
        if random.once_in(10) {
            for receipt in pending.drain(..) {
                assert!(matches!(receipt.await, Ok(Receipt::Stored { .. })));
            }
        }
    }
    for receipt in pending {
        assert!(matches!(receipt.await, Ok(Receipt::Stored { .. })));
    }
    let log = read(&bus, "t").await;
    // What was accepted is there once, what was not is not there.
    let mut expected: Vec<String> = accepted
        .iter()
        .flat_map(|(name, count)| (0..*count).map(move |part| format!("{name}.{part}")))
        .collect();
    let mut found: Vec<_> = texts(&log).iter().map(|text| (*text).to_owned()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    while seen.len() < log.len() {
        settle(next(&mut consumer).await, &mut seen).await;
    }
    stays_pending("everything was settled", consumer.next()).await;
    println!("{rounds} rounds: {} batches sent, {dropped} sends dropped", accepted.len());
    assert!(accepted.len() > 100 && dropped > 100);
    let info = bus.admin().await.unwrap().groups(None).await.unwrap().remove(0);
    assert_eq!(info.acked, log.len() as u64, "{info:?}");
    assert_eq!(info.redelivered, 0, "nothing that was not seen counts as an attempt: {info:?}");
}

/// Acks what came; nothing comes twice.
async fn settle(delivery: Delivery, seen: &mut BTreeMap<u64, u32>) {
    let offset = number(delivery.offset.as_ref().unwrap());
    assert_eq!(delivery.attempt.number, 1, "{delivery:?}");
    assert_eq!(seen.insert(offset, 1), None, "{offset} came again");
    delivery.ack().await.unwrap();
}
