//! A medium in memory, with processes that can be killed and power that can be lost.

mod content;
mod handle;
mod life;
mod medium;
mod page;
mod record;
#[cfg(test)]
mod tests;

pub use record::{MemOp, Unsynced};

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Bell, OpenMode, Rope, SharedPage, Storage, StorageFile, StorageLock};
use handle::{BellNode, MemBell, MemFile, MemLock, MemRope};
use life::{Life, Permit, dead};
use medium::{Entry, Medium};
use page::MemPage;

/// A medium in memory.
///
/// Clones share the medium and are the same process; [`MemStorage::process`] gives another process on
/// the same medium. What one writes, all see at once, as through the page cache; what is durable is
/// kept apart, and [`MemStorage::crash`] goes back to it.
///
/// The root directory is there from the start, all others are made with `create_dir_all`.
#[derive(Debug, Clone)]
pub struct MemStorage {
    shared: Arc<Shared>,
    process: Arc<Process>,
}

/// What all processes of a medium share.
#[derive(Debug)]
struct Shared {
    medium: Mutex<Medium>,
    /// Locks were given back, or somebody died.
    changed: Condvar,
}

/// A simulated process: it can die and be started again.
#[derive(Debug)]
struct Process {
    life: Mutex<Arc<Life>>,
}

impl MemStorage {
    /// An empty medium.
    pub fn new() -> Self {
        Self::on(Medium::new())
    }

    /// Another process on the same medium.
    #[must_use]
    pub fn process(&self) -> Self {
        let process = Arc::new(Process { life: Mutex::new(Arc::new(Life::new())) });
        let mut medium = self.shared.medium();
        medium.processes.retain(|process| process.strong_count() > 0);
        medium.processes.push(Arc::downgrade(&process));
        drop(medium);
        Self { shared: Arc::clone(&self.shared), process }
    }

    /// This process dies as by SIGKILL and is started anew: every handle that it opened until now fails
    /// from now on, its locks are free, its bells have no owner. What it wrote stays, synced or not, and
    /// so do the shared pages.
    pub fn kill(&self) {
        let mut medium = self.shared.medium();
        let life = self.process.restart();
        self.shared.end_life(&mut medium, &life);
    }

    /// This process dies after so many more changes of the medium (creating, writing, setting a length,
    /// syncing, renaming, removing): of the next one, when it is a write, the first `last_bytes` bytes
    /// arrive, and nothing of any other. From then on every call fails until [`MemStorage::kill`] or
    /// [`MemStorage::crash`] start it anew.
    pub fn kill_after(&self, changes: u64, last_bytes: usize) {
        self.process.life().end_after(changes, last_bytes);
    }

    /// Whether this process lives: not so from the end that [`MemStorage::kill_after`] set.
    pub fn is_alive(&self) -> bool {
        self.process.life().is_alive()
    }

    /// The power fails and comes back: a new boot. Every process dies and is started anew.
    ///
    /// Of each thing that was not synced, `choice(n)` picks one of `n` outcomes, 0 being that nothing of it
    /// arrived: for each changed name, whether it arrived; for each file, which of its lengths since the
    /// last sync; for each sector of 512 bytes, which of its contents since the last sync. So writes are torn
    /// and reordered, and a length that arrived without its data leaves zeros. The order of the questions
    /// is a function of what was done before.
    pub fn crash(&self, choice: &mut dyn FnMut(usize) -> usize) {
        self.crash_by(&mut |_, count| choice(count));
    }

    /// [`MemStorage::crash`], told what it is asked about.
    pub fn crash_by(&self, choice: &mut dyn FnMut(Unsynced<'_>, usize) -> usize) {
        let mut medium = self.shared.medium();
        let processes: Vec<_> =
            medium.processes.iter().filter_map(std::sync::Weak::upgrade).collect();
        for process in processes {
            self.shared.end_life(&mut medium, &process.restart());
        }
        medium.crash(choice);
    }

    /// [`MemStorage::crash`] with choices drawn from a seed. Seeds differ in how much they tend to keep: from
    /// nothing over a little, half and most to everything.
    pub fn crash_seeded(&self, seed: u64) {
        let mut state = seed;
        let percent =
            [0, 10, 50, 90, 100].get((mix(&mut state) % 5) as usize).copied().unwrap_or(50);
        self.crash(&mut |count| {
            if mix(&mut state) % 100 >= percent {
                return 0;
            }
            // The newest outcome more often than each of the older ones.
            if percent == 100 || mix(&mut state).is_multiple_of(2) {
                return count - 1;
            }
            usize::try_from(mix(&mut state) % count as u64).unwrap_or(0)
        });
    }

    /// A copy of the medium with all that is not synced yet, and one new process on it: so that one
    /// history can end in many ways. Identities of files are the same, so shared pages are believed.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self::on(self.shared.medium().duplicate())
    }

    /// Starts to record what is done to the medium, by all processes.
    pub fn start_record(&self) {
        self.shared.medium().record = Some(Vec::new());
    }

    /// What was done since [`MemStorage::start_record`], or since the last call; empty when not recording.
    pub fn take_record(&self) -> Vec<MemOp> {
        self.shared.medium().record.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What [`Storage::is_remote`] says from now on.
    pub fn set_remote(&self, remote: bool) {
        self.shared.medium().remote = remote;
    }

    /// [`Storage::open`], with the type known.
    pub(super) fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<MemFile> {
        if matches!(mode, OpenMode::Create | OpenMode::CreateNew) {
            return Ok(self.file_or_new(path, mode == OpenMode::CreateNew)?.1);
        }
        let (medium, life) = self.look()?;
        let node = medium.file(path)?;
        let (shared, path) = (Arc::clone(&self.shared), path.to_owned());
        let writable = mode == OpenMode::ReadWrite;
        Ok(MemFile { shared, node, life, path, writable, reserved: Mutex::default() })
    }

    fn on(medium: Medium) -> Self {
        let shared = Arc::new(Shared { medium: Mutex::new(medium), changed: Condvar::new() });
        let process = Arc::new(Process { life: Mutex::new(Arc::new(Life::new())) });
        shared.medium().processes.push(Arc::downgrade(&process));
        Self { shared, process }
    }

    /// The medium, for a call that changes nothing.
    fn look(&self) -> io::Result<(MutexGuard<'_, Medium>, Arc<Life>)> {
        let medium = self.shared.medium();
        let life = self.process.life();
        life.check()?;
        Ok((medium, life))
    }

    /// The medium, for a call that changes something.
    fn change(&self) -> io::Result<(MutexGuard<'_, Medium>, Arc<Life>)> {
        let mut medium = self.shared.medium();
        let life = self.process.life();
        if let Permit::Dying { .. } = life.spend()? {
            self.shared.end_life(&mut medium, &life);
            return Err(dead());
        }
        Ok((medium, life))
    }

    /// Opens a file for writing. A call that makes it is a change, one that finds it is none.
    fn file_or_new(&self, path: &Path, new: bool) -> io::Result<(MutexGuard<'_, Medium>, MemFile)> {
        let (mut medium, life) = self.look()?;
        let found = medium.lookup(path)?.is_some();
        if found && new {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if !found && let Permit::Dying { .. } = life.spend()? {
            self.shared.end_life(&mut medium, &life);
            return Err(dead());
        }
        let node = medium.file_or_new(path)?;
        let shared = Arc::clone(&self.shared);
        let (path, reserved) = (path.to_owned(), Mutex::default());
        Ok((medium, MemFile { shared, node, life, path, writable: true, reserved }))
    }
}

impl Default for MemStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage for MemStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(self.open_file(path, mode)?))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.look()?.0.lookup(path)?.is_some())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if let Some(Entry::Dir(_)) = self.look()?.0.lookup(path)? {
            return Ok(());
        }
        self.change()?.0.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.look()?.0.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?.0.remove(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change()?.0.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?.0.sync_dir(path)
    }

    fn lock_file(&self, path: &Path) -> io::Result<Arc<dyn StorageLock>> {
        let (mut medium, file) = self.file_or_new(path, false)?;
        let holder = medium.new_id();
        drop(medium);
        let MemFile { shared, node, life, .. } = file;
        Ok(Arc::new(MemLock { shared, node, life, holder }))
    }

    fn shared_page(&self, path: &Path) -> io::Result<Arc<dyn SharedPage>> {
        let (medium, file) = self.file_or_new(path, false)?;
        drop(medium);
        let words = file.node.content().map().ok_or_else(|| {
            io::Error::new(
                ErrorKind::InvalidData,
                "a shared page is 4096 bytes long, this file is longer",
            )
        })?;
        let identity = u128::from(file.node.id);
        Ok(Arc::new(MemPage::new(words, Arc::clone(&file.life), identity, Box::new(file))))
    }

    fn bell(&self, path: &Path) -> io::Result<Arc<dyn Bell>> {
        let (mut medium, life) = self.change()?;
        match medium.lookup(path)? {
            Some(Entry::Bell(bell)) if !bell.is_owned() => {}
            Some(_) => return Err(ErrorKind::AlreadyExists.into()),
            None => {}
        }
        let node = Arc::new(BellNode::owned(medium.new_id(), &life));
        medium.link(path, Some(Entry::Bell(Arc::clone(&node))))?;
        let shared = Arc::clone(&self.shared);
        Ok(Arc::new(MemBell { shared, node, life, path: path.to_owned() }))
    }

    fn rope(&self, path: &Path) -> io::Result<Option<Arc<dyn Rope>>> {
        let (medium, life) = self.look()?;
        match medium.lookup(path)? {
            Some(Entry::Bell(bell)) if bell.is_owned() => {
                Ok(Some(Arc::new(MemRope { node: bell, life })))
            }
            Some(Entry::Bell(_)) | None => Ok(None),
            Some(_) => Err(io::Error::new(ErrorKind::InvalidData, "what stands here is no bell")),
        }
    }

    fn is_remote(&self, _path: &Path) -> io::Result<bool> {
        Ok(self.look()?.0.remote)
    }

    fn boot_id(&self) -> io::Result<u128> {
        let mut state = self.look()?.0.boots;
        Ok(u128::from(mix(&mut state)) << 64 | u128::from(mix(&mut state)))
    }
}

impl Shared {
    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a process: its locks are free, and who waits looks up.
    fn end_life(&self, medium: &mut Medium, life: &Arc<Life>) {
        life.end();
        for held in medium.locks.values_mut() {
            held.retain(|one| one.life.is_alive());
        }
        medium.wake_all();
        self.changed.notify_all();
    }
}

impl Process {
    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a new life and returns the old one.
    fn restart(&self) -> Arc<Life> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *life, Arc::new(Life::new()))
    }
}

/// SplitMix64: the next number of a sequence.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
