//! What processes do at the same time, under schedules that a scheduler chooses step by step.
//!
//! Random schedules, and such with few switches at chosen steps (Burckhardt et al., "A Randomized Scheduler
//! with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). A failure prints how to repeat it.
//!
//! It was tried on deliberate mistakes, one by one: a lock given back without a wake-up, taken over without its
//! contended bit, taken from the living, held without a locked file; a sleeper that does not look once
//! more, or is not woken; a bell armed without a second look; a tail raised before its frame is whole;
//! durability raised before the sync; a segment's end believed in a newer structure than the one it was read
//! in. Each fails one of these tests. Orderings weaker than sequential consistency are not explored here.

mod medium;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use busline_log::storage::{MemStorage, Storage};
use busline_log::{
    ClaimRequest, Claimed, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime, Log, Now, Options,
    Record, SeqRange, Settle, Settlement,
};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

use self::medium::{Killed, Scheduled};
use crate::support::{append, number, read_all};

/// Switches that a schedule of the second kind has beyond those that waiting makes.
const SWITCHES: usize = 3;

/// Sequence number and value of records that were receipted.
type Receipts = Arc<Mutex<Vec<(u64, u64)>>>;

fn explore(scenario: fn()) -> usize {
    let runs = if std::env::var_os("BUSLINE_LONG").is_some() { 20_000 } else { 150 };
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(runs), config.clone()).run(scenario);
    Runner::new(PctScheduler::new(SWITCHES, runs), config).run(scenario);
    println!("{} schedules explored", 2 * runs);
    2 * runs
}

/// As [`explore`], and checks that in a good part of the schedules somebody died.
fn explore_deaths(deaths: &AtomicUsize, scenario: fn()) {
    let schedules = explore(scenario);
    let deaths = deaths.load(Ordering::Relaxed);
    println!("{deaths} deaths");
    assert!(deaths > schedules / 3 && deaths < schedules, "{deaths} deaths are no test");
}

/// A handle of a log whose segments hold two or three frames.
fn open(storage: &(impl Storage + Clone)) -> Log {
    let options = Options { segment_bytes: 250, ..Options::default() };
    let path = Path::new("/log");
    Log::open_or_create(Arc::new(storage.clone()), path, b"", &options, 1).unwrap()
}

/// Runs as a process that may be killed; false, and counted, when it was.
fn lives(deaths: &AtomicUsize, work: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => true,
        Err(payload) if payload.is::<Killed>() => {
            deaths.fetch_add(1, Ordering::Relaxed);
            false
        }
        Err(payload) => resume_unwind(payload),
    }
}

/// Appends and commits records one by one; what it returns from is receipted.
fn publish(log: &Log, values: std::ops::Range<u64>, receipts: &Receipts) {
    for value in values {
        let next = append(log, value..value + 1).unwrap();
        log.commit(next).unwrap();
        receipts.lock().unwrap().push((next - 1, value));
    }
}

/// What was receipted is there under its number; each value once; those of one writer in their order.
fn check(found: &[(u64, u64)], receipts: &Receipts) {
    for receipt in receipts.lock().unwrap().iter() {
        assert!(found.contains(receipt), "{receipt:?} was receipted and is not in {found:?}");
    }
    for writer in 0..10 {
        let of_writer = found.iter().filter(|(_, value)| value / 100 == writer);
        let values: Vec<_> = of_writer.map(|(_, value)| value).collect();
        assert!(values.is_sorted_by(|a, b| a < b), "writer {writer}: {values:?}");
    }
}

/// What is on the medium when the power fails now.
fn after_power_loss(medium: &MemStorage) -> Vec<(u64, u64)> {
    let medium = medium.snapshot();
    medium.crash(&mut |_| 0);
    read_all(&open(&medium))
}

fn spawn_writers(first: &Scheduled, receipts: &Receipts) -> Vec<shuttle::thread::JoinHandle<()>> {
    let spawn = |writer: u64| {
        let (log, receipts) = (open(&first.process()), Arc::clone(receipts));
        shuttle::thread::spawn(move || publish(&log, writer * 100..writer * 100 + 3, &receipts))
    };
    (1..3).map(spawn).collect()
}

/// Reads until it has seen so many records, waiting at the tail as `wait` does.
fn follow(log: &Log, count: usize, wait: impl Fn(&Log, busline_log::Mark)) {
    let (mut scanner, mut seen) = (log.scanner(), 0);
    while seen < count {
        let mark = log.mark();
        while let Some(record) = scanner.next().unwrap() {
            assert_eq!((record.seq, record.key), (seen as u64, &b"k"[..]));
            number(record.value);
            seen += 1;
        }
        if seen < count {
            wait(log, mark);
        }
    }
}

#[test]
fn writers_roll_and_commit_while_a_reader_sleeps_and_wakes() {
    explore(|| {
        let (first, receipts) = (Scheduled::new(false), Receipts::default());
        let reader = open(&first.process());
        let writers = spawn_writers(&first, &receipts);
        follow(&reader, 6, |log, mark| drop(log.wait(mark, None)));
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let found = read_all(&reader);
        assert_eq!(found.len(), 6);
        check(&found, &receipts);
        assert_eq!(receipts.lock().unwrap().len(), 6);
        assert_eq!(after_power_loss(first.medium()), found);
    });
}

#[test]
fn a_bell_that_was_armed_is_rung() {
    explore(|| {
        let (first, receipts) = (Scheduled::new(false), Receipts::default());
        let reader = open(&first.process());
        let writers = spawn_writers(&first, &receipts);
        let bell = reader.doorbell().unwrap();
        follow(&reader, 6, |_, mark| {
            bell.drain().unwrap();
            if bell.arm(mark).unwrap() {
                bell.wait(None).unwrap();
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

/// A writer dies before any step: in the lock, in the middle of a write, while it rolls or syncs.
#[test]
fn a_writer_that_dies_anywhere_keeps_nobody_out_and_spoils_nothing() {
    static DEATHS: AtomicUsize = AtomicUsize::new(0);
    explore_deaths(&DEATHS, || {
        let (first, receipts) = (Scheduled::new(true), Receipts::default());
        let victim = first.process();
        let log = open(&victim);
        victim.die_in(shuttle::rand::thread_rng().gen_range(0..400));
        let of_victim = Arc::clone(&receipts);
        let dying = shuttle::thread::spawn(move || {
            lives(&DEATHS, move || publish(&log, 300..303, &of_victim))
        });
        let writers = spawn_writers(&first, &receipts);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        dying.join().unwrap();
        let last = open(&first.process());
        publish(&last, 400..401, &receipts);
        let found = read_all(&last);
        check(&found, &receipts);
        let survivors = found.iter().filter(|(_, value)| !(300..303).contains(value)).count();
        assert_eq!(survivors, 7);
        check(&after_power_loss(first.medium()), &receipts);
    });
}

#[test]
fn what_is_called_durable_is_on_the_medium() {
    explore(|| {
        let (first, receipts) = (Scheduled::new(false), Receipts::default());
        let observer = open(&first.process());
        let writers = spawn_writers(&first, &receipts);
        for _ in 0..10 {
            let receipted = Arc::new(Mutex::new(receipts.lock().unwrap().clone()));
            let durable = observer.durable_seq();
            let kept = after_power_loss(first.medium());
            assert!(kept.len() as u64 >= durable, "{durable} are durable, {} kept", kept.len());
            check(&kept, &receipted);
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

/// Segments are removed under a reader's feet: it is told so, or reads what is there, and nothing else.
#[test]
fn a_reader_meets_retention() {
    explore(|| {
        let (first, receipts) = (Scheduled::new(false), Receipts::default());
        let (reader, remover) = (open(&first.process()), open(&first.process()));
        let writers = spawn_writers(&first, &receipts);
        let removing = shuttle::thread::spawn(move || {
            for seq in [2, 4, 6] {
                let seq = seq.min(remover.next_seq());
                remover.remove_before(seq).unwrap();
            }
        });
        let mut scanner = reader.scanner();
        let mut due = scanner.position();
        while due < 6 {
            let mark = reader.mark();
            match scanner.next() {
                Ok(Some(record)) => {
                    assert_eq!(record.seq, due);
                    due += 1;
                }
                Ok(None) => drop(reader.wait(mark, None)),
                Err(error) if matches!(error.kind(), ErrorKind::Removed { .. }) => {
                    let first = scanner.seek_first().unwrap();
                    assert!(first > due, "what it stood before was there: {first}, {due}");
                    due = first;
                }
                Err(error) => panic!("{error}"),
            }
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        removing.join().unwrap();
    });
}

const RECORDS: u64 = 4;

/// What members of a group were handed out, with the attempt, and what they have settled.
#[derive(Default)]
struct Ledger {
    handed: Vec<(u64, u32)>,
    settled: Vec<u64>,
}

/// Claims and acknowledges until the group has nothing left. The time moves with each look.
fn consume(log: &Log, ledger: &Mutex<Ledger>) {
    let mut now = Now { wall_us: 1_000, boot_us: 1_000, boot_id: 5 };
    // Small enough that the group's own log is compacted on the way.
    let options = GroupOptions { snapshot_bytes: 300, ..GroupOptions::default() };
    let group = Group::open(log, "g", &options, now).unwrap();
    let mut member = group.join(now).unwrap();
    while group.info(now).unwrap().counters.acked < RECORDS {
        now.boot_us += 300_000;
        let request = ClaimRequest {
            records_max: 2,
            bytes_max: 1000,
            first_may_exceed: true,
            lease_us: 1 << 60,
            keys: None,
            filter: &|_, _| true,
            order_by: None,
        };
        let mut seqs = Vec::new();
        let mut visit = |one: Claimed, _: &Record<'_>| seqs.push((one.seq, one.attempts));
        let ready = member.try_claim(&request, now, &mut visit).unwrap();
        let claimed = ready.unwrap_or_else(|| member.claim(&request, now, &mut visit).unwrap());
        ledger.lock().unwrap().handed.extend(&seqs);
        if seqs.is_empty() {
            // A look is no progress: others go first.
            shuttle::thread::yield_now();
        }
        for (seq, _) in seqs {
            let seqs = SeqRange { first: seq, last: seq };
            let settle = Settle { claim: claimed.claim, seqs, how: Settlement::Ack };
            let mut lost = Vec::new();
            group.settle(&[settle], now, &mut lost).unwrap();
            assert!(lost.is_empty(), "no lease ran out, and who settles lives: {lost:?}");
            group.commit().unwrap();
            ledger.lock().unwrap().settled.push(seq);
        }
    }
    member.leave(now).unwrap();
}

#[test]
fn members_of_a_group_share_the_work_and_one_dies() {
    static DEATHS: AtomicUsize = AtomicUsize::new(0);
    explore_deaths(&DEATHS, || {
        let first = Scheduled::new(true);
        let log = open(&first);
        let next = append(&log, 0..RECORDS).unwrap();
        log.commit(next).unwrap();
        let now = Now { wall_us: 0, boot_us: 0, boot_id: 5 };
        let spec = GroupSpec { name: "g", config: b"", start: 0, lifetime: Lifetime::Durable };
        Group::declare(&log, &spec, &GroupOptions::default(), now).unwrap();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let victim = first.process();
        let members: Vec<_> = [victim.clone(), first.process()]
            .into_iter()
            .map(|process| {
                let (log, ledger) = (open(&process), Arc::clone(&ledger));
                shuttle::thread::spawn(move || lives(&DEATHS, move || consume(&log, &ledger)))
            })
            .collect();
        victim.die_in(shuttle::rand::thread_rng().gen_range(0..700));
        let lived: Vec<_> = members.into_iter().map(|member| member.join().unwrap()).collect();
        assert!(lived[1], "only the victim may die");
        let mut ledger = ledger.lock().unwrap();
        ledger.settled.sort_unstable();
        // What the victim settled without living to say so is settled all the same.
        assert!(ledger.settled.is_sorted_by(|a, b| a < b), "settled twice: {:?}", ledger.settled);
        if lived[0] {
            assert_eq!(ledger.settled, (0..RECORDS).collect::<Vec<_>>());
        }
        for seq in 0..RECORDS {
            let handed = ledger.handed.iter().filter(|(of, _)| *of == seq);
            let attempts: Vec<_> = handed.map(|(_, attempt)| *attempt).collect();
            // The victim may have died between the claim and saying so: then one attempt is missing here.
            assert!(attempts.is_sorted_by(|a, b| a < b), "record {seq}: attempts {attempts:?}");
            assert!(attempts.iter().all(|&attempt| attempt <= 2), "{attempts:?}");
        }
    });
}
