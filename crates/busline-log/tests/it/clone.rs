//! Children made by the system call alone, past the C library and whatever handlers it runs.
#![allow(unsafe_code)]

use std::ffi::c_long;
use std::io;

use fork::Fork;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// As `fork`, but no handler of `pthread_atfork` runs: the child shares every open file, and so every lock.
///
/// Nothing where the number of the call is not known.
pub(crate) fn clone_past_the_library() -> Option<io::Result<Fork>> {
    const SIGCHLD: c_long = 17;
    let none: c_long = 0;
    let number = if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        56
    } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
        220
    } else {
        return None;
    };
    // SAFETY: without flags and with no stack of its own the child goes on here on a copy of the memory, as after `fork`.
    // It has this thread alone: like after a fork of a process with more threads it may wait for ever for a lock of another
    // thread, and its users are processes of tests that have none at work.
    let child = unsafe { syscall(number, SIGCHLD, none, none, none, none) };
    Some(match child {
        0 => Ok(Fork::Child),
        1.. => i32::try_from(child).map(Fork::Parent).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    })
}
