//! The kill test: processes that publish, consume, listen and read one bus are killed at random
//! moments, or stopped and continued, again and again, and then every promise is accounted for.

pub(crate) mod consuming;
mod ledger;
pub(crate) mod publishing;

use std::path::Path;
use std::time::Duration;

use busline::transport::GroupInfo;
use busline::{Bus, Position, Record, Topic};
use busline_log::storage::FsStorage;
use rustix::process::Signal;

use crate::harness::{self, DEADLINE, Fleet, Random, Task, is_long, now, runtime};
use consuming::GROUPS;
use ledger::{Ledger, Sums};

const TOPIC: &str = "events";

/// The processes and what they reported.
struct Battle {
    fleet: Fleet,
    ledger: Ledger,
    random: Random,
    url: String,
    names: usize,
    kills: u64,
    /// Those who are stopped, and until when.
    stopped: Vec<(usize, Duration)>,
    stops: u64,
}

#[test]
fn what_was_promised_holds_when_processes_are_killed_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    // Small segments, so that they are sealed, and processes killed while they do it.
    let url = harness::url(directory.path(), "segment_bytes=65536");
    fight(url, "kill");
    let logs = verify(directory.path());
    assert!(logs > 4, "{logs} logs");
}

/// Kills and stops who uses the bus of this URL, and accounts for every promise.
pub(crate) fn fight(url: String, name: &str) {
    let (fleet, ledger) = (Fleet::new(), Ledger::default());
    let random = Random::for_test(name);
    let mut battle =
        Battle { fleet, ledger, random, url, names: 0, kills: 0, stopped: Vec::new(), stops: 0 };
    let started = now();
    battle.begin();
    let kills = if is_long() { 500 } else { 50 };
    while battle.kills < kills {
        battle.strike();
    }
    let fought = now() - started;
    let mut sums = battle.end();
    sums.check(&battle);
    let seconds = (now() - started).as_secs_f64();
    println!(
        "{} kills and {} stops in {:.1} s, all in {seconds:.1} s: {sums:?}",
        battle.kills,
        battle.stops,
        fought.as_secs_f64()
    );
}

impl Battle {
    fn begin(&mut self) {
        for _ in 0..3 {
            let task = self.publisher();
            self.fleet.start(task);
        }
        for spec in GROUPS {
            for _ in 0..2 {
                let task = self.member(spec.name);
                self.fleet.start(task);
            }
        }
        let (url, topic) = (self.url.clone(), TOPIC.to_owned());
        self.fleet.start(Task::Broadcast { url: url.clone(), topic: topic.clone() });
        self.fleet.start(Task::Follow { url, topic, from: None });
        let task = self.churner();
        self.fleet.start(task);
    }

    fn publisher(&mut self) -> Task {
        let (name, seed) = (self.name("p"), self.random.next());
        Task::Publish { url: self.url.clone(), topic: TOPIC.to_owned(), name, seed }
    }

    fn member(&mut self, group: &str) -> Task {
        let (topic, group, seed) = (TOPIC.to_owned(), group.to_owned(), self.random.next());
        Task::Consume { url: self.url.clone(), topic, group, seed }
    }

    fn churner(&mut self) -> Task {
        let (name, seed) = (self.name("c"), self.random.next());
        Task::Churn { url: self.url.clone(), topic: TOPIC.to_owned(), name, seed }
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// Lets things go on for a while, kills somebody or everybody, and starts others instead.
    fn strike(&mut self) {
        let events = self.random.below(300);
        for _ in 0..events {
            self.listen(Duration::from_millis(200));
        }
        let a_moment = Duration::from_micros(self.random.below(5000));
        self.listen(a_moment);
        let running = self.fleet.running();
        if self.random.once_in(3) {
            let victim = *self.random.pick(&running);
            self.stop(victim);
        }
        let victims = match self.random.below(20) {
            0 => running,
            1..=3 => vec![*self.random.pick(&running), *self.random.pick(&running)],
            _ => vec![*self.random.pick(&running)],
        };
        let mut tasks = Vec::new();
        for victim in victims {
            if self.fleet.running().contains(&victim) {
                tasks.push((victim, self.fleet.task(victim).clone()));
                self.stopped.retain(|(stopped, _)| *stopped != victim);
                self.fleet.kill(victim);
                self.kills += 1;
            }
        }
        for (victim, task) in tasks {
            let task = match task {
                Task::Publish { .. } => self.publisher(),
                Task::Consume { group, .. } => self.member(&group),
                Task::Churn { .. } => self.churner(),
                Task::Follow { url, topic, .. } => {
                    // It goes on behind what it had said, so all of that must be heard first.
                    self.hear_out(victim);
                    Task::Follow { url, topic, from: self.followed_to() }
                }
                other => other,
            };
            self.fleet.start(task);
        }
    }

    /// Stops somebody for less than a lease, wherever he is at this moment.
    fn stop(&mut self, victim: usize) {
        if self.stopped.iter().all(|(stopped, _)| *stopped != victim) {
            self.fleet.signal(victim, Signal::STOP);
            self.stops += 1;
            let until = now() + Duration::from_millis(self.random.below(300));
            self.stopped.push((victim, until));
        }
    }

    /// Continues those whose time is over.
    fn continue_stopped(&mut self, time: Duration) {
        for (id, _) in self.stopped.extract_if(.., |(_, until)| *until <= time) {
            self.fleet.signal(id, Signal::CONT);
        }
    }

    fn followed_to(&self) -> Option<String> {
        let last = self.ledger.followed.last()?;
        let offset: busline::Offset = last.text.parse().unwrap();
        Some(offset.next().to_string())
    }

    fn listen(&mut self, at_most: Duration) {
        self.continue_stopped(now());
        if let Some((id, event)) = self.fleet.next(at_most) {
            self.ledger.hear(id, self.fleet.task(id), event);
        }
    }

    fn hear_out(&mut self, victim: usize) {
        let give_up = now() + DEADLINE;
        while self.fleet.exists(victim) {
            assert!(now() < give_up, "worker {victim} does not die");
            self.listen(Duration::from_millis(5));
        }
    }

    /// Publishers stop; when everything is settled and seen the others stop; then the account.
    fn end(&mut self) -> Sums {
        self.continue_stopped(Duration::MAX);
        for id in self.fleet.running() {
            if matches!(self.fleet.task(id), Task::Publish { .. } | Task::Churn { .. }) {
                self.fleet.stop(id);
            }
        }
        let runtime = runtime();
        let bus = runtime.block_on(Bus::open(&self.url)).unwrap();
        let give_up = now() + DEADLINE;
        while let Some(why) = self.unrest(&runtime, &bus) {
            assert!(now() < give_up, "not quiet: {why}");
            self.listen(Duration::from_millis(50));
        }
        for id in self.fleet.running() {
            self.fleet.stop(id);
        }
        let ledger = &mut self.ledger;
        self.fleet.settle(|id, task, event| ledger.hear(id, task, event));
        let mut sums = Sums::default();
        let log = runtime.block_on(read(&bus, TOPIC));
        self.ledger.check_log(&log, &mut sums);
        self.ledger.check_streams(&log, &mut sums);
        let infos = runtime.block_on(groups(&bus));
        for spec in GROUPS {
            let letters = runtime.block_on(read(&bus, &format!("{}.{TOPIC}.dead", spec.name)));
            let info = infos.iter().find(|info| info.group.as_str() == spec.name).unwrap();
            self.ledger.check_group(spec, &log, &letters, info, &mut sums);
        }
        drop(runtime.block_on(bus.close(Duration::from_secs(10))));
        sums
    }

    /// What is not settled yet, or not seen by those who follow.
    fn unrest(&self, runtime: &tokio::runtime::Runtime, bus: &Bus) -> Option<String> {
        let publishing = |id: &&usize| {
            matches!(self.fleet.task(**id), Task::Publish { .. } | Task::Churn { .. })
        };
        if let Some(id) = self.fleet.known().iter().find(publishing) {
            return Some(format!("worker {id} has not ended: {:?}", self.fleet.task(*id)));
        }
        let infos = runtime.block_on(groups(bus));
        for spec in GROUPS {
            let info = infos.iter().find(|info| info.group.as_str() == spec.name);
            let Some(info) = info else { return Some(format!("no group {}", spec.name)) };
            if info.lag + info.in_flight + info.waiting > 0 {
                return Some(format!("{info:?}"));
            }
        }
        let log = runtime.block_on(read(bus, TOPIC));
        let end = log.last().map(|record| harness::number(&record.offset));
        for id in self.fleet.running() {
            let is_broadcast = matches!(self.fleet.task(id), Task::Broadcast { .. });
            if is_broadcast && !self.ledger.heard_to(id, end) {
                return Some(format!("broadcast {id} has not heard {end:?}"));
            }
        }
        let (followed, stored) = (self.ledger.followed.len(), log.len());
        (followed != stored).then(|| format!("the reader saw {followed} of {stored}"))
    }
}

impl Sums {
    /// The test did what it is for.
    fn check(&mut self, battle: &Battle) {
        assert!(self.receipts > 500, "too little was published: {self:?}");
        assert!(self.redeliveries > 50 && self.dead_letters > 5, "too little went wrong: {self:?}");
        assert!(self.unreported <= battle.kills * 64, "attempts are missing: {self:?}");
        assert!(self.broadcast > 100, "{self:?}");
    }
}

async fn groups(bus: &Bus) -> Vec<GroupInfo> {
    let topic = Topic::new(TOPIC).unwrap();
    let admin = bus.admin().await.unwrap();
    // All of the bus can be listed, whatever was killed while it made or deleted something.
    admin.topics().await.unwrap();
    admin.groups(Some(&topic)).await.unwrap()
}

pub(crate) async fn read(bus: &Bus, topic: &str) -> Vec<Record> {
    let mut reader = bus.reader(topic, Position::Earliest).unwrap().open().await.unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        records.push(record);
    }
    records
}

/// Reads every byte of every log below the directory; how many logs there are.
pub(crate) fn verify(directory: &Path) -> usize {
    let mut logs = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            logs += verify(&path);
        }
    }
    if directory.join("FORMAT").exists() {
        let report = busline_log::verify(&FsStorage::new(), directory).unwrap();
        assert!(report.is_sound(), "{}: {report:?}", directory.display());
        logs += 1;
    }
    logs
}
