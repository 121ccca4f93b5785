//! Looking at a group without touching it.

use crate::{ErrorKind, Result};

use super::claim::Filter;
use super::handle::{Config, Group};
use super::op::Lifetime;
use super::runs::Hold;
use super::state::{Counters, GroupState};
use super::time::Now;

/// What there is to know about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: Config,
    /// How long it stays when nobody uses it.
    pub lifetime: Lifetime,
    /// When it was created, microseconds since 1970.
    pub created_us: i64,
    /// When it last changed, microseconds since 1970.
    pub active_us: i64,
    /// Every record below this sequence number was examined.
    pub cursor: u64,
    /// The lowest sequence number that it still needs.
    pub floor: u64,
    /// How many records were not examined yet, whether it wants them or not.
    pub lag: u64,
    /// How many records may be claimed again or wait for an earlier one of their order.
    pub ready: u64,
    /// How many records are put aside for a delay.
    pub parked: u64,
    /// How many records members hold.
    pub claimed: u64,
    /// The first record that is unsettled or was not examined.
    pub oldest_seq: Option<u64>,
    /// The time of that record, microseconds since 1970.
    pub oldest_us: Option<i64>,
    /// Its members.
    pub members: Vec<MemberInfo>,
    /// What happened in it since it was created.
    pub counters: Counters,
    /// How many bytes its own log has.
    pub journal_bytes: u64,
}

/// A member, as the others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its identity.
    pub id: u64,
    /// When it joined, microseconds since 1970.
    pub joined_us: i64,
    /// How many records it holds.
    pub held: u64,
    /// Whether it lives; the others have not noticed yet when it does not.
    pub alive: bool,
}

/// Why a record is unsettled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// It was handed out before and may be claimed again.
    Ready,
    /// It waits for an earlier one of its order.
    Blocked,
    /// It is put aside until this boot time in microseconds.
    Parked {
        /// When the delay ends.
        due_us: u64,
    },
    /// A member holds it.
    Claimed {
        /// Which one.
        member: u64,
    },
    /// It was not examined yet.
    New,
}

/// An unsettled record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peeked {
    /// Its sequence number.
    pub seq: u64,
    /// How many times it was handed out.
    pub attempts: u32,
    /// Why it is unsettled.
    pub state: Unsettled,
}

impl Group {
    /// What there is to know about it.
    ///
    /// # Errors
    /// `NotFound` when it was deleted; those of reading the log.
    pub fn info(&self, now: Now) -> Result<GroupInfo> {
        let shared = &self.shared;
        let mut info = shared.read(GroupState::info)?;
        for member in &mut info.members {
            // Nobody lives across a restart of the machine.
            member.alive = shared.read(|state| state.boot_id == now.boot_id)?
                && match shared.dead_of(&[member.id]) {
                    Ok(dead) => dead.is_empty(),
                    // Where no lock can be tried nobody can be told to be dead.
                    Err(error) if error.kind() == ErrorKind::ReadOnly => true,
                    Err(error) => return Err(error),
                };
        }
        let main = &shared.main;
        let from = info.cursor.max(main.first_seq());
        let tail = main.next_seq();
        info.lag = if from < tail { main.count_between(from, tail)? } else { 0 };
        info.journal_bytes = shared.journal.stats()?.bytes;
        if info.floor < tail {
            let mut scanner = main.scanner();
            match scanner.seek(info.floor) {
                Err(error) if matches!(error.kind(), ErrorKind::Removed { .. }) => {
                    scanner.seek_first()?;
                }
                other => {
                    other?;
                }
            }
            if let Some(record) = scanner.next()? {
                info.oldest_seq = Some(record.seq);
                info.oldest_us = Some(record.time_us);
            }
        }
        Ok(info)
    }

    /// Shows `visit` the unsettled records from `from` on, `limit` at most, and changes nothing:
    /// first those below the cursor, then the new ones that `filter` wants.
    ///
    /// # Errors
    /// `NotFound` when it was deleted; those of reading the log.
    pub fn peek(
        &self,
        from: u64,
        limit: usize,
        filter: &Filter<'_>,
        visit: &mut dyn FnMut(Peeked),
    ) -> Result<()> {
        let (seen, cursor) =
            self.shared.read(|state| (state.unsettled(from, limit), state.cursor))?;
        let mut left = limit.saturating_sub(seen.len());
        seen.into_iter().for_each(&mut *visit);
        let main = &self.shared.main;
        let from = from.max(cursor).max(main.first_seq());
        if left == 0 || from >= main.next_seq() {
            return Ok(());
        }
        let mut scanner = main.scanner();
        scanner.seek(from)?;
        while left > 0
            && let Some(record) = scanner.next_where(u64::MAX, filter)?
        {
            visit(Peeked { seq: record.seq, attempts: 0, state: Unsettled::New });
            left -= 1;
        }
        Ok(())
    }
}

impl GroupState {
    fn info(&self) -> GroupInfo {
        let held = self.runs.held();
        let members = self.members.iter().map(|(&id, member)| MemberInfo {
            id,
            joined_us: member.joined_us,
            held: member.held,
            alive: true,
        });
        GroupInfo {
            name: self.name.clone(),
            config: self.config(),
            lifetime: self.lifetime.unwrap_or(Lifetime::Durable),
            created_us: self.created_us,
            active_us: self.clock.wall_us,
            cursor: self.cursor,
            floor: self.floor(),
            lag: 0,
            ready: held.ready,
            parked: held.parked,
            claimed: held.claimed,
            oldest_seq: None,
            oldest_us: None,
            members: members.collect(),
            counters: self.counters,
            journal_bytes: 0,
        }
    }

    /// The unsettled records below the cursor, from `from` on, `limit` at most.
    fn unsettled(&self, from: u64, limit: usize) -> Vec<Peeked> {
        let mut out = Vec::new();
        for (last, run) in self.runs.iter_from(from) {
            let state = match run.hold {
                Hold::Ready if self.runs.is_blocked(last) => Unsettled::Blocked,
                Hold::Ready => Unsettled::Ready,
                Hold::Parked { due_us } => Unsettled::Parked { due_us },
                Hold::Claimed { claim, .. } => Unsettled::Claimed {
                    member: self.claims.get(&claim).map_or(0, |claim| claim.member),
                },
            };
            for seq in run.first.max(from)..=last {
                if out.len() >= limit {
                    return out;
                }
                out.push(Peeked { seq, attempts: run.attempts, state });
            }
        }
        out
    }
}
