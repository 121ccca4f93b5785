//! Other stores doing the same works: the program `busline-peers`, which has a workspace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child::Started;
use crate::log::failed;
use crate::measure::{Latencies, per_second};
use crate::report::Report;
use crate::{Result, Setup, remove};

/// When a peer's commits are on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// When the system writes them.
    Process,
    /// After one sync at the end.
    End,
    /// When each commit returns.
    Power,
}

impl Sync {
    fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::End => "end",
            Self::Power => "power",
        }
    }
}

/// The program.
#[derive(Debug)]
pub(crate) struct Peers {
    program: PathBuf,
    /// Each peer that it has, with its version.
    pub(crate) versions: Vec<String>,
}

impl Peers {
    /// Asks the program what it has.
    pub(crate) fn new(program: &Path) -> Result<Self> {
        let output = Command::new(program).arg("versions").output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        let printed = String::from_utf8(output.stdout).map_err(failed)?;
        let versions = printed.lines().map(str::to_owned).collect();
        Ok(Self { program: program.to_owned(), versions })
    }

    /// Whether it can measure a peer: a server has to be installed.
    fn has(&self, peer: &str) -> bool {
        !peer.starts_with("redis")
            || self.versions.iter().any(|version| version.starts_with("Redis "))
    }

    fn start(&self, peer: &Peer, work: &str, dir: &Path, numbers: &[u64]) -> Result<Started> {
        let mut command = Command::new(&self.program);
        command.args([peer.program, work, peer.sync.name()]).arg(dir);
        command.args(numbers.iter().map(u64::to_string));
        Started::of(&mut command)
    }
}

/// One peer as it is used for a work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// What the report calls it: with its setting and the size of its commits.
    pub(crate) name: &'static str,
    /// What the program calls it.
    program: &'static str,
    /// When its commits are on the medium.
    sync: Sync,
}

impl Peer {
    /// A peer.
    pub(crate) const fn new(name: &'static str, program: &'static str, sync: Sync) -> Self {
        Self { name, program, sync }
    }

    /// Whether it is a process that others connect to.
    pub(crate) fn is_server(&self) -> bool {
        self.program.starts_with("redis")
    }

    /// Has it do a work in a folder, empty unless it is kept; `None` if there are no peers, or not this one.
    pub(crate) fn figures<const N: usize>(
        &self,
        setup: &Setup,
        report: &mut Report,
        work: &str,
        numbers: &[u64],
    ) -> Result<Option<[f64; N]>> {
        let Some(peers) = self.among(setup, report) else { return Ok(None) };
        let dir = setup.fresh("peer")?;
        let figures = self.start(peers, work, &dir, numbers)?.numbers();
        remove(&dir)?;
        Ok(self.unless_failed(report, figures))
    }

    /// The same in a folder that is kept.
    pub(crate) fn figures_in<const N: usize>(
        &self,
        setup: &Setup,
        report: &mut Report,
        dir: &Path,
        (work, numbers): (&str, &[u64]),
    ) -> Result<Option<[f64; N]>> {
        let Some(peers) = self.among(setup, report) else { return Ok(None) };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let figures = self.start(peers, work, dir, numbers)?.numbers();
        Ok(self.unless_failed(report, figures))
    }

    /// Starts it for works in turns.
    pub(crate) fn turns(&self, setup: &Setup, report: &mut Report) -> Result<Option<Turns>> {
        let Some(peers) = self.among(setup, report) else { return Ok(None) };
        let dir = setup.fresh(&format!("peer-{}", self.program))?;
        let mut started = self.start(peers, "turns", &dir, &[])?;
        started.line()?;
        Ok(Some(Turns { name: self.name, started, dir, latencies: Latencies::default() }))
    }

    /// What a peer cannot do is no reason to measure nothing else, but is said.
    fn unless_failed<T>(&self, report: &mut Report, figures: Result<T>) -> Option<T> {
        let failed = |error| report.leave_out(format!("{}, in a repetition: {error}", self.name));
        figures.map_err(failed).ok()
    }

    fn start(&self, peers: &Peers, work: &str, dir: &Path, numbers: &[u64]) -> Result<Started> {
        let started = peers.start(self, work, dir, numbers);
        started.map_err(|error| format!("{}: {error}", self.name))
    }

    fn among<'a>(&self, setup: &'a Setup, report: &mut Report) -> Option<&'a Peers> {
        let peers = setup.peers.as_ref()?;
        if !peers.has(self.program) {
            report.leave_out(format!("{}: it is not installed", self.name));
            return None;
        }
        Some(peers)
    }
}

/// A peer that publishes when it is its turn, one durable commit each.
#[derive(Debug)]
pub(crate) struct Turns {
    /// What the report calls it.
    pub(crate) name: &'static str,
    started: Started,
    dir: PathBuf,
    /// What its commits took.
    pub(crate) latencies: Latencies,
}

impl Turns {
    /// Has it publish so many.
    pub(crate) fn turn(&mut self, count: u64) -> Result<()> {
        self.started.write(format!("{count}\n").as_bytes())?;
        let line = self.started.line()?;
        let before = self.latencies.count();
        for nanoseconds in line.split(' ') {
            let nanoseconds: f64 = nanoseconds.parse().map_err(failed)?;
            self.latencies.add(Duration::from_secs_f64(nanoseconds / 1e9));
        }
        if self.latencies.count() - before == count {
            Ok(())
        } else {
            Err(format!("{}: '{line}'", self.name))
        }
    }

    /// Has it check that everything is there, and end.
    pub(crate) fn end(self) -> Result<Latencies> {
        self.started.end().map_err(|error| format!("{}: {error}", self.name))?;
        remove(&self.dir)?;
        Ok(self.latencies)
    }
}

/// A rate from the seconds that a peer has said.
pub(crate) fn rate(messages: u64, seconds: f64) -> f64 {
    per_second(messages, Duration::from_secs_f64(seconds))
}
