//! The log against a plain list, with reopening, killing and loss of power among the operations.

use std::collections::BTreeMap;
use std::path::Path;

use busline_log::storage::{Call, Fault, FaultyStorage, MemStorage};
use busline_log::{ErrorKind, Log, RetainPolicy, Scanner, verify};
use proptest::prelude::*;

use crate::support::*;

#[derive(Debug, Clone)]
enum Op {
    /// One process appends frames of so many records.
    Append {
        process: usize,
        records: Vec<usize>,
        time_us: i64,
    },
    Commit {
        process: usize,
    },
    Roll {
        process: usize,
    },
    /// The medium is full for one write.
    Full {
        process: usize,
        stored: usize,
    },
    RemoveBefore {
        process: usize,
        part: u8,
    },
    RetainBytes {
        process: usize,
        bytes: u64,
    },
    /// Closes and opens again.
    Reopen {
        process: usize,
    },
    /// Dies between two calls.
    Kill {
        process: usize,
    },
    /// Dies inside an append or a commit.
    KillDuring {
        process: usize,
        changes: u64,
        bytes: usize,
    },
    /// The power fails.
    Crash {
        seed: u64,
    },
    Read {
        process: usize,
        part: u8,
    },
    SeekTime {
        process: usize,
        time_us: i64,
    },
}

const PROCESSES: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let process = || 0..PROCESSES;
    prop_oneof![
        8 => (process(), proptest::collection::vec(1..4usize, 1..4), 0..1000i64)
            .prop_map(|(process, records, time_us)| Op::Append { process, records, time_us }),
        4 => process().prop_map(|process| Op::Commit { process }),
        1 => process().prop_map(|process| Op::Roll { process }),
        1 => (process(), 0..150usize).prop_map(|(process, stored)| Op::Full { process, stored }),
        1 => (process(), any::<u8>()).prop_map(|(process, part)| Op::RemoveBefore { process, part }),
        1 => (process(), 300..3000u64)
            .prop_map(|(process, bytes)| Op::RetainBytes { process, bytes }),
        2 => process().prop_map(|process| Op::Reopen { process }),
        2 => process().prop_map(|process| Op::Kill { process }),
        2 => (process(), 0..12u64, 0..150usize)
            .prop_map(|(process, changes, bytes)| Op::KillDuring { process, changes, bytes }),
        2 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
        3 => (process(), any::<u8>()).prop_map(|(process, part)| Op::Read { process, part }),
        2 => (process(), 0..1000i64).prop_map(|(process, time_us)| Op::SeekTime { process, time_us }),
    ]
}

struct Handle {
    storage: MemStorage,
    faulty: FaultyStorage,
    log: Log,
    follower: Scanner,
}

struct World {
    medium: MemStorage,
    handles: Vec<Handle>,
    /// What is in the log: value and time by sequence number.
    records: BTreeMap<u64, (u64, i64)>,
    first: u64,
    /// Everything below was committed.
    durable: u64,
    /// Above everything that was ever seen.
    seen: u64,
    value: u64,
    last_time_us: i64,
    /// A frame that a killed process wrote as a whole without making it visible: it may come to light
    /// after a loss of power, unless the next writer cut it.
    unborn: bool,
}

impl Handle {
    fn open(storage: &MemStorage) -> Self {
        let faulty = FaultyStorage::over_memory(storage);
        let log = open(&faulty);
        let follower = log.scanner();
        Self { storage: storage.clone(), faulty, log, follower }
    }

    fn again(&mut self) {
        *self = Self::open(&self.storage);
    }
}

impl World {
    fn new() -> Self {
        let medium = MemStorage::new();
        let handles = (0..PROCESSES).map(|_| Handle::open(&medium.process())).collect();
        Self {
            medium,
            handles,
            records: BTreeMap::new(),
            first: 0,
            durable: 0,
            seen: 0,
            value: 0,
            last_time_us: 0,
            unborn: false,
        }
    }

    /// Appends one frame; what the log says goes into the model.
    fn append(&mut self, process: usize, count: usize, now_us: i64) -> Result<(), ErrorKind> {
        let mut appender = self.handles[process].log.appender();
        for i in 0..count as u64 {
            appender.push(b"k", b"", &(self.value + i).to_le_bytes()).unwrap();
        }
        let appended = appender.flush(now_us).map_err(|e| e.kind())?.unwrap();
        assert_eq!(appended.time_us, now_us.max(self.last_time_us));
        self.take(appended.first, count as u64, appended.time_us);
        Ok(())
    }

    fn take(&mut self, first: u64, count: u64, time_us: i64) {
        assert!(first >= self.seen, "a number came twice");
        for i in 0..count {
            self.records.insert(first + i, (self.value + i, time_us));
        }
        self.value += count;
        self.seen = first + count;
        self.last_time_us = time_us;
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Append { process, ref records, time_us } => {
                for &count in records {
                    self.append(process, count, time_us).unwrap();
                }
            }
            Op::Commit { process } => {
                let log = &self.handles[process].log;
                log.commit(log.next_seq()).unwrap();
                self.durable = log.next_seq();
            }
            Op::Roll { process } => {
                self.handles[process].log.lock_append().unwrap().roll(0).unwrap();
            }
            Op::Full { process, stored } => {
                let fault = Fault::new(Call::Write, std::io::ErrorKind::StorageFull);
                let plan = self.handles[process].faulty.plan().clone();
                plan.add(fault.on(".seg").storing(stored));
                assert_eq!(self.append(process, 2, 0), Err(ErrorKind::Full));
                plan.clear();
            }
            Op::RemoveBefore { process, part } => {
                let seq = self.some_seq(part);
                let removed = self.handles[process].log.remove_before(seq).unwrap();
                self.remove(removed.first_seq);
                assert!(self.first <= seq.max(removed.first_seq));
            }
            Op::RetainBytes { process, bytes } => {
                let policy = RetainPolicy { max_bytes: Some(bytes), ..RetainPolicy::default() };
                let removed = self.handles[process].log.retain(&policy, 0).unwrap();
                self.remove(removed.first_seq);
            }
            Op::Reopen { process } => {
                self.handles[process].log.close().unwrap();
                self.handles[process].again();
            }
            Op::Kill { process } => {
                self.handles[process].storage.kill();
                self.handles[process].again();
                assert!(self.handles[process].log.open_report().trusted);
            }
            Op::KillDuring { process, changes, bytes } => self.kill_during(process, changes, bytes),
            Op::Crash { seed } => self.crash(seed),
            Op::Read { process, part } => self.read(process, part),
            Op::SeekTime { process, time_us } => self.seek_time(process, time_us),
        }
    }

    fn remove(&mut self, first: u64) {
        self.first = first;
        self.records = self.records.split_off(&first);
    }

    fn kill_during(&mut self, process: usize, changes: u64, bytes: usize) {
        self.handles[process].storage.kill_after(changes, bytes);
        let mut appended = Ok(());
        for _ in 0..3 {
            appended = self.append(process, 2, 0);
            if appended.is_err() {
                break;
            }
            let log = &self.handles[process].log;
            if log.commit(self.seen).is_ok() {
                self.durable = self.seen;
            }
        }
        let before = self.seen;
        self.handles[process].storage.kill();
        self.handles[process].again();
        let log = &self.handles[process].log;
        // A frame whose append did not return may be there or not, as a whole.
        let next = log.next_seq();
        if appended.is_err() && next > before {
            let (first, time_us) = (next - 2, log.last_time_us());
            self.take(first, 2, time_us);
        }
        self.unborn = appended.is_err() && next == before;
    }

    fn crash(&mut self, seed: u64) {
        self.medium.crash_seeded(seed);
        for handle in &mut self.handles {
            handle.again();
        }
        let log = &self.handles[0].log;
        assert_eq!(log.open_report().damage, None);
        // A prefix of what was there survives, with all that was committed.
        let found = read_all(log);
        if std::mem::take(&mut self.unborn) && found.len() > self.records.len() {
            let (first, time_us) = (self.seen, log.last_time_us());
            self.records.insert(first, (self.value, time_us));
            self.records.insert(first + 1, (self.value + 1, time_us));
            self.value += 2;
            self.seen += 2;
        }
        let lost = self.records.keys().copied().nth(found.len());
        if let Some(lost) = lost {
            assert!(lost >= self.durable, "committed records were lost");
            self.records.split_off(&lost);
        }
        // What was seen and lost is never named again.
        assert!(log.next_seq() >= self.seen || lost.is_none() && self.durable == self.seen);
        self.seen = log.next_seq();
        self.durable = self.seen;
        self.last_time_us = log.last_time_us();
    }

    fn some_seq(&self, part: u8) -> u64 {
        let keys: Vec<u64> = self.records.keys().copied().collect();
        keys.get(keys.len() * usize::from(part) / 256).copied().unwrap_or(self.seen)
    }

    fn read(&mut self, process: usize, part: u8) {
        let seq = self.some_seq(part);
        let follower = &mut self.handles[process].follower;
        let position = follower.position();
        let found = follower.read(seq).map(|r| r.map(|r| (number(r.value), r.time_us)));
        match self.records.get(&seq) {
            Some(&expected) => assert_eq!(found.unwrap(), Some(expected)),
            None => assert!(matches!(found, Ok(None) | Err(_))),
        }
        if position >= self.first {
            follower.seek(position).unwrap();
        }
    }

    fn seek_time(&mut self, process: usize, time_us: i64) {
        let mut scanner = self.handles[process].log.scanner();
        let expected = self.records.iter().find(|(_, (_, t))| *t >= time_us).map(|(seq, _)| *seq);
        scanner.seek_time(time_us).unwrap();
        assert_eq!(scanner.next().unwrap().map(|r| r.seq), expected);
    }

    /// What holds after every operation, seen from every process.
    fn check(&mut self) {
        let expected: Vec<_> =
            self.records.iter().map(|(seq, (value, _))| (*seq, *value)).collect();
        for handle in &mut self.handles {
            assert_eq!(read_all(&handle.log), expected);
            let first = handle.log.first_seq();
            assert_eq!(first, self.first);
            assert_eq!(handle.log.count_between(0, u64::MAX).unwrap(), expected.len() as u64);
            assert!(handle.log.durable_seq() >= self.durable);
            let from = handle.follower.position();
            let mut followed = Vec::new();
            loop {
                match handle.follower.next() {
                    Ok(Some(record)) => followed.push((record.seq, number(record.value))),
                    Ok(None) => break,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Removed { first });
                        assert!(from < first);
                        handle.follower.seek_first().unwrap();
                        followed.clear();
                    }
                }
            }
            let new: Vec<_> = expected.iter().filter(|(seq, _)| *seq >= from).copied().collect();
            // Segments that were open when they were removed are read to their end.
            assert!(followed.ends_with(&new), "{followed:?} {new:?}");
            assert!(followed.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_list_does(ops in proptest::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check();
        }
        let report = verify(&world.medium.process(), Path::new(DIR)).unwrap();
        prop_assert!(report.is_sound(), "{report:?}");
    }
}
