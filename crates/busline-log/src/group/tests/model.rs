//! The state machine against a model that keeps one entry a record and knows no runs.
//!
//! A run of the test is a list of requests. Each becomes the operations that the engine would
//! record; the state takes them through the codec, the model by its own rules, and after each
//! both are compared record by record. At random moments the state goes through a snapshot.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::group::op::{Claim, Create, Departure, Fate, Lifetime, Op, Stamp};
use crate::group::runs::{Hold, SeqRange};
use crate::group::state::GroupState;
use crate::group::wire::Input;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Ready,
    Parked(u64),
    Claimed { claim: u64, until_us: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    attempts: u32,
    order: u64,
    kept: Kept,
}

#[derive(Debug, Default, Clone)]
struct Model {
    cursor: u64,
    entries: BTreeMap<u64, Entry>,
    /// The members, and the owners of all claims ever made.
    members: Vec<u64>,
    owners: BTreeMap<u64, u64>,
    next_claim: u64,
    delivered: u64,
    acked: u64,
    now: Stamp,
}

/// What the test asks for. Small numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Ask {
    Join,
    Depart {
        member: usize,
        died: bool,
    },
    /// Examines `examine` new records, of which the bits of `matches` say which match.
    Claim {
        member: usize,
        again: usize,
        examine: u64,
        matches: u16,
        orders: u8,
        lease_us: u64,
    },
    Settle {
        claim: u64,
        at: u64,
        len: u64,
        fate: u8,
        delay_us: u64,
    },
    Advance {
        us: u64,
    },
    Reboot {
        passed_us: u64,
        back: bool,
    },
    Reset {
        to: u64,
    },
    Cut {
        to: u64,
    },
    Vanish {
        nth: usize,
    },
    Snapshot,
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        2 => Just(Ask::Join),
        1 => (0..4_usize, any::<bool>()).prop_map(|(member, died)| Ask::Depart { member, died }),
        8 => (0..4_usize, 0..4_usize, 0..17_u64, any::<u16>(), 0..4_u8, 1..300_u64).prop_map(
            |(member, again, examine, matches, orders, lease_us)| Ask::Claim {
                member, again, examine, matches, orders, lease_us,
            }
        ),
        12 => (0..6_u64, 0..24_u64, 1..6_u64, 0..6_u8, 0..200_u64).prop_map(
            |(claim, at, len, fate, delay_us)| Ask::Settle { claim, at, len, fate, delay_us }
        ),
        4 => (0..200_u64).prop_map(|us| Ask::Advance { us }),
        1 => (0..200_u64, any::<bool>())
            .prop_map(|(passed_us, back)| Ask::Reboot { passed_us, back }),
        1 => (0..64_u64).prop_map(|to| Ask::Reset { to }),
        1 => (0..64_u64).prop_map(|to| Ask::Cut { to }),
        1 => (0..8_usize).prop_map(|nth| Ask::Vanish { nth }),
        2 => Just(Ask::Snapshot),
    ]
}

impl Model {
    fn claimable(&self, seq: u64) -> bool {
        let Some(entry) = self.entries.get(&seq) else { return false };
        let earlier = self
            .entries
            .range(..seq)
            .any(|(_, other)| entry.order != 0 && other.order == entry.order);
        entry.kept == Kept::Ready && !earlier
    }

    fn held_by(&self, seq: u64) -> Option<u64> {
        match self.entries.get(&seq)?.kept {
            Kept::Claimed { claim, .. } => Some(claim),
            Kept::Ready | Kept::Parked(_) => None,
        }
    }

    fn release_where(&mut self, gone: impl Fn(u64) -> bool) {
        for entry in self.entries.values_mut() {
            if let Kept::Claimed { claim, .. } = entry.kept
                && gone(claim)
            {
                entry.kept = Kept::Ready;
            }
        }
    }

    fn advance(&mut self) {
        let now_us = self.now.boot_us;
        for entry in self.entries.values_mut() {
            match entry.kept {
                Kept::Parked(at) | Kept::Claimed { until_us: at, .. } if at <= now_us => {
                    entry.kept = Kept::Ready;
                }
                _ => {}
            }
        }
    }

    /// Does what is asked, and gives the operations that the engine would record for it.
    fn ask(&mut self, ask: &Ask) -> Vec<Op> {
        match *ask {
            Ask::Join => {
                let member = 1 + self.owners.len() as u64 * 7 + self.members.len() as u64;
                if self.members.contains(&member) || self.members.len() > 3 {
                    return Vec::new();
                }
                self.members.push(member);
                vec![Op::Join { member }]
            }
            Ask::Depart { member, died } => {
                if member >= self.members.len() {
                    return Vec::new();
                }
                let member = self.members.remove(member);
                let owners = self.owners.clone();
                self.release_where(|claim| owners.get(&claim) == Some(&member));
                let why = if died { Departure::Died } else { Departure::Left };
                vec![Op::Depart { member, why }]
            }
            Ask::Claim { member, again, examine, matches, orders, lease_us } => {
                match self.members.get(member) {
                    Some(&member) => self.claim(member, again, examine, matches, orders, lease_us),
                    None => Vec::new(),
                }
            }
            Ask::Settle { claim, at, len, fate, delay_us } => {
                self.settle(claim, at, len, fate, delay_us)
            }
            Ask::Advance { us } => {
                self.now.boot_us += us;
                self.now.wall_us += us.cast_signed();
                self.advance();
                vec![Op::Advance]
            }
            Ask::Reboot { passed_us, back } => {
                let before = self.now;
                self.members.clear();
                self.release_where(|_| true);
                let passed = if back { -50 } else { passed_us.cast_signed() };
                self.now = Stamp { boot_us: 13, wall_us: before.wall_us + passed };
                for entry in self.entries.values_mut() {
                    if let Kept::Parked(due_us) = entry.kept {
                        let rest = due_us.saturating_sub(before.boot_us);
                        let passed = if back { 0 } else { passed_us };
                        entry.kept = Kept::Parked(13 + rest.saturating_sub(passed));
                    }
                }
                vec![Op::Boot { boot_id: u128::from(passed_us) + 1 }]
            }
            Ask::Reset { to } => {
                self.entries.clear();
                self.cursor = to;
                vec![Op::Reset { to }]
            }
            Ask::Cut { to } => {
                self.entries.retain(|&seq, _| seq < to);
                self.cursor = self.cursor.min(to);
                vec![Op::Cut { to }]
            }
            Ask::Vanish { nth } => {
                let ready = self.entries.iter().filter(|(_, entry)| entry.kept == Kept::Ready);
                let Some(seq) = ready.map(|(&seq, _)| seq).nth(nth) else { return Vec::new() };
                self.entries.remove(&seq);
                vec![Op::Vanish { seqs: vec![SeqRange::one(seq)] }]
            }
            Ask::Snapshot => Vec::new(),
        }
    }

    fn claim(
        &mut self,
        member: u64,
        again: usize,
        examine: u64,
        matches: u16,
        orders: u8,
        lease_us: u64,
    ) -> Vec<Op> {
        let until_us = self.now.boot_us + lease_us;
        let kept = Kept::Claimed { claim: self.next_claim, until_us };
        let mut op = Claim { member, until_us, to: self.cursor + examine, ..Claim::default() };
        let before = self.delivered;
        let seqs = self.entries.keys().copied().filter(|&seq| self.claimable(seq)).take(again);
        for seq in seqs.collect::<Vec<u64>>() {
            let entry = self.entries.get_mut(&seq).unwrap();
            *entry = Entry { attempts: entry.attempts + 1, kept, ..*entry };
            self.delivered += 1;
            push(&mut op.again, seq);
        }
        for (index, seq) in (self.cursor..op.to).enumerate() {
            if matches & (1 << index) == 0 {
                continue;
            }
            // Orders 1 to 3 repeat, so that several records wait for one; 0 orders nothing.
            let order = if orders == 0 { 0 } else { seq % (u64::from(orders) + 1) };
            let waits = order != 0 && self.entries.values().any(|other| other.order == order);
            let (attempts, kept) = if waits { (0, Kept::Ready) } else { (1, kept) };
            self.delivered += u64::from(!waits);
            self.entries.insert(seq, Entry { attempts, order, kept });
            if order == 0 {
                push(&mut op.fresh, seq);
            } else {
                op.ordered.push((seq, order));
            }
        }
        self.cursor = op.to;
        if self.delivered > before {
            self.owners.insert(self.next_claim, member);
            self.next_claim += 1;
        }
        vec![Op::Claim(op)]
    }

    fn settle(&mut self, back: u64, at: u64, len: u64, fate: u8, delay_us: u64) -> Vec<Op> {
        let claim = self.next_claim.saturating_sub(back + 1);
        let from = self.cursor.saturating_sub(at);
        let mut seqs = Vec::new();
        let then_us = self.now.boot_us + delay_us;
        let fate = match fate {
            0 | 5 => Fate::Ack,
            1 => Fate::Park { due_us: then_us },
            2 => Fate::Release { counted: true },
            3 => Fate::Release { counted: false },
            _ => Fate::Renew { until_us: then_us },
        };
        for seq in from..from + len {
            if self.held_by(seq) != Some(claim) {
                continue;
            }
            push(&mut seqs, seq);
            let entry = self.entries.get_mut(&seq).unwrap();
            match fate {
                Fate::Ack | Fate::Reject => {
                    self.entries.remove(&seq);
                    self.acked += 1;
                }
                Fate::Park { due_us } => entry.kept = Kept::Parked(due_us),
                Fate::Release { counted } => {
                    entry.kept = Kept::Ready;
                    entry.attempts -= u32::from(!counted);
                    self.delivered -= u64::from(!counted);
                }
                Fate::Renew { until_us } => entry.kept = Kept::Claimed { claim, until_us },
            }
        }
        if seqs.is_empty() { Vec::new() } else { vec![Op::Settle { claim, fate, seqs }] }
    }
}

fn push(ranges: &mut Vec<SeqRange>, seq: u64) {
    match ranges.last_mut() {
        Some(range) if range.last + 1 == seq => range.last = seq,
        _ => ranges.push(SeqRange::one(seq)),
    }
}

fn through_codec(op: &Op) -> Op {
    let mut bytes = Vec::new();
    op.encode(&mut bytes);
    let mut input = Input::new(&bytes);
    let back = Op::decode(&mut input).unwrap();
    input.end().unwrap();
    back
}

fn compare(state: &GroupState, model: &Model) {
    assert_eq!(state.cursor, model.cursor);
    let mut seen = BTreeMap::new();
    for (last, run) in state.runs.iter_from(0) {
        for seq in run.first..=last {
            let kept = match run.hold {
                Hold::Ready => Kept::Ready,
                Hold::Parked { due_us } => Kept::Parked(due_us),
                Hold::Claimed { claim, until_us } => Kept::Claimed { claim, until_us },
            };
            seen.insert(seq, Entry { attempts: run.attempts, order: run.order, kept });
        }
    }
    assert_eq!(seen, model.entries);
    let claimable: Vec<u64> =
        model.entries.keys().copied().filter(|&seq| model.claimable(seq)).collect();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some((seqs, attempts)) = state.runs.next_claimable(from) {
        for seq in seqs.first..=seqs.last {
            assert_eq!(attempts, model.entries[&seq].attempts);
            found.push(seq);
        }
        from = seqs.last + 1;
    }
    assert_eq!(found, claimable);
    assert_eq!(state.runs.claimable_seqs(), claimable.len() as u64);
    assert_eq!(state.runs.seqs(), model.entries.len() as u64);
    let timer = model.entries.values().filter_map(|entry| match entry.kept {
        Kept::Parked(at) | Kept::Claimed { until_us: at, .. } => Some(at),
        Kept::Ready => None,
    });
    assert_eq!(state.runs.next_timer_us(), timer.min());
    let floor = model.entries.keys().next().copied().unwrap_or(model.cursor);
    assert_eq!(state.floor(), floor.min(model.cursor));
    for &member in &model.members {
        let held = |of: &dyn Fn(u64) -> bool| {
            model
                .entries
                .keys()
                .any(|&seq| model.held_by(seq).is_some_and(|claim| of(model.owners[&claim])))
        };
        assert_eq!(state.others_hold_claims(member), held(&|owner| owner != member));
    }
    let members: Vec<u64> = state.members.keys().copied().collect();
    let mut expected = model.members.clone();
    expected.sort_unstable();
    assert_eq!(members, expected);
    assert_eq!((state.counters.delivered, state.counters.acked), (model.delivered, model.acked));
}

fn born(start: u64) -> GroupState {
    let mut state = GroupState::default();
    let create =
        Create { name: "g".to_owned(), config: vec![1, 2, 3], start, lifetime: Lifetime::Durable };
    state.apply(Stamp::default(), &Op::Boot { boot_id: 9 }).unwrap();
    state.apply(Stamp::default(), &Op::Create(create)).unwrap();
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_the_models(start in 0..5_u64, asks in prop::collection::vec(ask(), 1..120)) {
        let mut state = born(start);
        let mut model = Model { cursor: start, ..Model::default() };
        for ask in &asks {
            let ops = model.ask(ask);
            for op in ops {
                let op = through_codec(&op);
                let stamp = model.now;
                state.apply(stamp, &op).unwrap_or_else(|misfit| panic!("{op:?}: {misfit}"));
                state.stamped(stamp);
            }
            if matches!(ask, Ask::Snapshot) {
                let mut bytes = Vec::new();
                state.encode_snapshot(&mut bytes);
                let back = GroupState::decode_snapshot(&bytes).unwrap();
                prop_assert_eq!(&back, &state);
                state = back;
            }
            compare(&state, &model);
        }
    }
}

#[test]
fn a_settle_of_another_claim_changes_nothing() {
    let mut state = born(0);
    let stamp = Stamp::default();
    state.apply(stamp, &Op::Join { member: 1 }).unwrap();
    let claim = Claim {
        member: 1,
        until_us: 10,
        to: 4,
        fresh: vec![SeqRange::new(0, 3)],
        ..Claim::default()
    };
    state.apply(stamp, &Op::Claim(claim)).unwrap();
    let mut owned = Vec::new();
    state.settle_range(7, Fate::Ack, SeqRange::new(0, 3), |piece| owned.push(piece));
    assert_eq!(owned, []);
    assert_eq!(state.runs.seqs(), 4);
    let whole = SeqRange { first: 0, last: u64::MAX };
    state.settle_range(0, Fate::Ack, whole, |piece| owned.push(piece));
    assert_eq!(owned, [SeqRange::new(0, 3)]);
    assert_eq!(state.runs.seqs(), 0);
    assert!(state.claims.is_empty());
}

#[test]
fn settling_in_order_keeps_one_run() {
    let mut state = born(0);
    let stamp = Stamp::default();
    state.apply(stamp, &Op::Join { member: 1 }).unwrap();
    let fresh = vec![SeqRange::new(0, 999_999)];
    let claim = Claim { member: 1, until_us: 10, to: 1_000_000, fresh, ..Claim::default() };
    state.apply(stamp, &Op::Claim(claim)).unwrap();
    for seq in 0..1_000 {
        state.settle_range(0, Fate::Ack, SeqRange::one(seq), |_| ());
        assert_eq!(state.runs.len(), 1);
    }
    // Out of order it splits, and heals once the hole is filled.
    state.settle_range(0, Fate::Release { counted: true }, SeqRange::one(2_000), |_| ());
    assert_eq!(state.runs.len(), 3);
    state.settle_range(0, Fate::Release { counted: true }, SeqRange::new(1_000, 1_999), |_| ());
    assert_eq!(state.runs.len(), 2);
}
