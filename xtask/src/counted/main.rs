//! `busline-counted`: works of the embedded log for a tool that counts instructions; see `cargo xtask instructions`.
#![allow(clippy::print_stderr, reason = "a tool talks to people")]

#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "../bench/payload.rs"]
mod payload;

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use busline_log::storage::FsStorage;
use busline_log::{
    ClaimRequest, Group, GroupOptions, GroupSpec, Lifetime, Log, Now, Options, SeqRange, Settle,
    Settlement, SyncMode,
};
use payload::{Count, Payload};

type Result<T> = std::result::Result<T, String>;

/// Any time will do; one that stands still makes every run the same.
const TIME_US: i64 = 1_800_000_000_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [work, dir, part, whole] => run(work, Path::new(dir), part, whole),
        _ => Err("usage: busline-counted WORK DIR PART WHOLE".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn failed(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Does a work on `part` messages. What has to be there before is made for `whole`, whatever the part,
/// so that two runs differ in the work alone.
fn run(work: &str, dir: &Path, part: &str, whole: &str) -> Result<()> {
    let [part, whole] = [part, whole].map(|text| text.parse::<u64>().map_err(failed));
    let (part, whole) = (part?, whole?);
    let options = Options { sync: SyncMode::Os, ..Options::default() };
    let log = Log::open_or_create(Arc::new(FsStorage::new()), dir, b"", &options, TIME_US);
    let log = log.map_err(failed)?;
    match work {
        "publish" => publish(&log, part)?,
        "publish-one" => publish_one(&log, part)?,
        "read" => {
            publish(&log, whole)?;
            read(&log, part)?;
        }
        "settle" => {
            publish(&log, whole)?;
            settle(&log, part)?;
        }
        other => return Err(format!("'{other}' is no work")),
    }
    log.close().map_err(failed)
}

/// In frames of the recommended size.
fn publish(log: &Log, messages: u64) -> Result<()> {
    let mut appender = log.appender();
    let mut payload = Payload::new(100);
    for number in 0..messages {
        let (key, body) = payload.message(number);
        appender.push(key, b"", body).map_err(failed)?;
        if number % 2000 == 1999 {
            appender.flush(TIME_US).map_err(failed)?;
        }
    }
    appender.flush(TIME_US).map_err(failed).map(|_| ())
}

/// Each visible to everybody when the call returns.
fn publish_one(log: &Log, messages: u64) -> Result<()> {
    let mut appender = log.appender();
    let mut payload = Payload::new(100);
    for number in 0..messages {
        let (key, body) = payload.message(number);
        appender.append(TIME_US, key, b"", body).map_err(failed)?;
    }
    Ok(())
}

fn read(log: &Log, messages: u64) -> Result<()> {
    let mut scanner = log.scanner();
    let mut count = Count::default();
    while count.messages() < messages {
        let record = scanner.next().map_err(failed)?.ok_or("the log ends early")?;
        count.add(record.value);
    }
    count.check(messages)
}

/// One member claims by the hundred and acknowledges each.
fn settle(log: &Log, messages: u64) -> Result<()> {
    let now = Now { wall_us: TIME_US, boot_us: TIME_US.unsigned_abs(), boot_id: log.boot_id() };
    let options = GroupOptions::default();
    let spec = GroupSpec { name: "group", config: b"", start: 0, lifetime: Lifetime::Durable };
    Group::declare(log, &spec, &options, now).map_err(failed)?;
    let group = Group::open(log, "group", &options, now).map_err(failed)?;
    let mut member = group.join(now).map_err(failed)?;
    let request = ClaimRequest {
        records_max: 100,
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
        let claim = member.claim(&request, now, visit).map_err(failed)?.claim;
        let ack = |seq: &u64| Settle { claim, seqs: SeqRange::one(*seq), how: Settlement::Ack };
        let acks: Vec<_> = claimed.iter().map(ack).collect();
        let mut lost = Vec::new();
        group.settle(&acks, now, &mut lost).map_err(failed)?;
        if claimed.is_empty() || !lost.is_empty() {
            return Err(format!("{} were claimed, {} were lost", claimed.len(), lost.len()));
        }
        let is_done = count.messages() >= messages;
        Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    while claim()?.is_continue() {}
    count.check(messages)?;
    member.leave(now).map_err(failed).map(|_| ())
}
