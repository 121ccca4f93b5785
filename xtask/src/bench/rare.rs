//! Finding the messages of rare keys, beside reading everything and comparing.

use std::time::Duration;

use busline_log::{KeySet, Log, SyncMode};

use crate::log::{self, failed};
use crate::measure::timed;
use crate::payload::Payload;
use crate::peers::{Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

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
        // Once before, so that neither has the pages to fetch.
        find(&log, keys)?;
        let ours = find(&log, keys)?;
        let plain = compare(&log, keys)?;
        report.add(Figure {
            table: TABLE,
            work: format!("{work} in {messages} x {BODY_LEN} B"),
            durability: "",
            unit: "ms",
            busline: 1e3 * ours.as_secs_f64(),
            beside: ("read all, compare", 1e3 * plain.as_secs_f64()),
        });
        Ok::<_, String>(())
    };
    add("ten messages of a key", &KeySet::new([RARE]))?;
    add("a message of each of ten keys", &KeySet::new((0..10).map(single)))?;
    log.close().map_err(failed)?;
    drop(log);
    remove(&dir)?;
    if let Some([seconds]) = HERMES.figures(setup, report, "find", &[messages])? {
        let work = format!("ten messages of a key in {messages} x {BODY_LEN} B");
        report.compare([&work, "", "ms"], (HERMES.name, 1e3 * seconds))?;
    }
    Ok(())
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
            appender.flush(crate::measure::now_us()).map_err(failed)?;
        }
    }
    appender.flush(crate::measure::now_us()).map_err(failed)?;
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
