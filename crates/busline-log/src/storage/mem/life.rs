//! The life of a simulated process: until it is killed, or has done as many calls as it was given.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// From the start of a process to its death. Handles die with it.
#[derive(Debug)]
pub(super) struct Life {
    alive: AtomicBool,
    /// How many more changes it may make; `u64::MAX` is no bound.
    changes_left: AtomicU64,
    /// How many bytes of the write in which it dies still arrive.
    last_bytes: AtomicUsize,
}

/// What a change may do.
pub(super) enum Permit {
    /// All of it.
    Whole,
    /// This many bytes of a write, nothing of anything else; the process is dead after it.
    Dying { bytes: usize },
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            alive: AtomicBool::new(true),
            changes_left: AtomicU64::new(u64::MAX),
            last_bytes: AtomicUsize::new(0),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_alive() { Ok(()) } else { Err(dead()) }
    }

    pub(super) fn end(&self) {
        self.alive.store(false, Ordering::SeqCst);
    }

    pub(super) fn end_after(&self, changes: u64, last_bytes: usize) {
        self.last_bytes.store(last_bytes, Ordering::SeqCst);
        self.changes_left.store(changes, Ordering::SeqCst);
    }

    /// Asks for one change; called with the medium locked.
    pub(super) fn spend(&self) -> io::Result<Permit> {
        self.check()?;
        match self.changes_left.load(Ordering::SeqCst) {
            u64::MAX => Ok(Permit::Whole),
            0 => Ok(Permit::Dying { bytes: self.last_bytes.load(Ordering::SeqCst) }),
            left => {
                self.changes_left.store(left - 1, Ordering::SeqCst);
                Ok(Permit::Whole)
            }
        }
    }
}

pub(super) fn dead() -> io::Error {
    io::Error::other("the simulated process that held this handle is dead")
}
