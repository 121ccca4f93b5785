//! What the storage promises between processes: a bell, a lock and a waiter when a process dies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use busline_log::storage::{FsStorage, Storage};
use busline_log::{Batch, Log, Options};

use crate::helper::{Helper, given, hear, say, wait_for_the_end_of_input};

fn path() -> PathBuf {
    PathBuf::from(given("FILE"))
}

fn with_file(role: &str, file: &Path) -> (Helper, std::sync::mpsc::Receiver<crate::helper::Said>) {
    Helper::alone(role, &[("FILE", file.to_str().unwrap())])
}

/// The role of a process that owns a bell and tells when it rings.
pub(crate) fn own_a_bell() {
    let bell = FsStorage::new().bell(&path()).expect("the path is free");
    say("mine");
    loop {
        assert!(bell.wait(None).expect("it is ours"));
        assert!(bell.drain().expect("it is ours"));
        say("rung");
    }
}

#[test]
fn a_bell_rings_in_another_process_and_its_death_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bell");
    let storage = FsStorage::new();
    let (mut owner, said) = with_file("bell-owner", &file);
    assert_eq!(hear(&said), "mine");
    let rope = storage.rope(&file).unwrap().expect("it has an owner");
    for _ in 0..3 {
        assert!(storage.ring(&file).unwrap());
        assert_eq!(hear(&said), "rung");
        assert!(rope.ring().unwrap());
        assert_eq!(hear(&said), "rung");
    }
    owner.kill();
    assert!(!rope.ring().unwrap(), "a dead owner hears nothing");
    assert!(storage.exists(&file).unwrap());
    assert!(!storage.ring(&file).unwrap(), "a dead owner hears nothing");
    assert!(storage.rope(&file).unwrap().is_none());
    let bell = storage.bell(&file).unwrap();
    assert!(storage.ring(&file).unwrap() && bell.drain().unwrap());
}

/// The role of a process that holds a lock for as long as it lives.
pub(crate) fn hold_a_lock() {
    let lock = FsStorage::new().lock_file(&path()).expect("it opens");
    lock.lock().expect("it can be locked");
    say("held");
    wait_for_the_end_of_input();
}

#[test]
fn a_lock_dies_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lock");
    let (mut holder, said) = with_file("lock-holder", &file);
    assert_eq!(hear(&said), "held");
    let lock = FsStorage::new().lock_file(&file).unwrap();
    assert!(!lock.try_lock().unwrap());
    let waiter = std::thread::spawn(move || lock.lock());
    holder.kill();
    waiter.join().unwrap().unwrap();
}

/// The role of a process that sleeps until word 1 of a page is changed, then answers in word 2.
pub(crate) fn sleep_on_a_page() {
    let page = FsStorage::new().shared_page(&path()).expect("it can be mapped");
    say("asleep");
    while page.low(1).load(Ordering::SeqCst) == 0 {
        page.wait(1, 0, None);
    }
    page.low(2).store(page.low(1).load(Ordering::SeqCst) + 1, Ordering::SeqCst);
    page.wake(2);
}

#[test]
fn a_page_is_shared_with_a_process_that_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("page");
    let page = FsStorage::new().shared_page(&file).unwrap();
    let (mut sleeper, said) = with_file("page-sleeper", &file);
    assert_eq!(hear(&said), "asleep");
    page.low(1).store(41, Ordering::SeqCst);
    page.wake(1);
    while page.low(2).load(Ordering::SeqCst) == 0 {
        page.wait(2, 0, None);
    }
    assert_eq!(page.low(2).load(Ordering::SeqCst), 42);
    assert!(sleeper.stop());
}

fn open_log(dir: &Path) -> Log {
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    Log::open_or_create(storage, dir, b"", &Options::default(), 0).expect("it opens")
}

/// The role of a process that appends and keeps the right to append for as long as it lives.
pub(crate) fn hold_the_append_lock() {
    let log = open_log(&path());
    let mut guard = log.lock_append().expect("it can be locked");
    let mut batch = Batch::new(100);
    batch.push(b"k", b"", b"of the dead").expect("it fits");
    guard.append(&mut batch, 0).expect("there is room");
    say("held");
    wait_for_the_end_of_input();
}

#[test]
fn the_right_to_append_dies_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let log = open_log(&dir);
    for round in 1..=3 {
        let (mut holder, said) = with_file("append-holder", &dir);
        assert_eq!(hear(&said), "held");
        for _ in 0..3 {
            assert!(log.try_lock_append().unwrap().is_none(), "its holder lives");
        }
        let waiter = log.clone();
        let waiter = std::thread::spawn(move || waiter.appender().append(0, b"k", b"", b"next"));
        holder.kill();
        assert_eq!(waiter.join().unwrap().unwrap().next, 2 * round);
        let tried = (0..2).find_map(|_| log.try_lock_append().unwrap());
        assert!(tried.is_some(), "it was given back");
    }
    let is_holder = |name: &String| name.starts_with("holder.");
    let holders = || FsStorage::new().list(&dir).unwrap().iter().filter(|n| is_holder(n)).count();
    assert_eq!(holders(), 2, "ours, and that of the last who died; the others swept");
    log.close().unwrap();
    drop(log);
    assert_eq!(holders(), 1);
}

/// The role of a process that opens more logs than its limit of files has room for.
pub(crate) fn open_many_logs() {
    let open = |number: usize| {
        let dir = path().join(number.to_string());
        Log::open_or_create(Arc::new(FsStorage::new()), &dir, b"", &Options::default(), 0)
    };
    let mut logs = Vec::new();
    let error = loop {
        match open(logs.len()) {
            Ok(log) => logs.push(log),
            Err(error) => break error,
        }
        if logs.len() == 100 {
            say("all");
            return wait_for_the_end_of_input();
        }
    };
    assert!(error.is_out_of_files(), "{error:?}");
    say(&error.to_string());
    // What failed left nothing half open: there is room again for as many as were closed.
    let failed = logs.len();
    logs.truncate(failed / 2);
    open(failed).expect("there is room again");
    say("room");
    wait_for_the_end_of_input();
}

#[test]
fn the_limit_of_open_files_is_raised_where_it_may_be_and_named_where_not() {
    let dir = tempfile::tempdir().unwrap();
    for (limit, place) in [("ulimit -S -n 64", "soft"), ("ulimit -n 64", "hard")] {
        let place = dir.path().join(place);
        let script = format!("{limit}; exec \"$0\" \"$@\"");
        let (to, said) = std::sync::mpsc::channel();
        let values = [("FILE", place.to_str().unwrap())];
        let _helper = Helper::start_by(&["sh", "-c", &script], 0, "many-logs", &values, &to);
        if place.ends_with("soft") {
            assert_eq!(hear(&said), "all");
        } else {
            let error = hear(&said);
            assert!(error.contains("as many files are open as may be; raise"), "{error}");
            assert_eq!(hear(&said), "room");
        }
    }
}
