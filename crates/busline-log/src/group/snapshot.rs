//! The whole state of a group as bytes: what a group's own log begins with after it was compacted.

use super::op::{Create, Lifetime, Stamp};
use super::runs::{Hold, Run, Runs, SeqRange};
use super::state::{ClaimState, Counters, GroupState, Life, MemberState};
use super::wire::{Input, Malformed, put_i64, put_u64};

const VERSION: u8 = 1;

const READY: u8 = 0;
const PARKED: u8 = 1;
const CLAIMED: u8 = 2;
/// Set beside the kind of hold when the record has an order.
const ORDERED: u8 = 4;

impl GroupState {
    /// Appends the state of a live group.
    pub(super) fn encode_snapshot(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        Create {
            name: self.name.clone(),
            config: self.config.clone(),
            start: self.cursor,
            lifetime: self.lifetime.unwrap_or(Lifetime::Durable),
        }
        .encode(out);
        put_u64(out, self.config_epoch);
        put_i64(out, self.created_us);
        out.extend_from_slice(&self.boot_id.to_le_bytes());
        self.clock.encode(out);
        put_u64(out, self.next_claim);
        put_u64(out, self.resets);
        for count in counts(&self.counters) {
            put_u64(out, count);
        }
        put_u64(out, self.members.len() as u64);
        for (id, member) in &self.members {
            out.extend_from_slice(&id.to_le_bytes());
            put_i64(out, member.joined_us);
        }
        put_u64(out, self.claims.len() as u64);
        for (id, claim) in &self.claims {
            put_u64(out, *id);
            out.extend_from_slice(&claim.member.to_le_bytes());
        }
        put_u64(out, self.runs.len() as u64);
        let mut at = 0;
        for (last, run) in self.runs.iter_from(0) {
            put_u64(out, run.first - at);
            put_u64(out, last - run.first);
            put_run(out, run);
            at = last;
        }
    }

    /// Reads a snapshot; nothing of it is believed that does not fit together.
    pub(super) fn decode_snapshot(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        if input.u8()? != VERSION {
            return Err(Malformed::newer("a snapshot of a version that this one does not know"));
        }
        let create = Create::decode(&mut input)?;
        let mut state = Self {
            life: Life::Live,
            name: create.name,
            config: create.config,
            config_epoch: input.u64()?,
            lifetime: Some(create.lifetime),
            created_us: input.i64()?,
            boot_id: u128::from_le_bytes(input.fixed()?),
            clock: Stamp::decode(&mut input)?,
            cursor: create.start,
            next_claim: input.u64()?,
            resets: input.u64()?,
            ..Self::default()
        };
        state.counters = counters(&mut input)?;
        for _ in 0..input.count(9)? {
            let id = u64::from_le_bytes(input.fixed()?);
            let member = MemberState { joined_us: input.i64()?, held: 0 };
            if state.members.insert(id, member).is_some() {
                return Err(Malformed::new("a member is named twice"));
            }
        }
        for _ in 0..input.count(9)? {
            let id = input.u64()?;
            let member = u64::from_le_bytes(input.fixed()?);
            if id >= state.next_claim || !state.members.contains_key(&member) {
                return Err(Malformed::new("a claim of nobody"));
            }
            if state.claims.insert(id, ClaimState { member, seqs: 0 }).is_some() {
                return Err(Malformed::new("a claim is named twice"));
            }
        }
        state.decode_runs(&mut input)?;
        input.end()?;
        Ok(state)
    }

    fn decode_runs(&mut self, input: &mut Input<'_>) -> Result<(), Malformed> {
        let mut runs = Runs::default();
        let mut at = 0_u64;
        for index in 0..input.count(4)? {
            let step = input.u64()?;
            if step == 0 && index != 0 {
                return Err(Malformed::new("runs overlap"));
            }
            let overflow = Malformed::new("a sequence number has over 64 bits");
            let first = at.checked_add(step).ok_or(overflow)?;
            at = first.checked_add(input.u64()?).ok_or(overflow)?;
            let seqs = SeqRange { first, last: at };
            if at >= self.cursor {
                return Err(Malformed::new("an unsettled record lies beyond the cursor"));
            }
            let run = read_run(input, first)?;
            if run.order != 0 && seqs.count() != 1 {
                return Err(Malformed::new("several records share one order in a run"));
            }
            if let Hold::Claimed { claim, .. } = run.hold {
                let claim =
                    self.claims.get_mut(&claim).ok_or(Malformed::new("a record of no claim"))?;
                claim.seqs = claim.seqs.saturating_add(seqs.count());
                if let Some(member) = self.members.get_mut(&claim.member) {
                    member.held = member.held.saturating_add(seqs.count());
                }
            }
            runs.insert(seqs, run);
        }
        if self.claims.values().any(|claim| claim.seqs == 0) {
            return Err(Malformed::new("a claim of nothing"));
        }
        self.runs = runs;
        Ok(())
    }
}

fn put_run(out: &mut Vec<u8>, run: &Run) {
    put_u64(out, u64::from(run.attempts));
    let ordered = if run.order == 0 { 0 } else { ORDERED };
    match run.hold {
        Hold::Ready => out.push(READY | ordered),
        Hold::Parked { due_us } => {
            out.push(PARKED | ordered);
            put_u64(out, due_us);
        }
        Hold::Claimed { claim, until_us } => {
            out.push(CLAIMED | ordered);
            put_u64(out, claim);
            put_u64(out, until_us);
        }
    }
    if run.order != 0 {
        out.extend_from_slice(&run.order.to_le_bytes());
    }
}

fn read_run(input: &mut Input<'_>, first: u64) -> Result<Run, Malformed> {
    let attempts = input.u32()?;
    let kind = input.u8()?;
    let hold = match kind & !ORDERED {
        READY => Hold::Ready,
        PARKED => Hold::Parked { due_us: input.u64()? },
        CLAIMED => Hold::Claimed { claim: input.u64()?, until_us: input.u64()? },
        _ => return Err(Malformed::newer("an unknown state of a record")),
    };
    let order = if kind & ORDERED == 0 { 0 } else { u64::from_le_bytes(input.fixed()?) };
    if kind & ORDERED != 0 && order == 0 {
        return Err(Malformed::new("an ordered record without an order"));
    }
    Ok(Run { first, attempts, order, hold })
}

fn counts(counters: &Counters) -> [u64; 9] {
    let Counters {
        delivered,
        redelivered,
        acked,
        rejected,
        parked,
        expired,
        abandoned,
        vanished,
        members_died,
    } = *counters;
    [delivered, redelivered, acked, rejected, parked, expired, abandoned, vanished, members_died]
}

fn counters(input: &mut Input<'_>) -> Result<Counters, Malformed> {
    Ok(Counters {
        delivered: input.u64()?,
        redelivered: input.u64()?,
        acked: input.u64()?,
        rejected: input.u64()?,
        parked: input.u64()?,
        expired: input.u64()?,
        abandoned: input.u64()?,
        vanished: input.u64()?,
        members_died: input.u64()?,
    })
}
