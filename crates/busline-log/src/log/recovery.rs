//! Finding the tail of a log whose control page cannot be believed, and cutting what was torn.
//!
//! The rule that decides between a torn tail and a damaged middle: a frame says in `synced_seq` what was
//! on the medium when it was written. Bytes that are no frame are a torn tail, and are cut, unless a witness
//! (a later frame, the header of a later segment, a clean mark) says that records from there on were
//! on the medium: then somebody was told that they are safe, and nothing is cut.

use std::path::Path;
use std::sync::Arc;

use crate::control::{Control, Poison, Tail};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::files::{CONTROL, CleanMark, Format, newer};
use crate::frame::Fault;
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
    /// Where the records end that can be used.
    pub(crate) tail: Tail,
    pub(crate) first: u64,
    pub(crate) report: OpenReport,
    /// All segments, those behind the tail included.
    pub(crate) table: Table,
    /// Everything below was on the medium; what lies above was read.
    pub(crate) synced: u64,
    /// No record was seen at or above this.
    pub(crate) above: u64,
}

/// A log that is ready to be used.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) tail: Tail,
    pub(crate) first: u64,
    pub(crate) clean: bool,
    pub(crate) report: OpenReport,
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
        let header = &frame.header;
        let fault = if header.base_seq != at.seq {
            Some(Fault::Sequence { expected: at.seq, found: header.base_seq })
        } else {
            match reader.check_records(&frame) {
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
    let (first, last) = (first.base(), Arc::clone(last));
    let mark = CleanMark::load(storage, dir, format.id);
    if let Some(mark) = mark.filter(|mark| mark.tail.active_base == last.base())
        && ends_at(storage, &last, mark.tail.pos)?
    {
        let report = OpenReport { clean: true, ..OpenReport::default() };
        let (tail, synced) = (mark.tail, mark.tail.seq);
        return Ok(Found { tail, first, report, table, synced, above: synced });
    }
    let synced = last.header.synced_seq.max(mark.map_or(0, |mark| mark.tail.seq));
    let from = table.floor(synced).unwrap_or(0);
    let mut reader = FrameReader::new();
    for (at, info) in table.segments.iter().enumerate().skip(from) {
        let bound = table.end_of(info.base()).unwrap_or(u64::MAX);
        open_reader(storage, &mut reader, info)?;
        let stop = walk(&mut reader, walk_start(info), bound).map_err(|e| io(info, e))?;
        if let Some(Fault::Flags(flags)) = stop.fault {
            return Err(newer(OP, &info.path, flags).with("frame_flags", flags));
        }
        if stop.fault.is_some() || at + 1 == table.segments.len() {
            let mut evidence = Evidence { witness: synced, above: stop.seq, ..Evidence::default() };
            evidence.gather(&mut reader, info, stop.pos + 1, stop.seq)?;
            let resume = evidence.resume;
            let len = reader.file_len().map_err(|e| io(info, e))?;
            let is_zero = reader.is_zero_from(stop.pos).map_err(|e| io(info, e))?;
            for later in table.segments.iter().skip(at + 1) {
                open_reader(storage, &mut reader, later)?;
                evidence.gather(&mut reader, later, FRAMES_START, stop.seq)?;
                evidence.bytes += reader.file_len().map_err(|e| io(later, e))?;
                evidence.segments += 1;
                evidence.above = evidence.above.max(later.base());
            }
            let place = Place { info, len, is_zero, resume };
            let (tail, report) = judge(&place, &stop, &table, &evidence);
            let above = evidence.above.max(tail.seq);
            return Ok(Found { tail, first, report, table, synced, above });
        }
    }
    Err(Error::new(ErrorKind::Damaged, OP, "the log has no segments"))
}

fn io(info: &SegmentInfo, e: std::io::Error) -> Error {
    Error::io(OP, &info.path, e)
}

fn open_reader(storage: &dyn Storage, reader: &mut FrameReader, info: &SegmentInfo) -> Result<()> {
    let file = storage.open(&info.path, OpenMode::Read).map_err(|e| io(info, e))?;
    reader.open(file, info.header.salt);
    Ok(())
}

/// Whether a segment's frames can end at a position: the file does, or zeros follow.
fn ends_at(storage: &dyn Storage, info: &SegmentInfo, pos: u64) -> Result<bool> {
    let mut reader = FrameReader::new();
    open_reader(storage, &mut reader, info)?;
    let len = reader.file_len().map_err(|e| io(info, e))?;
    Ok(len >= pos && reader.is_zero_from(pos).map_err(|e| io(info, e))?)
}

/// What lies behind the first bytes that are no frame.
#[derive(Debug, Default)]
struct Evidence {
    /// Records below this were on the medium.
    witness: u64,
    /// The first valid frame.
    resume: Option<(u64, u64)>,
    /// No record was seen at or above this.
    above: u64,
    last_time_us: i64,
    /// Later segments.
    bytes: u64,
    segments: u64,
}

impl Evidence {
    /// Takes in all valid frames of records above `seq`.
    fn gather(
        &mut self,
        reader: &mut FrameReader,
        info: &SegmentInfo,
        from: u64,
        seq: u64,
    ) -> Result<()> {
        let mut pos = from;
        let found = |e| io(info, e);
        while let Some((at, header)) = reader.search(pos, |h| h.base_seq > seq).map_err(found)? {
            self.witness = self.witness.max(header.synced_seq);
            self.resume.get_or_insert((at, header.base_seq));
            self.above = self.above.max(header.end_seq());
            self.last_time_us = self.last_time_us.max(header.time_us);
            pos = at + header.frame_len();
        }
        Ok(())
    }
}

/// The segment in which the walk stopped.
struct Place<'a> {
    info: &'a SegmentInfo,
    len: u64,
    is_zero: bool,
    resume: Option<(u64, u64)>,
}

/// Decides what the bytes behind the last good frame are.
fn judge(place: &Place<'_>, stop: &Walk, table: &Table, evidence: &Evidence) -> (Tail, OpenReport) {
    let base = place.info.base();
    let cause = stop.fault.unwrap_or(Fault::Empty).to_string();
    let mut report = OpenReport::default();
    let mut tail =
        Tail { active_base: base, seq: stop.seq, pos: stop.pos, last_time_us: stop.last_time_us };
    if evidence.witness > stop.seq {
        let seq_end = place.resume.map(|(_, seq)| seq).or(table.end_of(base));
        report.damage = Some(Damage {
            path: place.info.path.clone(),
            segment_base: base,
            offset_start: stop.pos,
            offset_end: place.resume.map_or(place.len.max(stop.pos), |(at, _)| at),
            seq_start: stop.seq,
            seq_end,
            cause,
        });
        // Nobody writes there; readers must see what lies behind the damage.
        tail.active_base = table.segments.last().map_or(base, |last| last.base());
        tail.seq = evidence.above.max(evidence.witness);
        tail.last_time_us = tail.last_time_us.max(evidence.last_time_us);
    } else if evidence.segments > 0 || !place.is_zero {
        report.cut = Some(Cut {
            segment_base: base,
            offset: stop.pos,
            bytes: place.len.saturating_sub(stop.pos) + evidence.bytes,
            segments: evidence.segments,
            seq: stop.seq,
            cause,
        });
    }
    (tail, report)
}

/// Makes a log ready whose control page cannot be believed. Under the lock for that.
pub(crate) fn recover(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    poisoned: bool,
    now_us: i64,
) -> Result<Recovered> {
    let Found { mut tail, first, mut report, table, synced, above } =
        examine(storage, dir, format)?;
    if report.clean || poisoned || report.damage.is_some() {
        return Ok(Recovered { tail, first, clean: report.clean, report });
    }
    // What is kept must be on the medium before anything says that it is.
    let from = table.floor(synced).unwrap_or(0);
    let kept = table.segments.iter().skip(from).take_while(|info| info.base() <= tail.active_base);
    for info in kept {
        let file = storage.open(&info.path, OpenMode::ReadWrite).map_err(|e| io(info, e))?;
        file.sync_all().map_err(|e| io(info, e))?;
    }
    let base_seq = jump_above(above, OP)?;
    let header = SegmentHeader {
        salt: fresh_salt(),
        log_id: format.id,
        base_seq,
        prev_end: tail.seq,
        created_us: now_us,
        prev_time_us: tail.last_time_us,
        synced_seq: base_seq,
    };
    let path = segment::path(dir, base_seq);
    segment::create(storage, dir, &header).map_err(|(e, _)| Error::io(OP, &path, e))?;
    // From here on the new segment says where the records before it end; the rest is tidying up.
    cut(storage, dir, &table, tail, base_seq)?;
    tail.active_base = base_seq;
    tail.seq = base_seq;
    tail.pos = FRAMES_START;
    report.jumped_to = Some(base_seq);
    // All that is left is on the medium now, so the next start need not jump again.
    let mark = CleanMark { log_id: format.id, tail };
    mark.store(storage, dir).map_err(|e| Error::io(OP, dir, e))?;
    Ok(Recovered { tail, first, clean: true, report })
}

/// Removes what lies behind a tail, in its segment and in files of later ones.
fn cut(storage: &dyn Storage, dir: &Path, table: &Table, tail: Tail, active: u64) -> Result<()> {
    let names = storage.list(dir).map_err(|e| Error::io(OP, dir, e))?;
    let is_left = |base: &u64| *base < tail.active_base && table.get(*base).is_some();
    for base in names.iter().filter_map(|name| segment::parse_name(name)) {
        if base != active && base != tail.active_base && !is_left(&base) {
            let path = segment::path(dir, base);
            storage.remove(&path).map_err(|e| Error::io(OP, &path, e))?;
        }
    }
    let path = segment::path(dir, tail.active_base);
    let io = |e| Error::io(OP, &path, e);
    let file = storage.open(&path, OpenMode::ReadWrite).map_err(io)?;
    if file.len().map_err(io)? > tail.pos {
        file.truncate(tail.pos).map_err(io)?;
        file.sync_all().map_err(io)?;
    }
    Ok(())
}

/// Checks what a believed page says against the files, as far as it costs nothing. Takes no lock, so that a
/// writer at work (or stopped) keeps nobody from opening: what looks wrong is looked at again until
/// the page says the same before and after.
pub(super) fn check_trusted(storage: &dyn Storage, dir: &Path, control: &Control) -> Result<()> {
    loop {
        let before = (control.generation(), control.tail());
        let checked = check_once(storage, dir, control);
        if checked.is_ok() || (control.generation(), control.tail()) == before {
            return checked;
        }
    }
}

fn check_once(storage: &dyn Storage, dir: &Path, control: &Control) -> Result<()> {
    let tail = control.tail();
    if control.is_changing() || control.poison() != Poison::None {
        return Ok(());
    }
    let ordered = control.first_seq() <= tail.active_base
        && tail.active_base <= tail.seq
        && control.durable() <= tail.seq
        && tail.pos >= FRAMES_START;
    if !ordered {
        return Err(Error::new(
            ErrorKind::Damaged,
            OP,
            "the control page contradicts itself; stop every process that has the log open, remove \
             the file and open the log again, which then looks for itself",
        )
        .with("path", dir.join(CONTROL).display()));
    }
    let path = segment::path(dir, tail.active_base);
    let (len, cause) = match storage.open(&path, OpenMode::Read) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (0, "the file is missing"),
        Err(e) => return Err(Error::io(OP, &path, e)),
        Ok(file) => {
            let cause = "the file is shorter than what was written to it; somebody else changed it";
            (file.len().map_err(|e| Error::io(OP, &path, e))?, cause)
        }
    };
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
            cause: cause.to_owned(),
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
