//! Two processes at work on one log, stopped and let go at chosen moments; found by reasoning first.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use busline_log::storage::{Call, Fault, FaultyStorage, Gate, MemStorage, Storage};
use busline_log::{
    Batch, ClaimRequest, Group, GroupOptions, GroupSpec, Lifetime, Log, Now, Options, SeqRange,
    Settle, Settlement,
};

fn open(storage: &(impl Storage + Clone)) -> Log {
    let options = Options { segment_bytes: 400, ..Options::default() };
    let storage = Arc::new(storage.clone());
    Log::open_or_create(storage, Path::new("/log"), b"", &options, 0).unwrap()
}

fn append(log: &Log, number: u64) -> u64 {
    log.appender().append(0, b"k", b"", &number.to_le_bytes()).unwrap().next
}

/// Who commits waits for the structure to settle while the one who changes it wants to commit too.
#[test]
fn a_commit_during_a_change_of_structure_does_not_lock_out_the_one_who_changes_it() {
    let medium = MemStorage::new();
    let (one, two) = (
        FaultyStorage::new(Arc::new(medium.process())),
        FaultyStorage::new(Arc::new(medium.process())),
    );
    let (first, second) = (open(&one), open(&two));
    for number in 0..30 {
        append(&first, number);
    }
    let gate = Gate::new();
    two.plan().add(Fault::hold(Call::Remove, &gate).on(".seg"));
    // Threads that are not joined: those that wait for each other would hold up the test.
    let (done, finished) = channel();
    let also_done = done.clone();
    std::thread::spawn(move || {
        let mut guard = second.lock_append().unwrap();
        let mut batch = Batch::new(1000);
        batch.push(b"k", b"", b"").unwrap();
        guard.append(&mut batch, 0).unwrap();
        // Stops at the gate, with the structure changing.
        guard.remove_before(15).unwrap();
        guard.sync().unwrap();
        done.send("changer").unwrap();
    });
    gate.wait_for_arrival();
    let locks_before = one.plan().calls(Call::Lock);
    std::thread::spawn(move || {
        first.commit(first.next_seq()).unwrap();
        also_done.send("committer").unwrap();
    });
    // It wants the lock of appends, whatever else it holds.
    while one.plan().calls(Call::Lock) < locks_before + 1 {
        std::thread::yield_now();
    }
    gate.open();
    for _ in 0..2 {
        finished.recv_timeout(Duration::from_secs(20)).expect("they do not wait for each other");
    }
}

/// The last one to close dies in any step of it; another appends; then the power fails. Of what was not
/// synced, names arrive and data does not.
#[test]
fn a_death_while_marking_the_log_clean_does_not_hide_what_is_appended_later() {
    for changes in 0.. {
        let mut closed = false;
        for kept in 0..4 {
            let medium = MemStorage::new();
            let victim = medium.process();
            let log = open(&victim);
            append(&log, 0);
            victim.kill_after(changes, 10);
            closed = log.close().is_ok();
            victim.kill();
            drop(log);

            let next = medium.process();
            let log = open(&next);
            let seen = append(&log, 1);
            assert_eq!(seen, 2);
            let mut questions = 0;
            medium.crash(&mut |count| {
                questions += 1;
                if questions <= kept { count - 1 } else { 0 }
            });
            drop(log);

            // Record 1 was seen and may be lost, so its number must not come again.
            let log = open(&medium);
            let again = append(&log, 2);
            let report = log.open_report();
            assert!(again > seen, "killed after {changes} changes, {kept} kept: {report:?}");
        }
        if closed {
            break;
        }
    }
}

fn group_now() -> Now {
    Now { wall_us: 1_000, boot_us: 1_000, boot_id: 5 }
}

/// Claims and settles some records; false when the process died.
fn work_in_group(storage: &MemStorage, rounds: usize) -> bool {
    let work = || -> busline_log::Result<()> {
        let log = Log::open(Arc::new(storage.clone()), Path::new("/log"), &Options::default(), 0)?;
        let options = GroupOptions { snapshot_bytes: 200, ..GroupOptions::default() };
        let group = Group::open(&log, "g", &options, group_now())?;
        let mut member = group.join(group_now())?;
        for _ in 0..rounds {
            let request = ClaimRequest {
                records_max: 1,
                bytes_max: 1000,
                first_may_exceed: true,
                lease_us: 1_000_000,
                filter: &|_, _| true,
                keys: None,
                order_by: None,
            };
            let mut seqs = Vec::new();
            let claimed = member.claim(&request, group_now(), &mut |one, _| seqs.push(one.seq))?;
            for seq in seqs {
                let seqs = SeqRange { first: seq, last: seq };
                let how = Settlement::Ack;
                let settle = Settle { claim: claimed.claim, seqs, how };
                group.settle(&[settle], group_now(), &mut Vec::new())?;
            }
        }
        member.leave(group_now())
    };
    let done = work();
    if storage.is_alive() {
        done.expect("who lives can go on");
    }
    storage.is_alive()
}

/// A member dies after it began a segment for its snapshot and before it wrote that; others go on in that
/// segment. Then another dies while it removes what its own snapshot made needless, but for that segment.
#[test]
fn a_group_is_read_whatever_two_deaths_while_compacting_leave_behind() {
    let medium = MemStorage::new();
    let log = open(&medium);
    for number in 0..30 {
        append(&log, number);
    }
    let (options, lifetime) = (GroupOptions::default(), Lifetime::Durable);
    let spec = GroupSpec { name: "g", config: b"", start: 0, lifetime };
    Group::declare(&log, &spec, &options, group_now()).unwrap();
    let groups = Path::new("/log/groups");
    let dirs: Vec<_> =
        medium.list(groups).unwrap().into_iter().map(|name| groups.join(name)).collect();
    let dir = dirs.into_iter().find(|dir| medium.exists(&dir.join("FORMAT")).is_ok_and(|is| is));
    let dir = dir.unwrap();
    // The first death.
    let journal = Log::open(Arc::new(medium.clone()), &dir, &Options::default(), 0).unwrap();
    journal.lock_append().unwrap().roll(0).unwrap();
    drop((journal, log));

    let mut removed_in_part = 0;
    for changes in 0.. {
        let medium = medium.snapshot();
        let victim = medium.process();
        victim.kill_after(changes, 30);
        let done = work_in_group(&victim, 4);
        victim.kill();
        let segments = |dir: &Path| {
            let names = medium.list(dir).unwrap();
            names.into_iter().filter(|name| name.ends_with(".seg")).collect::<Vec<_>>()
        };
        let left = segments(&dir);
        removed_in_part +=
            u32::from(left.len() == 2 && !left[0].starts_with("00000000000000000000"));
        // Somebody finishes what the dead one began, and compacts nothing; others read it from the start.
        let storage = Arc::new(medium.process());
        drop(Log::open(storage, &dir, &Options::default(), 0).unwrap().lock_append().unwrap());
        assert!(work_in_group(&medium.process(), 1), "killed after {changes} changes: {left:?}");
        if done {
            break;
        }
    }
    assert!(removed_in_part > 0, "some victim died between two removals");
}

fn durable(name: &str) -> GroupSpec<'_> {
    GroupSpec { name, config: b"all", start: 0, lifetime: Lifetime::Durable }
}

/// Runs `held` up to its call number `calls` of the medium, then `meanwhile` wholly unless the one that is held keeps it
/// from going on, then the rest. `None` when there are not so many calls.
fn interleaved<T: Send + 'static>(
    storage: &FaultyStorage,
    calls: u64,
    held: impl FnOnce() -> T + Send + 'static,
    meanwhile: impl FnOnce() + Send + 'static,
) -> Option<T> {
    let gate = Gate::new();
    storage.plan().clear();
    storage.plan().add(Fault::hold(Call::Any, &gate).after(calls));
    let held = std::thread::spawn(held);
    while !gate.has_arrived() && !held.is_finished() {
        std::thread::yield_now();
    }
    let was_held = gate.has_arrived();
    let (done, finished) = channel();
    let meanwhile = std::thread::spawn(move || {
        meanwhile();
        let _ = done.send(());
    });
    if was_held {
        // It may have to wait for the other: then this is no order of events.
        let _ = finished.recv_timeout(Duration::from_millis(100));
    }
    gate.open();
    meanwhile.join().unwrap();
    let result = held.join().unwrap();
    was_held.then_some(result)
}

#[test]
fn a_group_that_goes_or_comes_while_it_is_opened_is_there_or_not_and_never_damaged() {
    let medium = MemStorage::new();
    let (one, two) = (FaultyStorage::new(Arc::new(medium.process())), medium.process());
    let (looks, changes) = (open(&one), open(&two));
    for number in 0..5 {
        append(&looks, number);
    }
    let options = GroupOptions::default();
    for comes in [false, true] {
        let mut calls = 0;
        loop {
            let (looker, changer) = (looks.clone(), changes.clone());
            let name = format!("g{calls}-{comes}");
            if !comes {
                Group::declare(&changes, &durable(&name), &options, group_now()).unwrap();
            }
            let (held_name, other_name) = (name.clone(), name);
            let held = move || {
                let opened =
                    Group::open(&looker, &held_name, &GroupOptions::default(), group_now());
                opened.and_then(|group| group.config()).map(drop)
            };
            let meanwhile = move || {
                let options = GroupOptions::default();
                if comes {
                    Group::declare(&changer, &durable(&other_name), &options, group_now()).unwrap();
                }
                Group::delete(&changer, &other_name, Default::default(), group_now()).unwrap();
            };
            let Some(looked) = interleaved(&one, calls, held, meanwhile) else { break };
            if let Err(error) = looked {
                assert_eq!(error.kind(), busline_log::ErrorKind::NotFound, "{calls}: {error}");
            }
            calls += 1;
        }
        assert!(calls > 0);
    }
}

/// The other way round: whoever makes or removes it is stopped in the middle.
#[test]
fn a_group_that_is_half_made_or_half_gone_is_there_or_not_and_never_damaged() {
    let medium = MemStorage::new();
    let (one, two) = (FaultyStorage::new(Arc::new(medium.process())), medium.process());
    let (changes, looks) = (open(&one), open(&two));
    for number in 0..5 {
        append(&looks, number);
    }
    for goes in [false, true] {
        let mut calls = 0;
        loop {
            let (changer, looker) = (changes.clone(), looks.clone());
            let name = format!("g{calls}-{goes}");
            let options = GroupOptions::default();
            if goes {
                Group::declare(&changes, &durable(&name), &options, group_now()).unwrap();
            }
            let (held_name, other_name) = (name.clone(), name);
            let held = move || {
                let options = GroupOptions::default();
                match goes {
                    true => Group::delete(&changer, &held_name, Default::default(), group_now()),
                    false => Group::declare(&changer, &durable(&held_name), &options, group_now())
                        .map(drop),
                }
                .unwrap();
            };
            let meanwhile = move || {
                let opened =
                    Group::open(&looker, &other_name, &GroupOptions::default(), group_now());
                if let Err(error) = opened.and_then(|group| group.config()) {
                    assert_eq!(error.kind(), busline_log::ErrorKind::NotFound, "{error}");
                }
            };
            if interleaved(&one, calls, held, meanwhile).is_none() {
                break;
            }
            calls += 1;
        }
        assert!(calls > 0);
    }
}
