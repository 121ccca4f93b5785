//! Processes that write, read, consume and clean up one log are killed and stopped at any moment, and everything that
//! they were promised is accounted for.
//!
//! Writers append numbered records in streams of their own and say which have their receipt. Members of two groups say
//! what they were handed, settle it in every way there is, and say what came of it. Readers follow by scanner, by doorbell
//! and as groups of their own. Keepers remove old segments and collect groups. All of their wall clocks lie.
//!
//! They die by SIGKILL from outside, at a moment that has nothing to do with what they do; by SIGKILL of
//! their own hand, at the n-th call of some kind to the file system; or all at once. They are stopped by SIGSTOP in
//! the same two ways, some for longer than their leases, and continued or killed while they are stopped. What is held
//! against their reports in the end: [`ledger`].

mod ledger;
pub(crate) mod roles;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use busline_log::storage::FsStorage;
use busline_log::{Group, GroupOptions, Log, verify};
use rustix::process::Signal;

use crate::helper::{Helper, Said};
use crate::rng::{Rng, seed};
use ledger::{AuditThread, Ledger};
use roles::{GROUPS, Mortality, machine_us, now, open};

/// Who there is.
const CAST: &[&str] = &[
    "writer",
    "writer",
    "writer",
    "member held",
    "member held",
    "member held",
    "member leased",
    "member leased",
    "member leased",
    "follower",
    "listener",
    "keeper",
];
/// Longer than anything here takes, in microseconds.
const PATIENCE_US: u64 = 60_000_000;

/// One of the cast, in its present life.
struct Actor {
    role: &'static str,
    life: usize,
    mortality: Mortality,
    helper: Helper,
}

/// Somebody who is stopped, and what becomes of him.
struct Stopped {
    life: usize,
    until_us: u64,
    dies: bool,
}

/// What happened.
#[derive(Debug, Default)]
struct Counts {
    kills: u64,
    own_hand: u64,
    while_stopped: u64,
    massacres: u64,
    stops: u64,
    stops_inside: u64,
    /// The longest time in which nobody got on while somebody was stopped.
    stillness_us_max: u64,
    stop_us_max: u64,
}

struct Run<'a> {
    dir: &'a str,
    rng: Rng,
    actors: Vec<Actor>,
    lives: usize,
    stopped: Vec<Stopped>,
    to: Sender<Said>,
    said: Receiver<Said>,
    ledger: Ledger,
    counts: Counts,
    /// Those whose role begins so are not started anew.
    ending: Option<&'static str>,
    /// When somebody got on, who reads and writes.
    got_on_us: u64,
}

impl<'a> Run<'a> {
    fn start(dir: &'a str, seed: u64) -> Self {
        let (to, said) = channel();
        let mut run = Self {
            dir,
            rng: Rng(seed),
            actors: Vec::new(),
            lives: 0,
            stopped: Vec::new(),
            to,
            said,
            ledger: Ledger::default(),
            counts: Counts::default(),
            ending: None,
            got_on_us: machine_us(),
        };
        for role in CAST {
            let actor = run.actor(role);
            run.actors.push(actor);
        }
        run
    }

    /// Begins a life.
    fn actor(&mut self, cast: &'static str) -> Actor {
        let (role, group) = cast.split_once(' ').unwrap_or((cast, ""));
        let (life, seed) = (self.lives, self.rng.next().to_string());
        self.lives += 1;
        let mortality = Mortality::draw(&mut self.rng);
        let (name, fate) = (format!("{role}-{life}"), mortality.to_string());
        let values = [
            ("DIR", self.dir),
            ("NAME", &name),
            ("GROUP", group),
            ("SEED", &seed),
            ("MORTALITY", &fate),
        ];
        let helper = Helper::start(life, role, &values, &self.to);
        Actor { role: cast, life, mortality, helper }
    }

    fn kill(&mut self, at: usize) {
        self.counts.kills += 1;
        let life = self.actors[at].life;
        self.stopped.retain(|stopped| stopped.life != life);
        self.actors[at].helper.kill();
        self.replace(at);
    }

    /// Starts another in the place of one who is gone, unless his role is at its end.
    fn replace(&mut self, at: usize) {
        let role = self.actors[at].role;
        if self.is_ending(role) {
            self.actors.remove(at);
            return;
        }
        let actor = self.actor(role);
        self.actors[at] = actor;
    }

    fn is_ending(&self, role: &str) -> bool {
        self.ending.is_some_and(|ending| role.starts_with(ending))
    }

    fn stop(&mut self, life: usize) {
        self.counts.stops += 1;
        let magnitude = 8 + self.rng.below(10);
        let stop_us = 1_000 + self.rng.below(1 << magnitude);
        self.counts.stop_us_max = self.counts.stop_us_max.max(stop_us);
        let dies = self.rng.below(4) == 0;
        self.stopped.push(Stopped { life, until_us: machine_us() + stop_us, dies });
    }

    /// Somebody is killed, or stopped, or everybody is killed at once.
    fn strike(&mut self) {
        let at = self.rng.below(self.actors.len() as u64) as usize;
        match self.rng.below(40) {
            0 => {
                self.counts.massacres += 1;
                self.actors.iter().for_each(|actor| actor.helper.signal(Signal::KILL));
                (0..self.actors.len()).for_each(|at| self.kill(at));
            }
            1..=12 => {
                let life = self.actors[at].life;
                if !self.stopped.iter().any(|stopped| stopped.life == life) {
                    self.actors[at].helper.signal(Signal::STOP);
                    self.stop(life);
                }
            }
            _ => self.kill(at),
        }
    }

    /// Hears one thing, or lets this time pass; continues those whose stop is over.
    fn hear(&mut self, at_most: Duration) {
        let due_us = self.stopped.iter().map(|stopped| stopped.until_us).min();
        let left_us = due_us.map_or(u64::MAX, |due_us| due_us.saturating_sub(machine_us()));
        match self.said.recv_timeout(at_most.min(Duration::from_micros(left_us))) {
            Ok(said) => self.heard(said),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is kept"),
        }
        let now_us = machine_us();
        let (over, stopped) =
            self.stopped.drain(..).partition(|stopped: &Stopped| stopped.until_us <= now_us);
        self.stopped = stopped;
        for Stopped { life, dies, .. } in over {
            let Some(at) = self.actors.iter().position(|actor| actor.life == life) else {
                continue;
            };
            if dies {
                self.counts.while_stopped += 1;
                self.kill(at);
            } else {
                self.actors[at].helper.signal(Signal::CONT);
            }
        }
        let still_us = machine_us() - self.got_on_us;
        assert!(still_us < PATIENCE_US, "nobody gets on: {:?}", self.counts);
    }

    /// Hears all that was said until now: who died or stopped himself is not struck once more.
    fn catch_up(&mut self) {
        while let Ok(said) = self.said.try_recv() {
            self.heard(said);
        }
        self.hear(Duration::ZERO);
    }

    fn heard(&mut self, (life, line): Said) {
        match line {
            Some(line) => self.note(life, &line),
            None => self.bury(life),
        }
    }

    fn note(&mut self, life: usize, line: &str) {
        if line == "stopping" {
            self.counts.stops_inside += 1;
            return self.stop(life);
        }
        if line.starts_with("receipt") || line.starts_with("got") {
            let now_us = machine_us();
            if !self.stopped.is_empty() {
                let still_us = now_us - self.got_on_us;
                self.counts.stillness_us_max = self.counts.stillness_us_max.max(still_us);
            }
            self.got_on_us = now_us;
        }
        self.ledger.note(line);
    }

    /// Somebody is gone whom nobody killed.
    fn bury(&mut self, life: usize) {
        let Some(at) = self.actors.iter().position(|actor| actor.life == life) else { return };
        let is_ending = self.is_ending(self.actors[at].role);
        let Actor { role, mortality, helper, .. } = &mut self.actors[at];
        if is_ending && helper.wait() {
            self.actors.remove(at);
            return;
        }
        assert!(mortality.kills(), "{role} ended by itself; what it printed is above");
        self.counts.kills += 1;
        self.counts.own_hand += 1;
        self.replace(at);
    }

    /// Asks those to end whose role begins so, and waits until they have.
    fn end(&mut self, role: &'static str) {
        self.ending = Some(role);
        let of_role = |actor: &&mut Actor| actor.role.starts_with(role);
        self.actors.iter_mut().filter(of_role).for_each(|actor| actor.helper.ask_to_stop());
        while self.actors.iter().any(|actor| actor.role.starts_with(role)) {
            self.hear(Duration::from_millis(20));
            self.got_on_us = machine_us();
        }
    }
}

#[test]
fn all_that_was_promised_holds_when_processes_are_killed_and_stopped_at_any_moment() {
    let seed = seed("fleet");
    let kills = if std::env::var_os("BUSLINE_LONG").is_some() { 2_000 } else { 120 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = roles::create(&path);
    let audit = AuditThread::start(&log);
    let mut run = Run::start(path.to_str().unwrap(), seed);
    let started_us = machine_us();
    while run.counts.kills < kills {
        for _ in 0..run.rng.below(60) {
            run.hear(Duration::from_millis(20));
        }
        // So that the moment is not the one at which somebody said something.
        for _ in 0..run.rng.below(300_000) {
            std::hint::spin_loop();
        }
        run.catch_up();
        run.strike();
        assert!(!audit.is_over(), "the audit failed; what it printed is above");
    }
    let fought_us = machine_us() - started_us;
    finish(&mut run, &log, &audit);
    let sums = run.ledger.check(&log, &audit.end(), &run.counts);
    drop(log);
    verify_all(&path);
    println!("{kills} kills in {:.1} s: {:?}", fought_us as f64 / 1e6, run.counts);
    println!("{sums:?}");
}

/// Lets everything be settled that was written, then everybody end.
fn finish(run: &mut Run<'_>, log: &Log, audit: &AuditThread) {
    run.end("writer");
    let options = GroupOptions::default();
    let groups = GROUPS.map(|name| Group::open(log, name, &options, now(&mut run.rng)).unwrap());
    let next = log.next_seq();
    while groups.iter().any(|group| group.floor().unwrap() < next) {
        run.hear(Duration::from_millis(20));
        assert!(!audit.is_over(), "the audit failed; what it printed is above");
    }
    run.end("");
}

/// Looks at every byte of every log below.
fn verify_all(dir: &Path) {
    let report = verify(&FsStorage::new(), dir).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let log = open(Arc::new(FsStorage::new()), dir);
    for entry in std::fs::read_dir(dir.join("groups")).unwrap() {
        let path = entry.unwrap().path();
        if path.join("FORMAT").exists() {
            let report = verify(&FsStorage::new(), &path).unwrap();
            assert!(report.is_sound(), "{report:?}");
        }
    }
    log.close().unwrap();
}
