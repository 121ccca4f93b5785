//! Bytes that are no group records: refused, without a panic and without believing a length.

use proptest::prelude::*;

use crate::group::op::{Claim, Create, Departure, Fate, Lifetime, Op, Stamp};
use crate::group::runs::SeqRange;
use crate::group::state::GroupState;
use crate::group::wire::{Input, put_u64};

fn ranges() -> impl Strategy<Value = Vec<SeqRange>> {
    prop::collection::vec((1..u64::MAX >> 8, 0..9_u64), 0..5).prop_map(|steps| {
        let mut at = 0_u64;
        let mut out = Vec::new();
        for (step, len) in steps {
            out.push(SeqRange { first: at + step, last: at + step + len });
            at += step + len;
        }
        out
    })
}

fn op() -> impl Strategy<Value = Op> {
    let lifetime = prop_oneof![
        Just(Lifetime::Durable),
        Just(Lifetime::Ephemeral),
        any::<u64>().prop_map(|us| Lifetime::Idle { us }),
    ];
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let fate = prop_oneof![
        Just(Fate::Ack),
        Just(Fate::Reject),
        any::<u64>().prop_map(|due_us| Fate::Park { due_us }),
        any::<bool>().prop_map(|counted| Fate::Release { counted }),
        any::<u64>().prop_map(|until_us| Fate::Renew { until_us }),
    ];
    prop_oneof![
        (".{0,9}", bytes(), any::<u64>(), lifetime).prop_map(|(name, config, start, lifetime)| {
            Op::Create(Create { name, config, start, lifetime })
        }),
        bytes().prop_map(|config| Op::Configure { config }),
        Just(Op::Delete),
        any::<u64>().prop_map(|member| Op::Join { member }),
        any::<u64>().prop_map(|member| Op::Depart { member, why: Departure::Died }),
        any::<u128>().prop_map(|boot_id| Op::Boot { boot_id }),
        Just(Op::Advance),
        (any::<u64>(), any::<u64>(), any::<u64>(), ranges(), ranges()).prop_map(
            |(member, until_us, to, fresh, again)| {
                let ordered = again.iter().map(|range| (range.first, range.last | 1)).collect();
                Op::Claim(Claim { member, until_us, to, fresh, ordered, again })
            }
        ),
        (any::<u64>(), fate, ranges()).prop_map(|(claim, fate, seqs)| Op::Settle {
            claim,
            fate,
            seqs
        }),
        ranges().prop_map(|seqs| Op::Vanish { seqs }),
        any::<u64>().prop_map(|to| Op::Reset { to }),
        any::<u64>().prop_map(|to| Op::Cut { to }),
    ]
}

/// Applies whatever the bytes say, as opening a group does.
fn feed(bytes: &[u8]) {
    let mut state = GroupState::default();
    let mut input = Input::new(bytes);
    let Ok(stamp) = Stamp::decode(&mut input) else { return };
    while !input.is_empty() {
        let Ok(op) = Op::decode(&mut input) else { return };
        if state.apply(stamp, &op).is_err() {
            return;
        }
        state.stamped(stamp);
    }
}

proptest! {
    #[test]
    fn operations_survive_and_every_cut_is_refused(op in op()) {
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        let mut input = Input::new(&bytes);
        prop_assert_eq!(Op::decode(&mut input), Ok(op));
        prop_assert!(input.end().is_ok());
        for len in 0..bytes.len() {
            prop_assert!(Op::decode(&mut Input::new(&bytes[..len])).is_err());
        }
    }

    #[test]
    fn operations_that_fit_no_state_are_refused_quietly(ops in prop::collection::vec(op(), 1..30)) {
        let mut bytes = Vec::new();
        Stamp { boot_us: 5, wall_us: -7 }.encode(&mut bytes);
        Op::Create(Create {
            name: String::new(),
            config: Vec::new(),
            start: 0,
            lifetime: Lifetime::Durable,
        })
        .encode(&mut bytes);
        Op::Join { member: 1 }.encode(&mut bytes);
        for op in &ops {
            op.encode(&mut bytes);
        }
        feed(&bytes);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        feed(&bytes);
        let _ = GroupState::decode_snapshot(&bytes);
    }

    #[test]
    fn a_flipped_snapshot_never_panics(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = sample_snapshot();
        *at.get_mut(&mut bytes) ^= 1 << bit;
        if let Ok(mut state) = GroupState::decode_snapshot(&bytes) {
            let stamp = Stamp { boot_us: u64::MAX, wall_us: i64::MIN };
            let _ = state.apply(stamp, &Op::Advance);
            let _ = state.apply(stamp, &Op::Boot { boot_id: 1 });
            let _ = state.apply(stamp, &Op::Cut { to: 3 });
        }
    }
}

fn sample_snapshot() -> Vec<u8> {
    let mut state = GroupState::default();
    let create = Create {
        name: "orders".to_owned(),
        config: b"patterns".to_vec(),
        start: 3,
        lifetime: Lifetime::Idle { us: 5 },
    };
    let claim = Claim {
        member: 4,
        until_us: 90,
        to: 60,
        fresh: vec![SeqRange::new(4, 9), SeqRange::new(20, 40)],
        ordered: vec![(12, 77), (13, 77), (50, 78)],
        again: Vec::new(),
    };
    let park =
        Op::Settle { claim: 0, fate: Fate::Park { due_us: 30 }, seqs: vec![SeqRange::new(5, 7)] };
    let stamp = Stamp { boot_us: 20, wall_us: 1_000_000 };
    for op in [Op::Create(create), Op::Join { member: 4 }, Op::Claim(claim), park] {
        state.apply(stamp, &op).unwrap();
        state.stamped(stamp);
    }
    let mut bytes = Vec::new();
    state.encode_snapshot(&mut bytes);
    assert_eq!(GroupState::decode_snapshot(&bytes).unwrap(), state);
    bytes
}

#[test]
fn a_snapshot_cut_anywhere_is_refused() {
    let bytes = sample_snapshot();
    for len in 0..bytes.len() {
        assert!(GroupState::decode_snapshot(&bytes[..len]).is_err(), "{len} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(GroupState::decode_snapshot(&longer).is_err());
}

#[test]
fn claimed_counts_are_held_against_the_bytes() {
    let mut bytes = vec![10]; // ranges vanish
    put_u64(&mut bytes, 1 << 60);
    bytes.extend_from_slice(&[1; 100]);
    assert!(Op::decode(&mut Input::new(&bytes)).is_err());
    assert!(Op::decode(&mut Input::new(&[99])).is_err(), "an unknown operation");
}
