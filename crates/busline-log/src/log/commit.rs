//! Durability: one fdatasync shared by all who wait for it, in this process and in others.
//!
//! After a failed fsync the kernel may have dropped the dirty pages and call the next fsync a success
//! (PostgreSQL's "fsyncgate" of 2018; Rebello et al., "Can Applications Recover from fsync Failures?",
//! USENIX ATC 2020). What lies in the page cache then says nothing about the medium, so the log is
//! poisoned for every process and refuses writes until a repair has written the data again.

use std::io;
use std::path::Path;
use std::sync::{Arc, TryLockError};

use crate::control::{Poison, Signal, is_odd};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{POISONED, SYNC_LOCK, write_atomic};
use crate::log::{Inner, Log};
use crate::options::SyncMode;
use crate::segment::path;
use crate::storage::{OpenMode, StorageFile};

const OP: &str = "commit";

/// The file that was synced last, by its base.
pub(super) type Synced = Option<(u64, Arc<dyn StorageFile>)>;

impl Log {
    /// Returns when every record below `next` is durable in the sense of the handle's [`SyncMode`]; only
    /// with [`SyncMode::Always`] does it wait. Everyone who waits shares one fdatasync.
    ///
    /// `Beyond` when `next` was never appended. `Poisoned` when an fsync failed: whether the records are on the
    /// medium is then unknown.
    pub fn commit(&self, next: u64) -> Result<()> {
        self.inner.check_open(OP)?;
        match self.inner.options.sync {
            SyncMode::Always => self.inner.sync(next, OP).map(drop),
            SyncMode::Interval(_) | SyncMode::Os => self.inner.check_poison(OP),
        }
    }

    /// Makes everything that is visible now durable, whatever the handle's mode; returns the sequence
    /// number up to which that holds.
    pub fn sync(&self) -> Result<u64> {
        self.inner.check_open("sync a log")?;
        self.inner.sync(self.inner.control.tail_seq(), "sync a log")
    }
}

impl Inner {
    pub(super) fn sync(&self, next: u64, operation: &'static str) -> Result<u64> {
        let control = &self.control;
        loop {
            let durable = control.durable();
            if durable >= next {
                return Ok(durable);
            }
            self.check_writable(operation)?;
            let tail = control.tail_seq();
            if next > tail {
                return Err(self
                    .error(
                        ErrorKind::Beyond { tail },
                        operation,
                        "these records were never appended",
                    )
                    .with("seq", next));
            }
            if control.is_changing() {
                // Its holder is at work, or died: then taking the lock finishes the work. The locks of
                // syncing are not held here, because who holds the append lock may wait for them.
                drop(self.lock_append(operation)?);
                continue;
            }
            let count = control.signal_count(Signal::Durable);
            let led = match self.leader.try_lock() {
                Ok(mut file) => self.lead(&mut file, next, operation),
                Err(TryLockError::Poisoned(file)) => {
                    self.lead(&mut file.into_inner(), next, operation)
                }
                Err(TryLockError::WouldBlock) => {
                    let done = || {
                        control.durable() >= next
                            || control.signal_count(Signal::Durable) != count
                            || control.poison() != Poison::None
                    };
                    control.sleep(Signal::Durable, None, done);
                    continue;
                }
            };
            // Those who found the leader busy look again: it may have begun before they wrote, or failed.
            control.notify(Signal::Durable, true);
            led?;
        }
    }

    /// Syncs for everybody, unless somebody in another process did while the lock was waited for.
    fn lead(&self, cached: &mut Synced, next: u64, operation: &'static str) -> Result<()> {
        let io = |e| Error::io(operation, &self.dir.join(SYNC_LOCK), e);
        self.sync_lock.lock().map_err(io)?;
        let led = if self.control.durable() >= next {
            Ok(())
        } else {
            self.check_poison(operation).and_then(|()| self.sync_segments(cached, operation))
        };
        self.sync_lock.unlock().map_err(io)?;
        led
    }

    /// Syncs what may not be durable, the oldest first. Does nothing while the structure changes.
    fn sync_segments(&self, cached: &mut Synced, operation: &'static str) -> Result<()> {
        let control = &self.control;
        let generation = control.generation();
        let (active, tail) = (control.active_base(), control.tail_seq());
        let from = control.sync_base();
        if is_odd(generation) || control.generation() != generation {
            return Ok(());
        }
        if from < active {
            let table = self.table()?;
            let sealed = table.segments.iter().map(|info| info.base());
            for base in sealed.filter(|&base| base >= from && base < active) {
                self.sync_one(base, &mut None, operation)?;
            }
        }
        self.sync_one(active, cached, operation)?;
        control.raise_durable(tail);
        control.raise_sync_base(active);
        Ok(())
    }

    fn sync_one(&self, base: u64, cached: &mut Synced, operation: &'static str) -> Result<()> {
        let path = path(&self.dir, base);
        let file = match cached {
            Some((at, file)) if *at == base => Arc::clone(file),
            _ => match self.storage.open(&path, OpenMode::ReadWrite) {
                Ok(file) => file,
                // Removed by retention meanwhile.
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound && base < self.control.first_seq() =>
                {
                    return Ok(());
                }
                Err(e) => return Err(Error::io(operation, &path, e)),
            },
        };
        if let Err(e) = file.sync_data() {
            self.poison(operation, &path, &e);
            return Err(self.poisoned_now(operation, &path, e));
        }
        *cached = Some((base, file));
        Ok(())
    }

    /// Makes every process refuse writes from now on.
    pub(super) fn poison(&self, operation: &'static str, path: &Path, error: &io::Error) {
        self.control.set_poison(Poison::SyncFailed);
        self.control.notify(Signal::Durable, true);
        let note = format!("{operation}: {} could not be made durable: {error}\n", path.display());
        // The page tells everybody until the next boot; the file tells those after it, if it can be written.
        let _ = write_atomic(self.storage.as_ref(), &self.dir, POISONED, note.as_bytes());
    }

    /// The error of the one whose fsync failed.
    pub(super) fn poisoned_now(
        &self,
        operation: &'static str,
        path: &Path,
        error: io::Error,
    ) -> Error {
        Error::new(
            ErrorKind::Poisoned,
            operation,
            "an fsync failed, so the system may have dropped data that was written; \
             the log refuses writes until it is repaired",
        )
        .with("path", path.display())
        .with("log", self.dir.display())
        .caused_by(error)
    }
}
