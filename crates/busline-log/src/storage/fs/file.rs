//! Files by position, and lock files by `flock`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::sync::{Mutex, PoisonError};

#[cfg(target_os = "linux")]
use super::map::MappedRange;
use super::unshared::Unshared;
use crate::storage::{ForkGuard, StorageFile, StorageLock};

/// An open file.
#[derive(Debug)]
pub(super) struct FsFile {
    file: File,
    /// What was reserved last. One writes at a time, so the mutex is free.
    #[cfg(target_os = "linux")]
    reserved: Mutex<Option<MappedRange>>,
}

impl FsFile {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(target_os = "linux")]
            reserved: Mutex::new(None),
        }
    }
}

impl StorageFile for FsFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        // A signal may cut a read short; only a read of nothing is the end of the file.
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    #[cfg(target_os = "linux")]
    fn try_read_at(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};

        match preadv2(&self.file, &mut [io::IoSliceMut::new(buf)], at, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // Not every file system can tell, nor does every system know the call.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(buf, at)
    }

    /// Blocks are allocated before anything is mapped: to touch a page that finds no room on the medium would end the
    /// process.
    #[cfg(target_os = "linux")]
    fn reserve(&self, from: u64, until: u64) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;

        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        *reserved = None;
        let Some(len) = until.checked_sub(from).filter(|len| *len > 0) else { return Ok(false) };
        match fallocate(&self.file, FallocateFlags::empty(), from, len) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        *reserved = Some(MappedRange::of_file(&self.file, from, until)?);
        Ok(true)
    }

    #[cfg(target_os = "linux")]
    fn write_reserved(&self, buf: &[u8], at: u64) -> io::Result<bool> {
        let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(reserved.as_ref().is_some_and(|range| range.write(buf, at)))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// A lock file; the open file description is the holder, and no forked child has a part in it.
#[derive(Debug)]
pub(super) struct FsLock {
    file: Unshared,
    guard: ForkGuard,
}

impl FsLock {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = Unshared::open(|| {
            let mut options = OpenOptions::new();
            match options.read(true).write(true).create(true).truncate(false).open(path) {
                // `flock` asks for no right to write: who may only read a log can still lock it.
                Err(error) if is_read_only(&error) => File::open(path).map_err(|_| error),
                other => other,
            }
        })?;
        Ok(Self { file, guard: ForkGuard::new() })
    }
}

impl Drop for FsLock {
    fn drop(&mut self) {
        // Closing gives it back as well, unless a child is forked while the file is being closed.
        if !self.guard.is_forked() {
            let _ = self.unlock();
        }
    }
}

impl StorageLock for FsLock {
    fn lock(&self) -> io::Result<()> {
        uninterrupted(|| self.file.lock())
    }

    fn try_lock(&self) -> io::Result<bool> {
        taken(|| self.file.try_lock())
    }

    fn try_lock_shared(&self) -> io::Result<bool> {
        taken(|| self.file.try_lock_shared())
    }

    fn lock_shared(&self) -> io::Result<()> {
        uninterrupted(|| self.file.lock_shared())
    }

    fn unlock(&self) -> io::Result<()> {
        uninterrupted(|| self.file.unlock())
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// `flock` returns EINTR when a signal arrives while it waits; std passes that on.
fn uninterrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn taken(mut call: impl FnMut() -> Result<(), TryLockError>) -> io::Result<bool> {
    loop {
        return match call() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {
                continue;
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
    }
}
