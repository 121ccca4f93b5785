//! What is known about a group and stands in no queue argument: kept at the broker beside its queue.
//!
//! AMQP cannot say what is bound to a queue. So our own dialect keeps the declaration of each group as
//! the only message of a queue of its own, which the next one replaces.

use std::time::Duration;

use busline_core::clock::Clock;
use busline_core::transport::{GroupSpec, OnDifference, RetryMode};
use busline_core::{Error, ErrorKind, KeyPattern, Patterns, Result};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::{Deserialize, Serialize};

use super::channel::ConsumerChannel;
use super::config::QueueKind;
use super::declare;
use super::error::error;
use super::names;

/// Somebody who is stopped while reading keeps others waiting; no longer than this.
const READ_MAX: Duration = Duration::from_secs(5);

/// A group as it was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Sorted; none is every key.
    patterns: Vec<String>,
    pub(super) attempts_max: Option<u32>,
    #[serde(default)]
    pub(super) blocking: bool,
    #[serde(default)]
    expires_after_ms: Option<u64>,
    #[serde(default)]
    pub(super) quorum: bool,
}

impl Settings {
    pub(super) fn of(spec: &GroupSpec, kind: QueueKind) -> Self {
        let ms = |idle: Duration| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        Self {
            patterns: spec.patterns.as_slice().iter().map(|p| p.as_str().to_owned()).collect(),
            attempts_max: spec.attempts_max,
            blocking: spec.retry_mode == RetryMode::Block,
            expires_after_ms: spec.expires_after.map(ms),
            quorum: kind == QueueKind::Quorum,
        }
    }

    /// Which keys it gets.
    pub(super) fn patterns(&self) -> Result<Patterns> {
        let parse = |pattern: &String| KeyPattern::new(pattern.clone());
        Ok(Patterns::new(self.patterns.iter().map(parse).collect::<Result<Vec<_>>>()?))
    }

    /// What it becomes when it is declared as `wanted` while it is this; `None` is no change.
    pub(super) fn reconcile(&self, wanted: &Self, spec: &GroupSpec) -> Result<Option<Self>> {
        let fixed = |of: &Self| (of.blocking, of.expires_after_ms, of.quorum);
        if fixed(self) != fixed(wanted) {
            return Err(self
                .conflict(wanted, spec)
                .hint("what its queue was made with cannot be changed: declare another group"));
        }
        if self == wanted {
            return Ok(None);
        }
        match spec.on_difference {
            OnDifference::Refuse => Err(self
                .conflict(wanted, spec)
                .hint("declare it as it is, or ask for the difference to be added or replaced")),
            OnDifference::Replace => Ok(Some(wanted.clone())),
            OnDifference::Add => {
                let (mine, more) = (self.patterns()?, wanted.patterns()?);
                let all = mine.is_all() || more.is_all();
                let both = mine.as_slice().iter().chain(more.as_slice()).cloned();
                let both = if all { Patterns::all() } else { Patterns::new(both) };
                let patterns = both.as_slice().iter().map(|p| p.as_str().to_owned()).collect();
                let added = Self { patterns, ..wanted.clone() };
                Ok((added != *self).then_some(added))
            }
        }
    }

    fn conflict(&self, wanted: &Self, spec: &GroupSpec) -> Error {
        let message = format!("the group exists as {self}, wanted is {wanted}");
        Error::new(ErrorKind::Conflict, message)
            .context("topic", &spec.topic)
            .context("group", &spec.group)
    }
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let patterns =
            if self.patterns.is_empty() { "#".to_owned() } else { self.patterns.join(" ") };
        write!(f, "{patterns}")?;
        match self.attempts_max {
            Some(max) => write!(f, ", {max} attempts")?,
            None => f.write_str(", attempts without limit")?,
        }
        if self.blocking {
            f.write_str(", retries block")?;
        }
        if let Some(ms) = self.expires_after_ms {
            write!(f, ", expiring after {ms} ms")?;
        }
        f.write_str(if self.quorum { ", quorum" } else { ", classic" })
    }
}

/// Keeps the settings of the group with this queue; returns when they are stored.
pub(super) async fn write(
    channel: &lapin::Channel,
    queue: &ShortString,
    settings: &Settings,
) -> Result<()> {
    let name = names::settings(queue)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    let durable = QueueDeclareOptions::durable();
    channel.queue_declare(name.clone(), durable, arguments).await.map_err(error)?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(error)?;
    let json = serde_json::to_vec(settings)
        .map_err(|cause| Error::new(ErrorKind::Other, "settings are no JSON").source(cause))?;
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish(ShortString::default(), name, options, &json, properties);
    let confirm = publish.await.map_err(error)?.await.map_err(error)?;
    if confirm.is_ack() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Full, "the broker does not take the settings of a group"))
}

/// The settings of the group with this queue, if it has some; takes a channel, which it closes.
pub(super) async fn read(
    channel: lapin::Channel,
    clock: &dyn Clock,
    queue: &ShortString,
) -> Result<Option<Settings>> {
    let name = names::settings(queue)?;
    channel.basic_qos(1, BasicQosOptions::default()).await.map_err(error)?;
    match declare::count_on(&channel, clock, &name).await.map_err(error) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(None) => return Err(declare::uncounted(&name)),
        // Whoever reads it has it for a moment; then there is a consumer too.
        Ok(Some(found)) if found.message_count() == 0 && found.consumer_count() == 0 => {
            drop(channel.close(200, "read".into()).await);
            return Ok(None);
        }
        Ok(Some(_)) => {}
    }
    let options = BasicConsumeOptions::default();
    let consume =
        channel.basic_consume(name, ShortString::default(), options, FieldTable::default());
    let consumer = consume.await.map_err(error)?;
    let mut consuming = ConsumerChannel::new(channel, consumer);
    let came = tokio::time::timeout(READ_MAX, consuming.consumer().map_err(error)?.next()).await;
    // It goes back with its channel.
    consuming.close().await;
    let Ok(came) = came else {
        let why = "somebody holds the settings of the group for too long";
        return Err(Error::new(ErrorKind::Elapsed, why).context("queue", queue));
    };
    let Some(delivery) = came else { return Ok(None) };
    let parsed = serde_json::from_slice(&delivery.map_err(error)?.data).map_err(|cause| {
        Error::new(ErrorKind::Damaged, "the settings of the group are not ours")
            .source(cause)
            .context("queue", queue)
    });
    parsed.map(Some)
}
