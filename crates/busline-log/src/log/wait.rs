//! Waiting for records, for threads.

use std::time::Duration;

use crate::control::Signal;
use crate::error::Result;
use crate::log::doorbell::ring_armed;
use crate::log::{Inner, Log};

/// A thread looks at the tail this often even if nobody wakes it: a publisher that is killed between making
/// records visible and waking has woken nobody.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a waiter saw before it looked for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    tail_seq: u64,
    rings: u64,
}

impl Mark {
    /// Whether somebody rang since an earlier mark, apart from what was appended.
    pub fn rung_since(self, earlier: Self) -> bool {
        self.rings != earlier.rings
    }
}

impl Log {
    /// Remembers the state of the log. Take it before looking for work, and wait with it after.
    pub fn mark(&self) -> Mark {
        self.inner.mark()
    }

    /// Waits until records were appended or somebody rang since the mark was taken, or the timeout passed;
    /// true when something changed. False may come before the timeout, as the crate reads no clock: whoever
    /// has a deadline looks at his own. Blocks the thread; costs a publisher one system call.
    pub fn wait(&self, mark: Mark, timeout: Option<Duration>) -> Result<bool> {
        self.inner.check_open("wait for records")?;
        let mut left = timeout;
        loop {
            if self.inner.mark() != mark {
                return Ok(true);
            }
            let slice = left.map_or(SLEEP_MAX, |left| left.min(SLEEP_MAX));
            if slice.is_zero() {
                return Ok(false);
            }
            self.inner.control.sleep(Signal::Tail, Some(slice), || self.inner.mark() != mark);
            // Time comes in as an argument everywhere else; here an early wake-up may only shorten the wait.
            left = left.map(|left| left.saturating_sub(slice));
        }
    }

    /// Wakes everybody who waits for this log, in every process, although nothing was appended.
    pub fn ring(&self) {
        self.inner.control.add_ring();
        self.inner.notify(Signal::Tail, true);
    }
}

impl Inner {
    pub(super) fn mark(&self) -> Mark {
        Mark { tail_seq: self.control.tail_seq(), rings: self.control.rings() }
    }

    /// Wakes threads and rings the doorbells that are armed. One load when nobody waits.
    pub(super) fn notify(&self, which: Signal, always: bool) {
        if self.control.notify(which, always) {
            ring_armed(self);
        }
    }
}
