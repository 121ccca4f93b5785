//! From publishing to a sleeping process that holds the message, beside a byte through a pipe.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use busline_log::{Scanner, SyncMode};

use crate::child::{Started, say};
use crate::log::{self, failed};
use crate::measure::{Latencies, now_ns, now_us};
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

const TABLE: &str = "From publish to another process that slept and holds the message, 100 B";

/// Between two messages, so that the consumer is asleep when the next one comes.
const PAUSE: Duration = Duration::from_micros(500);

/// A consumer that gets nothing for this long has missed a message.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("wake")?;
    let messages = setup.scaled(2000, 200);
    let pipe = through_a_pipe(&dir, messages)?;
    for (how, work) in [("futex", "a thread that waits"), ("bell", "a file descriptor in poll")] {
        let ours = through_the_log(&dir.join(how), how, messages)?;
        for (at, unit) in ["us, p50", "us, p99"].into_iter().enumerate() {
            report.add(Figure {
                table: TABLE,
                work: work.to_owned(),
                durability: "crash of the process",
                unit,
                busline: ours[at],
                beside: ("a byte through a pipe", pipe[at]),
            });
        }
    }
    remove(&dir)
}

fn through_the_log(dir: &Path, how: &str, messages: u64) -> Result<[f64; 2]> {
    let log = log::open(dir, SyncMode::Os)?;
    let mut child = Started::new(&["listen", how], dir, &[messages.to_string()])?;
    child.line()?;
    let mut appender = log.appender();
    let mut body = [0; 100];
    for _ in 0..messages {
        std::thread::park_timeout(PAUSE);
        body[..8].copy_from_slice(&now_ns().to_le_bytes());
        appender.append(now_us(), b"category.0000001", b"", &body).map_err(failed)?;
    }
    let quantiles = two(&child.line()?)?;
    child.end()?;
    log.close().map_err(failed)?;
    Ok(quantiles)
}

fn through_a_pipe(dir: &Path, messages: u64) -> Result<[f64; 2]> {
    let mut child = Started::new(&["listen", "pipe"], dir, &[messages.to_string()])?;
    child.line()?;
    for _ in 0..messages {
        std::thread::park_timeout(PAUSE);
        child.write(&now_ns().to_le_bytes())?;
    }
    let quantiles = two(&child.line()?)?;
    child.end()?;
    Ok(quantiles)
}

fn two(line: &str) -> Result<[f64; 2]> {
    let numbers: Option<Vec<f64>> = line.split(' ').map(|text| text.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| format!("'{line}' is not two numbers"))
}

/// The consuming process.
pub(crate) fn listen(how: &str, dir: &Path, messages: u64) -> Result<()> {
    let mut latencies = Latencies::default();
    if how == "pipe" {
        say("ready")?;
        let mut stdin = std::io::stdin().lock();
        let mut sent = [0; 8];
        for _ in 0..messages {
            stdin.read_exact(&mut sent).map_err(failed)?;
            latencies.add(since(&sent));
        }
    } else {
        let log = log::open_existing(dir)?;
        let mut scanner = log.scanner();
        scanner.seek_tail();
        let bell = if how == "bell" { Some(log.doorbell().map_err(failed)?) } else { None };
        say("ready")?;
        let mut left = messages;
        while left > 0 {
            let mark = log.mark();
            left -= take(&mut scanner, &mut latencies)?;
            let woken = match &bell {
                _ if left == 0 => true,
                None => log.wait(mark, Some(PATIENCE)).map_err(failed)?,
                Some(bell) => {
                    bell.drain().map_err(failed)?;
                    !bell.arm(mark).map_err(failed)? || bell.wait(Some(PATIENCE)).map_err(failed)?
                }
            };
            if !woken {
                return Err(format!("waited in vain, {left} messages are missing"));
            }
        }
        log.close().map_err(failed)?;
    }
    say(&format!("{} {}", latencies.quantile_us(0.5), latencies.quantile_us(0.99)))
}

fn take(scanner: &mut Scanner, latencies: &mut Latencies) -> Result<u64> {
    let mut taken = 0;
    while let Some(record) = scanner.next().map_err(failed)? {
        let sent = record.value.first_chunk().ok_or("a message is too short")?;
        latencies.add(since(sent));
        taken += 1;
    }
    Ok(taken)
}

fn since(sent: &[u8; 8]) -> Duration {
    Duration::from_nanos(now_ns().saturating_sub(u64::from_le_bytes(*sent)))
}
