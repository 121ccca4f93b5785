//! Members that do things at random, and a ledger of what must have come of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::state::GroupState;
use crate::group::tests::world::{Handed, World};
use crate::{ClaimId, Group, Member, Result, SeqRange, Settle, Settlement};

/// Numbers that look random and come again with the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a member holds.
#[derive(Debug, Default)]
pub(super) struct Hands(Vec<(ClaimId, u64, String)>);

/// What is known to have happened, by value: only calls that returned are in it.
#[derive(Debug, Default, Clone)]
pub(super) struct Ledger {
    pub(super) published: u64,
    pub(super) published_durably: u64,
    /// How many attempts a record had.
    pub(super) attempts: BTreeMap<String, u32>,
    /// How many it ever had: with the power the news that one does not count may be lost.
    pub(super) attempts_most: BTreeMap<String, u32>,
    pub(super) acked: BTreeSet<String>,
    pub(super) acked_durably: BTreeSet<String>,
}

pub(super) fn value(number: u64) -> String {
    format!("v{number}")
}

impl Ledger {
    fn handed(&mut self, hands: &mut Hands, claim: ClaimId, handed: Handed) {
        for (seq, attempts, value) in handed {
            assert!(!self.acked.contains(&value), "{value} came again after it was settled");
            let before = self.attempts.get(&value).copied().unwrap_or(0);
            assert_eq!(attempts, before + 1, "{value}");
            self.attempts.insert(value.clone(), attempts);
            let most = self.attempts_most.entry(value.clone()).or_default();
            *most = attempts.max(*most);
            hands.0.push((claim, seq, value));
        }
    }

    fn settled(&mut self, value: String, how: Settlement) {
        match how {
            Settlement::Ack | Settlement::Reject => {
                self.acked.insert(value);
            }
            Settlement::Release { counted: false } => {
                *self.attempts.get_mut(&value).unwrap() -= 1;
            }
            _ => {}
        }
    }
}

/// Does something at random. An error says that the process died, and that the call did nothing.
pub(super) fn act(
    world: &mut World,
    member: &mut Member,
    hands: &mut Hands,
    ledger: &mut Ledger,
    dice: &mut Dice,
) -> Result<()> {
    match dice.roll(10) {
        0 => {
            let mut appender = world.log.appender();
            let count = 1 + dice.roll(5);
            for number in ledger.published..ledger.published + count {
                appender.push(b"k", b"m", value(number).as_bytes())?;
            }
            appender.flush(world.now.wall_us)?;
            ledger.published += count;
        }
        1 => {
            world.log.commit(world.log.next_seq())?;
            ledger.published_durably = ledger.published;
        }
        2 => {
            member.group().commit()?;
            ledger.acked_durably = ledger.acked.clone();
        }
        3 => world.pass(dice.roll(40)),
        4 => {
            let at = member.take_over(world.now)?;
            assert!(at <= ledger.published);
        }
        5..=6 => {
            let max = 1 + usize::try_from(dice.roll(4)).unwrap();
            let ready = if dice.roll(2) == 0 { world.try_claim(member, max)? } else { None };
            let (outcome, handed) = match ready {
                Some(ready) => ready,
                None => world.claim_where(member, max, &|_, _| true)?,
            };
            ledger.handed(hands, outcome.claim, handed);
        }
        _ => settle(world, member.group(), hands, ledger, dice)?,
    }
    Ok(())
}

/// Settles some of what the member holds, in one call.
fn settle(
    world: &World,
    group: &Group,
    hands: &mut Hands,
    ledger: &mut Ledger,
    dice: &mut Dice,
) -> Result<()> {
    let mut items = Vec::new();
    let mut rest = Vec::new();
    for held in hands.0.drain(..) {
        let how = match dice.roll(9) {
            0 => Settlement::Park { delay_us: dice.roll(30) },
            1 => Settlement::Release { counted: true },
            2 => Settlement::Release { counted: false },
            3 => Settlement::Reject,
            4..=5 => Settlement::Ack,
            // A lease that may run out before the member comes back to it.
            6 => Settlement::Renew { lease_us: dice.roll(90) },
            _ => {
                rest.push(held);
                continue;
            }
        };
        items.push((held, how));
    }
    hands.0 = rest;
    let settles: Vec<Settle> = items
        .iter()
        .map(|((claim, seq, _), how)| {
            let seqs = SeqRange::one(*seq);
            Settle { claim: *claim, seqs, how: *how }
        })
        .collect();
    let mut lost = Vec::new();
    group.settle(&settles, world.now, &mut lost)?;
    let lost: BTreeSet<usize> = lost.iter().map(|lost| lost.item).collect();
    for (item, ((claim, seq, value), how)) in items.into_iter().enumerate() {
        if lost.contains(&item) {
            continue;
        }
        ledger.settled(value.clone(), how);
        if matches!(how, Settlement::Renew { .. }) {
            hands.0.push((claim, seq, value));
        }
    }
    Ok(())
}

/// Takes and acknowledges everything there is, waiting for delays; (value, attempts) in order.
pub(super) fn drain(world: &mut World, member: &mut Member) -> Vec<(String, u32)> {
    let mut seen = Vec::new();
    loop {
        member.take_over(world.now).unwrap();
        let (claim, handed) = world.claim(member, 64);
        if handed.is_empty() {
            match member.next_due_us().unwrap() {
                Some(due_us) => world.pass(due_us - world.now.boot_us),
                None => return seen,
            }
        }
        world.ack(member, claim, &handed);
        seen.extend(handed.into_iter().map(|(_, attempts, value)| (value, attempts)));
    }
}

pub(super) fn state(group: &Group) -> GroupState {
    group.shared.read(GroupState::clone).unwrap()
}

impl Ledger {
    /// What is unsettled, with the attempt that comes next.
    pub(super) fn owed(&self) -> Vec<(String, u32)> {
        (0..self.published)
            .map(value)
            .filter(|value| !self.acked.contains(value))
            .map(|value| {
                let attempts = self.attempts.get(&value).copied().unwrap_or(0) + 1;
                (value, attempts)
            })
            .collect()
    }
}

/// In the order of publishing.
pub(super) fn sorted(mut seen: Vec<(String, u32)>) -> Vec<(String, u32)> {
    seen.sort_by_key(|(value, _)| value[1..].parse::<u64>().unwrap());
    seen
}
