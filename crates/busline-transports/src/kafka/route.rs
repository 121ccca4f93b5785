//! Copies of what a group does not want now, or not at all: stored before the original is settled.

use std::sync::Arc;
use std::time::Duration;

use busline_core::dead::{Rejection, dead_letter};
use busline_core::{GroupName, Offset, Result, Topic};
use futures_util::future::BoxFuture;

use super::declare;
use super::hands::Held;
use super::mapping;
use super::session::Core;
use super::topics::Shards;

/// Where a message came from.
pub(super) fn origin(shards: Shards, held: &Held) -> Offset {
    let here = || Offset::new(shards.shard(held.came.partition), held.came.offset);
    held.came.origin().unwrap_or_else(here)
}

/// A copy that is delivered again after this.
pub(super) fn retry(
    core: Arc<Core>,
    shards: Shards,
    to: String,
    held: &Held,
    after: Duration,
) -> BoxFuture<'static, Result<()>> {
    let wait = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    let due = core.clock.now().unix_us().saturating_add(wait);
    let due = busline_core::Timestamp::from_unix_us(due);
    let attempts = held.before.saturating_add(1);
    let wire = mapping::copy(&held.came, to, attempts, due, &origin(shards, held));
    Box::pin(async move { core.publish(wire, shards).await.map(drop) })
}

/// A dead letter.
pub(super) fn dead(
    core: Arc<Core>,
    topic: Topic,
    group: GroupName,
    shards: Shards,
    held: &Held,
    reason: String,
) -> BoxFuture<'static, Result<()>> {
    let (held, time) = (held.clone(), core.clock.now());
    Box::pin(async move {
        declare::dead_letters(&core, &topic, &group).await?;
        let offset = origin(shards, &held);
        let rejection = Rejection {
            group: &group,
            offset: Some(&offset),
            reason: &reason,
            attempts: held.before.saturating_add(1),
            time,
        };
        let message = mapping::decode(core.dialect, &topic, &held.came);
        let letter = dead_letter(message, &rejection)?;
        let wire = mapping::encode(core.dialect, &letter, 1)?;
        core.publish(wire, shards).await.map(drop)
    })
}
