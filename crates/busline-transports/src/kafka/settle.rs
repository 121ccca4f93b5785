//! What becomes of deliveries: settled, again in their place, by a copy, or to the dead letters.

use std::sync::Arc;
use std::time::Duration;

use busline_core::delivery::{SettledSender, lost};
use busline_core::{Backoff, Outcome, Result};
use futures_util::future::BoxFuture;

use super::consume::Worker;
use super::consuming::{Job, answer};
use super::hands::Held;
use super::part::Fetched;
use super::route;

/// What became of a copy: the original is settled once it is stored.
pub(super) struct Routed {
    pub(super) held: Held,
    pub(super) done: Option<SettledSender>,
    pub(super) stored: Result<()>,
}

impl Worker {
    pub(super) fn job(&mut self, job: Job) {
        match job {
            Job::Settle { held, outcome, done } => self.settle(held, outcome, done),
            Job::Release(held) => {
                let attempt = held.before.saturating_add(1);
                match self.exhausted(attempt) {
                    Some(reason) => self.reject(held, reason, None),
                    None => self.again(&held, Backoff::default().before_attempt(attempt + 1)),
                }
            }
            Job::GiveBack(held) => {
                if let Some(part) = self.part(&held) {
                    part.take_back(held.place());
                }
                self.again(&held, Duration::ZERO);
            }
            Job::Stop(done) => {
                self.stops.extend(done);
                self.stop();
            }
            Job::Finish(done) => {
                self.finishes.push(done);
                self.stop();
            }
        }
    }

    pub(super) fn settle(&mut self, held: Held, outcome: Outcome, done: Option<SettledSender>) {
        if self.part(&held).is_none() {
            return answer(done, Err(lost("its partition is another's")));
        }
        let attempt = held.before.saturating_add(1);
        match (outcome, self.exhausted(attempt)) {
            (Outcome::Ack, _) => self.settled(&held, done),
            (Outcome::Reject { reason }, _) | (Outcome::Retry { .. }, Some(reason)) => {
                self.reject(held, reason, done);
            }
            (Outcome::Retry { after }, None) => {
                let retry = self.plan.group.as_ref().and_then(|group| group.retry.clone());
                match (after, retry) {
                    (Some(after), Some(retry)) if self.lanes.is_none() => {
                        let shards = self.plan.about.shards;
                        let core = Arc::clone(&self.core);
                        let copy = route::retry(core, shards, retry, &held, after);
                        self.route(held, done, copy);
                    }
                    // In its place, which only this member can keep for it.
                    (after, _) => {
                        self.again(&held, after.unwrap_or_default());
                        answer(done, Ok(()));
                    }
                }
            }
        }
    }

    pub(super) fn exhausted(&self, attempt: u32) -> Option<String> {
        let max = self.plan.group.as_ref()?.settings.attempts_max?;
        (attempt >= max).then(|| format!("attempts exhausted: {attempt} of {max}"))
    }

    pub(super) fn reject(&mut self, held: Held, reason: String, done: Option<SettledSender>) {
        let Some(group) = self.consuming.group.clone() else {
            // Nobody could ever look for them.
            tracing::warn!(topic = %self.consuming.topic, %reason, "a broadcast has no dead letters");
            return self.settled(&held, done);
        };
        let topic = self.consuming.topic.clone();
        let core = Arc::clone(&self.core);
        let letter = route::dead(core, topic, group, self.plan.about.shards, &held, reason);
        self.route(held, done, letter);
    }

    pub(super) fn route(
        &mut self,
        held: Held,
        done: Option<SettledSender>,
        copy: BoxFuture<'static, Result<()>>,
    ) {
        let routing = async move { Routed { held, done, stored: copy.await } };
        self.routes.push(Box::pin(routing));
    }

    pub(super) fn routed(&mut self, routed: Routed) {
        let Routed { held, done, stored } = routed;
        match stored {
            Ok(()) => self.settled(&held, done),
            Err(why) => {
                tracing::warn!(topic = %self.consuming.topic, error = %why, "not settled, it comes again");
                self.again(&held, Backoff::default().first);
                answer(done, Err(why));
            }
        }
    }

    pub(super) fn settled(&mut self, held: &Held, done: Option<SettledSender>) {
        match self.part(held) {
            Some(part) => {
                part.open -= 1;
                part.settle(held.place(), done);
            }
            None => answer(done, Err(lost("its partition is another's"))),
        }
        let Some(lanes) = &mut self.lanes else { return };
        if let Some(next) = lanes.goes_on(&held.came.lane()) {
            let partition = next.came.partition;
            let mut parts = self.parts.iter_mut();
            if let Some(part) = parts.find(|part| part.partition == partition && !part.is_retry) {
                part.push(next, true);
            }
        }
    }

    /// It is delivered again in its place, after this.
    pub(super) fn again(&mut self, held: &Held, after: Duration) {
        let fetched = Fetched { came: Arc::clone(&held.came), is_first: self.lanes.is_some() };
        let share = held.share.number;
        let stopping = self.stopping;
        let Some(part) = self.part(held) else { return };
        part.open -= 1;
        // Whoever comes next finds it unsettled.
        if part.is_leaving || stopping {
            return;
        }
        if after.is_zero() {
            return part.push(fetched, true);
        }
        part.timed += 1;
        self.later(share, fetched, after);
    }
}
