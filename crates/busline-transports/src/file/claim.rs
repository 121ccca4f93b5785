//! Claiming: taking records for a member, where the bell was heard if nothing has to be waited for, else on a
//! thread that may block.

use std::sync::Arc;
use std::time::Duration;

use busline_core::{GroupName, Result};
use busline_log::{ClaimId, ClaimOutcome, ClaimRequest, Claimed, Mark, Member, Now, Record};

use super::error::of_log;
use super::mapping::{Chunk, GroupConfig, Selection};
use super::settle::{Decision, SettleJob};
use super::state::{Held, SubscriptionState, UnderWay};
use super::wait::with_room;
use super::worker::{Job, submit};

/// Copies a record that is handed out.
type Visit<'a> = &'a mut (dyn FnMut(Claimed, &Record<'_>) + 'a);

/// What a claim needs, taken to the thread that may block.
pub(super) struct Claimer {
    state: Arc<SubscriptionState>,
    member: Member,
    selection: Selection,
    name: GroupName,
    chunk: Chunk,
    lease_us: u64,
    /// Until when nothing is claimed but on a thread that may block, by the monotonic clock.
    slow_until: Duration,
}

/// A claim that took this long waited for the medium after all, as on one that is written to at its limit: for
/// this long none is tried again where that holds up others.
const QUICK_MAX: Duration = Duration::from_millis(1);
const SLOW_FOR: Duration = Duration::from_secs(1);

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
            slow_until: Duration::ZERO,
        }
    }

    /// Claims what can be had without waiting, on a runtime's own thread; `None`: [`Claimer::claim`] has to look.
    pub(super) fn try_claim(&mut self, room: Room) -> Option<Claim> {
        let at = self.state.store.time.clock().monotonic();
        if at < self.slow_until {
            return None;
        }
        let (mark, version) = (self.state.topic.log.mark(), self.state.group.version());
        let now = self.state.topic.now();
        // An error comes again where there is time to see to it.
        let claimed = self.claim_once(room, now, Member::try_claim).ok().flatten();
        let done_at = self.state.store.time.clock().monotonic();
        if done_at.saturating_sub(at) > QUICK_MAX {
            self.slow_until = done_at.saturating_add(SLOW_FOR);
        }
        // To pass over what nobody wants may take long.
        let outcome = claimed.filter(|claimed| claimed.records > 0 || !claimed.more)?;
        Some(self.claim_of(outcome, at, now, mark, version))
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
            let claim = || self.claim_once(room, self.state.topic.now(), Member::claim);
            let outcome = match with_room(&log, claim) {
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
            return Ok(self.claim_of(outcome, at, now, mark, version));
        }
    }

    fn claim_of(
        &mut self,
        outcome: ClaimOutcome,
        at: Duration,
        now: Now,
        mark: Mark,
        version: u64,
    ) -> Claim {
        let chunk = std::mem::take(&mut self.chunk);
        let until = |due: u64| at + Duration::from_micros(due.saturating_sub(now.boot_us));
        let (more, no_room) = (outcome.more, outcome.no_room);
        let wait = outcome.wake_at_us.map(until);
        Claim { id: outcome.claim, at, chunk, more, no_room, mark, version, wait }
    }

    fn claim_once<T>(
        &mut self,
        room: Room,
        now: Now,
        claim: impl FnOnce(&mut Member, &ClaimRequest<'_>, Now, Visit<'_>) -> T,
    ) -> T {
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
        let chunk = &mut self.chunk;
        let visit: Visit<'_> = &mut |claimed, record| chunk.push(record, claimed.attempts);
        claim(&mut self.member, &request, now, visit)
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
