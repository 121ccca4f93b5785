//! Processes that die at any instruction, and power that fails: nothing unsettled is lost, nothing
//! settled for good comes back, attempts stay exact.

use std::collections::BTreeSet;

use crate::group::tests::driver::{Dice, Hands, Ledger, act, drain, sorted, state, value};
use crate::group::tests::world::World;
use crate::storage::MemStorage;
use crate::{Group, Result, SeqRange, Settle, Settlement};

/// Small, so that every few operations write a snapshot and remove what came before.
const SNAPSHOT_BYTES: u64 = 600;

fn small(storage: &MemStorage) -> World {
    let mut world = World::on(storage);
    world.options.snapshot_bytes = SNAPSHOT_BYTES;
    world
}

#[test]
fn a_process_that_dies_at_any_change_loses_and_doubles_nothing() {
    // The survivor holds nothing; the other one is killed after 0, 1, 2 … changes of the medium.
    let origin = small(&MemStorage::new());
    origin.publish(&["v0", "v1", "v2", "v3", "v4", "v5"]);
    origin.declare("g");
    let published = 6;
    let mut died = true;
    let mut step = 0;
    while died {
        let survivor = small(&origin.storage.snapshot());
        let mut doomed = survivor.other();
        let mut ledger = Ledger { published, ..Ledger::default() };
        let mut hands = Hands::default();
        let mut dice = Dice(11);
        doomed.storage.kill_after(step, usize::try_from(step * 7 % 90).unwrap());
        let outcome = (|| {
            let mut member = doomed.open("g").join(doomed.now)?;
            for _ in 0..60 {
                act(&mut doomed, &mut member, &mut hands, &mut ledger, &mut dice)?;
            }
            Result::Ok(member)
        })();
        died = outcome.is_err();
        // The end of the script is one more moment to die, holding what it holds.
        doomed.storage.kill();
        drop(outcome);
        let mut survivor = World { now: doomed.now, ..survivor };
        let mut member = survivor.join("g");
        let seen = drain(&mut survivor, &mut member);
        assert_eq!(sorted(seen), ledger.owed(), "died at {step}");
        step += 1;
    }
    assert!(step > 60, "{step}");
}

#[test]
fn after_a_loss_of_power_a_group_stands_where_it_was_or_before() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut world = small(&MemStorage::new());
        world.declare("g");
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            let mut other = World { now: world.now, ..small(&world.storage.process()) };
            let mut member = world.join("g");
            let mut second = other.join("g");
            let mut hands = (Hands::default(), Hands::default());
            for _ in 0..dice.roll(80) {
                other.now = world.now;
                act(&mut world, &mut member, &mut hands.0, &mut ledger, &mut dice).unwrap();
                other.now = world.now;
                act(&mut other, &mut second, &mut hands.1, &mut ledger, &mut dice).unwrap();
                world.now = other.now;
            }
            assert_eq!(state(member.group()), state(second.group()));
            // As read from the start; on a copy, because closing a handle syncs.
            let copy = World::on(&world.storage.snapshot());
            assert_eq!(state(member.group()), state(&copy.open("g")));
            world.storage.crash_seeded(seed);
            drop((member, second, other));
            let wall_us = world.now.wall_us;
            world = small(&world.storage);
            world.now.wall_us = wall_us;
            survey(&mut world, &mut ledger, seed);
        }
    }
}

/// After a loss of power: takes all that is unsettled and compares it with what must be, and what
/// may be, there.
fn survey(world: &mut World, ledger: &mut Ledger, seed: u64) {
    let mut member = world.open("g").join(world.now).unwrap();
    let seen = drain(world, &mut member);
    let mut values = BTreeSet::new();
    for (value, attempts) in &seen {
        assert!(values.insert(value.clone()), "seed {seed}: {value} came twice");
        assert!(!ledger.acked_durably.contains(value), "seed {seed}: {value} came back");
        let most = ledger.attempts_most.get(value).copied().unwrap_or(0) + 1;
        assert!((1..=most).contains(attempts), "seed {seed}: {value}, attempt {attempts}");
    }
    for value in (0..ledger.published_durably).map(value) {
        let owed = !ledger.acked.contains(&value);
        assert!(!owed || values.contains(&value), "seed {seed}: {value} was lost");
    }
    // What is published from now on comes once: no number of before names it.
    let number = ledger.published;
    world.publish(&[&value(number), &value(number + 1)]);
    let fresh = drain(world, &mut member);
    assert_eq!(fresh, [(value(number), 1), (value(number + 1), 1)], "seed {seed}");
    world.log.commit(world.log.next_seq()).unwrap();
    member.group().commit().unwrap();
    // Whatever was published before is settled or lost for good.
    ledger.published += 2;
    ledger.published_durably = ledger.published;
    ledger.acked = (0..ledger.published).map(value).collect();
    ledger.acked_durably = ledger.acked.clone();
    member.leave(world.now).unwrap();
}

#[test]
fn the_log_of_a_group_stays_small_however_much_is_settled() {
    let world = small(&MemStorage::new());
    let mut member = world.join("g");
    // A handle that looks only now and then finds its place removed, and still comes to the same.
    let mut late = small(&world.storage.process());
    late.now = world.now;
    let watcher = late.open("g");
    let journal = member.group().shared.journal.clone();
    for turn in 0..2_000_u64 {
        world.publish(&["x", "y"]);
        let (claim, handed) = world.claim(&mut member, 9);
        world.ack(&member, claim, &handed);
        let stats = journal.stats().unwrap();
        assert!(stats.bytes < 8 * SNAPSHOT_BYTES, "{} bytes", stats.bytes);
        assert!(stats.segments <= 2, "{} segments", stats.segments);
        if turn % 500 == 499 {
            assert_eq!(state(&watcher), state(member.group()));
        }
    }
    assert!(journal.first_seq() > 1_000);
    let info = watcher.info(world.now).unwrap();
    assert_eq!((info.counters.acked, info.counters.delivered), (4_000, 4_000));
    assert_eq!(info.cursor, 4_000);
}

#[test]
fn a_snapshot_of_many_parts_is_read_back() {
    let mut world = World::new();
    world.options.snapshot_bytes = 1 << 20;
    let mut member = world.join("g");
    let group = member.group().clone();
    // Every second record is put aside: as many runs as records.
    for _ in 0..15 {
        world.publish_count(20_000);
        let (claim, handed) = world.claim(&mut member, 20_000);
        let items: Vec<Settle> = handed
            .iter()
            .map(|&(seq, ..)| {
                let how = match seq % 2 {
                    0 => Settlement::Ack,
                    _ => Settlement::Park { delay_us: u64::MAX >> 1 },
                };
                Settle { claim, seqs: SeqRange::one(seq), how }
            })
            .collect();
        let mut lost = Vec::new();
        group.settle(&items, world.now, &mut lost).unwrap();
        assert_eq!(lost, []);
    }
    let journal = &group.shared.journal;
    assert!(journal.first_seq() > 0, "there was a snapshot");
    let mut bytes = Vec::new();
    state(&group).encode_snapshot(&mut bytes);
    assert!(bytes.len() > 1 << 20, "of more than one part: {} bytes", bytes.len());
    assert_eq!(state(&world.other().open("g")), state(&group));
    assert_eq!(group.info(world.now).unwrap().parked, 150_000);
}

#[test]
fn a_snapshot_is_on_the_medium_before_what_it_replaces_goes() {
    let world = small(&MemStorage::new());
    let mut member = world.join("g");
    let journal = member.group().shared.journal.clone();
    while journal.first_seq() == 0 {
        world.publish(&["x"]);
        let (claim, handed) = world.claim(&mut member, 9);
        world.ack(&member, claim, &handed);
    }
    let before = member.group().info(world.now).unwrap().counters.acked;
    // Nothing arrives that was not synced.
    world.storage.crash(&mut |_| 0);
    let world = small(&world.storage);
    let info = world.open("g").info(world.now).unwrap();
    assert_eq!(info.counters.acked, before);
    assert!(!info.members[0].alive, "of another boot");
}

#[test]
fn after_a_restart_of_the_machine_claims_are_over_and_delays_go_on() {
    let mut world = World::new();
    world.publish_count(4);
    let mut member = world.join("g");
    let (claim, _) = world.claim(&mut member, 3);
    let group = member.group().clone();
    world.settle(&group, claim, SeqRange::one(1), Settlement::Park { delay_us: 500 });
    world.settle(&group, claim, SeqRange::one(2), Settlement::Park { delay_us: 50 });
    world.pass(20);
    world.settle(&group, claim, SeqRange::one(9), Settlement::Ack);
    world.settle(&group, claim, SeqRange::one(0), Settlement::Renew { lease_us: u64::MAX });
    world.log.sync().unwrap();
    group.commit().unwrap();
    world.storage.crash(&mut |_| 0);
    drop((member, group));
    // The machine was off for 100 us by the clock on the wall; its boot clock began anew.
    let wall_us = world.now.wall_us + 100;
    let mut world = World::on(&world.storage);
    world.now = crate::Now { wall_us, boot_us: 7, ..world.now };
    let mut member = world.open("g").join(world.now).unwrap();
    let counters = member.group().info(world.now).unwrap().counters;
    assert_eq!((counters.members_died, counters.abandoned), (1, 1));
    assert_eq!(member.next_due_us().unwrap(), Some(7), "the short delay is over");
    assert_eq!(world.seqs(&mut member, 9), [(0, 2), (2, 2), (3, 1)]);
    world.pass(500 - 120 - 1);
    assert_eq!(world.seqs(&mut member, 9), []);
    world.pass(1);
    assert_eq!(world.seqs(&mut member, 9), [(1, 2)]);
}

#[test]
fn a_group_that_a_dead_process_began_is_durable_once_another_declared_it() {
    let mut died = true;
    let mut step = 0;
    while died {
        let world = World::new();
        let doomed = world.other();
        doomed.storage.kill_after(step, 0);
        let spec = World::spec("g");
        died = Group::declare(&doomed.log, &spec, &doomed.options, doomed.now).is_err();
        doomed.storage.kill();
        drop(doomed);
        // Closing its handle would sync it.
        let _kept = match step % 2 {
            0 => (world.declare("g"), None),
            _ => {
                let joined = Group::declare_and_join(&world.log, &spec, &world.options, world.now);
                let (declared, member) = joined.unwrap();
                (declared.group, Some(member))
            }
        };
        let storage = world.storage.snapshot();
        storage.crash(&mut |_| 0);
        assert_eq!(World::on(&storage).open("g").config().unwrap().bytes, b"all", "{step}");
        step += 1;
    }
    assert!(step > 20, "{step}");
}
