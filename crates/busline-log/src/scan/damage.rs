//! Telling what is damaged, and going on behind it when somebody asks for that.

use crate::error::{Damage, Error, ErrorKind, Result};
use crate::files::newer;
use crate::frame::Fault;
use crate::scan::{OP, Scanner};

impl Scanner {
    /// After a `Damaged` error: goes on behind the damage, knowing that records are lost. Returns the new
    /// position; without such an error it stays where it is. `Damaged` again when a segment is missing or has
    /// no header that can be read: then nobody knows where to go on, only a repair helps.
    pub fn skip_damage(&mut self) -> Result<u64> {
        let Some(resume) = self.damage.take() else {
            if self.frame.is_none() {
                self.load()?;
            }
            return Ok(self.seq);
        };
        self.frame = None;
        let end = self.current.as_ref().and_then(|current| current.end);
        match (resume, end) {
            (Some((pos, seq)), _) => {
                self.pos = pos;
                self.pos_seq = seq;
                self.seq = seq;
            }
            // Nothing more in this segment: the next one, or what will be appended.
            (None, Some(end)) => self.seq = self.seq.max(end),
            (None, None) => {
                self.seq = self.seq.max(self.tail);
                self.current = None;
            }
        }
        Ok(self.seq)
    }

    /// The error for bytes at the position that are no frame.
    pub(super) fn damaged(&mut self, fault: Fault) -> Error {
        self.damaged_from(self.pos, self.pos_seq, fault)
    }

    /// The error for a frame whose checksum is right and whose records are not.
    pub(super) fn spoilt_frame(&mut self) -> Error {
        let len = self.frame.as_ref().map_or(0, |frame| frame.header.frame_len());
        self.damaged_from(self.pos - len, self.seq, Fault::Record)
    }

    fn damaged_from(&mut self, pos: u64, seq: u64, fault: Fault) -> Error {
        let Some(current) = &self.current else {
            return self.missing();
        };
        if let Fault::Flags(flags) = fault {
            return newer(OP, &current.info.path, flags).with("frame_flags", flags);
        }
        let (path, segment_base) = (current.info.path.clone(), current.info.base());
        let bound = current.end.unwrap_or(self.tail).min(self.tail);
        let found = self.reader.search(pos + 1, |h| h.base_seq > seq && h.end_seq() <= bound);
        let resume = match found {
            Ok(found) => found.map(|(at, header)| (at, header.base_seq)),
            Err(e) => return self.io(e),
        };
        let len = match self.reader.file_len() {
            Ok(len) => len,
            Err(e) => return self.io(e),
        };
        self.frame = None;
        self.damage = Some(resume);
        let damage = Damage {
            path,
            segment_base,
            offset_start: pos,
            offset_end: resume.map_or(len.max(pos), |(at, _)| at),
            seq_start: seq,
            seq_end: resume.map(|(_, seq)| seq).or(self.current.as_ref().and_then(|c| c.end)),
            cause: fault.to_string(),
        };
        Error::damaged(OP, damage).with("log", self.log.dir().display())
    }

    /// The error for records that no segment holds although they were not removed from the front.
    pub(super) fn missing(&self) -> Error {
        if self.seq < self.log.first_seq() {
            return self.removed();
        }
        self.inner()
            .error(
                ErrorKind::Damaged,
                OP,
                "a segment is missing from the middle of the log; restore it from a backup, \
                 or repair the log without it",
            )
            .with("seq", self.seq)
    }
}
