//! How long to wait before trying again: growing, bounded, with jitter where wanted.

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
    /// How the waits grow.
    pub growth: Growth,
}

/// How waits grow from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Growth {
    /// Twice as long each time.
    #[default]
    Doubling,
    /// By the first wait each time.
    Linear,
}

impl Default for Backoff {
    fn default() -> Self {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(10));
        Self { first, max, jitter: true, growth: Growth::Doubling }
    }
}

impl Backoff {
    /// 1, 2, 3 … 30 s, as the supervisor of the Python services waits.
    pub(crate) const SECONDS: Self = Self {
        first: Duration::from_secs(1),
        max: Duration::from_secs(30),
        jitter: false,
        growth: Growth::Linear,
    };

    /// The waits in order, without end.
    pub fn waits(&self) -> Box<dyn Iterator<Item = Duration> + Send> {
        if self.growth == Growth::Linear {
            let Self { first, max, .. } = *self;
            return Box::new((1..).map(move |number| first.saturating_mul(number).min(max)));
        }
        let mut builder = ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.max)
            .with_factor(2.0)
            .without_max_times();
        if self.jitter {
            builder = builder.with_jitter();
        }
        Box::new(builder.build())
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
        let backoff =
            Backoff { first: ms(100), max: ms(350), jitter: false, growth: Growth::Doubling };
        let waits: Vec<_> = backoff.waits().take(5).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350, 350]);
        let before: Vec<_> = (1..6).map(|n| backoff.before_attempt(n)).collect();
        assert_eq!(before, [ms(0), ms(100), ms(200), ms(350), ms(350)]);
        assert_eq!(backoff.before_attempt(u32::MAX), ms(350));
        let seconds: Vec<_> =
            Backoff::SECONDS.waits().take(32).map(|wait| wait.as_secs()).collect();
        assert_eq!((seconds[..3].to_vec(), &seconds[29..]), (vec![1, 2, 3], &[30, 30, 30][..]));
    }
}
