//! Entry points for fuzzing the records of groups; see [`crate::fuzz`].

use std::path::PathBuf;
use std::sync::Arc;

use super::op::{Claim, Create, Departure, Fate, Op, Stamp};
use super::runs::SeqRange;
use super::state::GroupState;
use super::wire::Input;
use super::*;
use crate::storage::{MemStorage, Storage};
use crate::{Log, Options};

const NAME: &str = "group";

fn now() -> Now {
    Now { wall_us: 1_000, boot_us: 1_000, boot_id: 5 }
}

/// A transaction on a state that a transaction made.
pub(crate) fn ops(data: &[u8]) {
    let mut state = GroupState::default();
    for op in first_ops() {
        state.apply(Stamp::default(), &op).expect("these ops fit");
    }
    apply_all(&mut state, data);
}

fn apply_all(state: &mut GroupState, data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(stamp) = Stamp::decode(&mut input) else { return };
    while !input.is_empty() {
        let Ok(op) = Op::decode(&mut input) else { return };
        let mut bytes = Vec::new();
        op.encode(&mut bytes);
        assert_eq!(Op::decode(&mut Input::new(&bytes)), Ok(op.clone()), "it survives its bytes");
        if state.apply(stamp, &op).is_err() {
            return;
        }
        state.stamped(stamp);
        assert!(state.floor() <= state.cursor || state.runs.len() == 0);
    }
    round_trip(state);
}

/// What a state says of itself can be read again, and says the same.
fn round_trip(state: &GroupState) {
    let mut bytes = Vec::new();
    state.encode_snapshot(&mut bytes);
    let again = GroupState::decode_snapshot(&bytes).expect("a snapshot of our own is read");
    let mut twice = Vec::new();
    again.encode_snapshot(&mut twice);
    assert_eq!(bytes, twice);
}

fn first_ops() -> Vec<Op> {
    let member = 77;
    let create = Create {
        name: NAME.to_owned(),
        config: b"config".to_vec(),
        start: 0,
        lifetime: Lifetime::Durable,
    };
    let fresh = vec![SeqRange { first: 0, last: 3 }, SeqRange { first: 7, last: 9 }];
    vec![
        Op::Create(create),
        Op::Boot { boot_id: 5 },
        Op::Join { member },
        Op::Claim(Claim { member, until_us: 500, to: 10, fresh, ..Claim::default() }),
    ]
}

pub(crate) fn ops_seeds() -> Vec<Vec<u8>> {
    let range = |first, last| vec![SeqRange { first, last }];
    let (again, ordered) = (range(2, 2), vec![(12, 9), (13, 9)]);
    let settle = |fate, seqs| Op::Settle { claim: 0, fate, seqs };
    let ops = vec![
        settle(Fate::Ack, range(0, 1)),
        settle(Fate::Park { due_us: 900 }, range(7, 8)),
        settle(Fate::Release { counted: true }, range(2, 2)),
        settle(Fate::Renew { until_us: 800 }, range(3, 3)),
        Op::Claim(Claim { member: 77, until_us: 600, to: 20, again, ordered, ..Claim::default() }),
        Op::Advance,
        Op::Vanish { seqs: range(2, 2) },
        Op::Depart { member: 77, why: Departure::Died },
        Op::Configure { config: b"other".to_vec() },
        Op::Cut { to: 8 },
        Op::Reset { to: 4 },
        Op::Delete,
    ];
    let stamped = |ops: &[Op]| {
        let mut bytes = Vec::new();
        Stamp { boot_us: 700, wall_us: 3 }.encode(&mut bytes);
        ops.iter().for_each(|op| op.encode(&mut bytes));
        bytes
    };
    let mut seeds: Vec<_> = ops.iter().map(|op| stamped(std::slice::from_ref(op))).collect();
    seeds.push(stamped(&ops));
    seeds
}

/// A snapshot, and a transaction after it.
pub(crate) fn snapshot(data: &[u8]) {
    if let Ok(state) = GroupState::decode_snapshot(data) {
        round_trip(&state);
        for ops in ops_seeds() {
            let mut state = GroupState::decode_snapshot(data).expect("it was read before");
            apply_all(&mut state, &ops);
        }
    }
}

pub(crate) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut state = GroupState::default();
    let mut seeds = Vec::new();
    for op in first_ops() {
        state.apply(Stamp::default(), &op).expect("these ops fit");
        let mut bytes = Vec::new();
        state.encode_snapshot(&mut bytes);
        seeds.push(bytes);
    }
    seeds
}

/// Arbitrary records in a group's own log, behind right checksums.
pub(crate) fn journal(data: &[u8]) {
    let storage: Arc<dyn Storage> = Arc::new(MemStorage::new());
    let dir = PathBuf::from("/log");
    let log = Log::create(Arc::clone(&storage), &dir, b"", &Options::default(), 0)
        .expect("an empty medium takes a log");
    declare_on(&log);
    let found = names::find(&log, NAME).expect("it is there").expect("it is there");
    let journal = Log::open(storage, &found, &Options::default(), 0).expect("it opens");
    let mut appender = journal.appender();
    let mut rest = data;
    while let [kind, meta_len, len, tail @ ..] = rest {
        let (meta, tail) = tail.split_at(usize::from(*meta_len).min(tail.len()));
        let (value, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        appender.append(0, &[*kind], meta, value).expect("it is short");
        rest = tail;
    }
    use_group(&log);
}

pub(crate) fn journal_seeds() -> Vec<Vec<u8>> {
    let record = |kind: u8, meta: &[u8], value: &[u8]| {
        let len = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        let lens = [kind, len(meta), len(value)];
        [&lens[..], meta, value].concat()
    };
    let mut seeds: Vec<_> = ops_seeds().iter().map(|ops| record(1, b"", ops)).collect();
    seeds.extend(snapshot_seeds().iter().map(|bytes| record(2, &[0, 1], bytes)));
    seeds
}

/// Gives a log a group.
pub(crate) fn declare_on(log: &Log) {
    let spec = GroupSpec { name: NAME, config: b"config", start: 0, lifetime: Lifetime::Durable };
    Group::declare(log, &spec, &GroupOptions::default(), now()).expect("it can be declared");
}

/// Does with the group what members do. Whatever is refused, is refused by an error.
pub(crate) fn use_group(log: &Log) {
    let Ok(group) = Group::open(log, NAME, &GroupOptions::default(), now()) else { return };
    let Ok(mut member) = group.join(now()) else { return };
    let request = ClaimRequest {
        records_max: 5,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: 100,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    };
    let mut seqs = Vec::new();
    let claimed = member.claim(&request, now(), &mut |claimed, _| seqs.push(claimed.seq));
    if let (Ok(outcome), Some(first), Some(last)) = (claimed, seqs.first(), seqs.last()) {
        let seqs = SeqRange { first: *first, last: *last };
        let settle = Settle { claim: outcome.claim, seqs, how: Settlement::Ack };
        let _ = group.settle(&[settle], now(), &mut Vec::new());
    }
    let _ = (group.floor(), group.info(now()), group.config());
    let _ = member.leave(now());
}
