//! Looking for keys: what the filters of frames pass over is never what was looked for.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use busline_log::storage::{MemStorage, OpenMode, Storage};
use busline_log::{ErrorKind, KeySet, Log, Options, RetainPolicy, Scanner, SegmentState, verify};
use proptest::prelude::*;

use crate::rng::Rng;
use crate::support::*;

/// Bytes of a segment's header, and of a frame's.
const SEGMENT_HEADER: u64 = 72;
const FRAME_HEADER: u64 = 48;

fn open(storage: &MemStorage) -> Log {
    let options = Options { segment_bytes: 300 << 10, ..Options::default() };
    Log::open_or_create(Arc::new(storage.clone()), Path::new(DIR), b"", &options, 1).unwrap()
}

/// One frame: its records' keys are drawn from so many, of one length or several.
#[derive(Debug, Clone)]
struct Shape {
    keys: u64,
    records: u64,
    value_len: usize,
    seed: u64,
}

fn shape() -> impl Strategy<Value = Shape> {
    let keys = prop_oneof![1..4u64, 10..200u64, Just(u64::MAX)];
    (keys, prop_oneof![1..4u64, 100..700u64], 0..300usize, any::<u64>())
        .prop_map(|(keys, records, value_len, seed)| Shape { keys, records, value_len, seed })
}

/// A key by its number: of many lengths, and none at all.
fn key(number: u64) -> Vec<u8> {
    match number % 7 {
        0 if number == 0 => Vec::new(),
        0 => format!("{number}").into_bytes(),
        1 => vec![0; usize::try_from(number % 300).unwrap()],
        _ => format!("category.{number:07}").into_bytes(),
    }
}

fn append(log: &Log, shape: &Shape) {
    let mut rng = Rng(shape.seed);
    let mut appender = log.appender();
    let value = vec![7; shape.value_len];
    for _ in 0..shape.records {
        appender.push(&key(rng.below(shape.keys)), b"", &value).unwrap();
    }
    appender.flush(1).unwrap();
}

/// What a scanner finds of some keys below an end, and where it stands then.
fn found(scanner: &mut Scanner, keys: &KeySet, end: u64, filtered: bool) -> (Vec<u64>, u64) {
    let mut seqs = Vec::new();
    loop {
        let record = match filtered {
            true => scanner.next_of(keys, end),
            false => scanner.next_where(end, |key, _| keys.contains(key)),
        };
        let Some(record) = record.unwrap() else { break };
        assert!(keys.contains(record.key));
        seqs.push(record.seq);
    }
    (seqs, scanner.position())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 500, ..ProptestConfig::default() })]

    /// Frames with and without filters, in several segments, before and after reopening, from any record on and
    /// up to any end.
    #[test]
    fn what_is_looked_for_by_filter_is_what_is_there(
        shapes in proptest::collection::vec(shape(), 1..16),
        wanted in proptest::collection::vec(0..250u64, 0..5),
        looks in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..5),
    ) {
        let storage = MemStorage::new();
        let mut log = open(&storage);
        let mut follower = log.scanner();
        let keys = KeySet::new(wanted.iter().map(|number| key(*number)));
        let mut followed = Vec::new();
        for (at, shape) in shapes.iter().enumerate() {
            append(&log, shape);
            if at % 3 == 0 {
                followed.extend(found(&mut follower, &keys, u64::MAX, true).0);
            }
        }
        followed.extend(found(&mut follower, &keys, u64::MAX, true).0);
        let all = found(&mut log.scanner(), &keys, u64::MAX, false);
        prop_assert_eq!(&followed, &all.0);
        for (from, end) in looks {
            let tail = log.next_seq();
            let (from, end) = (from % (tail + 1), end % (tail + 2));
            let (mut plain, mut filtered) = (log.scanner(), log.scanner());
            plain.seek(from).unwrap();
            filtered.seek(from).unwrap();
            let expected = found(&mut plain, &keys, end, false);
            prop_assert_eq!(found(&mut filtered, &keys, end, true), expected);
            // Whatever was passed over, reading on goes on there.
            let next = |scanner: &mut Scanner| scanner.next().unwrap().map(|record| record.seq);
            prop_assert_eq!(next(&mut filtered), next(&mut plain));
            drop((plain, filtered));
            log.close().unwrap();
            log = open(&storage);
        }
        let report = verify(&storage, Path::new(DIR)).unwrap();
        prop_assert!(report.is_sound(), "{:?}", report);
    }
}

/// Three frames of 400 records, each with keys of its own, and where each begins; the keys are `f.k`.
fn three_frames(storage: &MemStorage) -> (Log, Vec<u64>) {
    let log = open(storage);
    let mut places = vec![SEGMENT_HEADER];
    for frame in 0..3 {
        let mut appender = log.appender();
        for number in 0..400 {
            appender.push(format!("{frame}.{}", number % 40).as_bytes(), b"", &[1; 60]).unwrap();
        }
        appender.flush(1).unwrap();
        places.push(log.lock_append().unwrap().segment_len());
    }
    log.sync().unwrap();
    (log, places)
}

/// The bytes of the filter, its checksum included, of the frame at a place.
fn filter_range(storage: &MemStorage, at: u64) -> std::ops::Range<u64> {
    let file = storage.open(&segments(storage)[0], OpenMode::Read).unwrap();
    let mut blocks = [0; 2];
    assert_eq!(file.read_at(&mut blocks, at + 46).unwrap(), 2);
    let blocks = u64::from(u16::from_le_bytes(blocks));
    assert!(blocks > 0, "a frame of this size has a filter");
    let start = at + FRAME_HEADER;
    start..start + 4 + 16 * blocks
}

#[test]
fn a_damaged_filter_is_told_and_hides_nothing() {
    let storage = MemStorage::new();
    let (log, places) = three_frames(&storage);
    let path = segments(&storage)[0].clone();
    for at in filter_range(&storage, places[1]) {
        flip(&storage, &path, at);
        for (key, before) in [("1.7", 0), ("2.7", 0), ("0.7", 10)] {
            let keys = KeySet::new([key]);
            let mut scanner = log.scanner();
            for _ in 0..before {
                assert!(scanner.next_of(&keys, u64::MAX).unwrap().is_some());
            }
            // Also for a key that the frame does not have: a filter that is wrong says nothing.
            let told = scanner.next_of(&keys, u64::MAX).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::Damaged, "byte {at}");
            assert_eq!(told.damage().unwrap().offset_start, places[1]);
            assert!(told.to_string().contains("filter"), "{told}");
            assert_eq!(scanner.next_of(&keys, u64::MAX).unwrap_err().kind(), ErrorKind::Damaged);
            assert_eq!(scanner.skip_damage().unwrap(), 800);
            let behind = found(&mut scanner, &keys, u64::MAX, true);
            assert_eq!(behind.0.len(), if key == "2.7" { 10 } else { 0 });
        }
        let plain = log.scanner().seek(500).unwrap_err();
        assert_eq!(plain.kind(), ErrorKind::Damaged);
        let report = verify(&storage, Path::new(DIR)).unwrap();
        assert_eq!(report.damage().count(), 1, "byte {at}: {report:?}");
        flip(&storage, &path, at);
    }
    assert_eq!(log.scanner().seek(500).unwrap(), 500);
}

#[test]
fn a_frame_without_the_key_is_left_unread_and_verify_reads_it_all_the_same() {
    let storage = MemStorage::new();
    let (log, places) = three_frames(&storage);
    // In the body of the middle frame.
    flip(&storage, &segments(&storage)[0], places[2] - 100);
    let sought = |key: &str| found(&mut log.scanner(), &KeySet::new([key]), u64::MAX, true);
    assert_eq!(sought("2.39").0.len(), 10);
    assert_eq!(sought("0.0"), ((0..10).map(|n| n * 40).collect(), 1200));
    let mut scanner = log.scanner();
    let told = scanner.next_of(&KeySet::new(["1.1"]), u64::MAX).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Damaged);
    // The same scanner may be asked for what lies elsewhere; the damage is then behind it.
    let keys = KeySet::new(["2.1"]);
    assert_eq!(scanner.next_of(&keys, u64::MAX).unwrap().unwrap().seq, 801);
    assert_eq!(scanner.skip_damage().unwrap(), 802);
    let report = verify(&storage, Path::new(DIR)).unwrap();
    assert!(matches!(report.segments[0].state, SegmentState::Damaged(_)), "{report:?}");
}

#[test]
fn retention_is_told_to_who_looks_for_keys() {
    let storage = MemStorage::new();
    let log = open(&storage);
    let shape = Shape { keys: 30, records: 600, value_len: 200, seed: 3 };
    (0..10).for_each(|_| append(&log, &shape));
    let keys = KeySet::new([key(1), key(9999)]);
    let mut scanner = log.scanner();
    assert!(scanner.next_of(&keys, 10_000).unwrap().is_some());
    let policy = RetainPolicy { max_bytes: Some(300 << 10), ..RetainPolicy::default() };
    log.retain(&policy, 2).unwrap();
    let first = log.first_seq();
    assert!(first > 1200, "segments were removed");
    let mut fresh = log.scanner();
    let expected = found(&mut log.scanner(), &keys, u64::MAX, false);
    assert_eq!(found(&mut fresh, &keys, u64::MAX, true), expected);
    // The open segment is read to its end, then the gap is told.
    let told = loop {
        match scanner.next_of(&keys, u64::MAX) {
            Ok(record) => assert!(record.is_some_and(|record| record.seq < first)),
            Err(error) => break error,
        }
    };
    assert_eq!(told.kind(), ErrorKind::Removed { first });
}

#[test]
fn what_a_repair_moves_keeps_its_filters() {
    let storage = MemStorage::new();
    let (log, places) = three_frames(&storage);
    flip(&storage, &segments(&storage)[0], places[1] - 100);
    log.close().unwrap();
    drop(log);
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let report = busline_log::repair(&shared, Path::new(DIR), true, 9).unwrap();
    assert_eq!(report.dropped.len(), 1);
    assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
    let log = open(&storage);
    for frame in 1..3u64 {
        let keys = KeySet::new([format!("{frame}.5")]);
        let seqs: BTreeSet<_> =
            found(&mut log.scanner(), &keys, u64::MAX, true).0.into_iter().collect();
        assert_eq!(seqs, (0..10).map(|n| frame * 400 + n * 40 + 5).collect());
    }
}
