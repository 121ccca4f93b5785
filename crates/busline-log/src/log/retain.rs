//! Retention: whole sealed segments are removed from the front.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::append::AppendGuard;
use crate::log::{Log, lock};
use crate::options::Access;
use crate::segment::{SegmentInfo, Table};
use crate::storage::OpenMode;

const OP: &str = "remove old segments";

/// What may be removed. Each bound removes by itself; nothing at or above `keep_from` is removed by any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetainPolicy {
    /// Segments whose newest record is older than this.
    pub max_age: Option<Duration>,
    /// The oldest segments, until all of them together are at most this many bytes.
    pub max_bytes: Option<u64>,
    /// The first record that somebody still needs.
    pub keep_from: Option<u64>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// How many segments.
    pub segments: u64,
    /// How many records.
    pub records: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The first record that is still there.
    pub first_seq: u64,
}

impl Log {
    /// Removes what a policy allows: whole segments from the front, never the active one. An active
    /// segment whose newest record is too old is sealed first.
    pub fn retain(&self, policy: &RetainPolicy, now_us: i64) -> Result<Removed> {
        let mut guard = self.inner.lock_append(OP)?;
        if let Some(max_age) = policy.max_age
            && is_older(self.last_time_us(), now_us, max_age)
        {
            guard.roll(now_us)?;
        }
        let keep_from = policy.keep_from.unwrap_or(u64::MAX);
        let table = self.inner.table()?;
        let sizes = sizes(self, &table)?;
        let mut total: u64 = sizes.iter().sum();
        let mut remove_below = self.first_seq();
        for (pair, size) in table.segments.windows(2).zip(&sizes) {
            let [_, next] = pair else { break };
            let end = next.header.prev_end;
            let old =
                policy.max_age.is_some_and(|max| is_older(next.header.prev_time_us, now_us, max));
            let much = policy.max_bytes.is_some_and(|max| total > max);
            if end > keep_from || !(old || much) {
                break;
            }
            total -= size;
            remove_below = next.base();
        }
        guard.remove_before(remove_below)
    }

    /// Removes the sealed segments all of whose records are below a sequence number.
    pub fn remove_before(&self, seq: u64) -> Result<Removed> {
        self.inner.lock_append(OP)?.remove_before(seq)
    }
}

fn is_older(time_us: i64, now_us: i64, max_age: Duration) -> bool {
    let age = now_us.saturating_sub(time_us).max(0).unsigned_abs();
    u128::from(age) > max_age.as_micros()
}

fn sizes(log: &Log, table: &Table) -> Result<Vec<u64>> {
    table.segments.iter().map(|info| size(log, info)).collect()
}

/// The bytes of a segment's records; of the active one without the zeros ahead of the tail.
pub(super) fn size(log: &Log, info: &SegmentInfo) -> Result<u64> {
    let tail = log.inner.control.tail();
    if tail.active_base == info.base() && log.inner.options.access == Access::ReadWrite {
        return Ok(tail.pos);
    }
    match log.inner.storage.open(&info.path, OpenMode::Read).and_then(|file| file.len()) {
        Ok(len) => Ok(len),
        // Removed by another process since the table was read.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(Error::io(OP, &info.path, e)),
    }
}

impl AppendGuard<'_> {
    /// Removes the sealed segments all of whose records are below a sequence number.
    pub fn remove_before(&mut self, seq: u64) -> Result<Removed> {
        let inner = self.inner;
        let control = &inner.control;
        let table = inner.table()?;
        let victims: Vec<&Arc<SegmentInfo>> = table
            .segments
            .iter()
            .take_while(|info| table.end_of(info.base()).is_some_and(|end| end <= seq))
            .collect();
        let mut removed = Removed { first_seq: control.first_seq(), ..Removed::default() };
        let Some(last) = victims.last() else {
            return Ok(removed);
        };
        let first = table.after(last.base()).map_or(removed.first_seq, |info| info.base());
        control.begin_change();
        // Readers learn it first: what they find missing from now on was removed, not lost.
        control.set_first_seq(first);
        let outcome = victims.iter().try_for_each(|info| {
            let io = |e| Error::io(OP, &info.path, e);
            let file = inner.storage.open(&info.path, OpenMode::Read).map_err(io)?;
            let bytes = file.len().map_err(io)?;
            inner.storage.remove(&info.path).map_err(io)?;
            // One after the other also on the medium: a crash must not leave a hole.
            inner.storage.sync_dir(&inner.dir).map_err(io)?;
            let end = table.end_of(info.base()).unwrap_or(info.base());
            removed.segments += 1;
            removed.records += end.saturating_sub(info.base());
            removed.bytes += bytes;
            Ok(())
        });
        if outcome.is_err() {
            // What could not be removed is there again.
            let done = usize::try_from(removed.segments).unwrap_or(usize::MAX);
            control.set_first_seq(victims.get(done).map_or(first, |info| info.base()));
        }
        lock(&inner.table).generation = None;
        control.end_change();
        if let Some(active) = &mut self.writer.active {
            active.generation = control.generation();
        }
        removed.first_seq = control.first_seq();
        outcome.map(|()| removed)
    }
}
