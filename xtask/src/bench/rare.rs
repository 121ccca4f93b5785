//! Finding the messages of rare keys, beside reading everything and comparing.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use busline_log::{Batch, KeySet, Log, SyncMode};

use crate::goals::PROCESS;
use crate::log::{self, failed};
use crate::measure::{Samples, now_us, timed};
use crate::payload::Payload;
use crate::peers::{Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, category, remove};

const TABLE: &str = "Rare keys among 1,000 others";
/// Ten of the messages have this key.
const RARE: &str = "rare.key.0000000";
/// The bytes of body of a message.
const BODY_LEN: usize = 100;

/// It finds the only message of its category, the last of as many, by decoding each.
const HERMES: Peer = Peer::new("stand-in for Hermes' bus", "hermes", Sync::Power);

/// The key that one message alone has, of ten such keys.
fn single(number: u64) -> String {
    format!("single.key.{number:05}")
}

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let messages = setup.scaled(1_000_000, 100_000);
    let dir = setup.fresh("rare")?;
    let log = log::open(&dir.join("log"), SyncMode::Os)?;
    publish(&log, messages)?;
    let mut add = |work: &str, keys: &KeySet| {
        // Once before, so that neither has the pages to fetch; then more than once, for a search takes a millisecond.
        let median = |search: fn(&Log, &KeySet) -> Result<Duration>| {
            search(&log, keys)?;
            let mut took = Samples::default();
            for _ in 0..5 {
                took.add(1e3 * search(&log, keys)?.as_secs_f64());
            }
            Ok::<_, String>(took.median())
        };
        let (ours, plain) = (median(find)?, median(compare)?);
        report.add(Figure {
            table: TABLE,
            work: format!("{work} in {messages} x {BODY_LEN} B"),
            durability: "",
            unit: "ms",
            busline: ours,
            beside: ("read all, compare", plain),
        });
        Ok::<_, String>(())
    };
    add("ten messages of a key", &KeySet::new([RARE]))?;
    add("a message of each of ten keys", &KeySet::new((0..10).map(single)))?;
    report.add(filters(&dir.join("log"), messages)?);
    log.close().map_err(failed)?;
    drop(log);
    remove(&dir)?;
    report.add(cost_of_filters(setup, messages)?);
    category::run(setup, report, messages)?;
    if let Some([seconds]) = HERMES.figures(setup, report, "find", &[messages])? {
        let work = format!("ten messages of a key in {messages} x {BODY_LEN} B");
        report.compare([&work, "", "ms"], (HERMES.name, 1e3 * seconds))?;
        report.compare([&category::work(messages), "", "ms"], (HERMES.name, 1e3 * seconds))?;
    }
    Ok(())
}

/// How much of a log its filters are: every frame is looked at, by what FORMAT.md says of its header.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn filters(dir: &Path, messages: u64) -> Result<Figure> {
    const SEGMENT_HEADER_LEN: usize = 72;
    const HEADER_LEN: usize = 48;
    let (mut log_len, mut filters_len, mut count) = (0, 0, 0);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let mut at = SEGMENT_HEADER_LEN;
        // Zeros were written ahead of the next frame.
        while bytes.get(at..at + 4) == Some(b"BLF1") {
            let number = |offset: usize, len: usize| {
                let field = bytes.get(at + offset..at + offset + len).unwrap_or_default();
                field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
            };
            let filter_len = match number(46, 2) {
                0 => 0,
                blocks => 4 + 16 * blocks,
            };
            filters_len += filter_len;
            count += number(40, 4) as u64;
            at += (HEADER_LEN + filter_len + number(8, 4)).next_multiple_of(8);
        }
        log_len += at;
    }
    if count != messages {
        return Err(format!("the frames have {count} messages of {messages}"));
    }
    Ok(Figure {
        table: TABLE,
        work: format!("filters in a log of {messages} x {BODY_LEN} B"),
        durability: "",
        unit: "%",
        busline: 100.0 * filters_len as f64 / log_len as f64,
        beside: ("the log, MiB", log_len as f64 / f64::from(1 << 20)),
    })
}

/// Publishing with filters and without, in turns.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn cost_of_filters(setup: &Setup, messages: u64) -> Result<Figure> {
    const TURNS: u64 = 50;
    let dir = setup.fresh("filters")?;
    let batches = [Batch::new(1 << 20), Batch::new(1 << 20).without_filter()];
    let mut logs = Vec::new();
    for (number, batch) in batches.into_iter().enumerate() {
        logs.push((log::open(&dir.join(number.to_string()), SyncMode::Os)?, batch));
    }
    let mut payload = Payload::new(BODY_LEN);
    let mut took = [Samples::default(), Samples::default()];
    let turn = messages / TURNS;
    for first in (0..messages).step_by(usize::try_from(turn).map_err(failed)?) {
        for ((log, batch), took) in logs.iter_mut().zip(&mut took) {
            let numbers = first..first + turn;
            let (done, each) = timed(|| append(log, batch, numbers, &mut payload));
            done?;
            took.add(1e9 * each.as_secs_f64() / turn as f64);
        }
    }
    for (log, _) in logs {
        log::read_all(&log, messages)?;
        log.close().map_err(failed)?;
    }
    remove(&dir)?;
    let [with, without] = took.map(|took| took.median());
    Ok(Figure {
        table: TABLE,
        work: format!("publish {messages} x {BODY_LEN} B with filters"),
        durability: PROCESS,
        unit: "ns/msg",
        busline: with,
        beside: ("without filters", without),
    })
}

/// Publishes messages in frames of the recommended size.
fn append(log: &Log, batch: &mut Batch, numbers: Range<u64>, payload: &mut Payload) -> Result<()> {
    for number in numbers {
        let (key, body) = payload.message(number);
        batch.push(key, b"", body).map_err(failed)?;
        if batch.body_len() >= busline_log::BATCH_BYTES_TARGET {
            let mut guard = log.lock_append().map_err(failed)?;
            guard.append(batch, now_us()).map_err(failed)?;
        }
    }
    let mut guard = log.lock_append().map_err(failed)?;
    guard.append(batch, now_us()).map(drop).map_err(failed)
}

fn publish(log: &Log, messages: u64) -> Result<()> {
    let mut payload = Payload::new(BODY_LEN);
    let mut appender = log.appender();
    let tenth = messages / 10;
    for number in 0..messages {
        let (key, body) = payload.message(number);
        let pushed = match number % tenth {
            at if at == tenth / 2 => appender.push(RARE.as_bytes(), b"", body),
            at if at == tenth / 3 => appender.push(single(number / tenth).as_bytes(), b"", body),
            _ => appender.push(key, b"", body),
        };
        pushed.map_err(failed)?;
        if appender.pending().body_len() >= busline_log::BATCH_BYTES_TARGET {
            appender.flush(now_us()).map_err(failed)?;
        }
    }
    appender.flush(now_us()).map_err(failed)?;
    log.sync().map(drop).map_err(failed)
}

fn find(log: &Log, keys: &KeySet) -> Result<Duration> {
    let mut scanner = log.scanner();
    count(|| Ok(scanner.next_of(keys, u64::MAX).map_err(failed)?.is_some()))
}

fn compare(log: &Log, keys: &KeySet) -> Result<Duration> {
    let mut scanner = log.scanner();
    let is_wanted = |key: &[u8], _: &[u8]| keys.contains(key);
    count(|| Ok(scanner.next_where(u64::MAX, is_wanted).map_err(failed)?.is_some()))
}

/// How long it takes until there is no more; fails unless it was all of them.
fn count(mut next: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let mut found = 0;
    let (done, took) = timed(|| {
        while next()? {
            found += 1;
        }
        Ok::<_, String>(())
    });
    done?;
    if found == 10 { Ok(took) } else { Err(format!("found {found} messages of 10")) }
}
