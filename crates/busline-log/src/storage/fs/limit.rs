//! The limit of open files: raised when it is met, as far as this process may.
//!
//! A log takes a handful of files, a thousand topics a few thousand; the limit that most programs begin with is
//! 1,024, for the sake of select(2), and they may raise it themselves. One that would fail is better raised.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Opens something, and once more with a higher limit when there are too many open files.
pub(super) fn with_files<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match open() {
            Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                if !raise() {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

/// Doubles the limit; false when it is the highest that is allowed.
fn raise() -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(now) = current else { return false };
    let wanted = now.saturating_mul(2).min(maximum.unwrap_or(u64::MAX));
    let raised = Rlimit { current: Some(wanted), maximum };
    wanted > now && setrlimit(Resource::Nofile, raised).is_ok()
}
