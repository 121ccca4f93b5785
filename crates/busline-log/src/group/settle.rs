//! Settling: what claims come to, many in one transaction.

use crate::Result;

use super::journal::Txn;
use super::op::{Fate, Op};
use super::runs::SeqRange;
use super::state::GroupState;

/// Names what one call of [`Member::claim`](super::Member::claim) handed out.
///
/// Never used twice in a group, so that a late settle of an older claim of the same record, even by
/// the same member, is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(pub(super) u64);

/// What claimed records come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done: settled for good.
    Ack,
    /// Given up: settled for good, counted apart. Where they go instead is the caller's.
    Reject,
    /// Put aside; ready again after a delay. The attempt counts.
    Park {
        /// How long, in microseconds.
        delay_us: u64,
    },
    /// Given back; ready again at once.
    Release {
        /// Whether the attempt counts: `false` when nothing was tried.
        counted: bool,
    },
    /// Held on to: the lease ends later.
    Renew {
        /// How long from now, in microseconds.
        lease_us: u64,
    },
}

/// One thing to settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// The claim that handed them out.
    pub claim: ClaimId,
    /// Which of its records. Any other in the range is reported lost.
    pub seqs: SeqRange,
    /// What they come to.
    pub how: Settlement,
}

/// Records that were not settled, because the claim no longer holds them.
///
/// The lease ran out or the member was taken for dead, and somebody took them over; or the group
/// was reset; or they were settled before. They will come again if they are not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Which item of the slice, counted from 0.
    pub item: usize,
    /// Which of its records.
    pub seqs: SeqRange,
}

impl Txn<'_> {
    /// Settles what is held and reports what is lost. Later items see what earlier ones did.
    pub(super) fn settle(&mut self, items: &[Settle], lost: &mut Vec<Lost>) -> Result<()> {
        let mut joined: Option<(u64, Fate, Vec<SeqRange>)> = None;
        for (item, settle) in items.iter().enumerate() {
            let fate = self.fate(settle.how);
            let goes_on = joined.as_ref().is_some_and(|(claim, before, seqs)| {
                *claim == settle.claim.0
                    && *before == fate
                    && seqs.last().is_none_or(|last| last.last < settle.seqs.first)
            });
            if !goes_on {
                self.record_settle(joined.take())?;
            }
            let (_, _, seqs) = joined.get_or_insert_with(|| (settle.claim.0, fate, Vec::new()));
            self.settle_one(item, settle, fate, seqs, lost);
        }
        self.record_settle(joined)
    }

    fn settle_one(
        &mut self,
        item: usize,
        settle: &Settle,
        fate: Fate,
        seqs: &mut Vec<SeqRange>,
        lost: &mut Vec<Lost>,
    ) {
        let range = SeqRange::new(settle.seqs.first, settle.seqs.last);
        // A lease that ran out but that nobody took over yet is still honoured.
        let mut expected = Some(range.first);
        let settle_range = |state: &mut GroupState| {
            state.settle_range(settle.claim.0, fate, range, |piece| {
                if let Some(expected) = expected
                    && expected < piece.first
                {
                    lost.push(Lost { item, seqs: SeqRange::new(expected, piece.first - 1) });
                }
                expected = piece.last.checked_add(1);
                match seqs.last_mut() {
                    Some(last) if last.last.checked_add(1) == Some(piece.first) => {
                        last.last = piece.last;
                    }
                    _ => seqs.push(piece),
                }
            });
        };
        self.alter(settle_range);
        if let Some(expected) = expected
            && expected <= range.last
        {
            lost.push(Lost { item, seqs: SeqRange::new(expected, range.last) });
        }
        if let Fate::Park { due_us } = fate {
            self.parked_until(due_us);
        }
    }

    fn record_settle(&mut self, joined: Option<(u64, Fate, Vec<SeqRange>)>) -> Result<()> {
        match joined {
            Some((claim, fate, seqs)) if !seqs.is_empty() => {
                self.record(&Op::Settle { claim, fate, seqs })
            }
            _ => Ok(()),
        }
    }

    fn fate(&self, how: Settlement) -> Fate {
        match how {
            Settlement::Ack => Fate::Ack,
            Settlement::Reject => Fate::Reject,
            Settlement::Park { delay_us } => Fate::Park { due_us: self.after(delay_us) },
            Settlement::Release { counted } => Fate::Release { counted },
            Settlement::Renew { lease_us } => Fate::Renew { until_us: self.after(lease_us) },
        }
    }
}
