//! Sealing the active segment and beginning a new one, and finishing what a dead holder left half-way.

use std::sync::Arc;

use crate::control::{Poison, Tail};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::log::append::AppendGuard;
use crate::log::lock;
use crate::log::open::fresh_salt;
use crate::log::recovery::{Walk, walk, walk_start};
use crate::segment::{
    self, FRAMES_START, FrameReader, ReadError, SegmentHeader, SegmentInfo, Table,
};
use crate::storage::OpenMode;

const OP: &str = "begin a segment";

/// How many sealed segments may wait for a sync.
const UNSYNCED_SEGMENTS_MAX: usize = 4;

impl AppendGuard<'_> {
    /// Seals the active segment and begins a new one; returns the new one's first sequence number. An empty
    /// active segment is kept. When this fails nothing has changed. What was not durable before is not
    /// made so, unless too many segments wait for it.
    pub fn roll(&mut self, now_us: i64) -> Result<u64> {
        let inner = self.inner;
        let control = &inner.control;
        let tail = control.tail();
        if tail.pos <= FRAMES_START {
            return Ok(tail.active_base);
        }
        self.sync_backlog()?;
        self.cut_file(&Arc::clone(&self.active()?.info), tail.pos)?;
        let header = SegmentHeader {
            salt: fresh_salt(),
            log_id: inner.format.id,
            base_seq: tail.seq,
            prev_end: tail.seq,
            created_us: now_us,
            prev_time_us: tail.last_time_us,
            synced_seq: control.durable().min(tail.seq),
        };
        control.begin_change();
        let path = segment::path(&inner.dir, tail.seq);
        match segment::create(inner.storage.as_ref(), &inner.dir, &header) {
            Ok(_) => {
                control.set_tail(Tail { active_base: tail.seq, pos: FRAMES_START, ..tail });
                control.end_change();
                self.changed = true;
                self.reopen(control.generation())?;
                Ok(tail.seq)
            }
            Err((e, appeared)) => {
                if appeared {
                    // Records in a file whose name may vanish with the power are not durable by any sync.
                    inner.poison(OP, &path, &e);
                    self.finish_change()?;
                } else {
                    control.end_change();
                    // The generation moved on although nothing else did.
                    if let Some(active) = &mut self.writer.active {
                        active.generation = control.generation();
                    }
                }
                Err(Error::io(OP, &path, e))
            }
        }
    }

    /// Syncs when many sealed segments are not durable yet: recovery reads them all.
    fn sync_backlog(&mut self) -> Result<()> {
        let from = self.inner.control.sync_base();
        let table = self.inner.table()?;
        let waiting = table.segments.iter().filter(|info| info.base() >= from).count();
        if waiting > UNSYNCED_SEGMENTS_MAX { self.sync().map(drop) } else { Ok(()) }
    }

    /// Finds out from the directory what a dead holder had reached in a change of structure.
    pub(super) fn finish_change(&mut self) -> Result<()> {
        let inner = self.inner;
        let control = &inner.control;
        self.writer.active = None;
        let storage = inner.storage.as_ref();
        // What a removal announced and did not finish is there again.
        let table = Table::load(storage, &inner.dir, inner.format.id, &Table::default(), 0)?;
        let Some(last) = table.segments.last() else {
            return Err(inner.error(ErrorKind::Damaged, OP, "the log has no segments"));
        };
        // The holder may have died between renaming the new segment into place and syncing its name.
        storage.sync_dir(&inner.dir).map_err(|e| Error::io(OP, &inner.dir, e))?;
        control.begin_change();
        let tail = control.tail();
        if last.base() >= tail.seq {
            let seq = last.base();
            control.set_tail(Tail { active_base: seq, seq, pos: FRAMES_START, ..tail });
        } else {
            let end = self.walk_to_tail(last, walk_start(last), tail.seq)?;
            let last_time_us = end.last_time_us.max(tail.last_time_us);
            let (active_base, pos) = (last.base(), end.pos);
            control.set_tail(Tail { active_base, pos, last_time_us, ..tail });
            self.cut_file(last, end.pos)?;
        }
        if let Some(found) = table.segments.first() {
            control.set_first_seq(found.base());
        }
        lock(&inner.table).generation = None;
        control.end_change();
        self.changed = true;
        Ok(())
    }

    /// Finds the tail's position behind a holder that died while it appended, and cuts what is not visible.
    pub(super) fn cut_tail(&mut self) -> Result<()> {
        let control = &self.inner.control;
        let tail = control.tail();
        let info = Arc::clone(&self.active()?.info);
        let mut reader = FrameReader::new();
        reader.open(Arc::clone(&self.active()?.file), info.header.salt);
        let at = match reader.header(tail.pos) {
            Ok(header) if header.base_seq < tail.seq => {
                let from = Walk {
                    seq: header.base_seq,
                    pos: tail.pos,
                    last_time_us: tail.last_time_us,
                    fault: None,
                };
                self.walk_to_tail(&info, from, tail.seq)?
            }
            Err(ReadError::Io(e)) => return Err(Error::io(OP, &info.path, e)),
            _ => {
                Walk { seq: tail.seq, pos: tail.pos, last_time_us: tail.last_time_us, fault: None }
            }
        };
        if self.cut_file(&info, at.pos)? {
            // What was cut may be on the medium, as a whole, and another frame gets its place and its
            // numbers: a loss of power must not bring back the wrong one of the two.
            let active = self.active()?;
            if let Err(e) = active.file.sync_all() {
                self.inner.poison(OP, &info.path, &e);
                return Err(self.inner.poisoned_now(OP, &info.path, e));
            }
        }
        control.end_append(tail.seq, at.pos, at.last_time_us);
        control.cancel_append();
        Ok(())
    }

    /// Cuts what lies behind a position; whether there was something.
    fn cut_file(&mut self, info: &SegmentInfo, pos: u64) -> Result<bool> {
        let io = |e| Error::io(OP, &info.path, e);
        let file = self.inner.storage.open(&info.path, OpenMode::ReadWrite).map_err(io)?;
        let longer = file.len().map_err(io)? > pos;
        if longer {
            self.inner.control.set_reserved(0);
            file.truncate(pos).map_err(io)?;
        }
        if let Some(active) = &mut self.writer.active {
            active.zeros_end = 0;
        }
        Ok(longer)
    }

    /// Walks the frames that are visible; anything else than all of them is damage.
    fn walk_to_tail(&self, info: &SegmentInfo, from: Walk, tail_seq: u64) -> Result<Walk> {
        let inner = self.inner;
        let io = |e| Error::io(OP, &info.path, e);
        let mut reader = FrameReader::new();
        let file = inner.storage.open(&info.path, OpenMode::Read).map_err(io)?;
        reader.open(file, info.header.salt);
        let end = walk(&mut reader, from, tail_seq).map_err(io)?;
        let Some(fault) = end.fault else {
            return Ok(end);
        };
        inner.control.set_poison(Poison::Damaged);
        let damage = Damage {
            path: info.path.clone(),
            segment_base: info.base(),
            offset_start: end.pos,
            offset_end: reader.file_len().map_err(io)?,
            seq_start: end.seq,
            seq_end: None,
            cause: fault.to_string(),
        };
        Err(Error::damaged(OP, damage))
    }
}
