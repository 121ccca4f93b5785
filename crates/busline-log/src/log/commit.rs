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

/// What came of leading a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Led {
    /// Somebody synced, or there was nothing to sync: the watermark says what is durable now.
    LookAgain,
    /// The structure was changing, so it was not known what to sync.
    Unsettled,
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
            if led? == Led::Unsettled {
                // Its holder is at work, or died: then taking the lock finishes the work. Not while the
                // lock of syncs is held, for the holder may want to sync too.
                drop(self.lock_append(operation)?);
            }
        }
    }

    /// Syncs for everybody, unless somebody in another process did while the lock was waited for.
    fn lead(
        &self,
        file: &mut Option<(u64, Arc<dyn StorageFile>)>,
        next: u64,
        operation: &'static str,
    ) -> Result<Led> {
        let io = |e| Error::io(operation, &self.dir.join(SYNC_LOCK), e);
        self.sync_lock.lock().map_err(io)?;
        let led = if self.control.durable() >= next {
            Ok(Led::LookAgain)
        } else {
            self.check_poison(operation).and_then(|()| self.sync_active(file, operation))
        };
        self.sync_lock.unlock().map_err(io)?;
        led
    }

    fn sync_active(
        &self,
        file: &mut Option<(u64, Arc<dyn StorageFile>)>,
        operation: &'static str,
    ) -> Result<Led> {
        let control = &self.control;
        let (base, tail) = loop {
            let generation = control.generation();
            if is_odd(generation) {
                return Ok(Led::Unsettled);
            }
            let (base, tail) = (control.active_base(), control.tail_seq());
            if control.generation() == generation {
                break (base, tail);
            }
        };
        let path = path(&self.dir, base);
        let active = match file {
            Some((at, active)) if *at == base => Arc::clone(active),
            _ => {
                let opened = self.storage.open(&path, OpenMode::ReadWrite);
                let opened = match opened {
                    Ok(opened) => opened,
                    // Sealed (and with that synced) and removed meanwhile; the caller looks again.
                    Err(e)
                        if e.kind() == io::ErrorKind::NotFound && control.active_base() != base =>
                    {
                        return Ok(Led::LookAgain);
                    }
                    Err(e) => return Err(Error::io(operation, &path, e)),
                };
                *file = Some((base, Arc::clone(&opened)));
                opened
            }
        };
        if let Err(e) = active.sync_data() {
            self.poison(operation, &path, &e);
            return Err(self.poisoned_now(operation, &path, e));
        }
        control.raise_durable(tail);
        Ok(Led::LookAgain)
    }

    /// Raises the durable watermark and wakes who waits for it.
    pub(super) fn set_durable(&self, seq: u64) {
        self.control.raise_durable(seq);
        self.control.notify(Signal::Durable, false);
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
