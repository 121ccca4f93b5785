//! Waiting for a log to change: heard by the runtime's own reactor, not polled.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use busline_core::{Clock, Result};
use busline_log::{Doorbell, Log, Mark};
use tokio::net::unix::pipe;
use tokio::runtime;
use tokio::sync::{Notify, Semaphore};

use super::error::of_log;
use super::store::locked;

/// A publisher that is killed between writing and ringing wakes nobody: look again after this.
const LOOK_EVERY_SECONDS: u64 = 1;

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
    bells: Arc<Bells>,
    bell: Option<Arc<Bell>>,
    tried: bool,
}

/// The doorbells of a process, one for each log and runtime, however many wait.
#[derive(Debug, Default)]
pub(super) struct Bells(Mutex<HashMap<(u128, runtime::Id), Weak<Bell>>>);

/// A doorbell whose FIFO the runtime listens to.
#[derive(Debug)]
struct Bell {
    doorbell: Doorbell,
    heard: pipe::Receiver,
    /// The one that listens and tells the others.
    listener: Semaphore,
    news: Notify,
}

impl Bells {
    /// `None` without a bell: too many processes wait, or there is no FIFO behind it.
    fn get(&self, log: &Log) -> Option<Arc<Bell>> {
        let mut bells = locked(&self.0);
        let place = (log.id(), runtime::Handle::current().id());
        if let Some(bell) = bells.get(&place).and_then(Weak::upgrade) {
            return Some(bell);
        }
        let bell = Arc::new(Bell::new(log)?);
        if bells.len() == bells.capacity() {
            bells.retain(|_, bell| bell.strong_count() > 0);
        }
        bells.insert(place, Arc::downgrade(&bell));
        Some(bell)
    }
}

impl Bell {
    fn new(log: &Log) -> Option<Self> {
        let doorbell = log.doorbell().ok()?;
        let fd = doorbell.fd()?.try_clone_to_owned().ok()?;
        let heard = pipe::Receiver::from_owned_fd(fd).ok()?;
        Some(Self { doorbell, heard, listener: Semaphore::new(1), news: Notify::new() })
    }

    /// Empties the FIFO, and tells the runtime so. What it held may have been for others.
    fn drain(&self) {
        let mut bytes = [0; 64];
        let mut rung = false;
        while self.heard.try_read(&mut bytes).is_ok_and(|read| read > 0) {
            rung = true;
        }
        if rung {
            self.news.notify_waiters();
        }
    }

    /// Waits until it is rung. It is not drained by then: who waits next does that, so that nothing
    /// stands between the news and whoever wants it.
    async fn listen(&self) -> std::io::Result<()> {
        // It is never closed.
        let _listener = self.listener.acquire().await;
        let heard = self.heard.readable().await;
        self.news.notify_waiters();
        heard
    }
}

impl Waiter {
    pub(super) fn new(log: Log, clock: Arc<dyn Clock>, bells: Arc<Bells>) -> Self {
        Self { log, clock, bells, bell: None, tried: false }
    }

    /// Waits until something changed since the mark, at most until the monotonic clock shows `due`.
    /// It may return for nothing. Cancel safe.
    ///
    /// Whether there is something that nobody rang for, `missed` tells: it is asked once a second.
    pub(super) async fn wait(
        &mut self,
        mark: Mark,
        due: Option<Duration>,
        missed: impl Fn() -> bool,
    ) -> Result<()> {
        if !self.tried {
            self.tried = true;
            self.bell = self.bells.get(&self.log);
        }
        loop {
            let look_at = next_look(self.clock.monotonic());
            let wake_at = due.map_or(look_at, |due| due.min(look_at));
            let Some(bell) = self.bell.clone() else {
                return self.wait_with_a_thread(mark, wake_at).await;
            };
            bell.drain();
            let mut news = pin!(bell.news.notified());
            news.as_mut().enable();
            if !bell.doorbell.arm(mark).map_err(of_log)? {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = news => return Ok(()),
                heard = bell.listen() => {
                    if heard.is_err() {
                        // The runtime cannot listen any more: a thread waits from now on.
                        self.bell = None;
                    }
                    return Ok(());
                }
                () = self.clock.sleep_until(wake_at) => {
                    if self.log.mark() != mark || missed() || wake_at < look_at {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn wait_with_a_thread(&self, mark: Mark, until: Duration) -> Result<()> {
        let (log, at_most) = (self.log.clone(), until.saturating_sub(self.clock.monotonic()));
        super::blocking(move || log.wait(mark, Some(at_most)).map(drop).map_err(of_log)).await
    }
}

/// All who wait look at the same moments, so that they wake a process once a second, not once each.
fn next_look(now: Duration) -> Duration {
    Duration::from_secs(now.as_secs() + LOOK_EVERY_SECONDS)
}
