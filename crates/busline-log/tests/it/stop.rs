//! Processes that are stopped in the middle of something, as SIGSTOP or a debugger does it: they live, so nothing is
//! taken from them, others wait where they must and nowhere else, and when they are continued all goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use busline_log::storage::{Call, Fault, FaultyStorage, FsStorage, Gate, Storage};
use busline_log::{ErrorKind, Log, Options};
use rustix::process::Signal;

use crate::fleet::roles::machine_us;
use crate::helper::{Helper, Said, given, hear, say, wait_for_a_line, wait_for_the_end_of_input};
use crate::support::{append, values};

/// Whoever needs this long waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for whoever does not wait, mostly: nothing fails when it is not, less is shown.
const A_WHILE: Duration = Duration::from_millis(300);

fn options() -> Options {
    Options { segment_bytes: 4 << 10, ..Options::default() }
}

fn open(storage: Arc<dyn Storage>, dir: &str) -> Log {
    Log::open_or_create(storage, Path::new(dir), b"", &options(), 0).expect("it opens")
}

/// The role of a process that appends and commits, and waits for the test inside of a call to the file system.
pub(crate) fn stop_inside() {
    let storage = FaultyStorage::new(Arc::new(FsStorage::new()));
    let log = open(Arc::new(storage.clone()), &given("DIR"));
    let (call, on) = match given("WHERE").as_str() {
        "appending" => (Call::Write, ".seg"),
        "committing" => (Call::Sync, ".seg"),
        "rolling" => (Call::Rename, ".seg"),
        "removing" => (Call::Remove, ".seg"),
        other => panic!("no such place: {other}"),
    };
    let gate = Gate::new();
    append(&log, 1..2).expect("it works");
    log.commit(2).expect("it works");
    storage.plan().add(Fault::hold(call, &gate).on(on));
    let stopper = std::thread::spawn(move || {
        gate.wait_for_arrival();
        say("inside");
        wait_for_a_line();
        gate.open();
    });
    match given("WHERE").as_str() {
        "appending" | "committing" => {
            let next = append(&log, 2..3).expect("it works");
            log.commit(next).expect("it works");
        }
        "rolling" => {
            log.lock_append().and_then(|mut guard| guard.roll(0)).expect("it works");
        }
        _ => {
            log.lock_append().and_then(|mut guard| guard.roll(0)).expect("it works");
            log.remove_before(2).expect("it works");
        }
    }
    stopper.join().expect("it does not panic");
    say("through");
    wait_for_the_end_of_input();
    log.close().expect("it works");
}

/// Work that is done by another thread; what it came to, when it came.
struct Pending<T>(Receiver<T>);

impl<T: Send + 'static> Pending<T> {
    fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (done, result) = channel();
        std::thread::spawn(move || done.send(work()));
        Self(result)
    }

    fn waits(&self) {
        match self.0.recv_timeout(A_WHILE) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => panic!("it did not wait for who is stopped"),
        }
    }

    fn ends(self, what: &str) -> T {
        self.0.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

/// A log with one record, and a process that is stopped inside of something.
fn stopped(dir: &Path, place: &str) -> (Log, Helper, Receiver<Said>) {
    let dir = dir.join("log");
    let dir = dir.to_str().unwrap();
    let log = open(Arc::new(FsStorage::new()), dir);
    append(&log, 0..1).unwrap();
    log.commit(1).unwrap();
    let (helper, said) = Helper::alone("stopper", &[("DIR", dir), ("WHERE", place)]);
    assert_eq!(hear(&said), "inside");
    helper.stop_still();
    (log, helper, said)
}

fn go_on(helper: &mut Helper) {
    helper.tell("go on");
    helper.signal(Signal::CONT);
}

#[test]
fn who_is_stopped_while_it_appends_keeps_the_lock() {
    for place in ["appending", "rolling", "removing"] {
        let dir = tempfile::tempdir().unwrap();
        let (log, mut helper, said) = stopped(dir.path(), place);
        let next = log.next_seq();
        // Nobody takes the lock away, however often and long it is tried.
        let since_us = machine_us();
        while machine_us() - since_us < A_WHILE.as_micros() as u64 {
            assert!(log.try_lock_append().unwrap().is_none(), "{place}");
            std::thread::yield_now();
        }
        let other = log.clone();
        let appending = Pending::start(move || append(&other, 90..91));
        appending.waits();
        // Reading goes on, opening too, and what was visible can be made durable while no segment comes or goes.
        assert_eq!(values(&log).len() as u64, next - log.first_seq(), "{place}");
        let path = log.dir().to_str().unwrap().to_owned();
        let opened = Pending::start(move || open(Arc::new(FsStorage::new()), &path));
        drop(opened.ends("opening"));
        let other = log.clone();
        let committing = Pending::start(move || other.commit(next));
        let in_between = place != "appending";
        let committing = if in_between {
            Some(committing)
        } else {
            committing.ends("committing").unwrap();
            None
        };
        let continued_us = machine_us();
        go_on(&mut helper);
        let end = appending.ends("appending").unwrap();
        println!("{place}: who waited went on after {} us", machine_us() - continued_us);
        if let Some(committing) = committing {
            committing.ends("committing").unwrap();
        }
        assert_eq!(hear(&said), "through");
        log.commit(end).unwrap();
        let mut numbers = values(&log);
        numbers.sort_unstable();
        let expected: &[u64] = match place {
            "appending" => &[0, 1, 2, 90],
            "rolling" => &[0, 1, 90],
            _ => &[90],
        };
        assert_eq!(numbers, expected, "{place}");
        assert!(helper.stop());
    }
}

#[test]
fn who_is_stopped_while_it_syncs_holds_up_those_who_wait_for_the_disk_only() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut helper, said) = stopped(dir.path(), "committing");
    let other = log.clone();
    let next = Pending::start(move || append(&other, 90..91)).ends("appending").unwrap();
    assert_eq!(values(&log), [0, 1, 2, 90]);
    let other = log.clone();
    let committing = Pending::start(move || other.commit(next));
    committing.waits();
    assert!(log.durable_seq() < next, "nobody says what is not so");
    go_on(&mut helper);
    committing.ends("committing").unwrap();
    assert!(log.durable_seq() >= next);
    assert_eq!(hear(&said), "through");
    assert!(helper.stop());
}

#[test]
fn who_is_killed_while_it_is_stopped_gives_everything_back() {
    for place in ["appending", "rolling", "removing", "committing"] {
        let dir = tempfile::tempdir().unwrap();
        let (log, mut helper, _said) = stopped(dir.path(), place);
        let other = log.clone();
        let working = Pending::start(move || {
            let next = append(&other, 90..91)?;
            other.commit(next)
        });
        working.waits();
        helper.kill();
        working.ends("going on").unwrap();
        assert_eq!(values(&log).last(), Some(&90), "{place}");
    }
}

/// The role of a reader that does not get on until something was removed.
pub(crate) fn read_and_stop() {
    let log = open(Arc::new(FsStorage::new()), &given("DIR"));
    let mut scanner = log.scanner();
    let first = scanner.next().expect("it can be read").expect("there is one").seq;
    assert_eq!(first, 0);
    say("inside");
    while log.first_seq() == 0 {
        std::thread::yield_now();
    }
    let mut last = first;
    let error = loop {
        match scanner.next() {
            Ok(Some(record)) => {
                assert_eq!(record.seq, last + 1, "without a gap, or told");
                last = record.seq;
            }
            Ok(None) => panic!("the end comes after {last}, not {}", log.next_seq()),
            Err(error) => break error,
        }
    };
    let ErrorKind::Removed { first } = error.kind() else { panic!("{error}") };
    assert_eq!(scanner.seek_first().expect("there is one"), first);
    let next = scanner.next().expect("it can be read").expect("there is one").seq;
    say(&format!("removed {first} {next}"));
    wait_for_the_end_of_input();
}

#[test]
fn a_reader_that_is_stopped_is_no_obstacle_to_retention_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let path = path.to_str().unwrap();
    let log = open(Arc::new(FsStorage::new()), path);
    for number in 0..500 {
        append(&log, number..number + 1).unwrap();
    }
    let (mut reader, said) = Helper::alone("stopped-reader", &[("DIR", path)]);
    assert_eq!(hear(&said), "inside");
    reader.stop_still();
    let other = log.clone();
    let removed = Pending::start(move || other.remove_before(400)).ends("removing").unwrap();
    assert!(removed.segments > 1);
    reader.signal(Signal::CONT);
    let first = log.first_seq();
    assert_eq!(hear(&said), format!("removed {first} {first}"));
    assert!(reader.stop());
}
