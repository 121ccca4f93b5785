//! What processes hold: open files, locks and bells. All of them die with their process.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::life::{Life, Permit, dead};
use super::medium::{Entry, FileNode, Held, Medium};
use super::page::SyncPage;
use super::record::MemOp;
use crate::storage::{Bell, Rope, StorageFile, StorageLock};

/// An open file.
#[derive(Debug)]
pub(in crate::storage) struct MemFile {
    pub(super) shared: Arc<Shared>,
    pub(super) node: Arc<FileNode>,
    pub(super) life: Arc<Life>,
    pub(super) path: PathBuf,
    pub(super) writable: bool,
    /// What was reserved last.
    pub(super) reserved: Mutex<Range<u64>>,
}

impl MemFile {
    /// Does a change with the medium locked, so that the record has the order of the changes.
    fn change(&self, op: impl FnOnce() -> MemOp, change: impl FnOnce(&Permit)) -> io::Result<()> {
        let mut medium = self.shared.medium();
        let permit = self.life.spend()?;
        change(&permit);
        if matches!(permit, Permit::Dying { .. }) {
            self.shared.end_life(&mut medium, &self.life);
            return Err(dead());
        }
        medium.note(op);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.change(
            || MemOp::Sync(self.path.clone()),
            |permit| {
                if matches!(permit, Permit::Whole) {
                    self.node.content().sync();
                }
            },
        )
    }

    /// What a failed fsync does on Linux to the data it should have written.
    pub(in crate::storage) fn forget_unsynced(&self) {
        self.node.content().forget_dirty();
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only"))
    }
}

impl StorageFile for MemFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.life.check()?;
        Ok(self.node.content().read(buf, position(at)))
    }

    fn try_read_at(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, at).map(Some)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        if buf.is_empty() {
            return self.life.check();
        }
        self.check_writable()?;
        self.change(
            || MemOp::Write { path: self.path.clone(), at, data: buf.into() },
            |permit| {
                let part = match permit {
                    Permit::Whole => buf,
                    Permit::Dying { bytes } => buf.get(..*bytes).unwrap_or(buf),
                };
                self.node.content().write(part, position(at));
            },
        )
    }

    fn reserve(&self, from: u64, until: u64) -> io::Result<bool> {
        self.check_writable()?;
        if self.len()? < until {
            self.truncate(until)?;
        }
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = from..until;
        Ok(true)
    }

    fn write_reserved(&self, buf: &[u8], at: u64) -> io::Result<bool> {
        let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let end = at.saturating_add(buf.len() as u64);
        if at < reserved.start || end > reserved.end {
            return Ok(false);
        }
        assert!(end <= self.len()?, "SIGBUS: a store into {}, which was cut", self.path.display());
        self.write_all_at(buf, at).map(|()| true)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.change(
            || MemOp::Truncate { path: self.path.clone(), len },
            |permit| {
                if matches!(permit, Permit::Whole) {
                    self.node.content().truncate(position(len));
                }
            },
        )
    }

    fn len(&self) -> io::Result<u64> {
        self.life.check()?;
        Ok(self.node.content().len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}

impl SyncPage for MemFile {
    fn sync(&self) -> io::Result<()> {
        Self::sync(self)
    }
}

fn position(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// A lock; the object is the holder.
#[derive(Debug)]
pub(super) struct MemLock {
    pub(super) shared: Arc<Shared>,
    pub(super) node: Arc<FileNode>,
    pub(super) life: Arc<Life>,
    pub(super) holder: u64,
}

impl MemLock {
    /// Gives up what this holder has, then takes the lock if the others allow it: as flock does.
    fn take(&self, medium: &mut Medium, exclusive: bool) -> io::Result<bool> {
        self.life.check()?;
        let held = medium.locks.entry(self.node.id).or_default();
        if held.iter().any(|one| one.holder == self.holder && one.exclusive == exclusive) {
            return Ok(true);
        }
        let before = held.len();
        held.retain(|one| one.holder != self.holder);
        if held.len() != before {
            self.shared.changed.notify_all();
        }
        let free = held.iter().all(|one| !exclusive && !one.exclusive);
        if free {
            let life = Arc::clone(&self.life);
            held.push(Held { holder: self.holder, exclusive, life });
        }
        Ok(free)
    }

    fn wait_for(&self, exclusive: bool) -> io::Result<()> {
        let mut medium = self.shared.medium();
        while !self.take(&mut medium, exclusive)? {
            medium = self.shared.changed.wait(medium).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn release(&self, medium: &mut Medium) {
        if let Some(held) = medium.locks.get_mut(&self.node.id) {
            held.retain(|one| one.holder != self.holder);
            if held.is_empty() {
                medium.locks.remove(&self.node.id);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl StorageLock for MemLock {
    fn lock(&self) -> io::Result<()> {
        self.wait_for(true)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.take(&mut self.shared.medium(), true)
    }

    fn try_lock_shared(&self) -> io::Result<bool> {
        self.take(&mut self.shared.medium(), false)
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.wait_for(false)
    }

    fn unlock(&self) -> io::Result<()> {
        let mut medium = self.shared.medium();
        self.life.check()?;
        self.release(&mut medium);
        Ok(())
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.release(&mut self.shared.medium());
    }
}

/// The place of a bell in the tree.
#[derive(Debug)]
pub(super) struct BellNode {
    pub(super) id: u64,
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Debug)]
struct BellState {
    owner: Option<Arc<Life>>,
    rung: bool,
}

impl BellNode {
    pub(super) fn ownerless(id: u64) -> Self {
        Self { id, state: Mutex::new(BellState { owner: None, rung: false }), rung: Condvar::new() }
    }

    pub(super) fn owned(id: u64, life: &Arc<Life>) -> Self {
        let node = Self::ownerless(id);
        node.state().owner = Some(Arc::clone(life));
        node
    }

    pub(super) fn is_owned(&self) -> bool {
        self.state().owner.as_ref().is_some_and(|life| life.is_alive())
    }

    /// Rings; false when nobody owns the bell.
    pub(super) fn ring(&self) -> bool {
        let mut state = self.state();
        let owned = state.owner.as_ref().is_some_and(|life| life.is_alive());
        state.rung |= owned;
        self.rung.notify_all();
        owned
    }

    /// Wakes who waits, without ringing.
    pub(super) fn wake(&self) {
        drop(self.state());
        self.rung.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner's end of a bell.
#[derive(Debug)]
pub(super) struct MemBell {
    pub(super) shared: Arc<Shared>,
    pub(super) node: Arc<BellNode>,
    pub(super) life: Arc<Life>,
    pub(super) path: PathBuf,
}

impl Bell for MemBell {
    fn drain(&self) -> io::Result<bool> {
        self.life.check()?;
        Ok(std::mem::take(&mut self.node.state().rung))
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let mut state = self.node.state();
        let waiting = |state: &mut BellState| !state.rung && self.life.is_alive();
        state = match timeout {
            Some(timeout) => {
                let waited = self.node.rung.wait_timeout_while(state, timeout, waiting);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.node.rung.wait_while(state, waiting);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        self.life.check()?;
        Ok(state.rung)
    }

    #[cfg(unix)]
    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Drop for MemBell {
    fn drop(&mut self) {
        let mut medium = self.shared.medium();
        self.node.state().owner = None;
        if self.life.is_alive() {
            remove_bell(&mut medium, &self.path, &self.node);
        }
    }
}

/// What rings a bell.
#[derive(Debug)]
pub(super) struct MemRope {
    pub(super) node: Arc<BellNode>,
    pub(super) life: Arc<Life>,
}

impl Rope for MemRope {
    fn ring(&self) -> io::Result<bool> {
        self.life.check()?;
        Ok(self.node.ring())
    }
}

/// Removes the bell's name, unless it means something else by now.
fn remove_bell(medium: &mut Medium, path: &Path, node: &BellNode) {
    if let Ok(Some(Entry::Bell(there))) = medium.lookup(path)
        && there.id == node.id
    {
        // It was looked up just now, so its parent is there.
        let _ = medium.link(path, None);
    }
}
