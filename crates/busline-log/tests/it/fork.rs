//! Processes that fork: the child is told that what it inherited is not its own, and whatever becomes of it or of
//! its parent, nobody waits for a lock that has no owner.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use busline_log::storage::{Call, Fault, FaultyStorage, FsStorage, Gate, Storage};
use busline_log::{
    ClaimId, ClaimRequest, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime, Log, Member, Now,
    Options, SeqRange, Settle, Settlement,
};
use fork::Fork;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

use crate::clone::clone_past_the_library;
use crate::helper::{Helper, given, hear, say, wait_for_the_end_of_input};

const RECORDS: u64 = 10;
/// How often a process forks that does something else meanwhile.
const FORKS: u64 = 100;
/// Whoever needs this long waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// A lease that ends after every test: only the death of its holder frees what it holds.
const LEASE_US: u64 = 3_600_000_000;

fn open(storage: Arc<dyn Storage>, dir: &Path) -> Log {
    Log::open_or_create(storage, dir, b"", &Options::default(), 0).expect("it opens")
}

fn open_here(dir: &Path) -> Log {
    open(Arc::new(FsStorage::new()), dir)
}

fn now() -> Now {
    let boot_id = FsStorage::new().boot_id().expect("this machine says it");
    Now { wall_us: 1, boot_us: 1_000_000, boot_id }
}

/// Later than [`now`] by more than the time between two looks at the others.
fn later() -> Now {
    Now { boot_us: now().boot_us + 1_000_000, ..now() }
}

fn join(log: &Log) -> (Group, Member) {
    let spec = GroupSpec { name: "g", config: b"", start: 0, lifetime: Lifetime::Durable };
    let group = Group::declare(log, &spec, &GroupOptions::default(), now()).expect("it is new");
    let member = group.group.join(now()).expect("it can be joined");
    (group.group, member)
}

fn claim(member: &mut Member, now: Now) -> Result<(ClaimId, Vec<(u64, u32)>), busline_log::Error> {
    let request = ClaimRequest {
        records_max: 100,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: LEASE_US,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    };
    let mut got = Vec::new();
    let outcome =
        member.claim(&request, now, &mut |claimed, _| got.push((claimed.seq, claimed.attempts)))?;
    Ok((outcome.claim, got))
}

fn ack_all(claim: ClaimId) -> [Settle; 1] {
    [Settle { claim, seqs: SeqRange::new(0, RECORDS - 1), how: Settlement::Ack }]
}

/// Publishes what the members are to claim.
fn make(dir: &Path) -> Log {
    let log = open_here(dir);
    let mut appender = log.appender();
    for number in 0..RECORDS {
        appender.push(b"k", b"", &number.to_le_bytes()).expect("it fits");
    }
    appender.flush(0).expect("it works");
    log.commit(RECORDS).expect("it works");
    log
}

/// Runs what must not hang.
fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn fork_as_told() -> Fork {
    let forked = match given("HOW").as_str() {
        "fork" => fork::fork(),
        _ => clone_past_the_library().expect("the test knows the call"),
    };
    forked.expect("it can be forked")
}

/// Says so when it is not.
fn can_be_cloned() -> bool {
    let can = cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")));
    if !can {
        println!("skip: the number of clone(2) on this machine is not known");
    }
    can
}

/// The role of a process that lives in two: its child has everything that it opened, and does nothing. The parent
/// stops where the test wants to kill it.
pub(crate) fn live_with_a_child() {
    let storage = FaultyStorage::new(Arc::new(FsStorage::new()));
    let log = open(Arc::new(storage.clone()), Path::new(&given("DIR")));
    let (_group, mut member) = join(&log);
    claim(&mut member, now()).expect("there is something");
    let bell = log.doorbell().expect("there is a free slot");
    log.appender().append(0, b"k", b"", b"so that its lock is used").expect("it works");
    log.commit(RECORDS + 1).expect("it works");
    if let Fork::Child = fork_as_told() {
        wait_for_the_end_of_input();
        // As it would end by a signal: nothing is dropped.
        kill_process(getpid(), Signal::KILL).expect("it may");
    }
    let gate = Gate::new();
    let _guard;
    match given("WHERE").as_str() {
        "append" => _guard = log.lock_append().expect("nobody else has it"),
        "sync" => {
            storage.plan().add(Fault::hold(Call::Sync, &gate).on(".seg"));
            let log = log.clone();
            std::thread::spawn(move || {
                let next = log.appender().append(0, b"k", b"", b"v").expect("it works").next;
                log.commit(next)
            });
            gate.wait_for_arrival();
        }
        _ => {}
    }
    say("there");
    wait_for_the_end_of_input();
    drop((bell, member));
}

#[test]
fn a_parent_that_is_killed_holds_nothing_by_the_child_that_lives_on() {
    for place in ["outside", "append", "sync"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = make(&path);
        let values = [("DIR", path.to_str().unwrap()), ("WHERE", place), ("HOW", "fork")];
        let (parent, said) = Helper::alone("parent", &values);
        assert_eq!(hear(&said), "there");
        parent.signal(Signal::KILL);
        let other = log.clone();
        soon(&format!("appending after a death {place}"), move || {
            let next = other.appender().append(0, b"k", b"", b"other").unwrap().next;
            other.commit(next).unwrap();
        });
        let (_, mut member) = join(&log);
        let got = soon("taking over", move || {
            // It may take the kernel a moment to see to the death, and then a look at the others.
            let (mut got, mut now) = (BTreeMap::new(), later());
            while got.range(..RECORDS).count() < RECORDS as usize {
                got.extend(claim(&mut member, now).unwrap().1);
                now.boot_us += 1_000_000;
            }
            got
        });
        assert!(got.range(..RECORDS).all(|(_, attempt)| *attempt == 2), "{place}: {got:?}");
        // Nor does anybody look like having the log open.
        soon("being alone", move || {
            while let Err(error) = log.close_alone() {
                assert_eq!(error.kind(), ErrorKind::Busy);
            }
        });
        Log::delete(&FsStorage::new(), &path).expect("nobody has it open");
    }
}

/// The role of a process that takes locks while another thread of it forks, and whose children live on.
pub(crate) fn lock_among_forks() {
    let dir = PathBuf::from(given("DIR"));
    let forks = Arc::new(AtomicU64::new(0));
    let locker = std::thread::spawn({
        let forks = Arc::clone(&forks);
        move || {
            let mut held = Vec::new();
            while forks.load(Ordering::SeqCst) < FORKS {
                let path = dir.join(format!("{}.lock", held.len()));
                let lock = FsStorage::new().lock_file(&path).expect("it opens");
                assert!(lock.try_lock().expect("it works"), "nobody else has it");
                held.push(lock);
            }
            held
        }
    });
    while forks.fetch_add(1, Ordering::SeqCst) < FORKS {
        if let Fork::Child = fork::fork().expect("it can be forked") {
            wait_for_the_end_of_input();
            kill_process(getpid(), Signal::KILL).expect("it may");
        }
        // So that the other thread gets on.
        (0..100_000).for_each(|_| std::hint::spin_loop());
    }
    let held = locker.join().expect("it does not panic");
    say(&format!("{}", held.len()));
    wait_for_the_end_of_input();
}

#[test]
fn no_child_shares_a_lock_that_was_taken_while_it_was_forked() {
    let dir = tempfile::tempdir().unwrap();
    let values = [("DIR", dir.path().to_str().unwrap())];
    let (parent, said) = Helper::alone("locker", &values);
    let count: usize = hear(&said).parse().unwrap();
    println!("{count} locks taken during {FORKS} forks");
    parent.signal(Signal::KILL);
    for number in 0..count {
        let path = dir.path().join(format!("{number}.lock"));
        let lock = FsStorage::new().lock_file(&path).unwrap();
        soon("a lock of the dead", move || lock.lock()).unwrap();
    }
}

/// The role of a process whose child uses, drops and leaves what it inherited, and ends in some way.
pub(crate) fn have_a_child_that_uses_what_it_inherits() {
    let log = open_here(Path::new(&given("DIR")));
    let (group, mut member) = join(&log);
    let (claimed, got) = claim(&mut member, now()).expect("there is something");
    assert_eq!(got.len() as u64, RECORDS);
    let bell = log.doorbell().expect("there is a free slot");
    let guard = log.lock_append().expect("nobody has it");
    let child = match fork_as_told() {
        Fork::Parent(child) => child,
        Fork::Child => {
            expect_to_be_told(&log, &group, &mut member, claimed);
            match given("END").as_str() {
                "drop" => {
                    drop((guard, bell));
                    member.leave(now()).expect_err("it is the parent's");
                    drop((group, log));
                    std::process::exit(0);
                }
                "panic" => panic!("so that everything is dropped by unwinding"),
                "exit" => std::process::exit(0),
                "abort" => std::process::abort(),
                _ => kill_process(getpid(), Signal::KILL).expect("it may"),
            }
            return;
        }
    };
    let child = Pid::from_raw(child).expect("a child has a number");
    let (_, status) =
        waitpid(Some(child), WaitOptions::empty()).expect("it ends").expect("it does");
    say(&format!("ended {:?}", status.exit_status()));
    wait_for_the_end_of_input();
    // All of it is still its own.
    drop(guard);
    let next = log.appender().append(0, b"k", b"", b"parent").expect("it works").next;
    log.commit(next).expect("it works");
    let mut lost = Vec::new();
    group.settle(&ack_all(claimed), now(), &mut lost).expect("it works");
    assert_eq!(lost, []);
    assert!(bell.arm(log.mark()).expect("it is ours"));
    member.leave(now()).expect("it works");
    drop(bell);
    log.close().expect("it works");
    say("done");
}

/// Every call that would change something says what is wrong.
fn expect_to_be_told(log: &Log, group: &Group, member: &mut Member, claimed: ClaimId) {
    let forked = |what: &str, error: busline_log::Error| {
        assert_eq!(error.kind(), ErrorKind::Forked, "{what}: {error}");
    };
    let mut lost = Vec::new();
    forked("append", log.appender().append(0, b"k", b"", b"child").unwrap_err());
    forked("try_lock_append", log.try_lock_append().unwrap_err());
    forked("commit", log.commit(0).unwrap_err());
    forked("sync", log.sync().unwrap_err());
    forked("wait", log.wait(log.mark(), Some(Duration::ZERO)).unwrap_err());
    forked("doorbell", log.doorbell().unwrap_err());
    forked("retain", log.retain(&Default::default(), 0).unwrap_err());
    forked("close", log.close().unwrap_err());
    forked("close_alone", log.close_alone().unwrap_err());
    forked("join", group.join(now()).unwrap_err());
    forked("settle", group.settle(&ack_all(claimed), now(), &mut lost).unwrap_err());
    forked("commit group", group.commit().unwrap_err());
    forked("claim", claim(member, later()).map(drop).unwrap_err());
    forked("take_over", member.take_over(later()).unwrap_err());
    forked("info", group.info(now()).unwrap_err());
}

#[test]
fn a_child_is_told_and_takes_nothing_from_its_parent_however_it_ends() {
    children_are_told("fork");
}

/// The descriptors of such a child are those of its parent, locks included.
#[test]
fn a_child_that_was_made_past_the_library_is_told_too() {
    if can_be_cloned() {
        children_are_told("clone");
    }
}

/// What FORMAT.md says of them: the dead parent looks alive until such a child ends, and then everything goes on.
#[test]
fn a_child_that_was_made_past_the_library_is_waited_for() {
    if !can_be_cloned() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = make(&path);
    let values = [("DIR", path.to_str().unwrap()), ("WHERE", "outside"), ("HOW", "clone")];
    let (mut parent, said) = Helper::alone("parent", &values);
    assert_eq!(hear(&said), "there");
    parent.signal(Signal::KILL);
    // Who publishes waits for nobody.
    let next = log.appender().append(0, b"k", b"", b"other").unwrap().next;
    log.commit(next).unwrap();
    let (group, mut member) = join(&log);
    assert_eq!(group.info(later()).unwrap().claimed, RECORDS);
    let got = claim(&mut member, later()).unwrap().1;
    assert!(got.iter().all(|(seq, _)| *seq >= RECORDS), "it still holds the others: {got:?}");
    assert_eq!(log.close_alone().unwrap_err().kind(), ErrorKind::Busy);
    parent.ask_to_stop();
    let got = soon("taking over", move || {
        let (mut got, mut now) = (BTreeMap::new(), later());
        while got.len() < RECORDS as usize {
            now.boot_us += 1_000_000;
            got.extend(claim(&mut member, now).unwrap().1);
        }
        got
    });
    assert!(got.range(..RECORDS).all(|(_, attempt)| *attempt == 2), "{got:?}");
}

fn children_are_told(how: &str) {
    for (end, status) in [
        ("drop", "Some(0)"),
        ("exit", "Some(0)"),
        ("panic", ""),
        ("abort", "None"),
        ("kill", "None"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = make(&path);
        let values = [("DIR", path.to_str().unwrap()), ("END", end), ("HOW", how)];
        let (mut parent, said) = Helper::alone("parent-of-heir", &values);
        let ended = hear(&said);
        assert!(ended.starts_with(&format!("ended {status}")), "{end}: {ended}");
        // The parent holds what it held.
        assert!(log.try_lock_append().unwrap().is_none(), "{end}");
        let (group, mut member) = join(&log);
        assert_eq!(claim(&mut member, later()).unwrap().1, [], "{end}");
        let info = group.info(later()).unwrap();
        assert_eq!((info.claimed, info.counters.members_died), (RECORDS, 0), "{end}");
        member.leave(later()).unwrap();
        assert!(parent.stop(), "{end}: the parent failed");
        assert_eq!(hear(&said), "done", "{end}");
        assert_eq!(group.info(later()).unwrap().counters.acked, RECORDS, "{end}");
    }
}

/// The role of a process that starts a program while it has everything open.
pub(crate) fn list_what_a_command_inherits() {
    // Whoever started the test may have left something open for everybody.
    let before = fds("/proc/self/fd");
    let dir = PathBuf::from(given("DIR"));
    let log = open_here(&dir);
    let (_group, mut member) = join(&log);
    claim(&mut member, now()).expect("there is something");
    let bell = log.doorbell().expect("there is a free slot");
    let guard = log.lock_append().expect("nobody has it");
    let mut scanner = log.scanner();
    scanner.next().expect("it can be read");
    assert!(fds("/proc/self/fd").len() > before.len() + 8);
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is such a program");
    // When it answers it has loaded what it needs, and closed that.
    child.stdin.as_mut().expect("it is piped").write_all(b"?").expect("it listens");
    child.stdout.as_mut().expect("it is piped").read_exact(&mut [0]).expect("it answers");
    for (number, target) in fds(&format!("/proc/{}/fd", child.id())) {
        if number > 2 && !before.contains_key(&number) {
            say(&format!("{number}: {target}"));
        }
    }
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    say("done");
    drop((guard, bell));
}

/// What a process has open.
fn fds(directory: &str) -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir(directory).expect("this is Linux").flatten();
    let number = |entry: &DirEntry| entry.file_name().to_string_lossy().parse().ok();
    let target = |entry: &DirEntry| std::fs::read_link(entry.path()).ok();
    let found = entries.filter_map(|entry| Some((number(&entry)?, target(&entry)?)));
    found.map(|(number, target)| (number, target.display().to_string())).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_is_started_inherits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    drop(make(&path));
    let (mut spawner, said) = Helper::alone("spawner", &[("DIR", path.to_str().unwrap())]);
    assert_eq!(hear(&said), "done");
    assert!(spawner.stop());
}
