//! Broken settling.

use std::sync::Arc;
use std::time::Duration;

use busline_core::delivery::{SettleQueue, SettledSender, Settler};
use busline_core::{Clock, GroupName, Offset, Outcome};
use futures_util::future::{BoxFuture, pending};

use super::flaw::Flaw;
use super::rig::Shared;

/// Stands between one delivery and the queue that settles it.
#[derive(Debug)]
pub(super) struct BrokenQueue {
    pub(super) inner: Settler,
    pub(super) shared: Arc<Shared>,
    pub(super) offset: Option<Offset>,
    pub(super) group: Option<GroupName>,
}

/// The queue of a delivery that is none: everything is taken, and nothing done.
#[derive(Debug)]
pub(super) struct Nowhere;

impl SettleQueue for Nowhere {
    fn settle(&self, _tag: u64, _outcome: Outcome, done: Option<SettledSender>) {
        answer(done);
    }

    fn release(&self, _tag: u64) {}

    fn is_lost(&self, _tag: u64) -> bool {
        false
    }

    fn lost(&self, _tag: u64) -> BoxFuture<'static, ()> {
        Box::pin(pending())
    }
}

fn answer(done: Option<SettledSender>) {
    if let Some(done) = done {
        done.send(Ok(()));
    }
}

impl BrokenQueue {
    fn alter(&self, outcome: Outcome) -> Outcome {
        let has = |flaw| self.shared.has(flaw);
        match outcome {
            Outcome::Retry { .. } if has(Flaw::RetryIsAck) => Outcome::Ack,
            Outcome::Retry { .. } if has(Flaw::AcksInsteadOfRetrying) => Outcome::Ack,
            Outcome::Retry { after: Some(_) } if has(Flaw::DelaysInTheMember) => Outcome::Ack,
            Outcome::Retry { .. } if has(Flaw::IgnoresDelays) => Outcome::Retry { after: None },
            Outcome::Retry { after: Some(_) } if has(Flaw::EqualDelays) => {
                Outcome::Retry { after: Some(Duration::from_millis(400)) }
            }
            Outcome::Reject { .. } if has(Flaw::RejectIsRetry) => Outcome::Retry { after: None },
            Outcome::Reject { .. } if has(Flaw::RejectIsAck) => Outcome::Ack,
            outcome => outcome,
        }
    }

    /// Whether a settle is taken and not done.
    fn ignores(&self, outcome: &Outcome, awaited: bool) -> bool {
        let has = |flaw| self.shared.has(flaw);
        match outcome {
            Outcome::Ack if has(Flaw::ForgetsAcks) || has(Flaw::ForgetsSettlesAtDeath) => true,
            Outcome::Reject { .. } if has(Flaw::BlocksForEver) => true,
            _ if self.inner.queue.is_lost(self.inner.tag) => has(Flaw::TakesLateSettles),
            _ => !awaited && (has(Flaw::NeedsAnAnswer) || has(Flaw::CloseDropsSettles)),
        }
    }

    /// Settlers of the same message, or of earlier ones.
    fn others(&self, which: impl Fn(&Option<Offset>, &Settler) -> bool) -> Vec<Settler> {
        let notes = self.shared.notes();
        let others = notes.settlers.iter().filter(|(offset, other)| which(offset, other));
        others.map(|(_, settler)| settler.clone()).collect()
    }
}

impl SettleQueue for BrokenQueue {
    fn settle(&self, _tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        let Settler { queue, tag } = &self.inner;
        if self.ignores(&outcome, done.is_some()) {
            return answer(done);
        }
        if self.shared.has(Flaw::AcksMultiple) && outcome == Outcome::Ack {
            for earlier in self.others(|_, other| other.tag < *tag) {
                earlier.queue.settle(earlier.tag, Outcome::Ack, None);
            }
        }
        if self.shared.has(Flaw::SettlesForOthers) && queue.is_lost(*tag) {
            for other in self
                .others(|offset, other| *offset == self.offset && !other.queue.is_lost(other.tag))
            {
                other.queue.settle(other.tag, outcome.clone(), None);
            }
        }
        if self.shared.has(Flaw::RejectsForAll) && matches!(outcome, Outcome::Reject { .. }) {
            self.shared.purge(|group| Some(&group.group) != self.group.as_ref());
        }
        if self.shared.has(Flaw::LeaksRoom) && matches!(outcome, Outcome::Retry { .. }) {
            self.shared.notes().counter += 1;
        }
        queue.settle(*tag, self.alter(outcome), done);
    }

    fn release(&self, _tag: u64) {
        let Settler { queue, tag } = &self.inner;
        if self.shared.has(Flaw::DroppingLeaks) {
            return;
        }
        if self.shared.has(Flaw::DroppingDoesNotCount) {
            self.shared.notes().counter += 1;
        }
        if self.shared.has(Flaw::DroppingSpins) {
            return queue.settle(*tag, Outcome::Retry { after: None }, None);
        }
        queue.release(*tag);
    }

    fn is_lost(&self, _tag: u64) -> bool {
        !self.shared.has(Flaw::TellsNobodyOfLoss) && self.inner.queue.is_lost(self.inner.tag)
    }

    fn lost(&self, _tag: u64) -> BoxFuture<'static, ()> {
        if self.shared.has(Flaw::TellsNobodyOfLoss) {
            return Box::pin(pending());
        }
        if self.shared.has(Flaw::TellsLossOfTheSettled) {
            return self.shared.clock.sleep(Duration::from_millis(300));
        }
        self.inner.queue.lost(self.inner.tag)
    }
}
