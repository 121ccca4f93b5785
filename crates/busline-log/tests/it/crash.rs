//! Processes that are killed, power that is lost, bits that flip, directories that are copied.

use std::path::Path;
use std::sync::Arc;

use busline_log::storage::{MemStorage, OpenMode, Storage};
use busline_log::{ErrorKind, Log, SyncMode, verify};

use crate::support::*;

/// Appends and commits, rolls, removes; returns how many records were committed before it failed.
fn work(log: &Log, from: u64) -> (u64, Option<busline_log::Error>) {
    let mut committed = from;
    for i in from..from + 20 {
        let step = append(log, i..i + 1).and_then(|next| {
            if i % 3 == 2 {
                log.commit(next)?;
                committed = i + 1;
            }
            if i % 7 == 6 {
                log.lock_append()?.roll(9)?;
            }
            Ok(())
        });
        if let Err(e) = step {
            return (committed, Some(e));
        }
    }
    (committed, None)
}

#[test]
fn a_process_killed_at_any_change_leaves_what_the_others_go_on_with() {
    for last_bytes in [0, 5, 50, 100] {
        for changes in 0.. {
            let storage = MemStorage::new();
            let other = open(&storage.process());
            let mut follower = other.scanner();
            append(&other, 0..4).unwrap();
            let victim = storage.process();
            let log = open(&victim);
            victim.kill_after(changes, last_bytes);
            let (_, error) = work(&log, 4);
            victim.kill();
            drop(log);
            let before = read_on(&mut follower);
            assert!(before.iter().map(|(_, value)| *value).eq(0..before.len() as u64));
            append(&other, 100..102).unwrap();
            let end = before.len() as u64;
            assert_eq!(read_on(&mut follower), [(end, 100), (end + 1, 101)], "{changes} changes");
            let again = open(&victim);
            assert!(again.open_report().trusted && again.open_report().jumped_to.is_none());
            assert_eq!(read_all(&again), read_all(&other));
            assert!(verify(&storage.process(), Path::new(DIR)).unwrap().is_sound());
            if error.is_none() {
                assert!(changes > 40);
                break;
            }
        }
    }
}

#[test]
fn what_was_committed_survives_any_loss_of_power() {
    for seed in 0..12 {
        let mut changes = 0;
        loop {
            let storage = MemStorage::new();
            drop(open(&storage));
            let log = open(&storage);
            storage.kill_after(changes, (seed as usize * 13) % 120);
            let (committed, error) = work(&log, 0);
            let seen = if error.is_some() { 20 } else { log.next_seq() };
            storage.crash_seeded(seed * 1000 + changes);
            drop(log);
            let log = open(&storage);
            let report = log.open_report().clone();
            let found = values(&log);
            let count = found.len() as u64;
            assert!(found.into_iter().eq(0..count), "a prefix");
            assert!((committed..=seen).contains(&count), "{committed} <= {count} <= {seen}");
            assert!(!report.trusted && report.damage.is_none(), "{report:?}");
            let next = append(&log, count..count + 1).unwrap() - 1;
            if report.clean {
                assert_eq!((next, committed), (0, 0));
            } else {
                // A number that somebody saw and that was lost never comes again.
                assert_eq!((next, report.jumped_to), (1 << 32, Some(1 << 32)));
                let mut scanner = log.scanner();
                assert_eq!(scanner.seek(count).unwrap(), next, "the gap is passed over");
                assert_eq!(log.count_between(0, u64::MAX).unwrap(), count + 1);
            }
            assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
            if error.is_none() {
                break;
            }
            changes += 1 + seed % 3;
        }
    }
}

#[test]
fn power_lost_while_recovering_changes_nothing() {
    let whole = MemStorage::new();
    let log = open(&whole);
    append(&log, 0..3).unwrap();
    log.commit(3).unwrap();
    append(&log, 3..5).unwrap();
    whole.crash(&mut |count| count - 1);
    for changes in 0..30 {
        for seed in 0..5 {
            let storage = whole.snapshot();
            storage.kill_after(changes, 40);
            let opened = try_open(&storage).is_ok();
            storage.crash_seeded(seed);
            let log = open(&storage);
            assert_eq!(values(&log)[..3], [0, 1, 2]);
            append(&log, 5..6).unwrap();
            assert!(opened || changes < 25);
        }
    }
}

/// Records in several segments of which only the first two were synced, then the power fails.
fn unsynced_segments(seed: u64) -> MemStorage {
    let storage = MemStorage::new();
    let log = open(&storage);
    append(&log, 0..2).unwrap();
    log.commit(2).unwrap();
    for i in 2..20 {
        append(&log, i..i + 1).unwrap();
    }
    assert!(segments(&storage).len() >= 4 && log.durable_seq() == 2);
    storage.crash_seeded(seed);
    storage
}

#[test]
fn what_was_sealed_and_not_synced_is_cut_where_it_is_torn() {
    let mut dropped = 0;
    for seed in 0..300 {
        let storage = unsynced_segments(seed);
        let before = verify(&storage, Path::new(DIR)).unwrap();
        assert!(before.is_sound(), "{before:?}");
        // Looking changes nothing, repairing is what opening does.
        if seed % 2 == 0 {
            let shared: Arc<dyn Storage> = Arc::new(storage.clone());
            let mended = busline_log::repair(&shared, Path::new(DIR), false, 0).unwrap();
            assert!(mended.dropped.is_empty());
        }
        let log = open(&storage);
        let found = values(&log);
        assert_eq!(found.len() as u64, before.records(), "seed {seed}: {before:?}");
        assert!(found.len() >= 2 && found.iter().copied().eq(0..found.len() as u64));
        assert_eq!(append(&log, 90..91).unwrap(), (1 << 32) + 1);
        assert!(verify(&storage.process(), Path::new(DIR)).unwrap().is_sound());
        let cut = log.open_report().cut.as_ref();
        dropped += cut.map_or(0, |cut| cut.segments);
        if seed % 2 == 1 {
            let torn = before.segments.iter();
            let torn = torn.filter(|s| matches!(s.state, busline_log::SegmentState::TornTail(_)));
            assert_eq!(torn.count() as u64, cut.map_or(0, |cut| cut.segments + 1));
        }
    }
    assert!(dropped > 50, "{dropped}: the test tears nothing");
}

#[test]
fn power_lost_while_cutting_several_segments_brings_nothing_back() {
    for seed in 0..12 {
        let whole = unsynced_segments(seed);
        let records = verify(&whole, Path::new(DIR)).unwrap().records();
        for changes in 0..30 {
            let storage = whole.snapshot();
            storage.kill_after(changes, 30);
            let opened = try_open(&storage).is_ok();
            storage.crash_seeded(seed * 100 + changes);
            let log = open(&storage);
            assert_eq!(values(&log).len() as u64, records, "seed {seed}, {changes} changes");
            append(&log, 90..91).unwrap();
            assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
            if opened {
                break;
            }
        }
    }
}

#[test]
fn damage_in_a_sealed_segment_that_was_synced_is_no_torn_tail() {
    let storage = MemStorage::new();
    let log = open(&storage);
    for i in 0..12 {
        append(&log, i..i + 1).unwrap();
    }
    // The next frame witnesses that all before it were on the medium.
    log.sync().unwrap();
    append(&log, 12..13).unwrap();
    storage.crash(&mut |count| count - 1);
    let path = segments(&storage)[1].clone();
    flip(&storage, &path, 150);
    let log = open(&storage);
    let damage = log.open_report().damage.clone().unwrap();
    assert_eq!(damage.path, path);
    let mut scanner = log.scanner();
    let mut found = Vec::new();
    loop {
        match scanner.next() {
            Ok(Some(record)) => found.push(record.seq),
            Ok(None) => break,
            Err(e) => {
                assert_eq!(e.damage(), Some(&damage));
                scanner.skip_damage().unwrap();
            }
        }
    }
    assert_eq!(found.len(), 12, "all but the damaged one: {found:?}");
}

#[test]
fn a_clean_end_needs_no_jump_and_no_look() {
    let storage = MemStorage::new();
    let log = open(&storage);
    append(&log, 0..3).unwrap();
    drop(log);
    storage.crash(&mut |_| 0);
    let log = open(&storage);
    assert!(log.open_report().clean && !log.open_report().trusted);
    assert_eq!((values(&log), log.next_seq()), (vec![0, 1, 2], 3));
    // The mark does not outlive the first write.
    append(&log, 3..4).unwrap();
    storage.crash(&mut |count| count - 1);
    let log = open(&storage);
    assert!(!log.open_report().clean);
    assert_eq!(log.open_report().jumped_to, Some(1 << 32));
    assert_eq!(values(&log), [0, 1, 2, 3]);
    // Recovering is a clean end too.
    storage.crash(&mut |_| 0);
    assert_eq!(open(&storage).open_report().jumped_to, None);
}

#[test]
fn only_the_last_one_marks_the_log_clean() {
    let storage = MemStorage::new();
    let (a, b) = (open(&storage.process()), open(&storage.process()));
    append(&a, 0..3).unwrap();
    a.close().unwrap();
    assert_eq!(append(&a, 3..4).unwrap_err().kind(), ErrorKind::Closed);
    assert!(!verify(&storage, Path::new(DIR)).unwrap().clean);
    b.close().unwrap();
    assert!(verify(&storage, Path::new(DIR)).unwrap().clean);
}

#[test]
fn os_and_interval_commit_without_waiting_and_close_syncs() {
    for sync in [SyncMode::Os, SyncMode::Interval(std::time::Duration::from_millis(5))] {
        let storage = MemStorage::new();
        let options = busline_log::Options { sync, ..tiny() };
        let log = Log::create(Arc::new(storage.clone()), Path::new(DIR), b"", &options, 0).unwrap();
        append(&log, 0..3).unwrap();
        log.commit(3).unwrap();
        assert_eq!(log.durable_seq(), 0);
        assert_eq!(log.sync().unwrap(), 3);
        append(&log, 3..5).unwrap();
        log.close().unwrap();
        storage.crash(&mut |_| 0);
        assert_eq!(values(&open(&storage)), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn a_torn_tail_is_cut_and_told() {
    let storage = MemStorage::new();
    let log = open(&storage);
    append(&log, 0..3).unwrap();
    log.commit(3).unwrap();
    append(&log, 3..5).unwrap();
    // The length of the file arrives, its data does not: zeros are a clean end.
    let path = segments(&storage)[0].clone();
    let whole = len(&storage, &path);
    flip(&storage, &path, frames_end(&log) - 20);
    storage.crash(&mut |count| count - 1);
    let log = open(&storage);
    let cut = log.open_report().cut.clone().unwrap();
    assert_eq!((cut.seq, cut.offset + cut.bytes), (3, whole));
    assert!(cut.cause.contains("checksum"), "{}", cut.cause);
    assert_eq!(values(&log), [0, 1, 2]);
    assert_eq!(len(&storage, &path), cut.offset);
}

/// Frames of one record each, all committed, then a bit flips in the second one.
fn damaged() -> MemStorage {
    let storage = MemStorage::new();
    let log = open(&storage);
    for i in 0..4 {
        let next = append(&log, i..i + 1).unwrap();
        log.commit(next).unwrap();
    }
    let frame = (frames_end(&log) - 72) / 4;
    storage.crash(&mut |count| count - 1);
    let path = segments(&storage)[0].clone();
    flip(&storage, &path, 72 + frame + 50);
    storage
}

#[test]
fn a_damaged_middle_is_told_never_cut_and_never_skipped_silently() {
    let storage = damaged();
    let path = segments(&storage)[0].clone();
    let before = len(&storage, &path);
    for _ in 0..2 {
        let log = open(&storage);
        let damage = log.open_report().damage.clone().unwrap();
        assert_eq!((damage.seq_start, damage.seq_end), (1, Some(2)));
        assert_eq!(append(&log, 9..10).unwrap_err().kind(), ErrorKind::Damaged);
        let mut scanner = log.scanner();
        assert_eq!(scanner.next().unwrap().unwrap().seq, 0);
        for _ in 0..3 {
            let e = scanner.next().unwrap_err();
            assert_eq!((e.kind(), e.damage()), (ErrorKind::Damaged, Some(&damage)));
        }
        assert_eq!(scanner.skip_damage().unwrap(), 2);
        assert_eq!(read_on(&mut scanner), [(2, 2), (3, 3)]);
        assert_eq!(scanner.read(1).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(scanner.read(3).unwrap().map(|r| r.seq), Some(3), "intact behind the damage");
        assert_eq!(len(&storage, &path), before, "nothing was cut");
    }
    storage.crash(&mut |count| count - 1);
    assert!(open(&storage).open_report().damage.is_some(), "also in the next boot");
}

#[test]
fn a_copied_directory_is_not_taken_for_the_one_that_was_open() {
    let storage = MemStorage::new();
    let log = open(&storage);
    append(&log, 0..3).unwrap();
    let copy = Path::new("/copy");
    storage.create_dir_all(copy).unwrap();
    for name in storage.list(Path::new(DIR)).unwrap() {
        if let Ok(file) = storage.open(&Path::new(DIR).join(&name), OpenMode::Read) {
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(&mut bytes, 0).unwrap();
            let to = storage.open(&copy.join(&name), OpenMode::CreateNew).unwrap();
            to.write_all_at(&bytes, 0).unwrap();
        }
    }
    append(&log, 3..5).unwrap();
    let copied = Log::open(Arc::new(storage.clone()), copy, &tiny(), 0).unwrap();
    assert!(!copied.open_report().trusted);
    assert_eq!(copied.open_report().jumped_to, Some(1 << 32));
    assert_eq!(values(&copied), [0, 1, 2]);
    append(&copied, 70..71).unwrap();
    assert_eq!(values(&copied), [0, 1, 2, 70]);
    assert_eq!(values(&log), [0, 1, 2, 3, 4]);
}

#[test]
fn a_segment_that_somebody_cut_is_damage_not_a_surprise() {
    let storage = MemStorage::new();
    let log = open(&storage);
    append(&log, 0..3).unwrap();
    append(&log, 3..6).unwrap();
    let path = segments(&storage)[0].clone();
    storage.open(&path, OpenMode::ReadWrite).unwrap().truncate(100).unwrap();
    let mut scanner = log.scanner();
    assert_eq!(scanner.next().unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(try_open(&storage.process()).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn a_newer_frame_is_refused_and_not_cut() {
    let storage = MemStorage::new();
    let log = open(&storage);
    append(&log, 0..1).unwrap();
    log.sync().unwrap();
    storage.crash(&mut |count| count - 1);
    let path = segments(&storage)[0].clone();
    let file = storage.open(&path, OpenMode::ReadWrite).unwrap();
    let mut head = [0; 64];
    file.read_at(&mut head, 0).unwrap();
    let salt = u32::from_le_bytes(head[12..16].try_into().unwrap());
    let mut frame = [0; 48];
    file.read_at(&mut frame, 72).unwrap();
    frame[44] = 1;
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    file.write_all_at(&frame, 72).unwrap();
    let before = len(&storage, &path);
    assert_eq!(try_open(&storage).unwrap_err().kind(), ErrorKind::Newer);
    assert_eq!(verify(&storage, Path::new(DIR)).unwrap_err().kind(), ErrorKind::Newer);
    assert_eq!(len(&storage, &path), before);
}

#[test]
fn a_remote_file_system_is_refused_unless_allowed() {
    let storage = MemStorage::new();
    drop(open(&storage));
    storage.set_remote(true);
    assert_eq!(try_open(&storage).unwrap_err().kind(), ErrorKind::Remote);
    let allow = busline_log::Options { allow_remote: true, ..tiny() };
    Log::open(Arc::new(storage.clone()), Path::new(DIR), &allow, 0).unwrap();
}

#[test]
fn the_doorbells_of_another_boot_are_removed() {
    let storage = MemStorage::new();
    drop(open(&storage));
    // A name as a bell leaves it when the power fails.
    let bells = Path::new(DIR).join("bells");
    storage.create_dir_all(&bells).unwrap();
    storage.open(&bells.join("00000000000000aa"), OpenMode::CreateNew).unwrap();
    storage.sync_dir(&bells).unwrap();
    storage.sync_dir(Path::new(DIR)).unwrap();
    storage.crash(&mut |count| count - 1);
    assert_eq!(storage.list(&bells).unwrap().len(), 1);
    let log = open(&storage);
    assert_eq!(storage.list(&bells).unwrap().len(), 0);
    drop(log.doorbell().unwrap());
}

#[test]
fn what_a_recovery_keeps_is_durable() {
    let storage = MemStorage::new();
    let log = open(&storage);
    for i in 0..12 {
        append(&log, i..i + 1).unwrap();
    }
    log.abandon();
    // Nothing was synced, and nobody knows any more what was written: as in a copied directory.
    storage.remove(&Path::new(DIR).join("control")).unwrap();
    let log = open(&storage);
    assert_eq!(log.open_report().jumped_to, Some(1 << 32));
    assert_eq!((values(&log).len(), log.durable_seq()), (12, 1 << 32));
    storage.crash(&mut |_| 0);
    let log = open(&storage);
    assert_eq!((values(&log).len(), log.open_report().damage.as_ref()), (12, None));
}

#[test]
fn creating_is_whole_or_nothing() {
    for changes in 0.. {
        for seed in 0..4 {
            let storage = MemStorage::new();
            storage.kill_after(changes, 20);
            let created = try_open(&storage).is_ok();
            if seed == 0 {
                storage.kill();
            } else {
                storage.crash_seeded(seed);
            }
            let log = open(&storage);
            append(&log, 0..2).unwrap();
            assert_eq!(values(&log), [0, 1], "{changes} changes, seed {seed}");
            // Also of the directories that the first one made.
            log.commit(2).unwrap();
            storage.crash(&mut |_| 0);
            assert_eq!(values(&open(&storage)), [0, 1], "{changes} changes, seed {seed}");
            if created && seed == 3 {
                return;
            }
        }
    }
}

#[test]
fn what_a_dead_writer_hid_never_takes_the_place_of_what_was_seen() {
    for seed in 0..200 {
        let storage = MemStorage::new();
        let log = open(&storage.process());
        append(&log, 0..1).unwrap();
        log.commit(1).unwrap();
        let victim = storage.process();
        let doomed = open(&victim);
        // All bytes of its frame arrive, and it dies before it says so.
        victim.kill_after(0, 4_096);
        append(&doomed, 90..91).unwrap_err();
        victim.kill();
        drop(doomed);
        append(&log, 1..2).unwrap();
        assert_eq!(read_all(&log), [(0, 0), (1, 1)]);
        storage.crash_seeded(seed);
        let found = read_all(&open(&storage));
        assert!([(0, 0), (1, 1)].starts_with(&found), "seed {seed}: {found:?}");
    }
}
