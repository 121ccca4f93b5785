//! Clocks, medians, and the memory of this process.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a work came to, and how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Timer::start();
    let done = work();
    (done, start.took())
}

/// Measures what awaits, which a closure cannot.
#[derive(Debug)]
pub(crate) struct Timer(Instant);

impl Timer {
    /// Starts now.
    pub(crate) fn start() -> Self {
        #[allow(clippy::disallowed_methods, reason = "measuring is what this program is for")]
        let start = Instant::now();
        Self(start)
    }

    /// The time since the start.
    pub(crate) fn took(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_us() -> i64 {
    i64::try_from(since_epoch().as_micros()).unwrap_or(i64::MAX)
}

/// Nanoseconds since the Unix epoch: a time that two processes can compare.
pub(crate) fn now_ns() -> u64 {
    u64::try_from(since_epoch().as_nanos()).unwrap_or(u64::MAX)
}

fn since_epoch() -> Duration {
    #[allow(clippy::disallowed_methods, reason = "the log takes the time as an argument")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How many of something in a second.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

/// The repetitions of one figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    /// The one in the middle, or the mean of the two.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => self.0[middle],
            _ => f64::midpoint(self.0[middle - 1], self.0[middle]),
        }
    }

    /// The least and the greatest.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let end = |sample: Option<&f64>| sample.copied().unwrap_or(f64::NAN);
        (end(self.0.first()), end(self.0.last()))
    }
}

/// How long each of many operations took.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    taken: Vec<Duration>,
    total: Duration,
}

impl Latencies {
    /// Measures one operation.
    pub(crate) fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let (done, took) = timed(operation);
        self.add(took);
        done
    }

    /// Adds one that was measured elsewhere.
    pub(crate) fn add(&mut self, took: Duration) {
        self.taken.push(took);
        self.total += took;
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.taken.len() as u64
    }

    /// Operations in a second.
    pub(crate) fn per_second(&self) -> f64 {
        per_second(self.taken.len() as u64, self.total)
    }

    /// The time, in microseconds, that this part of the operations did not exceed.
    pub(crate) fn quantile_us(&self, part: f64) -> f64 {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let at = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e6)
    }
}

/// What this process has used of the processors, in steps of 10 ms; nothing where nobody tells.
pub(crate) fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything, the 12th and the 13th field: in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// How many files this process may have open once it has raised its limit; nothing where nobody tells.
pub(crate) fn open_files_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limit.split_whitespace().nth(1)?.parse().ok()
}

/// Memory of this process that no file backs, in MiB; not a number where nobody tells.
pub(crate) fn anonymous_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        let mut samples = Samples::default();
        assert!(samples.median().is_nan());
        for sample in [3.0, 1.0, 10.0] {
            samples.add(sample);
        }
        assert_eq!((samples.median(), samples.spread()), (3.0, (1.0, 10.0)));
        samples.add(5.0);
        assert_eq!(samples.median(), 4.0);
    }

    #[test]
    fn quantiles() {
        let taken = (1..=100).map(Duration::from_micros).collect();
        let latencies = Latencies { taken, total: Duration::from_secs(1) };
        assert_eq!(latencies.quantile_us(0.5).round(), 51.0);
        assert_eq!(latencies.quantile_us(0.99).round(), 99.0);
        assert_eq!(latencies.per_second(), 100.0);
    }
}
