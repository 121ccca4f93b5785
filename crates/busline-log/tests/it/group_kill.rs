//! Members of a group in several processes are killed while they hold records; every record is settled once.
//!
//! Members claim, say what they got, settle, and only then say what they settled. A record may be handed
//! out again after its holder was killed, with the next attempt; once somebody has said that he settled it, it
//! must never be handed out again, and in the end all must be settled. The group's own log is compacted every
//! few kilobytes, so that many victims die in the middle of that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use busline_log::storage::{FsStorage, Storage};
use busline_log::{
    ClaimRequest, Group, GroupOptions, GroupSpec, Lifetime, Log, Now, Options, SeqRange, Settle,
    Settlement,
};
use rustix::time::{ClockId, clock_gettime};

use crate::helper::{Helper, given, listen, say, stop_flag};
use crate::records::{Rng, seed, value_of};

const MEMBERS: usize = 4;
const STREAM: &str = "s";

fn storage() -> Arc<dyn Storage> {
    Arc::new(FsStorage::new())
}

fn open(dir: &str) -> Log {
    let options = Options { segment_bytes: 256 << 10, ..Options::default() };
    Log::open_or_create(storage(), Path::new(dir), b"", &options, 0).expect("the log opens")
}

fn options() -> GroupOptions {
    GroupOptions { snapshot_bytes: 4 << 10, ..GroupOptions::default() }
}

fn spec() -> GroupSpec<'static> {
    GroupSpec { name: "workers", config: b"", start: 0, lifetime: Lifetime::Durable }
}

fn now() -> Now {
    let since = clock_gettime(ClockId::Monotonic);
    let boot_us = since.tv_sec.unsigned_abs() * 1_000_000 + since.tv_nsec.unsigned_abs() / 1_000;
    let boot_id = FsStorage::new().boot_id().expect("Linux says it");
    Now { wall_us: boot_us.cast_signed(), boot_us, boot_id }
}

/// The role of a member.
pub(crate) fn work_until_stopped() {
    let stop = stop_flag();
    let log = open(&given("DIR"));
    let group = Group::open(&log, spec().name, &options(), now()).expect("it was declared");
    let mut member = group.join(now()).expect("it can be joined");
    let mut rng = Rng(given("SEED").parse().expect("a number"));
    while !stop.load(Ordering::SeqCst) {
        let mark = log.mark();
        let request = ClaimRequest {
            records_max: 1 + rng.below(20) as usize,
            bytes_max: 1 << 20,
            first_may_exceed: true,
            lease_us: 600_000_000,
            filter: &|_, _| true,
            order_by: None,
        };
        let mut got: Vec<(u64, u32)> = Vec::new();
        let outcome = member.claim(&request, now(), &mut |claimed, record| {
            assert_eq!(record.seq, claimed.seq);
            assert_eq!(record.value, value_of(STREAM, claimed.seq), "as it was published");
            got.push((claimed.seq, claimed.attempts));
        });
        let claim = outcome.expect("claiming works").claim;
        if got.is_empty() {
            say("idle");
            log.wait(mark, Some(Duration::from_millis(50))).expect("waiting works");
            continue;
        }
        let words = |got: &[(u64, u32)]| {
            got.iter().map(|(seq, attempt)| format!(" {seq}:{attempt}")).collect::<String>()
        };
        say(&format!("got{}", words(&got)));
        let (again, done): (Vec<_>, Vec<_>) = got.iter().partition(|_| rng.below(8) == 0);
        let settle = |(seq, _): &(u64, u32), how| Settle {
            claim,
            seqs: SeqRange { first: *seq, last: *seq },
            how,
        };
        let release = match rng.below(2) {
            0 => Settlement::Release { counted: true },
            _ => Settlement::Park { delay_us: rng.below(2_000) },
        };
        let mut items: Vec<_> = done.iter().map(|one| settle(one, Settlement::Ack)).collect();
        items.extend(again.iter().map(|one| settle(one, release)));
        let mut lost = Vec::new();
        group.settle(&items, now(), &mut lost).expect("settling works");
        assert!(lost.is_empty(), "nobody takes from the living: {lost:?}");
        say(&format!("settled{}", words(&done)));
        if rng.below(4) == 0 {
            group.commit().expect("it can be made durable");
        }
    }
    member.leave(now()).expect("it can be left");
}

/// What members said of each record.
#[derive(Default)]
struct Account {
    got: BTreeMap<u64, Vec<u32>>,
    settled: BTreeMap<u64, Vec<u32>>,
}

impl Account {
    fn note(&mut self, line: &str) {
        let mut words = line.split(' ');
        let book = match words.next() {
            Some("got") => &mut self.got,
            Some("settled") => &mut self.settled,
            Some("idle") => return,
            _ => panic!("a member says: {line}"),
        };
        for word in words {
            let (seq, attempt) = word.split_once(':').expect("seq:attempt");
            let (seq, attempt) = (seq.parse().unwrap(), attempt.parse().unwrap());
            book.entry(seq).or_default().push(attempt);
        }
    }

    /// Checks the books; how many records were handed out more than once.
    fn balance(&mut self, published: u64) -> usize {
        assert!(self.got.keys().copied().eq(0..published), "every record was handed out");
        for (seq, attempts) in &mut self.got {
            attempts.sort_unstable();
            let distinct = attempts.windows(2).all(|pair| pair[0] < pair[1]);
            assert!(distinct, "record {seq} was handed out with the attempts {attempts:?}");
        }
        for (seq, by) in &self.settled {
            let attempts = &self.got[seq];
            assert_eq!(by.len(), 1, "record {seq} was settled by the attempts {by:?}");
            assert_eq!(attempts.last(), by.last(), "record {seq} came again after it was settled");
        }
        self.got.values().filter(|attempts| attempts.len() > 1).count()
    }
}

#[test]
fn every_record_is_settled_once_when_members_are_killed() {
    let seed = seed("group_kill");
    let kills: u64 = if std::env::var_os("BUSLINE_LONG").is_some() { 300 } else { 50 };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let dir = dir.to_str().unwrap();
    let log = open(dir);
    let group = Group::declare(&log, &spec(), &options(), now()).unwrap().group;
    let mut appender = log.appender();
    let mut rng = Rng(seed);
    let (to, said) = channel();
    let start = |number: usize, rng: &mut Rng| {
        let seed = rng.next().to_string();
        Helper::start(number, "member", &[("DIR", dir), ("SEED", &seed)], &to)
    };
    let mut members: Vec<_> = (0..MEMBERS).map(|number| start(number, &mut rng)).collect();
    let mut account = Account::default();
    let (mut killed, mut published) = (0, 0);
    while killed < kills {
        for _ in 0..rng.below(40) {
            let value = value_of(STREAM, published);
            appender.push(STREAM.as_bytes(), &published.to_le_bytes(), &value).unwrap();
            published += 1;
        }
        appender.flush(0).unwrap();
        for _ in 0..1 + rng.below(12) {
            if let (_, Some(line)) = listen(&said) {
                account.note(&line);
            }
        }
        for _ in 0..rng.below(200_000) {
            std::hint::spin_loop();
        }
        let number = rng.below(MEMBERS as u64) as usize;
        members[number].kill();
        members[number] = start(number, &mut rng);
        killed += 1;
    }
    while group.floor().unwrap() < published {
        if let (_, Some(line)) = listen(&said) {
            account.note(&line);
        }
    }
    for member in &mut members {
        assert!(member.stop(), "a member failed; what it printed is above");
    }
    for line in said.try_iter().filter_map(|(_, line)| line) {
        account.note(&line);
    }
    let again = account.balance(published);
    let info = group.info(now()).unwrap();
    assert_eq!(info.counters.acked, published, "{info:?}");
    println!("{killed} members killed, {published} records settled once, {again} came again");
}
