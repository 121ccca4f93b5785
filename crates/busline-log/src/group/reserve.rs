//! Space kept for the time when there is none: settling goes on while the disk is full.
//!
//! A file of this size lies in each lasting group's directory. When an append finds the medium full
//! the file is removed and the append repeated; from then on the group's log is compacted long before
//! it took as much, which gives back what it takes, until there is room for the file again. Somebody
//! else may be quicker to take the space: it is a help, no promise. Who publishes to the log can leave it alone,
//! by looking at [`Storage::free_bytes`](crate::storage::Storage::free_bytes) once an append was refused.

use crate::Log;
use crate::storage::OpenMode;

const FILE: &str = "reserve";
const BYTES: usize = 64 << 10;

/// How far a group's log grows while its reserve is spent, before it is compacted.
pub(super) const SNAPSHOT_BYTES: u64 = BYTES as u64 / 4;

/// Makes sure that the reserve is there; false when there is no room for it.
pub(super) fn fill(journal: &Log) -> bool {
    let path = journal.dir().join(FILE);
    let Ok(file) = journal.storage().open(&path, OpenMode::Create) else { return false };
    if file.len().is_ok_and(|len| len == BYTES as u64) {
        return true;
    }
    // Bytes that no file system stores in less room than they have.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; BYTES];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let filled = file.write_all_at(&bytes, 0).is_ok();
    drop(file);
    if !filled {
        let _ = journal.storage().remove(&path);
    }
    filled
}

/// Gives the reserve back to the medium; false when there was none.
pub(super) fn spend(journal: &Log) -> bool {
    let path = journal.dir().join(FILE);
    let storage = journal.storage();
    storage.exists(&path).unwrap_or(false) && storage.remove(&path).is_ok()
}
