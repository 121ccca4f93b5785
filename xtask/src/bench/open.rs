//! Opening a log of 1 GiB, beside reading all of it once.

use std::path::Path;

use busline_log::SyncMode;

use crate::log::{self, failed};
use crate::measure::{Latencies, timed};
use crate::payload::{Payload, number_of};
use crate::peers::{Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, child, limits};

const TABLE: &str = "Opening a log of 1 GiB, warm";
const BODY_LEN: usize = 1024;

const PEERS: &[Peer] = &[
    Peer::new("SQLite", "sqlite", Sync::End),
    Peer::new("LMDB", "lmdb", Sync::End),
    Peer::new("fjall", "fjall", Sync::End),
];

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.dir.join("open");
    let messages = setup.scaled(1 << 20, 100 << 10);
    // Written once; the repetitions open the same log.
    if !dir.exists() {
        let log = log::open(&dir, SyncMode::Os)?;
        log::publish(&log, 0..messages, &mut Payload::new(BODY_LEN))?;
        log.close().map_err(failed)?;
    }
    let (_, everything) = limits::read(&dir)?;
    let limit = ("read(2) of all of it", everything.as_secs_f64() * 1e3);
    let mut add = |work: &str, unit, busline, beside| {
        let work = work.to_owned();
        report.add(Figure { table: TABLE, work, durability: "", unit, busline, beside });
    };

    let [ms, mib, clean] = child::open_in_a_process(&dir)?;
    add("after a clean close", "ms", ms, limit);
    add("after a clean close", "MiB", mib, ("nothing opened", 0.0));

    child::kill_a_holder(&dir)?;
    let [ms, mib, killed] = child::open_in_a_process(&dir)?;
    add("after kill -9", "ms", ms, limit);
    add("after kill -9", "MiB", mib, ("nothing opened", 0.0));
    if killed <= clean {
        return Err("a message that was published before kill -9 is not there".to_owned());
    }

    // What is in the control page does not outlive a loss of power: without it nothing is believed.
    child::kill_a_holder(&dir)?;
    std::fs::remove_file(dir.join("control")).map_err(failed)?;
    let [ms, ..] = child::open_in_a_process(&dir)?;
    add("after loss of power", "ms", ms, limit);

    let us = point_read_us(&dir, messages)?;
    add("seek and read one message", "us", us, ("read(2) of all of it", limit.1 * 1e3));
    others(setup, report, messages)
}

/// Each opens a store of the same messages, which was written once and closed.
fn others(setup: &Setup, report: &mut Report, messages: u64) -> Result<()> {
    for peer in PEERS {
        let dir = setup.dir.join(format!("open-{}", peer.name));
        if !dir.exists() {
            let fill = ("fill", &[messages, BODY_LEN as u64][..]);
            if peer.figures_in::<0>(setup, report, &dir, fill)?.is_none() {
                continue;
            }
        }
        let open = ("open", &[messages][..]);
        if let Some([ms, mib]) = peer.figures_in(setup, report, &dir, open)? {
            report.compare(["after a clean close", "", "ms"], (peer.name, ms))?;
            report.compare(["after a clean close", "", "MiB"], (peer.name, mib))?;
        }
    }
    Ok(())
}

/// The median of reading a message from anywhere, in a log that has just been opened.
fn point_read_us(dir: &Path, messages: u64) -> Result<f64> {
    let log = log::open_existing(dir)?;
    let mut scanner = log.scanner();
    let mut reads = Latencies::default();
    // A step that meets every part of the log in no order.
    let mut number = 1;
    for _ in 0..200 {
        number = (number + 611_953) % messages;
        let found = reads.time(|| match scanner.read(number) {
            Ok(record) => Ok(record.and_then(|record| number_of(record.value))),
            Err(error) => Err(failed(error)),
        })?;
        if found != Some(number) {
            return Err(format!("asked for message {number}, found {found:?}"));
        }
    }
    let (closed, _) = timed(|| log.close());
    closed.map_err(failed)?;
    Ok(reads.quantile_us(0.5))
}
