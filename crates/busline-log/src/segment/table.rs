//! The segments of a log, in order, as their headers tell.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Damage, Error, ErrorKind, Result};
use crate::files::{newer, read_full};
use crate::segment::{
    HeaderFault, SEGMENT_HEADER_LEN, SegmentHeader, SparseIndex, parse_name, path,
};
use crate::storage::{OpenMode, Storage};

/// One segment.
#[derive(Debug)]
pub(crate) struct SegmentInfo {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    index: Mutex<SparseIndex>,
}

impl SegmentInfo {
    pub(crate) fn new(dir: &Path, header: SegmentHeader) -> Self {
        let path = path(dir, header.base_seq);
        Self { header, path, index: Mutex::new(SparseIndex::new()) }
    }

    pub(crate) fn base(&self) -> u64 {
        self.header.base_seq
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, SparseIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All segments, by base; never empty once loaded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) segments: Vec<Arc<SegmentInfo>>,
    /// The generation of the structure that it was read in.
    pub(crate) generation: u64,
}

impl Table {
    /// Lists a directory and reads the headers that `known` does not have. Segments below `first` are
    /// what a removal left behind. A segment that vanishes meanwhile is left out.
    pub(crate) fn load(
        storage: &dyn Storage,
        dir: &Path,
        log_id: u128,
        known: &Self,
        first: u64,
    ) -> Result<Self> {
        const OP: &str = "list the segments";
        let names = storage.list(dir).map_err(|e| Error::io(OP, dir, e))?;
        let mut segments = Vec::new();
        for base in names.iter().filter_map(|name| parse_name(name)).filter(|&base| base >= first) {
            if let Some(info) = known.get(base) {
                segments.push(Arc::clone(info));
            } else if let Some(header) = load_header(storage, &path(dir, base), base, log_id)? {
                segments.push(Arc::new(SegmentInfo::new(dir, header)));
            }
        }
        let table = Self::of(segments);
        if table.segments.is_empty() {
            return Err(Error::new(
                ErrorKind::Damaged,
                OP,
                "the log has a FORMAT file but no segments; restore them from a backup",
            )
            .with("path", dir.display()));
        }
        Ok(table)
    }

    /// The table of these segments, without those that a later one replaces: a recovery begins a segment
    /// whose `prev_end` is where the records end that survived, and then removes what lies between.
    pub(crate) fn of(mut segments: Vec<Arc<SegmentInfo>>) -> Self {
        segments.sort_unstable_by_key(|info| info.base());
        let mut bound = u64::MAX;
        let mut kept: Vec<Arc<SegmentInfo>> = Vec::with_capacity(segments.len());
        for info in segments.into_iter().rev() {
            if info.base() <= bound {
                bound = info.header.prev_end;
                kept.push(info);
            }
        }
        kept.reverse();
        Self { segments: kept, generation: 0 }
    }

    /// The segment with exactly this base.
    pub(crate) fn get(&self, base: u64) -> Option<&Arc<SegmentInfo>> {
        let at = self.segments.binary_search_by_key(&base, |info| info.base()).ok()?;
        self.segments.get(at)
    }

    /// The last segment that begins at or before a sequence number.
    pub(crate) fn floor(&self, seq: u64) -> Option<usize> {
        self.segments.partition_point(|info| info.base() <= seq).checked_sub(1)
    }

    /// The segment after the one with this base.
    pub(crate) fn after(&self, base: u64) -> Option<&Arc<SegmentInfo>> {
        self.segments.get(self.segments.partition_point(|info| info.base() <= base))
    }

    /// Where a segment's records end: known for all but the last.
    pub(crate) fn end_of(&self, base: u64) -> Option<u64> {
        self.after(base).map(|next| next.header.prev_end)
    }

    /// How many records lie in `from..to`, when the last one ends at `tail`; gaps are not counted.
    pub(crate) fn count(&self, from: u64, to: u64, tail: u64) -> u64 {
        let mut count = 0;
        for info in &self.segments {
            let end = self.end_of(info.base()).unwrap_or(tail);
            count += end.min(to).saturating_sub(info.base().max(from));
        }
        count
    }
}

/// Reads and checks a segment's header; `None` when the file is gone.
pub(crate) fn load_header(
    storage: &dyn Storage,
    path: &Path,
    base: u64,
    log_id: u128,
) -> Result<Option<SegmentHeader>> {
    const OP: &str = "read a segment's header";
    let file = match storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(OP, path, e)),
    };
    let mut bytes = [0u8; SEGMENT_HEADER_LEN];
    let read = read_full(file.as_ref(), &mut bytes, 0).map_err(|e| Error::io(OP, path, e))?;
    let cause = match SegmentHeader::decode(bytes.get(..read).unwrap_or_default()) {
        Ok(header) if header.base_seq == base && header.log_id == log_id => {
            return Ok(Some(header));
        }
        Ok(header) if header.log_id != log_id => "the segment belongs to another log",
        Ok(_) => "the segment's name does not match its header",
        Err(HeaderFault::Newer(version)) => return Err(newer(OP, path, version)),
        Err(HeaderFault::Damaged) => "the segment's header is damaged",
    };
    Err(Error::damaged(
        OP,
        Damage {
            path: path.to_owned(),
            segment_base: base,
            offset_start: 0,
            offset_end: SEGMENT_HEADER_LEN as u64,
            seq_start: base,
            seq_end: None,
            cause: cause.to_owned(),
        },
    ))
}
