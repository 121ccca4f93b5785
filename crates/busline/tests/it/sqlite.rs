//! Several processes on one SQLite database: killed, stopped, waiting, and writing beside one another.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

use std::path::Path;
use std::process::Command;

use crate::kill::fight;
use crate::processes::{fork, idle, takeover};

fn url(directory: &Path, options: &str) -> String {
    format!("sqlite:{}/bus.db?{options}", directory.display())
}

#[test]
fn what_was_promised_holds_when_processes_on_a_database_are_killed_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    fight(url(directory.path(), ""), "kill-sqlite");
    let beside: Vec<_> =
        std::fs::read_dir(directory.path().join("bus.db-busline")).unwrap().collect();
    // Those who were killed are missed by others, and their files are cleared away.
    assert!(beside.len() <= 20, "{} files of dead sessions are left", beside.len());
    check_integrity(&directory.path().join("bus.db"));
}

/// Asks SQLite itself, by Python, whose module has it; said aloud where there is none.
fn check_integrity(path: &Path) {
    let check = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA integrity_check').fetchone()[0])";
    let python = std::env::var_os("BUSLINE_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    match Command::new(python).args(["-c", check]).arg(path).output() {
        Ok(output) if output.status.success() => {
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok");
        }
        missing => println!(
            "skip: the integrity of the database: there is no Python with sqlite3: {missing:?}"
        ),
    }
}

#[test]
fn who_is_killed_is_missed_soon() {
    let directory = tempfile::tempdir().unwrap();
    takeover::killed(&url(directory.path(), ""));
}

#[test]
fn who_is_killed_alone_is_missed_by_whoever_looks() {
    let directory = tempfile::tempdir().unwrap();
    takeover::killed_alone(&url(directory.path(), ""));
}

#[test]
fn who_stands_still_for_longer_than_its_lease_loses_what_it_held() {
    let directory = tempfile::tempdir().unwrap();
    takeover::stopped(&url(directory.path(), ""));
}

#[test]
fn a_child_that_inherits_a_database_is_told_and_its_parent_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    fork::forked(url(directory.path(), ""));
}

/// The bound that is documented is how often a process looks: with a second between two looks it shows.
#[test]
fn another_process_sees_what_was_published_when_it_looks_next() {
    let directory = tempfile::tempdir().unwrap();
    let often = idle::woken(&url(directory.path(), "sync=os"), 100);
    assert!(often < 200_000, "{often} us with a look every 20 ms");
    let directory = tempfile::tempdir().unwrap();
    let seldom = idle::woken(&url(directory.path(), "sync=os&poll=1s"), 6);
    assert!(seldom < 2_000_000, "{seldom} us with a look every second");
}

#[cfg(target_os = "linux")]
#[test]
fn members_that_wait_on_a_database_use_little_processor() {
    let directory = tempfile::tempdir().unwrap();
    let used = idle::idle(&url(directory.path(), ""));
    assert!(used.iter().all(|ticks| *ticks <= 40), "{used:?}");
}
