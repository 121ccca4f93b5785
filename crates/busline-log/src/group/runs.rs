//! The unsettled records of a group as runs of neighbours that share their state.
//!
//! A run is keyed by its *last* sequence number, so that settling in order, which takes records
//! from the front of a run, changes one integer and no index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// Sequence numbers `first..=last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqRange {
    /// The first sequence number of the range.
    pub first: u64,
    /// The last sequence number of the range, never below `first`.
    pub last: u64,
}

impl SeqRange {
    /// The range from `first` to `last`, both included.
    ///
    /// A `last` below `first` gives the range of `first` alone.
    #[must_use]
    pub fn new(first: u64, last: u64) -> Self {
        Self { first, last: last.max(first) }
    }

    /// The range of one record.
    #[must_use]
    pub fn one(seq: u64) -> Self {
        Self { first: seq, last: seq }
    }

    /// How many sequence numbers it holds; saturates for the range of all of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// What keeps an unsettled record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nobody: it may be claimed, unless an earlier record of its order is unsettled.
    Ready,
    /// A delay, until this boot time in microseconds.
    Parked { due_us: u64 },
    /// A claim, until its lease ends at this boot time in microseconds.
    Claimed { claim: u64, until_us: u64 },
}

/// Neighbouring unsettled records in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    /// How many times these records were claimed.
    pub(super) attempts: u32,
    /// What orders this record, 0 for nothing. A record with an order is a run of its own.
    pub(super) order: u64,
    pub(super) hold: Hold,
}

impl Run {
    fn joins(&self, other: &Self) -> bool {
        self.order == 0
            && other.order == 0
            && self.attempts == other.attempts
            && self.hold == other.hold
    }
}

/// How many records are in each state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) ready: u64,
    pub(super) parked: u64,
    pub(super) claimed: u64,
}

/// All unsettled records below the cursor.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Runs {
    by_last: BTreeMap<u64, Run>,
    /// The runs that may be claimed now, by their last sequence number.
    claimable: BTreeSet<u64>,
    claimable_seqs: u64,
    /// When a lease or a delay ends, and of which run.
    timers: BTreeSet<(u64, u64)>,
    /// The unsettled records of each order.
    orders: HashMap<u64, BTreeSet<u64>>,
    held: Held,
}

impl Runs {
    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// How many records are unsettled.
    pub(super) fn seqs(&self) -> u64 {
        self.held.ready.saturating_add(self.held.parked).saturating_add(self.held.claimed)
    }

    pub(super) fn claimable_seqs(&self) -> u64 {
        self.claimable_seqs
    }

    /// How many records wait for an earlier one of their order.
    pub(super) fn blocked_seqs(&self) -> u64 {
        self.held.ready.saturating_sub(self.claimable_seqs)
    }

    pub(super) fn first_seq(&self) -> Option<u64> {
        self.by_last.values().next().map(|run| run.first)
    }

    /// The earliest end of a lease or of a delay, boot time in microseconds.
    pub(super) fn next_timer_us(&self) -> Option<u64> {
        self.timers.first().map(|&(at_us, _)| at_us)
    }

    /// Whether a record of this order is unsettled.
    pub(super) fn order_is_held(&self, order: u64) -> bool {
        self.orders.contains_key(&order)
    }

    /// Whether the run that ends here, a ready one, waits for an earlier record of its order.
    pub(super) fn is_blocked(&self, last: u64) -> bool {
        !self.claimable.contains(&last)
    }

    /// The runs that end at `from` or later, in order, with their last sequence numbers.
    pub(super) fn iter_from(&self, from: u64) -> impl Iterator<Item = (u64, &Run)> {
        self.by_last.range(from..).map(|(&last, run)| (last, run))
    }

    pub(super) fn len(&self) -> usize {
        self.by_last.len()
    }

    /// The first run at or above `from` that may be claimed, cut to begin at `from`.
    pub(super) fn next_claimable(&self, from: u64) -> Option<(SeqRange, u32)> {
        let &last = self.claimable.range(from..).next()?;
        let run = self.by_last.get(&last)?;
        Some((SeqRange::new(run.first.max(from), last), run.attempts))
    }

    /// Puts records in. They must not overlap any that are there; one with an order stands alone.
    pub(super) fn insert(&mut self, seqs: SeqRange, run: Run) {
        let mut run = Run { first: seqs.first, ..run };
        self.count(run.hold, seqs.count(), true);
        if run.order != 0 {
            debug_assert_eq!(seqs.first, seqs.last, "a record with an order is a run of its own");
            self.orders.entry(run.order).or_default().insert(seqs.last);
            self.by_last.insert(seqs.last, run);
            self.index(seqs.last, &run);
            return;
        }
        if let Some(below) = seqs.first.checked_sub(1)
            && let Some(left) = self.by_last.get(&below).copied()
            && left.joins(&run)
        {
            self.unindex(below, &left);
            self.by_last.remove(&below);
            run.first = left.first;
        }
        let above = (Bound::Excluded(seqs.last), Bound::Unbounded);
        let right = self.by_last.range(above).next().map(|(&last, right)| (last, *right));
        let mut key = seqs.last;
        if let Some((last, right)) = right
            && right.first == seqs.last.wrapping_add(1)
            && right.joins(&run)
        {
            self.unindex(last, &right);
            key = last;
        }
        self.by_last.insert(key, run);
        self.index(key, &run);
    }

    /// Takes out the records of `seqs` whose run passes `filter`, telling `each` about every piece.
    pub(super) fn remove(
        &mut self,
        seqs: SeqRange,
        filter: impl Fn(&Run) -> bool,
        mut each: impl FnMut(SeqRange, Run),
    ) {
        self.walk(
            seqs,
            |_, _, run| filter(run),
            |runs, last, run, piece| {
                runs.cut(last, run, piece);
                each(piece, run);
            },
        );
    }

    /// Changes attempts and hold of the records of `seqs` whose run passes `filter`.
    pub(super) fn change(
        &mut self,
        seqs: SeqRange,
        filter: impl Fn(&Run) -> bool,
        to: impl Fn(&Run) -> (u32, Hold),
        mut each: impl FnMut(SeqRange, Run),
    ) {
        self.walk(
            seqs,
            |_, _, run| filter(run),
            |runs, last, run, piece| {
                runs.rehold(last, run, piece, to(&run));
                each(piece, run);
            },
        );
    }

    /// Claims those of `seqs` that may be claimed; each is one attempt more.
    pub(super) fn claim(
        &mut self,
        seqs: SeqRange,
        claim: u64,
        until_us: u64,
        mut each: impl FnMut(SeqRange, Run),
    ) {
        self.walk(
            seqs,
            |runs, last, _| runs.claimable.contains(&last),
            |runs, last, run, piece| {
                let hold = Hold::Claimed { claim, until_us };
                runs.rehold(last, run, piece, (run.attempts.saturating_add(1), hold));
                each(piece, run);
            },
        );
    }

    /// The pieces of `seqs` whose run passes `filter`, nothing changed.
    pub(super) fn pieces(
        &self,
        seqs: SeqRange,
        filter: impl Fn(&Run) -> bool,
        mut each: impl FnMut(SeqRange, &Run),
    ) {
        for (last, run) in self.iter_from(seqs.first) {
            if run.first > seqs.last {
                break;
            }
            if filter(run) {
                each(SeqRange::new(run.first.max(seqs.first), last.min(seqs.last)), run);
            }
        }
    }

    /// Makes ready every record whose lease or delay ended at `now_us` or before.
    pub(super) fn advance(&mut self, now_us: u64, mut each: impl FnMut(SeqRange, Run)) {
        while let Some(&(at_us, last)) = self.timers.first() {
            if at_us > now_us {
                return;
            }
            let Some(&run) = self.by_last.get(&last) else {
                debug_assert!(false, "a timer without a run");
                self.timers.pop_first();
                continue;
            };
            let seqs = SeqRange::new(run.first, last);
            self.change(seqs, |_| true, |run| (run.attempts, Hold::Ready), &mut each);
        }
    }

    fn walk(
        &mut self,
        seqs: SeqRange,
        filter: impl Fn(&Self, u64, &Run) -> bool,
        mut act: impl FnMut(&mut Self, u64, Run, SeqRange),
    ) {
        let mut at = seqs.first;
        loop {
            let found = self.by_last.range(at..).next().map(|(&last, run)| (last, *run));
            let Some((last, run)) = found else { return };
            if run.first > seqs.last {
                return;
            }
            let piece = SeqRange::new(run.first.max(at), last.min(seqs.last));
            if filter(self, last, &run) {
                act(self, last, run, piece);
            }
            if piece.last >= seqs.last {
                return;
            }
            at = piece.last + 1;
        }
    }

    fn rehold(&mut self, last: u64, run: Run, piece: SeqRange, to: (u32, Hold)) {
        let (attempts, hold) = to;
        let changed = Run { attempts, hold, ..run };
        if run.order == 0 {
            self.cut(last, run, piece);
            self.insert(piece, changed);
            return;
        }
        // In place: taking it out would let the next record of its order go for a moment.
        self.unindex(last, &run);
        self.count(run.hold, 1, false);
        self.count(hold, 1, true);
        self.by_last.insert(last, changed);
        self.index(last, &changed);
    }

    fn cut(&mut self, last: u64, run: Run, piece: SeqRange) {
        self.count(run.hold, piece.count(), false);
        if piece.last < last {
            if self.claimable.contains(&last) {
                self.uncount_claimable(SeqRange::new(run.first, piece.last).count());
            }
            if let Some(right) = self.by_last.get_mut(&last) {
                right.first = piece.last + 1;
            }
        } else {
            self.unindex(last, &run);
            self.by_last.remove(&last);
            self.forget_order(last, &run);
        }
        if piece.first > run.first {
            let key = piece.first - 1;
            self.by_last.insert(key, run);
            self.index(key, &run);
        }
    }

    fn uncount_claimable(&mut self, seqs: u64) {
        self.claimable_seqs = self.claimable_seqs.saturating_sub(seqs);
    }

    fn forget_order(&mut self, seq: u64, run: &Run) {
        if run.order == 0 {
            return;
        }
        let Some(seqs) = self.orders.get_mut(&run.order) else { return };
        seqs.remove(&seq);
        let Some(&next) = seqs.first() else {
            self.orders.remove(&run.order);
            return;
        };
        if let Some(&waiting) = self.by_last.get(&next)
            && waiting.hold == Hold::Ready
            && self.claimable.insert(next)
        {
            self.claimable_seqs += 1;
        }
    }

    fn is_claimable(&self, last: u64, run: &Run) -> bool {
        run.hold == Hold::Ready
            && (run.order == 0
                || self.orders.get(&run.order).is_none_or(|seqs| seqs.first() == Some(&last)))
    }

    fn index(&mut self, last: u64, run: &Run) {
        match run.hold {
            Hold::Ready => {
                if self.is_claimable(last, run) && self.claimable.insert(last) {
                    let seqs = SeqRange::new(run.first, last).count();
                    self.claimable_seqs = self.claimable_seqs.saturating_add(seqs);
                }
            }
            Hold::Parked { due_us: at_us } | Hold::Claimed { until_us: at_us, .. } => {
                self.timers.insert((at_us, last));
            }
        }
    }

    fn unindex(&mut self, last: u64, run: &Run) {
        match run.hold {
            Hold::Ready => {
                if self.claimable.remove(&last) {
                    self.uncount_claimable(SeqRange::new(run.first, last).count());
                }
            }
            Hold::Parked { due_us: at_us } | Hold::Claimed { until_us: at_us, .. } => {
                self.timers.remove(&(at_us, last));
            }
        }
    }

    fn count(&mut self, hold: Hold, seqs: u64, more: bool) {
        let count = match hold {
            Hold::Ready => &mut self.held.ready,
            Hold::Parked { .. } => &mut self.held.parked,
            Hold::Claimed { .. } => &mut self.held.claimed,
        };
        // Saturating, because a record may claim more than 64 bits can count.
        *count = if more { count.saturating_add(seqs) } else { count.saturating_sub(seqs) };
    }
}
