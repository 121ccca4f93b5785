//! Media that refuse: a full disk, a bound on the size of files, a mount for reading only.
//!
//! The disks are small tmpfs mounts in a mount namespace of a helper process, which needs root; where that
//! is not to be had, the test says so and passes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use busline_log::storage::{FsStorage, Storage};
use busline_log::{Access, Appender, ErrorKind, Log, Options};

use crate::helper::{Helper, given, listen, say};
use crate::records::{audit, value_of};

fn storage() -> Arc<dyn Storage> {
    Arc::new(FsStorage::new())
}

fn options() -> Options {
    Options { segment_bytes: 128 << 10, ..Options::default() }
}

fn open(dir: &Path) -> Log {
    Log::open(storage(), dir, &options(), 0).expect("the log opens")
}

/// Runs a role behind a command, and checks that it says "done" at last. What it says before is printed.
fn run(wrapper: &[&str], role: &str, dir: &Path) {
    let (to, said) = channel();
    let values = [("DIR", dir.to_str().unwrap())];
    let mut helper = Helper::start_by(wrapper, 0, role, &values, &to);
    let mut last = String::new();
    while let Some(line) = listen(&said).1 {
        println!("{role}: {line}");
        last = line;
    }
    assert!(helper.stop(), "the helper failed; what it printed is above");
    assert_eq!(last, "done");
}

/// Whether this process may have mounts of its own; says why when not.
fn can_mount(test: &str) -> bool {
    let probe = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"])
        .output();
    let why = match probe {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    println!(
        "{test}: skipped, this process may not mount a tmpfs in a namespace of its own: {why}"
    );
    false
}

fn sh(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().expect("there is a shell");
    assert!(status.success(), "{command}: {status}");
}

/// Pushes the next record of the stream "s".
fn push(appender: &mut Appender, number: u64) {
    appender.push(b"s", &number.to_le_bytes(), &value_of("s", number)).expect("it fits");
}

/// Appends records until an append fails; the error, and the number of the record that is still in the
/// appender's hands.
fn append_until_refused(
    log: &Log,
    appender: &mut Appender,
    mut number: u64,
) -> (busline_log::Error, u64) {
    loop {
        push(appender, number);
        match appender.flush(0) {
            Ok(_) => number += 1,
            Err(error) => return (error, number),
        }
        let next = log.next_seq();
        log.commit(next).expect("what was written can be made durable");
    }
}

/// The checks that a full medium and a bound on file sizes share. `free` makes room.
fn refuse_then_go_on(dir: &Path, free: impl FnOnce()) {
    let log = open(dir);
    let mut appender = log.appender();
    let before = log.next_seq();
    let (error, number) = append_until_refused(&log, &mut appender, before);
    say(&format!("refused at record {number}: {error}"));
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.is_temporary());
    assert!(number > before, "something fitted");
    // Nothing of the refused record is visible, the rest is whole, and it stays so when tried again.
    for _ in 0..3 {
        assert_eq!(log.next_seq(), number);
        assert_eq!(audit(&log).0.len("s"), number);
        assert_eq!(appender.flush(0).expect_err("it is still full").kind(), ErrorKind::Full);
    }
    // Another process finds the same, also when it comes now.
    let other = open(dir);
    assert_eq!(audit(&other).0.len("s"), number);
    log.commit(number).expect("what is there can be made durable");
    free();
    let appended = appender.flush(0).expect("there is room again").expect("the record was kept");
    assert_eq!(appended.first, number);
    let mut second = other.appender();
    push(&mut second, number + 1);
    second.flush(0).expect("there is room");
    drop(second);
    other.close().expect("it closes");
    drop((appender, other));
    log.close().expect("it closes");
    assert_eq!(audit(&open(dir)).0.len("s"), number + 2);
}

/// The role of a process on a disk of its own, which it fills.
pub(crate) fn fill_a_disk() {
    let dir = PathBuf::from(given("DIR"));
    sh(&format!("mount -t tmpfs -o size=1m tmpfs {}", dir.display()));
    sh(&format!("head -c 200000 /dev/zero > {}/ballast", dir.display()));
    let log = dir.join("log");
    drop(Log::create(storage(), &log, b"", &options(), 0).expect("an empty disk has room"));
    refuse_then_go_on(&log, || std::fs::remove_file(dir.join("ballast")).expect("it is there"));

    // A new log needs room for its control page; without it that is an error, not a signal.
    sh(&format!("cat /dev/zero > {}/ballast 2> /dev/null || true", dir.display()));
    let error =
        Log::create(storage(), &dir.join("new"), b"", &options(), 0).expect_err("it is full");
    say(&format!("a new log: {error}"));
    assert_eq!(error.kind(), ErrorKind::Full);
    std::fs::remove_file(dir.join("ballast")).expect("it is there");
    let new = Log::create(storage(), &dir.join("new"), b"", &options(), 0).expect("there is room");
    new.close().expect("it closes");
    say("done");
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    if can_mount("full disk") {
        let dir = tempfile::tempdir().unwrap();
        run(&["unshare", "-m"], "full-disk", dir.path());
    }
}

/// The role of a process that may write files up to 64 KiB.
pub(crate) fn reach_the_file_size_limit() {
    let dir = PathBuf::from(given("DIR")).join("log");
    drop(Log::create(storage(), &dir, b"", &options(), 0).expect("it is small"));
    refuse_then_go_on(&dir, || {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).expect("it is allowed");
    });
    say("done");
}

#[test]
fn a_bound_on_the_size_of_files_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Counted in blocks of 512 bytes; without the trap the kernel would end the process by SIGXFSZ.
    let script = "trap '' XFSZ; ulimit -S -f 128; exec \"$@\"";
    run(&["sh", "-c", script, "sh"], "file-size-limit", dir.path());
}

/// The role of a process whose disk becomes one for reading only.
pub(crate) fn use_a_read_only_disk() {
    let mount = PathBuf::from(given("DIR"));
    sh(&format!("mount -t tmpfs -o size=1m tmpfs {}", mount.display()));
    let dir = mount.join("log");
    let log = Log::create(storage(), &dir, b"label", &options(), 0).expect("there is room");
    let mut appender = log.appender();
    for number in 0..100 {
        push(&mut appender, number);
    }
    appender.flush(0).expect("there is room");
    drop(appender);
    log.close().expect("it closes");
    drop(log);
    sh(&format!("mount -o remount,ro {}", mount.display()));

    let error = Log::open(storage(), &dir, &options(), 0).expect_err("it cannot be written");
    say(&format!("open: {error}"));
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    let error =
        Log::create(storage(), &mount.join("new"), b"", &options(), 0).expect_err("nor made");
    say(&format!("create: {error}"));
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    let reading = Options { access: Access::ReadOnly, ..options() };
    let log = Log::open(storage(), &dir, &reading, 0).expect("it can be read");
    assert_eq!(log.label(), b"label");
    assert_eq!(audit(&log).0.len("s"), 100);
    let error = log.appender().append(0, b"s", b"", b"").expect_err("it is for reading");
    say(&format!("append: {error}"));
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    say("done");
}

#[test]
fn a_read_only_mount_can_be_read_and_nothing_else() {
    if can_mount("read-only mount") {
        let dir = tempfile::tempdir().unwrap();
        run(&["unshare", "-m"], "read-only", dir.path());
    }
}
