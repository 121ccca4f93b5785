//! Copies to elsewhere: to the own queue, now or later, and to the dead letters.

use std::sync::Arc;
use std::time::Duration;

use busline_core::dead::{Rejection, dead_letter};
use busline_core::{Error, ErrorKind, GroupName, Receipt, Result};
use futures_util::future::BoxFuture;

use super::consuming::About;
use super::declare;
use super::held::Held;
use super::mapping::{self, Before};
use super::session::Core;

/// Puts a message into its queue again; resolves when the copy is stored.
pub(super) fn retry(
    core: Arc<Core>,
    about: &About,
    held: &Held,
    after: Option<Duration>,
) -> BoxFuture<'static, Result<()>> {
    let attempts = Before { count: held.before.count.saturating_add(1), ..held.before };
    let mut wire = mapping::copy(&held.came, &about.queue, attempts);
    Box::pin(async move {
        if let Some(after) = after {
            wire.exchange = declare::delay(&core, delay_ms(after)?).await?;
        }
        let lost = || Error::new(ErrorKind::NotFound, "the queue of the retry is gone");
        if core.publish(wire).await? == Receipt::Unroutable { Err(lost()) } else { Ok(()) }
    })
}

/// Puts a message to the dead letters; resolves when it is stored there.
pub(super) fn dead(
    core: Arc<Core>,
    about: &About,
    group: GroupName,
    held: &Held,
    reason: String,
) -> BoxFuture<'static, Result<()>> {
    let message = mapping::decode(core.dialect, &about.topic, &held.came);
    let (topic, attempts) = (about.topic.clone(), held.before.count.saturating_add(1));
    Box::pin(async move {
        let time = core.clock.now();
        let rejection = Rejection { group: &group, offset: None, reason: &reason, attempts, time };
        let letter = dead_letter(message, &rejection)?;
        let wire = mapping::encode_letter(core.dialect, &letter)?;
        // Its group may have been deleted since.
        for again in [false, true] {
            declare::dead_letters(&core, &group, &topic, again).await?;
            if core.publish(wire.clone()).await? != Receipt::Unroutable {
                return Ok(());
            }
        }
        let why = format!("no queue takes what comes to '{}'", letter.topic);
        Err(Error::new(ErrorKind::NotFound, why).hint("is it deleted all the time?"))
    })
}

/// A delay in milliseconds, rounded up to two digits: each needs a queue of its own, and a little later
/// is what a retry can bear.
fn delay_ms(after: Duration) -> Result<u64> {
    let ms = u64::try_from(after.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
    let step = 10_u64.pow(ms.ilog10().saturating_sub(1));
    let rounded = ms.div_ceil(step).saturating_mul(step);
    if rounded > u64::from(u32::MAX) {
        let why =
            format!("a retry after {after:?} is longer than the 49 days that RabbitMQ can wait");
        return Err(Error::new(ErrorKind::Limit, why));
    }
    Ok(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_rounded_up_and_never_down() {
        for (given_us, ms) in [
            (1, 1),
            (7_000, 7),
            (99_000, 99),
            (101_000, 110),
            (1_234_000, 1_300),
            (60_000_000, 60_000),
        ] {
            assert_eq!(delay_ms(Duration::from_micros(given_us)).unwrap(), ms);
        }
        assert_eq!(
            delay_ms(Duration::from_secs(60 * 86_400)).unwrap_err().kind(),
            ErrorKind::Limit
        );
    }
}
