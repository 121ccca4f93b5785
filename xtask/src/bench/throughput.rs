//! Publishing and reading many messages, beside writing and reading the same bytes, and beside other stores.

use busline_log::SyncMode;

use crate::goals::{POWER_AT_END as POWER, PROCESS};
use crate::log::{self, failed};
use crate::measure::{per_second, timed};
use crate::payload::Payload;
use crate::peers::{self, Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, limits, remove};

const TABLE: &str = "Throughput";

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let small = Bulk {
        name: "1,000,000 x 100 B",
        body_len: 100,
        messages: setup.scaled(1_000_000, 100_000),
    };
    let large =
        Bulk { name: "200,000 x 1 KiB", body_len: 1024, messages: setup.scaled(200_000, 20_000) };
    for bulk in [small, large] {
        busline(setup, report, &bulk)?;
        others(setup, report, &bulk)?;
    }
    single(setup, report)
}

/// Messages that are published and read at once.
#[derive(Debug)]
struct Bulk {
    name: &'static str,
    body_len: usize,
    messages: u64,
}

/// A peer that publishes so many a commit, and what the report calls its reading.
type Batched = (Peer, u64, &'static str);

const VISIBLE: &[Batched] = &[
    (Peer::new("LMDB NOSYNC, 10,000 a commit", "lmdb", Sync::Process), 10_000, "LMDB, unchecked"),
    (Peer::new("LMDB NOSYNC, 100 a commit", "lmdb", Sync::Process), 100, ""),
    (Peer::new("SQLite NORMAL, 10,000 a commit", "sqlite", Sync::Process), 10_000, "SQLite"),
    (Peer::new("fjall, 1,000 a commit", "fjall", Sync::Process), 1000, "fjall"),
    (
        Peer::new("sea-streamer file, one flush", "sea-streamer", Sync::Process),
        1,
        "sea-streamer file",
    ),
    (
        Peer::new("Redis everysec, 1,000 a pipeline", "redis", Sync::Process),
        1000,
        "Redis, 1,000 a call",
    ),
];

const DURABLE: &[Batched] = &[
    (Peer::new("LMDB NOSYNC, one sync", "lmdb", Sync::End), 10_000, ""),
    (Peer::new("SQLite NORMAL, one sync", "sqlite", Sync::End), 10_000, ""),
    (Peer::new("fjall, one sync", "fjall", Sync::End), 1000, ""),
    (Peer::new("redb, 10,000 a synced commit", "redb", Sync::Power), 10_000, "redb"),
];

/// A peer that publishes one a commit, and the part of the messages that is enough to know its speed.
const SINGLE: &[(Peer, u64)] = &[
    (Peer::new("LMDB NOSYNC, one a commit", "lmdb", Sync::Process), 1),
    (Peer::new("SQLite NORMAL, one a commit", "sqlite", Sync::Process), 4),
    (Peer::new("fjall, one a call", "fjall", Sync::Process), 1),
    (Peer::new("Redis everysec, one a call", "redis", Sync::Process), 20),
];

fn others(setup: &Setup, report: &mut Report, bulk: &Bulk) -> Result<()> {
    let publish = format!("publish {}", bulk.name);
    let read = format!("read {}", bulk.name);
    for (peers, durability) in [(VISIBLE, PROCESS), (DURABLE, POWER)] {
        for (peer, commit_len, name_of_read) in peers {
            let numbers = [bulk.messages, bulk.body_len as u64, *commit_len];
            let Some([published, took]) = peer.figures(setup, report, "bulk", &numbers)? else {
                continue;
            };
            let beside = (peer.name, peers::rate(bulk.messages, published));
            report.compare([&publish, durability, "msg/s"], beside)?;
            if !name_of_read.is_empty() {
                let beside = (*name_of_read, peers::rate(bulk.messages, took));
                report.compare([&read, "", "msg/s"], beside)?;
            }
        }
    }
    Ok(())
}

fn busline(setup: &Setup, report: &mut Report, bulk: &Bulk) -> Result<()> {
    let &Bulk { name, body_len, messages } = bulk;
    let mut payload = Payload::new(body_len);
    let bytes = messages * payload.len();
    let dir = setup.fresh("throughput")?;
    let mut add = |work: &str, durability, busline, beside| {
        let work = format!("{work} {name}");
        report.add(Figure { table: TABLE, work, durability, unit: "msg/s", busline, beside });
    };

    let limit = per_second(messages, limits::write(&dir, bytes, false)?);
    let log = log::open(&dir.join("os"), SyncMode::Os)?;
    let (done, took) = timed(|| log::publish(&log, 0..messages, &mut payload));
    done?;
    log.sync().map_err(failed)?;
    add("publish", PROCESS, per_second(messages, took), ("write(2) 64 KiB", limit));

    let took = log::read_all(&log, messages)?;
    let (raw_bytes, raw) = limits::read(&dir.join("os"))?;
    // The log's files are larger than the messages: what counts is the time for all of them.
    let limit = per_second(messages, raw);
    if raw_bytes < bytes {
        return Err(format!("the log of {bytes} bytes of messages has only {raw_bytes}"));
    }
    add("read", "", per_second(messages, took), ("read(2) 256 KiB, cached", limit));
    log.close().map_err(failed)?;
    drop(log);
    remove(&dir.join("os"))?;

    let limit = per_second(messages, limits::write(&dir, bytes, true)?);
    let log = log::open(&dir.join("end"), SyncMode::Always)?;
    let (done, took) = timed(|| {
        log::publish(&log, 0..messages, &mut payload)?;
        log.sync().map_err(failed)
    });
    done?;
    add("publish", POWER, per_second(messages, took), ("write(2) 64 KiB, fdatasync", limit));
    log.close().map_err(failed)?;
    drop(log);
    remove(&dir)
}

/// One message a call, visible to every process when the call returns.
fn single(setup: &Setup, report: &mut Report) -> Result<()> {
    let messages = setup.scaled(200_000, 20_000);
    let mut payload = Payload::new(100);
    let dir = setup.fresh("single")?;
    let log = log::open(&dir.join("log"), SyncMode::Os)?;
    let before = limits::size(&dir)?;
    let mut appender = log.appender();
    let (done, took) = timed(|| {
        (0..messages).try_for_each(|number| {
            log::publish_one(&mut appender, number, &mut payload).map(|_| ())
        })
    });
    done?;
    let record_len = (limits::size(&dir)? - before) / messages;
    let record_len = usize::try_from(record_len).map_err(failed)?.max(1);
    let raw = limits::Appends::create(&dir, record_len)?.append(messages)?;
    report.add(Figure {
        table: TABLE,
        work: "publish 100 B, one a call".to_owned(),
        durability: PROCESS,
        unit: "msg/s",
        busline: per_second(messages, took),
        beside: ("write(2) each", per_second(messages, raw)),
    });
    log.close().map_err(failed)?;
    drop((appender, log));
    remove(&dir)?;
    for (peer, part) in SINGLE {
        let messages = messages / part;
        if let Some([took, _]) = peer.figures(setup, report, "bulk", &[messages, 100, 1])? {
            let beside = (peer.name, peers::rate(messages, took));
            report.compare(["publish 100 B, one a call", PROCESS, "msg/s"], beside)?;
        }
    }
    Ok(())
}
