//! Tells a process from its forked child, which shares its parent's locks without knowing it.
//!
//! A `flock` belongs to the open file description, and a child inherits that: it would believe that it
//! holds the lock its parent holds. So whatever was opened before a fork is refused after it. A child
//! that opens things anew makes new guards, and those hold.

#[cfg(target_os = "linux")]
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

#[cfg(target_os = "linux")]
use super::fs::map::MappedPage;

/// Remembers the process in which it was made. Asking costs one load on Linux (a page that the kernel
/// empties in every child), one `getpid` elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForkGuard {
    mark: u64,
}

impl ForkGuard {
    /// A guard for this process.
    pub(crate) fn new() -> Self {
        Self { mark: mark_of_this_process() }
    }

    /// A guard as a forked child inherits it.
    #[cfg(test)]
    pub(crate) fn of_another_process() -> Self {
        Self { mark: u64::MAX }
    }

    /// Whether this is another process than the one in which the guard was made.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        current_mark() != self.mark
    }
}

/// Zero in a child that made no guard yet.
#[cfg(target_os = "linux")]
#[inline]
fn current_mark() -> u64 {
    wiped_page().map_or_else(process_id, |page| page.first().load(Ordering::Relaxed))
}

#[cfg(not(target_os = "linux"))]
fn current_mark() -> u64 {
    process_id()
}

/// The mark of this process; made on the first call after the process (or the fork) began.
#[cfg(target_os = "linux")]
fn mark_of_this_process() -> u64 {
    /// Numbers the processes of one line of descent: a child inherits the count and adds to it.
    static LINEAGE: AtomicU64 = AtomicU64::new(1);

    let Some(page) = wiped_page() else { return process_id() };
    let mark = page.first().load(Ordering::Relaxed);
    if mark != 0 {
        return mark;
    }
    let next = LINEAGE.fetch_add(1, Ordering::Relaxed);
    match page.first().compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => next,
        Err(of_other_thread) => of_other_thread,
    }
}

#[cfg(not(target_os = "linux"))]
fn mark_of_this_process() -> u64 {
    process_id()
}

/// None on kernels before 4.14.
#[cfg(target_os = "linux")]
#[inline]
fn wiped_page() -> Option<&'static MappedPage> {
    static WIPED: OnceLock<Option<MappedPage>> = OnceLock::new();
    // An interpreter has no such pages, and no children.
    let page = || if cfg!(miri) { None } else { MappedPage::wiped_on_fork().ok() };
    WIPED.get_or_init(page).as_ref()
}

fn process_id() -> u64 {
    u64::from(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_guards() {
        let first = ForkGuard::new();
        let second = ForkGuard::new();
        assert!(!first.is_forked() && !second.is_forked());
        assert_eq!(first.mark, second.mark);
    }
}
