//! What a group knows, as a pure state machine: no input, no output, no clock.
//!
//! Settled is what lies below the cursor and is not unsettled here. Every change is the effect of
//! an [`Op`] of one transaction, so that replaying the transactions gives the same state on every
//! handle and in every process.

use std::collections::BTreeMap;

use super::op::{Claim, Create, Departure, Fate, Lifetime, Op, Stamp};
use super::runs::{Hold, Run, Runs, SeqRange};
use super::time::Now;

/// An operation that does not fit the state it is applied to: the record of it is not ours, or
/// there is a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Misfit(pub(super) &'static str);

/// Where a group is in its life.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    #[default]
    Unborn,
    Live,
    Deleted,
}

/// A claim that still holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClaimState {
    pub(super) member: u64,
    pub(super) seqs: u64,
}

/// A member that joined and did not depart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberState {
    /// When it joined, microseconds since 1970.
    pub(super) joined_us: i64,
    /// How many records its claims hold.
    pub(super) held: u64,
}

/// What happened in a group since it was created, in records.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Handed out to members, again ones included, uncounted releases taken back.
    pub delivered: u64,
    /// Handed out a second or a later time.
    pub redelivered: u64,
    /// Settled as done.
    pub acked: u64,
    /// Settled as rejected.
    pub rejected: u64,
    /// Put aside for a delay.
    pub parked: u64,
    /// Given up by a lease that ran out.
    pub expired: u64,
    /// Given up by a member that died or left while it held them.
    pub abandoned: u64,
    /// Unsettled when the log no longer had them: removed by retention or by a repair.
    pub vanished: u64,
    /// Members that died instead of leaving.
    pub members_died: u64,
}

/// Everything a group knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GroupState {
    pub(super) life: Life,
    pub(super) name: String,
    pub(super) config: Vec<u8>,
    /// How many times the configuration changed.
    pub(super) config_epoch: u64,
    pub(super) lifetime: Option<Lifetime>,
    /// When it was created, microseconds since 1970.
    pub(super) created_us: i64,
    pub(super) boot_id: u128,
    /// The stamp of the last transaction.
    pub(super) clock: Stamp,
    /// Every record below it was examined.
    pub(super) cursor: u64,
    pub(super) runs: Runs,
    pub(super) claims: BTreeMap<u64, ClaimState>,
    pub(super) next_claim: u64,
    pub(super) members: BTreeMap<u64, MemberState>,
    /// How many times the group was reset.
    pub(super) resets: u64,
    pub(super) counters: Counters,
}

impl GroupState {
    /// The lowest record that the group still needs: the first unsettled one or the cursor.
    pub(super) fn floor(&self) -> u64 {
        self.runs.first_seq().map_or(self.cursor, |first| first.min(self.cursor))
    }

    /// Whether a member other than this one holds claims.
    pub(super) fn others_hold_claims(&self, member: u64) -> bool {
        self.members.iter().any(|(&id, other)| id != member && other.held > 0)
    }

    /// Whether a lease or a delay has ended by now: whatever was of another boot has.
    pub(super) fn is_due(&self, now: Now) -> bool {
        self.boot_id != now.boot_id
            || self.runs.next_timer_us().is_some_and(|at_us| at_us <= now.boot_us)
    }

    /// For how long nothing has happened, in microseconds: by the boot clock, which nobody sets. Over a
    /// restart of the machine only the wall clock tells, and that it was at least as long as this boot.
    pub(super) fn idle_us(&self, now: Now) -> u64 {
        if self.boot_id == now.boot_id {
            return now.boot_us.saturating_sub(self.clock.boot_us);
        }
        let by_wall = now.wall_us.saturating_sub(self.clock.wall_us);
        u64::try_from(by_wall).unwrap_or(0).max(now.boot_us)
    }

    /// Applies one operation decided at `stamp`. After a misfit the state is not to be used.
    pub(super) fn apply(&mut self, stamp: Stamp, op: &Op) -> Result<(), Misfit> {
        match (self.life, op) {
            (Life::Unborn, Op::Create(create)) => {
                self.create(stamp, create);
                return Ok(());
            }
            // The first transaction of a group says which boot its stamp counts from.
            (Life::Unborn, Op::Boot { .. }) | (Life::Live, _) => {}
            (Life::Unborn, _) => return Err(Misfit("the group was not created yet")),
            (Life::Deleted, _) => return Err(Misfit("the group was deleted before")),
        }
        match op {
            Op::Create(_) => Err(Misfit("the group is created twice")),
            Op::Configure { config } => {
                self.config.clone_from(config);
                add(&mut self.config_epoch, 1);
                Ok(())
            }
            Op::Delete => {
                self.life = Life::Deleted;
                Ok(())
            }
            Op::Join { member } => self.join(stamp, *member),
            Op::Depart { member, why } => self.depart(*member, *why),
            Op::Boot { boot_id } => {
                self.boot(stamp, *boot_id);
                Ok(())
            }
            Op::Advance => {
                self.advance(stamp);
                Ok(())
            }
            Op::Claim(claim) => self.claim(claim),
            Op::Settle { claim, fate, seqs } => self.settle(*claim, *fate, seqs),
            Op::Vanish { seqs } => self.vanish(seqs),
            Op::Reset { to } => {
                self.reset(*to);
                Ok(())
            }
            Op::Cut { to } => {
                self.cut(*to);
                Ok(())
            }
        }
    }

    /// Ends a transaction.
    pub(super) fn stamped(&mut self, stamp: Stamp) {
        self.clock = stamp;
    }

    /// Settles those of `seqs` that `claim` holds, and tells `owned` which they were.
    pub(super) fn settle_range(
        &mut self,
        claim: u64,
        fate: Fate,
        seqs: SeqRange,
        mut owned: impl FnMut(SeqRange),
    ) {
        let ours = |run: &Run| matches!(run.hold, Hold::Claimed { claim: by, .. } if by == claim);
        let counters = &mut self.counters;
        let mut given_back = 0;
        match fate {
            Fate::Ack | Fate::Reject => self.runs.remove(seqs, ours, |piece, _| {
                add(&mut given_back, piece.count());
                owned(piece);
            }),
            Fate::Park { due_us } => {
                let to = |run: &Run| (run.attempts, Hold::Parked { due_us });
                self.runs.change(seqs, ours, to, |piece, _| {
                    add(&mut given_back, piece.count());
                    owned(piece);
                });
            }
            Fate::Release { counted } => {
                let back = u32::from(!counted);
                let to = |run: &Run| (run.attempts.saturating_sub(back), Hold::Ready);
                self.runs.change(seqs, ours, to, |piece, run| {
                    add(&mut given_back, piece.count());
                    if !counted {
                        let again = if run.attempts > 1 { piece.count() } else { 0 };
                        counters.delivered = counters.delivered.saturating_sub(piece.count());
                        counters.redelivered = counters.redelivered.saturating_sub(again);
                    }
                    owned(piece);
                });
            }
            Fate::Renew { until_us } => {
                let to = |run: &Run| (run.attempts, Hold::Claimed { claim, until_us });
                self.runs.change(seqs, ours, to, |piece, _| owned(piece));
            }
        }
        match fate {
            Fate::Ack => add(&mut counters.acked, given_back),
            Fate::Reject => add(&mut counters.rejected, given_back),
            Fate::Park { .. } => add(&mut counters.parked, given_back),
            Fate::Release { .. } | Fate::Renew { .. } => {}
        }
        give_back(&mut self.claims, &mut self.members, claim, given_back);
    }

    fn create(&mut self, stamp: Stamp, create: &Create) {
        self.life = Life::Live;
        self.name.clone_from(&create.name);
        self.config.clone_from(&create.config);
        self.lifetime = Some(create.lifetime);
        self.created_us = stamp.wall_us;
        self.cursor = create.start;
    }

    fn join(&mut self, stamp: Stamp, member: u64) -> Result<(), Misfit> {
        let joined = MemberState { joined_us: stamp.wall_us, held: 0 };
        match self.members.insert(member, joined) {
            None => Ok(()),
            Some(_) => Err(Misfit("a member joins twice")),
        }
    }

    fn depart(&mut self, member: u64, why: Departure) -> Result<(), Misfit> {
        if self.members.remove(&member).is_none() {
            return Err(Misfit("somebody departs who is no member"));
        }
        let gone = self.release_claims(|claim| claim.member == member);
        add(&mut self.counters.abandoned, gone);
        add(&mut self.counters.members_died, u64::from(why == Departure::Died));
        Ok(())
    }

    /// Makes ready, counted, what the claims hold that pass `filter`, and forgets these claims.
    fn release_claims(&mut self, filter: impl Fn(&ClaimState) -> bool) -> u64 {
        let claims = &self.claims;
        let is_gone = |run: &Run| match run.hold {
            Hold::Claimed { claim, .. } => claims.get(&claim).is_none_or(&filter),
            Hold::Ready | Hold::Parked { .. } => false,
        };
        let mut released = 0;
        if claims.values().any(&filter) {
            let all = SeqRange { first: 0, last: u64::MAX };
            self.runs.change(
                all,
                is_gone,
                |run| (run.attempts, Hold::Ready),
                |piece, _| add(&mut released, piece.count()),
            );
        }
        self.claims.retain(|_, claim| !filter(claim));
        released
    }

    fn boot(&mut self, stamp: Stamp, boot_id: u128) {
        self.boot_id = boot_id;
        add(&mut self.counters.members_died, self.members.len() as u64);
        self.members.clear();
        let abandoned = self.release_claims(|_| true);
        add(&mut self.counters.abandoned, abandoned);
        // What is left of a delay is what was left at the last transaction, less what the wall
        // clock says has passed since: a clock that was wrong costs at most the rest of the delay.
        let before = self.clock;
        let passed_us = u64::try_from(stamp.wall_us.saturating_sub(before.wall_us)).unwrap_or(0);
        let all = SeqRange { first: 0, last: u64::MAX };
        let mut parked: Vec<(SeqRange, u64)> = Vec::new();
        self.runs.pieces(
            all,
            |run| matches!(run.hold, Hold::Parked { .. }),
            |seqs, run| {
                if let Hold::Parked { due_us } = run.hold {
                    let rest_us = due_us.saturating_sub(before.boot_us).saturating_sub(passed_us);
                    parked.push((seqs, stamp.boot_us.saturating_add(rest_us)));
                }
            },
        );
        for (seqs, due_us) in parked {
            let to = |run: &Run| (run.attempts, Hold::Parked { due_us });
            self.runs.change(seqs, |_| true, to, |_, _| ());
        }
    }

    fn advance(&mut self, stamp: Stamp) {
        let Self { runs, claims, members, counters, .. } = self;
        runs.advance(stamp.boot_us, |seqs, run| {
            if let Hold::Claimed { claim, .. } = run.hold {
                add(&mut counters.expired, seqs.count());
                give_back(claims, members, claim, seqs.count());
            }
        });
    }

    fn claim(&mut self, claim: &Claim) -> Result<(), Misfit> {
        if !self.members.contains_key(&claim.member) {
            return Err(Misfit("somebody claims who is no member"));
        }
        if claim.to < self.cursor {
            return Err(Misfit("the cursor goes back"));
        }
        self.check_new(claim)?;
        let id = self.next_claim;
        let hold = Hold::Claimed { claim: id, until_us: claim.until_us };
        let mut seqs = 0;
        for &range in &claim.again {
            let before = seqs;
            let redelivered = &mut self.counters.redelivered;
            self.runs.claim(range, id, claim.until_us, |piece, run| {
                add(&mut seqs, piece.count());
                add(redelivered, if run.attempts > 0 { piece.count() } else { 0 });
            });
            if seqs - before != range.count() {
                return Err(Misfit("a record is claimed that is not ready"));
            }
        }
        for &range in &claim.fresh {
            add(&mut seqs, range.count());
            self.runs.insert(range, Run { first: range.first, attempts: 1, order: 0, hold });
        }
        for &(seq, order) in &claim.ordered {
            let waits = self.runs.order_is_held(order);
            let (attempts, hold) = if waits { (0, Hold::Ready) } else { (1, hold) };
            add(&mut seqs, u64::from(!waits));
            self.runs.insert(SeqRange::one(seq), Run { first: seq, attempts, order, hold });
        }
        self.cursor = claim.to;
        add(&mut self.counters.delivered, seqs);
        if seqs > 0 {
            self.next_claim = self.next_claim.saturating_add(1);
            self.claims.insert(id, ClaimState { member: claim.member, seqs });
            if let Some(member) = self.members.get_mut(&claim.member) {
                add(&mut member.held, seqs);
            }
        }
        Ok(())
    }

    /// New records lie between the old cursor and the new one, and no record is named twice.
    fn check_new(&self, claim: &Claim) -> Result<(), Misfit> {
        let first = claim.fresh.first().map(|range| range.first);
        let last = claim.fresh.last().map(|range| range.last);
        let first_ordered = claim.ordered.first().map(|&(seq, _)| seq);
        let last_ordered = claim.ordered.last().map(|&(seq, _)| seq);
        let below = |seq: Option<u64>| seq.is_some_and(|seq| seq < self.cursor);
        let beyond = |seq: Option<u64>| seq.is_some_and(|seq| seq >= claim.to);
        if below(first) || below(first_ordered) {
            return Err(Misfit("a new record lies below the cursor"));
        }
        if beyond(last) || beyond(last_ordered) {
            return Err(Misfit("a new record lies beyond what was examined"));
        }
        let twice = claim.ordered.iter().any(|&(seq, _)| {
            let at = claim.fresh.partition_point(|range| range.last < seq);
            claim.fresh.get(at).is_some_and(|range| range.first <= seq)
        });
        if twice { Err(Misfit("a new record is named twice")) } else { Ok(()) }
    }

    fn settle(&mut self, claim: u64, fate: Fate, seqs: &[SeqRange]) -> Result<(), Misfit> {
        for &range in seqs {
            let mut count = 0;
            self.settle_range(claim, fate, range, |piece| add(&mut count, piece.count()));
            if count != range.count() {
                return Err(Misfit("a record is settled that this claim does not hold"));
            }
        }
        Ok(())
    }

    fn vanish(&mut self, seqs: &[SeqRange]) -> Result<(), Misfit> {
        for &range in seqs {
            let mut count = 0;
            self.runs.remove(
                range,
                |run| run.hold == Hold::Ready,
                |piece, _| {
                    add(&mut count, piece.count());
                },
            );
            if count != range.count() {
                return Err(Misfit("a record vanishes that is not ready"));
            }
            add(&mut self.counters.vanished, count);
        }
        Ok(())
    }

    fn reset(&mut self, to: u64) {
        self.runs = Runs::default();
        self.claims.clear();
        for member in self.members.values_mut() {
            member.held = 0;
        }
        self.cursor = to;
        add(&mut self.resets, 1);
    }

    fn cut(&mut self, to: u64) {
        let Self { runs, claims, members, counters, .. } = self;
        runs.remove(
            SeqRange { first: to, last: u64::MAX },
            |_| true,
            |piece, run| {
                add(&mut counters.vanished, piece.count());
                if let Hold::Claimed { claim, .. } = run.hold {
                    give_back(claims, members, claim, piece.count());
                }
            },
        );
        self.cursor = self.cursor.min(to);
    }
}

/// Takes `seqs` records off a claim and off its member; an empty claim is forgotten.
fn give_back(
    claims: &mut BTreeMap<u64, ClaimState>,
    members: &mut BTreeMap<u64, MemberState>,
    claim: u64,
    seqs: u64,
) {
    let Some(state) = claims.get_mut(&claim) else { return };
    if let Some(member) = members.get_mut(&state.member) {
        member.held = member.held.saturating_sub(seqs);
    }
    state.seqs = state.seqs.saturating_sub(seqs);
    if state.seqs == 0 {
        claims.remove(&claim);
    }
}

/// Counts on. A count that a damaged record made absurd stays at the top instead of wrapping.
fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}
