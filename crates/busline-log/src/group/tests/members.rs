//! Members of one group: claiming, settling, competing, dying.

use crate::group::tests::world::{LEASE_US, World, range};
use crate::{ClaimRequest, ErrorKind, Member, SeqRange, Settle, Settlement};

const ACK: Settlement = Settlement::Ack;

#[test]
fn every_record_goes_to_one_member_once() {
    let world = World::new();
    world.publish_count(100);
    let mut one = world.join("g");
    let other = world.other();
    let mut two = other.join("g");
    let mut seen = Vec::new();
    for turn in 0.. {
        let (here, member) = if turn % 2 == 0 { (&world, &mut one) } else { (&other, &mut two) };
        let (claim, handed) = here.claim(member, 7);
        if handed.is_empty() {
            break;
        }
        here.ack(member, claim, &handed);
        seen.extend(handed.into_iter().map(|(seq, attempts, value)| {
            assert_eq!(attempts, 1);
            assert_eq!(value, format!("v{seq}"));
            seq
        }));
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    let info = world.open("g").info(world.now).unwrap();
    assert_eq!((info.lag, info.ready, info.parked, info.claimed), (0, 0, 0, 0));
    assert_eq!((info.counters.delivered, info.counters.acked), (100, 100));
    assert_eq!((info.floor, info.oldest_seq), (100, None));
}

#[test]
fn attempts_count_claims_exactly() {
    let mut world = World::new();
    world.publish(&["a"]);
    let mut member = world.join("g");
    let group = member.group().clone();
    let one = SeqRange::one(0);
    for (how, wait_us, next) in [
        (Settlement::Release { counted: true }, 0, 2),
        (Settlement::Release { counted: false }, 0, 2),
        (Settlement::Park { delay_us: 50 }, 50, 3),
        (Settlement::Renew { lease_us: 70 }, 70, 4),
        (Settlement::Release { counted: true }, 0, 5),
    ] {
        let (claim, handed) = world.claim(&mut member, 9);
        assert_eq!(handed.len(), 1);
        assert_eq!(world.settle(&group, claim, one, how), []);
        if wait_us > 0 {
            world.pass(wait_us - 1);
            assert_eq!(world.seqs(&mut member, 9), [], "{how:?}");
            world.pass(1);
        }
        let again = world.claim(&mut member, 9);
        assert_eq!(again.1, [(0, next, "a".to_owned())], "{how:?}");
        assert_eq!(world.settle(&group, again.0, one, Settlement::Release { counted: false }), []);
    }
    let (claim, handed) = world.claim(&mut member, 9);
    assert_eq!(handed, [(0, 5, "a".to_owned())]);
    world.ack(&member, claim, &handed);
    assert_eq!(world.seqs(&mut member, 9), []);
    let counters = group.info(world.now).unwrap().counters;
    assert_eq!((counters.delivered, counters.redelivered), (5, 4));
    assert_eq!((counters.acked, counters.parked, counters.expired), (1, 1, 1));
}

#[test]
fn a_settle_that_comes_too_late_is_lost_and_says_which() {
    let mut world = World::new();
    world.publish_count(6);
    let mut one = world.join("g");
    let mut two = world.join("g");
    let (first, _) = world.claim(&mut one, 6);
    world.pass(LEASE_US);
    // Nobody took them over yet: what is done is done.
    assert_eq!(world.settle(one.group(), first, range(0, 1), ACK), []);
    assert_eq!(world.seqs(&mut two, 2), [(2, 2), (3, 2)]);
    assert_eq!(world.settle(one.group(), first, range(0, 9), ACK), [range(0, 9)]);
    // The same member has them again: the older claim still is not the newer one.
    let (second, handed) = world.claim(&mut one, 6);
    assert_eq!(handed.len(), 2);
    assert_eq!(world.settle(one.group(), first, range(4, 5), ACK), [range(4, 5)]);
    let mut lost = Vec::new();
    let items = [
        Settle { claim: second, seqs: SeqRange::one(4), how: ACK },
        Settle { claim: second, seqs: SeqRange::one(4), how: ACK },
        Settle { claim: second, seqs: range(3, 6), how: Settlement::Reject },
    ];
    one.group().settle(&items, world.now, &mut lost).unwrap();
    let lost: Vec<_> = lost.iter().map(|lost| (lost.item, lost.seqs)).collect();
    assert_eq!(lost, [(1, range(4, 4)), (2, range(3, 4)), (2, range(6, 6))]);
    let counters = one.group().info(world.now).unwrap().counters;
    assert_eq!((counters.acked, counters.rejected, counters.expired), (3, 1, 4));
}

#[test]
fn settles_come_in_any_order() {
    let world = World::new();
    world.publish_count(9);
    let mut member = world.join("g");
    let (first, _) = world.claim(&mut member, 4);
    let (second, _) = world.claim(&mut member, 5);
    let ack = |claim, seqs| Settle { claim, seqs, how: ACK };
    let items = [
        ack(second, range(7, 8)),
        ack(first, range(3, 3)),
        ack(first, range(1, 2)),
        ack(second, range(4, 5)),
        // The ends are the wrong way round: the first one counts.
        ack(first, SeqRange { first: 0, last: 0 }),
        ack(second, SeqRange { first: 6, last: 5 }),
    ];
    let mut lost = Vec::new();
    member.group().settle(&items, world.now, &mut lost).unwrap();
    assert_eq!(lost, []);
    assert_eq!(world.other().open("g").info(world.now).unwrap().counters.acked, 9);
}

#[test]
fn a_clock_that_lags_behind_does_not_turn_time_back() {
    let mut world = World::new();
    world.publish_count(2);
    let mut behind = world.other();
    let mut one = world.join("g");
    world.pass(1_000);
    let (claim, _) = world.claim(&mut one, 1);
    let mut two = behind.join("g");
    let (other, _) = behind.claim(&mut two, 1);
    let start = world.now.boot_us;
    behind.settle(two.group(), other, range(1, 1), Settlement::Park { delay_us: 10 });
    assert_eq!(two.next_due_us().unwrap(), Some(start + 10));
    behind.pass(500);
    assert_eq!(two.take_over(behind.now).unwrap(), 0);
    assert_eq!(world.settle(one.group(), claim, range(0, 0), ACK), []);
    world.pass(10);
    assert_eq!(world.seqs(&mut one, 9), [(1, 2)]);
}

#[test]
fn a_group_that_is_ahead_of_its_log_goes_back_with_it() {
    // The log never gives a number out again, so nothing but a defect or a hand leads here.
    let world = World::new();
    world.publish_count(3);
    let mut member = world.join("g");
    assert_eq!(world.seqs(&mut member, 9).len(), 3);
    let claim = crate::group::op::Claim {
        member: member.id(),
        until_us: u64::MAX,
        to: 9,
        fresh: vec![range(5, 6)],
        ..Default::default()
    };
    let op = crate::group::op::Op::Claim(claim);
    member.group().shared.transact(world.now, |txn| txn.push(&op)).unwrap();
    assert_eq!(world.seqs(&mut member, 9), []);
    world.publish_count(4);
    assert_eq!(world.seqs(&mut member, 9), [(3, 1), (4, 1), (5, 1), (6, 1)]);
    assert_eq!(member.group().info(world.now).unwrap().counters.vanished, 2);
}

#[test]
fn the_dead_are_noticed_and_what_they_held_goes_to_others() {
    let world = World::new();
    world.publish_count(4);
    let other = world.other();
    let mut two = other.join("g");
    let mut one = world.join("g");
    let (_, handed) = world.claim(&mut one, 3);
    assert_eq!(handed.len(), 3);
    assert!(two.others_hold_claims().unwrap());
    assert_eq!(two.take_over(other.now).unwrap(), 0);
    let wake_at = two.wake_at_us(other.now).unwrap().unwrap();
    assert_eq!(wake_at, 250_000, "when all groups of a process look");
    world.storage.kill();
    assert_eq!(two.take_over(other.now).unwrap(), 3);
    assert!(!two.others_hold_claims().unwrap());
    assert_eq!(other.seqs(&mut two, 9), [(0, 2), (1, 2), (2, 2), (3, 1)]);
    let info = two.group().info(other.now).unwrap();
    assert_eq!((info.counters.members_died, info.counters.abandoned), (1, 3));
    assert_eq!(info.members.len(), 1);
    assert!(info.members[0].alive);
    assert_eq!(info.members[0].held, 4);
}

#[test]
fn a_busy_member_notices_the_dead_without_being_told_to_look() {
    let world = World::new();
    world.publish_count(2);
    let mut other = world.other();
    let mut two = other.join("g");
    let mut one = world.join("g");
    assert_eq!(world.claim(&mut one, 1).1.len(), 1);
    world.storage.kill();
    assert_eq!(other.seqs(&mut two, 9), [(1, 1)]);
    other.pass(250_000);
    assert_eq!(other.seqs(&mut two, 9), [(0, 2)]);
}

#[test]
fn dropping_and_leaving_give_back_and_ring() {
    let world = World::new();
    world.publish_count(2);
    let mut one = world.join("g");
    let mut two = world.join("g");
    assert_eq!(world.seqs(&mut one, 1), [(0, 1)]);
    assert!(world.rings(|| drop(one)));
    assert_eq!(two.take_over(world.now).unwrap(), 1);
    assert_eq!(world.seqs(&mut two, 1), [(0, 2)]);
    let mut three = world.join("g");
    assert!(world.rings(|| two.leave(world.now).unwrap()));
    assert_eq!(world.seqs(&mut three, 9), [(0, 3), (1, 1)]);
    let info = three.group().info(world.now).unwrap();
    assert_eq!(info.counters.members_died, 1);
    assert_eq!(info.members.len(), 1);
}

#[test]
fn a_member_that_was_taken_for_dead_is_told() {
    let world = World::new();
    world.publish_count(2);
    let mut one = world.join("g");
    let (claim, _) = world.claim(&mut one, 1);
    let file = crate::group::names::member_file(&one.group().shared.dir, one.id());
    crate::storage::Storage::remove(&world.storage, &file).unwrap();
    let mut two = world.other().join("g");
    assert_eq!(two.take_over(world.now).unwrap(), 1);
    let error = world.claim_where(&mut one, 1, &|_, _| true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert_eq!(world.settle(one.group(), claim, range(0, 0), ACK), [range(0, 0)]);
    let group = one.group().clone();
    one.leave(world.now).unwrap();
    assert_eq!(world.seqs(&mut group.join(world.now).unwrap(), 9), [(0, 2), (1, 1)]);
}

#[test]
fn bounds_of_a_request_hold() {
    let world = World::new();
    world.publish(&["aaaa", "bbbb", "cccc", "dddd"]);
    let mut member = world.join("g");
    let any = |_: &[u8], _: &[u8]| true;
    let mut request = ClaimRequest {
        records_max: 10,
        bytes_max: 13,
        first_may_exceed: true,
        lease_us: LEASE_US,
        filter: &any,
        keys: None,
        order_by: None,
    };
    // Each record has 6 bytes: key, meta and value.
    let (outcome, handed) = world.claim_with(&mut member, &request).unwrap();
    assert_eq!((handed.len(), outcome.bytes, outcome.more), (2, 12, true));
    request.bytes_max = 1;
    let (outcome, handed) = world.claim_with(&mut member, &request).unwrap();
    assert_eq!((handed.len(), outcome.more), (1, true), "the first may be larger");
    request.bytes_max = 1 << 20;
    request.records_max = 0;
    assert_eq!(world.claim_with(&mut member, &request).unwrap().1, []);
    request.records_max = 9;
    let (outcome, handed) = world.claim_with(&mut member, &request).unwrap();
    assert_eq!((handed[0].0, outcome.more), (3, false));
    // The same bounds hold for what is handed out again.
    let all = SeqRange { first: 0, last: u64::MAX };
    world.settle(member.group(), outcome.claim, all, Settlement::Release { counted: true });
    request.records_max = 0;
    assert_eq!(world.claim_with(&mut member, &request).unwrap().1, []);
}

#[test]
fn what_the_filter_does_not_want_is_settled() {
    let world = World::new();
    world.publish(&["a1", "b1", "a2", "b2", "b3"]);
    let mut member = world.join("g");
    let wants_a = |key: &[u8], meta: &[u8]| key == b"a" && meta == b"m";
    let (outcome, handed) = world.claim_where(&mut member, 9, &wants_a).unwrap();
    assert_eq!(handed.iter().map(|of| of.0).collect::<Vec<_>>(), [0, 2]);
    // The range covers a record that the claim never had: exactly that one is lost.
    assert_eq!(world.settle(member.group(), outcome.claim, range(0, 2), ACK), [range(1, 1)]);
    let info = member.group().info(world.now).unwrap();
    assert_eq!((info.lag, info.floor, info.cursor), (0, 5, 5));
}

#[test]
fn a_group_with_too_much_unsettled_waits_for_settles() {
    let mut world = World::new();
    world.options.unsettled_max = 4;
    world.publish_count(10);
    let mut member = world.join("g");
    let (first, handed) = world.claim(&mut member, 9);
    assert_eq!(handed.len(), 4);
    assert_eq!(world.seqs(&mut member, 9), []);
    let group = member.group().clone();
    assert!(!world.rings(|| {
        let park = Settlement::Park { delay_us: LEASE_US };
        world.settle(&group, first, range(1, 1), park);
    }));
    assert!(world.rings(|| {
        world.settle(&group, first, range(0, 0), ACK);
    }));
    assert_eq!(world.seqs(&mut member, 9), [(4, 1)]);
}

#[test]
fn later_records_of_an_order_wait_for_earlier_ones() {
    let mut world = World::new();
    world.publish(&["a1", "b1", "a2", "a3", "-x", "b2"]);
    let mut one = world.join("g");
    let mut two = world.other().join("g");
    let any = |_: &[u8], _: &[u8]| true;
    // Records of "-" have no order.
    let order = |key: &[u8], _: &[u8]| (key != b"-").then(|| u64::from(key[0]));
    let request = ClaimRequest {
        records_max: 9,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: LEASE_US,
        filter: &any,
        keys: None,
        order_by: Some(&order),
    };
    let values = |world: &World, member: &mut Member| {
        let (outcome, handed) = world.claim_with(member, &request).unwrap();
        let values: Vec<_> =
            handed.into_iter().map(|(_, attempts, value)| format!("{value}/{attempts}")).collect();
        (outcome.claim, values)
    };
    let (first, handed) = values(&world, &mut one);
    assert_eq!(handed, ["a1/1", "b1/1", "-x/1"]);
    world.publish(&["a4"]);
    assert_eq!(values(&world, &mut two).1, [""; 0]);
    // A retry after a delay holds the rest of its order back; the other order goes on.
    let park = Settlement::Park { delay_us: 10 };
    let group = one.group().clone();
    world.settle(&group, first, range(0, 0), park);
    assert!(world.rings(|| assert_eq!(world.settle(&group, first, range(1, 1), ACK), [])));
    assert_eq!(values(&world, &mut two).1, ["b2/1"]);
    world.pass(10);
    let (again, handed) = values(&world, &mut two);
    assert_eq!(handed, ["a1/2"]);
    world.settle(&group, again, range(0, 0), Settlement::Reject);
    let (next, handed) = values(&world, &mut two);
    assert_eq!(handed, ["a2/1"]);
    world.settle(&group, next, range(2, 2), Settlement::Release { counted: true });
    assert_eq!(values(&world, &mut one).1, ["a2/2"]);
}

#[test]
fn a_slow_order_does_not_pull_the_whole_log_into_memory() {
    let mut world = World::new();
    world.options.blocked_max = 3;
    world.publish(&["a0", "a1", "a2", "b3", "a4", "a5", "b6"]);
    let mut member = world.join("g");
    let any = |_: &[u8], _: &[u8]| true;
    let order = |key: &[u8], _: &[u8]| Some(u64::from(key[0]));
    let request = ClaimRequest {
        records_max: 9,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: LEASE_US,
        filter: &any,
        keys: None,
        order_by: Some(&order),
    };
    let (outcome, handed) = world.claim_with(&mut member, &request).unwrap();
    assert_eq!((handed.len(), outcome.more), (2, false), "a0 and b3; a1, a2 and a4 wait");
    let group = member.group().clone();
    assert_eq!(group.info(world.now).unwrap().cursor, 5);
    assert_eq!(world.claim_with(&mut member, &request).unwrap().1, []);
    assert!(world.rings(|| assert_eq!(world.settle(&group, outcome.claim, range(0, 0), ACK), [])));
    let (outcome, handed) = world.claim_with(&mut member, &request).unwrap();
    assert_eq!(handed.iter().map(|of| of.0).collect::<Vec<_>>(), [1]);
    assert!(!outcome.more);
    assert_eq!(group.info(world.now).unwrap().cursor, 6, "a5 waits for a4, then it is full");
}

#[test]
fn a_contended_group_says_so_instead_of_waiting() {
    let world = World::new();
    world.publish_count(1);
    let mut member = world.join("g");
    let (claim, _) = world.claim(&mut member, 1);
    world.publish_count(1);
    let other = world.other();
    let group = other.open("g");
    let guard = group.shared.journal.lock_append().unwrap();
    assert_eq!(world.try_claim(&mut member, 9).unwrap(), None);
    let item = Settle { claim, seqs: SeqRange::one(0), how: ACK };
    let mut lost = Vec::new();
    assert!(!member.group().try_settle(&[item], world.now, &mut lost).unwrap());
    drop(guard);
    assert_eq!(handed(&world, &mut member, 9), Some(vec![(1, 1)]));
    assert!(member.group().try_settle(&[item], world.now, &mut lost).unwrap());
    assert_eq!(lost, []);
}

/// What a claim hands out that does not wait.
fn handed(world: &World, member: &mut Member, max: usize) -> Option<Vec<(u64, u32)>> {
    let (_, handed) = world.try_claim(member, max).unwrap()?;
    Some(handed.into_iter().map(|(seq, attempts, _)| (seq, attempts)).collect())
}

/// All that is more than new records in memory is left to a claim that may wait.
#[test]
fn a_claim_that_does_not_wait_hands_out_new_records_and_no_others() {
    let mut world = World::new();
    world.publish_count(1);
    let mut member = world.join("g");
    assert_eq!(handed(&world, &mut member, 9), None, "nothing of the log is open yet");
    let (first, _) = world.claim(&mut member, 9);
    let (idle, none) = world.try_claim(&mut member, 9).unwrap().unwrap();
    assert_eq!((idle.more, none), (false, vec![]));
    assert_eq!(idle.wake_at_us, member.wake_at_us(world.now).unwrap(), "its own lease");
    assert!(idle.wake_at_us.is_some());

    // One frame at a time, and what is left of it at the next.
    world.publish_count(3);
    world.publish_count(1);
    let (outcome, some) = world.try_claim(&mut member, 2).unwrap().unwrap();
    assert_eq!((outcome.more, some.len()), (true, 2));
    let (outcome, some) = world.try_claim(&mut member, 9).unwrap().unwrap();
    assert_eq!((outcome.more, some.len()), (true, 1));
    let (outcome, some) = world.try_claim(&mut member, 9).unwrap().unwrap();
    assert_eq!((outcome.more, some.len()), (false, 1));

    // What comes again, once it is ready.
    world.publish_count(1);
    world.settle(member.group(), first, range(0, 0), Settlement::Park { delay_us: 50 });
    assert_eq!(handed(&world, &mut member, 9), Some(vec![(5, 1)]));
    world.publish_count(1);
    world.pass(50);
    assert_eq!(handed(&world, &mut member, 9), None, "a delay is over");
    assert_eq!(world.seqs(&mut member, 9), [(0, 2), (6, 1)]);

    // What another holds may be that of a dead one, and comes before what is newer.
    let mut two = world.join("g");
    assert_eq!(handed(&world, &mut two, 9), None);
    assert_eq!(world.seqs(&mut two, 9), []);
    world.publish_count(1);
    assert_eq!(handed(&world, &mut two, 9), None);

    // Another configuration is another filter; what others wrote has to be read.
    world.other().open("g").set_config(b"other", None, world.now).unwrap();
    assert_eq!(handed(&world, &mut member, 9), None);
    assert_eq!(world.seqs(&mut member, 9), []);
    member.accept_config().unwrap();
    assert_eq!(world.seqs(&mut member, 9), [(7, 1)]);
}

/// A snapshot waits for the medium: who must not wait leaves it to the next.
#[test]
fn a_claim_that_does_not_wait_does_not_compact() {
    let mut world = World::new();
    world.options.snapshot_bytes = 300;
    world.publish_count(1);
    let mut member = world.join("g");
    let (claim, _) = world.claim(&mut member, 9);
    let group = member.group().clone();
    for seq in 1..40 {
        world.publish_count(1);
        assert_eq!(handed(&world, &mut member, 9), Some(vec![(seq, 1)]));
        assert_eq!(group.shared.journal.first_seq(), 0, "nothing was removed");
    }
    world.settle(member.group(), claim, range(0, 0), ACK);
    assert!(group.shared.journal.first_seq() > 0, "whoever may wait compacted");
}

#[test]
fn two_threads_share_a_group_without_losing_or_doubling() {
    let world = World::new();
    world.publish_count(2_000);
    world.declare("g");
    let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|at| {
                let here = if at % 2 == 0 { world.other() } else { World::on(&world.storage) };
                scope.spawn(move || {
                    let mut member = here.join("g");
                    let mut mine = Vec::new();
                    loop {
                        let (outcome, handed) =
                            here.claim_where(&mut member, 13, &|_, _| true).unwrap();
                        if handed.is_empty() && !outcome.more {
                            member.leave(here.now).unwrap();
                            return mine;
                        }
                        assert!(handed.iter().all(|of| of.1 == 1));
                        here.ack(&member, outcome.claim, &handed);
                        mine.extend(handed.into_iter().map(|of| of.0));
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all: Vec<u64> = taken.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (0..2_000).collect::<Vec<_>>());
    let info = world.open("g").info(world.now).unwrap();
    assert_eq!((info.counters.acked, info.members.len()), (2_000, 0));
}
