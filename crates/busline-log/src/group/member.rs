//! Members: joining, being alive, noticing who is not, leaving.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::storage::StorageLock;
use crate::{Error, ErrorKind, Result, Scanner};

use super::handle::{Config, Group};
use super::journal::Txn;
use super::names;
use super::op::{Departure, Lifetime, Op};
use super::reserve;
use super::shared::Shared;
use super::state::GroupState;
use super::time::Now;

/// How often a member looks after the others while they hold claims, in microseconds.
const PROBE_US: u64 = 250_000;

/// A member of a group: claims records, and holds a lock for as long as it lives.
///
/// When it is dropped, or its process ends in any way, the lock falls and the other members take
/// over what it held; [`Member::leave`] does the same without waiting for them to notice.
#[derive(Debug)]
pub struct Member {
    pub(super) group: Group,
    pub(super) id: u64,
    /// Held while the member lives. Only ever dropped, never unlocked: a forked child that drops its
    /// copy must not take the parent's lock away.
    lock: Option<Arc<dyn StorageLock>>,
    /// The configuration that claims are made for.
    pub(super) config_epoch: u64,
    /// Reads new records; stands at the group's cursor when `ahead_at` says so.
    pub(super) ahead: Scanner,
    pub(super) ahead_at: Option<u64>,
    /// Reads records that are handed out again.
    pub(super) back: Scanner,
    /// When it last looked after the others, boot time in microseconds.
    probed_us: u64,
}

/// Members that died since somebody looked.
struct Found {
    dead: Vec<u64>,
}

impl Found {
    fn settle(&self, txn: &mut Txn<'_>) -> Result<u64> {
        bury(txn, &self.dead)?;
        if txn.is_due() {
            txn.push(&Op::Advance)?;
        }
        Ok(txn.state().runs.claimable_seqs())
    }
}

impl Member {
    /// Its identity, never used twice.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its group: what it claims is settled there.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The configuration as it is now, which later claims are made for.
    ///
    /// # Errors
    /// `NotFound` when the group was deleted.
    pub fn accept_config(&mut self) -> Result<Config> {
        let config = self.group.config()?;
        self.config_epoch = config.epoch;
        Ok(config)
    }

    /// Makes ready what dead members and leases that ran out held, and what was parked until now,
    /// and wakes others for it. Returns how many records may be claimed now.
    ///
    /// # Errors
    /// `NotFound` when the group was deleted.
    pub fn take_over(&mut self, now: Now) -> Result<u64> {
        let Some(found) = self.look_around(now)? else { return self.claimable() };
        let shared = &self.group.shared;
        let claimable = shared.transact(now, |txn| found.settle(txn))?;
        shared.forget(&found.dead);
        Ok(claimable)
    }

    /// Whether it is time to look after the others, for members that never wait.
    pub(super) fn probe_is_due(&self, now: Now) -> bool {
        now.boot_us >= self.probed_us.saturating_add(PROBE_US)
    }

    fn claimable(&self) -> Result<u64> {
        self.group.shared.read(|state| state.runs.claimable_seqs())
    }

    /// What there is to take over; nothing when everybody lives and no time has come.
    fn look_around(&mut self, now: Now) -> Result<Option<Found>> {
        let shared = &self.group.shared;
        // Those who hold nothing are looked after when somebody joins.
        let (others, due) = shared.read(|state| {
            let others =
                state.members.iter().filter(|&(&id, other)| id != self.id && other.held > 0);
            (others.map(|(&id, _)| id).collect::<Vec<_>>(), state.is_due(now))
        })?;
        let dead = shared.dead_of(&others)?;
        self.probed_us = now.boot_us;
        Ok((due || !dead.is_empty()).then_some(Found { dead }))
    }

    /// Whether another member holds claims, so that its death would make records ready without
    /// anybody ringing.
    ///
    /// # Errors
    /// `NotFound` when the group was deleted.
    pub fn others_hold_claims(&self) -> Result<bool> {
        self.group.shared.read(|state| state.others_hold_claims(self.id))
    }

    /// When the next lease or delay of the group ends, boot time in microseconds.
    ///
    /// # Errors
    /// `NotFound` when the group was deleted.
    pub fn next_due_us(&self) -> Result<Option<u64>> {
        self.group.shared.read(|state| state.runs.next_timer_us())
    }

    /// When to call [`Member::take_over`] and claim again though nobody rang, boot time in
    /// microseconds; nothing when waiting for the bell is enough.
    ///
    /// Ask after a claim that found nothing.
    ///
    /// # Errors
    /// `NotFound` when the group was deleted.
    pub fn wake_at_us(&self, now: Now) -> Result<Option<u64>> {
        self.group.shared.read(|state| self.wake_at(state, now.boot_us))
    }

    pub(super) fn wake_at(&self, state: &GroupState, now_us: u64) -> Option<u64> {
        let timer = state.runs.next_timer_us();
        if state.others_hold_claims(self.id) {
            // The same moments for all groups: a process that is a member of many wakes once for all.
            let probe = now_us.saturating_add(PROBE_US) / PROBE_US * PROBE_US;
            return Some(timer.map_or(probe, |timer| timer.min(probe)));
        }
        timer
    }

    /// Leaves the group. What it still holds becomes ready for the others, the attempt counted.
    ///
    /// # Errors
    /// Those of appending; the member is gone all the same, and the others will notice.
    pub fn leave(mut self, now: Now) -> Result<()> {
        let id = self.id;
        let shared = Arc::clone(&self.group.shared);
        let left = shared.transact(now, |txn| {
            if txn.state().members.contains_key(&id) {
                txn.push(&Op::Depart { member: id, why: Departure::Left })?;
            }
            Ok(())
        });
        drop(self.lock.take());
        // To a forked child this is the member of its parent, who lives.
        if !left.as_ref().is_err_and(|error| error.kind() == ErrorKind::Forked) {
            shared.forget(&[id]);
        }
        left
    }

    /// Joins in a transaction of the group, whose guard keeps others from sweeping the lock file
    /// away before the member is known.
    pub(super) fn enter(txn: &mut Txn<'_>, group: &Group) -> Result<Self> {
        let shared = &group.shared;
        let storage = shared.main.storage();
        let members = names::members_dir(&shared.dir);
        storage
            .create_dir_all(&members)
            .map_err(|error| Error::io("join group", &members, error))?;
        let known: Vec<u64> = txn.state().members.keys().copied().collect();
        bury(txn, &shared.dead_of(&known)?)?;
        shared.sweep(txn, &members)?;
        let mut id = random_id();
        while txn.state().members.contains_key(&id) {
            id = random_id();
        }
        let path = names::member_file(&shared.dir, id);
        let io = |error| Error::io("join group", &path, error);
        let lock = storage.lock_file(&path).map_err(io)?;
        if !lock.try_lock().map_err(io)? {
            return Err(Error::new(
                ErrorKind::Busy,
                "join group",
                "the lock of a new member is held by somebody else; try again",
            )
            .with("path", path.display()));
        }
        txn.push(&Op::Join { member: id })?;
        if txn.state().lifetime != Some(Lifetime::Ephemeral) {
            reserve::fill(&shared.journal);
        }
        Ok(Self {
            group: group.clone(),
            id,
            lock: Some(lock),
            config_epoch: txn.state().config_epoch,
            ahead: shared.main.scanner(),
            ahead_at: None,
            back: shared.main.scanner(),
            probed_us: txn.stamp().boot_us,
        })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take() {
            drop(lock);
            // Others learn at once instead of at their next probe.
            self.group.shared.main.ring();
        }
    }
}

/// The other members' lock files, opened once.
#[derive(Debug, Default)]
pub(super) struct Probes {
    open: Mutex<HashMap<u64, Arc<dyn StorageLock>>>,
}

impl Shared {
    /// Those of the members whose lock nobody holds. The dead do not come back, so what this says
    /// stays true.
    pub(super) fn dead_of(&self, members: &[u64]) -> Result<Vec<u64>> {
        // What was opened to look at locks shows nothing in a forked child.
        self.journal.inner.check_open("probe member")?;
        let mut dead = Vec::new();
        for &member in members {
            if !self.is_alive(member)? {
                dead.push(member);
            }
        }
        Ok(dead)
    }

    /// Forgets departed members and their lock files.
    pub(super) fn forget(&self, members: &[u64]) {
        let mut open = self.probes.open.lock().unwrap_or_else(PoisonError::into_inner);
        for member in members {
            open.remove(member);
            // A file that stays behind is swept by the next who joins.
            let _ = self.main.storage().remove(&names::member_file(&self.dir, *member));
        }
    }

    fn is_alive(&self, member: u64) -> Result<bool> {
        let path = names::member_file(&self.dir, member);
        let io = |error| Error::io("probe member", &path, error);
        let storage = self.main.storage();
        let mut open = self.probes.open.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = match open.get(&member) {
            Some(lock) => Arc::clone(lock),
            None if !storage.exists(&path).map_err(io)? => return Ok(false),
            None => {
                let lock = storage.lock_file(&path).map_err(io)?;
                open.insert(member, Arc::clone(&lock));
                lock
            }
        };
        if !lock.try_lock_shared().map_err(io)? {
            return Ok(true);
        }
        lock.unlock().map_err(io)?;
        open.remove(&member);
        Ok(false)
    }

    /// Removes lock files of members that the group does not know: they died while they joined, or
    /// whoever noticed their death could not remove the file.
    fn sweep(&self, txn: &Txn<'_>, members: &Path) -> Result<()> {
        let storage = self.main.storage();
        let files =
            storage.list(members).map_err(|error| Error::io("join group", members, error))?;
        for file in files {
            let id = u64::from_str_radix(&file, 16).ok();
            if id.is_none_or(|id| !txn.state().members.contains_key(&id)) {
                let _ = storage.remove(&members.join(&file));
            }
        }
        Ok(())
    }
}

impl Txn<'_> {
    /// Whether a lease or a delay ended by now.
    pub(super) fn is_due(&self) -> bool {
        self.state().runs.next_timer_us().is_some_and(|at_us| at_us <= self.stamp().boot_us)
    }
}

/// Lets the dead depart, those whom nobody buried before.
pub(super) fn bury(txn: &mut Txn<'_>, dead: &[u64]) -> Result<()> {
    for &member in dead {
        if txn.state().members.contains_key(&member) {
            txn.push(&Op::Depart { member, why: Departure::Died })?;
        }
    }
    Ok(())
}

/// A number that nobody else draws: the hasher's keys come from the system's random source.
pub(super) fn random_id() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
