//! The same search as a program makes it: a consumer of the log style on `file:`, beside reading all of it.

use std::time::Duration;

use busline::log::{Consumer, Producer};
use busline::{Bus, Message};

use crate::log::failed;
use crate::measure::{Samples, Timer};
use crate::payload::Payload;
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

const TOPIC: &str = "bench";
const CATEGORY: &str = "rare";
/// That of all the others: a bus of Hermes has two categories.
const OTHER: &str = "base";
/// The bytes of body of a message.
const BODY_LEN: usize = 100;
/// How many are of the category.
const RARE: u64 = 10;

/// What the row says.
pub(crate) fn work(messages: u64) -> String {
    format!("find_next, ten among {messages} of another category, {BODY_LEN} B")
}

/// Measures it on a bus of so many messages.
pub(crate) fn run(setup: &Setup, report: &mut Report, messages: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(measure(setup, report, messages))
}

async fn measure(setup: &Setup, report: &mut Report, messages: u64) -> Result<()> {
    let dir = setup.fresh("category")?;
    let bus = Bus::open(&format!("file:{}?sync=os", dir.display())).await.map_err(failed)?;
    publish(&bus, messages).await?;
    // Once before, so that neither has the pages to fetch.
    find(&bus).await?;
    let mut finds = Samples::default();
    for _ in 0..5 {
        finds.add(1e3 * find(&bus).await?.as_secs_f64());
    }
    let reads = 1e3 * read(&bus, messages).await?.as_secs_f64();
    report.add(Figure {
        table: "A rare category, by a consumer of the log style",
        work: work(messages),
        durability: "",
        unit: "ms",
        busline: finds.median(),
        beside: ("a consumer that reads all", reads),
    });
    bus.close(Duration::from_secs(60)).await.map_err(failed)?;
    remove(&dir)
}

async fn publish(bus: &Bus, messages: u64) -> Result<()> {
    const BATCH_LEN: u64 = 1000;
    let producer = Producer::on(bus, TOPIC).await.map_err(failed)?;
    let publisher = producer.publisher();
    let mut payload = Payload::new(BODY_LEN);
    let tenth = messages / RARE;
    for first in (0..messages).step_by(1000) {
        let mut batch: Vec<Message> = Vec::new();
        for number in first..messages.min(first + BATCH_LEN) {
            let (_, body) = payload.message(number);
            let key = if number % tenth == tenth / 2 { CATEGORY } else { OTHER };
            batch.push(publisher.message(key, body.to_vec()).map_err(failed)?);
        }
        for receipt in publisher.send(batch).await.map_err(failed)? {
            receipt.await.map_err(failed)?;
        }
    }
    Ok(())
}

async fn find(bus: &Bus) -> Result<Duration> {
    let timer = Timer::start();
    let mut consumer = consumer(bus)?;
    let mut found = 0;
    while consumer.find_next(CATEGORY).await.map_err(failed)?.is_some() {
        found += 1;
    }
    if found == RARE { Ok(timer.took()) } else { Err(format!("found {found} of {RARE}")) }
}

async fn read(bus: &Bus, messages: u64) -> Result<Duration> {
    let timer = Timer::start();
    let mut consumer = consumer(bus)?;
    let (mut read, mut found) = (0, 0);
    while let Some(record) = consumer.next().await.map_err(failed)? {
        read += 1;
        found += u64::from(record.message.key.as_str() == CATEGORY);
    }
    if (read, found) == (messages, RARE) { Ok(timer.took()) } else { Err(format!("read {read}")) }
}

fn consumer(bus: &Bus) -> Result<Consumer> {
    Ok(Consumer::on(bus, TOPIC).map_err(failed)?.timeout(Duration::ZERO))
}
