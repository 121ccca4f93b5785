//! A medium that fails: a call that returns an error did nothing, and the next one works.

use std::io;
use std::sync::Arc;

use crate::group::tests::driver::{Dice, Hands, Ledger, act, drain, sorted, state};
use crate::group::tests::world::{World, range};
use crate::storage::{Call, Fault, FaultyStorage, Gate, MemStorage, Storage};
use crate::{ErrorKind, Group, GroupSpec, RetainPolicy, Settle, Settlement};

fn world() -> (World, FaultyStorage) {
    let memory = MemStorage::new();
    let faulty = FaultyStorage::over_memory(&memory);
    let mut world = World::through(&memory, Arc::new(faulty.clone()));
    world.options.snapshot_bytes = 600;
    (world, faulty)
}

#[test]
fn any_call_on_the_medium_may_fail_once() {
    for call in [Call::Write, Call::Read, Call::Open, Call::Truncate, Call::List, Call::Lock] {
        let mut fired = 0;
        for after in (0..).step_by(3) {
            let (mut world, faulty) = world();
            let mut member = world.join("g");
            let mut ledger = Ledger::default();
            let mut hands = Hands::default();
            let mut dice = Dice(5);
            let fault = Fault::new(call, io::ErrorKind::StorageFull).on("groups").after(after);
            faulty.plan().add(fault.times(1).storing(9));
            let mut errors = 0;
            for _ in 0..60 {
                let done = act(&mut world, &mut member, &mut hands, &mut ledger, &mut dice);
                errors += u64::from(done.is_err());
            }
            if faulty.plan().hits() == 0 {
                break;
            }
            fired += 1;
            assert!(errors <= 1, "{call:?} {after}: {errors}");
            assert_eq!(state(&world.other().open("g")), state(member.group()), "{call:?} {after}");
            let seen = drain(&mut world, &mut member);
            assert_eq!(sorted(seen), ledger.owed(), "{call:?} {after}");
        }
        assert!(fired > 0 || call == Call::Truncate, "{call:?} never failed");
    }
}

#[test]
fn a_full_disk_refuses_settles_and_loses_nothing() {
    let (world, faulty) = world();
    world.publish_count(4);
    let mut member = world.join("g");
    let (claim, handed) = world.claim(&mut member, 3);
    assert_eq!(handed.len(), 3);
    // The zeros ahead of the old one would be room for more.
    member.group().shared.journal.lock_append().unwrap().roll(0).unwrap();
    faulty.plan().set_space(Some(10));
    take_the_reserve(&world);
    faulty.plan().set_space(Some(10));
    let items = [Settle { claim, seqs: range(0, 1), how: Settlement::Ack }];
    let mut lost = Vec::new();
    for _ in 0..3 {
        let error = member.group().settle(&items, world.now, &mut lost).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(error.is_temporary());
        let error = world.claim_where(&mut member, 9, &|_, _| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        assert_eq!(member.group().info(world.now).unwrap().claimed, 3);
    }
    faulty.plan().set_space(None);
    member.group().settle(&items, world.now, &mut lost).unwrap();
    assert_eq!(lost, []);
    assert_eq!(world.seqs(&mut member, 9), [(3, 1)]);
    let counters = member.group().info(world.now).unwrap().counters;
    assert_eq!((counters.delivered, counters.acked), (4, 2));
}

#[test]
fn a_group_that_is_declared_or_moved_while_old_records_go_keeps_what_it_found() {
    for moved in [false, true] {
        let (world, faulty) = world();
        let other = World::on(&world.storage.process());
        for at in 0..200 {
            other.publish(&[&format!("{at:0>100}")]);
        }
        let end = other.log.next_seq();
        if moved {
            other.declare("late").reset(end, other.now).unwrap();
        }
        let gate = Gate::new();
        let policy = RetainPolicy { max_bytes: Some(0), ..RetainPolicy::default() };
        std::thread::scope(|scope| {
            // It has asked the groups what they need, and is about to look at the segments.
            faulty.plan().add(Fault::hold(Call::Open, &gate).on("/log/0000"));
            let retaining =
                scope.spawn(|| world.log.retain_for_groups(&policy, world.now).unwrap());
            gate.wait_for_arrival();
            let declaring = scope.spawn(|| {
                let spec = GroupSpec { start: 0, ..World::spec("late") };
                let declared =
                    Group::declare(&other.log, &spec, &other.options, other.now).unwrap();
                if moved {
                    declared.group.reset(0, other.now).unwrap();
                }
                other.log.first_seq()
            });
            // Whoever does not wait is through by then.
            let tick = std::time::Duration::from_millis(5);
            for _ in (0..40).take_while(|_| !declaring.is_finished()) {
                other.log.wait(other.log.mark(), Some(tick)).unwrap();
            }
            gate.open();
            let removed = retaining.join().unwrap();
            let found = declaring.join().unwrap();
            assert!(removed.segments > 3, "{removed:?}");
            assert_eq!(other.log.first_seq(), found, "what it found is still there");
            let mut member = other.join("late");
            assert_eq!(other.seqs(&mut member, 1), [(found, 1)]);
        });
    }
}

fn take_the_reserve(world: &World) {
    let dir = crate::group::names::find(&world.log, "g").unwrap().unwrap();
    world.log.storage().remove(&dir.join("reserve")).unwrap();
}

#[test]
fn on_a_full_disk_the_reserve_keeps_a_group_going() {
    let (mut world, faulty) = world();
    world.options.snapshot_bytes = 1 << 20;
    world.publish_count(2_000);
    let mut member = world.join("g");
    faulty.plan().set_space(Some(10));
    let mut appender = world.log.appender();
    let error = appender.append(1, b"k", b"", &[0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    for _ in 0..2_000 {
        let (claim, handed) = world.claim(&mut member, 1);
        world.ack(&member, claim, &handed);
    }
    let journal = &member.group().shared.journal;
    assert!(journal.first_seq() > 0, "it was compacted for want of space");
    let info = world.other().open("g").info(world.now).unwrap();
    assert_eq!((info.counters.acked, info.lag), (2_000, 0));
    let hits = faulty.plan().hits();
    assert!((2..200).contains(&hits), "it met the end {hits} times");
}

#[test]
fn what_a_quota_or_a_limit_refuses_is_settled_with_the_reserve_as_on_a_full_disk() {
    for refused in
        [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge]
    {
        let (world, faulty) = world();
        world.publish_count(3);
        let mut member = world.join("g");
        let (claim, handed) = world.claim(&mut member, 3);
        let reserve = member.group().shared.dir.join("reserve");
        assert!(world.storage.exists(&reserve).unwrap());
        faulty.plan().add(Fault::new(Call::Write, refused).on("groups").storing(20));
        world.ack(&member, claim, &handed);
        assert!(!world.storage.exists(&reserve).unwrap(), "{refused:?}: it was given up");
        let info = world.other().open("g").info(world.now).unwrap();
        assert_eq!((info.counters.acked, info.floor), (3, 3), "{refused:?}");
    }
}

#[test]
fn a_failed_flush_of_a_groups_log_stops_the_group_and_not_the_log() {
    let (world, faulty) = world();
    world.publish_count(2);
    let mut member = world.join("g");
    let (claim, _) = world.claim(&mut member, 1);
    world.settle(member.group(), claim, range(0, 0), Settlement::Ack);
    faulty.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on("groups").times(1));
    let kind = |error: crate::Error| error.kind();
    assert_eq!(member.group().commit().map_err(kind), Err(ErrorKind::Poisoned));
    let claimed = world.claim_where(&mut member, 1, &|_, _| true);
    assert_eq!(claimed.map_err(kind).unwrap_err(), ErrorKind::Poisoned);
    assert_eq!(member.group().floor().unwrap(), 1, "it can still be read");
    world.publish_count(1);
    world.log.commit(world.log.next_seq()).unwrap();
    let mut other = world.join("other");
    assert_eq!(world.seqs(&mut other, 9).len(), 3);
}
