//! The page that processes share: a file of one page, mapped by each of them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::map::{MappedPage, PAGE_BYTES};
use super::wait;
use crate::storage::words::low_half;
use crate::storage::{PAGE_WORDS, SharedPage};

/// A mapped page file.
#[derive(Debug)]
pub(super) struct FsPage {
    file: File,
    page: MappedPage,
    identity: u128,
}

impl FsPage {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        grow(&file)?;
        let page = MappedPage::of_file(&file)?;
        let identity = identity_of(&file)?;
        Ok(Self { file, page, identity })
    }

    fn futex(&self, word: usize) -> Option<&AtomicU32> {
        self.page.words().get(word).map(low_half)
    }
}

impl SharedPage for FsPage {
    fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        self.page.words()
    }

    fn identity(&self) -> u128 {
        self.identity
    }

    fn wait(&self, word: usize, expected: u32, timeout: Option<Duration>) {
        if let Some(futex) = self.futex(word)
            && futex.load(Ordering::SeqCst) == expected
        {
            wait::while_equal(futex, expected, timeout);
        }
    }

    fn wake(&self, word: usize) {
        if let Some(futex) = self.futex(word) {
            wait::wake(futex, u32::MAX);
        }
    }

    fn wake_one(&self, word: usize) {
        if let Some(futex) = self.futex(word) {
            wait::wake(futex, 1);
        }
    }

    fn low(&self, word: usize) -> &AtomicU32 {
        self.futex(word).expect("a shared page has PAGE_WORDS words")
    }

    fn sync(&self) -> io::Result<()> {
        self.page.flush()?;
        // macOS: msync stops at the drive's cache, only F_FULLFSYNC goes through it.
        self.file.sync_all()
    }
}

/// Gives a page file its size, in blocks that exist: a store into a hole of a full file system would
/// end the process with SIGBUS, so the zeros are written and never only promised.
///
/// Only who holds the file's own lock writes, only beyond its end, and nobody maps it before it has
/// its full size: so no store of another process is overwritten.
fn grow(file: &File) -> io::Result<()> {
    if file.metadata()?.len() >= PAGE_BYTES as u64 {
        return Ok(());
    }
    file.lock()?;
    let filled = fill_with_zeros(file);
    file.unlock()?;
    filled
}

fn fill_with_zeros(file: &File) -> io::Result<()> {
    let len = file.metadata()?.len();
    // btrfs copies on write, also below a mapping, and then wants new space for an old block; best
    // effort, for other file systems know no such flag.
    #[cfg(target_os = "linux")]
    if len == 0 {
        let _ = rustix::fs::ioctl_setflags(file, rustix::fs::IFlags::NOCOW);
    }
    let zeros = [0_u8; PAGE_BYTES];
    match usize::try_from(len).ok().and_then(|len| zeros.get(len..)) {
        Some(missing) => file.write_all_at(missing, len),
        None => Ok(()),
    }
}

/// Device, inode and time of birth: a removed file's inode number is soon given to another file, so the
/// first two alone would take a copy put back in its place for the original.
fn identity_of(file: &File) -> io::Result<u128> {
    let metadata = file.metadata()?;
    let born = metadata
        .created()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    Ok((u128::from(metadata.dev()) << 64 | u128::from(metadata.ino())) ^ (born << 32))
}
