//! The small files beside the segments: `FORMAT`, the clean mark and the poison note.

use std::io;
use std::path::{Path, PathBuf};

use crate::bytes::{field, u32_at, u64_at};
use crate::control::Tail;
use crate::error::{Damage, Error, ErrorKind, Result};
use crate::storage::{OpenMode, Storage, StorageFile};

pub(crate) const FORMAT: &str = "FORMAT";
pub(crate) const CLEAN: &str = "CLEAN";
pub(crate) const POISONED: &str = "POISONED";
pub(crate) const CONTROL: &str = "control";
pub(crate) const RECOVERY_LOCK: &str = "recovery.lock";
pub(crate) const SYNC_LOCK: &str = "sync.lock";
pub(crate) const OPEN_LOCK: &str = "open.lock";
pub(crate) const BELLS: &str = "bells";
/// What the file of one who appends is called, before 8 hex digits.
pub(crate) const HOLDER: &str = "holder.";
/// What a file is called while it is being written.
pub(crate) const TMP: &str = ".tmp";

/// The version of the bytes on disk.
pub(crate) const VERSION: u32 = 1;
/// The longest label, in bytes: 64 KiB.
pub const LABEL_BYTES_MAX: usize = 64 << 10;

const FORMAT_MAGIC: [u8; 8] = *b"BUSLNLOG";
const CLEAN_MAGIC: [u8; 8] = *b"BUSLNCLN";
const SMALL_FILE_BYTES_MAX: u64 = 128 << 10;

/// What the `FORMAT` file says: which log this is, and what its user wrote on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) id: u128,
    pub(crate) label: Vec<u8>,
}

impl Format {
    /// `magic 8 | version 4 | label_len 4 | id 16 | label | crc 4`
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = FORMAT_MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.label.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.label);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let label_len = u32_at(bytes, 12)? as usize;
        let id = u128::from_le_bytes(field(bytes, 16)?);
        let body = checked_body(bytes)?;
        let label = body.get(32..)?;
        (label.len() == label_len).then(|| Self { id, label: label.to_vec() })
    }

    /// What the file said before one of its bits changed, and the byte where that is; `None` when one bit alone
    /// does not explain it.
    fn correct(bytes: &[u8]) -> Option<(Self, usize)> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let difference = crc32fast::hash(body) ^ u32::from_le_bytes(*crc);
        let (mut right, mut at) = (body.to_vec(), body.len());
        if difference.count_ones() == 1 {
            // It is in the checksum itself.
            at += difference.trailing_zeros() as usize / 8;
        } else {
            // A flipped bit changes the checksum by what its byte, with zeros behind it, would come to.
            let mut changes: [u32; 8] = std::array::from_fn(|bit| 1 << bit);
            let bit = loop {
                at = at.checked_sub(1)?;
                changes = changes.map(crc_of_zero_byte);
                if let Some(bit) = changes.iter().position(|change| *change == difference) {
                    break bit;
                }
            };
            *right.get_mut(at)? ^= 1 << bit;
        }
        right.extend_from_slice(&crc32fast::hash(&right).to_le_bytes());
        let is_ours = right.starts_with(&FORMAT_MAGIC) && u32_at(&right, 8) == Some(VERSION);
        Some((Self::decode(&right)?, at)).filter(|_| is_ours)
    }

    /// As [`Format::load`]; a file of which one bit flipped is read as it was, if the segments agree that
    /// this is their log, and the damage is told beside it.
    pub(crate) fn load_corrected(
        storage: &dyn Storage,
        dir: &Path,
    ) -> Result<(Self, Option<Damage>)> {
        let damaged = match Self::load(storage, dir) {
            Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Foreign) => e,
            loaded => return Ok((loaded?, None)),
        };
        let path = dir.join(FORMAT);
        let bytes = read_small(storage, &path).unwrap_or_default();
        let Some((format, at)) = Self::correct(&bytes) else { return Err(damaged) };
        let names = storage.list(dir).unwrap_or_default();
        let mut bases = names.iter().filter_map(|name| crate::segment::parse_name(name));
        let is_of = |base| {
            let path = crate::segment::path(dir, base);
            crate::segment::load_header(storage, &path, base, format.id).is_ok_and(|h| h.is_some())
        };
        if !bases.any(is_of) {
            return Err(damaged);
        }
        let damage = Damage {
            path,
            segment_base: 0,
            offset_start: at as u64,
            offset_end: at as u64 + 1,
            seq_start: 0,
            seq_end: Some(0),
            cause: "one bit is flipped; a repair sets it right, and no record is lost".to_owned(),
        };
        Ok((format, Some(damage)))
    }

    /// Writes the file durably.
    pub(crate) fn store(&self, storage: &dyn Storage, dir: &Path) -> io::Result<()> {
        write_atomic(storage, dir, FORMAT, &self.encode())
    }

    /// Reads the file of a directory.
    pub(crate) fn load(storage: &dyn Storage, dir: &Path) -> Result<Self> {
        const OP: &str = "open a log";
        let path = dir.join(FORMAT);
        let bytes = match read_small(storage, &path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(no_log(storage, dir)),
            Err(e) => return Err(Error::io(OP, &path, e)),
        };
        // The checksum comes first, and ends the file in every version: a version that changed by itself is damage.
        if checked_body(&bytes).is_none() {
            return Err(if has_segments(storage, dir) || bytes.starts_with(&FORMAT_MAGIC) {
                damaged_small(OP, &path)
            } else {
                foreign_format(OP, &path)
            });
        }
        if !bytes.starts_with(&FORMAT_MAGIC) {
            return Err(foreign_format(OP, &path));
        }
        match u32_at(&bytes, 8) {
            Some(VERSION) => {}
            Some(version) => return Err(newer(OP, &path, version)),
            None => return Err(damaged_small(OP, &path)),
        }
        Self::decode(&bytes).ok_or_else(|| damaged_small(OP, &path))
    }
}

/// The error for a version above ours.
pub(crate) fn newer(operation: &'static str, path: &Path, version: u32) -> Error {
    Error::new(
        ErrorKind::Newer,
        operation,
        "it was written in another format version; use the program version that wrote it or a newer one",
    )
    .with("path", path.display())
    .with("version", version)
    .with("version_known", VERSION)
}

fn damaged_small(operation: &'static str, path: &Path) -> Error {
    Error::new(
        ErrorKind::Damaged,
        operation,
        "the file is damaged; restore it from a backup of the directory",
    )
    .with("path", path.display())
}

fn foreign_format(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::Foreign, operation, "the FORMAT file is not one of a log")
        .with("path", path.display())
}

fn has_segments(storage: &dyn Storage, dir: &Path) -> bool {
    let names = storage.list(dir).unwrap_or_default();
    names.iter().any(|name| crate::segment::parse_name(name).is_some())
}

/// The error for a log whose FORMAT is gone: there are records, which no creation that was cut off leaves behind.
pub(crate) fn without_format(
    storage: &dyn Storage,
    dir: &Path,
    operation: &'static str,
) -> Option<Error> {
    let names = storage.list(dir).unwrap_or_default();
    let mut bases = names.iter().filter_map(|name| crate::segment::parse_name(name));
    let has_records = bases.any(|base| crate::segment::holds_frames(storage, dir, base));
    // Somebody may have finished making it meanwhile, and written to it.
    let is_gone = has_records && storage.exists(&dir.join(FORMAT)).is_ok_and(|there| !there);
    is_gone.then(|| {
        Error::new(
            ErrorKind::Damaged,
            operation,
            "the FORMAT file is missing from a log that has records; restore it from a backup, or remove \
             the directory if it was being deleted",
        )
        .with("path", dir.join(FORMAT).display())
    })
}

fn no_log(storage: &dyn Storage, dir: &Path) -> Error {
    const OP: &str = "open a log";
    match storage.list(dir) {
        Ok(names) if !names.iter().all(|n| is_leftover(n)) => without_format(storage, dir, OP)
            .unwrap_or_else(|| {
                let message =
                    "the directory is no log: it has no FORMAT file; give another directory";
                Error::new(ErrorKind::Foreign, OP, message).with("path", dir.display())
            }),
        _ => Error::new(ErrorKind::NotFound, OP, "there is no log here; create it first")
            .with("path", dir.display()),
    }
}

/// Whether a name may stand in a directory whose creation was interrupted.
pub(crate) fn is_leftover(name: &str) -> bool {
    matches!(name, CONTROL | RECOVERY_LOCK | SYNC_LOCK | OPEN_LOCK | BELLS | CLEAN)
        || name.starts_with(HOLDER)
        || name.ends_with(TMP)
        || crate::segment::parse_name(name) == Some(0)
}

/// The clean mark: everything up to this tail is on the medium, and nothing was written after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CleanMark {
    pub(crate) log_id: u128,
    pub(crate) tail: Tail,
}

impl CleanMark {
    /// `magic 8 | id 16 | active_base 8 | seq 8 | pos 8 | last_time 8 | crc 4`
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = CLEAN_MAGIC.to_vec();
        out.extend_from_slice(&self.log_id.to_le_bytes());
        for word in [self.tail.active_base, self.tail.seq, self.tail.pos] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.tail.last_time_us.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let body = checked_body(bytes)?;
        if body.len() != 56 || !body.starts_with(&CLEAN_MAGIC) {
            return None;
        }
        let tail = Tail {
            active_base: u64_at(body, 24)?,
            seq: u64_at(body, 32)?,
            pos: u64_at(body, 40)?,
            last_time_us: i64::from_le_bytes(field(body, 48)?),
        };
        Some(Self { log_id: u128::from_le_bytes(field(body, 8)?), tail })
    }

    /// Reads the mark; `None` when there is none, or none that can be believed.
    pub(crate) fn load(storage: &dyn Storage, dir: &Path, log_id: u128) -> Option<Self> {
        let bytes = read_small(storage, &dir.join(CLEAN)).ok()?;
        Self::decode(&bytes).filter(|mark| mark.log_id == log_id)
    }

    pub(crate) fn store(&self, storage: &dyn Storage, dir: &Path) -> io::Result<()> {
        write_atomic(storage, dir, CLEAN, &self.encode())
    }
}

/// What a checksum that is under way becomes by a byte of zero.
fn crc_of_zero_byte(crc: u32) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    (0..8).fold(crc, |crc, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
}

fn checked_body(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    (crc32fast::hash(body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// Reads a file that is small by construction; a longer one is an error, not an allocation.
pub(crate) fn read_small(storage: &dyn Storage, path: &Path) -> io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > SMALL_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long to be ours"));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = read_full(file.as_ref(), &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Reads until the buffer is full or the file ends; returns the number of bytes.
pub(crate) fn read_full(file: &dyn StorageFile, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Writes a small file so that it is there as a whole and durably, or not at all.
pub(crate) fn write_atomic(
    storage: &dyn Storage,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let tmp: PathBuf = dir.join(format!("{name}{TMP}"));
    let write = || {
        let file = storage.open(&tmp, OpenMode::Create)?;
        file.truncate(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()?;
        storage.rename(&tmp, &dir.join(name))
    };
    if let Err(e) = write() {
        // The error to report is the first one; a left-over is overwritten by the next attempt.
        let _ = storage.remove(&tmp);
        return Err(e);
    }
    storage.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_and_mark_come_back_and_no_flip_goes_unseen() {
        let format = Format { id: 7, label: b"topic".to_vec() };
        let mark = CleanMark {
            log_id: 9,
            tail: Tail { active_base: 1, seq: 2, pos: 64, last_time_us: -5 },
        };
        assert_eq!(Format::decode(&format.encode()), Some(format.clone()));
        assert_eq!(CleanMark::decode(&mark.encode()), Some(mark));
        for at in 0..format.encode().len() {
            let mut bytes = format.encode();
            bytes[at] ^= 1;
            assert_eq!(Format::decode(&bytes), None, "byte {at}");
        }
        for at in 0..format.encode().len() * 8 {
            let mut bytes = format.encode();
            bytes[at / 8] ^= 1 << (at % 8);
            assert_eq!(Format::correct(&bytes), Some((format.clone(), at / 8)), "bit {at}");
            for second in [1, 7, 8, 40, 131].map(|step| (at + step) % (bytes.len() * 8)) {
                let mut bytes = bytes.clone();
                bytes[second / 8] ^= 1 << (second % 8);
                assert_eq!(Format::correct(&bytes), None, "bits {at} and {second}");
            }
        }
        for at in 0..mark.encode().len() {
            let mut bytes = mark.encode();
            bytes[at] ^= 0x80;
            assert_eq!(CleanMark::decode(&bytes), None, "byte {at}");
            assert_eq!(CleanMark::decode(&mark.encode()[..at]), None, "cut at {at}");
        }
    }
}
