//! Claiming: taking records for a member, on a thread that may block.

use std::sync::Arc;
use std::time::Duration;

use busline_core::{GroupName, Result};
use busline_log::{ClaimId, ClaimOutcome, ClaimRequest, Mark, Member};

use super::error::of_log;
use super::mapping::{Chunk, GroupConfig, Selection};
use super::settle::{Decision, SettleJob};
use super::state::{Held, SubscriptionState, UnderWay};
use super::wait::with_room;
use super::worker::{Job, submit};

/// What a claim needs, taken to the thread that may block.
pub(super) struct Claimer {
    state: Arc<SubscriptionState>,
    member: Member,
    selection: Selection,
    name: GroupName,
    chunk: Chunk,
    lease_us: u64,
}

/// How much may be claimed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
    /// Nothing is held: one record larger than the bound may come, alone.
    pub(super) is_all: bool,
}

/// What a claim came to.
pub(super) struct Claim {
    pub(super) id: ClaimId,
    /// When it was asked for, by the monotonic clock: its leases run from then.
    pub(super) at: Duration,
    pub(super) chunk: Chunk,
    pub(super) more: bool,
    /// The next record is larger than the room that was left.
    pub(super) no_room: bool,
    pub(super) mark: Mark,
    /// Of the group, before the claim.
    pub(super) version: u64,
    /// When to look again, by the monotonic clock.
    pub(super) wait: Option<Duration>,
}

impl Claimer {
    pub(super) fn new(
        state: &Arc<SubscriptionState>,
        member: Member,
        config: &GroupConfig,
        name: GroupName,
        lease: Duration,
    ) -> Self {
        state.apply(config);
        Self {
            state: Arc::clone(state),
            member,
            selection: Selection::new(config, name.clone()),
            name,
            chunk: Chunk::default(),
            lease_us: u64::try_from(lease.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Claims, and looks when to look again if there is nothing.
    pub(super) fn claim(&mut self, room: Room) -> Result<Claim> {
        let (mark, version) = (self.state.topic.log.mark(), self.state.group.version());
        let mut first = true;
        loop {
            let now = self.state.topic.now();
            let at = self.state.store.time.clock().monotonic();
            if self.member.others_hold_claims().map_err(of_log)? {
                // What the dead held is older than what is new: it comes first.
                self.member.take_over(now).map_err(of_log)?;
            }
            let log = self.state.topic.log.clone();
            let outcome = match with_room(&log, || self.claim_once(room)) {
                Err(error) if error.kind() == busline_log::ErrorKind::Lost && first => {
                    // Taken for dead while this process was stopped: join again.
                    first = false;
                    self.member = self.state.group.join(now).map_err(of_log)?;
                    self.accept()?;
                    continue;
                }
                Err(error) => return Err(self.state.topic.group_error(&self.name, error)),
                Ok(outcome) if outcome.config_changed => {
                    self.accept()?;
                    continue;
                }
                Ok(outcome) => outcome,
            };
            let chunk = std::mem::take(&mut self.chunk);
            let (more, no_room) = (outcome.more, outcome.no_room);
            let mut wait = None;
            if chunk.len() == 0 && !more {
                let due = self.member.wake_at_us(now).map_err(of_log)?;
                wait = due.map(|due| at + Duration::from_micros(due.saturating_sub(now.boot_us)));
            }
            return Ok(Claim { id: outcome.claim, at, chunk, more, no_room, mark, version, wait });
        }
    }

    fn claim_once(&mut self, room: Room) -> Result<ClaimOutcome, busline_log::Error> {
        self.chunk.clear();
        let selection = &self.selection;
        let filter = |key: &[u8], meta: &[u8]| selection.takes(key, meta);
        let order_by = |key: &[u8], meta: &[u8]| Selection::order(key, meta);
        let request = ClaimRequest {
            records_max: room.records,
            bytes_max: room.bytes,
            first_may_exceed: room.is_all,
            lease_us: self.lease_us,
            filter: &filter,
            keys: selection.keys.as_ref(),
            order_by: if selection.blocking { Some(&order_by) } else { None },
        };
        let now = self.state.topic.now();
        let chunk = &mut self.chunk;
        self.member
            .claim(&request, now, &mut |claimed, record| chunk.push(record, claimed.attempts))
    }

    /// Leaves the member to the deliveries that are still held.
    pub(super) fn retire(self) {
        self.state.retire(Some(self.member));
    }

    fn accept(&mut self) -> Result<()> {
        let config = self.member.accept_config().map_err(of_log)?;
        let config = GroupConfig::from_bytes(&config.bytes)?;
        self.state.apply(&config);
        self.selection = Selection::new(&config, self.name.clone());
        Ok(())
    }
}

/// Gives back what was claimed and not handed out: it does not count as an attempt.
pub(super) fn give_back(state: &Arc<SubscriptionState>, claim: Claim) {
    for raw in claim.chunk.into_records() {
        let held = Held::new(claim.id, &raw, claim.at, Duration::ZERO);
        let job = SettleJob::new(UnderWay::new(state), held, Decision::Return, None);
        if submit(&state.jobs, Job::Settle(job)).is_err() {
            return;
        }
    }
}
