//! What an operator is told about a group, before a transport has filled it in.

use super::GroupInfo;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Patterns;
use crate::name::{GroupName, Topic};

impl GroupInfo {
    /// An idle group, to be filled by a transport.
    pub fn new(topic: Topic, group: GroupName) -> Self {
        Self {
            topic,
            group,
            patterns: Patterns::all(),
            lag: 0,
            in_flight: 0,
            waiting: 0,
            oldest_unsettled: None,
            floor: None,
            members: 0,
            delivered: 0,
            redelivered: 0,
            acked: 0,
            rejected: 0,
            broadcast: false,
            attempts_max: None,
            keeps_rejected: None,
        }
    }

    /// The one of this name among all of its topic; `NotFound` where there is none.
    pub(super) fn of(all: Vec<Self>, topic: &Topic, group: &GroupName) -> Result<Self> {
        all.into_iter().find(|info| info.group == *group).ok_or_else(|| {
            let message = format!("there is no group '{group}' of topic '{topic}'");
            Error::new(ErrorKind::NotFound, message)
        })
    }
}
