//! Tests of reading ahead and of reading only what is in memory.

use std::path::Path;
use std::sync::Arc;

use crate::storage::{Call, FaultyStorage, FsStorage, MemStorage, Storage};
use crate::{Log, Options, Scanner};

fn open(storage: Arc<dyn Storage>, dir: &Path, segment_bytes: u64) -> Log {
    let options = Options { segment_bytes, ..Options::default() };
    Log::open_or_create(storage, dir, b"", &options, 0).unwrap()
}

fn append(log: &Log, range: std::ops::Range<u64>) {
    let mut appender = log.appender();
    for number in range {
        appender.push(b"k", b"", &number.to_le_bytes()).unwrap();
    }
    appender.flush(0).unwrap();
}

/// What can be had without waiting, as a list; then what has to be waited for.
fn read_hastily(scanner: &mut Scanner, bytes_max: u64) -> (Vec<u64>, Vec<u64>) {
    let number = |value: &[u8]| u64::from_le_bytes(value.try_into().unwrap());
    let mut read = (Vec::new(), Vec::new());
    while let Some(end) = scanner.ready_until(bytes_max)
        && end > scanner.position()
    {
        while let Some(record) = scanner.next_where(end, |_, _| true).unwrap() {
            read.0.push(number(record.value));
        }
        assert_eq!(scanner.position(), end);
    }
    while let Some(record) = scanner.next().unwrap() {
        read.1.push(number(record.value));
    }
    read
}

#[test]
fn who_follows_the_tail_never_waits_but_for_a_new_segment() {
    let dir = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let log = open(Arc::clone(&storage), dir.path(), 1 << 20);
    let writer = open(storage, dir.path(), 1 << 20);
    let mut scanner = log.scanner();
    append(&writer, 0..1);
    assert_eq!(scanner.ready_until(u64::MAX), None, "no segment is open yet");
    assert_eq!(scanner.next().unwrap().unwrap().seq, 0);
    assert_eq!(scanner.ready_until(u64::MAX), Some(1), "at the tail");
    for first in (1..1000).step_by(3) {
        append(&writer, first..first + 3);
        assert_eq!(read_hastily(&mut scanner, u64::MAX), ((first..first + 3).collect(), vec![]));
    }
    append(&writer, 1000..1100);
    assert_eq!(read_hastily(&mut scanner, 64), (vec![], (1000..1100).collect()), "a large frame");
}

#[test]
fn hasty_reading_finds_what_patient_reading_finds() {
    for bytes_max in [0, 100, 200, u64::MAX] {
        let log = open(Arc::new(MemStorage::new()), Path::new("/log"), 1024);
        let mut scanner = log.scanner();
        let (mut next, mut read) = (0, Vec::new());
        for len in (0..300).map(|n| n * 7 % 11) {
            append(&log, next..next + len);
            next += len;
            if len % 3 == 0 {
                let (at_once, later) = read_hastily(&mut scanner, bytes_max);
                read.extend(at_once.into_iter().chain(later));
            }
        }
        read.extend(read_hastily(&mut scanner, bytes_max).1);
        assert!(log.stats().unwrap().segments > 10);
        assert_eq!(read, (0..read.len() as u64).collect::<Vec<_>>());
        assert_eq!(scanner.position(), next);
    }
}

/// Each read of the medium is a system call between a wake-up and the message.
#[test]
fn one_message_at_the_tail_is_one_read_of_the_medium() {
    let faulty = FaultyStorage::new(Arc::new(FsStorage::new()));
    let plan = faulty.plan().clone();
    let dir = tempfile::tempdir().unwrap();
    let log = open(Arc::new(faulty), dir.path(), 1 << 20);
    let mut scanner = log.scanner();
    append(&log, 0..1);
    scanner.next().unwrap().unwrap();
    for number in 1..100 {
        append(&log, number..number + 1);
        let before = plan.calls(Call::Read);
        if number % 2 == 0 {
            assert_eq!(scanner.ready_until(4096), Some(number + 1));
        }
        assert_eq!(scanner.next().unwrap().unwrap().seq, number);
        assert!(scanner.next().unwrap().is_none());
        assert_eq!(plan.calls(Call::Read), before + 1);
    }
}
