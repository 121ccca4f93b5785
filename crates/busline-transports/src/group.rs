//! A group's declaration as it is kept by those transports that keep it themselves, and how another one differs.

use busline_core::transport::{GroupSpec, OnDifference, RetryMode};
use busline_core::{Error, ErrorKind, Patterns, Result};
use serde::{Deserialize, Serialize};

/// What is kept of a group's declaration, as JSON.
///
/// A field that is not known is refused: whoever claims by half of a selection settles unseen what
/// the group wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupConfig {
    #[serde(default)]
    pub(crate) patterns: Patterns,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempts_max: Option<u32>,
    /// Removed when nobody was a member for this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_after_ms: Option<u64>,
    #[serde(default)]
    pub(crate) blocking: bool,
    #[serde(default)]
    pub(crate) broadcast: bool,
}

impl GroupConfig {
    pub(crate) fn of(spec: &GroupSpec) -> Self {
        Self {
            patterns: spec.patterns.clone(),
            attempts_max: spec.attempts_max,
            expires_after_ms: spec
                .expires_after
                .map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
            blocking: spec.retry_mode == RetryMode::Block,
            broadcast: false,
        }
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|cause| {
            Error::new(ErrorKind::Other, "the group's configuration cannot be written")
                .source(cause)
        })
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|cause| {
            Error::new(ErrorKind::Conflict, "the group's configuration is not understood")
                .source(cause)
                .hint("a newer version of Busline, or another program, declared the group")
        })
    }

    /// What an existing group becomes when this is declared; `None` when nothing changes.
    pub(crate) fn reconcile(&self, found: &Self, spec: &GroupSpec) -> Result<Option<Self>> {
        if self == found {
            return Ok(None);
        }
        let mut wanted = self.clone();
        if spec.on_difference == OnDifference::Add {
            // Without patterns a group gets everything: adding to it changes nothing.
            let both = found.patterns.as_slice().iter().chain(self.patterns.as_slice());
            let all = found.patterns.is_all() || self.patterns.is_all();
            wanted.patterns = if all { Patterns::all() } else { both.cloned().collect() };
            if wanted == *found {
                return Ok(None);
            }
        }
        let only_patterns = Self { patterns: found.patterns.clone(), ..wanted.clone() } == *found;
        match spec.on_difference {
            // How long it lives was said when it was created, once for all.
            OnDifference::Replace if self.lives_as(found) => Ok(Some(wanted)),
            OnDifference::Add if only_patterns => Ok(Some(wanted)),
            _ => Err(self.conflict(found, spec)),
        }
    }

    fn lives_as(&self, found: &Self) -> bool {
        self.expires_after_ms == found.expires_after_ms && self.broadcast == found.broadcast
    }

    fn conflict(&self, found: &Self, spec: &GroupSpec) -> Error {
        let limit = |limit: Option<u32>| limit.map_or("none".to_owned(), |limit| limit.to_string());
        let mut way_out = "declare it as it is, or ask to replace it";
        let (what, is, wanted) = if !self.lives_as(found) {
            way_out = "declare it as it is, or delete it first";
            let life = |config: &Self| match (config.broadcast, config.expires_after_ms) {
                (true, _) => "with its broadcast".to_owned(),
                (false, None) => "never".to_owned(),
                (false, Some(idle)) => format!("{idle} ms"),
            };
            ("expires_after", life(found), life(self))
        } else if self.patterns != found.patterns {
            ("patterns", found.patterns.to_string(), self.patterns.to_string())
        } else if self.attempts_max != found.attempts_max {
            ("attempts_max", limit(found.attempts_max), limit(self.attempts_max))
        } else {
            let mode = |blocking| if blocking { "block" } else { "overtake" }.to_owned();
            ("retry_mode", mode(found.blocking), mode(self.blocking))
        };
        Error::new(
            ErrorKind::Conflict,
            format!("group '{}' of topic '{}' exists and differs", spec.group, spec.topic),
        )
        .context("argument", what)
        .context("found", is)
        .context("wanted", wanted)
        .hint(way_out)
    }
}
