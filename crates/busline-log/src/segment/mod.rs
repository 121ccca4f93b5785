//! A segment: one file of frames behind a 72-byte header.
//!
//! ```text
//!  0      4    8        12    16      32        40        48          56         64          72
//!  | magic| crc| version| salt| log id| base_seq| prev_end| created_us| prev_time| synced_seq| frame | frame | ..
//! ```
//! `crc` is the CRC-32 of bytes 8..72. Behind the last frame the file ends, or only zeros follow.

mod index;
mod reader;
mod table;

pub(crate) use index::{Place, SparseIndex};
pub(crate) use reader::{FrameReader, ReadError};
pub(crate) use table::{SegmentInfo, Table, load_header};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bytes::{field, put, u32_at, u64_at};
use crate::files::{TMP, VERSION};
use crate::storage::{OpenMode, Storage, StorageFile};

/// The bytes before the first frame.
pub(crate) const SEGMENT_HEADER_LEN: usize = 72;
/// Where the first frame stands.
pub(crate) const FRAMES_START: u64 = SEGMENT_HEADER_LEN as u64;

const MAGIC: [u8; 4] = *b"BLS1";
const SUFFIX: &str = ".seg";

/// What the header of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) salt: u32,
    pub(crate) log_id: u128,
    pub(crate) base_seq: u64,
    /// The sequence number after the last record of the segment before.
    pub(crate) prev_end: u64,
    pub(crate) created_us: i64,
    /// The time of the last record before the segment; 0 when there was none.
    pub(crate) prev_time_us: i64,
    /// Every record below this was on the medium when the segment was begun.
    pub(crate) synced_seq: u64,
}

/// Why bytes are no header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged,
    Newer(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0u8; SEGMENT_HEADER_LEN];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, VERSION.to_le_bytes());
        put(&mut out, 12, self.salt.to_le_bytes());
        put(&mut out, 16, self.log_id.to_le_bytes());
        put(&mut out, 32, self.base_seq.to_le_bytes());
        put(&mut out, 40, self.prev_end.to_le_bytes());
        put(&mut out, 48, self.created_us.to_le_bytes());
        put(&mut out, 56, self.prev_time_us.to_le_bytes());
        put(&mut out, 64, self.synced_seq.to_le_bytes());
        let crc = header_crc(&out);
        put(&mut out, 4, crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let raw = bytes.first_chunk::<SEGMENT_HEADER_LEN>().ok_or(HeaderFault::Damaged)?;
        if !raw.starts_with(&MAGIC) || u32_at(raw, 4) != Some(header_crc(raw)) {
            return Err(HeaderFault::Damaged);
        }
        match u32_at(raw, 8) {
            Some(VERSION) => Self::fields(raw).ok_or(HeaderFault::Damaged),
            version => Err(HeaderFault::Newer(version.unwrap_or_default())),
        }
    }

    fn fields(raw: &[u8]) -> Option<Self> {
        let header = Self {
            salt: u32_at(raw, 12)?,
            log_id: u128::from_le_bytes(field(raw, 16)?),
            base_seq: u64_at(raw, 32)?,
            prev_end: u64_at(raw, 40)?,
            created_us: i64::from_le_bytes(field(raw, 48)?),
            prev_time_us: i64::from_le_bytes(field(raw, 56)?),
            synced_seq: u64_at(raw, 64)?,
        };
        let sane = header.prev_end <= header.base_seq && header.synced_seq <= header.base_seq;
        sane.then_some(header)
    }
}

fn header_crc(header: &[u8; SEGMENT_HEADER_LEN]) -> u32 {
    crc32fast::hash(header.get(8..).unwrap_or_default())
}

/// The name of the segment that begins at a sequence number.
pub(crate) fn name(base_seq: u64) -> String {
    format!("{base_seq:020}{SUFFIX}")
}

/// The path of the segment that begins at a sequence number.
pub(crate) fn path(dir: &Path, base_seq: u64) -> PathBuf {
    dir.join(name(base_seq))
}

/// The sequence number in a segment's name; `None` for other names.
pub(crate) fn parse_name(text: &str) -> Option<u64> {
    let digits = text.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Whether anything but zeros stands behind a segment's header.
pub(crate) fn holds_frames(storage: &dyn Storage, dir: &Path, base_seq: u64) -> bool {
    let Ok(file) = storage.open(&path(dir, base_seq), OpenMode::Read) else { return false };
    let mut reader = FrameReader::new();
    reader.open(file, 0);
    // What cannot be read may be records.
    !reader.is_zero_from(FRAMES_START).unwrap_or(false)
}

/// Makes a segment durably; it appears under its name only when its header is on the medium.
/// `Err((error, true))` when it appeared and only its directory entry may not be durable.
pub(crate) fn create(
    storage: &dyn Storage,
    dir: &Path,
    header: &SegmentHeader,
) -> Result<Arc<dyn StorageFile>, (io::Error, bool)> {
    let tmp = dir.join(format!("{}{TMP}", name(header.base_seq)));
    let write = || {
        let file = storage.open(&tmp, OpenMode::Create)?;
        file.truncate(0)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        storage.rename(&tmp, &path(dir, header.base_seq))?;
        Ok(file)
    };
    let file = write().map_err(|e| {
        // The error to report is the first one; a left-over is overwritten by the next attempt.
        let _ = storage.remove(&tmp);
        (e, false)
    })?;
    storage.sync_dir(dir).map_err(|e| (e, true))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_no_flip_goes_unseen() {
        let header = SegmentHeader {
            salt: 3,
            log_id: 1 << 100,
            base_seq: 9,
            prev_end: 8,
            created_us: -1,
            prev_time_us: 5,
            synced_seq: 7,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for at in 0..bytes.len() {
            let mut torn = bytes;
            torn[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&torn), Err(HeaderFault::Damaged), "byte {at}");
            assert_eq!(SegmentHeader::decode(&bytes[..at]), Err(HeaderFault::Damaged));
        }
    }

    #[test]
    fn names_are_exact() {
        assert_eq!(parse_name(&name(42)), Some(42));
        assert_eq!(parse_name(&name(u64::MAX)), Some(u64::MAX));
        for other in ["42.seg", "FORMAT", "+0000000000000000042.seg", "99999999999999999999.seg"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
