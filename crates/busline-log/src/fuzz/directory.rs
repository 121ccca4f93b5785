//! Whole directories with edited files, and a control page of arbitrary words.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::pieces::{reseal_header, reseal_rest, resealed_segment};
use crate::bytes::{field, put, u32_at};
use crate::files::CONTROL;
use crate::frame::{HEADER_LEN, filter_len};
use crate::group::fuzz::{declare_on, use_group};
use crate::segment::SEGMENT_HEADER_LEN;
use crate::storage::{MemStorage, OpenMode, Storage};
use crate::{ErrorKind, Log, Options, repair, verify};

const DIR: &str = "/log";
const RECORDS: u64 = 12;
/// More steps than anything on so small a log takes.
const STEPS_MAX: usize = 5_000;
/// The words behind those that say whether the page is to be believed, up to the first doorbells.
const FUZZED_WORDS: std::ops::Range<usize> = 6..70;

fn options() -> Options {
    Options { segment_bytes: 500, ..Options::default() }
}

fn open(storage: &MemStorage) -> crate::Result<Log> {
    Log::open(Arc::new(storage.clone()), Path::new(DIR), &options(), 3)
}

fn value(seq: u64) -> Vec<u8> {
    format!("value of record {seq}").into_bytes()
}

/// A log of some segments, with a group, as it lies on the medium; made once.
fn sample() -> MemStorage {
    static SAMPLE: OnceLock<MemStorage> = OnceLock::new();
    let sample = SAMPLE.get_or_init(|| {
        let storage = MemStorage::new();
        let log = Log::create(Arc::new(storage.clone()), Path::new(DIR), b"label", &options(), 0)
            .expect("an empty medium takes a log");
        declare_on(&log);
        let mut appender = log.appender();
        for seq in 0..RECORDS {
            appender.push(b"key", b"meta", &value(seq)).expect("it is short");
            if seq % 2 == 1 {
                let next = appender.flush(seq.cast_signed()).expect("nothing fails");
                log.commit(next.map_or(0, |appended| appended.next)).expect("nothing fails");
            }
        }
        use_group(&log);
        storage
    });
    sample.snapshot()
}

/// Reads arbitrary numbers off the front of the data.
struct Source<'a> {
    rest: &'a [u8],
}

impl<'a> Source<'a> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        usize::from(*first)
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        head
    }
}

/// Edits the files of a log, then does with it all that can be done.
pub(super) fn directory(data: &[u8]) {
    let storage = sample();
    let mut source = Source { rest: data };
    let same_boot = source.byte() % 4 == 3;
    let mut forged = false;
    for _ in 0..16 {
        if source.rest.is_empty() {
            break;
        }
        forged |= edit(&storage, &mut source);
    }
    if same_boot {
        storage.kill();
    } else {
        storage.crash(&mut |count| count - 1);
    }
    exercise(&storage, !forged);
}

pub(super) fn directory_seeds() -> Vec<Vec<u8>> {
    let files = u8::try_from(files(&sample()).len()).unwrap_or(u8::MAX);
    let mut seeds = vec![vec![0], vec![3]];
    for kind in 0..KINDS {
        let file = kind * 3 % files;
        seeds.push(vec![0, kind, file, 90, 0, 4, 1, 2, 3, 4]);
        // The files that come last are segments.
        seeds.push(vec![kind % 2 * 3, kind, files - 1 - kind % 3, 90, 0, 4, 1, 2, 3, 4]);
    }
    // Found by the fuzzer: segments that are gone while the control page is believed.
    seeds.push(vec![143; 14]);
    seeds.push(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 7, 3, 4]);
    seeds
}

const KINDS: u8 = 8;

fn files(storage: &MemStorage) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(DIR)];
    while let Some(dir) = dirs.pop() {
        for name in storage.list(&dir).unwrap_or_default() {
            let path = dir.join(name);
            match storage.list(&path) {
                Ok(_) => dirs.push(path),
                Err(_) => found.push(path),
            }
        }
    }
    found
}

/// One edit; true when it forged a checksum, so that what is read may be anything.
fn edit(storage: &MemStorage, source: &mut Source<'_>) -> bool {
    let kind = source.byte() % usize::from(KINDS);
    let files = files(storage);
    // The control page has a target of its own: here it says what was true before the edits.
    let files: Vec<_> = files.into_iter().filter(|path| !path.ends_with(CONTROL)).collect();
    let Some(path) = files.get(source.byte() % files.len().max(1)) else { return false };
    let at = source.byte() | source.byte() << 8;
    let Ok(file) = storage.open(path, OpenMode::ReadWrite) else { return false };
    let mut bytes = vec![0; usize::try_from(file.len().unwrap_or(0)).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    let at = at % (bytes.len() + 16);
    let mut forged = false;
    match kind {
        0 => {
            let new = source.byte() % 32;
            let new = source.take(new);
            overwrite(&mut bytes, at, new);
        }
        1 => bytes.truncate(at),
        2 => {
            let end = (at + source.byte()).min(bytes.len());
            if let Some(part) = bytes.get_mut(at..end) {
                part.fill(0);
            }
        }
        3 => forged = reseal_frame(&mut bytes, at & !7),
        4 => {
            if let Some(head) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() {
                let head = resealed_segment(head);
                overwrite(&mut bytes, 0, &head);
                forged = true;
            }
        }
        5 => {
            let body = bytes.len().saturating_sub(4);
            let crc = crc32fast::hash(bytes.get(..body).unwrap_or_default());
            overwrite(&mut bytes, body, &crc.to_le_bytes());
            forged = true;
        }
        6 => {
            let base = source.byte() as u64;
            let copy = path.with_file_name(crate::segment::name(base));
            if let Ok(copy) = storage.open(&copy, OpenMode::CreateNew) {
                let _ = copy.write_all_at(&bytes, 0);
            }
        }
        _ => {
            let _ = storage.remove(path);
            return false;
        }
    }
    let _ = file.truncate(0);
    let _ = file.write_all_at(&bytes, 0);
    forged
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    let end = at + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(new);
    }
}

/// Puts the checksums of what may be a frame right, for the salt that the file names.
fn reseal_frame(bytes: &mut Vec<u8>, at: usize) -> bool {
    let salt = u32_at(bytes, 12).unwrap_or(0);
    let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_LEN>()) else {
        return false;
    };
    let mut head = *head;
    let len = u32_at(&head, 8).unwrap_or(0) as usize;
    let start = at + HEADER_LEN;
    let blocks = field(&head, 46).map_or(0, u16::from_le_bytes);
    let filter = filter_len(usize::from(blocks));
    if let Some(rest) = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..filter + len)) {
        put(&mut head, 12, reseal_rest(rest, filter).to_le_bytes());
    }
    reseal_header(&mut head, salt);
    overwrite(bytes, at, &head);
    true
}

/// Opens, reads, verifies, repairs and writes. Whatever is refused, is refused by an error.
fn exercise(storage: &MemStorage, honest: bool) {
    let _ = verify(storage, Path::new(DIR));
    if let Ok(log) = open(storage) {
        read_all(&log, honest);
        use_group(&log);
        let _ = log.appender().append(5, b"key", b"meta", b"more");
        let _ = log.close();
    }
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let careful = repair(&shared, Path::new(DIR), false, 4);
    if let Err(error) = &careful
        && error.kind() != ErrorKind::Damaged
    {
        return;
    }
    if repair(&shared, Path::new(DIR), true, 4).is_err() {
        return;
    }
    // What was repaired is sound, can be written, and reads to its end.
    let report = verify(storage, Path::new(DIR)).expect("what was repaired can be verified");
    assert!(report.is_sound(), "{report:?}");
    let log = open(storage).expect("what was repaired opens");
    let appended = log.appender().append(6, b"key", b"meta", b"last").expect("it can be written");
    log.commit(appended.next).expect("it can be made durable");
    assert_eq!(read_all(&log, honest).last(), Some(&appended.first));
}

/// Reads all there is, across damage; the sequence numbers.
fn read_all(log: &Log, honest: bool) -> Vec<u64> {
    let mut seqs: Vec<u64> = Vec::new();
    let mut scanner = log.scanner();
    for _ in 0..STEPS_MAX {
        let before = scanner.position();
        match scanner.next() {
            Ok(Some(record)) => {
                assert!(seqs.last().is_none_or(|last| *last < record.seq), "they rise");
                let known = [b"more".to_vec(), b"last".to_vec(), value(record.seq)];
                assert!(!honest || known.contains(&record.value.to_vec()), "{record:?}");
                seqs.push(record.seq);
            }
            Ok(None) => return seqs,
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let Ok(after) = scanner.skip_damage() else { return seqs };
                assert!(after > before, "skipping goes on: {before}, {after}, {error}");
            }
            Err(_) => return seqs,
        }
    }
    panic!("reading does not end: {:?}", seqs.get(..20));
}

/// A control page that is believed, with arbitrary words, as it is found by one who opens the log: what no
/// crash leaves behind, and what must all the same be refused or survived.
pub(super) fn control_page(data: &[u8]) {
    let storage = sample();
    drop(open(&storage).expect("the sample opens"));
    let page = storage.shared_page(&Path::new(DIR).join(CONTROL)).expect("it is there");
    let mut source = Source { rest: data };
    while !source.rest.is_empty() {
        let word = FUZZED_WORDS.start + source.byte() % FUZZED_WORDS.len();
        let mut value = [0; 8];
        let len = 1 + source.byte() % 8;
        for (to, from) in value.iter_mut().zip(source.take(len)) {
            *to = *from;
        }
        if let Some(word) = page.words().get(word) {
            word.store(u64::from_le_bytes(value), Ordering::SeqCst);
        }
    }
    let Ok(log) = open(&storage) else { return };
    read_all(&log, false);
    let mark = log.mark();
    let _ = log.wait(mark, Some(std::time::Duration::ZERO));
    let _ = log.stats();
    let _ = log.appender().append(5, b"key", b"meta", b"more");
    let _ = log.sync();
    let _ = log.remove_before(4);
    drop(log);
    if let Ok(log) = open(&storage) {
        read_all(&log, false);
        let _ = log.appender().append(5, b"key", b"meta", b"more");
    }
}

pub(super) fn control_page_seeds() -> Vec<Vec<u8>> {
    let words = 0..u8::try_from(FUZZED_WORDS.len()).unwrap_or(u8::MAX);
    let ones = [255; 8];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for word in words.step_by(3) {
        let small = [word, 0, 1, word + 1, 0, 2, word + 2, 0, 3];
        seeds.push([&small[..], &[word, 7], &ones].concat());
    }
    seeds
}
