//! The same work through the port, beside the log below it: what messages cost over records.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Batch, Connect, GroupSpec, Membership, Read, Role, Session, Subscribe, TopicSpec, Topology,
};
use busline_core::{GroupName, Key, Message, PendingReceipt, Position, Receipt, Topic};
use busline_log::SyncMode;
use bytes::Bytes;

use crate::log::{self, failed};
use crate::measure::{Latencies, Timer, per_second, timed};
use crate::payload::{Count, Payload};
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

const TABLE: &str = "Through the port (a session of file:), 100 B";
const PROCESS: &str = "crash of the process";
const POWER: &str = "loss of power, receipts pipelined";
const BATCH_LEN: u64 = 100;
/// Batches whose receipts may be outstanding.
const WINDOW: usize = 40;

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(measure(setup, report))
}

async fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let messages = setup.scaled(1_000_000, 100_000);
    let dir = setup.fresh("port")?;
    let [log_publish, log_read] = of_the_log(&dir.join("log"), messages)?;
    let mut add = |work: &str, durability, unit, busline, beside| {
        let work = work.to_owned();
        report.add(Figure { table: TABLE, work, durability, unit, busline, beside });
    };

    let session = open(&dir.join("os"), "os").await?;
    let published = publish(&*session, messages).await?;
    let beside = ("the log, batched", log_publish);
    add("publish in batches of 100", PROCESS, "msg/s", per_second(messages, published), beside);
    let took = read(&*session, messages).await?;
    add("read", "", "msg/s", per_second(messages, took), ("the log", log_read));
    let took = consume(&*session, messages).await?;
    add(
        "consume and ack as a group",
        PROCESS,
        "msg/s",
        per_second(messages, took),
        ("the log, read", log_read),
    );
    session.close(Duration::from_secs(60)).await.map_err(failed)?;
    drop(session);

    let session = open(&dir.join("always"), "always").await?;
    let took = publish(&*session, messages).await?;
    add("publish in batches of 100", POWER, "msg/s", per_second(messages, took), beside);
    let mut singles = Latencies::default();
    for number in 0..setup.scaled(1000, 100) {
        single(&*session, number, &mut singles).await?;
    }
    let syncs = log_singles(&dir.join("singles"), setup.scaled(1000, 100))?;
    let beside = ("the log, append and commit", syncs.quantile_us(0.5));
    add(
        "publish one and await its receipt",
        "loss of power, each",
        "us, p50",
        singles.quantile_us(0.5),
        beside,
    );
    session.close(Duration::from_secs(60)).await.map_err(failed)?;
    drop(session);
    remove(&dir)
}

/// What the log does by itself: publishing and reading, in messages a second.
fn of_the_log(dir: &Path, messages: u64) -> Result<[f64; 2]> {
    let log = log::open(dir, SyncMode::Os)?;
    let (done, took) = timed(|| log::publish(&log, 0..messages, &mut Payload::new(100)));
    done?;
    let read = log::read_all(&log, messages)?;
    log.close().map_err(failed)?;
    Ok([per_second(messages, took), per_second(messages, read)])
}

fn log_singles(dir: &Path, messages: u64) -> Result<Latencies> {
    let log = log::open(dir, SyncMode::Always)?;
    let mut appender = log.appender();
    let mut payload = Payload::new(100);
    let mut latencies = Latencies::default();
    for number in 0..messages {
        latencies.time(|| {
            let appended = log::publish_one(&mut appender, number, &mut payload)?;
            log.commit(appended.next).map_err(failed)
        })?;
    }
    log.close().map_err(failed)?;
    Ok(latencies)
}

/// The topic of every message.
pub(crate) fn topic() -> Result<Topic> {
    Topic::new("bench").map_err(failed)
}

fn group() -> Result<GroupName> {
    GroupName::new("bench").map_err(failed)
}

/// A session of a new bus in a folder, with the topic and a group.
pub(crate) async fn open(dir: &Path, sync: &str) -> Result<Arc<dyn Session>> {
    let url = format!("file:{}?sync={sync}", dir.display());
    let transport = busline_transports::open(&url).map_err(failed)?;
    let session = transport.connect(Connect::new(Role::Publish)).await.map_err(failed)?;
    let mut spec = GroupSpec::new(topic()?, group()?);
    spec.start = Position::Earliest;
    let topology = Topology {
        topics: vec![TopicSpec::new(topic()?)],
        groups: vec![spec],
        ..Topology::default()
    };
    session.declare(&topology).await.map_err(failed)?;
    Ok(session)
}

/// The message of a number.
pub(crate) fn message(payload: &mut Payload, topic: &Topic, number: u64) -> Result<Message> {
    let (key, body) = payload.message(number);
    let key = std::str::from_utf8(key).map_err(failed)?;
    let key = Key::try_from(key).map_err(failed)?;
    Ok(Message::new(topic.clone(), key, Bytes::copy_from_slice(body)))
}

/// Sends batches ahead of their receipts, as far as the window goes.
async fn publish(session: &dyn Session, messages: u64) -> Result<Duration> {
    let topic = topic()?;
    let mut payload = Payload::new(100);
    let mut outstanding: VecDeque<Vec<PendingReceipt>> = VecDeque::new();
    let start = Timer::start();
    for first in (0..messages).step_by(usize::try_from(BATCH_LEN).map_err(failed)?) {
        let batch: Result<Vec<_>> = (first..messages.min(first + BATCH_LEN))
            .map(|number| message(&mut payload, &topic, number))
            .collect();
        let receipts = session.send(Batch::from(batch?)).await.map_err(failed)?;
        outstanding.push_back(receipts);
        if outstanding.len() > WINDOW {
            settle(outstanding.pop_front()).await?;
        }
    }
    while let Some(receipts) = outstanding.pop_front() {
        settle(Some(receipts)).await?;
    }
    Ok(start.took())
}

/// Awaits receipts, each of which must say that its message is stored.
pub(crate) async fn settle(receipts: Option<Vec<PendingReceipt>>) -> Result<()> {
    for receipt in receipts.into_iter().flatten() {
        match receipt.await.map_err(failed)? {
            Receipt::Stored { .. } => {}
            other => return Err(format!("the receipt is {other:?}")),
        }
    }
    Ok(())
}

async fn single(session: &dyn Session, number: u64, latencies: &mut Latencies) -> Result<()> {
    let message = message(&mut Payload::new(100), &topic()?, number)?;
    let start = Timer::start();
    let receipts = session.send(Batch::from(vec![message])).await.map_err(failed)?;
    settle(Some(receipts)).await?;
    latencies.add(start.took());
    Ok(())
}

/// Reads everything and checks that each message came once.
pub(crate) async fn read(session: &dyn Session, messages: u64) -> Result<Duration> {
    let mut count = Count::default();
    let start = Timer::start();
    let read = Read::new(topic()?, Position::Earliest);
    let mut reader = session.read(read).await.map_err(failed)?;
    loop {
        let records = reader.next().await.map_err(failed)?;
        if records.is_empty() {
            break;
        }
        records.iter().for_each(|record| count.add(&record.message.payload));
    }
    let took = start.took();
    count.check(messages)?;
    Ok(took)
}

async fn consume(session: &dyn Session, messages: u64) -> Result<Duration> {
    let mut count = Count::default();
    let start = Timer::start();
    let mut subscribe = Subscribe::new(topic()?, Membership::Group(group()?));
    subscribe.max_in_flight = 4096;
    let mut subscription = session.subscribe(subscribe).await.map_err(failed)?;
    while count.messages() < messages {
        let deliveries = subscription.next().await.map_err(failed)?;
        for delivery in deliveries.ok_or("the subscription ended early")? {
            count.add(&delivery.message.payload);
            // Not awaited: whether all have come through, the group tells at the end.
            drop(delivery.ack());
        }
    }
    subscription.stop().await.map_err(failed)?;
    let took = start.took();
    count.check(messages)?;
    let admin = session.admin().ok_or("a session of file: has an operator's view")?;
    let groups = admin.groups(None).await.map_err(failed)?;
    match groups.as_slice() {
        [group] if group.acked == messages => Ok(took),
        other => Err(format!("not everything was acknowledged: {other:?}")),
    }
}
