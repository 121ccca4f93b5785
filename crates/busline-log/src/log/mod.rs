//! The log: one directory, shared by every handle and process that opens it.

mod append;
mod append_lock;
mod close;
mod commit;
mod doorbell;
#[cfg(test)]
mod holder_tests;
mod open;
mod recovery;
mod retain;
mod roll;
mod stats;
#[cfg(test)]
mod tests;
mod wait;
mod zeros;

pub use append::{AppendGuard, Appended, Appender};
pub use doorbell::Doorbell;
pub use retain::{Removed, RetainPolicy};
pub use stats::Stats;
pub use wait::Mark;

pub(crate) use open::{busy, directory_lock, fresh_salt};
pub(crate) use recovery::{Walk, examine, jump_above, recover, walk, walk_start};

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::{Control, Poison, is_odd};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{FORMAT, Format};
use crate::log::append_lock::AppendLock;
use crate::options::{Access, OpenReport, Options};
use crate::scan::Scanner;
use crate::segment::{SegmentInfo, Table};
use crate::storage::{ForkGuard, Storage, StorageFile, StorageLock};

/// How many segments keep an index in memory.
const INDEXED_SEGMENTS_MAX: usize = 64;

/// A handle of an open log. Clones share it; each `open` is a holder of locks of its own.
///
/// All methods block only as documented and may be called from any thread. A handle that was inherited
/// by a forked child refuses to work there ([`ErrorKind::Forked`]), because locks are shared over a fork.
#[derive(Clone)]
pub struct Log {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones of a handle share.
pub(crate) struct Inner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) format: Format,
    pub(crate) options: Options,
    pub(crate) boot_id: u128,
    pub(crate) control: Control,
    open_lock: Arc<dyn StorageLock>,
    sync_lock: Arc<dyn StorageLock>,
    /// The append lock and what its holder knows. The mutex is the lock inside this process.
    writer: Mutex<Writer>,
    /// The right to sync for this process, with the file that was synced last.
    leader: Mutex<commit::Synced>,
    table: Mutex<CachedTable>,
    indexed: Mutex<VecDeque<Arc<SegmentInfo>>>,
    /// What the doorbells of others are rung by.
    ropes: Mutex<doorbell::Ropes>,
    fork_guard: ForkGuard,
    closed: AtomicBool,
    report: OpenReport,
}

/// The append lock of a handle, and what it knows while it holds it.
#[derive(Debug)]
struct Writer {
    lock: AppendLock,
    active: Option<Active>,
}

/// The active segment, open for writing, as of a generation.
#[derive(Debug)]
struct Active {
    generation: u64,
    info: Arc<SegmentInfo>,
    file: Arc<dyn StorageFile>,
    /// Below this position the index wants no entry.
    note_pos: u64,
    /// Up to here the file has zeros behind the tail, or nobody knows.
    zeros_end: u64,
}

/// The segment table as of an even generation.
#[derive(Debug, Default)]
struct CachedTable {
    generation: Option<u64>,
    table: Arc<Table>,
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes protect is valid after every statement; a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Whether there is a log in this directory.
    pub fn exists(storage: &dyn Storage, dir: &Path) -> Result<bool> {
        let path = dir.join(FORMAT);
        storage.exists(&path).map_err(|e| Error::io("look for a log", &path, e))
    }

    /// The log's id, made up when it was created.
    pub fn id(&self) -> u128 {
        self.inner.format.id
    }

    /// What the creator wrote on the log.
    pub fn label(&self) -> &[u8] {
        &self.inner.format.label
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The medium.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// How this handle was opened.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// This boot of the machine.
    pub fn boot_id(&self) -> u128 {
        self.inner.boot_id
    }

    /// What opening found.
    pub fn open_report(&self) -> &OpenReport {
        &self.inner.report
    }

    /// The first record that was not removed (or the place where it will be).
    pub fn first_seq(&self) -> u64 {
        self.inner.control.first_seq()
    }

    /// The sequence number that the next record gets: every record below it is complete and readable.
    pub fn next_seq(&self) -> u64 {
        self.inner.control.tail_seq()
    }

    /// Every record below this is on the medium.
    pub fn durable_seq(&self) -> u64 {
        self.inner.control.durable()
    }

    /// The time of the newest record in unix microseconds; 0 when there never was one.
    pub fn last_time_us(&self) -> i64 {
        self.inner.control.last_time_us()
    }

    /// A reader, at the first record.
    pub fn scanner(&self) -> Scanner {
        Scanner::new(self)
    }

    /// A writer with a buffer of its own; one for each thread that publishes.
    pub fn appender(&self) -> Appender {
        Appender::new(self)
    }

    /// Says why this handle may not write, when it may not.
    pub fn check_writable(&self) -> Result<()> {
        self.inner.check_writable("write")
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.inner.dir)
            .field("control", &self.inner.control)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Refuses a closed handle and one of another process.
    pub(crate) fn check_open(&self, operation: &'static str) -> Result<()> {
        self.check_closed(operation)?;
        if self.fork_guard.is_forked() {
            return Err(self.error(
                ErrorKind::Forked,
                operation,
                "this process was forked from the one that opened the log; open it again in the child",
            ));
        }
        Ok(())
    }

    /// Refuses a closed handle.
    pub(crate) fn check_closed(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(self.error(
                ErrorKind::Closed,
                operation,
                "this handle of the log was closed; open it again",
            ));
        }
        Ok(())
    }

    pub(crate) fn check_writable(&self, operation: &'static str) -> Result<()> {
        self.check_open(operation)?;
        if self.options.access == Access::ReadOnly {
            return Err(self.error(
                ErrorKind::ReadOnly,
                operation,
                "the log was opened for reading only; open it with write access",
            ));
        }
        self.check_poison(operation)
    }

    pub(crate) fn check_poison(&self, operation: &'static str) -> Result<()> {
        match self.control.poison() {
            Poison::None => Ok(()),
            Poison::SyncFailed => Err(self.error(
                ErrorKind::Poisoned,
                operation,
                "an fsync failed earlier, so the system may have dropped data that was written; \
                 writes are refused until the log is repaired",
            )),
            Poison::Damaged => match &self.report.damage {
                Some(damage) => Err(Error::damaged(operation, damage.clone())),
                None => Err(self.error(
                    ErrorKind::Damaged,
                    operation,
                    "records in the middle of the log are damaged; verify shows where, \
                     and writes are refused until the log is repaired",
                )),
            },
        }
    }

    pub(crate) fn error(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        message: &'static str,
    ) -> Error {
        Error::new(kind, operation, message).with("log", self.dir.display())
    }

    /// The segments as of now; read from the directory only after their structure changed.
    pub(crate) fn table(&self) -> Result<Arc<Table>> {
        let mut cached = lock(&self.table);
        loop {
            let generation = self.control.generation();
            if cached.generation == Some(generation) {
                return Ok(Arc::clone(&cached.table));
            }
            let first = self.control.first_seq();
            let storage = self.storage.as_ref();
            let loaded = Table::load(storage, &self.dir, self.format.id, &cached.table, first);
            if self.control.generation() != generation {
                continue;
            }
            cached.table = Arc::new(Table { generation, ..loaded? });
            // While a change is under way (or its holder died) the listing may be stale at once.
            cached.generation = (!is_odd(generation)).then_some(generation);
            return Ok(Arc::clone(&cached.table));
        }
    }

    /// Says that a segment's index is in use; the one unused for longest is emptied.
    pub(crate) fn touch_index(&self, info: &Arc<SegmentInfo>) {
        let mut indexed = lock(&self.indexed);
        if let Some(at) = indexed.iter().position(|other| Arc::ptr_eq(other, info)) {
            let found = indexed.remove(at);
            indexed.extend(found);
            return;
        }
        indexed.push_back(Arc::clone(info));
        if indexed.len() > INDEXED_SEGMENTS_MAX
            && let Some(oldest) = indexed.pop_front()
        {
            oldest.index().clear();
        }
    }
}
