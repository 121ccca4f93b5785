//! The two clocks of the log: wall time, and time since the boot that all processes share.

use std::sync::Arc;

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
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}
