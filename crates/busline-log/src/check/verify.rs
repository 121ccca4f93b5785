//! Reads every byte of a log and reports on each segment; changes nothing.

use std::path::{Path, PathBuf};

use crate::check::survey::{Bound, Headless, find_end, is_poisoned, list, survey, trusted_end};
use crate::error::{Damage, Result};
use crate::files::{CleanMark, Format, POISONED, read_small};
use crate::options::Cut;
use crate::storage::Storage;

const OP: &str = "verify a log";

/// What a segment is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentState {
    /// Every byte is as it was written.
    Sound,
    /// The end was torn by a crash, here or in a segment before; no receipt covers what opening the log
    /// will cut.
    TornTail(Cut),
    /// Records are lost that should be there.
    Damaged(Vec<Damage>),
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub path: PathBuf,
    /// The sequence number with which it begins.
    pub base_seq: u64,
    /// The sequence number after its last sound record.
    pub end_seq: u64,
    /// How many sound records it has.
    pub records: u64,
    /// The length of its file.
    pub bytes: u64,
    /// What it is like.
    pub state: SegmentState,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Each segment, in order.
    pub segments: Vec<SegmentReport>,
    /// What was noted when an fsync failed, if one did and the log was not repaired since.
    pub poisoned: Option<String>,
    /// Whether the log was closed cleanly (or is new) and not written since.
    pub clean: bool,
    /// What is wrong with `FORMAT` that a repair sets right without losing a record.
    pub format: Option<Damage>,
}

impl VerifyReport {
    /// Whether nothing is damaged and nothing poisoned; a torn tail is mended by opening the log.
    pub fn is_sound(&self) -> bool {
        self.poisoned.is_none() && self.format.is_none() && self.damage().next().is_none()
    }

    /// All damage to records, in order.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.segments.iter().flat_map(|segment| match &segment.state {
            SegmentState::Damaged(damage) => damage.as_slice(),
            _ => &[],
        })
    }

    /// How many sound records there are.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }
}

/// Reads every byte of a log and checks it. The log may be in use: what is being appended meanwhile is
/// left out. Reads at the speed of the medium, with memory for one frame.
///
/// # Errors
/// `Damaged` when `FORMAT` or all segments are gone or beyond reading: then there are no records to look at.
pub fn verify(storage: &dyn Storage, dir: &Path) -> Result<VerifyReport> {
    let (format, format_damage) = Format::load_corrected(storage, dir)?;
    let mark = CleanMark::load(storage, dir, format.id);
    let poisoned = poison_note(storage, dir)?;
    // The tail first, then the segments: what is listed holds all that is below it.
    let trusted = trusted_end(storage, dir);
    let listing = list(storage, dir, &format, OP)?;
    listing.check_any(dir, OP)?;
    let end = find_end(storage, dir, &format, &listing, trusted, poisoned.is_some())?;
    let mut segments: Vec<_> = listing.headless.iter().map(headless).collect();
    for info in &listing.table.segments {
        let base = info.base();
        let cut = end.cut.as_ref().filter(|cut| cut.segment_base <= base);
        let bound = match cut {
            Some(cut) if cut.segment_base == base => Bound::At(cut.seq),
            Some(_) => Bound::At(base),
            None => listing.bound(base, end.tail),
        };
        let found = match survey(storage, info, bound, end.frames_end(info), OP) {
            Ok(found) => found,
            // Removed by retention meanwhile.
            Err(_) if !storage.exists(&info.path).unwrap_or(true) => continue,
            Err(e) => return Err(e),
        };
        let (end_seq, records) = (found.end_seq(base), found.records());
        let state = match (found.damage.is_empty(), cut) {
            (false, _) => SegmentState::Damaged(found.damage),
            (true, Some(cut)) => SegmentState::TornTail(cut.clone()),
            (true, None) => SegmentState::Sound,
        };
        let (path, bytes) = (info.path.clone(), found.bytes);
        segments.push(SegmentReport { path, base_seq: base, end_seq, records, bytes, state });
    }
    segments.sort_by_key(|segment| segment.base_seq);
    let clean = mark.is_some();
    Ok(VerifyReport { segments, poisoned, clean, format: format_damage })
}

/// Why the log refuses writes, if an fsync failed.
fn poison_note(storage: &dyn Storage, dir: &Path) -> Result<Option<String>> {
    if !is_poisoned(storage, dir, OP)? {
        return Ok(None);
    }
    let note = read_small(storage, &dir.join(POISONED)).unwrap_or_default();
    let note = String::from_utf8_lossy(&note).trim().to_owned();
    let unknown = "an fsync failed, and what it was could not be noted";
    Ok(Some(if note.is_empty() { unknown.to_owned() } else { note }))
}

fn headless(headless: &Headless) -> SegmentReport {
    let base_seq = headless.damage.segment_base;
    SegmentReport {
        path: headless.path.clone(),
        base_seq,
        end_seq: base_seq,
        records: 0,
        bytes: headless.bytes,
        state: SegmentState::Damaged(vec![headless.damage.clone()]),
    }
}
