//! The works, the same for every store.

use std::io::{BufRead, Write};

use crate::measure::{anonymous_mib, timed};
use crate::payload::Payload;
use crate::store::{Store, Sync, Target};
use crate::{Result, failed};

/// Does a work and prints its line of figures.
pub(crate) fn run<S: Store>(work: &str, target: &Target, numbers: &[u64]) -> Result<()> {
    match (work, numbers) {
        ("bulk", &[messages, body_len, commit_len]) => {
            bulk::<S>(target, messages, body_len, commit_len)
        }
        ("turns", []) => turns::<S>(target),
        ("many", &[publishers, each]) => {
            let mut store = S::open(target)?;
            let (done, took) = timed(|| store.publish_from_many(publishers, each));
            done?;
            store.read()?.check(publishers * each)?;
            say(&[took.as_secs_f64()])
        }
        ("settle", &[messages, commit_len]) => {
            let mut store = S::open(target)?;
            store.publish(&mut Payload::new(100), 0..messages, 1000)?;
            let (count, took) = timed(|| store.settle(commit_len));
            count?.check(messages)?;
            say(&[took.as_secs_f64()])
        }
        ("fill", &[messages, body_len]) => {
            let mut store = S::open(target)?;
            store.publish(&mut payload(body_len)?, 0..messages, 10_000)?;
            store.sync()?;
            drop(store);
            say(&[])
        }
        ("open", &[messages]) => {
            let before = anonymous_mib();
            let (store, took) = timed(|| {
                let mut store = S::open(target)?;
                Ok::<_, String>((store.last()?, store))
            });
            let (last, store) = store?;
            if last != messages {
                return Err(format!("it ends at message {last}, not {messages}"));
            }
            say(&[took.as_secs_f64() * 1e3, anonymous_mib() - before])?;
            drop(store);
            Ok(())
        }
        ("wake", &[messages]) => {
            let latencies = S::open(target)?.wake(messages)?;
            say(&[latencies.quantile_us(0.5), latencies.quantile_us(0.99)])
        }
        ("find", &[messages]) => say(&[S::open(target)?.find(messages)?]),
        _ => Err(format!("'{work}' is no work, or has other numbers than {numbers:?}")),
    }
}

fn bulk<S: Store>(target: &Target, messages: u64, body_len: u64, commit_len: u64) -> Result<()> {
    let mut store = S::open(target)?;
    let mut payload = payload(body_len)?;
    let (done, published) = timed(|| {
        store.publish(&mut payload, 0..messages, commit_len)?;
        if target.sync == Sync::End { store.sync() } else { Ok(()) }
    });
    done?;
    let (count, read) = timed(|| store.read());
    count?.check(messages)?;
    say(&[published.as_secs_f64(), read.as_secs_f64()])
}

fn turns<S: Store>(target: &Target) -> Result<()> {
    let mut store = S::open(target)?;
    let mut payload = Payload::new(100);
    let mut next = 0;
    say(&[])?;
    for line in std::io::stdin().lock().lines() {
        let count: u64 = line.map_err(failed)?.trim().parse().map_err(failed)?;
        let mut taken = Vec::new();
        for number in next..next + count {
            let (done, took) = timed(|| store.publish(&mut payload, number..number + 1, 1));
            done?;
            taken.push(took.as_secs_f64() * 1e9);
        }
        next += count;
        say(&taken)?;
    }
    store.read()?.check(next)
}

fn payload(body_len: u64) -> Result<Payload> {
    usize::try_from(body_len).map(Payload::new).map_err(failed)
}

/// One line of figures.
fn say(figures: &[f64]) -> Result<()> {
    let line: Vec<_> = figures.iter().map(f64::to_string).collect();
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", line.join(" ")).and_then(|()| stdout.flush()).map_err(failed)
}
