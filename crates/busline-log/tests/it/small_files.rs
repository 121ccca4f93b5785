//! What lies beside the segments, damaged: FORMAT, the clean mark, the poison note, the control page; files that are
//! missing, swapped, doubled, of another log, or directories.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use busline_log::storage::{FsStorage, MemStorage, OpenMode, PAGE_WORDS, Storage};
use busline_log::{Access, Error, ErrorKind, Log, Options, repair, verify};

use crate::support::*;

const RECORDS: u64 = 20;

/// A log of some segments; clean, or killed so that its control page is believed.
fn sample(clean: bool) -> MemStorage {
    let storage = MemStorage::new();
    let log = open(&storage);
    for number in 0..RECORDS {
        let next = append(&log, number..number + 1).unwrap();
        log.commit(next).unwrap();
    }
    if clean {
        log.close().unwrap();
        storage.crash(&mut |count| count - 1);
    } else {
        storage.kill();
    }
    storage
}

fn all() -> Vec<u64> {
    (0..RECORDS).collect()
}

fn put(storage: &dyn Storage, name: &str, bytes: &[u8]) {
    let file = storage.open(&Path::new(DIR).join(name), OpenMode::Create).unwrap();
    file.truncate(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
    storage.sync_dir(Path::new(DIR)).unwrap();
}

fn get(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let file = storage.open(&Path::new(DIR).join(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Every byte with one bit changed, every length, and longer.
fn variants(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut variants: Vec<Vec<u8>> = (0..bytes.len()).map(|len| bytes[..len].to_vec()).collect();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut variant = bytes.to_vec();
            variant[at] ^= 1 << bit;
            variants.push(variant);
        }
    }
    variants.extend([1, 100, 200_000].map(|more| [bytes, &vec![0; more]].concat()));
    variants.extend([1, 100].map(|more| [bytes, &vec![9; more]].concat()));
    variants.push(vec![0; bytes.len()]);
    variants
}

fn every_way_in(storage: &MemStorage) -> Vec<Result<(), Error>> {
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let dir = Path::new(DIR);
    let read_only = Options { access: Access::ReadOnly, ..tiny() };
    vec![
        Log::open(Arc::clone(&shared), dir, &tiny(), 1).map(drop),
        try_open(storage).map(drop),
        Log::open(Arc::clone(&shared), dir, &read_only, 1).map(drop),
        verify(storage, dir).map(drop),
        repair(&shared, dir, true, 9).map(drop),
        Log::delete(storage, dir),
    ]
}

#[test]
fn a_damaged_format_file_is_named_and_nothing_is_done() {
    let storage = sample(true);
    let whole = get(&storage, "FORMAT");
    for variant in variants(&whole) {
        put(&storage, "FORMAT", &variant);
        let flipped = whole.iter().zip(&variant).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        if variant.len() == whole.len() && flipped == 1 {
            // What it said is certain then: it is damage all the same, and a repair sets it right.
            assert_eq!(try_open(&storage).map(drop).unwrap_err().kind(), ErrorKind::Damaged);
            assert!(!verify(&storage, Path::new(DIR)).unwrap().is_sound());
            let shared: Arc<dyn Storage> = Arc::new(storage.clone());
            assert!(repair(&shared, Path::new(DIR), false, 9).unwrap().format.is_some());
            assert_eq!(get(&storage, "FORMAT"), whole);
            continue;
        }
        storage.start_record();
        for outcome in every_way_in(&storage) {
            let error = outcome.unwrap_err();
            let text = error.to_string();
            let told = matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io);
            assert!(told && text.contains("/bus/log/FORMAT"), "{variant:?}: {error:?}");
        }
        assert_eq!(storage.take_record(), []);
    }
    put(&storage, "FORMAT", &whole);
    assert_eq!(values(&open(&storage)), all());
}

#[test]
fn a_newer_version_is_refused_by_name_everywhere() {
    let storage = sample(true);
    let mut format = get(&storage, "FORMAT");
    format[8] += 1;
    let body = format.len() - 4;
    let crc = crc32fast::hash(&format[..body]);
    format[body..].copy_from_slice(&crc.to_le_bytes());
    put(&storage, "FORMAT", &format);
    for outcome in every_way_in(&storage) {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Newer, "{error}");
        assert!(error.to_string().contains("version=2"), "{error}");
    }
}

#[test]
fn a_damaged_clean_mark_is_not_believed_and_costs_nothing() {
    let whole = get(&sample(true), "CLEAN");
    for variant in variants(&whole) {
        let storage = sample(true);
        put(&storage, "CLEAN", &variant);
        assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
        let log = open(&storage);
        assert!(!log.open_report().clean && log.open_report().damage.is_none());
        assert_eq!(values(&log), all());
    }
}

#[test]
fn a_poison_note_counts_whatever_it_says() {
    for note in [&b""[..], b"text", &[0xff; 100], &[b'x'; 200_000]] {
        let storage = sample(true);
        put(&storage, "POISONED", note);
        let report = verify(&storage, Path::new(DIR)).unwrap();
        assert!(!report.is_sound() && report.poisoned.is_some_and(|note| !note.is_empty()));
        let log = open(&storage);
        assert_eq!(append(&log, 99..100).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(values(&log), all());
        log.close().unwrap();
        drop(log);
        let shared: Arc<dyn Storage> = Arc::new(storage.clone());
        assert!(repair(&shared, Path::new(DIR), false, 9).unwrap().poison_cleared);
        assert!(verify(&storage, Path::new(DIR)).unwrap().is_sound());
        storage.crash(&mut |_| 0);
        let log = open(&storage);
        append(&log, 99..100).unwrap();
        assert_eq!(values(&log).len() as u64, RECORDS + 1);
    }
}

/// Runs what must come to an end, which a test that waits for it in vain says.
fn in_time<R: Send + 'static>(what: &str, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || done.send(run()));
    match wait.recv_timeout(Duration::from_secs(30)) {
        Ok(result) => result,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        Err(_) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

#[test]
fn garbage_in_the_control_page_keeps_nobody_waiting_and_loses_nothing() {
    let whole = sample(false);
    let page_of = |storage: &MemStorage| storage.shared_page(&Path::new(DIR).join("control"));
    let mut count = 0;
    for word in 0..PAGE_WORDS {
        // The slots of the doorbells are all alike.
        if (70..PAGE_WORDS - 2).contains(&word) && word % 64 != 0 {
            continue;
        }
        let old = page_of(&whole).unwrap().words()[word].load(Ordering::SeqCst);
        let flips = (0..64).step_by(7).map(|bit| old ^ 1 << bit);
        let values: BTreeSet<u64> =
            [0, 1, 2, 3, u64::MAX, 1 << 63, old.wrapping_add(1), old.wrapping_sub(1)]
                .into_iter()
                .chain(flips)
                .filter(|value| *value != old)
                .collect();
        for value in values {
            let what = format!("word {word} = {value:#x}, was {old:#x}");
            let storage = whole.snapshot();
            page_of(&storage).unwrap().words()[word].store(value, Ordering::SeqCst);
            let told = what.clone();
            let user = storage.clone();
            in_time(&what, move || use_it(&user, &told));
            storage.crash(&mut |count| count - 1);
            let log = open(&storage);
            let report = log.open_report();
            assert_eq!(report.damage, None, "{what}");
            assert_eq!(values_of_sample(&log), all(), "{what}: {report:?}");
            count += 1;
        }
    }
    println!("{count} words of garbage");
}

/// Opens and reads; what is returned is right. Nothing is written, nor closed, by what the page says.
fn use_it(storage: &MemStorage, what: &str) {
    let _ = verify(storage, Path::new(DIR));
    let Ok(log) = try_open(storage) else { return };
    read_all_there_is(&log, what);
    log.abandon();
}

fn read_all_there_is(log: &Log, what: &str) {
    let mut scanner = log.scanner();
    for _ in 0..1000 {
        match scanner.next() {
            Ok(Some(record)) => assert_eq!(number(record.value), record.seq, "{what}"),
            Ok(None) => return,
            Err(_) => {
                if scanner.skip_damage().is_err() {
                    return;
                }
            }
        }
    }
    panic!("{what}: reading does not end");
}

fn values_of_sample(log: &Log) -> Vec<u64> {
    values(log).into_iter().filter(|value| *value < RECORDS).collect()
}

/// A clean log on disk; its directory and the names in it.
fn on_disk(parent: &Path) -> (std::path::PathBuf, Vec<String>) {
    let dir = parent.join("log");
    let log = disk_open(&dir).unwrap();
    for number in 0..RECORDS {
        append(&log, number..number + 1).unwrap();
    }
    log.close().unwrap();
    let names = std::fs::read_dir(&dir).unwrap();
    (dir, names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
}

fn disk_open(dir: &Path) -> Result<Log, Error> {
    Log::open_or_create(Arc::new(FsStorage::new()), dir, b"", &tiny(), 1)
}

/// Reads a log to its end or to its first error, which must name `name`; verify and repair must not do worse.
fn look_at(dir: &Path, name: &str, what: &str) -> String {
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let check = |error: Error| {
        let text = error.to_string();
        assert!(text.contains(name), "{what}: {text}");
        text
    };
    if let Err(error) = verify(storage.as_ref(), dir) {
        check(error);
    }
    let told = match disk_open(dir) {
        Err(error) => check(error),
        Ok(log) => {
            let (mut scanner, mut found) = (log.scanner(), 0);
            loop {
                match scanner.next() {
                    Ok(Some(record)) => {
                        assert_eq!(number(record.value), record.seq, "{what}");
                        found += 1;
                    }
                    Ok(None) if found == RECORDS => break "nothing is lost".to_owned(),
                    Ok(None) => panic!("{what}: the log ends after {found} records"),
                    Err(error) => break error.to_string(),
                }
            }
        }
    };
    if let Err(error) = repair(&storage, dir, true, 9) {
        check(error);
    } else {
        match disk_open(dir).and_then(|log| append(&log, 99..100).map(|_| log)) {
            Err(error) => drop(check(error)),
            Ok(log) => assert_eq!(values(&log).last(), Some(&99)),
        }
    }
    println!("{what}: {told}");
    told
}

#[test]
fn a_directory_where_a_file_should_be_and_a_file_where_a_directory_should_be_are_named() {
    let names = on_disk(tempfile::tempdir().unwrap().path()).1;
    for name in names.iter().map(String::as_str).chain(["POISONED", "bells", "groups"]) {
        let parent = tempfile::tempdir().unwrap();
        let (dir, _) = on_disk(parent.path());
        let path = dir.join(name);
        if path.is_dir() || ["bells", "groups"].contains(&name) {
            let _ = std::fs::remove_dir_all(&path);
            std::fs::write(&path, b"text").unwrap();
        } else {
            let _ = std::fs::remove_file(&path);
            std::fs::create_dir(&path).unwrap();
        }
        look_at(&dir, name, &format!("{name} of the other kind"));
    }
}

#[test]
fn a_log_that_lost_its_format_file_is_not_made_anew_over_its_records() {
    for records in [1, RECORDS] {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("log");
        let log = disk_open(&dir).unwrap();
        for number in 0..records {
            append(&log, number..number + 1).unwrap();
        }
        log.close().unwrap();
        let (format, aside) = (dir.join("FORMAT"), parent.path().join("FORMAT"));
        std::fs::rename(&format, &aside).unwrap();
        let error = disk_open(&dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains("/FORMAT"), "{error}");
        std::fs::rename(&aside, &format).unwrap();
        assert_eq!(values(&disk_open(&dir).unwrap()).len() as u64, records);
    }
}

#[test]
fn a_file_that_is_missing_is_named_or_made_anew() {
    let names = on_disk(tempfile::tempdir().unwrap().path()).1;
    let last = names.iter().filter(|name| name.ends_with(".seg")).max().unwrap().clone();
    // That of a holder has another name in each log, and ends with its handle.
    for name in names.into_iter().filter(|name| !name.starts_with("holder.")) {
        let parent = tempfile::tempdir().unwrap();
        let (dir, _) = on_disk(parent.path());
        let path = dir.join(&name);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        let told = look_at(&dir, "", &format!("{name} is missing"));
        let is_needed = name.ends_with(".seg") || name == "FORMAT";
        assert_eq!(is_needed, told != "nothing is lost", "{name}: {told}");
        assert!(name != last || told.contains(&last), "{told}");
    }
}

#[test]
fn segments_that_are_swapped_doubled_or_of_another_log_are_named() {
    let parent = tempfile::tempdir().unwrap();
    let (foreign, names) = on_disk(parent.path());
    let mut segments: Vec<_> = names.into_iter().filter(|name| name.ends_with(".seg")).collect();
    segments.sort();
    for (at, name) in segments.iter().enumerate() {
        let other = &segments[(at + 1) % segments.len()];
        for kind in ["swapped", "doubled", "foreign"] {
            let parent = tempfile::tempdir().unwrap();
            let (dir, _) = on_disk(parent.path());
            let (path, other_path) = (dir.join(name), dir.join(other));
            match kind {
                "swapped" => {
                    std::fs::rename(&path, dir.join("x")).unwrap();
                    std::fs::rename(&other_path, &path).unwrap();
                    std::fs::rename(dir.join("x"), &other_path).unwrap();
                }
                "doubled" => drop(std::fs::copy(&path, &other_path).unwrap()),
                _ => drop(std::fs::copy(foreign.join(name), &path).unwrap()),
            }
            let told = look_at(&dir, "", &format!("{name} is {kind}"));
            let named = if kind == "doubled" { other } else { name };
            let either = kind == "swapped" && told.contains(other.as_str());
            assert!(told.contains(named.as_str()) || either, "{kind} {name}: {told}");
        }
    }
}
