//! Time as an argument: the only place of the async crates that reads a clock or sleeps.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;

use crate::time::Timestamp;

/// Wall time for what people read, monotonic time for what must pass, and sleeping.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// What the wall clock says; it may jump.
    fn now(&self) -> Timestamp;

    /// Time since some fixed point; it never goes back.
    fn monotonic(&self) -> Duration;

    /// Resolves after this long. Cancel safe.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Resolves when the monotonic clock shows at least this. Cancel safe.
    ///
    /// Unlike [`Clock::sleep`] it cannot sleep too long when the clock is moved between looking
    /// at it and going to sleep.
    fn sleep_until(&self, monotonic: Duration) -> BoxFuture<'static, ()> {
        self.sleep(monotonic.saturating_sub(self.monotonic()))
    }
}

/// The machine's clock; sleeps with tokio's timer, so that a test can pause it.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// The clock, shared.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self { start: tokio::time::Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[allow(clippy::disallowed_methods, reason = "this is the clock")]
        let now = SystemTime::now();
        let us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_unix_us(match now.duration_since(UNIX_EPOCH) {
            Ok(after) => us(after),
            Err(before) => -us(before.duration()),
        })
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A clock that a test moves by hand; its wall clock may jump, also backwards.
#[derive(Debug, Clone)]
pub struct ManualClock {
    wall: tokio::sync::watch::Sender<(i64, Duration)>,
}

impl ManualClock {
    /// Starts at this wall time.
    pub fn new(now: Timestamp) -> Self {
        Self { wall: tokio::sync::watch::Sender::new((now.unix_us(), Duration::ZERO)) }
    }

    /// Lets time pass, on both clocks; wakes who sleeps.
    pub fn advance(&self, by: Duration) {
        self.wall.send_modify(|(wall, monotonic)| {
            *wall = wall.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
            *monotonic += by;
        });
    }

    /// Sets the wall clock, as an operator or NTP would; monotonic time stays.
    pub fn jump_to(&self, now: Timestamp) {
        self.wall.send_modify(|(wall, _)| *wall = now.unix_us());
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_us(self.wall.borrow().0)
    }

    fn monotonic(&self) -> Duration {
        self.wall.borrow().1
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.monotonic().saturating_add(duration))
    }

    fn sleep_until(&self, until: Duration) -> BoxFuture<'static, ()> {
        let mut wall = self.wall.subscribe();
        Box::pin(async move {
            // An error would mean that the clock is gone, and with it all time.
            if wall.wait_for(|(_, monotonic)| *monotonic >= until).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}
