//! Who sleeps must be woken: every change that makes records claimable rings, and no other does.

use crate::group::tests::world::{LEASE_US, World, range};
use crate::{Settle, Settlement};

#[test]
fn changes_that_matter_to_others_ring() {
    let world = World::new();
    world.publish_count(10);
    let mut member = world.join("g");
    let group = member.group().clone();
    let mut claim = None;
    assert!(!world.rings(|| claim = Some(world.claim(&mut member, 10).0)), "a claim");
    let claim = claim.unwrap();
    let settle = |seq, how| {
        let item = Settle { claim, seqs: range(seq, seq), how };
        let mut lost = Vec::new();
        let rang = world.rings(|| group.settle(&[item], world.now, &mut lost).unwrap());
        assert_eq!(lost, []);
        rang
    };
    assert!(!settle(0, Settlement::Ack));
    assert!(!settle(1, Settlement::Reject));
    assert!(!settle(2, Settlement::Renew { lease_us: 2 * LEASE_US }));
    assert!(settle(3, Settlement::Release { counted: true }));
    assert!(settle(4, Settlement::Release { counted: false }));
    // Waiting members sleep until the first lease ends at the latest: only an earlier time is news.
    assert!(!settle(5, Settlement::Park { delay_us: LEASE_US + 1 }));
    assert!(settle(6, Settlement::Park { delay_us: 100 }));
    assert!(!settle(7, Settlement::Park { delay_us: 101 }));
    assert!(settle(8, Settlement::Park { delay_us: 99 }));
}

#[test]
fn a_waiting_member_knows_when_to_look_again() {
    let mut world = World::new();
    world.publish_count(2);
    let mut one = world.join("g");
    let two = world.join("g");
    assert_eq!(two.wake_at_us(world.now).unwrap(), None, "until somebody rings");
    let (claim, _) = world.claim(&mut one, 9);
    let start = world.now.boot_us;
    assert_eq!(one.wake_at_us(world.now).unwrap(), Some(start + LEASE_US), "its own lease");
    assert_eq!(two.wake_at_us(world.now).unwrap(), Some(250_000), "to look after one");
    world.pass(248_999);
    assert_eq!(two.wake_at_us(world.now).unwrap(), Some(250_000));
    world.pass(1);
    assert_eq!(two.wake_at_us(world.now).unwrap(), Some(500_000), "the moment after this one");
    let start = world.now.boot_us;
    let park = Settlement::Park { delay_us: 1_000 };
    world.settle(one.group(), claim, range(0, 0), park);
    assert_eq!(two.wake_at_us(world.now).unwrap(), Some(start + 1_000));
    assert_eq!(two.next_due_us().unwrap(), Some(start + 1_000));
    world.settle(one.group(), claim, range(1, 1), Settlement::Ack);
    assert!(!two.others_hold_claims().unwrap());
    assert_eq!(two.wake_at_us(world.now).unwrap(), Some(start + 1_000));
    world.pass(1_000);
    let mut two = two;
    assert!(world.rings(|| assert_eq!(two.take_over(world.now).unwrap(), 1)));
    assert_eq!(two.wake_at_us(world.now).unwrap(), None);
    assert_eq!(world.seqs(&mut two, 9), [(0, 2)]);
}

#[test]
fn an_idle_claim_writes_nothing() {
    let world = World::new();
    world.publish_count(1);
    let mut member = world.join("g");
    let (claim, handed) = world.claim(&mut member, 9);
    world.ack(&member, claim, &handed);
    let journal = &member.group().shared.journal.clone();
    let before = journal.next_seq();
    for _ in 0..10 {
        assert_eq!(world.seqs(&mut member, 9), []);
        assert_eq!(member.take_over(world.now).unwrap(), 0);
    }
    assert_eq!(journal.next_seq(), before);
}

#[test]
fn a_part_of_what_expired_that_is_left_over_rings() {
    let mut world = World::new();
    world.publish_count(4);
    let mut one = world.join("g");
    let mut two = world.join("g");
    assert_eq!(world.claim(&mut one, 9).1.len(), 4);
    world.pass(LEASE_US);
    assert!(world.rings(|| assert_eq!(world.seqs(&mut two, 1), [(0, 2)])));
    assert!(!world.rings(|| assert_eq!(world.seqs(&mut two, 1), [(1, 2)])));
}
