//! The file system of this machine: files, `flock` locks, a mapped page with a futex, FIFO bells.

mod bell;
mod boot;
mod file;
mod limit;
pub(super) mod map;
mod page;
mod remote;
#[cfg(test)]
mod tests;
mod unshared;
mod wait;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use limit::with_files;
use rustix::fs::OFlags;

use super::{Bell, OpenMode, Rope, SharedPage, Storage, StorageFile, StorageLock};

/// The file system of this machine. Has no state: every value is the same storage.
///
/// It is made for local file systems. Locks and the shared page of a remote one (see
/// [`Storage::is_remote`]) are not kept between machines, and its durability is another.
///
/// Where this process has as many files open as it may, the soft limit (`RLIMIT_NOFILE`) is raised, up to the
/// hard one: a process that holds many logs needs no preparation.
#[derive(Debug, Clone, Copy, Default)]
pub struct FsStorage;

impl FsStorage {
    /// The file system of this machine.
    pub fn new() -> Self {
        Self
    }
}

impl Storage for FsStorage {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::CreateNew => options.write(true).create_new(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
        };
        // Opening a pipe would wait for whoever writes to it, for ever.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = with_files(|| options.open(path))?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a pipe, socket or device stands here instead of a file; move it away, or restore the file",
            ));
        }
        Ok(Arc::new(file::FsFile::new(file)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in with_files(|| fs::read_dir(path))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        with_files(|| File::open(path))?.sync_all()
    }

    fn lock_file(&self, path: &Path) -> io::Result<Arc<dyn StorageLock>> {
        Ok(Arc::new(with_files(|| file::FsLock::open(path))?))
    }

    fn shared_page(&self, path: &Path) -> io::Result<Arc<dyn SharedPage>> {
        Ok(Arc::new(with_files(|| page::FsPage::open(path))?))
    }

    fn bell(&self, path: &Path) -> io::Result<Arc<dyn Bell>> {
        Ok(Arc::new(with_files(|| bell::FsBell::create(path))?))
    }

    fn rope(&self, path: &Path) -> io::Result<Option<Arc<dyn Rope>>> {
        Ok(with_files(|| bell::FsRope::open(path))?.map(|rope| Arc::new(rope) as Arc<dyn Rope>))
    }

    fn is_remote(&self, path: &Path) -> io::Result<bool> {
        remote::is_remote(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn boot_id(&self) -> io::Result<u128> {
        boot::boot_id()
    }
}
