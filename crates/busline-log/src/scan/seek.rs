//! Moving a scanner: by sequence number, by time.

use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::frame::{FrameHeader, take_record};
use crate::scan::{OP, Scanner};
use crate::segment::{Place, ReadError};

impl Scanner {
    /// Goes to a sequence number, or in a gap to the next record that exists; returns the position.
    /// `Removed` below the first record, `Beyond` above the tail; the position is then as before.
    pub fn seek(&mut self, seq: u64) -> Result<u64> {
        self.inner().check_open(OP)?;
        if seq > self.tail {
            let tail = self.inner().control.tail_seq();
            if seq > tail {
                return Err(self
                    .inner()
                    .error(ErrorKind::Beyond { tail }, OP, "no record has this sequence number yet")
                    .with("seq", seq)
                    .with("tail", tail));
            }
        }
        if self.is_in_frame(seq) {
            return self.skip_to(seq);
        }
        if seq < self.log.first_seq() {
            let at = std::mem::replace(&mut self.seq, seq);
            let error = self.removed();
            self.seq = at;
            return Err(error);
        }
        let at = std::mem::replace(&mut self.seq, seq);
        self.damage = None;
        self.frame = None;
        if !self.is_below_tail() {
            // The next record to be appended may lie in a segment that does not exist yet.
            self.current = None;
            return Ok(seq);
        }
        if let Err(e) = self.enter(seq) {
            self.current = None;
            self.frame = None;
            self.damage = None;
            self.seq = at;
            return Err(e);
        }
        Ok(self.seq)
    }

    /// Goes to the first record there is.
    pub fn seek_first(&mut self) -> Result<u64> {
        loop {
            match self.seek(self.log.first_seq()) {
                // Retention was quicker.
                Err(e) if matches!(e.kind(), ErrorKind::Removed { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    /// Goes behind the last record.
    pub fn seek_tail(&mut self) -> u64 {
        self.current = None;
        self.frame = None;
        self.damage = None;
        self.seq = self.log.next_seq();
        self.seq
    }

    /// Goes to the first record that is not older than a time, or behind the last one; returns the position.
    pub fn seek_time(&mut self, time_us: i64) -> Result<u64> {
        self.inner().check_open(OP)?;
        self.seek_first()?;
        if !self.is_below_tail() {
            return Ok(self.seq);
        }
        let table = self.inner().table()?;
        // The last segment before which all records are older: it, or what follows, begins with the record.
        let older = table.segments.partition_point(|info| info.header.prev_time_us < time_us);
        let chosen = older.checked_sub(1).and_then(|at| table.segments.get(at));
        if let Some(info) = chosen {
            self.open(&table, info)?;
            self.inner().touch_index(info);
            if let Some(place) = info.index().before_time(time_us) {
                (self.pos, self.pos_seq) = (place.pos, place.seq);
            }
            let older = |header: &FrameHeader| header.time_us < time_us;
            // A record may be younger than its frame, so the last older frame is read too.
            if let Some((pos, seq)) = self.walk_while(older, older)? {
                (self.pos, self.pos_seq) = (pos, seq);
            }
            self.seq = self.pos_seq;
        }
        self.pass_older(time_us)
    }

    /// Steps over single records that are too old.
    fn pass_older(&mut self, time_us: i64) -> Result<u64> {
        loop {
            let before = self.seq;
            match self.step(u64::MAX) {
                Ok(Some(span)) if span.time_us < time_us => {}
                Ok(Some(span)) => return self.skip_to(span.seq),
                Ok(None) => return Ok(self.seq),
                // The first one may lie in the damage: reading on from here tells.
                Err(e) if e.kind() == ErrorKind::Damaged => {
                    self.damage = None;
                    self.seq = before;
                    return Ok(self.seq);
                }
                Err(e) => return Err(e),
            }
        }
    }

    #[inline]
    pub(super) fn is_in_frame(&self, seq: u64) -> bool {
        self.frame.as_ref().is_some_and(|f| seq >= f.header.base_seq && seq < f.header.end_seq())
    }

    /// Goes to a record of the frame that is loaded.
    fn skip_to(&mut self, seq: u64) -> Result<u64> {
        self.damage = None;
        let Some(frame) = &mut self.frame else {
            return Ok(self.seq);
        };
        if seq < self.seq {
            self.seq = frame.header.base_seq;
            frame.rest = frame.body.clone();
        }
        let mut rest = self.reader.body(frame.rest.clone());
        while self.seq < seq {
            let Some((_, after)) = take_record(rest) else {
                return Err(self.spoilt_frame());
            };
            rest = after;
            self.seq += 1;
        }
        frame.rest.start = frame.rest.end - rest.len();
        Ok(seq)
    }

    /// Finds the segment and the frame of the first record at or after a sequence number that is visible.
    pub(super) fn enter(&mut self, seq: u64) -> Result<()> {
        self.seq = seq;
        let table = self.inner().table()?;
        let Some(info) = table.floor(seq).and_then(|at| table.segments.get(at)) else {
            // Removed, or the first segment is gone although nobody removed its records.
            return Err(self.missing());
        };
        let mut info = info;
        if let Some(next) = table.after(info.base())
            && next.header.prev_end <= seq
        {
            // In the gap between two segments.
            self.seq = next.base();
            info = next;
        }
        let here = self.current.as_ref().is_some_and(|c| Arc::ptr_eq(&c.info, info));
        if !(here && self.pos_seq <= self.seq) {
            let seq = self.seq;
            self.open(&table, info)?;
            self.seq = seq;
        }
        self.inner().touch_index(info);
        if let Some(place) = info.index().floor_seq(self.seq)
            && place.pos > self.pos
        {
            (self.pos, self.pos_seq) = (place.pos, place.seq);
        }
        if self.seq >= self.tail || self.pos_seq == self.seq {
            return Ok(());
        }
        let seq = self.seq;
        self.walk_while(|header| header.end_seq() <= seq, |header| header.base_seq <= seq)?;
        let frame = match self.reader.frame(self.pos) {
            Ok(frame) => frame,
            Err(ReadError::Io(e)) => return Err(self.io(e)),
            Err(ReadError::Fault(fault)) => return Err(self.damaged(fault)),
        };
        self.seq = frame.header.base_seq;
        self.accept(frame.header, frame.body);
        self.skip_to(seq.max(self.seq)).map(|seq| self.seq = seq)
    }

    /// Walks over the headers of frames as long as they are `passed`, and below the tail; returns the place
    /// of the last one it went over. Damage on the way is gone over when the frame behind it is one that
    /// `may_follow`: then what is looked for does not lie in the damage.
    fn walk_while(
        &mut self,
        passed: impl Fn(&FrameHeader) -> bool,
        may_follow: impl Fn(&FrameHeader) -> bool,
    ) -> Result<Option<(u64, u64)>> {
        let mut last = None;
        loop {
            let bound = self.current.as_ref().and_then(|c| c.end).unwrap_or(self.tail);
            if self.pos_seq >= bound.min(self.tail) {
                return Ok(last);
            }
            let header = match self.reader.header(self.pos) {
                Ok(header) if header.base_seq == self.pos_seq => header,
                Err(ReadError::Io(e)) => return Err(self.io(e)),
                _ => {
                    let (from, seq) = (self.pos + 1, self.pos_seq);
                    let found = self
                        .reader
                        .search(from, |h| h.base_seq > seq)
                        .map_err(|e| self.io(e))?
                        .filter(|(_, header)| may_follow(header));
                    let Some((pos, header)) = found else {
                        return Ok(None);
                    };
                    (self.pos, self.pos_seq) = (pos, header.base_seq);
                    header
                }
            };
            self.note(&header);
            if !passed(&header) {
                return Ok(last);
            }
            last = Some((self.pos, self.pos_seq));
            self.pos += header.frame_len();
            self.pos_seq = header.end_seq();
        }
    }

    /// Lets the index of the segment learn a frame, now and then.
    fn note(&mut self, header: &FrameHeader) {
        let pos = self.pos;
        if let Some(current) = &mut self.current
            && pos >= current.note_pos
        {
            let place = Place { seq: header.base_seq, pos, time_us: header.time_us };
            current.note_pos = current.info.index().note(place);
        }
    }
}
