//! Waiting: for a word of shared memory to change, and for a file descriptor to be readable.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Blocks as long as the word holds `expected`, at most until it is woken or the timeout has passed.
/// May return early.
#[cfg(target_os = "linux")]
pub(super) fn while_equal(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    use rustix::thread::futex::{Flags, wait};

    let timeout = timeout.and_then(timespec);
    // Not PRIVATE: the waker is often another process. EAGAIN (changed already), ETIMEDOUT and EINTR
    // all mean that the caller looks again, which it does in any case.
    let _ = wait(word, Flags::empty(), expected, timeout.as_ref());
}

/// Wakes so many threads, of any process, that wait on the word.
#[cfg(target_os = "linux")]
pub(super) fn wake(word: &AtomicU32, count: u32) {
    use rustix::thread::futex::{self, Flags};

    // The count is signed inside the kernel. The call fails only for a bad address, which a
    // reference is not.
    let _ = futex::wake(word, Flags::empty(), count.min(u32::MAX >> 1));
}

/// Blocks as long as the word holds `expected`, at most until the timeout has passed.
///
/// No futex that works across processes here: looks again after a pause that grows to 2 ms.
#[cfg(not(target_os = "linux"))]
pub(super) fn while_equal(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    use std::sync::atomic::Ordering;

    const PAUSE_MAX: Duration = Duration::from_millis(2);
    let end = timeout.map(|timeout| monotonic().saturating_add(timeout));
    let mut pause = Duration::from_micros(20);
    while word.load(Ordering::SeqCst) == expected {
        let left = end.map_or(PAUSE_MAX, |end| end.saturating_sub(monotonic()));
        if left.is_zero() {
            return;
        }
        if let Some(pause) = timespec(pause.min(left)) {
            let _ = rustix::thread::nanosleep(&pause);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Nothing to do where waiters look by themselves.
#[cfg(not(target_os = "linux"))]
pub(super) fn wake(_word: &AtomicU32, _count: u32) {}

/// Waits until there is something to read; false when the timeout has passed.
pub(super) fn readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let end = timeout.map(|timeout| monotonic().saturating_add(timeout));
    loop {
        let left = end.and_then(|end| timespec(end.saturating_sub(monotonic())));
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether somebody holds the reading end of a pipe.
pub(super) fn is_read(writer: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(&writer, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!fds.iter().any(|fd| fd.revents().intersects(PollFlags::ERR)))
}

/// None for a time that the kernel cannot count to, which is as good as for ever.
fn timespec(duration: Duration) -> Option<Timespec> {
    Timespec::try_from(duration).ok()
}

/// Time since some fixed moment. A timeout that a signal interrupts goes on with what is left of it;
/// nothing else here looks at a clock.
fn monotonic() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}
