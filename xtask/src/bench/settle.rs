//! Claiming and acknowledging messages one by one, beside one small write(2) each and other stores.

use std::ops::ControlFlow;

use busline_log::{
    ClaimRequest, Group, GroupOptions, GroupSpec, Lifetime, Log, Now, SeqRange, Settle, Settlement,
    SyncMode,
};

use crate::goals::PROCESS;
use crate::log::{self, failed};
use crate::measure::{now_us, per_second, timed};
use crate::payload::{Count, Payload};
use crate::peers::{self, Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, limits, remove};

const TABLE: &str = "Claim, read and acknowledge, each message by itself, 1,000 a claim";
const WORK: &str = "claim and ack 100 B";
const DURABLE: &str = "loss of power, each 1,000";

/// A peer that settles so many a commit.
const PEERS: &[(Peer, u64)] = &[
    (Peer::new("fjall, remove each", "fjall", Sync::Process), 1),
    (Peer::new("SQLite NORMAL, 100 a commit", "sqlite", Sync::Process), 100),
    (Peer::new("LMDB NOSYNC, remove, 1,000 a commit", "lmdb", Sync::Process), 1000),
    (Peer::new("Redis everysec, pipelined", "redis", Sync::Process), 1000),
];

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let messages = setup.scaled(200_000, 20_000);
    let dir = setup.fresh("settle")?;
    let log = log::open(&dir.join("log"), SyncMode::Always)?;
    log::publish(&log, 0..messages, &mut Payload::new(100))?;
    log.sync().map_err(failed)?;
    let raw = limits::Appends::create(&dir, 16)?.append(messages)?;
    let beside = ("write(2) 16 B each", per_second(messages, raw));
    let works = [("os", false, PROCESS), ("power", true, DURABLE)];
    let mut rates = [0.0; 2];
    for ((group, durable, durability), rate) in works.into_iter().zip(&mut rates) {
        declare(&log, group)?;
        let (done, took) = timed(|| claim_all(&log, group, durable));
        done?.check(messages)?;
        *rate = per_second(messages, took);
        let (work, busline) = (WORK.to_owned(), *rate);
        report.add(Figure { table: TABLE, work, durability, unit: "msg/s", busline, beside });
    }
    report.compare([WORK, DURABLE, "msg/s"], (PROCESS, rates[0]))?;
    log.close().map_err(failed)?;
    drop(log);
    remove(&dir)?;
    for (peer, commit_len) in PEERS {
        if let Some([took]) = peer.figures(setup, report, "settle", &[messages, *commit_len])? {
            let beside = (peer.name, peers::rate(messages, took));
            report.compare([WORK, PROCESS, "msg/s"], beside)?;
        }
    }
    Ok(())
}

fn now(log: &Log) -> Now {
    let wall_us = now_us();
    // No lease or delay is waited for here: any time that goes on will do.
    Now { wall_us, boot_us: wall_us.unsigned_abs(), boot_id: log.boot_id() }
}

/// Declares a group from the start of the log.
pub(crate) fn declare(log: &Log, name: &str) -> Result<()> {
    let spec = GroupSpec { name, config: b"", start: log.first_seq(), lifetime: Lifetime::Durable };
    Group::declare(log, &spec, &GroupOptions::default(), now(log)).map(|_| ()).map_err(failed)
}

/// One member claims and acknowledges everything; what it was given.
pub(crate) fn claim_all(log: &Log, name: &str, durable: bool) -> Result<Count> {
    let group = Group::open(log, name, &GroupOptions::default(), now(log)).map_err(failed)?;
    let mut member = group.join(now(log)).map_err(failed)?;
    let request = ClaimRequest {
        records_max: 1000,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: 30_000_000,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    };
    let mut count = Count::default();
    let mut claimed = Vec::new();
    let mut claim = || -> Result<ControlFlow<()>> {
        claimed.clear();
        let visit = &mut |found: busline_log::Claimed, record: &busline_log::Record<'_>| {
            count.add(record.value);
            claimed.push(found.seq);
        };
        let outcome = member.claim(&request, now(log), visit).map_err(failed)?;
        let acks: Vec<_> = claimed
            .iter()
            .map(|seq| Settle {
                claim: outcome.claim,
                seqs: SeqRange::one(*seq),
                how: Settlement::Ack,
            })
            .collect();
        let mut lost = Vec::new();
        group.settle(&acks, now(log), &mut lost).map_err(failed)?;
        if !lost.is_empty() {
            return Err("an acknowledgement got lost though nobody else claims".to_owned());
        }
        if durable {
            group.commit().map_err(failed)?;
        }
        let is_done = outcome.records == 0 && !outcome.more;
        Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    while claim()?.is_continue() {}
    member.leave(now(log)).map_err(failed)?;
    Ok(count)
}
