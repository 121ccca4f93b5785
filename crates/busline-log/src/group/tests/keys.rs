//! Groups that name the keys they want.

use crate::group::tests::world::{LEASE_US, World};
use crate::{ClaimRequest, KeySet, Log, Member};

/// Publishes frames of records with 50 keys, and of some with the rare one among them.
fn publish(log: &Log, frames: usize, records: usize, value_len: usize, rare: bool) {
    for _ in 0..frames {
        let mut appender = log.appender();
        for at in 0..records {
            let common = (at % 50).to_string();
            let key = if rare && at % 97 == 5 { "rare" } else { &common };
            appender.push(key.as_bytes(), b"", &vec![b'x'; value_len]).unwrap();
        }
        appender.flush(1).unwrap();
    }
}

/// One claim of a group that wants two keys, by names or by the filter alone: what was handed out, and whether
/// there is more.
fn claim(world: &World, member: &mut Member, by_keys: bool, max: usize) -> (Vec<u64>, bool) {
    let keys = KeySet::new(["rare", "absent"]);
    let request = ClaimRequest {
        records_max: max,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: LEASE_US,
        filter: &|key, _| keys.contains(key),
        keys: by_keys.then_some(&keys),
        order_by: None,
    };
    let (outcome, handed) = world.claim_with(member, &request).unwrap();
    (handed.into_iter().map(|(seq, ..)| seq).collect(), outcome.more)
}

#[test]
fn who_names_the_keys_gets_what_who_filters_gets() {
    let world = World::new();
    // Frames with a filter and without, with the key and without it.
    publish(&world.log, 3, 400, 50, true);
    publish(&world.log, 4, 400, 50, false);
    publish(&world.log, 5, 10, 0, true);
    publish(&world.log, 1, 300, 60, true);
    for max in [1, 7, 1000] {
        let take = |by_keys| {
            let mut member = world.join(&format!("{by_keys}-{max}"));
            let mut handed = Vec::new();
            loop {
                let (seqs, more) = claim(&world, &mut member, by_keys, max);
                handed.extend(seqs);
                if !more {
                    return handed;
                }
            }
        };
        let plain = take(false);
        assert_eq!(plain.len(), 3 * 5 + 5 + 4);
        assert_eq!(take(true), plain);
    }
}

#[test]
fn one_call_goes_over_so_many_records_however_few_it_reads() {
    let world = World::new();
    let mut member = world.join("g");
    publish(&world.log, 1, 400, 50, true);
    publish(&world.log, 100, 1000, 20, false);
    let cursor = |member: &Member| member.group().info(world.now).unwrap().cursor;
    let (handed, more) = claim(&world, &mut member, true, 1000);
    assert_eq!((handed.len(), more), (5, true));
    assert!((65_000..=67_000).contains(&cursor(&member)), "{}", cursor(&member));
    assert_eq!(claim(&world, &mut member, true, 1000), (Vec::new(), false));
    assert_eq!(cursor(&member), world.log.next_seq());
}
