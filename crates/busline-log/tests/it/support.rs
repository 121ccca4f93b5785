//! What the tests of the log share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use busline_log::storage::{MemStorage, OpenMode, Storage};
use busline_log::{Error, Log, Options, Scanner};

/// Where the log lies on a medium in memory.
pub(crate) const DIR: &str = "/bus/log";

/// Segments so small that everything rolls.
pub(crate) fn tiny() -> Options {
    Options { segment_bytes: 400, ..Options::default() }
}

pub(crate) fn try_open(storage: &(impl Storage + Clone)) -> Result<Log, Error> {
    Log::open_or_create(Arc::new(storage.clone()), Path::new(DIR), b"", &tiny(), 1)
}

pub(crate) fn open(storage: &(impl Storage + Clone)) -> Log {
    try_open(storage).unwrap()
}

/// Appends one frame of records whose values tell their numbers.
pub(crate) fn append(log: &Log, values: std::ops::Range<u64>) -> Result<u64, Error> {
    let mut appender = log.appender();
    for value in values {
        appender.push(b"k", b"", &value.to_le_bytes()).unwrap();
    }
    appender.flush(5).map(|appended| appended.unwrap().next)
}

/// The number that a record's value tells.
pub(crate) fn number(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().unwrap())
}

pub(crate) fn read_on(scanner: &mut Scanner) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    while let Some(record) = scanner.next().unwrap() {
        found.push((record.seq, number(record.value)));
    }
    found
}

/// All records: sequence number and value.
pub(crate) fn read_all(log: &Log) -> Vec<(u64, u64)> {
    read_on(&mut log.scanner())
}

/// The values of all records.
pub(crate) fn values(log: &Log) -> Vec<u64> {
    read_all(log).into_iter().map(|(_, value)| value).collect()
}

/// The segments' files, in order.
pub(crate) fn segments(storage: &dyn Storage) -> Vec<PathBuf> {
    let names = storage.list(Path::new(DIR)).unwrap();
    let names = names.into_iter().filter(|name| name.ends_with(".seg"));
    names.map(|name| Path::new(DIR).join(name)).collect()
}

/// Turns one bit of a file, durably.
pub(crate) fn flip(storage: &MemStorage, path: &Path, at: u64) {
    let file = storage.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, at).unwrap(), 1);
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_all().unwrap();
}

/// Where the frames of the active segment end; its file may go on with zeros.
pub(crate) fn frames_end(log: &Log) -> u64 {
    log.lock_append().unwrap().segment_len()
}

pub(crate) fn len(storage: &dyn Storage, path: &Path) -> u64 {
    storage.open(path, OpenMode::Read).unwrap().len().unwrap()
}
