//! The groups of a log: listing, deleting, and collecting those that nobody will come back to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::without_format;
use crate::storage::{StorageLock, make_dir};
use crate::{Access, Error, ErrorKind, Log, Removed, Result, RetainPolicy};

use super::handle::{Group, GroupOptions, not_found};
use super::journal::Txn;
use super::member::{bury, random_id};
use super::names;
use super::op::{Lifetime, Op};
use super::state::Life;
use super::time::Now;

/// What a directory is called between being no group any more and being gone.
const GONE: &str = ".gone-";

/// What must hold for a group to be deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DeleteIf {
    /// It has no living member.
    pub unused: bool,
    /// It has nothing unsettled, and has examined the whole log.
    pub empty: bool,
}

impl Log {
    /// The names of its groups, sorted. One that is being deleted may still be among them; opening
    /// it says `NotFound`.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn groups(&self) -> Result<Vec<String>> {
        Ok(names::list(self)?.into_iter().map(|(name, _)| name).collect())
    }

    /// The lowest sequence number that any of its groups still needs: what retention keeps from.
    ///
    /// # Errors
    /// Those of opening a group, a damaged one included: what it needs is not known.
    pub fn groups_floor(&self, now: Now) -> Result<Option<u64>> {
        let mut lowest: Option<u64> = None;
        for (name, dir) in names::list(self)? {
            let group = Group::open_at(self, &name, dir, &GroupOptions::default(), now);
            match group.and_then(|group| group.floor()) {
                Ok(floor) => lowest = Some(lowest.map_or(floor, |lowest| lowest.min(floor))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(lowest)
    }

    /// As [`Log::retain`], save that nothing is removed that one of its groups still needs, one that is declared or
    /// reset at this moment included: those wait until this is done.
    ///
    /// # Errors
    /// Those of [`Log::groups_floor`] and of [`Log::retain`].
    pub fn retain_for_groups(&self, policy: &RetainPolicy, now: Now) -> Result<Removed> {
        let lock = match StructureLock::take(self) {
            // There is no room to declare a group either, and this is what makes some.
            Err(error) if error.kind() == ErrorKind::Full => None,
            lock => Some(lock?),
        };
        let keep_from = [policy.keep_from, self.groups_floor(now)?].into_iter().flatten().min();
        let removed = self.retain(&RetainPolicy { keep_from, ..*policy }, now.wall_us);
        drop(lock);
        removed
    }

    /// Removes groups that nobody will come back to: ephemeral ones whose members are all dead, and
    /// those that were idle for longer than they may be. Returns their names. A log that was opened for
    /// reading only keeps all of them.
    ///
    /// # Errors
    /// The first error met, after the other groups were looked at.
    pub fn collect_groups(&self, now: Now) -> Result<Vec<String>> {
        if self.options().access == Access::ReadOnly || names::list(self)?.is_empty() {
            return Ok(Vec::new());
        }
        let lock = StructureLock::take(self)?;
        let mut collected = Vec::new();
        let mut failed = None;
        for (name, dir) in names::list(self)? {
            match collect(self, &name, dir, now) {
                Ok(true) => collected.push(name),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        sweep_gone(self);
        drop(lock);
        failed.map_or(Ok(collected), Err)
    }
}

impl Group {
    /// Deletes a group with its state, if what `check` asks holds. Its members learn of it at once.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Conflict` when the check does not hold. A group whose own
    /// log is damaged is deleted when nothing is to be checked.
    pub fn delete(log: &Log, name: &str, check: DeleteIf, now: Now) -> Result<()> {
        let lock = StructureLock::take(log)?;
        let dir = names::find(log, name)?.ok_or_else(|| not_found(name))?;
        match Self::open_at(log, name, dir.clone(), &GroupOptions::default(), now) {
            Ok(group) => group.end(now, |txn| {
                group.check_deletable(txn, check)?;
                Ok(true)
            })?,
            Err(error) if error.kind() == ErrorKind::Damaged && check == DeleteIf::default() => {
                true
            }
            Err(error) => return Err(error),
        };
        remove(log, &dir)?;
        drop(lock);
        Ok(())
    }

    /// Ends the group if `wanted` says so. From then on every handle of it says that it is deleted.
    fn end(&self, now: Now, wanted: impl FnOnce(&mut Txn<'_>) -> Result<bool>) -> Result<bool> {
        let ended = self.shared.transact(now, |txn| {
            let ends = wanted(txn)?;
            if ends {
                txn.push(&Op::Delete)?;
            }
            Ok(ends)
        })?;
        if ended {
            self.commit()?;
        }
        Ok(ended)
    }

    fn check_deletable(&self, txn: &Txn<'_>, check: DeleteIf) -> Result<()> {
        let conflict = |message: String| {
            Err(Error::new(ErrorKind::Conflict, "delete group", message).with("group", self.name()))
        };
        let state = txn.state();
        if check.unused {
            let members: Vec<u64> = state.members.keys().copied().collect();
            let dead = self.shared.dead_of(&members)?.len();
            if dead < members.len() {
                let alive = members.len() - dead;
                return conflict(format!("{alive} members use it; stop them, or delete it anyway"));
            }
        }
        if check.empty {
            let main = &self.shared.main;
            let from = state.cursor.max(main.first_seq());
            let tail = main.next_seq();
            let new = if from < tail { main.count_between(from, tail)? } else { 0 };
            let unsettled = state.runs.seqs();
            if unsettled > 0 || new > 0 {
                return conflict(format!(
                    "{unsettled} records are unsettled and {new} were not looked at; settle them, \
                     or delete it anyway"
                ));
            }
        }
        Ok(())
    }
}

/// Held by whoever makes or removes a group's directory, or changes at which record it needs the log to begin.
#[derive(Debug)]
pub(super) struct StructureLock {
    _lock: Arc<dyn StorageLock>,
}

impl StructureLock {
    pub(super) fn take(log: &Log) -> Result<Self> {
        if log.options().access == Access::ReadOnly {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "change groups",
                "the log was opened for reading only; open it with write access",
            )
            .with("path", log.dir().display()));
        }
        let groups = names::groups_dir(log);
        let io = |error| Error::io("lock groups", &groups, error);
        let storage = log.storage();
        let lock = names::structure_lock(&groups);
        // Made after the directory is durable: whoever made that may have died before.
        if !storage.exists(&lock).map_err(io)? {
            make_dir(storage.as_ref(), &groups).map_err(io)?;
        }
        let lock = storage.lock_file(&lock).map_err(io)?;
        lock.lock().map_err(io)?;
        Ok(Self { _lock: lock })
    }
}

/// Removes a group's directory, whoever still has files of it open. It vanishes as a whole: a loss
/// of power leaves the group, or nothing of that name.
pub(super) fn remove(log: &Log, dir: &Path) -> Result<()> {
    let groups = names::groups_dir(log);
    let io = |error| Error::io("delete group", dir, error);
    let storage = log.storage();
    let gone = groups.join(format!("{GONE}{:016x}", random_id()));
    storage.rename(dir, &gone).map_err(io)?;
    storage.sync_dir(&groups).map_err(io)?;
    sweep_gone(log);
    Ok(())
}

/// Takes away what was renamed before. What cannot be taken away now is tried again later.
fn sweep_gone(log: &Log) {
    let groups = names::groups_dir(log);
    for file in log.storage().list(&groups).unwrap_or_default() {
        if file.starts_with(GONE) {
            let _ = log.storage().remove_dir_all(&groups.join(file));
        }
    }
}

fn collect(log: &Log, name: &str, dir: PathBuf, now: Now) -> Result<bool> {
    let storage = log.storage().as_ref();
    if !Log::exists(storage, &dir)? {
        if let Some(damaged) = without_format(storage, &dir, "collect groups") {
            return Err(damaged);
        }
        // Whoever declared it died before it was a log. Nobody else is at it: the caller holds the lock.
        remove(log, &dir)?;
        return Ok(false);
    }
    let group = Group::open_at(log, name, dir, &GroupOptions::default(), now)?;
    let dir = &group.shared.dir;
    if group.shared.life()? != Life::Live {
        // Whoever declared or deleted it did not get to the end.
        remove(log, dir)?;
        return Ok(false);
    }
    let shared = &group.shared;
    let (lifetime, members, clock, idle_us) = shared.read(|state| {
        let members: Vec<u64> = state.members.keys().copied().collect();
        (state.lifetime, members, state.clock, state.idle_us(now))
    })?;
    let dead = match lifetime {
        Some(Lifetime::Durable) => return Ok(false),
        // Without a change: to note that somebody looked would be activity.
        Some(Lifetime::Idle { us }) if members.is_empty() && idle_us < us => return Ok(false),
        _ => shared.dead_of(&members)?,
    };
    if dead.len() < members.len() {
        return Ok(false);
    }
    let ended = group.end(now, |txn| {
        let state = txn.state();
        if state.members.keys().any(|member| !dead.contains(member)) {
            return Ok(false);
        }
        Ok(match lifetime {
            Some(Lifetime::Ephemeral) => true,
            // Unless somebody used it meanwhile.
            Some(Lifetime::Idle { .. }) if members.is_empty() => state.clock == clock,
            // It was in use until its members died: being idle begins with their burial.
            _ => {
                bury(txn, &dead)?;
                false
            }
        })
    })?;
    if ended {
        remove(log, dir)?;
    }
    Ok(ended)
}
