//! Damage that fuzzing found: what is broken is told, nothing spins, and a repair ends it.

use std::path::Path;
use std::sync::Arc;

use busline_log::storage::{MemStorage, Storage};
use busline_log::{ErrorKind, repair, verify};

use crate::support::*;

/// A log of several segments, all of it durable.
fn sample() -> MemStorage {
    let storage = MemStorage::new();
    let log = open(&storage);
    for number in 0..20 {
        append(&log, number..number + 1).unwrap();
    }
    log.sync().unwrap();
    assert!(segments(&storage).len() > 3);
    storage
}

/// Repairs with what is lost dropped, and checks that the log is whole again; the values that are left.
fn repaired(storage: &MemStorage) -> Vec<u64> {
    storage.kill();
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let refused = repair(&shared, Path::new(DIR), false, 9).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged);
    assert!(!repair(&shared, Path::new(DIR), true, 9).unwrap().dropped.is_empty());
    assert!(verify(storage, Path::new(DIR)).unwrap().is_sound());
    let log = open(storage);
    append(&log, 99..100).unwrap();
    values(&log)
}

#[test]
fn a_first_segment_that_somebody_removed_is_damage_and_not_retention() {
    let storage = sample();
    let log = open(&storage);
    storage.remove(&segments(&storage)[0]).unwrap();
    let fresh = open(&storage.process());
    // It looked for the first record for ever, believing that retention was quicker each time.
    assert_eq!(fresh.scanner().next().unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(fresh.scanner().seek_first().unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(fresh.scanner().seek_time(0).unwrap_err().kind(), ErrorKind::Damaged);
    let report = verify(&storage, Path::new(DIR)).unwrap();
    assert_eq!(report.damage().count(), 1, "{report:?}");
    fresh.close().unwrap();
    drop(log);
    let left = repaired(&storage);
    assert!(left[0] > 0 && left.last() == Some(&99));
    assert!(left[..left.len() - 1].iter().copied().eq(left[0]..20));
}

#[test]
fn who_cannot_go_on_behind_damage_is_told_so() {
    let storage = sample();
    let middle = segments(&storage)[1].clone();
    flip(&storage, &middle, 20);
    let log = open(&storage.process());
    let mut scanner = log.scanner();
    let mut steps = 0;
    // A reader that always skips comes to an end, with an error that says why.
    let told = loop {
        steps += 1;
        assert!(steps < 100);
        match scanner.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the damage was passed over"),
            Err(_) => {
                if let Err(error) = scanner.skip_damage() {
                    break error;
                }
            }
        }
    };
    assert_eq!(told.kind(), ErrorKind::Damaged);
    log.close().unwrap();
    let left = repaired(&storage);
    assert!(left.contains(&0) && left.contains(&19) && left.len() < 21);
}

#[test]
fn a_log_without_any_segment_is_not_called_repaired() {
    let storage = sample();
    for path in segments(&storage) {
        storage.remove(&path).unwrap();
    }
    for same_boot in [true, false] {
        if !same_boot {
            storage.crash(&mut |count| count - 1);
        }
        storage.kill();
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        let error = repair(&shared, Path::new(DIR), true, 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("backup"), "{error}");
    }
}
