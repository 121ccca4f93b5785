//! The list of what was done to a medium in memory, for tests that look at the order of things.

use std::path::PathBuf;
use std::sync::Arc;

/// One change of the medium. Paths are the ones that were used to name or open the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemOp {
    /// A file came into being.
    Create(PathBuf),
    /// A directory came into being.
    CreateDir(PathBuf),
    /// Bytes were written.
    Write {
        /// The file.
        path: PathBuf,
        /// The position in bytes.
        at: u64,
        /// The bytes.
        data: Arc<[u8]>,
    },
    /// The length was set.
    Truncate {
        /// The file.
        path: PathBuf,
        /// The length in bytes.
        len: u64,
    },
    /// A file was made durable (`sync_data`, `sync_all` or a page's `sync`).
    Sync(PathBuf),
    /// A directory's entries were made durable.
    SyncDir(PathBuf),
    /// A file or directory was renamed.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// A file was removed.
    Remove(PathBuf),
    /// A directory was removed with all that was in it.
    RemoveDirAll(PathBuf),
}
