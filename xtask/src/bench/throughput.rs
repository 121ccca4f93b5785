//! Publishing and reading many messages, beside writing and reading the same bytes.

use busline_log::SyncMode;

use crate::log::{self, failed};
use crate::measure::{per_second, timed};
use crate::payload::Payload;
use crate::report::{Figure, Report};
use crate::{Result, Setup, limits, remove};

const TABLE: &str = "Throughput, batched";
const PROCESS: &str = "crash of the process";
const POWER: &str = "loss of power, one fdatasync at the end";

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    small(setup, report, "1,000,000 x 100 B", 100, setup.scaled(1_000_000, 100_000))?;
    small(setup, report, "200,000 x 1 KiB", 1024, setup.scaled(200_000, 20_000))?;
    single(setup, report, setup.scaled(200_000, 20_000))
}

fn small(
    setup: &Setup,
    report: &mut Report,
    name: &str,
    body_len: usize,
    messages: u64,
) -> Result<()> {
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
fn single(setup: &Setup, report: &mut Report, messages: u64) -> Result<()> {
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
    remove(&dir)
}
