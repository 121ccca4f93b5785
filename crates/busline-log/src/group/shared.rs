//! What the clones of a group's handle share: the state, and the way to read and to change it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::{AppendGuard, Error, ErrorKind, Log, Result};

use super::handle::{GroupOptions, not_found};
use super::journal::{Core, Txn};
use super::member::Probes;
use super::state::{GroupState, Life};
use super::time::Now;

/// What the clones of a handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) main: Log,
    pub(super) journal: Log,
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) options: GroupOptions,
    pub(super) probes: Probes,
    pub(super) core: Mutex<Core>,
}

impl Shared {
    /// Looks at the newest state. Takes no lock that other processes see.
    pub(super) fn read<R>(&self, look: impl FnOnce(&GroupState) -> R) -> Result<R> {
        let mut core = self.lock();
        self.refresh(&mut core)?;
        self.check_alive(&core.state)?;
        Ok(look(&core.state))
    }

    /// Changes the group in one transaction, and wakes those who wait for such a change.
    pub(super) fn transact<R>(
        &self,
        now: Now,
        change: impl FnOnce(&mut Txn<'_>) -> Result<R>,
    ) -> Result<R> {
        self.transact_unborn(now, |txn| {
            self.check_alive(txn.state())?;
            change(txn)
        })
    }

    /// As [`Shared::transact`], unless somebody else changes the group at this moment.
    pub(super) fn try_transact<R>(
        &self,
        now: Now,
        change: impl FnOnce(&mut Txn<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        let Some(mut core) = self.try_lock() else { return Ok(None) };
        let Some(guard) = self.journal.try_lock_append()? else { return Ok(None) };
        let mut txn = self.begin(&mut core, guard, now)?;
        self.check_alive(txn.state())?;
        let result = change(&mut txn)?;
        self.finish(txn)?;
        Ok(Some(result))
    }

    /// As [`Shared::transact`], also when the group does not exist yet.
    pub(super) fn transact_unborn<R>(
        &self,
        now: Now,
        change: impl FnOnce(&mut Txn<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut core = self.lock();
        let guard = self.journal.lock_append()?;
        let mut txn = self.begin(&mut core, guard, now)?;
        let result = change(&mut txn)?;
        self.finish(txn)?;
        Ok(result)
    }

    /// Catches up with what others did.
    pub(super) fn refresh(&self, core: &mut Core) -> Result<()> {
        core.refresh(&self.journal).map_err(|error| self.named(error))
    }

    /// Begins a transaction under the guard of the group's log.
    pub(super) fn begin<'a>(
        &'a self,
        core: &'a mut Core,
        guard: AppendGuard<'a>,
        now: Now,
    ) -> Result<Txn<'a>> {
        Txn::begin(core, &self.journal, guard, &self.options, now)
            .map_err(|error| self.named(error))
    }

    /// Says whose error it is. Files of the group that are not there: whoever deleted it was quicker than
    /// reading that.
    fn named(&self, error: Error) -> Error {
        let is_gone = || matches!(self.main.storage().exists(&self.dir), Ok(false));
        if error.kind() == ErrorKind::NotFound || is_gone() {
            return deleted(&self.name).caused_by(error);
        }
        error.with("group", &self.name)
    }

    /// Commits, and rings once the guard is free again, or who wakes would have to wait for it.
    pub(super) fn finish(&self, txn: Txn<'_>) -> Result<()> {
        if txn.commit()? {
            self.main.ring();
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic inside a transaction marked the state stale; the mutex adds nothing to that.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Core>> {
        match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn life(&self) -> Result<Life> {
        let mut core = self.lock();
        self.refresh(&mut core)?;
        Ok(core.state.life)
    }

    pub(super) fn check_alive(&self, state: &GroupState) -> Result<()> {
        match state.life {
            Life::Live => Ok(()),
            Life::Unborn => Err(not_found(&self.name)),
            Life::Deleted => Err(deleted(&self.name)),
        }
    }
}

fn deleted(name: &str) -> Error {
    let message = "the group was deleted; declare it anew to go on";
    Error::new(ErrorKind::NotFound, "use group", message).with("group", name)
}
