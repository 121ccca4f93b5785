//! The log style: on memory, on files, in a database, and on the broker's streams where there is a broker, by URL alone.

mod blocking;
mod reading;
mod third;
mod trouble;
mod waiting;

use std::time::Duration;

use busline::log::{Consumer, Producer};
use busline::{Bus, Record};

use crate::python::ground::Ground;

/// A bus, and what has to be kept for as long as it is used.
struct World {
    url: String,
    bus: Bus,
    _ground: Option<Ground>,
    _directory: Option<tempfile::TempDir>,
}

impl World {
    async fn memory() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self::at(format!("memory:log-{count}")).await
    }

    async fn file() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = crate::harness::url(directory.path(), "sync=os");
        Self { _directory: Some(directory), ..Self::at(url).await }
    }

    async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}?sync=os", directory.path().join("bus.db").display());
        Self { _directory: Some(directory), ..Self::at(url).await }
    }

    async fn at(url: String) -> Self {
        let bus = Bus::open(&url).await.unwrap();
        Self { url, bus, _ground: None, _directory: None }
    }

    /// One of each kind.
    async fn all() -> Vec<Self> {
        let mut all = vec![Self::memory().await, Self::file().await, Self::sqlite().await];
        if let Some(ground) = Ground::find() {
            let url = format!("{}?replay=true", ground.url());
            all.push(Self { _ground: Some(ground), ..Self::at(url).await });
        }
        all
    }

    async fn producer(&self, topic: &str) -> Producer {
        Producer::on(&self.bus, topic).await.unwrap()
    }

    /// A consumer that reads the log as it is now.
    fn consumer(&self, topic: &str) -> Consumer {
        Consumer::on(&self.bus, topic).unwrap().timeout(Duration::ZERO)
    }
}

/// Sends `n` from `from` on; each tenth is of the category `rare.one`, the others are `base`.
async fn send(producer: &Producer, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let category = if n % 10 == 9 { "rare.one" } else { "base" };
        producer.send(category, n.to_string()).await.unwrap();
    }
}

/// The number that a record carries.
fn n(record: &Record) -> u64 {
    std::str::from_utf8(&record.message.payload).unwrap().parse().unwrap()
}

/// What is left to read.
async fn rest(consumer: &mut Consumer) -> Vec<u64> {
    let mut rest = Vec::new();
    while let Some(record) = consumer.next().await.unwrap() {
        rest.push(n(&record));
    }
    rest
}
