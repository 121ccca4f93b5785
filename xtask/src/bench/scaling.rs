//! What a message costs beside many logs, groups and segments: it must not depend on them.

use std::path::Path;
use std::time::Duration;

use busline_log::{Log, Options, SyncMode};

use crate::log::{self, failed};
use crate::measure::timed;
use crate::payload::Payload;
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove, settle};

const TABLE: &str = "Scaling: the cost of a message; flat is a ratio near 1";

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("scaling")?;
    logs(setup, report, &dir)?;
    groups(setup, report, &dir)?;
    segments(setup, report, &dir)?;
    remove(&dir)
}

fn add(report: &mut Report, work: &str, many: f64, one: (&'static str, f64)) {
    let (work, busline) = (work.to_owned(), many);
    let durability = "crash of the process";
    report.add(Figure { table: TABLE, work, durability, unit: "ns/msg", busline, beside: one });
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn ns_each(took: Duration, messages: u64) -> f64 {
    took.as_secs_f64() * 1e9 / messages as f64
}

/// One message a call.
fn publish_singly(log: &Log, messages: u64) -> Result<f64> {
    let mut appender = log.appender();
    let mut payload = Payload::new(100);
    let (done, took) = timed(|| {
        (0..messages).try_for_each(|number| {
            log::publish_one(&mut appender, number, &mut payload).map(|_| ())
        })
    });
    done?;
    Ok(ns_each(took, messages))
}

/// One log alone and among many, and many logs in turn.
fn logs(setup: &Setup, report: &mut Report, dir: &Path) -> Result<()> {
    let messages = setup.scaled(100_000, 10_000);
    let log = log::open(&dir.join("log-0"), SyncMode::Os)?;
    let alone = publish_singly(&log, messages)?;
    let siblings = setup.scaled(1000, 50);
    for sibling in 1..siblings {
        log::open(&dir.join(format!("log-{sibling}")), SyncMode::Os)?.close().map_err(failed)?;
    }
    let among = publish_singly(&log, messages)?;
    let work = format!("publish to one of {siblings} logs");
    add(report, &work, among, ("to the only log", alone));
    drop(log);

    // Few enough to stay below the usual limit of open files.
    let many = setup.scaled(100, 10);
    let logs: Result<Vec<_>> = (0..many)
        .map(|number| log::open(&dir.join(format!("log-{number}")), SyncMode::Os))
        .collect();
    let logs = logs?;
    let each = messages / many;
    let (done, took) = timed(|| {
        let mut appenders: Vec<_> = logs.iter().map(Log::appender).collect();
        let mut payload = Payload::new(100);
        for number in 0..each {
            for appender in &mut appenders {
                log::publish_one(appender, number, &mut payload)?;
            }
        }
        Ok::<_, String>(())
    });
    done?;
    let work = format!("publish to {many} logs in turn");
    add(report, &work, ns_each(took, each * many), ("to the only log", alone));
    Ok(())
}

/// Groups that nobody is a member of cost a publisher nothing.
fn groups(setup: &Setup, report: &mut Report, dir: &Path) -> Result<()> {
    let messages = setup.scaled(100_000, 10_000);
    let log = log::open(&dir.join("grouped"), SyncMode::Os)?;
    settle::declare(&log, "group-0")?;
    let one = publish_singly(&log, messages)?;
    let many = setup.scaled(100, 10);
    for number in 1..many {
        settle::declare(&log, &format!("group-{number}"))?;
    }
    let cost = publish_singly(&log, messages)?;
    add(report, &format!("publish beside {many} groups"), cost, ("beside 1 group", one));

    let settled = |name: &str| -> Result<f64> {
        let (done, took) = timed(|| settle::claim_all(&log, name, false));
        match done?.messages() {
            // Before the other groups were declared, and after.
            all if all == 2 * messages => Ok(ns_each(took, all)),
            other => Err(format!("{name} was given {other} messages of {}", 2 * messages)),
        }
    };
    let (first, last) = (settled("group-0")?, settled(&format!("group-{}", many - 1))?);
    add(report, &format!("claim and ack in group {many}"), last, ("in group 1", first));
    log.close().map_err(failed)
}

/// The same messages in few and in many segments.
fn segments(setup: &Setup, report: &mut Report, dir: &Path) -> Result<()> {
    let messages = setup.scaled(1_000_000, 100_000);
    let measure = |name: &str, segment_bytes: u64| -> Result<[f64; 2]> {
        let options = Options { sync: SyncMode::Os, segment_bytes, ..Options::default() };
        let log = log::open_with(&dir.join(name), &options)?;
        let mut payload = Payload::new(100);
        let (done, published) = timed(|| log::publish(&log, 0..messages, &mut payload));
        done?;
        let read = log::read_all(&log, messages)?;
        log.close().map_err(failed)?;
        Ok([ns_each(published, messages), ns_each(read, messages)])
    };
    let few = measure("few", 64 << 20)?;
    let many = measure("many", 4 << 20)?;
    add(report, "publish into segments of 4 MiB", many[0], ("of 64 MiB", few[0]));
    add(report, "read from segments of 4 MiB", many[1], ("of 64 MiB", few[1]));
    Ok(())
}
