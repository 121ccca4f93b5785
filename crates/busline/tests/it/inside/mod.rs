//! One process and its sessions: clocks that jump, media that fail, logs that shrink, futures that
//! are dropped, and things that are deleted while they are used.

mod cancel;
mod clocks;
mod faults;
mod flow;
mod lifecycle;
mod retention;
mod steps;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline::{
    Bus, BusConfig, Clock, Consumer, Delivery, Error, ErrorKind, ManualClock, Position,
    PublishError, Published, Publisher, Receipt, Record, SystemClock, Timestamp,
};
use busline_log::storage::Storage;
use busline_transports::file::{FileConfig, FileTransport};

use crate::harness::{DEADLINE, now, number};

/// Long enough for whatever is about to happen, mostly; nothing fails when it is not.
const A_WHILE: Duration = Duration::from_millis(150);

/// A bus of the file system.
async fn open(directory: &Path, options: &str) -> Bus {
    Bus::open(&crate::harness::url(directory, options)).await.unwrap()
}

/// A bus on a storage of the test.
async fn open_on(storage: Arc<dyn Storage>, config: FileConfig) -> Bus {
    let transport = Arc::new(FileTransport::on(config, storage));
    Bus::over(vec![transport], BusConfig::new("file:test"), SystemClock::shared()).await.unwrap()
}

/// A bus whose time is moved by hand.
async fn open_at(config: FileConfig, clock: &ManualClock) -> Bus {
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let transport = Arc::new(FileTransport::new(config).with_clock(Arc::clone(&clock)));
    Bus::over(vec![transport], BusConfig::new("file:test"), clock).await.unwrap()
}

fn clock_at(unix_s: i64) -> ManualClock {
    ManualClock::new(Timestamp::from_unix_ms(unix_s * 1000))
}

/// Waits; the deadline fails the test.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Publishes one message; its number in the log.
async fn publish(publisher: &Publisher, key: &str, payload: impl Into<bytes::Bytes>) -> u64 {
    stored(publisher.publish(publisher.message(key, payload).unwrap()).await)
}

/// Publishes numbered messages in one batch.
async fn publish_many(publisher: &Publisher, texts: impl IntoIterator<Item = String>) {
    let batch = texts.into_iter().map(|text| publisher.message("k", text).unwrap());
    for receipt in publisher.send(batch.collect::<Vec<_>>()).await.unwrap() {
        stored(receipt.await);
    }
}

fn stored(published: Published) -> u64 {
    match published {
        Ok(Receipt::Stored { offset: Some(offset) }) => number(&offset),
        other => panic!("{other:?}"),
    }
}

async fn next(consumer: &mut Consumer) -> Delivery {
    soon("the next delivery", consumer.next()).await.unwrap().unwrap()
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.payload).unwrap()
}

async fn read(bus: &Bus, topic: &str) -> Vec<Record> {
    let mut reader = bus.reader(topic, Position::Earliest).unwrap().open().await.unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        records.push(record);
    }
    records
}

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|r| std::str::from_utf8(&r.message.payload).unwrap()).collect()
}

/// Polls a future often enough for everything else to make progress; it must stay pending.
async fn stays_pending<T: std::fmt::Debug>(what: &str, future: impl Future<Output = T>) {
    if let Ok(ready) = tokio::time::timeout(A_WHILE, future).await {
        panic!("{what}: {ready:?}");
    }
}

fn kind(error: &Error) -> ErrorKind {
    error.kind()
}

fn failed(published: Published) -> PublishError {
    published.expect_err("it must fail")
}
