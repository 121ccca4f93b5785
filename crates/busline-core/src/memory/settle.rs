//! How claims of a group in memory end: settled, given back or lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::group::{Claim, Entry, Group, Place};
use super::log::Stored;
use crate::backoff::Backoff;
use crate::delivery::{Outcome, lost};
use crate::error::Result;

/// A message that is out of the group and has to go to the dead letters.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) number: u64,
    pub(super) attempts: u32,
    pub(super) record: Arc<Stored>,
    pub(super) reason: String,
}

/// How a message comes back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Back {
    Retry(Option<Duration>),
    Released,
    Lost(&'static str),
}

impl Group {
    /// Settles a claim; a message to bury comes back to the caller. `Lost` when it is none.
    pub(super) fn settle(
        &mut self,
        tag: u64,
        outcome: Outcome,
        now: Duration,
    ) -> Result<Option<Dead>> {
        if !self.claims.contains_key(&tag) {
            return Err(lost("it was given to another member, or its session has ended"));
        }
        let dead = match outcome {
            Outcome::Retry { after } => self.unclaim(tag, Back::Retry(after), now),
            Outcome::Ack => {
                self.acked += 1;
                self.take(tag);
                None
            }
            Outcome::Reject { reason } => {
                self.rejected += 1;
                self.take(tag).map(|(number, entry)| Dead {
                    number,
                    attempts: entry.attempts,
                    record: entry.record,
                    reason,
                })
            }
        };
        self.wake();
        Ok(dead)
    }

    /// The delivery was dropped unsettled.
    pub(super) fn release(&mut self, tag: u64, now: Duration) -> Option<Dead> {
        let dead = self.unclaim(tag, Back::Released, now);
        self.wake();
        dead
    }

    /// Puts back what could not be buried, for a later attempt.
    pub(super) fn unbury(&mut self, dead: Dead, due: Duration) {
        let Dead { number, attempts, record, .. } = dead;
        self.rejected = self.rejected.saturating_sub(1);
        let _ = self.may_go(number, &record);
        self.entries.insert(number, Entry { record, attempts, releases: 0, place: Place::Ready });
        self.put(number, Place::Delayed(due));
    }

    /// Whether the claim is still there.
    pub(super) fn holds(&self, tag: u64) -> bool {
        self.claims.contains_key(&tag)
    }

    /// When the claim runs out by itself, and what resolves once it is lost; `None` when it is.
    pub(super) fn watch(&mut self, tag: u64) -> Option<(oneshot::Receiver<()>, Option<Duration>)> {
        let claim = self.claims.get_mut(&tag)?;
        claim.watchers.retain(|watcher| !watcher.is_closed());
        let (sender, receiver) = oneshot::channel();
        claim.watchers.push(sender);
        Some((receiver, claim.deadline))
    }

    /// Ends a claim and its message both.
    fn take(&mut self, tag: u64) -> Option<(u64, Entry)> {
        let claim = self.end_claim(tag)?;
        let entry = self.entries.remove(&claim.number)?;
        self.leave_lane(claim.number, &entry);
        Some((claim.number, entry))
    }

    fn leave_lane(&mut self, number: u64, entry: &Entry) {
        if self.lanes.is_empty() {
            return;
        }
        let key = entry.record.lane();
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.remove(&number);
        let next = lane.first().copied();
        match next {
            None => drop(self.lanes.remove(&key)),
            Some(next) if self.place(next) == Some(Place::Blocked) => self.put(next, Place::Ready),
            Some(_) => {}
        }
    }

    /// Ends a claim; its message comes again, unless it is out of attempts.
    pub(super) fn unclaim(&mut self, tag: u64, back: Back, now: Duration) -> Option<Dead> {
        let mut claim = self.end_claim(tag)?;
        let number = claim.number;
        if let Back::Lost(_) = back {
            for watcher in claim.watchers.drain(..) {
                // Nobody may be listening any more.
                let _ = watcher.send(());
            }
        }
        let entry = self.entries.get_mut(&number)?;
        if self.config.attempts_max.is_some_and(|max| entry.attempts >= max) {
            return self.out_of_attempts(number, back);
        }
        let wait = match back {
            Back::Retry(after) => after.unwrap_or_default(),
            Back::Lost(_) => Duration::ZERO,
            Back::Released => {
                entry.releases += 1;
                // Nothing after the first release, then doubling.
                Backoff::default().before_attempt(entry.releases)
            }
        };
        let delayed = Place::Delayed(now.saturating_add(wait));
        self.put(number, if wait.is_zero() { Place::Ready } else { delayed });
        None
    }

    fn out_of_attempts(&mut self, number: u64, back: Back) -> Option<Dead> {
        let entry = self.entries.remove(&number)?;
        self.leave_lane(number, &entry);
        self.rejected += 1;
        let what = match back {
            Back::Retry(_) => "a retry was asked for",
            Back::Released => "it was given back unsettled",
            Back::Lost(why) => why,
        };
        let reason = format!("out of attempts: at attempt {} {what}", entry.attempts);
        Some(Dead { number, attempts: entry.attempts, record: entry.record, reason })
    }

    fn end_claim(&mut self, tag: u64) -> Option<Claim> {
        let claim = self.claims.remove(&tag)?;
        if let Some(deadline) = claim.deadline {
            self.deadlines.remove(&(deadline, tag));
        }
        if let Some(member) = self.members.get_mut(&claim.member) {
            member.in_flight = member.in_flight.saturating_sub(1);
            member.bytes = member.bytes.saturating_sub(claim.bytes);
            if member.stopped && member.in_flight == 0 {
                self.members.remove(&claim.member);
            }
        }
        Some(claim)
    }

    fn place(&self, number: u64) -> Option<Place> {
        self.entries.get(&number).map(|entry| entry.place)
    }

    pub(super) fn put(&mut self, number: u64, place: Place) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        entry.place = place;
        match place {
            Place::Ready => {
                self.ready.insert(number);
            }
            Place::Delayed(due) => {
                self.delayed.insert((due, number));
            }
            Place::Claimed(_) | Place::Blocked => {}
        }
    }
}
