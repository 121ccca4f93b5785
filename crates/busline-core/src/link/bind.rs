//! What a program needs, compared with what the session promises: refused when it binds.

use crate::capability::{Capabilities, Capability};
use crate::error::Result;
use crate::offset::Position;
use crate::transport::{
    Batch, GroupSpec, Membership, Read, RetryMode, Spec, Subscribe, TopicSpec, Topology,
};

/// Something that binds to a session.
pub(super) trait Binds {
    /// What the promises depend on.
    fn spec(&self) -> Spec {
        Spec::default()
    }

    /// Fails with `Refused`, naming the capability, the transport and the way out.
    fn check(&self, promised: &Capabilities) -> Result<()>;
}

fn all(promised: &Capabilities, needs: impl IntoIterator<Item = Capability>) -> Result<()> {
    needs.into_iter().try_for_each(|need| promised.require(need))
}

impl Binds for Topology {
    fn check(&self, promised: &Capabilities) -> Result<()> {
        self.topics.iter().try_for_each(|topic| topic.check(promised))?;
        self.groups.iter().try_for_each(|group| group.check(promised))
    }
}

impl Binds for TopicSpec {
    fn check(&self, promised: &Capabilities) -> Result<()> {
        all(promised, self.replay.then_some(Capability::Replay))
            .map_err(|error| error.context("topic", &self.topic))
    }
}

impl Binds for GroupSpec {
    fn check(&self, promised: &Capabilities) -> Result<()> {
        let needs = [
            Some(Capability::Group),
            (!self.patterns.is_all()).then_some(Capability::Filter),
            (self.start != Position::Latest).then_some(Capability::Replay),
            self.attempts_max.map(|_| Capability::RetryLimit),
            (self.retry_mode == RetryMode::Block).then_some(Capability::BlockingRetry),
        ];
        all(promised, needs.into_iter().flatten())
            .map_err(|error| error.context("topic", &self.topic).context("group", &self.group))
    }
}

impl Binds for Subscribe {
    fn spec(&self) -> Spec {
        Spec { topic: Some(self.topic.clone()), ..Spec::default() }
    }

    fn check(&self, promised: &Capabilities) -> Result<()> {
        let needs = match &self.membership {
            Membership::Group(_) => [Some(Capability::Group), None],
            Membership::Broadcast(patterns) => {
                [Some(Capability::Broadcast), (!patterns.is_all()).then_some(Capability::Filter)]
            }
        };
        all(promised, needs.into_iter().flatten())
            .map_err(|error| error.context("topic", &self.topic))
    }
}

impl Binds for Read {
    fn spec(&self) -> Spec {
        Spec { topic: Some(self.topic.clone()), ..Spec::default() }
    }

    fn check(&self, promised: &Capabilities) -> Result<()> {
        let filter = (!self.patterns.is_all()).then_some(Capability::Filter);
        all(promised, [Some(Capability::Replay), filter].into_iter().flatten())
            .map_err(|error| error.context("topic", &self.topic))
    }
}

impl Binds for Batch {
    fn check(&self, promised: &Capabilities) -> Result<()> {
        all(promised, self.mandatory.then_some(Capability::Unroutable))
    }
}
