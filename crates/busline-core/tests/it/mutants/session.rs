//! A broken session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use busline_core::transport::{
    Admin, Batch, GroupSpec, Membership, OnDifference, Read, Reader, ReplyAddress, RetryMode,
    Session, SessionEvent, Spec, Subscribe, Subscription, TopicSpec, Topology, TopologyMode,
};
use busline_core::{
    Capabilities, Error, ErrorKind, GroupName, Patterns, PendingReceipt, Position, Result,
};
use futures_util::future::{BoxFuture, pending};

use super::admin::BrokenAdmin;
use super::flaw::Flaw;
use super::read::BrokenReader;
use super::rig::Shared;
use super::send::send;
use super::subscription::BrokenSubscription;

#[derive(Debug)]
pub(super) struct BrokenSession {
    pub(super) inner: Arc<dyn Session>,
    pub(super) shared: Arc<Shared>,
    pub(super) closed: AtomicBool,
    admin: BrokenAdmin,
}

impl BrokenSession {
    pub(super) fn new(inner: Arc<dyn Session>, shared: Arc<Shared>) -> Self {
        let admin = BrokenAdmin { inner: Arc::clone(&inner), shared: Arc::clone(&shared) };
        Self { inner, shared, closed: AtomicBool::new(false), admin }
    }

    fn alter_group(&self, mut spec: GroupSpec) -> GroupSpec {
        let shared = &self.shared;
        if shared.has(Flaw::StartsAtEarliest) {
            spec.start = Position::Earliest;
        }
        if shared.has(Flaw::StartsAtLatest) {
            spec.start = Position::Latest;
        }
        if shared.has(Flaw::IgnoresPatterns) {
            spec.patterns = Patterns::all();
        }
        if shared.has(Flaw::ReplacesWhenAdding) && spec.on_difference == OnDifference::Add {
            spec.on_difference = OnDifference::Replace;
        }
        if shared.has_any(&[Flaw::IgnoresAttemptsMax, Flaw::NoDefaultLimit]) {
            spec.attempts_max = None;
        }
        if shared.has(Flaw::DropsAreFree) {
            spec.attempts_max = spec.attempts_max.map(|max| max + 1);
        }
        if shared.has(Flaw::NeverExpires) {
            spec.expires_after = None;
        }
        if shared.has(Flaw::NeverBlocks) {
            spec.retry_mode = RetryMode::Overtake;
        }
        if shared.has(Flaw::SplitsBetweenGroups) {
            spec.group = one_for_all().unwrap_or(spec.group);
        }
        spec
    }

    async fn declare_flawed(&self, topology: &Topology) -> Result<()> {
        let mut altered = topology.clone();
        altered.groups = altered.groups.into_iter().map(|spec| self.alter_group(spec)).collect();
        if self.shared.has(Flaw::DeclaresTopicsToo) {
            let topics = altered.groups.iter().map(|spec| TopicSpec::new(spec.topic.clone()));
            altered.topics.extend(topics);
        }
        for topic in &mut altered.topics {
            if let Some(retention) = &mut topic.retention {
                retention.ignore_groups |= self.shared.has(Flaw::RetentionTakesAll);
            }
        }
        altered.mode = match altered.mode {
            TopologyMode::Verify if self.shared.has(Flaw::VerifyCreates) => TopologyMode::Create,
            TopologyMode::Assume if self.shared.has(Flaw::AssumeCreates) => TopologyMode::Create,
            mode => mode,
        };
        if self.shared.has(Flaw::DeclaringMovesBack) {
            self.shared.each_group(|_| true, |_| Some(Position::Earliest));
        }
        self.shared.notes().specs.extend(altered.groups.iter().cloned());
        match self.inner.declare(&altered).await {
            Err(error)
                if (self.shared.has(Flaw::IgnoresConflicts)
                    || self.shared.has(Flaw::VerifySeesNoDifference)
                        && altered.mode == TopologyMode::Verify)
                    && error.kind() == ErrorKind::Conflict =>
            {
                Ok(())
            }
            Err(error) if self.takes(&error) => {
                for spec in &mut altered.groups {
                    spec.start = Position::Latest;
                }
                self.inner.declare(&altered).await
            }
            result => result,
        }
    }

    /// Whether a wrong offset is taken all the same.
    pub(super) fn takes(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::NotFound && self.shared.has(Flaw::ReadsPastTheRemoved)
            || error.kind() == ErrorKind::Limit
                && self.shared.has_any(&[Flaw::TakesForeignOffsets, Flaw::TakesOffsetsBeyond])
    }

    /// What becomes of a subscription before it is opened.
    async fn alter(&self, mut subscribe: Subscribe) -> Result<Subscribe> {
        let shared = &self.shared;
        if shared.has_any(&[
            Flaw::IgnoresMaxInFlight,
            Flaw::HoardsMessages,
            Flaw::DroppedStreamsTake,
        ]) {
            subscribe.max_in_flight = u32::MAX;
        }
        if shared.has(Flaw::IgnoresMaxBytes) {
            subscribe.max_in_flight_bytes = u64::MAX;
        }
        if shared.has(Flaw::TakesABoundOfNothing) {
            subscribe.max_in_flight = subscribe.max_in_flight.max(1);
            subscribe.max_in_flight_bytes = subscribe.max_in_flight_bytes.max(1);
        }
        if shared.has(Flaw::IgnoresLeases) {
            subscribe.hold_max = None;
        }
        if shared.has(Flaw::NeverRenews) {
            subscribe.hold_max = Some(subscribe.lease);
        }
        match subscribe.membership.clone() {
            Membership::Group(group) => self.alter_member(&mut subscribe, group).await?,
            Membership::Broadcast(patterns) => {
                self.alter_broadcast(&mut subscribe, patterns).await?;
            }
        }
        Ok(subscribe)
    }

    async fn alter_member(&self, subscribe: &mut Subscribe, group: GroupName) -> Result<()> {
        let shared = &self.shared;
        if shared.has(Flaw::SplitsBetweenGroups) {
            subscribe.membership = Membership::Group(one_for_all()?);
        }
        if shared.has(Flaw::DeliversToEveryMember) {
            let mut notes = shared.notes();
            notes.counter += 1;
            if notes.counter > 1 {
                subscribe.membership = Membership::Broadcast(Patterns::all());
            }
        }
        if shared.has(Flaw::KeepsNothingForAbsentMembers) {
            shared.purge(|_| true);
        }
        if shared.has(Flaw::ResetsWhenJoining) {
            shared.each_group(|_| true, |_| Some(Position::Earliest));
        }
        if shared.has(Flaw::JoiningDeclares) {
            self.declare_one(subscribe, group, Patterns::all(), Position::Latest).await?;
        }
        Ok(())
    }

    async fn alter_broadcast(&self, subscribe: &mut Subscribe, patterns: Patterns) -> Result<()> {
        let shared = &self.shared;
        let number = {
            let mut notes = shared.notes();
            notes.counter += 1;
            notes.counter
        };
        if shared.has(Flaw::BroadcastsIgnorePatterns) {
            subscribe.membership = Membership::Broadcast(Patterns::all());
        }
        if shared.has(Flaw::BroadcastsShare) {
            let group = one_for_all()?;
            subscribe.membership = Membership::Group(group.clone());
            self.declare_one(subscribe, group, patterns, Position::Latest).await?;
        } else if shared.has(Flaw::BroadcastsStartEarly) {
            let group = GroupName::new(format!("early-{number}"))?;
            subscribe.membership = Membership::Group(group.clone());
            self.declare_one(subscribe, group, patterns, Position::Earliest).await?;
        } else if shared.has(Flaw::BroadcastsTakeFromGroups) {
            subscribe.membership = Membership::Group(GroupName::new("g")?);
        } else if shared.has(Flaw::BroadcastsOnce) && number > 1 {
            return Err(Error::new(ErrorKind::Conflict, "there was a broadcast before"));
        }
        Ok(())
    }

    async fn declare_one(
        &self,
        subscribe: &Subscribe,
        group: GroupName,
        patterns: Patterns,
        start: Position,
    ) -> Result<()> {
        let topic = subscribe.topic.clone();
        let spec = GroupSpec { patterns, start, ..GroupSpec::new(topic.clone(), group) };
        let topics = vec![TopicSpec::new(topic)];
        let topology = Topology { topics, groups: vec![spec], ..Topology::default() };
        self.inner.declare(&topology).await
    }
}

fn one_for_all() -> Result<GroupName> {
    GroupName::new("one-for-all")
}

impl Session for BrokenSession {
    fn capabilities(&self, spec: &Spec) -> Capabilities {
        self.shared.capabilities(self.inner.capabilities(spec))
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.declare_flawed(topology))
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        send(self, batch)
    }

    fn subscribe(&self, subscribe: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        Box::pin(async move {
            let asked = subscribe.clone();
            let inner = self.inner.subscribe(self.alter(subscribe).await?).await?;
            let broken = BrokenSubscription::new(inner, Arc::clone(&self.shared), asked);
            Ok(Box::new(broken) as Box<dyn Subscription>)
        })
    }

    fn read(&self, mut read: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            if self.shared.has(Flaw::ReadersIgnorePatterns) {
                read.patterns = Patterns::all();
            }
            if self.shared.has(Flaw::ReadersIgnorePositions) {
                read.from = Position::Earliest;
            }
            if self.shared.has(Flaw::ReadersReopenAtTheEnd)
                && matches!(read.from, Position::Offset(_))
            {
                read.from = Position::Latest;
            }
            if self.shared.has(Flaw::IgnoresChunkMax) {
                read.chunk_max = 1000;
            }
            let mut opened = self.inner.read(read.clone()).await;
            if opened.as_ref().is_err_and(|error| self.takes(error)) {
                read.from = Position::Earliest;
                opened = self.inner.read(read).await;
            }
            let broken = BrokenReader::new(opened?, Arc::clone(&self.shared));
            Ok(Box::new(broken) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        Box::pin(async move {
            let mut address = self.inner.reply_address().await?;
            if self.shared.has(Flaw::SharesReplies) {
                "everybody".clone_into(&mut address.reply_to);
            }
            if self.shared.has(Flaw::MovesReplies) {
                let mut notes = self.shared.notes();
                notes.counter += 1;
                address.reply_to = format!("address {}", notes.counter);
            }
            Ok(address)
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(&self.admin)
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        if self.shared.has(Flaw::EndsSilently) {
            return Box::pin(pending());
        }
        self.inner.next_event()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let again = self.closed.swap(true, Ordering::AcqRel);
            if again && self.shared.has(Flaw::ClosesOnce) {
                return Err(Error::new(ErrorKind::Closed, "it was closed before"));
            }
            if self.shared.has(Flaw::KeepsAfterClose) {
                return Ok(());
            }
            // Dropped with their receipts unanswered.
            self.shared.notes().unanswered.clear();
            self.inner.close(deadline).await
        })
    }
}

impl Drop for BrokenSession {
    fn drop(&mut self) {
        if self.shared.has(Flaw::NeverTakesOver) {
            let inner = Arc::clone(&self.inner);
            self.shared.notes().graveyard.push(inner);
        }
    }
}
