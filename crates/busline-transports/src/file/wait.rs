//! Waiting for a log to change: heard by the runtime's own reactor, not polled.

use std::sync::Arc;
use std::time::Duration;

use busline_core::{Clock, Result};
use busline_log::{Doorbell, Log, Mark};
use tokio::net::unix::pipe;

use super::error::of_log;

/// A publisher that is killed between writing and ringing wakes nobody: look again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often a group is changed on a full disk before that fails, and the pause in between.
const FULL_TRIES: u32 = 100;
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// Changes a group of a log. A publisher that tries a full disk takes, for a moment, also the room
/// that the group's reserve gave back: then this tries again.
pub(super) fn with_room<T>(
    log: &Log,
    mut change: impl FnMut() -> busline_log::Result<T>,
) -> busline_log::Result<T> {
    for _ in 0..FULL_TRIES {
        match change() {
            Err(error) if error.kind() == busline_log::ErrorKind::Full => {
                log.wait(log.mark(), Some(FULL_PAUSE))?;
            }
            done => return done,
        }
    }
    change()
}

/// Waits for one log, for one subscription or reader.
#[derive(Debug)]
pub(super) struct Waiter {
    log: Log,
    clock: Arc<dyn Clock>,
    bell: Option<Bell>,
    tried: bool,
}

/// A doorbell whose FIFO the runtime listens to.
#[derive(Debug)]
struct Bell {
    doorbell: Doorbell,
    heard: pipe::Receiver,
}

impl Bell {
    /// `None` without a bell of its own: too many waiters, or no FIFO behind it.
    fn new(log: &Log) -> Option<Self> {
        let doorbell = log.doorbell().ok()?;
        let fd = doorbell.fd()?.try_clone_to_owned().ok()?;
        let heard = pipe::Receiver::from_owned_fd(fd).ok()?;
        Some(Self { doorbell, heard })
    }

    /// Empties the FIFO, and tells the runtime so.
    fn drain(&self) {
        let mut bytes = [0; 64];
        while self.heard.try_read(&mut bytes).is_ok_and(|read| read > 0) {}
    }
}

impl Waiter {
    pub(super) fn new(log: Log, clock: Arc<dyn Clock>) -> Self {
        Self { log, clock, bell: None, tried: false }
    }

    /// Waits until something changed since the mark, at most a second. Cancel safe.
    pub(super) async fn wait(&mut self, mark: Mark) -> Result<()> {
        self.wait_until(mark, None).await
    }

    /// As [`Waiter::wait`], and at most until the monotonic clock shows this. Cancel safe.
    pub(super) async fn wait_until(&mut self, mark: Mark, due: Option<Duration>) -> Result<()> {
        let now = self.clock.monotonic();
        let due = due.unwrap_or(now + LOOK_AGAIN).min(now + LOOK_AGAIN);
        if !self.tried {
            self.tried = true;
            self.bell = Bell::new(&self.log);
        }
        let Some(bell) = &self.bell else {
            // Without a bell a thread waits instead.
            let (log, at_most) = (self.log.clone(), due.saturating_sub(now));
            return super::blocking(move || {
                log.wait(mark, Some(at_most)).map(drop).map_err(of_log)
            })
            .await;
        };
        bell.drain();
        if !bell.doorbell.arm(mark).map_err(of_log)? {
            return Ok(());
        }
        tokio::select! {
            ready = bell.heard.readable() => {
                bell.drain();
                if ready.is_err() {
                    // The runtime cannot listen any more: a thread waits from now on.
                    self.bell = None;
                }
            }
            () = self.clock.sleep_until(due) => {}
        }
        Ok(())
    }
}
