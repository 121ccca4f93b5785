//! The account of the fleet: what its processes said, held against the log and the groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use busline_log::{ClaimRequest, Group, GroupOptions, Log, SeqRange, Settle, Settlement};

use super::Counts;
use super::roles::{GROUPS, now};
use crate::records::Auditor;
use crate::rng::Rng;

/// The most records that a member claims at once.
const CLAIM_MAX: u64 = 20;

/// What was said.
#[derive(Default)]
pub(super) struct Ledger {
    /// By stream: its receipts, as the first number, the number after the last, and the place of the first.
    receipts: BTreeMap<String, Vec<(u64, u64, u64)>>,
    groups: BTreeMap<String, GroupLedger>,
    removed_segments: u64,
    collected: u64,
}

/// What the members of a group said, by record: the attempts that they got and what came of them.
#[derive(Default)]
struct GroupLedger {
    got: BTreeMap<u64, BTreeSet<u32>>,
    settled: BTreeMap<u64, (u32, bool)>,
    lost: u64,
}

/// What the account came to.
#[derive(Debug, Default)]
#[allow(dead_code)] // they are for reading
pub(super) struct Sums {
    records: u64,
    receipts: u64,
    streams: usize,
    deliveries: u64,
    redeliveries: u64,
    /// Handed out to members that died before they could say so.
    unsaid: u64,
    expired: u64,
    abandoned: u64,
    lost: u64,
    members_died: u64,
    removed_segments: u64,
    collected_groups: u64,
}

impl Ledger {
    pub(super) fn note(&mut self, line: &str) {
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["receipt", stream, first, next, seq] => {
                let receipt = (number(first), number(next), number(seq));
                self.receipts.entry(stream.to_owned()).or_default().push(receipt);
            }
            ["kept", groups, segments, _] => {
                self.collected += number(groups);
                self.removed_segments += number(segments);
            }
            ["idle" | "tail"] => {}
            [what, group, ref records @ ..] if GROUPS.contains(&group) => {
                let ledger = self.groups.entry(group.to_owned()).or_default();
                for record in records {
                    let (seq, attempt) = record.split_once(':').expect("a record and an attempt");
                    ledger.note(what, group, number(seq), attempt.parse().expect("a number"));
                }
            }
            _ => panic!("somebody says: {line}"),
        }
    }

    /// Holds everything that was said against what is there.
    pub(super) fn check(&self, log: &Log, audit: &Audit, counts: &Counts) -> Sums {
        let mut sums = Sums {
            records: audit.auditor.count,
            streams: self.receipts.len(),
            removed_segments: self.removed_segments,
            collected_groups: self.collected,
            ..Sums::default()
        };
        assert_eq!(
            log.next_seq(),
            audit.auditor.count,
            "without a loss of power there are no gaps"
        );
        for (stream, receipts) in &self.receipts {
            for (first, next, seq) in receipts {
                for (number, seq) in (*first..*next).zip(*seq..) {
                    let found = audit.places.get(&(stream.clone(), number));
                    assert_eq!(found, Some(&seq), "{stream}: {number} has a receipt");
                    sums.receipts += 1;
                }
            }
        }
        for name in ["held", "leased"] {
            self.groups[name].check(log, name, counts, &mut sums);
        }
        let now = now(&mut Rng(0));
        log.collect_groups(now).unwrap();
        let mut groups = GROUPS.to_vec();
        groups.sort_unstable();
        assert_eq!(log.groups().unwrap(), groups, "whose member is dead goes, nobody else");
        assert!(
            sums.removed_segments > 0 && sums.redeliveries > 0,
            "too little happened: {sums:?}"
        );
        sums
    }
}

impl GroupLedger {
    fn note(&mut self, what: &str, group: &str, seq: u64, attempt: u32) {
        match what {
            "got" => {
                let is_new = self.got.entry(seq).or_default().insert(attempt);
                assert!(is_new, "{group}: attempt {attempt} of {seq} was handed out twice");
            }
            "acked" | "rejected" => {
                let before = self.settled.insert(seq, (attempt, what == "acked"));
                assert_eq!(before, None, "{group}: {seq} was settled twice, now by {attempt}");
            }
            "lost" => {
                assert_eq!(group, "leased", "nobody takes {seq} from who lives and has its lease");
                self.lost += 1;
            }
            "back" => {}
            _ => panic!("somebody says: {what} {group} {seq}:{attempt}"),
        }
    }

    /// Every record was settled once, by its last attempt, and every attempt was handed out once: so the last
    /// attempts of all records add up to the deliveries that the group counted.
    fn check(&self, log: &Log, name: &str, counts: &Counts, sums: &mut Sums) {
        let now = now(&mut Rng(0));
        let group = Group::open(log, name, &GroupOptions::default(), now).unwrap();
        let info = group.info(now).unwrap();
        let next = log.next_seq();
        assert!(self.got.keys().copied().eq(0..next), "{name}: every record was handed out");
        let (mut deliveries, mut said, mut rejected) = (0, 0, 0);
        for (seq, attempts) in &self.got {
            let last = *attempts.last().expect("there is one");
            deliveries += u64::from(last);
            said += attempts.len() as u64;
            if let Some((by, acked)) = self.settled.get(seq) {
                assert_eq!(
                    *by, last,
                    "{name}: {seq} came again after it was settled: {attempts:?}"
                );
                rejected += u64::from(!acked);
            }
        }
        let of = &info.counters;
        assert_eq!((info.cursor, info.floor, info.claimed), (next, next, 0), "{info:?}");
        assert_eq!((info.lag, info.ready, info.parked), (0, 0, 0), "{info:?}");
        assert_eq!(of.acked + of.rejected, next, "{name}: each is settled once: {info:?}");
        assert_eq!((of.vanished, of.delivered - of.redelivered), (0, next), "{info:?}");
        assert_eq!(of.delivered, deliveries, "{name}: attempts are exact: {info:?}");
        // Those who died between settling and saying so settled the rest.
        let unsaid_settles = next - self.settled.len() as u64;
        assert!(unsaid_settles <= counts.kills * CLAIM_MAX, "{name}: {unsaid_settles}");
        assert!((rejected..=rejected + unsaid_settles).contains(&of.rejected), "{info:?}");
        let unsaid = deliveries - said;
        assert!(unsaid <= counts.kills * CLAIM_MAX + of.expired, "{name}: {unsaid}: {info:?}");
        assert!(of.members_died <= counts.kills, "{name}: who leaves is not dead: {info:?}");
        let ready_again = of.expired + of.abandoned + of.parked;
        assert!(of.redelivered <= ready_again + deliveries, "{info:?}");
        if name == "held" {
            assert_eq!(of.expired, 0, "{info:?}");
        }
        sums.deliveries += of.delivered;
        sums.redeliveries += of.redelivered;
        sums.unsaid += unsaid;
        sums.expired += of.expired;
        sums.abandoned += of.abandoned;
        sums.members_died += of.members_died;
        sums.lost += self.lost;
    }
}

/// What is in the log, as a member saw it that was never killed and that retention waits for.
pub(super) struct Audit {
    auditor: Auditor,
    /// By stream and number.
    places: BTreeMap<(String, u64), u64>,
}

/// The thread of that member.
pub(super) struct AuditThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Audit>,
}

impl AuditThread {
    pub(super) fn start(log: &Log) -> Self {
        let (log, stop) = (log.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: std::thread::spawn(move || audit(&log, &stopped)) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn end(self) -> Audit {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the audit goes well")
    }
}

fn audit(log: &Log, stop: &AtomicBool) -> Audit {
    let mut rng = Rng(7);
    let group = Group::open(log, "audit", &GroupOptions::default(), now(&mut rng)).unwrap();
    let mut member = group.join(now(&mut rng)).unwrap();
    let mut audit = Audit { auditor: Auditor::default(), places: BTreeMap::new() };
    let mut last_time_us = i64::MIN;
    let request = ClaimRequest {
        records_max: 500,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: u64::MAX >> 8,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    };
    while !stop.load(Ordering::SeqCst) {
        let mark = log.mark();
        let first = audit.auditor.count;
        let outcome = member.claim(&request, now(&mut rng), &mut |claimed, record| {
            assert_eq!((claimed.seq, claimed.attempts), (audit.auditor.count, 1));
            audit.auditor.look(record).unwrap_or_else(|wrong| panic!("{wrong}"));
            assert!(record.time_us >= last_time_us, "time goes back at {}", record.seq);
            last_time_us = record.time_us;
            let stream = String::from_utf8_lossy(record.key).into_owned();
            let number = audit.auditor.len(&stream) - 1;
            audit.places.insert((stream, number), record.seq);
        });
        let claim = outcome.unwrap().claim;
        if audit.auditor.count == first {
            log.wait(mark, Some(Duration::from_millis(20))).unwrap();
            continue;
        }
        let seqs = SeqRange::new(first, audit.auditor.count - 1);
        let mut lost = Vec::new();
        let all = [Settle { claim, seqs, how: Settlement::Ack }];
        group.settle(&all, now(&mut rng), &mut lost).unwrap();
        assert_eq!(lost, []);
    }
    member.leave(now(&mut rng)).unwrap();
    audit
}
