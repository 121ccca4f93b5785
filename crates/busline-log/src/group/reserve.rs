//! Space kept for the time when there is none: settling goes on while the disk is full.
//!
//! A file of this size lies in each lasting group's directory. When an append finds the medium full
//! the file is removed, the append repeated, and the group's log compacted at once, which gives back
//! more than it takes; then the file is written anew. Somebody else may be quicker to take the space:
//! it is a help, no promise.

use crate::Log;
use crate::storage::OpenMode;

const FILE: &str = "reserve";
const BYTES: usize = 64 << 10;

/// Makes sure that the reserve is there, if there is room for it.
pub(super) fn fill(journal: &Log) {
    let path = journal.dir().join(FILE);
    let Ok(file) = journal.storage().open(&path, OpenMode::Create) else { return };
    if file.len().is_ok_and(|len| len == BYTES as u64) {
        return;
    }
    // Bytes that no file system stores in less room than they have.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Vec<u8> = noise.take(BYTES / 8).flatten().collect();
    if file.write_all_at(&bytes, 0).is_err() {
        drop(file);
        let _ = journal.storage().remove(&path);
    }
}

/// Gives the reserve back to the medium; false when there was none.
pub(super) fn spend(journal: &Log) -> bool {
    let path = journal.dir().join(FILE);
    let storage = journal.storage();
    storage.exists(&path).unwrap_or(false) && storage.remove(&path).is_ok()
}
