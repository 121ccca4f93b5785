//! The time as callers bring it: groups read no clock.

/// One moment, on the clock that people read and on the one that leases need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since 1970; it may go back.
    pub wall_us: i64,
    /// Microseconds since the machine started, sleep included (`CLOCK_BOOTTIME`); it never goes back.
    pub boot_us: u64,
    /// Which start of the machine `boot_us` counts from.
    pub boot_id: u128,
}
