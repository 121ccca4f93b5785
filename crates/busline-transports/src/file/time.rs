//! The two clocks of the log: wall time, and time since the boot that all processes share.

use std::sync::{Arc, LazyLock};

use busline_core::{Clock, SystemClock};
use busline_log::Now;

/// Reads both clocks; waits go by the clock of the port.
#[derive(Debug, Clone)]
pub(super) struct Time {
    clock: Arc<dyn Clock>,
    /// A test's clock counts for both; else the boot clock is the machine's.
    manual: bool,
}

impl Time {
    pub(super) fn system() -> Self {
        Self { clock: SystemClock::shared(), manual: false }
    }

    pub(super) fn manual(clock: Arc<dyn Clock>) -> Self {
        Self { clock, manual: true }
    }

    pub(super) fn wall_us(&self) -> i64 {
        self.clock.now().unix_us()
    }

    pub(super) fn now(&self, boot_id: u128) -> Now {
        let boot_us = if self.manual {
            u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX)
        } else {
            boot_us()
        };
        Now { wall_us: self.wall_us(), boot_us, boot_id }
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// Microseconds since the boot, suspend included, the same for every process of the machine.
fn boot_us() -> u64 {
    static OFFSET_US: LazyLock<i64> = LazyLock::new(namespace_offset_us);
    clock_us().saturating_add_signed(OFFSET_US.saturating_neg())
}

/// What the time namespace of this process, as a container may have one, adds to the boot clock. Leases
/// are agreed on with processes outside of it.
fn namespace_offset_us() -> i64 {
    let own = |link: &str| std::fs::read_link(format!("/proc/self/ns/{link}")).ok();
    // The offsets are those that children get, who are in another namespace right after `unshare`.
    if own("time").is_none() || own("time") != own("time_for_children") {
        return 0;
    }
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    parse_offset_us(&offsets).unwrap_or(0)
}

/// The offset of the boot clock: a line of its name, seconds and nanoseconds.
fn parse_offset_us(offsets: &str) -> Option<i64> {
    let mut words = offsets
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next()? == "boottime").then_some(words))?;
    let (seconds, nanoseconds): (i64, i64) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    seconds.checked_mul(1_000_000)?.checked_add(nanoseconds / 1000)
}

fn clock_us() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_are_read_and_nonsense_is_none() {
        let kernel = "monotonic           0         0\nboottime       -86400   5000000\n";
        assert_eq!(parse_offset_us(kernel), Some(-86_399_995_000));
        for text in ["", "boottime", "boottime x 0", "boottime 9223372036854775807 0", "real 1 2"] {
            assert_eq!(parse_offset_us(text), None, "{text}");
        }
    }
}
