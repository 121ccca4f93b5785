//! Files that a forked child does not get: those that say, by a lock or an open end, that their process lives.
//!
//! A `flock` belongs to the open file description, and a FIFO has a reader as long as any descriptor of it is open;
//! a forked child shares both. So a lock whose holder was killed would stay held, and a member that died would
//! look alive, until the last child of it ends as well. A handler of `pthread_atfork` therefore puts
//! `/dev/null` in the place of these descriptors in the child. The numbers stay taken: what the child
//! inherited, and drops, closes nothing of somebody else's.
//!
//! Children that come about without the C library's `fork` (`clone(2)` by hand) are told by their
//! [`ForkGuard`](crate::storage::ForkGuard) only. `exec` closes everything: all is opened with `O_CLOEXEC`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// Descriptors above this are not kept from children; it is what Linux allows a process (`fs.nr_open`) unless told
/// otherwise. The memory is touched only as far as it is used.
const WATCHED_MAX: usize = 1 << 20;
/// A bit for each descriptor that children do not get.
static WATCHED: [AtomicU64; WATCHED_MAX / 64] = [const { AtomicU64::new(0) }; WATCHED_MAX / 64];
/// How many of these words were ever used.
static WORDS_USED: AtomicUsize = AtomicUsize::new(0);

/// Forks begun and ended in this process: different while one is under way.
static FORKS_BEGUN: AtomicU64 = AtomicU64::new(0);
static FORKS_ENDED: AtomicU64 = AtomicU64::new(0);
/// Who opens a file again and again among forks that never end takes it as it is.
const TRIES_MAX: u32 = 1000;

/// What children get instead; nothing when the handlers could not be set up.
static INSTEAD: OnceLock<Option<File>> = OnceLock::new();

/// An open file of this process alone.
#[derive(Debug)]
pub(super) struct Unshared(File);

impl Unshared {
    /// Opens a file of which no child forked from now on has a copy.
    pub(super) fn open(mut open: impl FnMut() -> io::Result<File>) -> io::Result<Self> {
        INSTEAD.get_or_init(set_up);
        let mut tries = 0;
        loop {
            let before = FORKS_BEGUN.load(Ordering::SeqCst);
            let quiet = FORKS_ENDED.load(Ordering::SeqCst) == before;
            let file = Self(open()?);
            file.watch(true);
            tries += 1;
            // A child that was forked between the two has a copy of the description. Another one is opened.
            if quiet && FORKS_BEGUN.load(Ordering::SeqCst) == before || tries == TRIES_MAX {
                return Ok(file);
            }
            std::thread::yield_now();
        }
    }

    fn watch(&self, watched: bool) {
        let Ok(fd) = usize::try_from(self.0.as_raw_fd()) else { return };
        let Some(word) = WATCHED.get(fd / 64) else { return };
        let bit = 1 << (fd % 64);
        if watched {
            WORDS_USED.fetch_max(fd / 64 + 1, Ordering::SeqCst);
            word.fetch_or(bit, Ordering::SeqCst);
        } else {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

impl Deref for Unshared {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        // Before the number is given back, or a fork could hit whatever gets it next.
        self.watch(false);
    }
}

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> i32;
    fn dup2(from: RawFd, to: RawFd) -> RawFd;
}

fn set_up() -> Option<File> {
    let instead = File::open("/dev/null").ok()?;
    // SAFETY: the handlers are functions of this program that do not unwind, and that do in the child what POSIX
    // allows there: they load and store atomics and call `dup2`.
    let failed = unsafe { pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child)) };
    (failed == 0).then_some(instead)
}

extern "C" fn before_fork() {
    FORKS_BEGUN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn after_fork() {
    FORKS_ENDED.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn in_child() {
    // The other threads, and whatever they were forking, are not here.
    FORKS_ENDED.store(FORKS_BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
    let Some(Some(instead)) = INSTEAD.get() else { return };
    for (at, word) in WATCHED.iter().enumerate().take(WORDS_USED.load(Ordering::SeqCst)) {
        let mut bits = word.swap(0, Ordering::SeqCst);
        while bits != 0 {
            let fd = at * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            if let Ok(fd) = RawFd::try_from(fd) {
                // SAFETY: the descriptor is the copy of one that the parent has open as an `Unshared`: its bit is
                // cleared before it is closed. Replacing what it stands for breaks no ownership, and what the
                // child uses it for is refused by its guards. It is open when it is borrowed.
                let _ = unsafe {
                    dup2(instead.as_raw_fd(), fd);
                    fcntl_setfd(BorrowedFd::borrow_raw(fd), FdFlags::CLOEXEC)
                };
            }
        }
    }
}
