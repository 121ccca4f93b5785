//! Processes that write and read one log are killed at random moments; nothing receipted is lost.
//!
//! Writers append numbered records in streams of their own, commit, and only then say which numbers have
//! their receipt. They are killed with SIGKILL after a random number of things that all of them said, at a
//! moment that has nothing to do with what the victim does then, and are started anew with new streams. In the
//! end every stream must be in the log from its first record to at least the last one that has a receipt,
//! in order, without gaps, as written, and at the sequence numbers of the receipts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use busline_log::storage::{FsStorage, Storage};
use busline_log::{Log, Options};

use crate::helper::{Helper, Said, given, listen, say, stop_flag};
use crate::records::{Auditor, Rng, audit, seed, value_of};

const WRITERS: usize = 3;
const FOLLOWERS: usize = 2;
const THREADS: usize = 2;

fn storage() -> Arc<dyn Storage> {
    Arc::new(FsStorage::new())
}

fn options() -> Options {
    // Small, so that many victims die while they begin a segment.
    Options { segment_bytes: 256 << 10, ..Options::default() }
}

/// The role of a writer.
pub(crate) fn write_until_stopped() {
    let stop = stop_flag();
    let dir = given("DIR");
    let log = Log::open(storage(), Path::new(&dir), &options(), 0).expect("the log opens");
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (log, stop, dir) = (log.clone(), Arc::clone(&stop), dir.clone());
            let stream = format!("{}.{thread}", given("STREAM"));
            std::thread::spawn(move || write_stream(log, &dir, &stream, &stop))
        })
        .collect();
    for worker in workers {
        worker.join().expect("the worker does not panic");
    }
    log.close().expect("the log closes");
}

fn write_stream(mut log: Log, dir: &str, stream: &str, stop: &AtomicBool) {
    let mut rng = Rng(given("SEED").parse().expect("a number"));
    rng.0 ^= u64::from(stream.as_bytes().last().copied().unwrap_or(0));
    let mut appender = log.appender();
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let first = number;
        for _ in 0..=rng.below(20) {
            let meta = u64::to_le_bytes(number);
            appender.push(stream.as_bytes(), &meta, &value_of(stream, number)).expect("it fits");
            number += 1;
        }
        let appended = appender.flush(0).expect("nothing fails").expect("there are records");
        assert_eq!(appended.next - appended.first, number - first);
        if rng.below(4) > 0 {
            log.commit(appended.next).expect("nothing fails");
            // Everything before it in this stream is durable with it.
            say(&format!("receipt {stream} {first} {number} {}", appended.first));
        }
        if rng.below(100) == 0 {
            // One more handle comes and goes; sometimes it is the last one.
            log = Log::open(storage(), Path::new(dir), &options(), 0).expect("the log opens");
            appender = log.appender();
        }
    }
}

/// The role of a reader that follows.
pub(crate) fn follow_until_stopped() {
    let stop = stop_flag();
    let log = Log::open(storage(), Path::new(&given("DIR")), &options(), 0).expect("it opens");
    let bell = (given("WAIT") == "bell").then(|| log.doorbell().expect("there is a free slot"));
    let mut auditor = Auditor::default();
    let mut scanner = log.scanner();
    loop {
        let mark = log.mark();
        let stopping = stop.load(Ordering::SeqCst);
        loop {
            match scanner.next() {
                Ok(Some(record)) => {
                    if let Err(wrong) = auditor.look(&record) {
                        say(&format!("wrong {wrong}"));
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    say(&format!("wrong {error}"));
                    return;
                }
            }
        }
        if stopping {
            say(&format!("followed {}", auditor.count));
            return;
        }
        say("at-tail");
        let timeout = Some(Duration::from_millis(200));
        match &bell {
            None => drop(log.wait(mark, timeout).expect("waiting works")),
            Some(bell) => {
                bell.drain().expect("it is ours");
                if bell.arm(mark).expect("it is ours") {
                    bell.wait(timeout).expect("it is ours");
                }
            }
        }
    }
}

/// All processes of one run, and what they said.
struct Run<'a> {
    dir: &'a str,
    rng: Rng,
    helpers: Vec<Helper>,
    lives: Vec<u64>,
    to: Sender<Said>,
    said: Receiver<Said>,
    /// By stream: up to which number there are receipts.
    receipted: BTreeMap<String, u64>,
    /// By stream and number: the sequence number that the receipt named.
    places: BTreeMap<(String, u64), u64>,
    at_tail: u64,
}

impl<'a> Run<'a> {
    fn start(dir: &'a str, seed: u64) -> Self {
        let (to, said) = channel();
        let mut run = Self {
            dir,
            rng: Rng(seed),
            helpers: Vec::new(),
            lives: vec![0; WRITERS + FOLLOWERS],
            to,
            said,
            receipted: BTreeMap::new(),
            places: BTreeMap::new(),
            at_tail: 0,
        };
        for number in 0..WRITERS + FOLLOWERS {
            let helper = run.helper(number);
            run.helpers.push(helper);
        }
        run
    }

    fn helper(&mut self, number: usize) -> Helper {
        let stream = format!("{number}.{}", self.lives[number]);
        let seed = self.rng.next().to_string();
        let role = if number < WRITERS { "writer" } else { "follower" };
        let wait = if number.is_multiple_of(2) { "bell" } else { "futex" };
        let values = [("DIR", self.dir), ("STREAM", &stream), ("SEED", &seed), ("WAIT", wait)];
        Helper::start(number, role, &values, &self.to)
    }

    fn kill(&mut self, number: usize) {
        self.helpers[number].kill();
        self.lives[number] += 1;
        let helper = self.helper(number);
        self.helpers[number] = helper;
    }

    /// Waits until the helpers have said so much.
    fn hear(&mut self, lines: u64) {
        let mut heard = 0;
        while heard < lines {
            let (number, line) = listen(&self.said);
            if let Some(line) = line {
                self.note(number, &line);
                heard += 1;
            }
        }
    }

    fn note(&mut self, number: usize, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["receipt", stream, first, next, seq] => {
                let number = |text: &str| text.parse::<u64>().expect("a number");
                self.receipted.insert(stream.to_owned(), number(next));
                for (at, n) in (number(first)..number(next)).enumerate() {
                    self.places.insert((stream.to_owned(), n), number(seq) + at as u64);
                }
            }
            ["at-tail" | "followed", ..] => self.at_tail += 1,
            _ => panic!("helper {number} says: {line}"),
        }
    }

    fn stop(&mut self) {
        for helper in &mut self.helpers {
            assert!(helper.stop(), "a helper failed; what it printed is above");
        }
        while let Ok((number, line)) = self.said.try_recv() {
            if let Some(line) = line {
                self.note(number, &line);
            }
        }
    }

    /// Compares what was receipted with what is there.
    fn account(&self) {
        let log = Log::open(storage(), Path::new(self.dir), &options(), 0).expect("it opens");
        assert_eq!(log.open_report().damage, None);
        let (auditor, places) = audit(&log);
        for (stream, next) in &self.receipted {
            let found = auditor.len(stream);
            assert!(found >= *next, "{stream}: {next} records have receipts, {found} are there");
        }
        for (place, seq) in &self.places {
            assert_eq!(places.get(place), Some(seq), "{place:?}");
        }
        assert_eq!(log.next_seq(), auditor.count, "without a loss of power there are no gaps");
        println!(
            "{} records in {} streams, {} with receipts, none lost; readers were at the tail {} times",
            auditor.count,
            self.receipted.len(),
            self.places.len(),
            self.at_tail,
        );
    }
}

#[test]
fn nothing_receipted_is_lost_when_processes_are_killed() {
    let seed = seed("kill");
    let kills: u64 = if std::env::var_os("BUSLINE_LONG").is_some() { 500 } else { 100 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    drop(Log::create(storage(), &path, b"", &options(), 0).unwrap());
    let mut run = Run::start(path.to_str().unwrap(), seed);
    let mut killed = 0;
    while killed < kills {
        let lines = 1 + run.rng.below(30);
        run.hear(lines);
        // So that the moment is not the one at which somebody said something.
        for _ in 0..run.rng.below(300_000) {
            std::hint::spin_loop();
        }
        let number = run.rng.below(20) as usize;
        if number == 19 {
            // All at once: the next one to open the log finds nobody.
            for helper in &mut run.helpers {
                helper.kill();
            }
            for number in 0..WRITERS + FOLLOWERS {
                run.kill(number);
            }
            killed += (WRITERS + FOLLOWERS) as u64;
        } else {
            run.kill(if number < 16 { number % WRITERS } else { WRITERS + number % FOLLOWERS });
            killed += 1;
        }
    }
    run.stop();
    println!("{killed} processes killed");
    run.account();
}
