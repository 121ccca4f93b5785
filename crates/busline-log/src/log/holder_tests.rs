//! A holder of the append lock dies between two stores into the control page: what the next one finds.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::Batch;
use crate::control::Tail;
use crate::segment::{self, FRAMES_START, SegmentHeader};
use crate::storage::{MemStorage, OpenMode};

const DIR: &str = "/log";

fn open(storage: &MemStorage) -> Log {
    let options = Options { segment_bytes: 400, ..Options::default() };
    Log::open_or_create(Arc::new(storage.clone()), Path::new(DIR), b"", &options, 0).unwrap()
}

fn append(log: &Log, value: &[u8]) {
    log.appender().append(7, b"", b"", value).unwrap();
}

fn values(log: &Log) -> Vec<Vec<u8>> {
    let mut scanner = log.scanner();
    let mut found = Vec::new();
    while let Some(record) = scanner.next().unwrap() {
        found.push(record.value.to_vec());
    }
    found
}

/// A log with two records; one process stops after `die` did part of its work, another goes on.
fn check(die: impl Fn(&Log), expected: &[&[u8]]) {
    let medium = MemStorage::new();
    let other = open(&medium.process());
    append(&other, b"one");
    append(&other, b"two");
    let victim = medium.process();
    let log = open(&victim);
    die(&log);
    victim.kill();
    drop(log);
    let mut follower = other.scanner();
    append(&other, b"next");
    let mut expected: Vec<&[u8]> = expected.to_vec();
    expected.push(b"next");
    (0..20).for_each(|_| append(&other, b"more"));
    expected.extend(std::iter::repeat_n(&b"more"[..], 20));
    assert_eq!(values(&other), expected);
    let mut followed = 0;
    while follower.next().unwrap().is_some() {
        followed += 1;
    }
    assert_eq!(followed, expected.len());
    assert_eq!(values(&open(&medium.process())), expected);
    let report = crate::verify(&medium.process(), Path::new(DIR)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    other.sync().unwrap();
    medium.crash(&mut |_| 0);
    assert_eq!(values(&open(&medium)), expected, "also in the next boot");
}

/// Writes a frame at the tail, as far as `bytes`; returns the tail after it.
fn write(log: &Log, value: &[u8], bytes: usize) -> Tail {
    let tail = log.inner.control.tail();
    let table = log.inner.table().unwrap();
    let info = table.get(tail.active_base).unwrap();
    let mut batch = Batch::new(1000);
    batch.push(b"", b"", value).unwrap();
    let frame = batch.encode(tail.seq, 0, 9, info.header.salt);
    let pos = tail.pos + frame.len() as u64;
    log.inner.control.begin_append(pos);
    let file = log.inner.storage.open(&info.path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&frame[..bytes.min(frame.len())], tail.pos).unwrap();
    Tail { seq: tail.seq + 1, pos, ..tail }
}

#[test]
fn between_announcing_and_writing() {
    for bytes in [0, 1, 30, 48, 50] {
        check(
            |log| {
                write(log, b"lost", bytes);
            },
            &[b"one", b"two"],
        );
    }
}

#[test]
fn between_writing_and_storing_the_tail() {
    check(
        |log| {
            write(log, b"never visible", usize::MAX);
        },
        &[b"one", b"two"],
    );
}

#[test]
fn between_storing_the_tail_and_its_position() {
    // Readers may have seen the record, so it stays.
    check(
        |log| {
            let control = &log.inner.control;
            let before = control.tail();
            let after = write(log, b"three", usize::MAX);
            let dirty = control.dirty_until();
            control.end_append(after.seq, after.pos, 9);
            control.end_append(after.seq, before.pos, 9);
            assert_eq!(control.dirty_until(), dirty);
        },
        &[b"one", b"two", b"three"],
    );
}

fn make_next(log: &Log) {
    let tail = log.inner.control.tail();
    let header = SegmentHeader {
        salt: 5,
        log_id: log.id(),
        base_seq: tail.seq,
        prev_end: tail.seq,
        created_us: 0,
        prev_time_us: 7,
        synced_seq: 0,
    };
    segment::create(log.inner.storage.as_ref(), log.dir(), &header).unwrap();
}

#[test]
fn while_beginning_a_segment() {
    let expected: &[&[u8]] = &[b"one", b"two"];
    check(|log| log.inner.control.begin_change(), expected);
    check(
        |log| {
            log.inner.control.begin_change();
            let tmp = log.dir().join(format!("{}.tmp", segment::name(2)));
            log.inner.storage.open(&tmp, OpenMode::CreateNew).unwrap();
        },
        expected,
    );
    check(
        |log| {
            log.sync().unwrap();
            log.inner.control.begin_change();
            make_next(log);
        },
        expected,
    );
    check(
        |log| {
            log.sync().unwrap();
            log.inner.control.begin_change();
            make_next(log);
            let tail = log.inner.control.tail();
            // All words but the position of the tail.
            log.inner.control.set_tail(Tail { active_base: tail.seq, ..tail });
        },
        expected,
    );
    check(
        |log| {
            log.sync().unwrap();
            log.inner.control.begin_change();
            make_next(log);
            let tail = log.inner.control.tail();
            log.inner.control.set_tail(Tail { active_base: tail.seq, pos: FRAMES_START, ..tail });
        },
        expected,
    );
}

#[test]
fn while_removing_segments() {
    let medium = MemStorage::new();
    let other = open(&medium.process());
    for i in 0..30u8 {
        append(&other, &[i]);
    }
    let victim = medium.process();
    let log = open(&victim);
    let bases: Vec<u64> = log.inner.table().unwrap().segments.iter().map(|s| s.base()).collect();
    log.inner.control.begin_change();
    log.inner.control.set_first_seq(bases[3]);
    victim.remove(&segment::path(log.dir(), bases[0])).unwrap();
    victim.kill();
    assert_eq!(other.scanner().seek(0).unwrap_err().kind(), ErrorKind::Removed { first: bases[3] });
    append(&other, &[30]);
    assert_eq!(other.first_seq(), bases[1], "what was not removed is there again");
    let expected: Vec<Vec<u8>> = (bases[1] as u8..=30).map(|i| vec![i]).collect();
    assert_eq!(values(&other), expected);
}

#[test]
fn a_forked_child_is_refused() {
    let medium = MemStorage::new();
    let mut log = open(&medium);
    append(&log, b"one");
    Arc::get_mut(&mut log.inner).unwrap().fork_guard = ForkGuard::of_another_process();
    for refused in [
        log.appender().append(0, b"", b"", b"").map(drop),
        log.lock_append().map(drop),
        log.commit(1),
        log.sync().map(drop),
        log.check_writable(),
        log.doorbell().map(drop),
        log.close(),
        log.retain(&RetainPolicy::default(), 0).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Forked);
    }
    let other = open(&medium);
    drop(log);
    assert!(!medium.exists(&Path::new(DIR).join("CLEAN")).unwrap(), "a child closes nothing");
    append(&other, b"two");
}
