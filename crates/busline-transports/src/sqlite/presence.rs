//! Files beside the database whose locks die with their holder: whose turn it is to write, and who is alive.
//!
//! They stand in a folder named after the database, `FILE-busline`. It may be removed when no program has the
//! database open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busline_core::{Error, ErrorKind, Result};

use super::error::locked;

/// How long is slept between two looks at a lock.
pub(super) const STEP: Duration = Duration::from_micros(300);

/// The folder of a database's locks.
pub(super) fn folder(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-busline");
    name.into()
}

/// The queue of writers.
///
/// Who writes again and again would win most races for the lock of SQLite, which those who wait only look at
/// now and then. So who wants it takes this lock first, and keeps it until it has the other: then whoever wrote
/// last stands behind those who wait.
#[derive(Debug)]
pub(super) struct Turn(File);

impl Turn {
    /// Opens the queue of a database.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let open = || {
            std::fs::create_dir_all(folder)?;
            open_lock(&folder.join("turn"))
        };
        open()
            .map(Self)
            .map_err(|cause| failed("the queue of writers cannot be opened", folder, cause))
    }

    /// Waits until it is our turn, which it is until [`Turn::pass`]; `Elapsed` after `busy`.
    pub(super) fn take(&self, busy: Duration) -> Result<()> {
        let mut waited = Duration::ZERO;
        loop {
            match self.0.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if waited < busy => {
                    std::thread::park_timeout(STEP);
                    waited += STEP;
                }
                Err(TryLockError::WouldBlock) => return Err(locked()),
                // Without the queue there is still SQLite's own lock.
                Err(TryLockError::Error(_)) => return Ok(()),
            }
        }
    }

    /// Lets the next one have its turn.
    pub(super) fn pass(&self) {
        // It fails only where taking it failed too.
        let _ = self.0.unlock();
    }
}

/// The sign of life of a session that has members: a file that is locked for as long as it lives.
#[derive(Debug)]
pub(super) struct Presence {
    path: PathBuf,
    _lock: File,
}

impl Presence {
    /// Announces a session of this name, which nobody else has.
    pub(super) fn announce(folder: &Path, session: &str) -> Result<Self> {
        let path = folder.join(session);
        let announce = || {
            let lock = open_lock(&path)?;
            lock.try_lock().map_err(io::Error::from)?;
            Ok(lock)
        };
        match announce() {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(cause) => Err(failed("the session cannot be announced to others", folder, cause)),
        }
    }

    /// Whether the session of this name is dead. Only one that announced itself may be asked for.
    pub(super) fn is_dead(folder: &Path, session: &str) -> bool {
        // The name comes out of the database: it must not lead elsewhere.
        if !session.chars().all(|c| c.is_ascii_alphanumeric()) {
            return true;
        }
        match File::open(folder.join(session)) {
            Ok(file) => file.try_lock().is_ok(),
            Err(cause) => cause.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes what a dead session left behind.
    pub(super) fn bury(folder: &Path, session: &str) {
        if session.chars().all(|c| c.is_ascii_alphanumeric()) {
            // Another may have been quicker.
            let _ = std::fs::remove_file(folder.join(session));
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Who finds it gone takes it for dead, which it is.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

fn failed(what: &str, folder: &Path, cause: io::Error) -> Error {
    let (kind, hint) = match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Unauthorized, "give this user the right to write beside the database")
        }
        io::ErrorKind::StorageFull => (ErrorKind::Full, "free some space"),
        _ => {
            (ErrorKind::Other, "see that the folder of the database is there and can be written to")
        }
    };
    Error::new(kind, what.to_owned()).context("folder", folder.display()).source(cause).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_is_dead_and_who_is_there_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let alive = Presence::announce(folder.path(), "a1").unwrap();
        assert!(!Presence::is_dead(folder.path(), "a1"));
        assert!(Presence::is_dead(folder.path(), "never"));
        std::fs::write(folder.path().join("killed"), "").unwrap();
        assert!(Presence::is_dead(folder.path(), "killed"));
        Presence::bury(folder.path(), "killed");
        assert!(!folder.path().join("killed").exists());
        // No name leads out of the folder.
        assert!(Presence::is_dead(folder.path(), "../a1"));
        drop(alive);
        assert!(Presence::is_dead(folder.path(), "a1"));
    }

    #[test]
    fn a_turn_ends_and_waiting_for_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Turn::open(folder.path()).unwrap(), Turn::open(folder.path()).unwrap());
        one.take(Duration::ZERO).unwrap();
        let error = two.take(Duration::from_millis(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Elapsed);
        one.pass();
        two.take(Duration::ZERO).unwrap();
    }
}
