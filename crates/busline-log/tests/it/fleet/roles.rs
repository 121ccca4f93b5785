//! What the processes of the fleet do.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use busline_log::storage::{Call, Fault, FaultyStorage, FsStorage, Gate, Storage};
use busline_log::{
    ClaimId, ClaimRequest, Claimed, Error, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime,
    Log, Member, Now, Options, Record, RetainPolicy, SeqRange, Settle, Settlement, SyncMode,
};
use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};

use crate::helper::{given, say, stop_flag};
use crate::records::{Auditor, value_of};
use crate::rng::Rng;

/// The groups: of one the leases never end, of the other they end while a member is stopped; the third is the
/// test's own.
pub(crate) const GROUPS: [&str; 3] = ["held", "leased", "audit"];
const LEASE_US: u64 = 40_000;
const LEASE_LONG_US: u64 = 3_600_000_000;
/// How far writers may run ahead of the slowest group.
const AHEAD_MAX: u64 = 1_500;
/// About as much is kept of what everybody has settled.
const KEEP_BYTES: u64 = 300_000;

/// By whose hand a life ends.
pub(crate) enum Mortality {
    /// By another's.
    Others,
    /// By its own, or it is stopped, at the n-th call of a kind from the beginning of its work on.
    Own { signal: Signal, call: Call, after: u64 },
}

const CALLS: &[(&str, Call)] = &[
    ("write", Call::Write),
    ("truncate", Call::Truncate),
    ("sync", Call::Sync),
    ("sync-dir", Call::SyncDir),
    ("rename", Call::Rename),
    ("remove", Call::Remove),
    ("open", Call::Open),
    ("list", Call::List),
    ("lock", Call::Lock),
    ("bell", Call::Bell),
    ("any", Call::Any),
];

impl Mortality {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let signal = match rng.below(10) {
            0..=2 => return Self::Others,
            3..=7 => Signal::KILL,
            _ => Signal::STOP,
        };
        let call = CALLS[rng.below(CALLS.len() as u64) as usize].1;
        // Early or late, in equal parts.
        let magnitude = rng.below(9);
        let after = rng.below(1 << magnitude);
        Self::Own { signal, call, after }
    }

    pub(crate) fn kills(&self) -> bool {
        matches!(self, Self::Own { signal: Signal::KILL, .. })
    }

    /// The storage of the process that was given its mortality; it acts on it by itself.
    fn storage() -> Arc<dyn Storage> {
        let text = given("MORTALITY");
        let mut words = text.split(' ');
        let storage = FaultyStorage::new(Arc::new(FsStorage::new()));
        let signal = match words.next() {
            Some("kill") => Signal::KILL,
            Some("stop") => Signal::STOP,
            _ => return Arc::new(storage),
        };
        let call = words.next().expect("there is a call");
        let call = CALLS.iter().find(|(name, _)| *name == call).expect("it is one of these").1;
        let after = words.next().and_then(|count| count.parse().ok()).expect("a count");
        let gate = Gate::new();
        storage.plan().add(Fault::hold(call, &gate).after(after));
        std::thread::spawn(move || {
            gate.wait_for_arrival();
            if signal == Signal::STOP {
                say("stopping");
            }
            kill_process(getpid(), signal).expect("it may");
            gate.open();
        });
        Arc::new(storage)
    }
}

impl fmt::Display for Mortality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Others => f.write_str("others"),
            Self::Own { call, after, .. } => {
                let name = CALLS.iter().find(|(_, of)| of == call).map_or("", |(name, _)| name);
                write!(f, "{} {name} {after}", if self.kills() { "kill" } else { "stop" })
            }
        }
    }
}

/// Time of this machine that only passes, in microseconds.
pub(crate) fn machine_us() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    since.tv_sec.unsigned_abs() * 1_000_000 + since.tv_nsec.unsigned_abs() / 1_000
}

/// Now, by a wall clock that jumps by up to a day in both directions.
pub(crate) fn now(rng: &mut Rng) -> Now {
    const DAY_US: u64 = 86_400_000_000;
    let boot_us = machine_us();
    let boot_id = FsStorage::new().boot_id().expect("this machine says it");
    let jump_us = if rng.below(20) == 0 { rng.below(2 * DAY_US) } else { DAY_US };
    Now { wall_us: (boot_us + jump_us).cast_signed(), boot_us, boot_id }
}

fn options() -> Options {
    // One half of the processes writes its frames, the other stores them: both outlive the writer.
    let is_stored = getpid().as_raw_nonzero().get() % 2 == 0;
    let sync = if is_stored { SyncMode::Os } else { SyncMode::Always };
    // Small, so that many die while they begin or remove a segment.
    Options { sync, segment_bytes: 64 << 10, ..Options::default() }
}

fn group_options() -> GroupOptions {
    GroupOptions { snapshot_bytes: 4 << 10, ..GroupOptions::default() }
}

pub(crate) fn open(storage: Arc<dyn Storage>, dir: &Path) -> Log {
    Log::open(storage, dir, &options(), 0).expect("the log opens")
}

/// Makes the log with its groups.
pub(crate) fn create(dir: &Path) -> Log {
    let log = Log::create(Arc::new(FsStorage::new()), dir, b"", &options(), 0).unwrap();
    for name in GROUPS {
        // One that is idle for an hour goes; nobody's wall clock decides that.
        let lifetime = Lifetime::Idle { us: LEASE_LONG_US };
        let spec = GroupSpec { name, config: b"", start: 0, lifetime };
        Group::declare(&log, &spec, &group_options(), now(&mut Rng(0))).unwrap();
    }
    log
}

/// One process: its log, its chance, and whether it is to stop.
struct Life {
    log: Log,
    rng: Rng,
    stop: Arc<AtomicBool>,
}

impl Life {
    fn begin() -> Self {
        let stop = stop_flag();
        let rng = Rng(given("SEED").parse().expect("a number"));
        let log = open(Mortality::storage(), Path::new(&given("DIR")));
        Self { log, rng, stop }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn now(&mut self) -> Now {
        now(&mut self.rng)
    }

    fn group(&mut self, name: &str) -> Group {
        let now = self.now();
        Group::open(&self.log, name, &group_options(), now).expect("it was declared")
    }

    fn wait(&self, mark: busline_log::Mark) {
        self.log.wait(mark, Some(Duration::from_millis(20))).expect("waiting works");
    }
}

/// The role of a writer.
pub(crate) fn write() {
    let mut life = Life::begin();
    let stream = given("NAME");
    let slowest = life.group("held");
    let mut appender = life.log.appender();
    let mut number = 0;
    while life.goes_on() {
        let first = number;
        for _ in 0..=life.rng.below(20) {
            let meta = u64::to_le_bytes(number);
            appender.push(stream.as_bytes(), &meta, &value_of(&stream, number)).expect("it fits");
            number += 1;
        }
        let now_us = life.now().wall_us;
        let appended = appender.flush(now_us).expect("nothing fails").expect("there are records");
        assert_eq!(appended.next - appended.first, number - first);
        if life.rng.below(4) > 0 {
            life.log.commit(appended.next).expect("nothing fails");
            let is_synced = life.log.durable_seq() >= appended.next;
            assert!(is_synced || life.log.options().sync == SyncMode::Os);
            // Everything before it in this stream is durable with it.
            say(&format!("receipt {stream} {first} {number} {}", appended.first));
        }
        if life.rng.below(100) == 0 {
            // One more handle comes and goes; sometimes it is the last one.
            let storage = Arc::clone(life.log.storage());
            life.log = open(storage, Path::new(&given("DIR")));
            appender = life.log.appender();
        }
        let mark = life.log.mark();
        while life.goes_on() && slowest.floor().expect("it is there") + AHEAD_MAX < number {
            if life.log.next_seq() < slowest.floor().expect("it is there") + AHEAD_MAX {
                break;
            }
            life.wait(mark);
        }
    }
    drop(appender);
    life.log.close().expect("the log closes");
}

/// The role of a member of a group.
pub(crate) fn work() {
    let mut life = Life::begin();
    let name = given("GROUP");
    let group = life.group(&name);
    let now = life.now();
    let mut member = group.join(now).expect("it can be joined");
    while life.goes_on() {
        let mark = life.log.mark();
        match claim(&mut life, &mut member, &name) {
            // Taken for dead while it was stopped: never, because it lives.
            Err(error) => panic!("{error}"),
            Ok((_, got)) if got.is_empty() => {
                say("idle");
                life.wait(mark);
            }
            Ok((claim, got)) => settle(&mut life, &group, &name, claim, &got),
        }
        if life.rng.below(8) == 0 {
            group.commit().expect("it can be made durable");
        }
    }
    let now = life.now();
    member.leave(now).expect("it can be left");
    life.log.close().expect("the log closes");
}

/// What was handed out: sequence numbers and attempts.
type Got = Vec<(u64, u32)>;

fn claim(life: &mut Life, member: &mut Member, group: &str) -> Result<(ClaimId, Got), Error> {
    let request = request(1 + life.rng.below(20) as usize, lease_us(group));
    let mut got = Vec::new();
    let now = life.now();
    let mut visit = |claimed: Claimed, record: &Record<'_>| {
        assert_eq!(record.seq, claimed.seq);
        got.push((claimed.seq, claimed.attempts));
    };
    let ready = match life.rng.below(4) {
        0 => None,
        _ => member.try_claim(&request, now, &mut visit)?,
    };
    let outcome = match ready {
        Some(outcome) => outcome,
        None => member.claim(&request, now, &mut visit)?,
    };
    Ok((outcome.claim, got))
}

fn lease_us(group: &str) -> u64 {
    if group == "leased" { LEASE_US } else { LEASE_LONG_US }
}

fn request(records_max: usize, lease_us: u64) -> ClaimRequest<'static> {
    ClaimRequest {
        records_max,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    }
}

/// Settles what was handed out in all the ways there are, and says what came of it.
fn settle(life: &mut Life, group: &Group, name: &str, claim: ClaimId, got: &Got) {
    if life.rng.below(16) == 0 {
        // Nobody saw it: so it does not count.
        let items: Vec<_> = got
            .iter()
            .map(|&(seq, _)| one(claim, seq, Settlement::Release { counted: false }))
            .collect();
        let now = life.now();
        group.settle(&items, now, &mut Vec::new()).expect("settling works");
        return;
    }
    say(&format!("got {name}{}", words(got)));
    if life.rng.below(8) == 0 {
        let renew = Settlement::Renew { lease_us: lease_us(name) };
        let items: Vec<_> = got.iter().map(|&(seq, _)| one(claim, seq, renew)).collect();
        let now = life.now();
        group.settle(&items, now, &mut Vec::new()).expect("settling works");
    }
    let (mut items, mut kinds) = (Vec::new(), Vec::new());
    for &(seq, _) in got {
        let (kind, how) = match life.rng.below(20) {
            0 => ("rejected", Settlement::Reject),
            1 => ("back", Settlement::Release { counted: true }),
            2 => ("back", Settlement::Park { delay_us: life.rng.below(20_000) }),
            _ => ("acked", Settlement::Ack),
        };
        kinds.push(kind);
        items.push(one(claim, seq, how));
    }
    let mut lost = Vec::new();
    let now = life.now();
    group.settle(&items, now, &mut lost).expect("settling works");
    for lost in lost {
        kinds[lost.item] = "lost";
    }
    for kind in ["acked", "rejected", "back", "lost"] {
        let of_kind = got.iter().zip(&kinds).filter(|(_, of)| **of == kind).map(|(got, _)| *got);
        let of_kind: Got = of_kind.collect();
        if !of_kind.is_empty() {
            say(&format!("{kind} {name}{}", words(&of_kind)));
        }
    }
}

fn one(claim: ClaimId, seq: u64, how: Settlement) -> Settle {
    Settle { claim, seqs: SeqRange::one(seq), how }
}

fn words(got: &Got) -> String {
    got.iter().map(|(seq, attempt)| format!(" {seq}:{attempt}")).collect()
}

/// The role of a reader that follows, from a random place on; overtaken by retention it goes on where the log
/// begins.
pub(crate) fn follow() {
    let mut life = Life::begin();
    let bell = (life.rng.below(2) == 0).then(|| life.log.doorbell().expect("there is a free slot"));
    let mut scanner = life.log.scanner();
    let mut last: Option<u64> = None;
    let mut numbers = Auditor::from_the_middle();
    while life.goes_on() {
        let mark = life.log.mark();
        loop {
            match scanner.next() {
                Ok(Some(record)) => {
                    assert!(last.is_none_or(|last| last < record.seq), "{last:?} {}", record.seq);
                    last = Some(record.seq);
                    numbers.look(&record).unwrap_or_else(|wrong| panic!("{wrong}"));
                }
                Ok(None) => break,
                Err(error) if matches!(error.kind(), ErrorKind::Removed { .. }) => {
                    scanner.seek_first().expect("there is a first one");
                    numbers = Auditor::from_the_middle();
                }
                Err(error) => panic!("{error}"),
            }
        }
        say("tail");
        match &bell {
            None => life.wait(mark),
            Some(bell) => {
                bell.drain().expect("it is ours");
                if bell.arm(mark).expect("it is ours") {
                    bell.wait(Some(Duration::from_millis(100))).expect("it is ours");
                }
            }
        }
    }
    drop((bell, scanner));
    life.log.close().expect("the log closes");
}

/// The role of a reader that is alone in a group of its own, which goes with it.
pub(crate) fn listen_alone() {
    let mut life = Life::begin();
    let (name, start, now) = (given("NAME"), life.log.next_seq(), life.now());
    let spec = GroupSpec { name: &name, config: b"", start, lifetime: Lifetime::Ephemeral };
    let joined = Group::declare_and_join(&life.log, &spec, &group_options(), now);
    let (_, mut member) = joined.expect("it is new");
    // What was there before it was declared may be removed: it may have been stopped for long.
    let own = life.log.next_seq();
    let mut next = start;
    while life.goes_on() {
        let mark = life.log.mark();
        let now = life.now();
        let first = next;
        let mut seqs = Vec::new();
        let outcome = member.claim(&request(100, LEASE_LONG_US), now, &mut |claimed, _| {
            let in_order = claimed.seq == next || (next..=own).contains(&claimed.seq);
            assert!(in_order && claimed.attempts == 1, "{claimed:?} in the place of {next}");
            next = claimed.seq + 1;
            seqs.push(claimed.seq);
        });
        let claim = outcome.expect("it is alone").claim;
        if next == first {
            life.wait(mark);
            continue;
        }
        let mut lost = Vec::new();
        let all: Vec<_> = seqs.iter().map(|&seq| one(claim, seq, Settlement::Ack)).collect();
        member.group().settle(&all, now, &mut lost).expect("settling works");
        assert_eq!(lost, []);
        say("tail");
    }
    let now = life.now();
    member.leave(now).expect("it can be left");
    life.log.close().expect("the log closes");
}

/// The role of a process that lets go what nobody needs.
pub(crate) fn keep() {
    let mut life = Life::begin();
    while life.goes_on() {
        let mark = life.log.mark();
        let now = life.now();
        let gone = life.log.collect_groups(now).expect("they can be looked at");
        let wrong: Vec<_> = gone.iter().filter(|name| !name.starts_with("listener")).collect();
        assert!(wrong.is_empty(), "{wrong:?} are in use");
        let policy = RetainPolicy { max_bytes: Some(KEEP_BYTES), ..RetainPolicy::default() };
        let removed = life.log.retain_for_groups(&policy, now).expect("it can be removed");
        say(&format!("kept {} {} {}", gone.len(), removed.segments, removed.first_seq));
        life.wait(mark);
    }
    life.log.close().expect("the log closes");
}
