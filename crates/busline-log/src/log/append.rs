//! Writing: one frame under the append lock, visible to all at once.

use std::fmt;
use std::sync::{Arc, MutexGuard, TryLockError};

use crate::control::Signal;
use crate::error::{Error, ErrorKind, Result};
use crate::files::CLEAN;
use crate::frame::Batch;
use crate::log::{Active, Inner, Log, Writer, lock};
use crate::segment::{FRAMES_START, Place, path};
use crate::storage::OpenMode;

const OP: &str = "append to a log";

/// A segment with less room than this is not taken for one that needs no successor.
const READY_BYTES_MAX: u64 = 1 << 20;

/// Where records were appended: `first..next`, one sequence number each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The first record's sequence number.
    pub first: u64,
    /// The sequence number after the last record: what [`Log::commit`] takes.
    pub next: u64,
    /// The time that the records got, in unix microseconds: `now_us`, or that of the newest record before
    /// when the clock went back.
    pub time_us: i64,
}

/// The right to append, apart from every other handle and process. Dropping it gives it back and wakes who
/// waits. When its process dies, the right goes to the next one.
///
/// While it is held, scanners of the same log, [`Log::commit`] and [`Log::sync`] may be used; taking it
/// again in the same thread, or what takes it inside (an appender's flush, [`Log::retain`]), waits for ever.
pub struct AppendGuard<'a> {
    pub(super) inner: &'a Inner,
    pub(super) writer: MutexGuard<'a, Writer>,
    pub(super) changed: bool,
}

impl Log {
    /// Waits for the right to append. From then on nothing changes at the tail but through the guard.
    pub fn lock_append(&self) -> Result<AppendGuard<'_>> {
        self.inner.lock_append(OP)
    }

    /// Takes the right to append if nobody has it at this moment. That its holder died may be noticed by the
    /// second try only.
    pub fn try_lock_append(&self) -> Result<Option<AppendGuard<'_>>> {
        let inner = &*self.inner;
        inner.check_writable(OP)?;
        let mut writer = match inner.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        if !writer.lock.try_lock().map_err(|e| Error::io(OP, &inner.dir, e))? {
            return Ok(None);
        }
        let mut guard = AppendGuard { inner, writer, changed: false };
        guard.prepare(OP)?;
        Ok(Some(guard))
    }

    /// As [`Log::try_lock_append`], where what is appended next goes straight into the segment that is open:
    /// nothing has to be finished, opened or begun before, which would wait for the medium.
    pub(crate) fn try_lock_append_ready(&self) -> Result<Option<AppendGuard<'_>>> {
        let inner = &*self.inner;
        inner.check_writable(OP)?;
        let Ok(mut writer) = inner.writer.try_lock() else { return Ok(None) };
        let control = &inner.control;
        let is_open = |active: &Active| active.generation == control.generation();
        if control.is_changing()
            || control.is_clean()
            || !writer.active.as_ref().is_some_and(is_open)
        {
            return Ok(None);
        }
        if !writer.lock.try_lock().map_err(|e| Error::io(OP, &inner.dir, e))? {
            return Ok(None);
        }
        let guard = AppendGuard { inner, writer, changed: false };
        let tail = control.tail();
        let is_ready = guard.writer.active.as_ref().is_some_and(is_open)
            && !control.is_changing()
            && control.dirty_until() == tail.pos
            && inner.options.segment_age.is_none()
            && tail.pos.saturating_add(READY_BYTES_MAX) <= inner.options.segment_bytes;
        Ok(is_ready.then_some(guard))
    }
}

impl Inner {
    pub(super) fn lock_append(&self, operation: &'static str) -> Result<AppendGuard<'_>> {
        self.check_writable(operation)?;
        let mut writer = lock(&self.writer);
        writer.lock.lock().map_err(|e| Error::io(operation, &self.dir, e))?;
        // From here on the guard gives the lock back on every way out.
        let mut guard = AppendGuard { inner: self, writer, changed: false };
        guard.prepare(operation)?;
        Ok(guard)
    }
}

impl AppendGuard<'_> {
    /// Finishes what a dead holder began, and opens the active segment.
    fn prepare(&mut self, operation: &'static str) -> Result<()> {
        // The handle may have been closed, or the log poisoned, while the lock was waited for.
        self.inner.check_writable(operation)?;
        let control = &self.inner.control;
        if control.is_changing() {
            self.finish_change()?;
        }
        let generation = control.generation();
        if self.writer.active.as_ref().is_none_or(|active| active.generation != generation) {
            self.reopen(generation)?;
        }
        if control.dirty_until() != control.tail().pos {
            self.cut_tail()?;
        }
        Ok(())
    }

    pub(super) fn reopen(&mut self, generation: u64) -> Result<()> {
        let base = self.inner.control.active_base();
        let path = path(&self.inner.dir, base);
        let io = |e| Error::io(OP, &path, e);
        self.writer.active = None;
        let info = match self.inner.table()?.get(base) {
            Some(info) => Arc::clone(info),
            None => return Err(io(std::io::ErrorKind::NotFound.into())),
        };
        let file = self.inner.storage.open(&path, OpenMode::ReadWrite).map_err(io)?;
        self.writer.active = Some(Active { generation, info, file, note_pos: 0, zeros_end: 0 });
        Ok(())
    }

    pub(super) fn active(&self) -> Result<&Active> {
        // Only a change of structure that failed half-way leaves none.
        self.writer.active.as_ref().ok_or_else(|| {
            self.inner.error(ErrorKind::Io, OP, "the active segment is not open; try again")
        })
    }

    /// The sequence number that the next record gets: exact, nobody else can append.
    pub fn next_seq(&self) -> u64 {
        self.inner.control.tail_seq()
    }

    /// The active segment, by its first sequence number.
    pub fn segment_base(&self) -> u64 {
        self.inner.control.active_base()
    }

    /// The active segment's length, in bytes.
    pub fn segment_len(&self) -> u64 {
        self.inner.control.tail().pos
    }

    /// Appends a batch as one frame: all of it is visible when this returns, or nothing when it fails. The
    /// batch is emptied when it succeeded, and kept when it failed. A new segment is begun first when the
    /// active one is full or too old. An empty batch changes nothing.
    ///
    /// `Full` when there is no space: the bytes that were written are cut, and the call may be repeated.
    pub fn append(&mut self, batch: &mut Batch, now_us: i64) -> Result<Appended> {
        if batch.is_empty() {
            let tail = self.inner.control.tail();
            return Ok(Appended { first: tail.seq, next: tail.seq, time_us: tail.last_time_us });
        }
        let len = batch.seal();
        if self.inner.control.is_clean() {
            self.unmark()?;
        }
        if self.is_due(len, now_us) {
            self.roll(now_us)?;
        }
        let appended = self.write(batch, len, now_us)?;
        batch.clear();
        self.changed = true;
        Ok(appended)
    }

    /// Whether the active segment must be sealed before a frame of this length.
    fn is_due(&self, len: u64, now_us: i64) -> bool {
        let tail = self.inner.control.tail();
        let options = &self.inner.options;
        if tail.pos <= FRAMES_START {
            return false;
        }
        let too_old = |active: &Active| {
            let age = now_us.saturating_sub(active.info.header.created_us);
            options
                .segment_age
                .is_some_and(|max| u128::from(age.max(0).unsigned_abs()) > max.as_micros())
        };
        tail.pos + len > options.segment_bytes || self.active().is_ok_and(too_old)
    }

    fn write(&mut self, batch: &mut Batch, len: u64, now_us: i64) -> Result<Appended> {
        let inner = self.inner;
        let control = &inner.control;
        let tail = control.tail();
        let time_us = now_us.max(tail.last_time_us);
        let Some(next) = tail.seq.checked_add(u64::from(batch.count())) else {
            return Err(inner.error(ErrorKind::Limit, OP, "the sequence numbers are used up"));
        };
        let active = self.active()?;
        // Durable can be raised past what this handle saw, never past the tail.
        let synced = control.durable().min(tail.seq);
        let last_time_us = time_us.saturating_add_unsigned(batch.delta_us_max());
        let bytes = batch.encode(tail.seq, synced, time_us, active.info.header.salt);
        let end = tail.pos + len;
        control.begin_append(end);
        let stored = match end <= control.reserved() {
            true => active.file.write_reserved(bytes, tail.pos),
            false => Ok(false),
        };
        let written = match stored {
            Ok(false) => active.file.write_all_at(bytes, tail.pos).map(|()| false),
            other => other,
        };
        let is_stored = match written {
            Ok(is_stored) => is_stored,
            Err(e) => {
                let error = Error::io(OP, &active.info.path, e);
                // What was written is below nobody's tail. If it cannot be cut now, the next holder does it.
                let _ = self.cut_tail();
                return Err(error);
            }
        };
        control.end_append(next, end, last_time_us);
        self.note(Place { seq: tail.seq, pos: tail.pos, time_us });
        if !is_stored {
            self.make_room(len, end);
        }
        Ok(Appended { first: tail.seq, next, time_us })
    }

    /// Lets the index of the active segment learn a frame, now and then.
    fn note(&mut self, place: Place) {
        if let Some(active) = &mut self.writer.active
            && place.pos >= active.note_pos
        {
            active.note_pos = active.info.index().note(place);
            self.inner.touch_index(&active.info);
        }
    }

    /// Removes the clean mark durably: from now on there may be more than it says.
    fn unmark(&mut self) -> Result<()> {
        let inner = self.inner;
        let path = inner.dir.join(CLEAN);
        match inner.storage.remove(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(OP, &path, e)),
        }
        inner.storage.sync_dir(&inner.dir).map_err(|e| Error::io(OP, &inner.dir, e))?;
        inner.control.set_clean(false);
        Ok(())
    }

    /// Makes all records durable, as [`Log::sync`].
    pub fn sync(&mut self) -> Result<u64> {
        if self.inner.control.is_changing() {
            // A change failed half-way under this guard; syncing would wait for the guard to end.
            self.finish_change()?;
        }
        self.inner.sync(self.next_seq(), "sync a log")
    }
}

impl Drop for AppendGuard<'_> {
    fn drop(&mut self) {
        self.writer.lock.unlock();
        if self.changed {
            self.inner.notify(Signal::Tail, false);
        }
    }
}

impl fmt::Debug for AppendGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendGuard").field("next_seq", &self.next_seq()).finish_non_exhaustive()
    }
}

/// A writer of its own batch. Records are pushed without a lock, and become visible together by `flush`.
#[derive(Debug)]
pub struct Appender {
    log: Log,
    batch: Batch,
}

impl Appender {
    pub(super) fn new(log: &Log) -> Self {
        Self { log: log.clone(), batch: Batch::new(log.inner.options.record_bytes_max) }
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What was pushed and not flushed.
    pub fn pending(&self) -> &Batch {
        &self.batch
    }

    /// Adds a record to the batch. `Limit` when it is too long, or the batch is full and must be flushed.
    pub fn push(&mut self, key: &[u8], meta: &[u8], value: &[u8]) -> Result<()> {
        self.batch.push(key, meta, value)
    }

    /// Appends what was pushed as one frame; `None` when there was nothing. After an error the batch is
    /// kept, nothing of it is visible, and `flush` may be repeated ([`Error::is_temporary`]).
    pub fn flush(&mut self, now_us: i64) -> Result<Option<Appended>> {
        if self.batch.is_empty() {
            return Ok(None);
        }
        // The checksum over the body is the long part, and needs no lock.
        self.batch.seal();
        let mut guard = self.log.inner.lock_append(OP)?;
        guard.append(&mut self.batch, now_us).map(Some)
    }

    /// Pushes one record and flushes. After an error nothing of this record is visible and it is not kept;
    /// what had been pushed before it is kept, unless flushing failed.
    pub fn append(
        &mut self,
        now_us: i64,
        key: &[u8],
        meta: &[u8],
        value: &[u8],
    ) -> Result<Appended> {
        self.flush(now_us)?;
        self.push(key, meta, value)?;
        let appended = self.flush(now_us);
        if appended.is_err() {
            self.batch.clear();
        }
        let none = || self.log.inner.error(ErrorKind::Io, OP, "nothing was appended");
        appended?.ok_or_else(none)
    }

    /// Forgets what was pushed and not flushed.
    pub fn discard(&mut self) {
        self.batch.clear();
    }
}
