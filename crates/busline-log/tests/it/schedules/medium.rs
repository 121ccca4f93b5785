//! A medium on which every step of every process is a point where another may be scheduled, or the end come.
//!
//! It stands between the log and [`MemStorage`]: each access to a word of the shared page, each lock and
//! each call to a file or directory first asks the scheduler who goes on. So the log itself is explored, as
//! it is compiled for everybody, under sequential consistency. Sleeping is up to the scheduler too: where
//! nobody dies no sleep ends by its timeout, and a wake-up that is lost shows as a deadlock.

use std::collections::BTreeMap;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use busline_log::storage::{
    Bell, MemStorage, OpenMode, PAGE_WORDS, Rope, SharedPage, Storage, StorageFile, StorageLock,
};
use shuttle::sync::{Condvar, Mutex};

/// What a process that was killed unwinds with.
pub(super) struct Killed;

/// One process on the medium.
#[derive(Debug, Clone)]
pub(super) struct Scheduled {
    inner: MemStorage,
    process: Arc<Process>,
}

#[derive(Debug)]
struct Process {
    inner: MemStorage,
    world: Arc<World>,
    /// The steps until it dies; negative for one that does not.
    steps_left: AtomicI64,
}

/// What all processes share.
#[derive(Debug)]
struct World {
    /// Touched before every step: the scheduler's chance.
    step: shuttle::sync::atomic::AtomicU64,
    gate: Mutex<()>,
    /// Those who sleep until a lock or a bell changed.
    changed: Condvar,
    /// Those who sleep on a word of a page, by the page's identity.
    futexes: std::sync::Mutex<BTreeMap<(u128, usize), Arc<Condvar>>>,
    /// Somebody may die without waking anyone, so sleeps end by themselves.
    mortal: bool,
}

impl Scheduled {
    /// A medium with one process; `mortal` when one of them may be killed.
    pub(super) fn new(mortal: bool) -> Self {
        let world = World {
            step: shuttle::sync::atomic::AtomicU64::new(0),
            gate: Mutex::new(()),
            changed: Condvar::new(),
            futexes: std::sync::Mutex::default(),
            mortal,
        };
        Self::on(MemStorage::new(), &Arc::new(world))
    }

    /// Another process.
    pub(super) fn process(&self) -> Self {
        Self::on(self.inner.process(), &self.process.world)
    }

    /// Lets it die before the step behind so many more.
    pub(super) fn die_in(&self, steps: i64) {
        self.process.steps_left.store(steps, Ordering::SeqCst);
    }

    /// The medium below, without scheduling.
    pub(super) fn medium(&self) -> &MemStorage {
        &self.inner
    }

    fn on(inner: MemStorage, world: &Arc<World>) -> Self {
        let process = Process {
            inner: inner.clone(),
            world: Arc::clone(world),
            steps_left: AtomicI64::new(-1),
        };
        Self { inner, process: Arc::new(process) }
    }
}

impl Process {
    /// Before every step.
    fn point(&self) {
        if std::thread::panicking() {
            return;
        }
        self.world.step.load(Ordering::SeqCst);
        match self.steps_left.load(Ordering::SeqCst) {
            left if left < 0 => {}
            0 => {
                self.inner.kill();
                self.world.tell();
                resume_unwind(Box::new(Killed));
            }
            left => self.steps_left.store(left - 1, Ordering::SeqCst),
        }
    }

    /// Sleeps until it is woken, unless `ready` says that there is no need. Nobody wakes between the two.
    fn sleep_unless(&self, bed: &Condvar, timed: bool, mut ready: impl FnMut() -> bool) {
        self.point();
        if timed && self.world.mortal {
            // The time is up at once, as it may be; others go first.
            shuttle::thread::yield_now();
            return;
        }
        // The dead leave it poisoned, and nothing is in it.
        let gate = self.world.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready() {
            drop(bed.wait(gate));
        }
    }

    fn wait_for(&self, mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
        let mut outcome = Ok(false);
        while matches!(outcome, Ok(false)) {
            self.sleep_unless(&self.world.changed, false, || {
                outcome = done();
                !matches!(outcome, Ok(false))
            });
        }
        outcome.map(drop)
    }
}

impl World {
    fn tell(&self) {
        drop(self.gate.lock());
        self.changed.notify_all();
    }

    fn futex(&self, page: u128, word: usize) -> Arc<Condvar> {
        Arc::clone(self.futexes.lock().unwrap().entry((page, word)).or_default())
    }
}

impl Storage for Scheduled {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.process.point();
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(ScheduledFile { inner, process: Arc::clone(&self.process) }))
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.process.point();
        self.inner.exists(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.process.point();
        self.inner.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.process.point();
        self.inner.list(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.process.point();
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.process.point();
        self.inner.remove(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.process.point();
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.process.point();
        self.inner.sync_dir(path)
    }
    fn lock_file(&self, path: &Path) -> io::Result<Arc<dyn StorageLock>> {
        self.process.point();
        let inner = Some(self.inner.lock_file(path)?);
        Ok(Arc::new(ScheduledLock { inner, process: Arc::clone(&self.process) }))
    }
    fn shared_page(&self, path: &Path) -> io::Result<Arc<dyn SharedPage>> {
        self.process.point();
        let inner = self.inner.shared_page(path)?;
        Ok(Arc::new(ScheduledPage { inner, process: Arc::clone(&self.process) }))
    }
    fn bell(&self, path: &Path) -> io::Result<Arc<dyn Bell>> {
        self.process.point();
        let inner = self.inner.bell(path)?;
        Ok(Arc::new(ScheduledBell { inner, process: Arc::clone(&self.process) }))
    }
    fn rope(&self, path: &Path) -> io::Result<Option<Arc<dyn Rope>>> {
        self.process.point();
        let process = Arc::clone(&self.process);
        let rope = self.inner.rope(path)?;
        Ok(rope.map(|inner| Arc::new(ScheduledRope { inner, process }) as Arc<dyn Rope>))
    }
    fn is_remote(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_remote(path)
    }
    fn boot_id(&self) -> io::Result<u128> {
        self.inner.boot_id()
    }
}

#[derive(Debug)]
struct ScheduledFile {
    inner: Arc<dyn StorageFile>,
    process: Arc<Process>,
}

impl StorageFile for ScheduledFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.process.point();
        self.inner.read_at(buf, at)
    }
    /// In two parts, so that others meet what is half written.
    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let (first, second) = buf.split_at(buf.len() / 2);
        self.process.point();
        self.inner.write_all_at(first, at)?;
        self.process.point();
        self.inner.write_all_at(second, at + first.len() as u64)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.process.point();
        self.inner.truncate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.process.point();
        self.inner.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.process.point();
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.process.point();
        self.inner.sync_all()
    }
}

#[derive(Debug)]
struct ScheduledLock {
    inner: Option<Arc<dyn StorageLock>>,
    process: Arc<Process>,
}

impl ScheduledLock {
    fn inner(&self) -> &dyn StorageLock {
        self.inner.as_deref().expect("taken by dropping only")
    }
}

impl StorageLock for ScheduledLock {
    fn lock(&self) -> io::Result<()> {
        self.process.wait_for(|| self.inner().try_lock())
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.process.point();
        self.inner().try_lock()
    }
    fn try_lock_shared(&self) -> io::Result<bool> {
        self.process.point();
        self.inner().try_lock_shared()
    }
    fn lock_shared(&self) -> io::Result<()> {
        self.process.wait_for(|| self.inner().try_lock_shared())
    }
    fn unlock(&self) -> io::Result<()> {
        self.process.point();
        let unlocked = self.inner().unlock();
        self.process.world.tell();
        unlocked
    }
}

impl Drop for ScheduledLock {
    fn drop(&mut self) {
        self.process.point();
        drop(self.inner.take());
        if !std::thread::panicking() {
            self.process.world.tell();
        }
    }
}

#[derive(Debug)]
struct ScheduledPage {
    inner: Arc<dyn SharedPage>,
    process: Arc<Process>,
}

impl SharedPage for ScheduledPage {
    fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        self.process.point();
        self.inner.words()
    }
    fn identity(&self) -> u128 {
        self.inner.identity()
    }
    fn wait(&self, word: usize, expected: u32, timeout: Option<Duration>) {
        let changed = || self.inner.low(word).load(Ordering::SeqCst) != expected;
        let bed = self.process.world.futex(self.inner.identity(), word);
        self.process.sleep_unless(&bed, timeout.is_some(), changed);
    }
    fn wake(&self, word: usize) {
        self.process.point();
        drop(self.process.world.gate.lock());
        self.process.world.futex(self.inner.identity(), word).notify_all();
    }
    fn wake_one(&self, word: usize) {
        self.process.point();
        drop(self.process.world.gate.lock());
        self.process.world.futex(self.inner.identity(), word).notify_one();
    }
    fn low(&self, word: usize) -> &AtomicU32 {
        self.process.point();
        self.inner.low(word)
    }
    fn sync(&self) -> io::Result<()> {
        self.process.point();
        self.inner.sync()
    }
}

#[derive(Debug)]
struct ScheduledBell {
    inner: Arc<dyn Bell>,
    process: Arc<Process>,
}

impl Bell for ScheduledBell {
    fn drain(&self) -> io::Result<bool> {
        self.process.point();
        self.inner.drain()
    }
    fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let rung = || self.inner.wait(Some(Duration::ZERO)).unwrap_or(true);
        self.process.sleep_unless(&self.process.world.changed, timeout.is_some(), rung);
        self.inner.wait(Some(Duration::ZERO))
    }
    fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
    fn path(&self) -> PathBuf {
        self.inner.path()
    }
}

#[derive(Debug)]
struct ScheduledRope {
    inner: Arc<dyn Rope>,
    process: Arc<Process>,
}

impl Rope for ScheduledRope {
    fn ring(&self) -> io::Result<bool> {
        self.process.point();
        let rung = self.inner.ring();
        self.process.world.tell();
        rung
    }
}
