//! How long to wait before trying again: exponential, bounded, with jitter.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// The shape of a back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// No wait is longer, jitter apart.
    pub max: Duration,
    /// Whether up to the same time again is added at random, so that many do not come at once.
    pub jitter: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(10), jitter: true }
    }
}

impl Backoff {
    /// The waits in order, without end.
    pub fn waits(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let mut builder = ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.max)
            .with_factor(2.0)
            .without_max_times();
        if self.jitter {
            builder = builder.with_jitter();
        }
        builder.build()
    }

    /// The wait before attempt `number` (1, 2, 3 …) without jitter: nothing, then doubling.
    pub fn before_attempt(&self, number: u32) -> Duration {
        match number.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => self.first.saturating_mul(1 << doublings.min(30)).min(self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_never_ends() {
        let ms = Duration::from_millis;
        let backoff = Backoff { first: ms(100), max: ms(350), jitter: false };
        let waits: Vec<_> = backoff.waits().take(5).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350, 350]);
        let before: Vec<_> = (1..6).map(|n| backoff.before_attempt(n)).collect();
        assert_eq!(before, [ms(0), ms(100), ms(200), ms(350), ms(350)]);
        assert_eq!(backoff.before_attempt(u32::MAX), ms(350));
    }
}
