//! What publishing costs more when consumers are there and none of them waits at the moment.

use busline_log::{Doorbell, Log, Scanner, SyncMode};

use crate::goals::PROCESS;
use crate::log::{self, failed};
use crate::measure::{Samples, timed};
use crate::payload::Payload;
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

const TABLE: &str = "A publish that nobody waits for, 100 B";

/// With and without take turns by this many messages.
const TURN: u64 = 500;

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("idle")?;
    let consumed = log::open(&dir.join("consumed"), SyncMode::Os)?;
    let alone = log::open(&dir.join("alone"), SyncMode::Os)?;
    let reading = log::open_existing(&dir.join("consumed"))?;
    let mut payload = Payload::new(100);
    let mut appenders = [consumed.appender(), alone.appender()];
    let _consumers = consumers(&reading, || {
        appenders
            .iter_mut()
            .try_for_each(|appender| log::publish_one(appender, 0, &mut payload).map(drop))
    })?;

    let (mut more, mut plain) = (Samples::default(), Samples::default());
    for turn in 0..setup.scaled(400, 40) {
        let mut took = [0.0; 2];
        // Who is second has the warmer caches: that is each in turn.
        for at in [turn % 2, 1 - turn % 2].map(|at| usize::from(at == 1)) {
            let numbers = turn * TURN..(turn + 1) * TURN;
            let (done, each) = timed(|| {
                numbers.into_iter().try_for_each(|number| {
                    log::publish_one(&mut appenders[at], number, &mut payload).map(drop)
                })
            });
            done?;
            took[at] = 1e9 * each.as_secs_f64() / TURN as f64;
        }
        more.add(took[0] - took[1]);
        plain.add(took[1]);
    }
    report.add(Figure {
        table: TABLE,
        work: "added by consumers that do not wait".to_owned(),
        durability: PROCESS,
        unit: "ns",
        busline: more.median(),
        beside: ("such a publish, nobody there", plain.median()),
    });
    for log in [reading, consumed, alone] {
        log.close().map_err(failed)?;
    }
    remove(&dir)
}

/// Readers with a bell each that waited once, were woken, and have not asked to be woken again.
fn consumers(
    log: &Log,
    mut publish: impl FnMut() -> Result<()>,
) -> Result<Vec<(Scanner, Doorbell)>> {
    let mut consumers = Vec::new();
    for _ in 0..8 {
        let bell = log.doorbell().map_err(failed)?;
        if !bell.arm(log.mark()).map_err(failed)? {
            return Err("a bell was not armed, though nobody publishes".to_owned());
        }
        let mut scanner = log.scanner();
        scanner.seek_tail();
        consumers.push((scanner, bell));
    }
    publish()?;
    for (_, bell) in &consumers {
        if !bell.drain().map_err(failed)? {
            return Err("a bell was not rung".to_owned());
        }
    }
    Ok(consumers)
}
