//! One message on the medium before publishing returns, beside a bare loop of fdatasync and other stores.

use busline_log::{Log, SyncMode};

use crate::goals::POWER_EACH as POWER;
use crate::log::{self, failed};
use crate::measure::{Latencies, per_second, timed};
use crate::payload::Payload;
use crate::peers::{self, Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, child, limits, remove, tasks};

const TABLE: &str = "Durable before it returns, 100 B";
/// Header, lengths, key and body of one message.
const FRAME_LEN: usize = 168;
const TASKS: &str = "64 publishers, 64 tasks";

/// Ours, the bare loop and the peers take turns by this many: the disk is not the same all the time.
const TURN: u64 = 50;

const ALONE: &[Peer] = &[
    Peer::new("fjall", "fjall", Sync::Power),
    Peer::new("SQLite FULL", "sqlite", Sync::Power),
    Peer::new("LMDB", "lmdb", Sync::Power),
    Peer::new("redb", "redb", Sync::Power),
    Peer::new("Redis always", "redis", Sync::Power),
    Peer::new("stand-in for Hermes' bus", "hermes", Sync::Power),
];

/// Peers with 64 publishers at once: so many messages each are enough to know their speed.
const MANY: &[(Peer, u64)] = &[
    (Peer::new("fjall, 64 threads", "fjall", Sync::Power), 25),
    (Peer::new("SQLite FULL, 64 threads", "sqlite", Sync::Power), 25),
    (Peer::new("LMDB, 64 threads", "lmdb", Sync::Power), 25),
    (Peer::new("redb, 64 threads", "redb", Sync::Power), 25),
    (Peer::new("Redis always, 64 connections", "redis", Sync::Power), 200),
];

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("durable")?;
    let alone = one_publisher(setup, report, &dir.join("one"))?;
    let per_thread = setup.scaled(200, 20);

    let log = log::open(&dir.join("threads"), SyncMode::Always)?;
    let (done, took) = timed(|| publish_from_threads(&log, 64, per_thread));
    done?;
    let many = per_second(64 * per_thread, took);
    add(report, "64 publishers, 64 threads", "msg/s", many, ("1 publisher", alone));
    log.close().map_err(failed)?;
    drop(log);

    let took = tasks::publish(&dir.join("tasks"), 64, per_thread)?;
    let many = per_second(64 * per_thread, took);
    add(report, TASKS, "msg/s", many, ("1 publisher", alone));

    let processes = dir.join("processes");
    drop(log::open(&processes, SyncMode::Always)?);
    let (done, took) = timed(|| child::publish_from_processes(&processes, 8, 8, per_thread));
    let started = done?;
    let many = per_second(64 * per_thread, took.saturating_sub(started));
    add(report, "64 publishers, 8 processes", "msg/s", many, ("1 publisher", alone));
    remove(&dir)?;
    others_at_once(setup, report)
}

fn others_at_once(setup: &Setup, report: &mut Report) -> Result<()> {
    let mut best = f64::NAN;
    for (peer, each) in MANY {
        let each = setup.scaled(*each, 5);
        if let Some([took]) = peer.figures(setup, report, "many", &[64, each])? {
            let rate = peers::rate(64 * each, took);
            report.compare([TASKS, POWER, "msg/s"], (peer.name, rate))?;
            if !peer.is_server() {
                best = best.max(rate);
            }
        }
    }
    // None was asked, or none is there.
    if best.is_nan() {
        return Ok(());
    }
    report.compare([TASKS, POWER, "msg/s"], ("the best embedded peer", best))
}

fn one_publisher(setup: &Setup, report: &mut Report, dir: &std::path::Path) -> Result<f64> {
    std::fs::create_dir_all(dir).map_err(failed)?;
    let log = log::open(&dir.join("log"), SyncMode::Always)?;
    let mut appender = log.appender();
    let mut payload = Payload::new(100);
    let mut growing = limits::Appends::create(dir, FRAME_LEN)?;
    let turns = setup.scaled(20, 4);
    let mut zeroed = limits::Appends::create_zeroed(dir, FRAME_LEN, turns * TURN)?;
    let mut ours = Latencies::default();
    let (mut raw, mut raw_growing) = (Latencies::default(), Latencies::default());
    let mut others = Vec::new();
    for peer in ALONE {
        others.extend(peer.turns(setup, report)?);
    }
    for turn in 0..turns {
        others.iter_mut().try_for_each(|other| other.turn(TURN))?;
        zeroed.append_synced(TURN, &mut raw)?;
        growing.append_synced(TURN, &mut raw_growing)?;
        for number in turn * TURN..(turn + 1) * TURN {
            ours.time(|| {
                let appended = log::publish_one(&mut appender, number, &mut payload)?;
                log.commit(appended.next).map_err(failed)
            })?;
        }
    }
    if log.durable_seq() < log.next_seq() {
        return Err("not durable though commit returned".to_owned());
    }
    log.close().map_err(failed)?;
    // The log writes zeros ahead of small frames: that is the layout to compare with.
    let layouts = [("write(2) over zeros, fdatasync", raw), ("write(2), fdatasync", raw_growing)];
    for (name, raw) in layouts {
        add(report, "1 publisher", "msg/s", ours.per_second(), (name, raw.per_second()));
        for (unit, part) in [("us, p50", 0.5), ("us, p99", 0.99)] {
            add(report, "1 publisher", unit, ours.quantile_us(part), (name, raw.quantile_us(part)));
        }
    }
    for other in others {
        let name = other.name;
        let latencies = other.end()?;
        report.compare(["1 publisher", POWER, "msg/s"], (name, latencies.per_second()))?;
        let p99 = (name, latencies.quantile_us(0.99));
        report.compare(["1 publisher", POWER, "us, p99"], p99)?;
    }
    Ok(ours.per_second())
}

fn add(
    report: &mut Report,
    work: &str,
    unit: &'static str,
    busline: f64,
    beside: (&'static str, f64),
) {
    let work = work.to_owned();
    report.add(Figure { table: TABLE, work, durability: POWER, unit, busline, beside });
}

/// Each thread publishes with an appender of its own and waits for each message to be durable.
pub(crate) fn publish_from_threads(log: &Log, threads: u64, per_thread: u64) -> Result<()> {
    std::thread::scope(|scope| {
        let publisher = |thread: u64| {
            scope.spawn(move || {
                let mut appender = log.appender();
                let mut payload = Payload::new(100);
                for number in thread * per_thread..(thread + 1) * per_thread {
                    let appended = log::publish_one(&mut appender, number, &mut payload)?;
                    log.commit(appended.next).map_err(failed)?;
                }
                Ok(())
            })
        };
        let publishers: Vec<_> = (0..threads).map(publisher).collect();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|_| Err("a publisher panicked".to_owned()))
        };
        publishers.into_iter().try_for_each(ended)
    })
}
