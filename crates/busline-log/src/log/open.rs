//! Creating and opening a log.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use crate::control::{Control, Poison, Tail};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{
    BELLS, CLEAN, CONTROL, CleanMark, FORMAT, Format, HOLDER, LABEL_BYTES_MAX, OPEN_LOCK, POISONED,
    RECOVERY_LOCK, SYNC_LOCK, is_leftover, without_format,
};
use crate::log::append_lock::AppendLock;
use crate::log::recovery::{self, Recovered};
use crate::log::{CachedTable, Inner, Log, Writer};
use crate::options::{Access, OpenReport, Options};
use crate::page::PrivatePage;
use crate::segment::{self, FRAMES_START, SegmentHeader};
use crate::storage::{ForkGuard, Storage, StorageLock, make_dir, parent_of};

const OPEN: &str = "open a log";
const CREATE: &str = "create a log";

impl Log {
    /// Makes a new log; its directory and the parents are made as needed. `Conflict` when there is one
    /// already, `Foreign` when the directory holds something else. A crash at any point leaves either
    /// no log (and the call may be repeated) or a whole one.
    pub fn create(
        storage: Arc<dyn Storage>,
        dir: &Path,
        label: &[u8],
        options: &Options,
        now_us: i64,
    ) -> Result<Self> {
        if !make(&storage, dir, label, options, now_us)? {
            return Err(Error::new(ErrorKind::Conflict, CREATE, "there is a log already; open it")
                .with("path", dir.display()));
        }
        Self::open_as(storage, dir, options, now_us, true)
    }

    /// Opens a log. `NotFound` when there is none, `Foreign` when the directory holds something else,
    /// `Newer` when a newer program wrote it, `Remote` on a network file system. A damaged middle does
    /// not keep a log from being opened: see [`Log::open_report`].
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: &Options,
        now_us: i64,
    ) -> Result<Self> {
        Self::open_as(storage, dir, options, now_us, false)
    }

    /// Opens a log, or makes it with this label when there is none.
    pub fn open_or_create(
        storage: Arc<dyn Storage>,
        dir: &Path,
        label: &[u8],
        options: &Options,
        now_us: i64,
    ) -> Result<Self> {
        let created = match options.access {
            Access::ReadWrite => {
                !Self::exists(storage.as_ref(), dir)?
                    && make(&storage, dir, label, options, now_us)?
            }
            Access::ReadOnly => false,
        };
        Self::open_as(storage, dir, options, now_us, created)
    }

    /// Removes a log with its directory. `Busy` while anyone has it open, `NotFound` when there is none.
    pub fn delete(storage: &dyn Storage, dir: &Path) -> Result<()> {
        const OP: &str = "delete a log";
        Format::load(storage, dir)?;
        let lock = directory_lock(storage, dir, OPEN_LOCK, OP)?;
        if !lock.try_lock().map_err(|e| Error::io(OP, &dir.join(OPEN_LOCK), e))? {
            return Err(busy(OP, dir));
        }
        // Without its FORMAT the directory is no log any more, however far the rest gets.
        let format = dir.join(FORMAT);
        storage.remove(&format).map_err(|e| Error::io(OP, &format, e))?;
        storage.sync_dir(dir).map_err(|e| Error::io(OP, dir, e))?;
        storage.remove_dir_all(dir).map_err(|e| Error::io(OP, dir, e))?;
        sync_parent(storage, dir, OP)
    }

    fn open_as(
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: &Options,
        now_us: i64,
        created: bool,
    ) -> Result<Self> {
        let format = Format::load(storage.as_ref(), dir)?;
        check_remote(storage.as_ref(), dir, options, OPEN)?;
        let boot_id = storage.boot_id().map_err(|e| Error::io(OPEN, dir, e))?;
        let locks = Locks::take(storage.as_ref(), dir, options.access)?;
        // The log may have been deleted while the lock was waited for.
        let format = if locks.waited { Format::load(storage.as_ref(), dir)? } else { format };
        let (control, mut report) = match options.access {
            Access::ReadOnly => open_read_only(storage.as_ref(), dir, &format, boot_id)?,
            Access::ReadWrite => open_shared(&storage, dir, &format, boot_id, &locks, now_us)?,
        };
        report.created = created;
        let lock = AppendLock::new(&control, &storage, dir);
        let inner = Inner {
            dir: dir.to_owned(),
            format,
            options: options.clone(),
            boot_id,
            control,
            open_lock: locks.open,
            sync_lock: locks.sync,
            writer: Mutex::new(Writer { lock, active: None }),
            leader: Mutex::new(None),
            table: Mutex::new(CachedTable::default()),
            indexed: Mutex::default(),
            ropes: Mutex::default(),
            fork_guard: ForkGuard::new(),
            closed: AtomicBool::new(false),
            report,
            storage,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// The locks of a handle; `open` is held shared, or not at all without write access.
struct Locks {
    open: Arc<dyn StorageLock>,
    recovery: Arc<dyn StorageLock>,
    sync: Arc<dyn StorageLock>,
    waited: bool,
}

impl Locks {
    fn take(storage: &dyn Storage, dir: &Path, access: Access) -> Result<Self> {
        if access == Access::ReadOnly {
            let none: Arc<dyn StorageLock> = Arc::new(NoLock);
            let (recovery, sync) = (Arc::clone(&none), Arc::clone(&none));
            return Ok(Self { open: none, recovery, sync, waited: false });
        }
        let open = directory_lock(storage, dir, OPEN_LOCK, OPEN)?;
        let path = dir.join(OPEN_LOCK);
        let at_once = open.try_lock_shared().map_err(|e| Error::io(OPEN, &path, e))?;
        if !at_once {
            // Somebody closes it as the last one, repairs it or deletes it.
            open.lock_shared().map_err(|e| Error::io(OPEN, &path, e))?;
        }
        let recovery = directory_lock(storage, dir, RECOVERY_LOCK, OPEN)?;
        let sync = directory_lock(storage, dir, SYNC_LOCK, OPEN)?;
        Ok(Self { open, recovery, sync, waited: !at_once })
    }

    /// Whether nobody else has the log open, or is about to.
    fn is_alone(&self, dir: &Path) -> Result<bool> {
        let io = |e| Error::io(OPEN, &dir.join(OPEN_LOCK), e);
        let alone = self.open.try_lock().map_err(io)?;
        // The attempt gave up the share.
        self.open.lock_shared().map_err(io)?;
        Ok(alone)
    }
}

/// The lock of a log that is not shared.
#[derive(Debug)]
struct NoLock;

impl StorageLock for NoLock {
    fn lock(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn try_lock(&self) -> std::io::Result<bool> {
        Ok(true)
    }
    fn try_lock_shared(&self) -> std::io::Result<bool> {
        Ok(true)
    }
    fn lock_shared(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn unlock(&self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn directory_lock(
    storage: &dyn Storage,
    dir: &Path,
    name: &str,
    operation: &'static str,
) -> Result<Arc<dyn StorageLock>> {
    let path = dir.join(name);
    storage.lock_file(&path).map_err(|e| Error::io(operation, &path, e))
}

pub(crate) fn busy(operation: &'static str, dir: &Path) -> Error {
    Error::new(ErrorKind::Busy, operation, "others have the log open; stop them first")
        .with("path", dir.display())
}

fn check_remote(
    storage: &dyn Storage,
    dir: &Path,
    options: &Options,
    operation: &'static str,
) -> Result<()> {
    if options.allow_remote || !storage.is_remote(dir).map_err(|e| Error::io(operation, dir, e))? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Remote,
        operation,
        "the directory is on a network file system, where file locks and shared memory do not hold \
         between machines; use a local disk, or set allow_remote if one machine alone uses it",
    )
    .with("path", dir.display()))
}

/// Makes the directory into a log. `Ok(false)` when it is one.
fn make(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    label: &[u8],
    options: &Options,
    now_us: i64,
) -> Result<bool> {
    if label.len() > LABEL_BYTES_MAX {
        return Err(Error::new(ErrorKind::Limit, CREATE, "the label is too long; shorten it")
            .with("label_bytes", label.len())
            .with("label_bytes_max", LABEL_BYTES_MAX));
    }
    if options.access == Access::ReadOnly {
        return Err(Error::new(ErrorKind::ReadOnly, CREATE, "creating needs write access"));
    }
    let io = |e| Error::io(CREATE, dir, e);
    make_dir(storage.as_ref(), dir).map_err(io)?;
    check_remote(storage.as_ref(), dir, options, CREATE)?;
    let names = storage.list(dir).map_err(io)?;
    let has_format = names.iter().any(|name| name == FORMAT);
    if let (false, Some(damaged)) = (has_format, without_format(storage.as_ref(), dir, CREATE)) {
        return Err(damaged);
    }
    let foreign = names.iter().find(|name| !is_leftover(name));
    if let (Some(name), false) = (foreign, has_format) {
        return Err(Error::new(
            ErrorKind::Foreign,
            CREATE,
            "the directory holds something that is no log; give an empty one",
        )
        .with("path", dir.display())
        .with("found", name));
    }
    // The lock of those who recover also keeps two creators apart; it is given back when it is dropped.
    let lock = directory_lock(storage.as_ref(), dir, RECOVERY_LOCK, CREATE)?;
    lock.lock().map_err(io)?;
    let made = if Log::exists(storage.as_ref(), dir)? {
        Ok(false)
    } else {
        lay_out(storage.as_ref(), dir, label, now_us).map(|()| true)
    };
    lock.unlock().map_err(io)?;
    made
}

/// Writes the first segment, then the file that makes it a log.
fn lay_out(storage: &dyn Storage, dir: &Path, label: &[u8], now_us: i64) -> Result<()> {
    let id = u128::from(fresh_token()) << 64 | u128::from(fresh_token());
    let header = SegmentHeader {
        salt: fresh_salt(),
        log_id: id,
        base_seq: 0,
        prev_end: 0,
        created_us: now_us,
        prev_time_us: 0,
        synced_seq: 0,
    };
    let path = segment::path(dir, 0);
    segment::create(storage, dir, &header).map_err(|(e, _)| Error::io(CREATE, &path, e))?;
    let tail = Tail { active_base: 0, seq: 0, pos: FRAMES_START, last_time_us: 0 };
    let mark = CleanMark { log_id: id, tail };
    mark.store(storage, dir).map_err(|e| Error::io(CREATE, &dir.join(CLEAN), e))?;
    let format = Format { id, label: label.to_vec() };
    format.store(storage, dir).map_err(|e| Error::io(CREATE, &dir.join(FORMAT), e))
}

fn sync_parent(storage: &dyn Storage, dir: &Path, operation: &'static str) -> Result<()> {
    let parent = parent_of(dir);
    storage.sync_dir(parent).map_err(|e| Error::io(operation, parent, e))
}

/// Opens with the shared control page; recovers the log when the page cannot be believed.
///
/// A page is believed from the end of a recovery on, until a repair, which has the log for itself. So while
/// somebody recovers no handle is there that could append, and the lock of those who recover keeps
/// apart only them (and creators, and repairs).
fn open_shared(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    format: &Format,
    boot_id: u128,
    locks: &Locks,
    now_us: i64,
) -> Result<(Control, OpenReport)> {
    let io = |e| Error::io(OPEN, dir, e);
    let path = dir.join(CONTROL);
    let page = storage.shared_page(&path).map_err(|e| Error::io(OPEN, &path, e))?;
    let control = Control::new(page);
    if !control.is_trusted(boot_id) {
        locks.recovery.lock().map_err(io)?;
        let recovered = if control.is_trusted(boot_id) {
            Ok(None)
        } else if control.is_of_another_version() && !locks.is_alone(dir)? {
            Err(Error::new(
                ErrorKind::Busy,
                OPEN,
                "programs with another version of the library may have the log open, and both cannot share \
                 it; stop all of them, then open it again",
            )
            .with("path", dir.display()))
        } else {
            recover(storage.as_ref(), dir, format, &control, boot_id, now_us).map(Some)
        };
        locks.recovery.unlock().map_err(io)?;
        if let Some(report) = recovered? {
            return Ok((control, report));
        }
    }
    recovery::check_trusted(storage.as_ref(), dir, &control)?;
    let report = OpenReport {
        trusted: true,
        clean: control.is_clean(),
        damage: recovery::known_damage(storage.as_ref(), dir, format, &control)?,
        ..OpenReport::default()
    };
    Ok((control, report))
}

/// Recovers the log and fills the page. Under the lock for that.
fn recover(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    control: &Control,
    boot_id: u128,
    now_us: i64,
) -> Result<OpenReport> {
    let poisoned = storage.exists(&dir.join(POISONED)).map_err(|e| Error::io(OPEN, dir, e))?;
    let Recovered { tail, first, clean, report } =
        recovery::recover(storage, dir, format, poisoned, now_us)?;
    let poison = poison_of(poisoned, &report);
    // Doorbells and holders of processes that are gone: no page knows them any more.
    remove_all(storage, &dir.join(BELLS), "");
    remove_all(storage, dir, HOLDER);
    control.init(boot_id, tail, first, poison, clean);
    Ok(report)
}

/// Removes the files of a directory whose names begin so. A left-over takes up a name and nothing else.
fn remove_all(storage: &dyn Storage, dir: &Path, prefix: &str) {
    let names = storage.list(dir).unwrap_or_default();
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        let _ = storage.remove(&dir.join(name));
    }
}

/// Opens without writing anything: what is valid now is what is seen.
fn open_read_only(
    storage: &dyn Storage,
    dir: &Path,
    format: &Format,
    boot_id: u128,
) -> Result<(Control, OpenReport)> {
    let found = recovery::examine(storage, dir, format)?;
    let poisoned = storage.exists(&dir.join(POISONED)).unwrap_or(false);
    let control = Control::new(Arc::new(PrivatePage::new()));
    let poison = poison_of(poisoned, &found.report);
    control.init(boot_id, found.tail, found.first, poison, false);
    Ok((control, found.report))
}

fn poison_of(poisoned: bool, report: &OpenReport) -> Poison {
    match (&report.damage, poisoned) {
        (Some(_), _) => Poison::Damaged,
        (None, true) => Poison::SyncFailed,
        (None, false) => Poison::None,
    }
}

/// A number that no other process makes up: the standard library's hash keys are random.
pub(super) fn fresh_token() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A salt for a new segment.
pub(crate) fn fresh_salt() -> u32 {
    (fresh_token() >> 32) as u32
}
