//! A group's own log: reading what happened, and adding to it one transaction at a time.
//!
//! Under the append guard a transaction first catches up, then decides on the newest state, then
//! appends one frame. A process that dies in between leaves the frames before it, whole. The state
//! in memory runs ahead of the log only inside a transaction; when one does not end well, the
//! state is thrown away and read again.

use crate::{AppendGuard, Batch, Error, ErrorKind, Log, Result, Scanner};

use super::GroupOptions;
use super::op::{Lifetime, Op, Stamp};
use super::reserve;
use super::state::{GroupState, Life, Misfit};
use super::time::Now;
use super::wire::{Input, Malformed, put_u64};

/// The keys of a group's records: what kind they are.
const TRANSACTION: &[u8] = &[1];
const SNAPSHOT: &[u8] = &[2];

/// A snapshot is cut into records of this size, one frame holding them all.
const SNAPSHOT_PART_BYTES: usize = 1 << 20;
/// A transaction is cut into records of about this size, one frame holding them all.
const TRANSACTION_PART_BYTES: usize = 1 << 20;
/// The largest record of a group's log.
pub(super) const RECORD_BYTES_MAX: usize = 16 << 20;
/// What a record costs on disk beside its bytes, roughly: decides when to compact, nothing else.
const RECORD_BYTES_EXTRA: u64 = 56;
/// How often reading begins anew when the log is compacted under the reader's feet.
const RESTARTS_MAX: usize = 64;

/// The state of a group as one handle knows it.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) state: GroupState,
    scanner: Scanner,
    /// Every transaction below it is in `state`.
    pub(super) applied: u64,
    /// The state may have run ahead of the log: it is to be read again.
    stale: bool,
    /// The state is being read from the start.
    loading: bool,
    /// No snapshot was read yet, and what comes before the first one is not the whole story.
    searching: bool,
    /// The reserve was spent.
    tight: bool,
    /// Parts of a snapshot read so far.
    parts: Vec<u8>,
    snapshot_bytes: u64,
    bytes_since_snapshot: u64,
    batch: Batch,
    out: Vec<u8>,
}

impl Core {
    pub(super) fn new(journal: &Log) -> Self {
        Self {
            state: GroupState::default(),
            scanner: journal.scanner(),
            applied: 0,
            stale: true,
            loading: true,
            searching: false,
            tight: false,
            parts: Vec::new(),
            snapshot_bytes: 0,
            bytes_since_snapshot: 0,
            batch: Batch::new(RECORD_BYTES_MAX),
            out: Vec::new(),
        }
    }

    /// Takes in what others did since. Needs no lock.
    pub(super) fn refresh(&mut self, journal: &Log) -> Result<()> {
        if self.stale {
            self.restart(journal)?;
        }
        for _ in 0..RESTARTS_MAX {
            if journal.next_seq() == self.applied && !self.searching {
                return Ok(());
            }
            match self.replay() {
                Ok(()) => {
                    if std::mem::take(&mut self.loading) {
                        // Its buffer is only worth keeping by those who follow what others do.
                        self.scanner = journal.scanner();
                    }
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Removed { .. }) => {
                    self.restart(journal)?;
                }
                Err(error) => {
                    self.stale = true;
                    return Err(error);
                }
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            "read group",
            "the group's log is compacted faster than it can be read; try again",
        ))
    }

    /// Whether it knows all that others did, without looking at the medium.
    pub(super) fn is_current(&self, journal: &Log) -> bool {
        !self.stale && !self.searching && journal.next_seq() == self.applied
    }

    fn restart(&mut self, journal: &Log) -> Result<()> {
        self.stale = true;
        self.state = GroupState::default();
        self.parts.clear();
        self.snapshot_bytes = 0;
        self.bytes_since_snapshot = 0;
        self.applied = self.scanner.seek_first()?;
        // Whoever removed the beginning had written a snapshot before. It may not stand first: one who
        // compacted may have died before he wrote his, and the next one in the middle of removing.
        // Only what was removed counts: after a loss of power an empty beginning is followed by a gap.
        self.searching = journal.first_seq() > 0;
        self.stale = false;
        self.loading = true;
        Ok(())
    }

    fn replay(&mut self) -> Result<()> {
        if self.scanner.position() != self.applied {
            self.scanner.seek(self.applied)?;
        }
        while let Some(record) = self.scanner.next()? {
            let seq = record.seq;
            let bytes = record.value.len() as u64 + RECORD_BYTES_EXTRA;
            let applied = match record.key {
                TRANSACTION if self.searching => Ok(()),
                TRANSACTION => {
                    self.bytes_since_snapshot += bytes;
                    apply(&mut self.state, record.value)
                }
                SNAPSHOT => {
                    let part = Part::read(record.meta, &mut self.parts, record.value);
                    part.and_then(|part| match part {
                        Part::Inner => Ok(()),
                        Part::Last => {
                            self.snapshot_bytes = self.parts.len() as u64;
                            self.bytes_since_snapshot = 0;
                            self.state = GroupState::decode_snapshot(&self.parts)?;
                            self.parts = Vec::new();
                            self.searching = false;
                            Ok(())
                        }
                    })
                }
                _ => {
                    Err(Unreadable::from(Malformed::newer("a record of a kind that is not known")))
                }
            };
            applied.map_err(|cause| damaged(seq, cause))?;
            self.applied = seq + 1;
        }
        self.applied = self.scanner.position().max(self.applied);
        if self.searching {
            return Err(damaged(
                self.applied,
                Malformed::new("the snapshot before it is missing").into(),
            ));
        }
        Ok(())
    }
}

/// Applies the bytes of one transaction.
fn apply(state: &mut GroupState, bytes: &[u8]) -> std::result::Result<(), Unreadable> {
    let mut input = Input::new(bytes);
    let stamp = Stamp::decode(&mut input)?;
    while !input.is_empty() {
        state.apply(stamp, &Op::decode(&mut input)?)?;
    }
    state.stamped(stamp);
    Ok(())
}

/// A record of a group's log that its frame's checksum lets pass and that still is none.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Misfit(#[from] Misfit),
}

fn damaged(seq: u64, cause: Unreadable) -> Error {
    if let Unreadable::Malformed(Malformed { is_newer: true, .. }) = cause {
        return Error::new(
            ErrorKind::Newer,
            "read group",
            format!("record {seq} of the group's log was written by a newer version; use that one"),
        )
        .caused_by(cause);
    }
    Error::new(
        ErrorKind::Damaged,
        "read group",
        format!(
            "record {seq} of the group's log does not fit what comes before it ({cause}); \
             delete the group and declare it anew, or restore it"
        ),
    )
    .caused_by(cause)
}

enum Part {
    Inner,
    Last,
}

impl Part {
    fn head(index: usize, count: usize) -> Vec<u8> {
        let mut head = Vec::new();
        put_u64(&mut head, index as u64);
        put_u64(&mut head, count as u64);
        head
    }

    fn read(
        head: &[u8],
        parts: &mut Vec<u8>,
        bytes: &[u8],
    ) -> std::result::Result<Self, Unreadable> {
        let mut input = Input::new(head);
        let (index, count) = (input.u64()?, input.u64()?);
        input.end()?;
        if index == 0 {
            parts.clear();
        }
        // Every part but the last is full: a missing or a doubled one shows in the length.
        if index >= count || parts.len() as u64 != index * SNAPSHOT_PART_BYTES as u64 {
            return Err(Malformed::new("the parts of a snapshot do not follow each other").into());
        }
        parts.extend_from_slice(bytes);
        Ok(if index + 1 == count { Self::Last } else { Self::Inner })
    }
}

/// What waiting members would want to know about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watch {
    claimable: u64,
    timer_us: u64,
    config_epoch: u64,
    resets: u64,
    life: Life,
    full: bool,
}

impl Watch {
    fn of(state: &GroupState, options: &GroupOptions) -> Self {
        Self {
            claimable: state.runs.claimable_seqs(),
            timer_us: state.runs.next_timer_us().unwrap_or(u64::MAX),
            config_epoch: state.config_epoch,
            resets: state.resets,
            life: state.life,
            full: options.is_full(state),
        }
    }
}

/// Operations that are decided and recorded together.
pub(super) struct Txn<'a> {
    core: &'a mut Core,
    journal: &'a Log,
    guard: AppendGuard<'a>,
    options: &'a GroupOptions,
    stamp: Stamp,
    wall_us: i64,
    before: Watch,
    /// The earliest delay that this transaction sets.
    parked_us: u64,
    dirty: bool,
    /// Whoever commits next compacts.
    compacts: bool,
}

impl<'a> Txn<'a> {
    /// Catches up under the guard. The first thing after a restart of the machine is to say so.
    pub(super) fn begin(
        core: &'a mut Core,
        journal: &'a Log,
        guard: AppendGuard<'a>,
        options: &'a GroupOptions,
        now: Now,
    ) -> Result<Self> {
        core.refresh(journal)?;
        core.batch.clear();
        core.out.clear();
        let state = &core.state;
        let same_boot = state.boot_id == now.boot_id;
        // A process whose clock lags behind the others' must not turn the group's time back.
        let boot_us = if same_boot { now.boot_us.max(state.clock.boot_us) } else { now.boot_us };
        let stamp = Stamp { boot_us, wall_us: now.wall_us };
        let before = Watch::of(state, options);
        let wall_us = now.wall_us;
        let mut txn = Self {
            core,
            journal,
            guard,
            options,
            stamp,
            wall_us,
            before,
            parked_us: u64::MAX,
            dirty: false,
            compacts: true,
        };
        if !same_boot {
            txn.push(&Op::Boot { boot_id: now.boot_id })?;
        }
        Ok(txn)
    }

    pub(super) fn state(&self) -> &GroupState {
        &self.core.state
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The boot time `delay_us` from now.
    pub(super) fn after(&self, delay_us: u64) -> u64 {
        self.stamp.boot_us.saturating_add(delay_us)
    }

    /// Leaves it to the next transaction to replace what grew long by a snapshot: that waits for the medium.
    pub(super) fn leave_compacting(&mut self) {
        self.compacts = false;
    }

    /// Applies an operation and adds it to the transaction.
    pub(super) fn push(&mut self, op: &Op) -> Result<()> {
        self.dirty = true;
        self.core.state.apply(self.stamp, op).map_err(|misfit| {
            Error::new(ErrorKind::Conflict, "change group", misfit.to_string()).caused_by(misfit)
        })?;
        op.encode(self.open_record());
        self.spill_when_long()
    }

    /// Lets `change` alter the state directly; `record` must then add the operation that says so.
    pub(super) fn alter<R>(&mut self, change: impl FnOnce(&mut GroupState) -> R) -> R {
        self.dirty = true;
        change(&mut self.core.state)
    }

    /// Adds an operation whose effect is in the state already.
    pub(super) fn record(&mut self, op: &Op) -> Result<()> {
        op.encode(self.open_record());
        self.spill_when_long()
    }

    /// Remembers that somebody waiting may have to wake by this time.
    pub(super) fn parked_until(&mut self, due_us: u64) {
        self.parked_us = self.parked_us.min(due_us);
    }

    /// Appends the transaction, if there is anything in it. True: waiting members want to know.
    pub(super) fn commit(mut self) -> Result<bool> {
        if !self.dirty {
            return Ok(false);
        }
        self.spill()?;
        if self.core.batch.is_empty() {
            // What was to be altered was not there: nothing changed.
            self.dirty = false;
            return Ok(false);
        }
        let bytes = self.core.batch.body_len() as u64 + RECORD_BYTES_EXTRA;
        let appended = match self.guard.append(&mut self.core.batch, self.wall_us) {
            Err(error) if error.kind() == ErrorKind::Full && reserve::spend(self.journal) => {
                self.core.tight = true;
                self.guard.append(&mut self.core.batch, self.wall_us)?
            }
            other => other?,
        };
        self.dirty = false;
        self.core.applied = appended.next;
        self.core.bytes_since_snapshot += bytes;
        self.core.state.stamped(self.stamp);
        let after = Watch::of(&self.core.state, self.options);
        let before = self.before;
        let ring = after.claimable > before.claimable
            || self.parked_us < before.timer_us
            || (before.full && !after.full)
            || after.config_epoch != before.config_epoch
            || after.resets != before.resets
            || after.life != before.life;
        if self.compacts {
            self.compact();
        }
        Ok(ring)
    }

    fn open_record(&mut self) -> &mut Vec<u8> {
        if self.core.out.is_empty() {
            self.stamp.encode(&mut self.core.out);
        }
        &mut self.core.out
    }

    fn spill_when_long(&mut self) -> Result<()> {
        if self.core.out.len() < TRANSACTION_PART_BYTES { Ok(()) } else { self.spill() }
    }

    fn spill(&mut self) -> Result<()> {
        if !self.core.out.is_empty() {
            self.core.batch.push(TRANSACTION, &[], &self.core.out)?;
            self.core.out.clear();
        }
        Ok(())
    }

    /// Puts a snapshot at the head of a new segment and removes what it makes superfluous.
    ///
    /// The transaction before it stands, whatever happens here: a failure only means that the log
    /// stays longer, and a poisoned one tells the next who writes.
    fn compact(&mut self) {
        let core = &mut *self.core;
        let longest = core.snapshot_bytes.saturating_mul(2).max(match core.tight {
            false => self.options.snapshot_bytes,
            true => self.options.snapshot_bytes.min(reserve::SNAPSHOT_BYTES),
        });
        if core.state.life != Life::Live || core.bytes_since_snapshot < longest {
            return;
        }
        core.bytes_since_snapshot = 0;
        if self.write_snapshot().is_err() {
            self.core.batch.clear();
        } else if self.core.state.lifetime != Some(Lifetime::Ephemeral) {
            self.core.tight = !reserve::fill(self.journal);
        }
    }

    fn write_snapshot(&mut self) -> Result<()> {
        let core = &mut *self.core;
        core.out.clear();
        core.state.encode_snapshot(&mut core.out);
        let count = core.out.len().div_ceil(SNAPSHOT_PART_BYTES);
        for (index, part) in core.out.chunks(SNAPSHOT_PART_BYTES).enumerate() {
            core.batch.push(SNAPSHOT, &Part::head(index, count), part)?;
        }
        let snapshot_bytes = core.out.len() as u64;
        core.out = Vec::new();
        self.guard.roll(self.wall_us)?;
        let appended = self.guard.append(&mut core.batch, self.wall_us)?;
        core.batch = Batch::new(RECORD_BYTES_MAX);
        core.applied = appended.next;
        core.snapshot_bytes = snapshot_bytes;
        // On the medium first: without it a loss of power could take the old and the new.
        self.guard.sync()?;
        self.guard.remove_before(appended.first)?;
        Ok(())
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        if self.dirty {
            self.core.stale = true;
        }
        self.core.batch.clear();
        self.core.out.clear();
    }
}
