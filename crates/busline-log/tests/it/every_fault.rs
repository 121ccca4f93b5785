//! Every call that a log and a group make to the medium fails once: nobody panics or waits for ever, no receipt is
//! false, nothing receipted is lost, and the error names the file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use busline_log::storage::{Call, Fault, FaultyStorage, FsStorage, MemStorage, Storage};
use busline_log::{
    ClaimRequest, Error, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime, Log, Member, Now,
    SeqRange, Settle, Settlement, repair, verify, verify_group,
};

use crate::helper::{Helper, given, say, wait_for_the_end_of_input};
use crate::support::*;

const GROUP: &str = "alerts";
const CALLS: [Call; 14] = [
    Call::Open,
    Call::Read,
    Call::Write,
    Call::Truncate,
    Call::Sync,
    Call::SyncDir,
    Call::Rename,
    Call::Remove,
    Call::CreateDir,
    Call::List,
    Call::Lock,
    Call::Page,
    Call::PageSync,
    Call::Bell,
];

fn now(storage: &dyn Storage, us: u64) -> Now {
    Now { wall_us: us.cast_signed(), boot_us: us, boot_id: storage.boot_id().unwrap() }
}

/// What was told to those who asked for something.
#[derive(Debug, Default)]
struct Told {
    /// Values by number whose appending succeeded, and how many of them were said to be durable.
    appended: BTreeMap<u64, u64>,
    durable: u64,
    /// Records below this were removed on demand.
    removed: u64,
    /// The group was said to be there, durably.
    declared: bool,
    acked: BTreeSet<u64>,
    /// Acknowledged, and said to be durable.
    acked_durably: BTreeSet<u64>,
    errors: Vec<Error>,
}

impl Told {
    fn note<T>(&mut self, outcome: Result<T, Error>) -> Option<T> {
        outcome.map_err(|error| self.errors.push(error)).ok()
    }
}

fn claim(member: &mut Member, now: Now) -> Result<Vec<Settle>, Error> {
    let request = ClaimRequest {
        records_max: 3,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: 1_000,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    };
    let mut seqs = Vec::new();
    let outcome = member.claim(&request, now, &mut |claimed, _| seqs.push(claimed.seq))?;
    let settle =
        |seq| Settle { claim: outcome.claim, seqs: SeqRange::one(seq), how: Settlement::Ack };
    Ok(seqs.into_iter().map(settle).collect())
}

/// One process with two handles makes a log, writes it over some segments, uses a group, removes the front, closes,
/// and comes back. It tries everything, whatever failed before.
fn work(storage: &FaultyStorage) -> Told {
    let mut told = Told::default();
    for round in 0..2 {
        let Some(log) = told.note(try_open(storage)) else { continue };
        let other = told.note(try_open(storage));
        for step in 0..6 {
            let handle = if step % 2 == 0 { &log } else { other.as_ref().unwrap_or(&log) };
            write_one(handle, round * 10 + step, &mut told);
        }
        use_group(&log, round, &mut told);
        if round == 1 && told.note(log.remove_before(6)).is_some() {
            told.removed = log.first_seq();
        }
        let mut scanner = log.scanner();
        while let Some(Some(_)) = told.note(scanner.next()) {}
        if let Some(bell) = told.note(log.doorbell()) {
            let _ = told.note(bell.arm(log.mark()));
            log.ring();
        }
        drop(other);
        told.note(log.close());
    }
    told
}

fn write_one(log: &Log, value: u64, told: &mut Told) {
    let Some(next) = told.note(append(log, value..value + 1)) else { return };
    told.appended.insert(next - 1, value);
    if told.note(log.commit(next)).is_some() {
        told.durable = told.durable.max(next);
    }
}

fn use_group(log: &Log, round: u64, told: &mut Told) {
    let at = now(log.storage().as_ref(), 10 + round * 100_000);
    let spec = GroupSpec { name: GROUP, config: b"all", start: 0, lifetime: Lifetime::Durable };
    let options = GroupOptions { snapshot_bytes: 150, ..GroupOptions::default() };
    let Some(declared) = told.note(Group::declare(log, &spec, &options, at)) else { return };
    told.declared = true;
    let group = declared.group;
    let Some(mut member) = told.note(group.join(at)) else { return };
    for _ in 0..2 {
        let Some(items) = told.note(claim(&mut member, at)) else { continue };
        let Some(first) = items.first().copied() else { continue };
        let mut lost = Vec::new();
        if told.note(group.settle(&[first], at, &mut lost)).is_some() && lost.is_empty() {
            told.acked.insert(first.seqs.first);
            if told.note(group.commit()).is_some() {
                told.acked_durably.clone_from(&told.acked);
            }
        }
    }
    told.note(member.leave(at));
    told.note(log.groups_floor(at));
}

/// Looks at a log after its process ended and the power failed: what is there must fit what was told.
fn check(memory: &MemStorage, told: &Told, what: &str) {
    let dir = Path::new(DIR);
    if !Log::exists(memory, dir).unwrap() {
        assert_eq!(told.durable, 0, "{what}: {told:?}");
        return;
    }
    let report = verify(memory, dir).unwrap();
    assert_eq!(report.damage().count(), 0, "{what}: {report:?}");
    let shared: Arc<dyn Storage> = Arc::new(memory.clone());
    if report.poisoned.is_some() {
        let log = open(memory);
        assert_eq!(append(&log, 90..91).unwrap_err().kind(), ErrorKind::Poisoned, "{what}");
        drop(log);
        assert!(repair(&shared, dir, false, 9).unwrap().poison_cleared, "{what}");
    }
    let log = open(memory);
    let found: BTreeMap<u64, u64> = read_all(&log).into_iter().collect();
    for (seq, value) in &told.appended {
        let is_there = found.get(seq) == Some(value);
        // Nothing from the sixth record on was to be removed.
        let must = *seq < told.durable && (*seq >= 6 || *seq >= log.first_seq());
        assert!(is_there || !must, "{what}: {seq} is lost of {told:?}, found {found:?}");
    }
    for (seq, value) in &found {
        assert_eq!(told.appended.get(seq), Some(value), "{what}: {seq} was never told of");
    }
    append(&log, 99..100).unwrap();
    check_group(&log, told, &found, what);
}

fn check_group(log: &Log, told: &Told, found: &BTreeMap<u64, u64>, what: &str) {
    let storage = log.storage();
    let late = now(storage.as_ref(), 1_000_000_000);
    let names = storage.list(&Path::new(DIR).join("groups")).unwrap_or_default();
    let dirs = names.iter().filter(|name| name.starts_with(GROUP));
    for dir in dirs.map(|name| Path::new(DIR).join("groups").join(name)) {
        if Log::exists(storage.as_ref(), &dir).unwrap() {
            if verify(storage.as_ref(), &dir).unwrap().poisoned.is_some() {
                assert!(repair(storage, &dir, false, 9).unwrap().poison_cleared, "{what}");
            }
            verify_group(storage, &dir).unwrap();
        }
    }
    let group = match Group::open(log, GROUP, &GroupOptions::default(), late) {
        Ok(group) => group,
        Err(error) => {
            assert!(!told.declared && error.kind() == ErrorKind::NotFound, "{what}: {error}");
            return;
        }
    };
    let mut member = group.join(late).unwrap();
    let mut handed = BTreeSet::new();
    loop {
        let items = claim(&mut member, late).unwrap();
        if items.is_empty() {
            break;
        }
        handed.extend(items.iter().map(|item| item.seqs.first));
        group.settle(&items, late, &mut Vec::new()).unwrap();
    }
    for seq in found.keys() {
        let must = !told.acked.contains(seq);
        assert!(!must || handed.contains(seq), "{what}: {seq} is never handed out");
        let may = !told.acked_durably.contains(seq);
        assert!(may || !handed.contains(seq), "{what}: {seq} comes again");
    }
}

/// The role of a process that cannot sync what it wrote.
pub(crate) fn poison_a_log() {
    let storage = FaultyStorage::new(Arc::new(FsStorage::new()));
    let dir = PathBuf::from(given("DIR"));
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let log = Log::open(shared, &dir, &tiny(), 1).unwrap();
    let next = append(&log, 1..2).unwrap();
    storage.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on(".seg"));
    let error = log.commit(next).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    say(&error.to_string());
    wait_for_the_end_of_input();
}

#[test]
fn a_process_that_cannot_sync_stops_all_others_until_a_repair() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("log");
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let log = Log::create(Arc::clone(&storage), &dir, b"", &tiny(), 1).unwrap();
    let next = append(&log, 0..1).unwrap();
    log.commit(next).unwrap();
    let (to, said) = channel();
    let helper = Helper::start(0, "poisoner", &[("DIR", dir.to_str().unwrap())], &to);
    let (_, line) = said.recv().unwrap();
    let line = line.expect("the helper lives");
    assert!(line.contains(".seg") && line.contains("repair"), "{line}");
    // This process wrote nothing wrong, and may not go on all the same; also when the other is gone.
    let refused = |log: &Log| {
        assert_eq!(append(log, 2..3).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(log.commit(2).unwrap_err().kind(), ErrorKind::Poisoned);
        log.commit(1).unwrap();
        assert_eq!(values(log), [0, 1]);
    };
    refused(&log);
    drop(helper);
    refused(&log);
    let note = verify(storage.as_ref(), &dir).unwrap().poisoned.unwrap();
    assert!(note.contains("could not be made durable"), "{note}");
    let busy = repair(&storage, &dir, false, 9).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    log.close().unwrap();
    drop(log);
    let reopen = || Log::open(Arc::clone(&storage), &dir, &tiny(), 1).unwrap();
    refused(&reopen());
    assert!(repair(&storage, &dir, false, 9).unwrap().poison_cleared);
    let log = reopen();
    append(&log, 2..3).unwrap();
    log.sync().unwrap();
    assert_eq!(values(&log), [0, 1, 2]);
}

#[test]
fn every_call_to_the_medium_may_fail_once() {
    let kinds = [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    let mut count = 0;
    for call in CALLS {
        let mut fired = 0;
        for after in 0.. {
            let kind = kinds[after % kinds.len()];
            let before = fired;
            for stored in if call == Call::Write { &[0, 60][..] } else { &[0][..] } {
                let memory = MemStorage::new();
                let storage = FaultyStorage::over_memory(&memory);
                let fault = Fault::new(call, kind).after(after as u64).storing(*stored);
                storage.plan().add(fault);
                let told = work(&storage);
                fired += storage.plan().hits();
                let what = format!("{call:?} {after} {kind:?}, {stored} bytes stored");
                for error in &told.errors {
                    let text = error.to_string();
                    assert!(text.contains(DIR), "{what}: {text}");
                }
                memory.crash(&mut |_| 0);
                check(&memory, &told, &what);
                count += 1;
            }
            if fired == before {
                break;
            }
        }
        assert!(fired > 0 || matches!(call, Call::PageSync), "{call:?} is never made");
    }
    println!("{count} faults");
}
