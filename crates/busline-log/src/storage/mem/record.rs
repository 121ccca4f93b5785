//! What was done to a medium in memory, and what of it a loss of power asks about.

use std::path::{Path, PathBuf};
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

/// Something that was not synced when the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Unsynced<'a> {
    /// A change of directories: the how manyth since the last one that is durable, and the name that it
    /// concerns last. It arrived or not.
    Name(usize, &'a str),
    /// The length of a file: the durable one, or one of those that it had since.
    Length(&'a Path),
    /// A sector of 512 bytes of a file, by its number: what is durable, or what one of the writes since made it.
    Sector(&'a Path, usize),
}

/// Picks one of so many outcomes, 0 being that nothing arrived.
pub(super) type Choice<'a> = dyn FnMut(Unsynced<'_>, usize) -> usize + 'a;
