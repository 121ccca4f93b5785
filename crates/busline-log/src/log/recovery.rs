//! Finding the tail of a log whose control page cannot be believed, and cutting what was torn.
//!
//! The rule that decides between a torn tail and a damaged middle: a frame says in `synced_seq` what was
//! on the medium when it was written. Bytes that are no frame are a torn tail, and are cut, unless a witness
//! (a later frame, the header of a later segment, a clean mark) says that records from there on were
//! on the medium: then somebody was told that they are safe, and nothing is cut.

use std::path::Path;

use crate::control::{Control, Poison, Tail};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::files::{CleanMark, Format, newer};
use crate::frame::{Fault, check_records};
use crate::log::open::fresh_salt;
use crate::options::{Cut, OpenReport};
use crate::segment::{
    self, FRAMES_START, FrameReader, ReadError, SegmentHeader, SegmentInfo, Table,
};
use crate::storage::{OpenMode, Storage};

const OP: &str = "recover a log";

/// New records after a loss of power begin at a multiple of this, so that a sequence number somebody kept
/// of a lost record never names another one.
const JUMP: u64 = 1 << 32;

/// What lies in the directory.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tail: Tail,
    pub(crate) first: u64,
    pub(crate) report: OpenReport,
    /// The segments.
    pub(crate) table: Table,
}

/// A log that is ready to be used.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) tail: Tail,
    pub(super) first: u64,
    pub(super) clean: bool,
    pub(super) report: OpenReport,
}

/// Where a walk over a segment's frames is, or stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) seq: u64,
    pub(crate) pos: u64,
    pub(crate) last_time_us: i64,
    /// What stands there instead of a frame; `None` when the walk reached its bound.
    pub(crate) fault: Option<Fault>,
}

/// Walks the frames of a segment, checking all of them, as long as they begin below `bound`.
pub(crate) fn walk(reader: &mut FrameReader, from: Walk, bound: u64) -> std::io::Result<Walk> {
    let mut at = Walk { fault: None, ..from };
    while at.seq < bound {
        let frame = match reader.frame(at.pos) {
            Ok(frame) => frame,
            Err(ReadError::Io(e)) => return Err(e),
            Err(ReadError::Fault(fault)) => return Ok(Walk { fault: Some(fault), ..at }),
        };
        let header = frame.header;
        let fault = if header.base_seq != at.seq {
            Some(Fault::Sequence { expected: at.seq, found: header.base_seq })
        } else {
            match check_records(&header, reader.body(frame.body)) {
                Ok(time_us) => {
                    at.last_time_us = at.last_time_us.max(time_us);
                    None
                }
                Err(fault) => Some(fault),
            }
        };
        if fault.is_some() {
            return Ok(Walk { fault, ..at });
        }
        at.seq = header.end_seq();
        at.pos += header.frame_len();
    }
    Ok(at)
}

/// The start of a segment, to walk from.
pub(crate) fn walk_start(info: &SegmentInfo) -> Walk {
    Walk {
        seq: info.base(),
        pos: FRAMES_START,
        last_time_us: info.header.prev_time_us,
        fault: None,
    }
}

/// The first sequence number above a place that was certainly never given out.
pub(crate) fn jump_above(seq: u64, operation: &'static str) -> Result<u64> {
    let above = (seq / JUMP).checked_add(1).and_then(|n| n.checked_mul(JUMP));
    above.ok_or_else(|| Error::new(ErrorKind::Limit, operation, "the sequence numbers are used up"))
}

/// Finds the tail without changing anything.
pub(crate) fn examine(storage: &dyn Storage, dir: &Path, format: &Format) -> Result<Found> {
    let table = Table::load(storage, dir, format.id, &Table::default(), 0)?;
    let (Some(first), Some(last)) = (table.segments.first(), table.segments.last()) else {
        return Err(Error::new(ErrorKind::Damaged, OP, "the log has no segments"));
    };
    let first = first.base();
    let io = |e| Error::io(OP, &last.path, e);
    let mut reader = FrameReader::new();
    reader.open(storage.open(&last.path, OpenMode::Read).map_err(io)?, last.header.salt);
    let mark = CleanMark::load(storage, dir, format.id);
    if let Some(mark) = mark
        && mark.tail.active_base == last.base()
        && reader.file_len().map_err(io)? >= mark.tail.pos
        && reader.is_zero_from(mark.tail.pos).map_err(io)?
    {
        let report = OpenReport { clean: true, ..OpenReport::default() };
        return Ok(Found { tail: mark.tail, first, report, table });
    }
    let end = walk(&mut reader, walk_start(last), u64::MAX).map_err(io)?;
    if let Some(Fault::Flags(flags)) = end.fault {
        return Err(newer(OP, &last.path, flags).with("frame_flags", flags));
    }
    let witness = mark.map_or(0, |mark| mark.tail.seq);
    let (tail, report) = judge(&mut reader, last, &end, witness).map_err(io)?;
    Ok(Found { tail, first, report, table })
}

/// Decides what the bytes behind the last good frame are.
pub(crate) fn judge(
    reader: &mut FrameReader,
    info: &SegmentInfo,
    end: &Walk,
    mut witness: u64,
) -> std::io::Result<(Tail, OpenReport)> {
    let len = reader.file_len()?;
    let mut tail = Tail {
        active_base: info.base(),
        seq: end.seq,
        pos: end.pos,
        last_time_us: end.last_time_us,
    };
    let mut resume = None;
    let mut pos = end.pos + 1;
    while let Some((at, header)) = reader.search(pos, |h| h.base_seq > end.seq)? {
        witness = witness.max(header.synced_seq);
        resume.get_or_insert((at, header.base_seq));
        if header.end_seq() > tail.seq {
            tail.seq = header.end_seq();
            tail.pos = at + header.frame_len();
            tail.last_time_us = tail.last_time_us.max(header.time_us);
        }
        pos = at + header.frame_len();
    }
    let cause = end.fault.unwrap_or(Fault::Empty).to_string();
    let mut report = OpenReport::default();
    if witness > end.seq {
        tail.seq = tail.seq.max(witness);
        report.damage = Some(Damage {
            path: info.path.clone(),
            segment_base: info.base(),
            offset_start: end.pos,
            offset_end: resume.map_or(len, |(at, _)| at),
            seq_start: end.seq,
            seq_end: resume.map(|(_, seq)| seq),
            cause,
        });
        return Ok((tail, report));
    }
    if len > end.pos && !reader.is_zero_from(end.pos)? {
        report.cut = Some(Cut {
            segment_base: info.base(),
            offset: end.pos,
            bytes: len - end.pos,
            seq: end.seq,
            cause,
        });
    }
    let tail = Tail { seq: end.seq, pos: end.pos, last_time_us: end.last_time_us, ..tail };
    Ok((tail, report))
}

/// Makes a log ready whose control page cannot be believed. Under the append lock.
pub(super) fn recover(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    poisoned: bool,
    now_us: i64,
) -> Result<Recovered> {
    let Found { mut tail, first, mut report, table } = examine(storage, dir, format)?;
    if report.clean || poisoned || report.damage.is_some() {
        return Ok(Recovered { tail, first, clean: report.clean, report });
    }
    if let Some(active) = table.segments.last() {
        let io = |e| Error::io(OP, &active.path, e);
        let file = storage.open(&active.path, OpenMode::ReadWrite).map_err(io)?;
        if file.len().map_err(io)? > tail.pos {
            file.truncate(tail.pos).map_err(io)?;
        }
        file.sync_all().map_err(io)?;
    }
    let base_seq = jump_above(tail.seq, OP)?;
    let header = SegmentHeader {
        salt: fresh_salt(),
        log_id: format.id,
        base_seq,
        prev_end: tail.seq,
        created_us: now_us,
        prev_time_us: tail.last_time_us,
    };
    let path = segment::path(dir, base_seq);
    segment::create(storage, dir, &header).map_err(|(e, _)| Error::io(OP, &path, e))?;
    tail.active_base = base_seq;
    tail.seq = base_seq;
    tail.pos = FRAMES_START;
    report.jumped_to = Some(base_seq);
    // All that is left is on the medium now, so the next start need not jump again.
    let mark = CleanMark { log_id: format.id, tail };
    mark.store(storage, dir).map_err(|e| Error::io(OP, dir, e))?;
    Ok(Recovered { tail, first, clean: true, report })
}

/// Checks what a believed page says against the files, as far as it costs nothing.
pub(super) fn check_trusted(storage: &dyn Storage, dir: &Path, control: &Control) -> Result<()> {
    let tail = control.tail();
    if control.is_changing() || control.poison() != Poison::None {
        return Ok(());
    }
    let path = segment::path(dir, tail.active_base);
    let file = storage.open(&path, OpenMode::Read).map_err(|e| Error::io(OP, &path, e))?;
    let len = file.len().map_err(|e| Error::io(OP, &path, e))?;
    if len >= tail.pos {
        return Ok(());
    }
    Err(Error::damaged(
        OP,
        Damage {
            path,
            segment_base: tail.active_base,
            offset_start: len,
            offset_end: tail.pos,
            seq_start: tail.active_base,
            seq_end: None,
            cause: "the file is shorter than what was written to it; somebody else changed it"
                .to_owned(),
        },
    ))
}

/// The damage of a log that is known to be damaged.
pub(super) fn known_damage(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    control: &Control,
) -> Result<Option<Damage>> {
    match control.poison() {
        Poison::Damaged => Ok(examine(storage, dir, format)?.report.damage),
        _ => Ok(None),
    }
}
