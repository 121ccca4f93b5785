//! Tests of the log as a whole, on real files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::storage::{FaultyStorage, FsStorage, MemStorage};
use crate::{AppendGuard, Batch, SyncMode};

fn tiny() -> Options {
    Options { segment_bytes: 512, ..Options::default() }
}

fn open(dir: &Path, options: &Options) -> Log {
    Log::open_or_create(Arc::new(FsStorage::new()), dir, b"label", options, 1_000).unwrap()
}

fn push(log: &Log, range: std::ops::Range<u64>, now_us: i64) {
    let mut appender = log.appender();
    for i in range {
        appender
            .push(format!("k{}", i % 3).as_bytes(), b"m", format!("value {i}").as_bytes())
            .unwrap();
    }
    appender.flush(now_us).unwrap();
}

fn values(scanner: &mut Scanner) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    while let Some(record) = scanner.next().unwrap() {
        found.push((record.seq, String::from_utf8(record.value.to_vec()).unwrap()));
    }
    found
}

fn expected(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|i| (i, format!("value {i}"))).collect()
}

#[test]
fn what_is_appended_is_read_by_every_handle_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(dir.path(), &tiny()), open(dir.path(), &tiny()));
    for i in 0..100 {
        push(if i % 2 == 0 { &a } else { &b }, i * 3..i * 3 + 3, 1_000 + i as i64);
    }
    assert!(a.stats().unwrap().segments > 10);
    assert_eq!(values(&mut a.scanner()), expected(0..300));
    assert_eq!(values(&mut b.scanner()), expected(0..300));
    a.commit(300).unwrap();
    assert_eq!(b.durable_seq(), 300);
    drop((a, b));
    let c = open(dir.path(), &tiny());
    assert!(c.open_report().clean && c.open_report().trusted);
    assert_eq!(c.label(), b"label");
    assert_eq!(values(&mut c.scanner()), expected(0..300));
    push(&c, 300..310, 0);
    assert_eq!(c.last_time_us(), 1_099, "the clock went back");
    assert_eq!(c.count_between(295, 400).unwrap(), 15);
}

#[test]
fn a_scanner_seeks_by_number_and_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &tiny());
    for i in 0..100 {
        push(&log, i * 3..i * 3 + 3, 10_000 + (i as i64) * 10);
    }
    let mut scanner = log.scanner();
    for seq in (0..300).rev().chain((0..300).step_by(7)) {
        let record = scanner.read(seq).unwrap().unwrap();
        assert_eq!((record.seq, record.value), (seq, format!("value {seq}").as_bytes()));
        assert_eq!(scanner.position(), seq + 1);
    }
    for i in 0..100u64 {
        for (time, want) in [(i * 10, i * 3), (i * 10 + 1, i * 3 + 3)] {
            assert_eq!(scanner.seek_time(10_000 + time as i64).unwrap(), want, "time {time}");
            assert_eq!(scanner.next().unwrap().map(|r| r.seq), (want < 300).then_some(want));
        }
    }
    assert_eq!(scanner.seek(300).unwrap(), 300);
    let beyond = scanner.seek(301).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Beyond { tail: 300 });
    push(&log, 300..301, 0);
    assert_eq!(values(&mut scanner), expected(300..301));
}

#[test]
fn a_predicate_passes_records_over_up_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &tiny());
    push(&log, 0..30, 0);
    let mut scanner = log.scanner();
    let mut found = Vec::new();
    while let Some(record) = scanner.next_where(10, |key, _| key == b"k1").unwrap() {
        found.push(record.seq);
    }
    assert_eq!((found, scanner.position()), (vec![1, 4, 7], 10));
}

#[test]
fn retention_removes_whole_segments_and_tells_readers() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &tiny());
    for i in 0..50 {
        push(&log, i..i + 1, (i as i64) * 1_000_000);
    }
    let mut old = log.scanner();
    old.next().unwrap();
    let keep = RetainPolicy {
        max_age: Some(Duration::from_secs(20)),
        keep_from: Some(12),
        ..RetainPolicy::default()
    };
    let removed = log.retain(&keep, 50_000_000).unwrap();
    assert!(removed.records > 0 && removed.first_seq <= 12, "{removed:?}");
    let removed = log.retain(&RetainPolicy { keep_from: None, ..keep }, 50_000_000).unwrap();
    let first = removed.first_seq;
    assert!((24..=30).contains(&first), "{removed:?}");
    assert_eq!(log.first_seq(), first);
    assert_eq!(values(&mut log.scanner()), expected(first..50));
    let gone = log.scanner().seek(3).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Removed { first });
    let gone = loop {
        match old.next() {
            Ok(record) => assert!(record.is_some()),
            Err(e) => break e,
        }
    };
    assert_eq!(gone.kind(), ErrorKind::Removed { first });
    let bytes = log.stats().unwrap().bytes;
    let half = RetainPolicy { max_bytes: Some(bytes / 2), ..RetainPolicy::default() };
    log.retain(&half, 0).unwrap();
    assert!(log.stats().unwrap().bytes <= bytes / 2);
    let all = RetainPolicy { max_age: Some(Duration::ZERO), ..RetainPolicy::default() };
    log.retain(&all, 100_000_000).unwrap();
    assert_eq!(log.stats().unwrap().records, 0);
    assert_eq!(log.next_seq(), 50);
}

#[test]
fn a_guard_sees_the_exact_tail_and_keeps_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Options::default());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let log = open(dir.path(), &Options::default());
            std::thread::spawn(move || {
                let mut batch = Batch::new(1000);
                for _ in 0..50 {
                    let mut guard: AppendGuard<'_> = log.lock_append().unwrap();
                    let next = guard.next_seq();
                    batch.push(b"", b"", next.to_string().as_bytes()).unwrap();
                    assert_eq!(guard.append(&mut batch, 0).unwrap().first, next);
                }
                log.commit(log.next_seq()).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut scanner = log.scanner();
    for seq in 0..200 {
        assert_eq!(scanner.next().unwrap().unwrap().value, seq.to_string().as_bytes());
    }
    assert_eq!(log.durable_seq(), 200);
}

#[test]
fn the_right_to_append_is_had_at_once_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (log, other) = (open(dir.path(), &tiny()), open(dir.path(), &tiny()));
    let guard = log.lock_append().unwrap();
    assert!(log.try_lock_append().unwrap().is_none(), "the same handle");
    assert!(other.try_lock_append().unwrap().is_none(), "as another process");
    drop(guard);
    assert!(other.try_lock_append().unwrap().is_some());
    assert!(log.try_lock_append().unwrap().is_some());
}

#[test]
fn a_writer_at_work_keeps_nobody_from_opening_and_reading() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &tiny());
    push(&log, 0..3, 0);
    let guard = log.lock_append().unwrap();
    // In this thread: if opening wanted the lock, it would wait for ever.
    let other = open(dir.path(), &tiny());
    assert_eq!(values(&mut other.scanner()), expected(0..3));
    drop(guard);
}

#[test]
fn a_scanner_whose_segment_was_sealed_and_removed_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &tiny());
    push(&log, 0..3, 0);
    let (mut late, mut behind) = (log.scanner(), log.scanner());
    behind.next().unwrap();
    assert_eq!(values(&mut late), expected(0..3));
    log.lock_append().unwrap().roll(0).unwrap();
    log.remove_before(3).unwrap();
    push(&log, 3..90, 0);
    assert_eq!(values(&mut late), expected(3..90), "nothing that it wants was removed");
    for i in 90..120 {
        push(&log, i..i + 1, 0);
    }
    log.remove_before(110).unwrap();
    let first = log.first_seq();
    assert!(first > 90);
    for scanner in [&mut late, &mut behind] {
        let removed = loop {
            match scanner.next() {
                Ok(record) => assert!(record.unwrap().seq < first),
                Err(e) => break e,
            }
        };
        assert_eq!(removed.kind(), ErrorKind::Removed { first });
        assert_eq!(scanner.seek_first().unwrap(), first);
        assert_eq!(values(scanner), expected(first..120));
    }
}

#[test]
fn waiters_are_woken_by_other_handles() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Options::default());
    let mark = log.mark();
    assert!(!log.wait(mark, Some(Duration::from_millis(1))).unwrap());
    let other = open(dir.path(), &Options::default());
    let waiter = std::thread::spawn(move || {
        let mut mark = log.mark();
        let mut scanner = log.scanner();
        let mut seen = 0;
        while seen < 20 {
            while scanner.next().unwrap().is_some() {
                seen += 1;
            }
            if seen < 20 {
                log.wait(mark, Some(Duration::from_secs(20))).unwrap();
            }
            mark = log.mark();
        }
        let mark = log.mark();
        log.ring();
        assert!(log.wait(mark, None).unwrap());
        seen
    });
    for i in 0..20 {
        push(&other, i..i + 1, 0);
    }
    assert_eq!(waiter.join().unwrap(), 20);
}

#[test]
fn a_doorbell_rings_when_it_is_armed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Options::default());
    let other = open(dir.path(), &Options::default());
    let bell = log.doorbell().unwrap();
    push(&other, 0..1, 0);
    assert!(!bell.wait(Some(Duration::ZERO)).unwrap(), "not armed");
    let mark = log.mark();
    assert!(bell.arm(mark).unwrap());
    push(&other, 1..2, 0);
    assert!(bell.wait(Some(Duration::from_secs(20))).unwrap());
    assert!(bell.drain().unwrap());
    assert!(!bell.arm(mark).unwrap(), "changed since the mark");
    assert!(bell.arm(log.mark()).unwrap());
    other.ring();
    assert!(bell.wait(Some(Duration::from_secs(20))).unwrap());
    // Another bell in the slot of one that was rung before.
    drop(bell);
    let bell = log.doorbell().unwrap();
    assert!(bell.arm(log.mark()).unwrap());
    push(&other, 2..3, 0);
    assert!(bell.wait(Some(Duration::from_secs(20))).unwrap());
}

#[test]
fn every_armed_doorbell_is_rung_and_those_of_the_dead_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), &Options::default());
    let other = open(dir.path(), &Options::default());
    let bells: Vec<_> = (0..256).map(|_| log.doorbell().unwrap()).collect();
    assert_eq!(log.doorbell().unwrap_err().kind(), ErrorKind::Limit);
    for round in 0..3 {
        for bell in &bells {
            assert!(bell.arm(log.mark()).unwrap());
        }
        push(&other, round..round + 1, 0);
        for bell in &bells {
            assert!(bell.wait(Some(Duration::from_secs(20))).unwrap() && bell.drain().unwrap());
        }
    }
    // As if their processes had been killed: the slots stay taken, nobody reads the pipes.
    for file in std::fs::read_dir(dir.path().join("bells")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    log.doorbell().unwrap();
}

#[test]
fn bad_places_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let open = |path: &Path| Log::open(Arc::clone(&storage), path, &tiny(), 0).unwrap_err().kind();
    assert_eq!(open(&dir.path().join("none")), ErrorKind::NotFound);
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "text").unwrap();
    assert_eq!(open(&foreign), ErrorKind::Foreign);
    let made = Log::create(Arc::clone(&storage), &foreign, b"", &tiny(), 0);
    assert_eq!(made.unwrap_err().kind(), ErrorKind::Foreign);
    assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1, "nothing is left behind");
    let log = dir.path().join("a/b/log");
    drop(Log::create(Arc::clone(&storage), &log, b"", &tiny(), 0).unwrap());
    let again = Log::create(Arc::clone(&storage), &log, b"", &tiny(), 0);
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    let mut format = std::fs::read(log.join(FORMAT)).unwrap();
    format[8] = 2;
    let body = format.len() - 4;
    let crc = crc32fast::hash(&format[..body]);
    format[body..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(log.join(FORMAT), format).unwrap();
    assert_eq!(open(&log), ErrorKind::Newer);
}

#[test]
fn a_log_in_use_cannot_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = open(&path, &tiny());
    let busy = Log::delete(&FsStorage::new(), &path).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    drop(log);
    Log::delete(&FsStorage::new(), &path).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_handle_that_outlives_its_directory_makes_nothing_there() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let (idle, busy) = (open(&dir, &tiny()), open(&dir, &tiny()));
    push(&busy, 0..1, 1);
    busy.commit(1).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    drop(busy);
    assert_eq!(idle.appender().append(1, b"", b"", b"").unwrap_err().kind(), ErrorKind::NotFound);
    drop(idle);
    assert!(!dir.exists());
}

fn file_len(dir: &Path, base: u64) -> u64 {
    std::fs::metadata(crate::segment::path(dir, base)).unwrap().len()
}

fn is_zero_behind(log: &Log) -> bool {
    let tail = log.inner.control.tail();
    let bytes = std::fs::read(crate::segment::path(log.dir(), tail.active_base)).unwrap();
    bytes[usize::try_from(tail.pos).unwrap()..].iter().all(|&byte| byte == 0)
}

/// Frames that are made durable go into zeros that are there already; nobody counts those.
#[test]
fn a_file_grows_ahead_of_small_durable_frames_and_is_cut_when_it_is_done() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let log = open(&dir, &Options { segment_bytes: 1 << 20, ..Options::default() });
    let mut lengths = Vec::new();
    for i in 0..3000 {
        push(&log, i..i + 1, 1);
        lengths.push(file_len(&dir, 0));
        let tail = log.inner.control.tail().pos;
        assert!(tail <= file_len(&dir, 0), "{i}");
        assert_eq!(log.stats().unwrap().bytes, tail);
    }
    assert!(is_zero_behind(&log));
    lengths.dedup();
    assert_eq!(lengths.first(), Some(&(log_start() + (16 << 10))));
    assert!((4..10).contains(&lengths.len()), "{lengths:?}");
    assert_eq!(values(&mut log.scanner()), expected(0..3000));
    assert!(crate::verify(&FsStorage::new(), &dir).unwrap().is_sound());
    // Another handle goes on in the same zeros.
    let other = open(&dir, &Options { segment_bytes: 1 << 20, ..Options::default() });
    let before = file_len(&dir, 0);
    push(&other, 3000..3001, 1);
    assert_eq!(file_len(&dir, 0), before);
    let end = log.inner.control.tail().pos;
    log.lock_append().unwrap().roll(2).unwrap();
    assert_eq!(file_len(&dir, 0), end, "a sealed segment ends with its last frame");
    push(&log, 3001..3002, 3);
    log.commit(3002).unwrap();
    drop((log, other));
    let len = file_len(&dir, 3001);
    let log = open(&dir, &Options::default());
    assert_eq!(len, log.inner.control.tail().pos, "so does what is closed");
    assert_eq!(values(&mut log.scanner()), expected(0..3002));
}

/// Where the first frame of these tests ends.
fn log_start() -> u64 {
    let root = tempfile::tempdir().unwrap();
    let log = open(&root.path().join("log"), &Options { sync: SyncMode::Os, ..tiny() });
    push(&log, 0..1, 1);
    log.inner.control.tail().pos
}

#[test]
fn what_is_large_grows_the_file_itself() {
    let root = tempfile::tempdir().unwrap();
    for sync in [SyncMode::Os, SyncMode::Always] {
        let dir = root.path().join(format!("{sync:?}"));
        let log = open(&dir, &Options { sync, ..Options::default() });
        log.appender().append(1, b"", b"", &vec![7; 20 << 10]).unwrap();
        assert_eq!(file_len(&dir, 0), log.inner.control.tail().pos, "{sync:?}");
    }
}

/// Frames of two handles in turns, stored into room that both mapped; large ones and rolls in between.
#[test]
fn what_is_stored_by_several_handles_is_read_and_recovered_as_what_is_written() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let options = Options { sync: SyncMode::Os, segment_bytes: 100 << 10, ..Options::default() };
    let (one, other) = (open(&dir, &options), open(&dir, &options));
    let mut lens = Vec::new();
    for number in 0..3000_usize {
        let len = if number % 200 == 150 { 20 << 10 } else { number % 100 };
        let log = if number % 3 == 0 { &other } else { &one };
        log.appender().append(1, b"key", b"", &vec![7; len]).unwrap();
        lens.push(len);
    }
    assert!(is_zero_behind(&one) && one.inner.control.reserved() > one.inner.control.tail().pos);
    let read = |log: &Log| {
        let mut scanner = log.scanner();
        std::iter::from_fn(|| scanner.next().unwrap().map(|record| record.value.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(read(&one), lens);
    one.abandon();
    other.abandon();
    drop((one, other));
    std::fs::remove_file(dir.join(crate::files::CONTROL)).unwrap();
    let log = open(&dir, &options);
    assert_eq!(read(&log), lens, "recovered from the segments");
    assert!(crate::verify(&FsStorage::new(), &dir).unwrap().is_sound());
}

/// To store into a file behind its end would end the process.
#[test]
fn nobody_stores_into_what_another_handle_cut() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let options = Options { sync: SyncMode::Os, ..Options::default() };
    let (one, other) = (open(&dir, &options), open(&dir, &options));
    for number in 0..10 {
        push(&one, number..number + 1, 1);
    }
    let tail = one.inner.control.tail().pos;
    assert!(one.inner.control.reserved() > tail + 4096 && file_len(&dir, 0) > tail + 4096);
    // As after the death of one who was appending.
    one.inner.control.begin_append(tail + 100);
    other.lock_append().unwrap();
    assert_eq!((file_len(&dir, 0), one.inner.control.reserved()), (tail, 0));
    push(&one, 10..11, 1);
    assert_eq!(values(&mut other.scanner()), expected(0..11));
    push(&other, 11..12, 1);
    push(&one, 12..13, 1);
    assert_eq!(values(&mut one.scanner()), expected(0..13));
}

/// Zeros are a help: where there is no room for them, or no more, records still are written.
#[test]
fn no_room_for_zeros_is_no_error_and_they_keep_no_room() {
    let medium = MemStorage::new();
    let faulty = FaultyStorage::new(Arc::new(medium.clone()));
    let dir = Path::new("/log");
    let log =
        Log::open_or_create(Arc::new(faulty.clone()), dir, b"", &Options::default(), 0).unwrap();
    faulty.plan().set_space(Some(9000));
    let mut written: u64 = 0;
    let error = loop {
        match log.appender().append(1, b"", b"", &[7; 40]) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full);
    // A frame takes about 100 bytes: all the room was used, by frames alone.
    assert!((80..=101).contains(&written), "{written}");
    assert!(faulty.plan().space().unwrap() < 100);
    faulty.plan().set_space(None);
    log.appender().append(1, b"", b"", &[7; 40]).unwrap();
    log.commit(written + 1).unwrap();
    assert!(crate::verify(&medium, dir).unwrap().is_sound());
    medium.crash(&mut |_| 0);
    let log = Log::open(Arc::new(medium), dir, &Options::default(), 0).unwrap();
    let mut scanner = log.scanner();
    let read = std::iter::from_fn(|| scanner.next().unwrap().map(|record| record.seq));
    assert!(read.eq(0..=written), "all of it is there after a loss of power");
}
