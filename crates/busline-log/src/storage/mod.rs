//! The seam below the log: files, directories, locks, shared pages and bells, with an in-memory twin.
//!
//! Everything the log does to a medium goes through [`Storage`], so that a test can hold the medium
//! in memory, make it fail, and take its power away. All calls are synchronous; none keeps a
//! reference to a buffer after it returned.

#![cfg_attr(not(unix), allow(dead_code))] // without a real storage its helpers have no user

#[cfg(test)]
mod contract;
mod faulty;
mod fork;
#[cfg(unix)]
mod fs;
mod mem;
#[cfg(all(test, unix))]
mod parity;
mod words;

pub use faulty::{Call, Fault, FaultPlan, FaultyStorage, Gate};
#[allow(unused_imports)] // the log takes it from here
pub(crate) use fork::ForkGuard;
#[cfg(unix)]
pub use fs::FsStorage;
pub use mem::{MemOp, MemStorage, Unsynced};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// How [`Storage::open`] opens a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file, for reading and writing; `AlreadyExists` when there is one.
    CreateNew,
    /// An existing or a new file, for reading and writing; never truncated.
    Create,
}

/// A medium that holds directories, files, locks and shared pages.
///
/// Durability follows POSIX as file systems keep it: data of a file is durable after
/// [`StorageFile::sync_data`], its directory entry after [`Storage::sync_dir`] on the parent.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;
    /// Whether something stands at this path.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes a directory and its missing parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted; `NotFound` when it is missing.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Renames a file or directory, replacing a file at the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens (and creates) a lock file; nothing is locked yet.
    fn lock_file(&self, path: &Path) -> io::Result<Arc<dyn StorageLock>>;
    /// Maps one page of words that every process (and every handle) that opens this path shares.
    fn shared_page(&self, path: &Path) -> io::Result<Arc<dyn SharedPage>>;
    /// Makes the reading end of a bell at this path.
    fn bell(&self, path: &Path) -> io::Result<Arc<dyn Bell>>;
    /// A rope to the bell at this path; `None` when nobody owns it any more.
    fn rope(&self, path: &Path) -> io::Result<Option<Arc<dyn Rope>>>;
    /// Rings the bell at this path; `Ok(false)` when nobody owns it any more.
    fn ring(&self, path: &Path) -> io::Result<bool> {
        self.rope(path)?.map_or(Ok(false), |rope| rope.ring())
    }
    /// What is known about the medium below a path: whether it is remote.
    fn is_remote(&self, path: &Path) -> io::Result<bool>;
    /// How many bytes may still be written below a path, where that can be told: a quota or a limit may allow less.
    fn free_bytes(&self, path: &Path) -> io::Result<Option<u64>> {
        let _ = path;
        Ok(None)
    }
    /// Identifies this boot of the machine; shared pages of another boot are not believed.
    fn boot_id(&self) -> io::Result<u128>;
}

/// An open file. Positional, shared by threads.
#[allow(clippy::len_without_is_empty)]
pub trait StorageFile: fmt::Debug + Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes at `at`; fewer at the end of the file, 0 beyond it.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// As [`StorageFile::read_at`], but only what is in memory: fewer bytes, or `None` when the first of
    /// them would have to be waited for, or nobody can tell.
    fn try_read_at(&self, _buf: &mut [u8], _at: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }
    /// Writes all of `buf` at `at`. After an error any part of it may have been written.
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Makes room for small writes: the file has `until` bytes at least afterwards, zeros where nothing was written, and
    /// [`StorageFile::write_reserved`] of this handle fills `from..until`. `Ok(false)` where there is no such way; after
    /// an error the file may be longer.
    fn reserve(&self, _from: u64, _until: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// As [`StorageFile::write_all_at`], without a system call, if all of it lies in what this handle reserved last;
    /// `Ok(false)` when it does not: nothing was written then. The file must be as long as it was made by reserving:
    /// who cuts it makes sure that nobody writes so any more.
    fn write_reserved(&self, _buf: &[u8], _at: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Sets the length.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Makes the data and the length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes the data and all metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
}

/// A lock that dies with its holder: `flock` on disk. One object is one holder; locking it again
/// while it is held changes the kind of the lock, and not in one step: an exclusive lock asked for
/// while the shared one is held gives that up first, so a [`StorageLock::try_lock`] that returns
/// `false` leaves its caller with no lock at all.
pub trait StorageLock: fmt::Debug + Send + Sync + 'static {
    /// Waits for the exclusive lock.
    fn lock(&self) -> io::Result<()>;
    /// Takes the exclusive lock if nobody else holds any.
    fn try_lock(&self) -> io::Result<bool>;
    /// Takes the shared lock if nobody holds the exclusive one.
    fn try_lock_shared(&self) -> io::Result<bool>;
    /// Waits for the shared lock.
    fn lock_shared(&self) -> io::Result<()>;
    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;
}

/// The number of 64-bit words in a shared page.
pub const PAGE_WORDS: usize = 512;

/// One page of atomic words shared by every process that mapped it.
pub trait SharedPage: fmt::Debug + Send + Sync + 'static {
    /// The words, valid for as long as the page is held.
    fn words(&self) -> &[AtomicU64; PAGE_WORDS];
    /// A token of the page's identity (device and inode): a copied file has another.
    fn identity(&self) -> u128;
    /// Waits until `word` no longer holds `expected`, a wake-up, or the timeout. May wake spuriously.
    fn wait(&self, word: usize, expected: u32, timeout: Option<Duration>);
    /// Wakes all who wait on `word`; the low half of the 64-bit word is the futex.
    fn wake(&self, word: usize);
    /// Wakes one who waits on `word`, or more.
    fn wake_one(&self, word: usize) {
        self.wake(word);
    }
    /// The low 32 bits of a word, the part [`SharedPage::wait`] watches. A word that is used in halves
    /// is only used in halves: atomic accesses of two sizes must not race.
    fn low(&self, word: usize) -> &AtomicU32;
    /// Makes the page durable.
    fn sync(&self) -> io::Result<()>;
}

/// The reading end of a bell: readable when somebody rang.
pub trait Bell: fmt::Debug + Send + Sync + 'static {
    /// Empties the bell; true when it had been rung.
    fn drain(&self) -> io::Result<bool>;
    /// Waits until it is rung or the timeout has passed; true when rung.
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool>;
    /// The file descriptor to watch, where there is one.
    #[cfg(unix)]
    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>>;
    /// Where it stands.
    fn path(&self) -> PathBuf;
}

/// What a bell is rung by, any number of times.
pub trait Rope: fmt::Debug + Send + Sync + 'static {
    /// Rings; `Ok(false)` when nobody owns the bell any more.
    fn ring(&self) -> io::Result<bool>;
}

/// Makes a directory and its missing parents, durably, one after the other: so of those that are there only
/// the last one's name may not be durable, when whoever made it died before he could sync it.
pub fn make_dir(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = Some(dir);
    while let Some(path) = at.filter(|path| !path.as_os_str().is_empty()) {
        if storage.exists(path)? {
            break;
        }
        missing.push(path);
        at = path.parent();
    }
    if let Some(last) = at.filter(|path| path.parent().is_some()) {
        match storage.sync_dir(parent_of(last)) {
            // Above what is ours: a directory that may be passed through and not be read.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    for path in missing.into_iter().rev() {
        storage.create_dir_all(path)?;
        storage.sync_dir(parent_of(path))?;
    }
    Ok(())
}

/// The directory that the name of a path is in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
