//! Tests of verify and repair.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::error::ErrorKind;
use crate::storage::{MemStorage, OpenMode, Storage};
use crate::{Access, Log, Options};

const DIR: &str = "/log";

fn options() -> Options {
    Options { segment_bytes: 512, ..Options::default() }
}

fn open(storage: &MemStorage) -> Log {
    Log::open_or_create(Arc::new(storage.clone()), Path::new(DIR), b"", &options(), 7).unwrap()
}

/// A log of 60 records in several segments, three a frame, all durable.
fn sample() -> MemStorage {
    let storage = MemStorage::new();
    let log = open(&storage);
    for i in 0..20u64 {
        let mut appender = log.appender();
        for j in 0..3 {
            appender.push(b"key", b"", format!("record {}", i * 3 + j).as_bytes()).unwrap();
        }
        let appended = appender.flush(i.cast_signed()).unwrap().unwrap();
        log.commit(appended.next).unwrap();
    }
    log.close().unwrap();
    storage
}

fn segments(storage: &MemStorage) -> Vec<PathBuf> {
    let names = storage.list(Path::new(DIR)).unwrap();
    let names = names.into_iter().filter(|name| name.ends_with(".seg"));
    names.map(|name| Path::new(DIR).join(name)).collect()
}

fn flip(storage: &MemStorage, path: &Path, at: u64) {
    let file = storage.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, at).unwrap(), 1);
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
    file.sync_all().unwrap();
}

fn readable(log: &Log) -> Vec<u64> {
    let mut scanner = log.scanner();
    let mut found = Vec::new();
    loop {
        match scanner.next() {
            Ok(Some(record)) => {
                assert_eq!(record.value, format!("record {}", record.seq).as_bytes());
                found.push(record.seq);
            }
            Ok(None) => return found,
            Err(e) => panic!("{e}"),
        }
    }
}

fn dyn_storage(storage: &MemStorage) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

#[test]
fn a_sound_log_is_sound_and_repair_does_nothing() {
    let storage = sample();
    let report = verify(&storage, Path::new(DIR)).unwrap();
    assert!(report.is_sound() && report.clean, "{report:?}");
    assert_eq!(report.records(), 60);
    assert!(report.segments.len() > 2);
    let mended = repair(&dyn_storage(&storage), Path::new(DIR), true, 0).unwrap();
    assert!(mended.is_nothing());
    assert_eq!(verify(&storage, Path::new(DIR)).unwrap(), report);
}

#[test]
fn damage_anywhere_is_found_reported_dropped_on_request_and_nothing_else_is_lost() {
    let whole = sample();
    let count = segments(&whole).len();
    for which in 0..count {
        // A byte of a header, of a body in the middle, and of the last frame.
        for place in [0u64, 72, 72 + 20, 72 + 60, 72 + 128 + 50, u64::MAX] {
            let storage = whole.snapshot();
            let path = segments(&storage)[which].clone();
            let len = storage.open(&path, OpenMode::Read).unwrap().len().unwrap();
            flip(&storage, &path, place.min(len - 20));
            let report = verify(&storage, Path::new(DIR)).unwrap();
            assert!(!report.is_sound(), "segment {which} byte {place}: {report:?}");
            let refused = repair(&dyn_storage(&storage), Path::new(DIR), false, 0).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Damaged);
            assert_eq!(verify(&storage, Path::new(DIR)).unwrap(), report, "nothing was changed");
            let mended = repair(&dyn_storage(&storage), Path::new(DIR), true, 0).unwrap();
            assert!(!mended.dropped.is_empty());
            let after = verify(&storage, Path::new(DIR)).unwrap();
            assert!(after.is_sound(), "segment {which} byte {place}: {after:?}");
            let log = open(&storage);
            let found = readable(&log);
            assert_eq!(found.len() as u64, report.records(), "segment {which} byte {place}");
            let lost = if place == 0 { 60 - report.records() } else { 3 };
            assert_eq!(60 - found.len() as u64, lost, "segment {which} byte {place}");
            // Numbers of lost records never come again.
            let next = log.appender().append(99, b"", b"", b"").unwrap().first;
            assert!(next > 60, "{next}");
        }
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let storage = sample();
    storage.remove(&segments(&storage)[1]).unwrap();
    let report = verify(&storage, Path::new(DIR)).unwrap();
    assert_eq!(report.damage().count(), 1, "{report:?}");
    repair(&dyn_storage(&storage), Path::new(DIR), true, 0).unwrap();
    assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
    assert_eq!(readable(&open(&storage)).len() as u64, report.records());
}

#[test]
fn repair_wants_the_log_for_itself() {
    let storage = sample();
    let log = open(&storage);
    let busy = repair(&dyn_storage(&storage.process()), Path::new(DIR), true, 0).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    log.close().unwrap();
}

#[test]
fn a_repair_that_is_killed_can_be_repeated_and_loses_no_more() {
    let whole = sample();
    let path = segments(&whole)[1].clone();
    flip(&whole, &path, 72 + 60);
    for changes in 0.. {
        let storage = whole.snapshot();
        storage.kill_after(changes, 7);
        let outcome = repair(&dyn_storage(&storage), Path::new(DIR), true, 0);
        storage.kill();
        if changes % 2 == 0 {
            storage.crash_seeded(changes);
        }
        repair(&dyn_storage(&storage), Path::new(DIR), true, 0).unwrap();
        assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound(), "after {changes} changes");
        assert_eq!(readable(&open(&storage)).len(), 57, "after {changes} changes");
        if outcome.is_ok() {
            assert!(changes > 5);
            break;
        }
    }
}

#[test]
fn verify_reads_a_log_that_is_being_written() {
    let storage = sample();
    let log = open(&storage);
    log.appender().append(0, b"", b"", b"record 60").unwrap();
    // What a writer has not finished is not part of the log yet.
    let last = segments(&storage).pop().unwrap();
    let file = storage.open(&last, OpenMode::ReadWrite).unwrap();
    file.write_all_at(b"half a frame", file.len().unwrap()).unwrap();
    let report = verify(&storage.process(), Path::new(DIR)).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records(), 61);
    log.abandon();
}

#[test]
fn a_log_is_read_without_writing_a_byte() {
    let storage = sample();
    storage.start_record();
    let read_only = Options { access: Access::ReadOnly, ..options() };
    let log = Log::open(dyn_storage(&storage), Path::new(DIR), &read_only, 0).unwrap();
    assert_eq!(readable(&log).len(), 60);
    let refused = log.appender().append(0, b"", b"", b"").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    log.close().unwrap();
    assert!(storage.take_record().is_empty());
}

#[test]
fn a_flipped_bit_of_the_format_is_set_right_without_leave_to_drop_anything() {
    let whole = sample();
    let format = Path::new(DIR).join("FORMAT");
    let len = whole.open(&format, OpenMode::Read).unwrap().len().unwrap();
    for at in 0..len {
        let storage = whole.snapshot();
        flip(&storage, &format, at);
        let report = verify(&storage, Path::new(DIR)).unwrap();
        let found = report.format.clone().unwrap();
        assert!(!report.is_sound() && report.records() == 60);
        assert_eq!(
            (found.path.as_path(), found.offset_start, found.offset_end),
            (&*format, at, at + 1)
        );
        let mended = repair(&dyn_storage(&storage), Path::new(DIR), false, 0).unwrap();
        assert_eq!((mended.format, mended.dropped), (Some(found), vec![]), "byte {at}");
        assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound(), "byte {at}");
        assert_eq!(readable(&open(&storage)).len(), 60, "byte {at}");
    }
    // Of two flipped bits nobody can tell which they are, and a FORMAT of another log is not made ours.
    flip(&whole, &format, 20);
    flip(&whole, &format, 21);
    for outcome in [
        verify(&whole, Path::new(DIR)).map(drop),
        repair(&dyn_storage(&whole), Path::new(DIR), true, 0).map(drop),
    ] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Damaged);
    }
}

#[test]
fn a_log_without_any_segment_is_no_sound_one() {
    let storage = sample();
    for path in segments(&storage) {
        storage.remove(&path).unwrap();
    }
    assert_eq!(verify(&storage, Path::new(DIR)).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn a_control_page_that_was_written_over_makes_no_wrong_clean_mark() {
    // The words of the tail: its sequence number and its position; both wrong together, and each alone.
    for (seq, pos) in [(1_000_000, 0), (0, 1 << 40), (1 << 60, 1 << 41), (0, u64::MAX / 2)] {
        let storage = sample();
        let log = open(&storage);
        log.appender().append(30, b"", b"", b"record 60").unwrap();
        log.sync().unwrap();
        let page = storage.shared_page(&Path::new(DIR).join("control")).unwrap();
        for (word, add) in [(16, seq), (17, pos), (18, pos)] {
            page.words()[word].fetch_add(add, std::sync::atomic::Ordering::SeqCst);
        }
        assert!(log.close().is_err(), "tail {seq} {pos}");
        drop(log);
        // As after a boot: the page is believed no more, and the segments tell.
        let storage = storage.snapshot();
        storage.remove(&Path::new(DIR).join("control")).unwrap();
        let log = open(&storage);
        assert_eq!(log.open_report().damage, None, "tail {seq} {pos}");
        assert_eq!(readable(&log).len(), 61, "tail {seq} {pos}");
    }
}

#[test]
fn a_control_page_of_another_version_is_left_to_those_who_have_it_open() {
    let storage = sample();
    let theirs = open(&storage);
    let page = storage.shared_page(&Path::new(DIR).join("control")).unwrap();
    page.words()[0].fetch_add(1 << 56, std::sync::atomic::Ordering::SeqCst);
    let before: Vec<_> =
        page.words().iter().map(|w| w.load(std::sync::atomic::Ordering::SeqCst)).collect();
    let ours = || {
        let medium: Arc<dyn Storage> = Arc::new(storage.process());
        Log::open(medium, Path::new(DIR), &options(), 0)
    };
    let refused = ours().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.to_string().contains("another version"), "{refused}");
    let after: Vec<_> =
        page.words().iter().map(|w| w.load(std::sync::atomic::Ordering::SeqCst)).collect();
    assert_eq!(before, after);
    theirs.abandon();
    assert_eq!(readable(&ours().unwrap()).len(), 60);
}
