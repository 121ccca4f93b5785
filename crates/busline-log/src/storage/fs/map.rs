//! What is mapped: a page of atomic words, and the room ahead of a tail. The only place that holds memory the kernel shares.
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

/// Bytes of a file that are written by storing them.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct MappedRange {
    map: MmapRaw,
    /// Where in the file the mapping begins.
    start: u64,
}

#[cfg(target_os = "linux")]
impl MappedRange {
    /// Maps `from..until` of a file that has these bytes, shared with everyone.
    ///
    /// As with the page of words, nobody may shorten the file while it is written so; the log says before that it
    /// will, in the control page, under the lock that whoever writes holds.
    pub(super) fn of_file(file: &File, from: u64, until: u64) -> io::Result<Self> {
        // A mapping begins at a page, of whatever size; 64 KiB is the largest in use.
        let start = from & !0xffff;
        let len = usize::try_from(until - start).map_err(io::Error::other)?;
        Ok(Self { map: MmapOptions::new().offset(start).len(len).map_raw(file)?, start })
    }

    /// Stores bytes; false, and nothing is stored, when they do not all lie in the range.
    #[inline]
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> bool {
        let Some(from) = at.checked_sub(self.start).and_then(|from| usize::try_from(from).ok())
        else {
            return false;
        };
        if from.checked_add(bytes.len()).is_none_or(|end| end > self.map.len()) {
            return false;
        }
        // SAFETY: the range checked above lies in the mapping, which is writable, lives as long as `self` and is
        // never handed out, so no reference into it exists. Other processes read and write the file by system calls;
        // what they see is ordered by the words of the control page. The file has these bytes, see `of_file`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.map.as_mut_ptr().add(from),
                bytes.len(),
            );
        }
        true
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use rustix::process::{Pid, WaitOptions, waitpid};

    use crate::storage::{ForkGuard, FsStorage, Storage};
    use crate::{ErrorKind, Log, Options};

    unsafe extern "C" {
        fn fork() -> i32;
        fn _exit(code: i32) -> !;
    }

    /// Runs the closure in a real forked child; what it returned.
    fn in_a_child(child: impl FnOnce() -> u8) -> u8 {
        // SAFETY: the child runs the closure alone and then ends without unwinding and without running
        // what the parent had planned for its own end. glibc makes its allocator ready for use there,
        // and the closures take no lock that another thread of the parent may hold.
        let pid = unsafe { fork() };
        if pid == 0 {
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(255);
            // SAFETY: it ends the child and touches nothing.
            unsafe { _exit(i32::from(code)) };
        }
        let pid = Pid::from_raw(pid).expect("the child has a number above 0");
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        u8::try_from(status.exit_status().expect("it ended by itself")).unwrap()
    }

    #[test]
    fn a_child_is_told_from_its_parent_and_its_own_guards_hold() {
        let guard = ForkGuard::new();
        let seen = in_a_child(|| {
            let own = ForkGuard::new();
            let of_grandchild = in_a_child(|| {
                let again = ForkGuard::new();
                u8::from(guard.is_forked())
                    | u8::from(own.is_forked()) << 1
                    | u8::from(again.is_forked()) << 2
            });
            u8::from(guard.is_forked()) | u8::from(own.is_forked()) << 1 | of_grandchild << 2
        });
        assert_eq!(seen, 0b01101, "only guards of an ancestor say so");
        assert!(!guard.is_forked());
    }

    #[test]
    fn a_child_opens_the_log_anew_and_leaves_what_it_inherited_alone() {
        let dir = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
        let open = || {
            let storage = Arc::clone(&storage);
            Log::open_or_create(storage, &dir.path().join("log"), b"", &Options::default(), 0)
        };
        let log = open().unwrap();
        let bell = log.doorbell().unwrap();
        let seen = in_a_child(|| {
            let refused = log.appender().append(0, b"k", b"", b"inherited").unwrap_err();
            let own = open().unwrap();
            own.appender().append(0, b"k", b"", b"own").unwrap();
            own.close().unwrap();
            drop((log.clone(), own));
            u8::from(refused.kind() == ErrorKind::Forked)
        });
        assert_eq!(seen, 1);
        assert_eq!(log.next_seq(), 1);
        log.appender().append(0, b"k", b"", b"parent").unwrap();
        log.commit(2).unwrap();
        drop(bell);
        log.close().unwrap();
        assert_eq!(open().unwrap().open_report().jumped_to, None);
    }
}
