//! Reads a whole segment and tells which stretches of it are sound.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::control::{Control, Poison};
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::files::{CONTROL, Format, POISONED, newer};
use crate::frame::Fault;
use crate::log::{Walk, examine, walk, walk_start};
use crate::options::Cut;
use crate::segment::{FrameReader, SegmentInfo, Table, load_header, parse_name, path};
use crate::storage::{OpenMode, Storage};

/// A stretch of sound frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) pos: u64,
    pub(super) end_pos: u64,
    pub(super) seq: u64,
    pub(super) end_seq: u64,
}

/// What is in a segment.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) runs: Vec<Run>,
    pub(super) damage: Vec<Damage>,
    pub(super) bytes: u64,
    pub(super) last_time_us: i64,
}

impl Survey {
    pub(super) fn records(&self) -> u64 {
        self.runs.iter().map(|run| run.end_seq - run.seq).sum()
    }

    /// Where the sound records end.
    pub(super) fn end_seq(&self, base: u64) -> u64 {
        self.runs.last().map_or(base, |run| run.end_seq)
    }
}

/// Where a log ends, as far as that is known before its segments are read.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The sequence number after the last record.
    pub(super) tail: Option<u64>,
    /// The active segment, and where its frames end: zeros may follow.
    pub(super) active: Option<(u64, u64)>,
    /// Records below this are on the medium, or said to be.
    pub(super) durable: u64,
    /// What opening the log will cut.
    pub(super) cut: Option<Cut>,
}

impl End {
    /// Where the frames of a segment end, when that is known.
    pub(super) fn frames_end(&self, info: &SegmentInfo) -> u64 {
        self.active.filter(|(base, _)| *base == info.base()).map_or(u64::MAX, |(_, pos)| pos)
    }
}

/// The segments of a directory, and those whose header cannot be read.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) table: Table,
    pub(super) headless: Vec<Headless>,
}

/// A segment whose header cannot be read, or which is gone.
#[derive(Debug)]
pub(super) struct Headless {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) damage: Damage,
}

/// Where a segment's records end, as others tell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    /// Nobody does: at the first bytes that are no frame.
    Open,
    /// Exactly here.
    At(u64),
    /// Here, or before: what follows has no header that would tell.
    Below(u64),
}

impl Listing {
    /// Where the records of a segment end, when the log ends at `tail`.
    pub(super) fn bound(&self, base: u64, tail: Option<u64>) -> Bound {
        let told = self.table.end_of(base).or(tail.map(|tail| tail.max(base)));
        let next = self.table.after(base).map_or(u64::MAX, |next| next.base());
        let bases = self.headless.iter().map(|headless| headless.damage.segment_base);
        match (bases.filter(|other| (base + 1..next).contains(other)).min(), told) {
            (Some(headless), _) => Bound::Below(headless),
            (None, Some(told)) => Bound::At(told),
            (None, None) => Bound::Open,
        }
    }
}

impl Listing {
    /// `Damaged` when there is no segment at all, which no program leaves behind.
    pub(super) fn check_any(&self, dir: &Path, operation: &'static str) -> Result<()> {
        if !self.table.segments.is_empty() || !self.headless.is_empty() {
            return Ok(());
        }
        let message = "the log has a FORMAT file but no segments; restore them from a backup";
        Err(Error::new(ErrorKind::Damaged, operation, message).with("path", dir.display()))
    }
}

/// Lists the segments; a damaged header does not hide the others.
pub(super) fn list(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    operation: &'static str,
) -> Result<Listing> {
    let names = storage.list(dir).map_err(|e| Error::io(operation, dir, e))?;
    let (mut segments, mut headless) = (Vec::new(), Vec::new());
    for base in names.iter().filter_map(|name| parse_name(name)) {
        let path = path(dir, base);
        match load_header(storage, &path, base, format.id) {
            Ok(Some(header)) => segments.push(Arc::new(SegmentInfo::new(dir, header))),
            Ok(None) => {}
            Err(e) => {
                let Some(damage) = e.damage().cloned() else { return Err(e) };
                let bytes = storage.open(&path, OpenMode::Read).and_then(|file| file.len());
                headless.push(Headless { path, bytes: bytes.unwrap_or(0), damage });
            }
        }
    }
    let table = Table::of(segments);
    for Headless { damage, .. } in &mut headless {
        let next = table.after(damage.segment_base).map(|next| next.header.prev_end);
        damage.seq_end = next.filter(|end| *end > damage.segment_base);
    }
    Ok(with_missing(storage, dir, Listing { table, headless }))
}

/// Adds the first segment, when the control page knows of one that is not there any more.
fn with_missing(storage: &dyn Storage, dir: &Path, mut listing: Listing) -> Listing {
    let found = listing.table.segments.first().map(|info| info.base());
    // Asked after listing: retention says first what it is about to remove.
    let first = trusted_control(storage, dir).map(|control| control.first_seq());
    if let (Some(first), Some(found)) = (first, found)
        && first < found
        && listing.headless.is_empty()
    {
        let path = path(dir, first);
        let damage = Damage {
            path: path.clone(),
            segment_base: first,
            offset_start: 0,
            offset_end: 0,
            seq_start: first,
            seq_end: Some(found),
            cause: "the file is missing".to_owned(),
        };
        listing.headless.push(Headless { path, bytes: 0, damage });
    }
    listing
}

/// What the control page tells about the end, when there is one that can be believed.
pub(super) fn trusted_end(storage: &dyn Storage, dir: &Path) -> Option<End> {
    let control = trusted_control(storage, dir)?;
    let tail = control.tail();
    let active = Some((tail.active_base, tail.pos));
    Some(End { tail: Some(tail.seq), active, durable: control.durable(), cut: None })
}

/// Whether an fsync failed since the last repair: the note for later boots says so, or the page, which is there also
/// when the note could not be written.
pub(super) fn is_poisoned(
    storage: &dyn Storage,
    dir: &Path,
    operation: &'static str,
) -> Result<bool> {
    let path = dir.join(POISONED);
    let noted = storage.exists(&path).map_err(|e| Error::io(operation, &path, e))?;
    let poison = trusted_control(storage, dir).map(|control| control.poison());
    Ok(noted || poison == Some(Poison::SyncFailed))
}

fn trusted_control(storage: &dyn Storage, dir: &Path) -> Option<Control> {
    let path = dir.join(CONTROL);
    if !storage.exists(&path).ok()? {
        return None;
    }
    let control = Control::new(storage.shared_page(&path).ok()?);
    control.is_trusted(storage.boot_id().ok()?).then_some(control)
}

/// Where the log ends: as the control page tells, or else as the segments do.
pub(super) fn find_end(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    listing: &Listing,
    trusted: Option<End>,
    poisoned: bool,
) -> Result<End> {
    // A recovery leaves a poisoned log as it is: behind the tail that it found may lie segments of records that
    // were lost with the power, and were never durable.
    let is_uncut = |end: &End| {
        let last = listing.table.segments.last().map(|info| info.base());
        poisoned && listing.headless.is_empty() && end.active.map(|(base, _)| base) != last
    };
    match trusted {
        Some(end) if !is_uncut(&end) => Ok(end),
        _ => examined_end(storage, dir, format, listing),
    }
}

/// What the segments tell about the end, when no control page does.
fn examined_end(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    listing: &Listing,
) -> Result<End> {
    if !listing.headless.is_empty() {
        // Which end is torn cannot be told with a segment missing: all of it is taken for damage.
        return Ok(End::default());
    }
    let found = examine(storage, dir, format)?;
    let (tail, cut) = (Some(found.tail.seq), found.report.cut);
    Ok(End { tail, active: None, durable: found.synced, cut })
}

/// Reads a segment to where its records end. Behind `frames_end` nothing is called damaged: zeros may be there.
pub(super) fn survey(
    storage: &dyn Storage,
    info: &SegmentInfo,
    bound: Bound,
    frames_end: u64,
    operation: &'static str,
) -> Result<Survey> {
    let io = |e| Error::io(operation, &info.path, e);
    let mut reader = FrameReader::new();
    reader.open(storage.open(&info.path, OpenMode::Read).map_err(io)?, info.header.salt);
    let bytes = reader.file_len().map_err(io)?;
    let last_time_us = info.header.prev_time_us;
    let mut survey = Survey { runs: Vec::new(), damage: Vec::new(), bytes, last_time_us };
    let mut from = walk_start(info);
    let end = match bound {
        Bound::Open => None,
        Bound::At(end) | Bound::Below(end) => Some(end),
    };
    loop {
        let stop = walk(&mut reader, from, end.unwrap_or(u64::MAX)).map_err(io)?;
        if stop.seq > from.seq {
            let (pos, end_pos, seq, end_seq) = (from.pos, stop.pos, from.seq, stop.seq);
            survey.runs.push(Run { pos, end_pos, seq, end_seq });
        }
        survey.last_time_us = stop.last_time_us;
        let Some(fault) = stop.fault else {
            return Ok(survey);
        };
        if let Fault::Flags(flags) = fault {
            return Err(newer(operation, &info.path, flags).with("frame_flags", flags));
        }
        let limit = end.unwrap_or(u64::MAX);
        let found = reader
            .search(stop.pos + 1, |h| h.base_seq > stop.seq && h.end_seq() <= limit)
            .map_err(io)?;
        let may_end = match bound {
            Bound::Open => true,
            Bound::At(_) => false,
            Bound::Below(_) => fault == Fault::Empty,
        };
        if may_end && found.is_none() {
            return Ok(survey);
        }
        survey.damage.push(Damage {
            path: info.path.clone(),
            segment_base: info.base(),
            offset_start: stop.pos,
            offset_end: found.map_or(bytes.min(frames_end).max(stop.pos), |(pos, _)| pos),
            seq_start: stop.seq,
            seq_end: found.map(|(_, header)| header.base_seq).or(end),
            cause: fault.to_string(),
        });
        let Some((pos, header)) = found else {
            return Ok(survey);
        };
        from = Walk { seq: header.base_seq, pos, fault: None, ..stop };
    }
}
