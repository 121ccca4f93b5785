//! One mapped page of atomic words. The only place that holds memory the kernel shares.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

use crate::storage::PAGE_WORDS;

/// The bytes of a page file: exactly this many.
pub(super) const PAGE_BYTES: usize = PAGE_WORDS * size_of::<AtomicU64>();

/// A page of words that stays mapped for as long as the value lives.
#[derive(Debug)]
pub(in crate::storage) struct MappedPage {
    map: MmapRaw,
}

impl MappedPage {
    /// Maps a page file, shared with everyone who maps it; `InvalidData` unless it is exactly one page
    /// long, because a touch beyond the end of a file ends the process with SIGBUS.
    ///
    /// What remains is that nobody may shorten the file while it is mapped; the log never does.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        if len != PAGE_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a shared page is {PAGE_BYTES} bytes long, this file is {len}"),
            ));
        }
        Ok(Self { map: MmapOptions::new().len(PAGE_BYTES).map_raw(file)? })
    }

    /// A private page that reads as zeros in every forked child.
    #[cfg(target_os = "linux")]
    pub(in crate::storage) fn wiped_on_fork() -> io::Result<Self> {
        use rustix::mm::{Advice, madvise};

        let map = MmapRaw::from(MmapOptions::new().len(PAGE_BYTES).map_anon()?);
        let start = map.as_mut_ptr().cast();
        // SAFETY: the range is exactly the private anonymous mapping made above, which nobody else
        // knows yet; the advice changes only what a child sees after a fork.
        unsafe { madvise(start, PAGE_BYTES, Advice::LinuxWipeOnFork)? };
        Ok(Self { map })
    }

    /// The words of the page.
    pub(super) fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        // SAFETY: the mapping is readable, writable, PAGE_BYTES long and page aligned, it lives as
        // long as `self` and is never handed out in any other form. Other processes change it at
        // any time, which is what atomics are for; every bit pattern is a valid word. The file below
        // had its full length when it was mapped, so no access faults.
        unsafe { &*self.map.as_mut_ptr().cast::<[AtomicU64; PAGE_WORDS]>() }
    }

    /// The first word of the page.
    #[cfg(target_os = "linux")]
    #[inline]
    pub(in crate::storage) fn first(&self) -> &AtomicU64 {
        let [first, ..] = self.words();
        first
    }

    /// Writes the page to its file's medium (`msync`).
    pub(super) fn flush(&self) -> io::Result<()> {
        self.map.flush()
    }
}
