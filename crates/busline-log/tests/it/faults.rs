//! A medium that fails: what was written is cut, what could not be synced poisons the log for everybody.

use std::io;
use std::path::Path;
use std::sync::Arc;

use busline_log::storage::{Call, Fault, FaultyStorage, MemStorage, Storage};
use busline_log::{ErrorKind, repair, verify};

use crate::support::*;

fn faulty() -> (MemStorage, FaultyStorage) {
    let memory = MemStorage::new();
    let faulty = FaultyStorage::over_memory(&memory);
    (memory, faulty)
}

#[test]
fn a_write_that_fails_in_the_middle_leaves_nothing_and_may_be_repeated() {
    for error in [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
        io::ErrorKind::Other,
    ] {
        for stored in [0, 1, 47, 48, 70, 1000] {
            let (_, storage) = faulty();
            let log = open(&storage);
            append(&log, 0..3).unwrap();
            let before = frames_end(&log);
            storage.plan().add(Fault::new(Call::Write, error).on(".seg").storing(stored));
            let mut appender = log.appender();
            appender.push(b"k", b"", &3u64.to_le_bytes()).unwrap();
            let failed = appender.flush(0).unwrap_err();
            let full = error != io::ErrorKind::Other;
            assert_eq!(failed.kind(), if full { ErrorKind::Full } else { ErrorKind::Io });
            assert_eq!(failed.is_temporary(), full);
            assert_eq!(len(&storage, &segments(&storage)[0]), before, "{stored} bytes were cut");
            assert_eq!((values(&log), log.next_seq()), (vec![0, 1, 2], 3));
            appender.flush(0).unwrap().unwrap();
            assert_eq!(values(&log), [0, 1, 2, 3]);
        }
    }
}

#[test]
fn what_could_not_be_cut_is_cut_by_the_next_writer() {
    let (_, storage) = faulty();
    let (log, other) = (open(&storage), open(&storage));
    append(&log, 0..3).unwrap();
    storage.plan().add(Fault::new(Call::Write, io::ErrorKind::StorageFull).storing(30));
    storage.plan().add(Fault::new(Call::Truncate, io::ErrorKind::Other));
    assert_eq!(append(&log, 3..9).unwrap_err().kind(), ErrorKind::Full);
    append(&other, 3..4).unwrap();
    assert_eq!(values(&log), [0, 1, 2, 3]);
    assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
}

#[test]
fn a_full_disk_keeps_a_new_segment_from_being_begun_and_nothing_is_lost() {
    let (_, storage) = faulty();
    let log = open(&storage);
    append(&log, 0..12).unwrap();
    storage.plan().set_space(Some(10));
    for _ in 0..3 {
        assert_eq!(append(&log, 12..24).unwrap_err().kind(), ErrorKind::Full);
    }
    assert_eq!(log.commit(12).map_err(|e| e.kind()), Ok(()), "what is there can be made durable");
    storage.plan().set_space(None);
    append(&log, 12..24).unwrap();
    assert_eq!(values(&log), (0..24).collect::<Vec<_>>());
    assert_eq!(segments(&storage).len(), 2);
}

#[test]
fn every_single_fault_leaves_a_log_that_works_or_says_why_not() {
    for call in [Call::Open, Call::Write, Call::Truncate, Call::Rename, Call::Remove, Call::List] {
        for after in 0..12 {
            let (_, storage) = faulty();
            let log = open(&storage);
            let other = open(&storage);
            append(&log, 0..3).unwrap();
            storage.plan().add(Fault::new(call, io::ErrorKind::Other).after(after));
            let mut written = vec![0, 1, 2];
            for i in 0..8u64 {
                let values = 3 + i * 3..6 + i * 3;
                if append(if i % 2 == 0 { &log } else { &other }, values.clone()).is_ok() {
                    written.extend(values);
                }
            }
            storage.plan().clear();
            append(&other, 90..91).unwrap();
            written.push(90);
            assert_eq!(values(&log), written, "{call:?} after {after}");
            assert_eq!(values(&other), written, "{call:?} after {after}");
            assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
        }
    }
}

#[test]
fn a_failed_fsync_poisons_the_log_for_everybody_until_it_is_repaired() {
    let (memory, storage) = faulty();
    let (log, other) = (open(&storage), open(&storage));
    append(&log, 0..3).unwrap();
    log.commit(3).unwrap();
    append(&log, 3..5).unwrap();
    storage.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on(".seg"));
    assert_eq!(log.commit(5).unwrap_err().kind(), ErrorKind::Poisoned);
    for handle in [&log, &other, &open(&storage)] {
        assert_eq!(append(handle, 5..6).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(handle.commit(5).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(handle.check_writable().unwrap_err().kind(), ErrorKind::Poisoned);
        handle.commit(3).unwrap();
        assert_eq!(values(handle), [0, 1, 2, 3, 4], "reading goes on");
    }
    drop((log, other));
    let note = verify(&storage, Path::new(DIR)).unwrap().poisoned.unwrap();
    assert!(note.contains("could not be made durable"), "{note}");
    let mended = repair(&(Arc::new(storage.clone()) as Arc<dyn Storage>), Path::new(DIR), false, 0);
    assert!(mended.unwrap().poison_cleared);
    let log = open(&storage);
    assert_eq!(values(&log), [0, 1, 2, 3, 4]);
    append(&log, 5..6).unwrap();
    log.sync().unwrap();
    // What the failed fsync had dropped was written again.
    memory.crash(&mut |_| 0);
    assert_eq!(values(&open(&memory)), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_log_stays_poisoned_after_the_power_was_lost() {
    let (memory, storage) = faulty();
    let log = open(&storage);
    append(&log, 0..3).unwrap();
    storage.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on(".seg"));
    log.commit(3).unwrap_err();
    memory.crash(&mut |count| count - 1);
    let log = open(&memory);
    assert_eq!(append(&log, 3..4).unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_failed_fsync_of_a_sealed_segment_poisons_and_repair_writes_that_one_again_too() {
    let (memory, storage) = faulty();
    let log = open(&storage);
    append(&log, 0..12).unwrap();
    append(&log, 12..24).unwrap();
    assert_eq!((segments(&storage).len(), log.durable_seq()), (2, 0));
    storage.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on("00.seg"));
    assert_eq!(log.commit(24).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(append(&log, 24..25).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!((values(&log).len(), log.durable_seq()), (24, 0));
    drop(log);
    let storage: Arc<dyn Storage> = Arc::new(storage);
    assert!(repair(&storage, Path::new(DIR), false, 0).unwrap().poison_cleared);
    memory.crash(&mut |_| 0);
    assert_eq!(values(&open(&memory)), (0..24).collect::<Vec<_>>());
}

#[test]
fn sealing_waits_for_no_sync_until_many_segments_do() {
    let (_, storage) = faulty();
    let log = open(&storage);
    let mut unsynced_max = 0;
    for i in 0..40 {
        let from = i * 10;
        append(&log, from..from + 10).unwrap();
        unsynced_max = unsynced_max.max(log.next_seq() - log.durable_seq());
    }
    assert!((20..=60).contains(&unsynced_max), "{unsynced_max}");
}

#[test]
fn a_new_segment_whose_name_may_vanish_poisons() {
    let (_, storage) = faulty();
    let log = open(&storage);
    append(&log, 0..12).unwrap();
    storage.plan().add(Fault::new(Call::SyncDir, io::ErrorKind::Other));
    assert!(append(&log, 12..24).is_err());
    assert_eq!(append(&log, 12..24).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(values(&log).len(), 12);
}

#[test]
fn everybody_who_waits_shares_an_fsync() {
    let (_, storage) = faulty();
    let log = open(&storage);
    append(&log, 0..1).unwrap();
    log.commit(1).unwrap();
    let before = storage.plan().calls(Call::Sync);
    append(&log, 1..2).unwrap();
    append(&log, 2..3).unwrap();
    log.commit(2).unwrap();
    log.commit(3).unwrap();
    assert_eq!(storage.plan().calls(Call::Sync), before + 1);
    let threads: Vec<_> = (0..8u64)
        .map(|i| {
            let log = if i % 2 == 0 { log.clone() } else { open(&storage) };
            std::thread::spawn(move || {
                for j in 0..20 {
                    let next = append(&log, i * 20 + j..i * 20 + j + 1).unwrap();
                    log.commit(next).unwrap();
                    assert!(log.durable_seq() >= next);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(log.durable_seq(), 163);
}

#[test]
fn a_poison_that_could_not_be_noted_is_told_and_repaired_all_the_same() {
    let (_, storage) = faulty();
    let log = open(&storage);
    append(&log, 0..3).unwrap();
    storage.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on(".seg"));
    storage.plan().add(Fault::new(Call::Write, io::ErrorKind::Other).on("POISONED"));
    assert_eq!(log.commit(3).unwrap_err().kind(), ErrorKind::Poisoned);
    drop(log);
    let report = verify(&storage, Path::new(DIR)).unwrap();
    assert!(!report.is_sound() && !report.poisoned.unwrap().is_empty());
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    assert!(repair(&shared, Path::new(DIR), false, 0).unwrap().poison_cleared);
    assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
    let log = open(&storage);
    append(&log, 3..4).unwrap();
    log.sync().unwrap();
}
