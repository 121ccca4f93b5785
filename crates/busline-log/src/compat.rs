//! Logs that earlier versions wrote, kept as files: every version reads them, goes on with them, and finds in
//! them what was written.
//!
//! `tests/fixtures/v1` holds logs of version 1 and what is in them, as text. They are never written anew: a change of
//! the format gets a version and a folder of its own, by [`write_fixtures`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{CONTROL, HOLDER};
use crate::frame::HEADER_LEN;
use crate::segment::SEGMENT_HEADER_LEN;
use crate::storage::{FsStorage, MemStorage, OpenMode, Storage};
use crate::{
    Access, Batch, ClaimRequest, Config, DeleteIf, Error, ErrorKind, Group, GroupOptions,
    GroupSpec, KeySet, Lifetime, Log, Member, Now, Options, SeqRange, Settle, Settlement,
    Unsettled, repair, verify, verify_group,
};

const DIR: &str = "/log";
/// How each log was left.
const VARIANTS: [&str; 2] = ["clean", "power-lost"];
/// When a log was written, unix microseconds.
const THEN_US: i64 = 1_790_000_000_000_000;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn options() -> Options {
    Options { segment_bytes: 6_000, ..Options::default() }
}

fn now(storage: &dyn Storage, later_us: u64) -> Now {
    let wall_us = THEN_US.saturating_add_unsigned(later_us);
    Now { wall_us, boot_us: 1_000 + later_us, boot_id: storage.boot_id().unwrap() }
}

#[test]
fn logs_of_earlier_versions_are_read_and_gone_on_with() {
    for variant in VARIANTS {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("log");
        copy(&fixtures().join(variant), &dir);
        let expected = std::fs::read_to_string(fixtures().join(format!("{variant}.txt"))).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
        check_sound(&storage, &dir);
        let read_only = Options { access: Access::ReadOnly, ..options() };
        let log = Log::open(Arc::clone(&storage), &dir, &read_only, THEN_US).unwrap();
        assert_eq!(tell(&log), expected, "{variant}, read only");
        drop(log);
        let log = Log::open(Arc::clone(&storage), &dir, &options(), THEN_US).unwrap();
        assert_eq!(log.open_report().clean, variant == "clean");
        assert_eq!(log.open_report().cut.is_some(), variant == "power-lost");
        assert_eq!(tell(&log), expected, "{variant}");
        check_filter(&log);
        go_on(&log);
        check_sound(&storage, &dir);
        log.close().unwrap();
        drop(log);
        assert!(repair(&storage, &dir, true, 0).unwrap().is_nothing());
        let log = Log::open(storage, &dir, &options(), THEN_US).unwrap();
        let told = tell(&log);
        let records = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.starts_with("record")).map(str::to_owned).collect()
        };
        assert!(records(&told).starts_with(&records(&expected)), "{variant}: {told}");
        assert_eq!(records(&told).len(), records(&expected).len() + 1);
    }
}

/// The clean log of version 1 in a directory of its own.
fn sample() -> (tempfile::TempDir, PathBuf, Arc<dyn Storage>) {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("log");
    copy(&fixtures().join("clean"), &dir);
    (place, dir, Arc::new(FsStorage::new()))
}

/// Everything that can be asked of a log refuses by name what it does not know, and changes nothing.
fn check_newer(dir: &Path, storage: &Arc<dyn Storage>, path: &Path, repairs: bool) {
    let before = std::fs::read(path).unwrap();
    let named = |error: Error| {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Newer, "{text}");
        assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
    };
    let read_only = Options { access: Access::ReadOnly, ..options() };
    for options in [read_only, options()] {
        let read = Log::open(Arc::clone(storage), dir, &options, 0).and_then(|log| {
            let mut scanner = log.scanner();
            while scanner.next()?.is_some() {}
            Ok(())
        });
        named(read.unwrap_err());
    }
    if repairs {
        named(verify(storage.as_ref(), dir).map(drop).unwrap_err());
        named(repair(storage, dir, true, 0).map(drop).unwrap_err());
    }
    assert_eq!(std::fs::read(path).unwrap(), before);
}

#[test]
fn a_newer_format_is_refused_by_name_and_nothing_of_it_is_changed() {
    // The version of FORMAT, with its checksum put right.
    let (_place, dir, storage) = sample();
    let path = dir.join("FORMAT");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    let body = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..body]);
    bytes[body..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    check_newer(&dir, &storage, &path, true);
    for base in [0, 44, (1 << 32) + 44] {
        // That of a segment.
        let (_place, dir, storage) = sample();
        let path = crate::segment::path(&dir, base);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[8..SEGMENT_HEADER_LEN]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        check_newer(&dir, &storage, &path, true);
        // Each flag of a frame, the lowest and the highest.
        for flag in [0, 15] {
            let mut bytes = whole.clone();
            let at = SEGMENT_HEADER_LEN;
            let flags = u16::from_le_bytes([bytes[at + 44], bytes[at + 45]]) ^ 1 << flag;
            bytes[at + 44..at + 46].copy_from_slice(&flags.to_le_bytes());
            let salt = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
            let mut crc = crc32fast::Hasher::new_with_initial(salt);
            crc.update(&bytes[at + 8..at + HEADER_LEN]);
            bytes[at + 4..at + 8].copy_from_slice(&crc.finalize().to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
            check_newer(&dir, &storage, &path, true);
        }
    }
}

#[test]
fn a_group_of_a_newer_version_is_refused_by_name() {
    let stamp = [10, 20];
    let records: [(&[u8], &[u8], Vec<u8>); 8] = [
        (&[3], b"", stamp.to_vec()),
        (&[1], b"", [&stamp[..], &[13]].concat()),
        (&[1], b"", [&stamp[..], &[200]].concat()),
        // An unknown lifetime, departure, fate.
        (&[1], b"", [&stamp[..], &[1, 1, b'x', 0, 0, 3]].concat()),
        (&[1], b"", [&stamp[..], &[5, 1, 0, 0, 0, 0, 0, 0, 0, 2]].concat()),
        (&[1], b"", [&stamp[..], &[9, 0, 6]].concat()),
        (&[2], &[0, 1], vec![2]),
        (&[2], &[0, 1], vec![255]),
    ];
    for (key, meta, value) in records {
        let (_place, dir, storage) = sample();
        let groups = storage.list(&dir.join("groups")).unwrap();
        let name = groups.iter().find(|name| name.starts_with("alerts.")).unwrap();
        let journal = dir.join("groups").join(name);
        let log = Log::open(Arc::clone(&storage), &journal, &options(), 0).unwrap();
        log.appender().append(0, key, meta, &value).unwrap();
        log.close().unwrap();
        let what = format!("{key:?} {value:?}");
        let at = now(storage.as_ref(), 100);
        let log = Log::open(Arc::clone(&storage), &dir, &options(), 0).unwrap();
        let plain = GroupOptions::default();
        let spec = GroupSpec { name: "alerts", config: b"", start: 0, lifetime: Lifetime::Durable };
        let outcomes = [
            Group::open(&log, "alerts", &plain, at).map(drop),
            Group::declare(&log, &spec, &plain, at).map(drop),
            Group::delete(&log, "alerts", DeleteIf::default(), at),
            log.groups_floor(at).map(drop),
            log.collect_groups(at).map(drop),
            verify_group(&storage, &journal).map(drop),
        ];
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let error = outcome.err().unwrap_or_else(|| panic!("{what}: {index} goes through"));
            assert_eq!(error.kind(), ErrorKind::Newer, "{what}: {error}");
            assert!(error.to_string().contains("alerts"), "{what}: {error}");
        }
    }
}

fn check_sound(storage: &Arc<dyn Storage>, dir: &Path) {
    let report = verify(storage.as_ref(), dir).unwrap();
    assert!(report.is_sound(), "{report:?}");
    for name in storage.list(&dir.join("groups")).unwrap() {
        let group = dir.join("groups").join(&name);
        if !name.starts_with('.') {
            assert!(verify(storage.as_ref(), &group).unwrap().is_sound());
            assert!(verify_group(storage, &group).unwrap());
        }
    }
}

/// The frame of many records has a filter, and by it each key is found where it is.
fn check_filter(log: &Log) {
    let segment = std::fs::read(crate::segment::path(log.dir(), 4)).unwrap();
    let header = segment.get(SEGMENT_HEADER_LEN..SEGMENT_HEADER_LEN + HEADER_LEN).unwrap();
    assert_eq!(header[46..], [5, 0], "blocks of the filter");
    let mut seqs: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::from([(b"absent".to_vec(), Vec::new())]);
    let mut scanner = log.scanner();
    while let Some(record) = scanner.next().unwrap() {
        seqs.entry(record.key.to_vec()).or_default().push(record.seq);
    }
    for (key, expected) in seqs {
        let (keys, mut scanner, mut found) = (KeySet::new([&key]), log.scanner(), Vec::new());
        while let Some(record) = scanner.next_of(&keys, u64::MAX).unwrap() {
            found.push(record.seq);
        }
        assert_eq!(found, expected, "{}", key.escape_ascii());
    }
}

/// Appends, and hands out and settles in each group all that it owes.
fn go_on(log: &Log) {
    let appended = log.appender().append(THEN_US, b"later", b"", b"one more").unwrap();
    log.commit(appended.next).unwrap();
    let late = now(log.storage().as_ref(), 1 << 40);
    for name in log.groups().unwrap() {
        let group = Group::open(log, &name, &GroupOptions::default(), late).unwrap();
        let mut owed = Vec::new();
        group.peek(0, 1_000, &|_, _| true, &mut |peeked| owed.push(peeked.seq)).unwrap();
        let mut member = group.join(late).unwrap();
        let mut found = Vec::new();
        loop {
            let claimed = claim(&mut member, 100, late);
            if claimed.is_empty() {
                break;
            }
            for (settle, seq) in claimed {
                group.settle(&[settle], late, &mut Vec::new()).unwrap();
                found.push(seq);
            }
        }
        found.sort_unstable();
        owed.sort_unstable();
        assert_eq!(found, owed, "{name}");
        assert!(found.contains(&appended.first), "{name}");
        group.commit().unwrap();
        member.leave(late).unwrap();
    }
}

fn claim(member: &mut Member, max: usize, now: Now) -> Vec<(Settle, u64)> {
    let request = ClaimRequest {
        records_max: max,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: 30_000_000,
        filter: &|_, _| true,
        keys: None,
        order_by: Some(&|key, _| (key == b"ordered").then_some(7)),
    };
    let mut seqs = Vec::new();
    let outcome = member.claim(&request, now, &mut |claimed, _| seqs.push(claimed.seq)).unwrap();
    let how = Settlement::Ack;
    let settle = |seq| Settle { claim: outcome.claim, seqs: SeqRange::one(seq), how };
    seqs.into_iter().map(|seq| (settle(seq), seq)).collect()
}

/// All that is in a log, as text.
fn tell(log: &Log) -> String {
    let mut text = format!("label {}\nfirst {}\n", log.label().escape_ascii(), log.first_seq());
    let mut scanner = log.scanner();
    while let Some(record) = scanner.next().unwrap() {
        let (seq, time) = (record.seq, record.time_us);
        write!(text, "record {seq} time {time}").unwrap();
        for (what, bytes) in [("key", record.key), ("meta", record.meta), ("value", record.value)] {
            match bytes.len() {
                0..64 => write!(text, " {what} \"{}\"", bytes.escape_ascii()),
                len => write!(text, " {what} of {len} bytes, crc32 {:08x}", crc32fast::hash(bytes)),
            }
            .unwrap();
        }
        text.push('\n');
    }
    let at = now(log.storage().as_ref(), 50);
    for name in log.groups().unwrap() {
        let group = Group::open(log, &name, &GroupOptions::default(), at).unwrap();
        let info = group.info(at).unwrap();
        let Config { bytes, epoch } = &info.config;
        writeln!(text, "group {name:?} config \"{}\" of epoch {epoch}", bytes.escape_ascii())
            .unwrap();
        writeln!(text, "    lifetime {:?}, created {}", info.lifetime, info.created_us).unwrap();
        writeln!(text, "    cursor {}, floor {}, lag {}", info.cursor, info.floor, info.lag)
            .unwrap();
        let held = (info.ready, info.parked, info.claimed);
        writeln!(text, "    ready {}, parked {}, claimed {}", held.0, held.1, held.2).unwrap();
        let counters = info.counters;
        writeln!(
            text,
            "    delivered {}, redelivered {}, acked {}, rejected {}, parked {}, abandoned {}",
            counters.delivered,
            counters.redelivered,
            counters.acked,
            counters.rejected,
            counters.parked,
            counters.abandoned
        )
        .unwrap();
        let mut tell_one = |peeked: crate::Peeked| {
            let state = match peeked.state {
                Unsettled::Parked { due_us } => format!("parked until {due_us}"),
                Unsettled::Claimed { .. } => "claimed".to_owned(),
                Unsettled::New => return,
                other => format!("{other:?}").to_lowercase(),
            };
            writeln!(text, "    {} attempts {} {state}", peeked.seq, peeked.attempts).unwrap();
        };
        group.peek(0, 1_000, &|_, _| true, &mut tell_one).unwrap();
    }
    text
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::write(target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[test]
#[ignore = "writes the logs that later versions must read; only for a new version of the format"]
fn write_fixtures() {
    for variant in VARIANTS {
        let storage = MemStorage::new();
        write_log(&storage, variant);
        let dir = fixtures().join(variant);
        assert!(!dir.exists(), "{} is kept as it is", dir.display());
        export(&storage, Path::new(DIR), &dir);
        if variant == "power-lost" {
            tear(&dir);
        }
        let place = tempfile::tempdir().unwrap();
        copy(&dir, &place.path().join("log"));
        let storage = Arc::new(FsStorage::new());
        let read_only = Options { access: Access::ReadOnly, ..options() };
        let log = Log::open(storage, &place.path().join("log"), &read_only, THEN_US).unwrap();
        std::fs::write(fixtures().join(format!("{variant}.txt")), tell(&log)).unwrap();
    }
}

/// Takes away the end of what was written last, which nobody was told of.
fn tear(dir: &Path) {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let last = names.filter(|path| path.extension().is_some_and(|ext| ext == "seg")).max().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    // Behind the last frame there may be zeros.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(end - 20);
    std::fs::write(last, bytes).unwrap();
}

/// Writes to disk what lasts: no locks, no control page, nothing that is empty.
fn export(storage: &dyn Storage, from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in storage.list(from).unwrap() {
        let path = from.join(&name);
        let passes = [CONTROL, "members", "reserve", "bells"];
        if passes.contains(&name.as_str()) || name.starts_with(HOLDER) {
            continue;
        }
        let Ok(file) = storage.open(&path, OpenMode::Read) else {
            export(storage, &path, &to.join(&name));
            continue;
        };
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        if !bytes.is_empty() {
            std::fs::write(to.join(name), bytes).unwrap();
        }
    }
}

/// Frames with all that a frame can have, several segments, a jump, groups with a bit of everything.
fn write_log(storage: &MemStorage, variant: &str) {
    let open = || {
        let storage = Arc::new(storage.clone());
        Log::open_or_create(storage, Path::new(DIR), b"topic \xff", &options(), THEN_US).unwrap()
    };
    let log = open();
    write_records(&log, 0);
    write_groups(&log);
    log.sync().unwrap();
    // A loss of power in the middle, with records that were not synced: their numbers are jumped over.
    log.appender().append(THEN_US + 9, b"lost", b"", b"with the power").unwrap();
    storage.crash(&mut |_| 0);
    drop(log);
    let log = open();
    assert!(log.open_report().jumped_to.is_some());
    write_records(&log, 1_000_000);
    let group = Group::open(&log, "alerts", &GroupOptions::default(), now(storage, 20)).unwrap();
    let mut member = group.join(now(storage, 20)).unwrap();
    let claimed = claim(&mut member, 3, now(storage, 20));
    group.settle(&[claimed[0].0], now(storage, 21), &mut Vec::new()).unwrap();
    group.commit().unwrap();
    if variant == "clean" {
        drop((member, group));
        log.close().unwrap();
        return;
    }
    log.sync().unwrap();
    log.appender().append(THEN_US + 2_000_000, b"torn", b"", &[b'x'; 2_000]).unwrap();
    storage.crash(&mut |count| count - 1);
}

fn write_records(log: &Log, later_us: i64) {
    let at = THEN_US + later_us;
    let commit = |next: u64| log.commit(next).unwrap();
    // One record in a frame; nothing in a record; bytes that are no text; the longest key.
    commit(log.appender().append(at, b"quake.alert", b"meta", b"a value").unwrap().next);
    commit(log.appender().append(at, b"", b"", b"").unwrap().next);
    commit(log.appender().append(at, b"\x00\xff", b"\xfe", b"\x80").unwrap().next);
    // The clock goes back, the times of the log do not.
    commit(log.appender().append(at - 5_000_000, b"ordered", b"1", b"back").unwrap().next);
    // Many records in a frame, each some time after it, and so many bytes that it has a filter of its keys.
    let mut batch = Batch::new(1 << 20);
    for number in 0..40u64 {
        let key = format!("quake.{}", number % 9);
        let value = vec![b'a' + (number % 26) as u8; (number * 24) as usize];
        batch.push_after(number * 100, key.as_bytes(), b"m", &value).unwrap();
    }
    let mut guard = log.lock_append().unwrap();
    let next = guard.append(&mut batch, at + 10).unwrap().next;
    drop(guard);
    commit(next);
    for number in 0..6u64 {
        let key: &[u8] = if number % 2 == 0 { b"ordered" } else { b"other" };
        let value = format!("the same text again, {number}").repeat(20);
        commit(log.appender().append(at + 20, key, b"", value.as_bytes()).unwrap().next);
    }
}

fn write_groups(log: &Log) {
    let at = now(log.storage().as_ref(), 5);
    let plain = GroupOptions::default();
    let declare = |name, start, lifetime, options: &GroupOptions| {
        let spec = GroupSpec { name, config: b"config", start, lifetime };
        Group::declare(log, &spec, options, at).unwrap().group
    };
    // One with a bit of everything: acknowledged, rejected, parked, given back, still held, in order.
    let alerts = declare("alerts", 0, Lifetime::Durable, &plain);
    let mut one = alerts.join(at).unwrap();
    let mut two = alerts.join(at).unwrap();
    let mut lost = Vec::new();
    let fates = [
        Settlement::Ack,
        Settlement::Reject,
        Settlement::Park { delay_us: 3_000_000 },
        Settlement::Release { counted: true },
        Settlement::Release { counted: false },
        Settlement::Renew { lease_us: 60_000_000 },
    ];
    let claimed = claim(&mut one, 10, at);
    for (how, (settle, _)) in fates.into_iter().zip(&claimed) {
        alerts.settle(&[Settle { how, ..*settle }], at, &mut lost).unwrap();
    }
    claim(&mut two, 3, at);
    two.leave(at).unwrap();
    alerts.set_config(b"another config", None, at).unwrap();
    // One whose log begins with a snapshot.
    let options = GroupOptions { snapshot_bytes: 200, ..plain };
    let compact = declare("compact", 2, Lifetime::Idle { us: 1 << 50 }, &options);
    let mut member = compact.join(at).unwrap();
    for _ in 0..12 {
        for (settle, _) in claim(&mut member, 1, at) {
            compact.settle(&[settle], at, &mut lost).unwrap();
        }
    }
    compact.reset(4, at).unwrap();
    for (settle, _) in claim(&mut member, 3, at) {
        let how = Settlement::Park { delay_us: 1 };
        compact.settle(&[Settle { how, ..settle }], at, &mut lost).unwrap();
    }
    // One that did nothing yet, with a name that is no file name.
    let fresh = declare("../Größe 1", log.next_seq(), Lifetime::Durable, &plain);
    for group in [&alerts, &compact, &fresh] {
        group.commit().unwrap();
    }
    assert!(lost.is_empty());
}
