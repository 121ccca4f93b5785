//! The handle of a group: declaring, opening, configuring, settling, resetting.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::files::without_format;
use crate::{Error, ErrorKind, Log, Options, Result};

use super::directory::{self, StructureLock};
use super::journal::{Core, RECORD_BYTES_MAX, Txn};
use super::member::{Member, Probes, random_id};
use super::names;
use super::op::{Create, Lifetime, Op};
use super::settle::{Lost, Settle};
use super::shared::Shared;
use super::state::{GroupState, Life};
use super::time::Now;

/// What the label of a group's log begins with; the id of the main log follows.
const LABEL: &str = "group of ";
/// The longest configuration of a group.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// What a group is declared with.
#[derive(Debug, Clone, Copy)]
pub struct GroupSpec<'a> {
    /// Its name, of one character or more; 230 bytes as a file name at most.
    pub name: &'a str,
    /// Bytes that mean something to the user of the log only; 1 MiB at most.
    pub config: &'a [u8],
    /// The first sequence number that it sees; [`Log::next_seq`] for what comes from now on.
    pub start: u64,
    /// How long it stays when nobody uses it.
    pub lifetime: Lifetime,
}

/// Bounds of a group, chosen by each handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupOptions {
    /// With so many unsettled records no new ones are handed out until some are settled.
    pub unsettled_max: u64,
    /// With so many records that wait for earlier ones of their order no new ones are looked at.
    pub blocked_max: u64,
    /// How far the group's log grows before it is replaced by a snapshot, in bytes: what opening the
    /// group has to read at most, unless the snapshot itself is larger.
    pub snapshot_bytes: u64,
}

impl GroupOptions {
    /// How many new records may still be looked at: those claimed, and those blocked.
    pub(super) fn room(&self, state: &GroupState) -> (u64, u64) {
        let unsettled = self.unsettled_max.max(1).saturating_sub(state.runs.seqs());
        (unsettled, self.blocked_max.max(1).saturating_sub(state.runs.blocked_seqs()))
    }

    /// Whether new records have to wait until something is settled.
    pub(super) fn is_full(&self, state: &GroupState) -> bool {
        let (unsettled, blocked) = self.room(state);
        unsettled == 0 || blocked == 0
    }
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self { unsettled_max: 1 << 20, blocked_max: 1 << 16, snapshot_bytes: 1 << 20 }
    }
}

/// A group's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How many times it changed.
    pub epoch: u64,
    /// What it is.
    pub bytes: Vec<u8>,
}

/// What declaring a group came to.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The group.
    pub group: Group,
    /// False: it existed, and nothing of it was changed. Compare [`Group::config`].
    pub created: bool,
}

/// A group of a log. Clones, and members joined through one, share what it knows.
#[derive(Debug, Clone)]
pub struct Group {
    pub(super) shared: Arc<Shared>,
}

impl Group {
    /// Makes sure that there is a group of this name, durable when this returns, under the sync
    /// mode of the log. What exists is left as it is.
    ///
    /// # Errors
    /// `Conflict` for an ephemeral group, which [`Group::declare_and_join`] is for; `Limit` for a
    /// name or configuration over its bound; `Beyond` for a start beyond the tail.
    pub fn declare(
        log: &Log,
        spec: &GroupSpec<'_>,
        options: &GroupOptions,
        now: Now,
    ) -> Result<Declared> {
        if spec.lifetime == Lifetime::Ephemeral {
            return Err(Error::new(
                ErrorKind::Conflict,
                "declare group",
                "an ephemeral group lives as long as a member: declare and join it in one step",
            )
            .with("group", spec.name));
        }
        Ok(Self::declare_with(log, spec, options, now, |_| Ok(()))?.0)
    }

    /// Declares a group and joins it in one step, so that nobody finds it without a member.
    ///
    /// # Errors
    /// As [`Group::declare`], save that an ephemeral group is welcome.
    pub fn declare_and_join(
        log: &Log,
        spec: &GroupSpec<'_>,
        options: &GroupOptions,
        now: Now,
    ) -> Result<(Declared, Member)> {
        let join = |(txn, group): (&mut Txn<'_>, &Self)| Member::enter(txn, group);
        Self::declare_with(log, spec, options, now, join)
    }

    /// Grows with every change of the group, by anybody: who looked at it and sees the same number later
    /// missed nothing. One load.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.journal.next_seq()
    }

    /// Opens a group that exists.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn open(log: &Log, name: &str, options: &GroupOptions, now: Now) -> Result<Self> {
        let open = |dir| -> Result<Self> {
            let group = Self::open_at(log, name, dir, options, now)?;
            group.shared.read(|_| ())?;
            Ok(group)
        };
        let dir = names::find(log, name)?.ok_or_else(|| not_found(name))?;
        match open(dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Self::open_quietly(log, name, error, open)
            }
            opened => opened,
        }
    }

    /// Opens one that looked damaged again, while nobody makes or removes a group: half made and half gone
    /// look the same.
    fn open_quietly(
        log: &Log,
        name: &str,
        error: Error,
        open: impl Fn(PathBuf) -> Result<Self>,
    ) -> Result<Self> {
        // Without the right to lock, what was seen is all that can be said.
        let Ok(lock) = StructureLock::take(log) else { return Err(error) };
        let dir = names::find(log, name)?.ok_or_else(|| not_found(name))?;
        let storage = log.storage().as_ref();
        if !Log::exists(storage, &dir)? && without_format(storage, &dir, "open group").is_none() {
            // Whoever declared it died before it was a log.
            return Err(not_found(name));
        }
        let opened = open(dir);
        drop(lock);
        opened
    }

    /// Opens what there is in this directory, wherever it is in its life.
    pub(super) fn open_at(
        log: &Log,
        name: &str,
        dir: PathBuf,
        options: &GroupOptions,
        now: Now,
    ) -> Result<Self> {
        let storage = Arc::clone(log.storage());
        let journal = Log::open(storage, &dir, &journal_options(log), now.wall_us)?;
        Self::over(log, journal, name, dir, options)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its configuration as it is now.
    ///
    /// # Errors
    /// `NotFound` when it was deleted.
    pub fn config(&self) -> Result<Config> {
        self.shared.read(GroupState::config)
    }

    /// Replaces its configuration. Members learn of it at their next claim.
    ///
    /// With `if_epoch` only as long as the configuration is still the one of that epoch: false when
    /// it is not, and nothing was changed.
    ///
    /// # Errors
    /// `Limit` for more than 1 MiB.
    pub fn set_config(&self, bytes: &[u8], if_epoch: Option<u64>, now: Now) -> Result<bool> {
        check_config(&self.shared.name, bytes)?;
        let changed = self.shared.transact(now, |txn| {
            let wanted = if_epoch.is_none_or(|epoch| epoch == txn.state().config_epoch);
            if wanted {
                txn.push(&Op::Configure { config: bytes.to_vec() })?;
            }
            Ok(wanted)
        })?;
        self.commit()?;
        Ok(changed)
    }

    /// Becomes a member.
    ///
    /// # Errors
    /// `NotFound` when the group was deleted.
    pub fn join(&self, now: Now) -> Result<Member> {
        self.shared.transact(now, |txn| Member::enter(txn, self))
    }

    /// Settles claimed records, all in one transaction. An item went through unless `lost` names
    /// it; `lost` is cleared first. Visible to all members when this returns; durable after
    /// [`Group::commit`].
    ///
    /// # Errors
    /// Those of appending; then nothing was settled.
    pub fn settle(&self, items: &[Settle], now: Now, lost: &mut Vec<Lost>) -> Result<()> {
        lost.clear();
        if items.is_empty() {
            return Ok(());
        }
        self.shared.transact(now, |txn| txn.settle(items, lost))
    }

    /// As [`Group::settle`], unless somebody else changes the group at this moment: then false, and
    /// nothing was done.
    ///
    /// # Errors
    /// As [`Group::settle`].
    pub fn try_settle(&self, items: &[Settle], now: Now, lost: &mut Vec<Lost>) -> Result<bool> {
        lost.clear();
        if items.is_empty() {
            return Ok(true);
        }
        Ok(self.shared.try_transact(now, |txn| txn.settle(items, lost))?.is_some())
    }

    /// Returns when everything settled so far is durable, as the sync mode of the log has it.
    /// Blocks; all who wait share one flush.
    ///
    /// # Errors
    /// Those of the medium; after a failed flush the group's log is poisoned.
    pub fn commit(&self) -> Result<()> {
        self.shared.journal.commit(self.shared.journal.next_seq())
    }

    /// Makes everything settled so far durable, whatever the sync mode: what the owner of a log
    /// that syncs at intervals calls.
    ///
    /// # Errors
    /// As [`Group::commit`].
    pub fn sync(&self) -> Result<()> {
        self.shared.journal.sync().map(|_| ())
    }

    /// Goes on at `to`, forwards or backwards, with attempts counted anew. What members hold becomes
    /// lost to them, and they go on at the new place as well. Durable when this returns.
    ///
    /// # Errors
    /// `Beyond` when `to` lies beyond the tail. A place that was removed by retention is the first
    /// one that is there.
    pub fn reset(&self, to: u64, now: Now) -> Result<()> {
        let main = &self.shared.main;
        check_position(main, "reset group", to)?;
        // What is there when this returns stays there, whoever removes old records at this moment.
        let lock = StructureLock::take(main)?;
        let to = to.max(main.first_seq());
        self.shared.transact(now, |txn| txn.push(&Op::Reset { to }))?;
        drop(lock);
        self.commit()
    }

    /// The lowest sequence number that it still needs.
    ///
    /// # Errors
    /// `NotFound` when it was deleted.
    pub fn floor(&self) -> Result<u64> {
        self.shared.read(GroupState::floor)
    }

    fn declare_with<R>(
        log: &Log,
        spec: &GroupSpec<'_>,
        options: &GroupOptions,
        now: Now,
        then: impl FnOnce((&mut Txn<'_>, &Self)) -> Result<R>,
    ) -> Result<(Declared, R)> {
        check_config(spec.name, spec.config)?;
        check_position(log, "declare group", spec.start)?;
        names::check(spec.name)?;
        let lock = StructureLock::take(log)?;
        let mut group = match names::find(log, spec.name)? {
            Some(dir) => Self::make(log, spec.name, dir, options, now)?,
            None => Self::make_anew(log, spec.name, options, now)?,
        };
        if group.shared.life()? == Life::Deleted {
            // Whoever deleted it did not get to remove its directory.
            directory::remove(log, &group.shared.dir)?;
            group = Self::make_anew(log, spec.name, options, now)?;
        }
        let journal = &group.shared.journal;
        let before = journal.next_seq();
        let (created, result) = group.shared.transact_unborn(now, |txn| {
            let created = txn.state().life == Life::Unborn;
            if created {
                txn.push(&Op::Create(Create {
                    name: spec.name.to_owned(),
                    config: spec.config.to_vec(),
                    start: spec.start,
                    lifetime: spec.lifetime,
                }))?;
            } else {
                group.shared.check_alive(txn.state())?;
            }
            Ok((created, then((txn, &group))?))
        })?;
        drop(lock);
        if spec.lifetime != Lifetime::Ephemeral {
            // Also when it was there: whoever made it may have died before it was durable.
            journal.commit(if created { journal.next_seq() } else { before })?;
        }
        Ok((Declared { group, created }, result))
    }

    fn make_anew(log: &Log, name: &str, options: &GroupOptions, now: Now) -> Result<Self> {
        let dir = names::fresh(log, name, random_id())?;
        Self::make(log, name, dir, options, now)
    }

    fn make(log: &Log, name: &str, dir: PathBuf, options: &GroupOptions, now: Now) -> Result<Self> {
        let journal = Log::open_or_create(
            Arc::clone(log.storage()),
            &dir,
            &label(log),
            &journal_options(log),
            now.wall_us,
        )?;
        Self::over(log, journal, name, dir, options)
    }

    fn over(
        log: &Log,
        journal: Log,
        name: &str,
        dir: PathBuf,
        options: &GroupOptions,
    ) -> Result<Self> {
        if journal.label() != label(log).as_slice() {
            return Err(Error::new(
                ErrorKind::Foreign,
                "open group",
                "this group belongs to another log, whose positions mean nothing here; \
                 delete it and declare it anew",
            )
            .with("group", name)
            .with("path", dir.display()));
        }
        let core = Mutex::new(Core::new(&journal));
        let shared = Shared {
            main: log.clone(),
            journal,
            name: name.to_owned(),
            dir,
            options: *options,
            probes: Probes::default(),
            core,
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl GroupState {
    pub(super) fn config(&self) -> Config {
        Config { epoch: self.config_epoch, bytes: self.config.clone() }
    }
}

pub(super) fn not_found(name: &str) -> Error {
    let message = "there is no such group; declare it first";
    Error::new(ErrorKind::NotFound, "open group", message).with("group", name)
}

/// A group's log says whose it is: another log's positions would be taken for this one's.
fn label(log: &Log) -> Vec<u8> {
    format!("{LABEL}{:032x}", log.id()).into_bytes()
}

/// Whether a log is that of a group, by its label.
pub(crate) fn is_journal_label(label: &[u8]) -> bool {
    let id = label.strip_prefix(LABEL.as_bytes());
    id.is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit))
}

fn journal_options(log: &Log) -> Options {
    Options {
        // Sealed when a snapshot begins a new one, or when there is no end to it.
        segment_bytes: 64 << 20,
        segment_age: None,
        record_bytes_max: RECORD_BYTES_MAX,
        ..log.options().clone()
    }
}

fn check_config(name: &str, config: &[u8]) -> Result<()> {
    if config.len() <= CONFIG_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the group's configuration has {} bytes, more than {CONFIG_BYTES_MAX}; make it smaller",
        config.len()
    );
    Err(Error::new(ErrorKind::Limit, "configure group", message).with("group", name))
}

fn check_position(log: &Log, operation: &'static str, seq: u64) -> Result<()> {
    let tail = log.next_seq();
    if seq <= tail {
        return Ok(());
    }
    let message =
        format!("position {seq} lies beyond the tail, {tail}; give {tail} to start there");
    Err(Error::new(ErrorKind::Beyond { tail }, operation, message))
}
