//! A group as it was declared: what Kafka has no place for, kept in the topic `busline.groups`.

use std::collections::BTreeMap;
use std::time::Duration;

use busline_core::transport::{GroupSpec, OnDifference, RetryMode};
use busline_core::{Error, ErrorKind, GroupName, KeyPattern, Patterns, Result, Timestamp, Topic};
use serde::{Deserialize, Serialize};

/// A group as it was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) topic: Topic,
    pub(super) group: GroupName,
    /// Tells a group from an earlier one of the same name.
    pub(super) made: String,
    /// Sorted; none is every key.
    patterns: Vec<String>,
    pub(super) attempts_max: Option<u32>,
    #[serde(default)]
    pub(super) blocking: bool,
    #[serde(default)]
    expires_after_ms: Option<u64>,
    /// When a member was there last, of a group that expires.
    #[serde(default)]
    pub(super) seen_us: i64,
    /// How many partitions its topic had when it was declared: those have a place of the group.
    pub(super) partitions: i32,
}

/// All groups, by the names of their consumer groups.
pub(super) type Groups = BTreeMap<String, Settings>;

impl Settings {
    pub(super) fn of(spec: &GroupSpec, partitions: i32, now: Timestamp) -> Self {
        let ms = |idle: Duration| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        Self {
            topic: spec.topic.clone(),
            group: spec.group.clone(),
            made: uuid::Uuid::new_v4().simple().to_string(),
            patterns: spec.patterns.as_slice().iter().map(|p| p.as_str().to_owned()).collect(),
            attempts_max: spec.attempts_max,
            blocking: spec.retry_mode == RetryMode::Block,
            expires_after_ms: spec.expires_after.map(ms),
            seen_us: now.unix_us(),
            partitions,
        }
    }

    /// Which keys it gets.
    pub(super) fn patterns(&self) -> Result<Patterns> {
        let parse = |pattern: &String| KeyPattern::new(pattern.clone());
        Ok(Patterns::new(self.patterns.iter().map(parse).collect::<Result<Vec<_>>>()?))
    }

    /// How long it may be without members.
    pub(super) fn expires_after(&self) -> Option<Duration> {
        self.expires_after_ms.map(Duration::from_millis)
    }

    /// Whether nobody was seen for too long.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        let idle = now.unix_us().saturating_sub(self.seen_us);
        self.expires_after_ms.is_some_and(|ms| u64::try_from(idle / 1000).unwrap_or(0) >= ms)
    }

    /// What it becomes when it is declared as `wanted` while it is this; `None` is no change.
    pub(super) fn reconcile(&self, wanted: &Self, spec: &GroupSpec) -> Result<Option<Self>> {
        let fixed = |of: &Self| (of.blocking, of.expires_after_ms);
        let declared = |of: &Self| (of.patterns.clone(), of.attempts_max, fixed(of));
        if declared(self) == declared(wanted) {
            return Ok(None);
        }
        let kept = Self { made: self.made.clone(), partitions: self.partitions, ..wanted.clone() };
        match spec.on_difference {
            OnDifference::Refuse => Err(self
                .conflict(wanted, spec)
                .hint("declare it as it is, or ask for the difference to be added or replaced")),
            _ if fixed(self) != fixed(wanted) => Err(self
                .conflict(wanted, spec)
                .hint("how it retries and expires cannot be changed: declare another group")),
            OnDifference::Replace => Ok(Some(kept)),
            OnDifference::Add => {
                let (mine, more) = (self.patterns()?, wanted.patterns()?);
                let all = mine.is_all() || more.is_all();
                let both = mine.as_slice().iter().chain(more.as_slice()).cloned();
                let both = if all { Patterns::all() } else { Patterns::new(both) };
                let patterns = both.as_slice().iter().map(|p| p.as_str().to_owned()).collect();
                let added = Self { patterns, ..kept };
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
        Ok(())
    }
}
