//! A storage that fails as it is told, over any other.

mod plan;
#[cfg(test)]
mod tests;

pub use plan::{Call, Fault, FaultPlan, Gate};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use super::mem::MemStorage;
use super::{Bell, OpenMode, PAGE_WORDS, Rope, SharedPage, Storage, StorageFile, StorageLock};

/// A storage that fails as its [`FaultPlan`] says, and else does what the storage below it does.
#[derive(Debug, Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    memory: Option<MemStorage>,
    plan: FaultPlan,
}

impl FaultyStorage {
    /// Over any storage. A sync that fails leaves the data to be made durable by a later one.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, memory: None, plan: FaultPlan::default() }
    }

    /// Over a medium in memory. After a sync that fails, what it should have made durable never is, though
    /// it is read back until the power fails: what Linux does (Rebello et al., "Can Applications Recover
    /// from fsync Failures?", USENIX ATC 2020).
    pub fn over_memory(memory: &MemStorage) -> Self {
        Self { memory: Some(memory.clone()), ..Self::new(Arc::new(memory.clone())) }
    }

    /// What fails; to be changed at any time.
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }
}

impl Storage for FaultyStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.plan.check(Call::Open, path)?;
        let plan = self.plan.clone();
        let (inner, forget): (Arc<dyn StorageFile>, Forget) = match &self.memory {
            None => (self.inner.open(path, mode)?, Forget(None)),
            Some(memory) => {
                let file = Arc::new(memory.open_file(path, mode)?);
                let same = Arc::clone(&file);
                (file, Forget(Some(Box::new(move || same.forget_unsynced()))))
            }
        };
        Ok(Arc::new(FaultyFile { inner, forget, plan, path: path.to_owned() }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.plan.check(Call::List, path)?;
        self.inner.exists(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Call::CreateDir, path)?;
        self.inner.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.plan.check(Call::List, path)?;
        self.inner.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.check(Call::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Call::Remove, path)?;
        let len = match self.plan.space() {
            Some(_) => self.inner.open(path, OpenMode::Read).and_then(|file| file.len()),
            None => Ok(0),
        };
        self.inner.remove(path)?;
        self.plan.give_space(len.unwrap_or(0));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Call::Remove, path)?;
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.plan.check(Call::SyncDir, path)?;
        self.inner.sync_dir(path)
    }

    fn lock_file(&self, path: &Path) -> io::Result<Arc<dyn StorageLock>> {
        self.plan.check(Call::Lock, path)?;
        let inner = self.inner.lock_file(path)?;
        Ok(Arc::new(FaultyLock { inner, plan: self.plan.clone(), path: path.to_owned() }))
    }

    fn shared_page(&self, path: &Path) -> io::Result<Arc<dyn SharedPage>> {
        self.plan.check(Call::Page, path)?;
        let inner = self.inner.shared_page(path)?;
        Ok(Arc::new(FaultyPage { inner, plan: self.plan.clone(), path: path.to_owned() }))
    }

    fn bell(&self, path: &Path) -> io::Result<Arc<dyn Bell>> {
        self.plan.check(Call::Bell, path)?;
        self.inner.bell(path)
    }

    fn rope(&self, path: &Path) -> io::Result<Option<Arc<dyn Rope>>> {
        self.plan.check(Call::Bell, path)?;
        self.inner.rope(path)
    }

    fn is_remote(&self, path: &Path) -> io::Result<bool> {
        self.inner.is_remote(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<Option<u64>> {
        match self.plan.space() {
            Some(space) => Ok(Some(space)),
            None => self.inner.free_bytes(path),
        }
    }

    fn boot_id(&self) -> io::Result<u128> {
        self.inner.boot_id()
    }
}

/// What a failed sync does to the data.
struct Forget(Option<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for Forget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forget").field(&self.0.is_some()).finish()
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn StorageFile>,
    forget: Forget,
    plan: FaultPlan,
    path: PathBuf,
}

impl FaultyFile {
    fn check_sync(&self) -> io::Result<()> {
        let checked = self.plan.check(Call::Sync, &self.path);
        if let (Err(_), Some(forget)) = (&checked, &self.forget.0) {
            forget();
        }
        checked
    }

    /// Stores the first bytes of a write that fails.
    fn store_part(&self, buf: &[u8], stored: usize, at: u64) -> io::Result<()> {
        self.inner.write_all_at(buf.get(..stored).unwrap_or(buf), at)
    }
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.plan.check(Call::Read, &self.path)?;
        self.inner.read_at(buf, at)
    }

    fn try_read_at(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        self.plan.check(Call::Read, &self.path)?;
        self.inner.try_read_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        if let Some(failure) = self.plan.strike(Call::Write, &self.path) {
            self.store_part(buf, failure.stored, at)?;
            return Err(failure.error);
        }
        let growth = match self.plan.space() {
            Some(_) => (at + buf.len() as u64).saturating_sub(self.inner.len()?),
            None => 0,
        };
        let missing = usize::try_from(self.plan.take_space(growth)).unwrap_or(usize::MAX);
        if missing > 0 {
            self.store_part(buf, buf.len().saturating_sub(missing), at)?;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left (injected)"));
        }
        self.inner.write_all_at(buf, at)
    }

    fn reserve(&self, from: u64, until: u64) -> io::Result<bool> {
        self.plan.check(Call::Truncate, &self.path)?;
        let growth = until.saturating_sub(self.inner.len()?);
        let missing = self.plan.take_space(growth);
        if missing > 0 {
            self.plan.give_space(growth - missing);
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left (injected)"));
        }
        self.inner.reserve(from, until)
    }

    fn write_reserved(&self, buf: &[u8], at: u64) -> io::Result<bool> {
        if let Some(failure) = self.plan.strike(Call::Write, &self.path) {
            // Nothing tells of a store that fails; who dies in the middle of one leaves a part of it.
            self.inner.write_reserved(buf.get(..failure.stored).unwrap_or(buf), at)?;
            return Err(failure.error);
        }
        self.inner.write_reserved(buf, at)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.plan.check(Call::Truncate, &self.path)?;
        let before = self.inner.len()?;
        self.inner.truncate(len)?;
        self.plan.give_space(before.saturating_sub(len));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check_sync()?;
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.check_sync()?;
        self.inner.sync_all()
    }
}

#[derive(Debug)]
struct FaultyLock {
    inner: Arc<dyn StorageLock>,
    plan: FaultPlan,
    path: PathBuf,
}

impl StorageLock for FaultyLock {
    fn lock(&self) -> io::Result<()> {
        self.plan.check(Call::Lock, &self.path)?;
        self.inner.lock()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.plan.check(Call::Lock, &self.path)?;
        self.inner.try_lock()
    }

    fn try_lock_shared(&self) -> io::Result<bool> {
        self.plan.check(Call::Lock, &self.path)?;
        self.inner.try_lock_shared()
    }

    fn lock_shared(&self) -> io::Result<()> {
        self.plan.check(Call::Lock, &self.path)?;
        self.inner.lock_shared()
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }
}

#[derive(Debug)]
struct FaultyPage {
    inner: Arc<dyn SharedPage>,
    plan: FaultPlan,
    path: PathBuf,
}

impl SharedPage for FaultyPage {
    fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        self.inner.words()
    }

    fn identity(&self) -> u128 {
        self.inner.identity()
    }

    fn wait(&self, word: usize, expected: u32, timeout: Option<Duration>) {
        self.inner.wait(word, expected, timeout);
    }

    fn wake(&self, word: usize) {
        self.inner.wake(word);
    }

    fn wake_one(&self, word: usize) {
        self.inner.wake_one(word);
    }

    fn low(&self, word: usize) -> &AtomicU32 {
        self.inner.low(word)
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.check(Call::PageSync, &self.path)?;
        self.inner.sync()
    }
}
