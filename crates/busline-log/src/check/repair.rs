//! Makes a damaged or poisoned log usable again, losing no more than it must and saying what.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check::survey::{
    Bound, Headless, Run, Survey, find_end, is_poisoned, list, survey, trusted_end,
};
use crate::control::Control;
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::files::{CLEAN, CONTROL, FORMAT, Format, OPEN_LOCK, POISONED, RECOVERY_LOCK, TMP};
use crate::group::is_journal_label;
use crate::log::{busy, directory_lock, fresh_salt, jump_above, recover};
use crate::options::Cut;
use crate::segment::{self, FrameReader, ReadError, SegmentHeader, SegmentInfo};
use crate::storage::{OpenMode, Storage};

const OP: &str = "repair a log";
/// What is put behind the name of a segment that cannot be read at all.
const SET_ASIDE: &str = ".damaged";

/// What [`repair`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// The torn tail that was cut.
    pub cut: Option<Cut>,
    /// The records that are lost, by place.
    pub dropped: Vec<Damage>,
    /// Files that could not be read at all and were renamed.
    pub set_aside: Vec<PathBuf>,
    /// The log was poisoned by a failed fsync; its data was written again and synced.
    pub poison_cleared: bool,
    /// The flipped bit in `FORMAT` that was set right; no record is lost by it.
    pub format: Option<Damage>,
}

impl RepairReport {
    /// Whether there was nothing to do.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

struct Repair<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    log_id: u128,
    /// Each record builds on all before it.
    is_journal: bool,
    now_us: i64,
}

/// Repairs a log that nobody has open (`Busy` otherwise).
///
/// A torn tail is cut. Records in a damaged middle are dropped only with `allow_drop`, else the error is
/// `Damaged` and nothing is changed; what is sound on both sides of the damage stays, under its sequence
/// numbers. A poisoned log is written again and synced. Lost sequence numbers are never given out again.
/// A crash during the repair leaves a log that can be repaired.
pub fn repair(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    allow_drop: bool,
    now_us: i64,
) -> Result<RepairReport> {
    let storage = storage.as_ref();
    Format::load_corrected(storage, dir)?;
    let open_lock = directory_lock(storage, dir, OPEN_LOCK, OP)?;
    let io = |e| Error::io(OP, dir, e);
    if !open_lock.try_lock().map_err(io)? {
        return Err(busy(OP, dir));
    }
    // Nobody has it open, but somebody may be creating it.
    let recovery_lock = directory_lock(storage, dir, RECOVERY_LOCK, OP)?;
    recovery_lock.lock().map_err(io)?;
    let (format, format_damage) = Format::load_corrected(storage, dir)?;
    let is_journal = is_journal_label(&format.label);
    let repair = Repair { storage, dir, log_id: format.id, is_journal, now_us };
    let repaired = repair.run(&format, format_damage, allow_drop);
    recovery_lock.unlock().map_err(io)?;
    open_lock.unlock().map_err(io)?;
    repaired
}

impl Repair<'_> {
    fn run(
        &self,
        format: &Format,
        format_damage: Option<Damage>,
        allow_drop: bool,
    ) -> Result<RepairReport> {
        let poisoned = is_poisoned(self.storage, self.dir, OP)?;
        let listing = list(self.storage, self.dir, format, OP)?;
        listing.check_any(self.dir, OP)?;
        let trusted = trusted_end(self.storage, self.dir);
        let end = find_end(self.storage, self.dir, format, &listing, trusted, poisoned)?;
        let cut_base = end.cut.as_ref().map_or(u64::MAX, |cut| cut.segment_base);
        let mut surveys = Vec::new();
        for info in listing.table.segments.iter().filter(|info| info.base() <= cut_base) {
            let bound = match &end.cut {
                Some(cut) if cut.segment_base == info.base() => Bound::At(cut.seq),
                _ => listing.bound(info.base(), end.tail),
            };
            surveys.push((
                Arc::clone(info),
                survey(self.storage, info, bound, end.frames_end(info), OP)?,
            ));
        }
        let mut report = RepairReport {
            poison_cleared: poisoned,
            format: format_damage,
            ..RepairReport::default()
        };
        let headless = listing.headless;
        report.dropped.extend(headless.iter().map(|headless| headless.damage.clone()));
        report.dropped.extend(surveys.iter().flat_map(|(_, found)| found.damage.clone()));
        if let (Some(damage), false) = (report.dropped.first(), allow_drop) {
            return Err(Error::damaged(OP, damage.clone())
                .with("places", report.dropped.len())
                .with("hint", "the records there are lost; repair again and allow dropping them"));
        }
        report.cut.clone_from(&end.cut);
        if report.is_nothing() {
            return Ok(report);
        }
        if report.format.is_some() {
            let path = self.dir.join(FORMAT);
            format.store(self.storage, self.dir).map_err(|e| Error::io(OP, &path, e))?;
        }
        if report.cut.is_some() {
            // Nobody was told of what is cut: it is what opening the log would do.
            recover(self.storage, self.dir, format, false, self.now_us)?;
        }
        if !report.dropped.is_empty() || poisoned {
            self.forget()?;
        }
        let above = above_all(&headless, &surveys).max(end.tail.unwrap_or(0));
        let mut unreadable: Vec<_> = headless.into_iter().map(|headless| headless.path).collect();
        if !report.dropped.is_empty() {
            if self.is_journal {
                unreadable.extend(keep_beginning(&mut report.dropped, &mut surveys));
            }
            // First of all: nothing else keeps the numbers of what is set aside from being given out again.
            self.begin_above(above, surveys.last())?;
        }
        unreadable.sort_unstable();
        for path in unreadable.iter().rev() {
            report.set_aside.extend(self.set_aside(path)?);
        }
        for (at, (info, found)) in surveys.iter().enumerate().rev() {
            self.mend(info, found, surveys.get(at + 1).map(|(next, _)| &**next))?;
            if poisoned && found.end_seq(info.base()) > end.durable {
                self.write_again(info, found)?;
            }
        }
        if poisoned {
            self.unpoison()?;
        }
        self.sync_dir()?;
        Ok(report)
    }

    fn unpoison(&self) -> Result<()> {
        let path = self.dir.join(POISONED);
        match self.storage.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(OP, &path, e)),
            _ => Ok(()),
        }
    }

    /// Takes back what says where the tail is: the next who opens the log looks for himself.
    fn forget(&self) -> Result<()> {
        let control = self.dir.join(CONTROL);
        let io = |e| Error::io(OP, &control, e);
        if self.storage.exists(&control).map_err(io)? {
            Control::new(self.storage.shared_page(&control).map_err(io)?).forget();
        }
        let mark = self.dir.join(CLEAN);
        match self.storage.remove(&mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(OP, &mark, e)),
            _ => {}
        }
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<()> {
        self.storage.sync_dir(self.dir).map_err(|e| Error::io(OP, self.dir, e))
    }

    /// Renames a file out of the way; `None` when it is not even there.
    fn set_aside(&self, path: &Path) -> Result<Option<PathBuf>> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(SET_ASIDE);
        let aside = PathBuf::from(aside);
        match self.storage.rename(path, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(OP, path, e)),
        }
    }

    /// Leaves only sound frames in a segment. Every step leaves a log that says the same or less is lost.
    fn mend(&self, info: &SegmentInfo, found: &Survey, next: Option<&SegmentInfo>) -> Result<()> {
        let end_seq = found.end_seq(info.base());
        if let Some(next) = next
            && next.header.prev_end != end_seq
        {
            self.rewrite_header(next, SegmentHeader { prev_end: end_seq, ..next.header })?;
        }
        if found.damage.is_empty() {
            return Ok(());
        }
        // What lies behind damage goes to segments of its own, the last first.
        let starts_sound = found.runs.first().is_some_and(|run| run.seq == info.base());
        let moved = found.runs.get(usize::from(starts_sound)..).unwrap_or_default();
        for (at, run) in moved.iter().enumerate().rev() {
            let before = at.checked_sub(1).and_then(|at| moved.get(at));
            let first = found.runs.first().filter(|_| starts_sound);
            let prev_end = before.or(first).map_or(info.base(), |run| run.end_seq);
            let header = SegmentHeader {
                salt: fresh_salt(),
                base_seq: run.seq,
                prev_end,
                created_us: self.now_us,
                ..info.header
            };
            self.copy(info, *run, &header)?;
        }
        let kept = found.runs.first().filter(|_| starts_sound);
        let io = |e| Error::io(OP, &info.path, e);
        let file = self.storage.open(&info.path, OpenMode::ReadWrite).map_err(io)?;
        file.truncate(kept.map_or(segment::FRAMES_START, |run| run.end_pos)).map_err(io)?;
        file.sync_all().map_err(io)
    }

    /// Begins a segment above everything that is lost, so that no number of a lost record comes again.
    fn begin_above(&self, above: u64, last: Option<&(Arc<SegmentInfo>, Survey)>) -> Result<()> {
        let (prev_end, prev_time_us) =
            last.map_or((0, 0), |(info, found)| (found.end_seq(info.base()), found.last_time_us));
        let header = SegmentHeader {
            salt: fresh_salt(),
            log_id: self.log_id,
            base_seq: jump_above(above, OP)?,
            prev_end,
            created_us: self.now_us,
            prev_time_us,
            synced_seq: 0,
        };
        let path = segment::path(self.dir, header.base_seq);
        segment::create(self.storage, self.dir, &header)
            .map(drop)
            .map_err(|(e, _)| Error::io(OP, &path, e))
    }

    fn rewrite_header(&self, info: &SegmentInfo, header: SegmentHeader) -> Result<()> {
        let io = |e| Error::io(OP, &info.path, e);
        // A header at the start of a file lies in one sector, which is written whole or not at all.
        let file = self.storage.open(&info.path, OpenMode::ReadWrite).map_err(io)?;
        file.write_all_at(&header.encode(), 0).map_err(io)?;
        file.sync_all().map_err(io)
    }

    /// Writes the last segment anew: after a failed fsync the system may hold for written what is not.
    fn write_again(&self, info: &SegmentInfo, found: &Survey) -> Result<()> {
        // Stretches behind damage were written to files of their own just now; the first one was not.
        let run = found.runs.first().filter(|run| run.seq == info.base()).copied();
        let pos = segment::FRAMES_START;
        let none = Run { pos, end_pos: pos, seq: info.base(), end_seq: info.base() };
        self.copy(info, run.unwrap_or(none), &SegmentHeader { salt: fresh_salt(), ..info.header })
    }

    /// Copies a stretch of frames into a segment of its own, durably, under its final name at once.
    fn copy(&self, from: &SegmentInfo, run: Run, header: &SegmentHeader) -> Result<()> {
        let target = segment::path(self.dir, header.base_seq);
        let tmp = self.dir.join(format!("{}{TMP}", segment::name(header.base_seq)));
        let io = |e| Error::io(OP, &target, e);
        let mut reader = FrameReader::new();
        let source = self.storage.open(&from.path, OpenMode::Read);
        reader.open(source.map_err(|e| Error::io(OP, &from.path, e))?, from.header.salt);
        let file = self.storage.open(&tmp, OpenMode::Create).map_err(io)?;
        file.truncate(0).map_err(io)?;
        file.write_all_at(&header.encode(), 0).map_err(io)?;
        let (mut pos, mut to) = (run.pos, segment::FRAMES_START);
        while pos < run.end_pos {
            let frame = match reader.frame(pos) {
                Ok(frame) => frame,
                Err(ReadError::Io(e)) => return Err(Error::io(OP, &from.path, e)),
                Err(ReadError::Fault(fault)) => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        OP,
                        format!("the segment changed while it was copied ({fault}); try again"),
                    )
                    .with("path", from.path.display()));
                }
            };
            let len = frame.header.frame_len();
            let mut bytes = frame.header.encode(header.salt).to_vec();
            bytes.extend_from_slice(reader.rest(&frame));
            bytes.resize(usize::try_from(len).unwrap_or(bytes.len()), 0);
            file.write_all_at(&bytes, to).map_err(io)?;
            pos += len;
            to += len;
        }
        file.sync_all().map_err(io)?;
        self.storage.rename(&tmp, &target).map_err(io)?;
        self.sync_dir()
    }
}

/// No record was ever given this number or a higher one, as far as the segments tell.
fn above_all(headless: &[Headless], surveys: &[(Arc<SegmentInfo>, Survey)]) -> u64 {
    // A record has a byte at least.
    let unread = headless.iter().map(|headless| {
        let base = headless.damage.segment_base;
        headless.damage.seq_end.unwrap_or(0).max(base.saturating_add(headless.bytes))
    });
    let lost = surveys.iter().flat_map(|(_, found)| &found.damage);
    let lost = lost.map(|damage| damage.seq_end.unwrap_or(damage.seq_start));
    let read = surveys.iter().map(|(info, found)| found.end_seq(info.base()));
    unread.chain(lost).chain(read).fold(0, u64::max)
}

/// Keeps of a log whose records build on each other what lies before the first damage, and calls the rest lost;
/// the files of which nothing is kept.
fn keep_beginning(
    dropped: &mut Vec<Damage>,
    surveys: &mut Vec<(Arc<SegmentInfo>, Survey)>,
) -> Vec<PathBuf> {
    let Some(first) = dropped.iter().min_by_key(|damage| damage.seq_start).cloned() else {
        return Vec::new();
    };
    let (from, base) = (first.seq_start, first.segment_base);
    // What is left without a beginning is nothing at all.
    let is_kept = |info: &SegmentInfo| info.base() < from || (info.base() == from && from == base);
    let has_beginning = surveys.iter().any(|(info, found)| {
        info.base() < from && found.runs.first().is_some_and(|run| run.seq < from)
    });
    let (kept, lost): (Vec<_>, Vec<_>) =
        std::mem::take(surveys).into_iter().partition(|(info, _)| has_beginning && is_kept(info));
    *surveys = kept;
    for (_, found) in &mut *surveys {
        found.runs.retain(|run| run.end_seq <= from);
    }
    *dropped = vec![Damage { seq_end: None, ..first }];
    lost.into_iter().map(|(info, _)| info.path.clone()).collect()
}
