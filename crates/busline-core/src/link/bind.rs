//! What a program needs, compared with what the session promises: refused when it binds.

use crate::capability::{Capabilities, Capability, Lease};
use crate::error::{Error, Result};
use crate::offset::Position;
use crate::transport::{
    Batch, GroupSpec, Membership, OnDifference, Read, RetryMode, Session, Spec, Subscribe,
    TopicSpec, Topology,
};

/// Something that binds to a session.
pub(super) trait Binds {
    /// Fails with `Refused`, naming the capability, the transport and the way out.
    fn bind(&self, session: &dyn Session) -> Result<()>;
}

fn all(promised: &Capabilities, needs: impl IntoIterator<Item = Capability>) -> Result<()> {
    needs.into_iter().try_for_each(|need| promised.require(need))
}

impl Binds for Topology {
    fn bind(&self, session: &dyn Session) -> Result<()> {
        self.topics.iter().try_for_each(|topic| topic.bind(session))?;
        self.groups.iter().try_for_each(|group| group.bind(session))
    }
}

impl Binds for TopicSpec {
    fn bind(&self, session: &dyn Session) -> Result<()> {
        let spec = Spec {
            topic: Some(self.topic.clone()),
            options: self.options.clone(),
            ..Spec::default()
        };
        all(&session.capabilities(&spec), self.replay.then_some(Capability::Replay))
            .map_err(|error| error.context("topic", &self.topic))
    }
}

impl Binds for GroupSpec {
    fn bind(&self, session: &dyn Session) -> Result<()> {
        let spec = Spec {
            topic: Some(self.topic.clone()),
            group: Some(self.group.clone()),
            options: self.options.clone(),
        };
        let needs = [
            Some(Capability::Group),
            (!self.patterns.is_all()).then_some(Capability::Filter),
            (self.start != Position::Latest).then_some(Capability::GroupStart),
            (self.on_difference == OnDifference::Replace).then_some(Capability::Differences),
            self.attempts_max.map(|_| Capability::RetryLimit),
            (self.retry_mode == RetryMode::Block).then_some(Capability::BlockingRetry),
        ];
        all(&session.capabilities(&spec), needs.into_iter().flatten())
            .map_err(|error| error.context("topic", &self.topic).context("group", &self.group))
    }
}

impl Binds for Subscribe {
    fn bind(&self, session: &dyn Session) -> Result<()> {
        let (group, needs) = match &self.membership {
            Membership::Group(group) => (Some(group.clone()), [Some(Capability::Group), None]),
            Membership::Broadcast(patterns) => {
                let filter = (!patterns.is_all()).then_some(Capability::Filter);
                (None, [Some(Capability::Broadcast), filter])
            }
        };
        let (topic, options) = (Some(self.topic.clone()), self.options.clone());
        let promised = session.capabilities(&Spec { topic, group, options });
        all(&promised, needs.into_iter().flatten())
            .and_then(|()| check_hold(self, &promised))
            .map_err(|error| error.context("topic", &self.topic))
    }
}

/// Who wants to hold a delivery for longer than any may be held would lose it every time.
fn check_hold(subscribe: &Subscribe, promised: &Capabilities) -> Result<()> {
    match (promised.lease, subscribe.hold_max) {
        (Lease::Fixed(longest), Some(wanted)) if wanted > longest => Err(Error::refused(
            &format!("lease of {wanted:?}"),
            &promised.profile,
            format!("its leases last {longest:?} and cannot be renewed: set hold_max to that"),
        )),
        _ => Ok(()),
    }
}

impl Binds for Read {
    fn bind(&self, session: &dyn Session) -> Result<()> {
        let (topic, options) = (Some(self.topic.clone()), self.options.clone());
        let promised = session.capabilities(&Spec { topic, options, ..Spec::default() });
        let filter = (!self.patterns.is_all()).then_some(Capability::Filter);
        all(&promised, [Some(Capability::Replay), filter].into_iter().flatten())
            .map_err(|error| error.context("topic", &self.topic))
    }
}

impl Binds for Batch {
    fn bind(&self, session: &dyn Session) -> Result<()> {
        if !self.mandatory {
            return Ok(());
        }
        let mut last = None;
        for message in &self.messages {
            if last == Some(&message.topic) {
                continue;
            }
            last = Some(&message.topic);
            let spec = Spec { topic: Some(message.topic.clone()), ..Spec::default() };
            session
                .capabilities(&spec)
                .require(Capability::Unroutable)
                .map_err(|error| error.context("topic", &message.topic))?;
        }
        Ok(())
    }
}
