//! Reading: a scanner lends one record after the other out of one reused buffer.

mod damage;
mod seek;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Fault, FrameHeader, take_record};
use crate::keys::KeySet;
use crate::log::{Inner, Log};
use crate::segment::{FRAMES_START, FrameReader, ReadError, SegmentInfo, Table};
use crate::storage::OpenMode;

const OP: &str = "read a log";

/// A record, lent until the scanner moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its sequence number.
    pub seq: u64,
    /// Its time, in unix microseconds; never earlier than that of the record before.
    pub time_us: i64,
    /// Its key.
    pub key: &'a [u8],
    /// What its writer wrote beside the value.
    pub meta: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// A position in a log. Reads what is visible, in order, and never waits; several may read at once.
///
/// Checksums are verified once a frame. Damage is an error ([`ErrorKind::Damaged`]) that comes again
/// until [`Scanner::skip_damage`] or a seek goes elsewhere. A frame is read into memory as a whole.
pub struct Scanner {
    log: Log,
    reader: FrameReader,
    /// The segment that is open.
    current: Option<Current>,
    /// The frame that was read last.
    frame: Option<Frame>,
    /// The next frame: where it stands, and with which record it begins.
    pos: u64,
    pos_seq: u64,
    /// The next record.
    seq: u64,
    /// The tail as of before anything in the reader's buffer was read: what lies below is whole.
    tail: u64,
    /// Where reading can go on behind damage that was reported: a position and its record.
    damage: Option<Option<(u64, u64)>>,
}

#[derive(Debug)]
struct Current {
    info: Arc<SegmentInfo>,
    /// Where its records end, once it is sealed.
    end: Option<u64>,
    generation: u64,
    /// Below this position the index wants no entry.
    note_pos: u64,
}

#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    end_seq: u64,
    /// The body in the reader's buffer, and what of it was not gone over.
    body: Range<usize>,
    rest: Range<usize>,
}

/// A record's place in the reader's buffer.
#[derive(Debug, Clone, Copy)]
struct Span {
    seq: u64,
    time_us: i64,
    key: usize,
    meta: usize,
    value: usize,
    end: usize,
}

impl Scanner {
    pub(crate) fn new(log: &Log) -> Self {
        let seq = log.first_seq();
        Self {
            log: log.clone(),
            reader: FrameReader::new(),
            current: None,
            frame: None,
            pos: 0,
            pos_seq: 0,
            seq,
            tail: 0,
            damage: None,
        }
    }

    fn inner(&self) -> &Inner {
        &self.log.inner
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The sequence number of the next record to be examined.
    pub fn position(&self) -> u64 {
        self.seq
    }

    /// The next record; `None` at the tail.
    #[allow(clippy::should_implement_trait)] // it lends
    #[inline]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        let span = self.step(u64::MAX)?;
        Ok(span.map(|span| self.lend(span)))
    }

    /// The next record below `end` with one of these keys; the others are passed over. `None` when
    /// [`Scanner::position`] reached `end` or the tail.
    ///
    /// It finds what [`Scanner::next_where`] finds, and leaves frames unread of which their filter says that none
    /// of the keys is there. What is left unread is not checked; [`crate::verify`] is for that.
    pub fn next_of(&mut self, keys: &KeySet, end: u64) -> Result<Option<Record<'_>>> {
        loop {
            while let Some(span) = self.step_in_frame(end) {
                if keys.contains(self.lend(span).key) {
                    return Ok(Some(self.lend(span)));
                }
            }
            self.pass_without(keys, end)?;
            if !self.turn(end)? {
                return Ok(None);
            }
        }
    }

    /// The next record below `end` whose key and meta satisfy the predicate; the others are passed over.
    /// `None` when [`Scanner::position`] reached `end` or the tail.
    pub fn next_where(
        &mut self,
        end: u64,
        mut predicate: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Option<Record<'_>>> {
        while let Some(span) = self.step(end)? {
            let record = self.lend(span);
            if predicate(record.key, record.meta) {
                return Ok(Some(self.lend(span)));
            }
        }
        Ok(None)
    }

    /// The record with exactly this sequence number, wherever the scanner stands; `None` when it never
    /// existed (a gap). Cheap when asked in ascending order. The position is then behind it.
    pub fn read(&mut self, seq: u64) -> Result<Option<Record<'_>>> {
        let next = self.seek(seq)?;
        if next != seq {
            return Ok(None);
        }
        let span = self.step(seq.saturating_add(1))?;
        let span = span.filter(|span| span.seq == seq);
        Ok(span.map(|span| self.lend(span)))
    }

    /// Up to which sequence number records can be read without waiting for the medium, by a runtime's thread:
    /// those of one frame in memory, of at most so many bytes. The position at the tail, where there
    /// is nothing to read; `None` when reading may wait. Costs the copy and the checksum of the frame.
    pub fn ready_until(&mut self, bytes_max: u64) -> Option<u64> {
        let in_frame = |frame: &&Frame| self.seq < frame.header.end_seq();
        if let Some(frame) = self.frame.as_ref().filter(in_frame) {
            return Some(frame.header.end_seq());
        }
        self.inner().check_open(OP).ok()?;
        if !self.is_below_tail() {
            return Some(self.seq);
        }
        if self.has_changed() {
            return None;
        }
        let current = self.current.as_ref()?;
        if current.end.is_some_and(|end| self.seq >= end) {
            return None;
        }
        self.expect_end();
        let frame = self.reader.frame_in_memory(self.pos, bytes_max)?;
        if frame.header.base_seq != self.seq {
            return None;
        }
        let end = frame.header.end_seq();
        self.accept(frame.header, frame.body);
        Some(end)
    }

    #[inline]
    fn lend(&self, span: Span) -> Record<'_> {
        Record {
            seq: span.seq,
            time_us: span.time_us,
            key: self.reader.body(span.key..span.meta),
            meta: self.reader.body(span.meta..span.value),
            value: self.reader.body(span.value..span.end),
        }
    }

    /// Goes over one record below `end`.
    #[inline]
    fn step(&mut self, end: u64) -> Result<Option<Span>> {
        loop {
            if let Some(span) = self.step_in_frame(end) {
                return Ok(Some(span));
            }
            if !self.turn(end)? {
                return Ok(None);
            }
        }
    }

    /// Goes over one record of the loaded frame; `None` at its end, and where it does not parse.
    #[inline]
    fn step_in_frame(&mut self, end: u64) -> Option<Span> {
        let seq = self.seq;
        let frame = self.frame.as_mut().filter(|frame| seq < frame.end_seq && seq < end)?;
        let (raw, after) = take_record(self.reader.body(frame.rest.clone()))?;
        if seq + 1 == frame.end_seq && !after.is_empty() {
            return None;
        }
        let end = frame.rest.end - after.len();
        let value = end - raw.value.len();
        let meta = value - raw.meta.len();
        let key = meta - raw.key.len();
        frame.rest.start = end;
        self.seq = seq + 1;
        Some(Span { seq, time_us: raw.time_us(frame.header.time_us), key, meta, value, end })
    }

    /// Turns to the next frame below `end`; false when there is none.
    #[cold]
    fn turn(&mut self, end: u64) -> Result<bool> {
        if self.seq >= end {
            return Ok(false);
        }
        if self.is_in_frame(self.seq) { Err(self.spoilt_frame()) } else { self.load() }
    }

    /// Loads the frame that begins with the next record; false at the tail.
    pub(super) fn load(&mut self) -> Result<bool> {
        while self.arrive()? {
            if self.frame.is_some() {
                return Ok(true);
            }
            self.expect_end();
            match self.reader.frame(self.pos) {
                Ok(frame) if frame.header.base_seq == self.seq => {
                    self.accept(frame.header, frame.body);
                    return Ok(true);
                }
                Ok(frame) => {
                    let (expected, found) = (self.seq, frame.header.base_seq);
                    return Err(self.damaged(Fault::Sequence { expected, found }));
                }
                Err(ReadError::Io(e)) => return Err(self.io(e)),
                Err(ReadError::Fault(fault)) => {
                    // The segment may have been sealed since its end was looked up.
                    if !self.has_changed() {
                        return Err(self.damaged(fault));
                    }
                }
            }
        }
        Ok(false)
    }

    /// Goes over whole frames below `end` whose filter excludes all of the keys; inside of a frame it stays.
    pub(crate) fn pass_without(&mut self, keys: &KeySet, end: u64) -> Result<()> {
        if self.is_in_frame(self.seq) {
            return Ok(());
        }
        while self.seq < end && self.arrive()? && self.frame.is_none() {
            match self.reader.frame_without(self.pos, keys) {
                Ok(Some(header))
                    if header.base_seq == self.seq && header.end_seq() <= end.min(self.tail) =>
                {
                    self.damage = None;
                    self.pos += header.frame_len();
                    self.pos_seq = header.end_seq();
                    self.seq = self.pos_seq;
                }
                // If something is wrong, loading the frame tells.
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Goes to where the frame of the next record begins, and loads it only to look for the record in it;
    /// false at the tail.
    fn arrive(&mut self) -> Result<bool> {
        self.inner().check_closed(OP)?;
        self.frame = None;
        while self.is_below_tail() {
            if self.current.is_none() {
                let seq = self.seq;
                if let Err(e) = self.enter(seq) {
                    self.seq = seq;
                    return Err(e);
                }
                if self.frame.is_some() {
                    return Ok(true);
                }
            } else if !self.has_moved_on()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn accept(&mut self, header: FrameHeader, body: Range<usize>) {
        self.pos += header.frame_len();
        self.pos_seq = header.end_seq();
        let (end_seq, rest) = (header.end_seq(), body.clone());
        self.frame = Some(Frame { header, end_seq, body, rest });
    }

    /// Tells the reader where the segment ends as of now: what lies behind is unwritten, or zeros.
    fn expect_end(&mut self) {
        let control = &self.log.inner.control;
        let base = self.current.as_ref().map(|current| current.info.base());
        // Announced before it is written, unlike the tail's position.
        let end = control.dirty_until();
        let is_active = base == Some(control.active_base());
        self.reader.expect_end(if is_active { end } else { u64::MAX });
    }

    /// Whether the next record is visible; looks at the tail again only when it must.
    fn is_below_tail(&mut self) -> bool {
        if self.seq >= self.tail {
            let tail = self.inner().control.tail_seq();
            if self.seq >= tail {
                return false;
            }
            self.tail = tail;
            // What the buffer holds beyond the old tail was read before it was whole.
            self.reader.forget();
        }
        true
    }

    /// Whether the structure changed since the end of the open segment was looked up.
    fn has_changed(&self) -> bool {
        let generation = self.inner().control.generation();
        self.current.as_ref().is_some_and(|c| c.end.is_none() && c.generation != generation)
    }

    /// Goes to the next segment when this one ends here; true when it did.
    fn has_moved_on(&mut self) -> Result<bool> {
        if self.has_changed() {
            let table = self.inner().table()?;
            if let Some(current) = &mut self.current {
                if table.get(current.info.base()).is_none() {
                    // Removed while it was read: where it ended is not known any more.
                    self.current = None;
                    return Ok(true);
                }
                current.end = table.end_of(current.info.base());
                current.generation = table.generation;
            }
        }
        let Some(current) = &self.current else {
            return Ok(true);
        };
        if current.end.is_none_or(|end| self.seq < end) {
            return Ok(false);
        }
        let base = current.info.base();
        let table = self.inner().table()?;
        let Some(next) = table.after(base) else {
            return Err(self.missing());
        };
        if next.header.prev_end > self.seq {
            return Err(self.missing());
        }
        self.open(&table, next)?;
        self.seq = self.pos_seq;
        Ok(true)
    }

    /// Opens a segment of the table at its first frame.
    fn open(&mut self, table: &Table, info: &Arc<SegmentInfo>) -> Result<()> {
        let file = self.inner().storage.open(&info.path, OpenMode::Read).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound && info.base() < self.log.first_seq() {
                return self.removed();
            }
            Error::io(OP, &info.path, e)
        })?;
        self.reader.open(file, info.header.salt);
        self.frame = None;
        self.pos = FRAMES_START;
        self.pos_seq = info.base();
        // Without an end it is looked up again once the structure is no longer the one of the table.
        let (end, generation) = (table.end_of(info.base()), table.generation);
        self.current = Some(Current { info: Arc::clone(info), end, generation, note_pos: 0 });
        Ok(())
    }

    fn removed(&self) -> Error {
        let first = self.log.first_seq();
        let kind = ErrorKind::Removed { first };
        self.inner()
            .error(
                kind,
                OP,
                "the record was removed by retention; go on from the first one there is",
            )
            .with("seq", self.seq)
            .with("first", first)
    }

    fn io(&self, e: std::io::Error) -> Error {
        match &self.current {
            Some(current) => Error::io(OP, &current.info.path, e),
            None => Error::io(OP, self.log.dir(), e),
        }
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("position", &self.seq)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}
