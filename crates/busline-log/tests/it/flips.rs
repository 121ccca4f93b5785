//! Every byte of a small log changed, every file cut to every length and made longer: nothing damaged is ever
//! returned, exactly the frame that was hit is lost, and what is told names the file, the bytes and the records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busline_log::storage::{MemStorage, OpenMode, Storage};
use busline_log::{Batch, ErrorKind, Log, Scanner, repair, verify};

use crate::support::*;

/// The bytes of a segment before its first frame, as FORMAT.md says.
const FRAMES_START: u64 = 72;

/// How a log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Closed, and then the machine was started anew.
    Clean,
    /// The power was lost; everything was committed before.
    PowerLost,
    /// Its processes were killed, so the control page is believed.
    Killed,
}

const LEFT: [Left; 3] = [Left::Clean, Left::PowerLost, Left::Killed];

/// A frame: where it lies, and its records as sequence number and value.
#[derive(Debug, Clone)]
struct Frame {
    base: u64,
    start: u64,
    end: u64,
    records: Vec<(u64, Vec<u8>)>,
}

struct Sample {
    left: Left,
    storage: MemStorage,
    frames: Vec<Frame>,
}

/// What a change of a segment comes to.
#[derive(Debug)]
struct Loss {
    /// The frames that are lost.
    frames: Vec<Frame>,
    /// The bytes that are called damaged; none when the loss is taken for a torn tail, or nothing is lost.
    told: Option<(u64, u64)>,
}

impl Sample {
    /// A log of several segments, with a jump after a loss of power in it, each frame committed.
    fn new(left: Left) -> Self {
        Self::with(left, 14)
    }

    /// The same with so many frames, of which seven lie before the jump.
    fn with(left: Left, frames_len: u64) -> Self {
        let storage = MemStorage::new();
        let mut frames = Vec::new();
        let log = open(&storage);
        write(&log, 0..7, &mut frames);
        storage.crash(&mut |count| count - 1);
        drop(log);
        let log = open(&storage);
        assert!(log.open_report().jumped_to.is_some());
        write(&log, 7..frames_len, &mut frames);
        match left {
            Left::Clean => {
                log.close().unwrap();
                storage.crash(&mut |count| count - 1);
            }
            Left::PowerLost => storage.crash(&mut |count| count - 1),
            Left::Killed => storage.kill(),
        }
        let sample = Self { left, storage, frames };
        assert!(segments(&sample.storage).len() >= 3);
        assert_eq!(read(&open(&sample.storage.snapshot())).0, sample.records(&[]));
        sample
    }

    /// All records but those of some frames.
    fn records(&self, without: &[Frame]) -> BTreeMap<u64, Vec<u8>> {
        let lost = |frame: &&Frame| without.iter().any(|lost| lost.records == frame.records);
        let kept = self.frames.iter().filter(|frame| !lost(frame));
        kept.flat_map(|frame| frame.records.clone()).collect()
    }

    fn of(&self, base: u64) -> Vec<Frame> {
        self.frames.iter().filter(|frame| frame.base == base).cloned().collect()
    }

    fn is_active(&self, path: &Path) -> bool {
        segments(&self.storage).last().is_some_and(|last| last == path)
    }

    /// What is lost when a byte of a segment changes.
    fn flipped(&self, path: &Path, at: u64) -> Loss {
        let of = self.of(base_of(path));
        if at < FRAMES_START {
            return Loss { frames: of, told: Some((0, FRAMES_START)) };
        }
        let Some(hit) = of.into_iter().find(|frame| at < frame.end) else {
            return Loss { frames: Vec::new(), told: None };
        };
        // After a loss of power nothing behind the last frame says that it ever was on the medium.
        let is_last = self.frames.last().is_some_and(|last| last.records == hit.records);
        let told = (hit.start, hit.end);
        let is_torn = is_last && self.left == Left::PowerLost;
        Loss { frames: vec![hit], told: (!is_torn).then_some(told) }
    }

    /// What is lost when a segment is cut.
    fn cut(&self, path: &Path, len: u64) -> Loss {
        let of = self.of(base_of(path));
        if len < FRAMES_START {
            return Loss { frames: of, told: Some((0, FRAMES_START)) };
        }
        let frames: Vec<_> = of.into_iter().filter(|frame| frame.end > len).collect();
        let is_torn = self.is_active(path) && self.left == Left::PowerLost;
        let told = frames.first().filter(|_| !is_torn).map(|frame| (frame.start, len));
        Loss { frames, told }
    }
}

fn base_of(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

/// Appends and commits frames of some records each, and notes where they lie.
fn write(log: &Log, numbers: std::ops::Range<u64>, frames: &mut Vec<Frame>) {
    for number in numbers {
        let mut guard = log.lock_append().unwrap();
        let mut batch = Batch::new(1000);
        let values: Vec<_> =
            (0..1 + number % 3).map(|at| format!("value {at} of {number}").into_bytes()).collect();
        for value in &values {
            batch.push(format!("k.{}", number % 2).as_bytes(), b"meta", value).unwrap();
        }
        let appended = guard.append(&mut batch, number.cast_signed()).unwrap();
        let (base, end) = (guard.segment_base(), guard.segment_len());
        let before = frames.last().filter(|frame| frame.base == base);
        let start = before.map_or(FRAMES_START, |frame| frame.end);
        let records = (appended.first..).zip(values).collect();
        frames.push(Frame { base, start, end, records });
        drop(guard);
        log.commit(appended.next).unwrap();
    }
}

/// Reads all there is, going on behind damage; the records, and the errors met.
fn read(log: &Log) -> (BTreeMap<u64, Vec<u8>>, Vec<busline_log::Error>) {
    let mut scanner: Scanner = log.scanner();
    let (mut found, mut errors) = (BTreeMap::new(), Vec::new());
    for _ in 0..1000 {
        match scanner.next() {
            Ok(Some(record)) => {
                assert!(found.keys().all(|seq| *seq < record.seq), "they rise");
                found.insert(record.seq, record.value.to_vec());
            }
            Ok(None) => return (found, errors),
            Err(error) => {
                errors.push(error);
                if scanner.skip_damage().is_err() {
                    return (found, errors);
                }
            }
        }
    }
    panic!("reading does not end: {errors:?}");
}

/// Verifies, reads, repairs and goes on with a log of which some frames are lost.
fn check(sample: &Sample, broken: &MemStorage, path: &Path, loss: &Loss, what: &str) {
    let report = verify(broken, Path::new(DIR)).unwrap();
    let places: Vec<_> = report.damage().collect();
    assert_eq!(places.len(), usize::from(loss.told.is_some()), "{what}: {report:?}");
    for (place, bytes) in places.iter().zip(&loss.told) {
        let told = (place.path.as_path(), (place.offset_start, place.offset_end));
        assert_eq!(told, (path, *bytes), "{what}: {place}");
        let first = loss.frames.first().map_or(base_of(path), |frame| frame.records[0].0);
        assert_eq!(place.seq_start, first, "{what}: {place}");
        let after = loss.frames.last().map(|frame| frame.records.last().unwrap().0 + 1);
        assert!(place.seq_end.is_none() || place.seq_end == after, "{what}: {place}");
        assert!(!place.cause.is_empty());
    }
    look(sample, &broken.snapshot(), path, loss, what);
    let shared: Arc<dyn Storage> = Arc::new(broken.clone());
    if loss.told.is_some() {
        broken.start_record();
        let refused = repair(&shared, Path::new(DIR), false, 9).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{what}: {refused}");
        assert_eq!(broken.take_record(), [], "{what}: nothing was changed");
    }
    let mended = repair(&shared, Path::new(DIR), true, 9).unwrap();
    assert_eq!(mended.dropped.len(), places.len(), "{what}: {mended:?}");
    assert!(verify(broken, Path::new(DIR)).unwrap().is_sound(), "{what}");
    assert!(repair(&shared, Path::new(DIR), true, 9).unwrap().is_nothing(), "{what}");
    // What a repair did is durable when it is done.
    broken.crash(&mut |_| 0);
    let log = open(broken);
    let (found, errors) = read(&log);
    assert_eq!((found, errors.len()), (sample.records(&loss.frames), 0), "{what}: {errors:?}");
    let highest = sample.frames.last().unwrap().records.last().unwrap().0;
    let next = append(&log, 99..100).unwrap();
    log.commit(next).unwrap();
    assert!(loss.told.is_none() || next - 1 > highest, "{what}: {next} was given out before");
    assert_eq!(number(read(&log).0.values().last().unwrap()), 99, "{what}");
}

/// Opens and reads what nobody repaired.
fn look(sample: &Sample, broken: &MemStorage, path: &Path, loss: &Loss, what: &str) {
    let names = |error: &busline_log::Error| {
        assert_eq!(error.kind(), ErrorKind::Damaged, "{what}: {error}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(name), "{what}: {error}");
    };
    let kept = sample.records(&loss.frames);
    let log = match try_open(broken) {
        Ok(log) => log,
        Err(error) => return names(&error),
    };
    let (found, errors) = read(&log);
    errors.iter().for_each(names);
    match loss.told {
        None => assert_eq!((&found, errors.len()), (&kept, 0), "{what}"),
        // Without its header nobody knows what is behind a segment.
        Some((0, _)) => assert!(found.iter().all(|(seq, value)| kept.get(seq) == Some(value))),
        Some(_) => assert_eq!(found, kept, "{what}: {errors:?}"),
    }
    assert!(loss.told.is_none() || !errors.is_empty(), "{what}: it is told");
}

fn long() -> bool {
    std::env::var_os("BUSLINE_LONG").is_some()
}

fn xor(storage: &MemStorage, path: &Path, at: u64, mask: u8) {
    let file = storage.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, at).unwrap(), 1);
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
    file.sync_all().unwrap();
}

fn truncate(storage: &MemStorage, path: &Path, len: u64) {
    let file = storage.open(path, OpenMode::ReadWrite).unwrap();
    file.truncate(len).unwrap();
    file.sync_all().unwrap();
}

fn extend(storage: &MemStorage, path: &Path, more: &[u8]) {
    let file = storage.open(path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(more, file.len().unwrap()).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_byte_that_changed_costs_its_frame_and_no_other() {
    let mut count = 0;
    for left in LEFT {
        let sample = Sample::new(left);
        for path in segments(&sample.storage) {
            for at in 0..len(&sample.storage, &path) {
                let masks = if long() { &[1, 2, 4, 8, 16, 32, 64, 128, 255][..] } else { &[] };
                for mask in masks.iter().copied().chain([1 << (at % 8)]) {
                    let what = format!("{left:?}, {} byte {at} ^ {mask:#x}", path.display());
                    let broken = sample.storage.snapshot();
                    xor(&broken, &path, at, mask);
                    check(&sample, &broken, &path, &sample.flipped(&path, at), &what);
                    count += 1;
                }
            }
        }
    }
    println!("{count} changed bytes");
}

#[test]
fn a_file_that_lost_its_end_or_grew_costs_what_was_there_and_no_more() {
    let mut count = 0;
    for left in LEFT {
        let sample = Sample::new(left);
        for path in segments(&sample.storage) {
            for to in 0..len(&sample.storage, &path) {
                let what = format!("{left:?}, {} cut to {to}", path.display());
                let broken = sample.storage.snapshot();
                truncate(&broken, &path, to);
                check(&sample, &broken, &path, &sample.cut(&path, to), &what);
                count += 1;
            }
            for (more, byte) in [(1, 0), (8, 0), (5000, 0), (1, 7), (8, 7), (47, 255), (5000, 1)] {
                let what = format!("{left:?}, {} with {more} times {byte}", path.display());
                let broken = sample.storage.snapshot();
                extend(&broken, &path, &vec![byte; more]);
                let nothing = Loss { frames: Vec::new(), told: None };
                check(&sample, &broken, &path, &nothing, &what);
                count += 1;
            }
        }
    }
    println!("{count} lengths");
}

/// One damage of each kind in each segment and frame: the file, a byte, and what it costs.
fn places(sample: &Sample) -> Vec<(PathBuf, u64, Loss)> {
    let mut places = Vec::new();
    for path in segments(&sample.storage) {
        let frames = sample.of(base_of(&path));
        for at in frames.iter().map(|frame| frame.start + 5).chain([5]) {
            let loss = sample.flipped(&path, at);
            places.push((path.clone(), at, loss));
        }
    }
    places
}

#[test]
fn a_repair_that_is_cut_off_anywhere_can_be_repeated_and_loses_no_more() {
    let mut count = 0;
    // With one segment behind the jump nothing but the repair keeps its numbers from coming again.
    for (left, frames) in LEFT.into_iter().flat_map(|left| [(left, 14), (left, 9)]) {
        let sample = Sample::with(left, frames);
        let highest = sample.frames.last().unwrap().records.last().unwrap().0;
        for (path, at, loss) in places(&sample) {
            for changes in 0.. {
                let mut done = false;
                for how in 0..3 {
                    let what = format!("{left:?}, {} byte {at}, {changes} {how}", path.display());
                    let broken = sample.storage.snapshot();
                    xor(&broken, &path, at, 1);
                    let shared: Arc<dyn Storage> = Arc::new(broken.clone());
                    // A sector is written as a whole or not at all, as FORMAT.md assumes.
                    broken.kill_after(changes, 512 * (changes as usize % 2));
                    done = repair(&shared, Path::new(DIR), true, 9).is_ok();
                    match how {
                        0 => broken.kill(),
                        1 => broken.crash(&mut |_| 0),
                        _ => broken.crash_seeded(changes + at),
                    }
                    repair(&shared, Path::new(DIR), true, 9).unwrap();
                    assert!(verify(&broken, Path::new(DIR)).unwrap().is_sound(), "{what}");
                    let log = open(&broken);
                    let (found, errors) = read(&log);
                    let kept = sample.records(&loss.frames);
                    assert_eq!((found, errors.len()), (kept, 0), "{what}: {errors:?}");
                    let next = append(&log, 99..100).unwrap();
                    assert!(loss.told.is_none() || next - 1 > highest, "{what}: {next}");
                    count += 1;
                }
                if done {
                    break;
                }
            }
        }
    }
    println!("{count} repairs that were cut off");
}
