//! Processes to command: started, killed, stopped and listened to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wire::{Event, Task};
use super::worker::{ENTRY, TASK};
use super::{DEADLINE, now};

/// The workers of a test. None outlives it: their input ends with the test, and so do they.
#[derive(Debug)]
pub(crate) struct Fleet {
    workers: BTreeMap<usize, Worker>,
    started: usize,
    reports: Receiver<(usize, Report)>,
    reporter: Sender<(usize, Report)>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    /// It may end now: it was killed, or told to.
    may_end: bool,
    task: Task,
}

#[derive(Debug)]
enum Report {
    Event(Event),
    End,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let (reporter, reports) = channel();
        Self { workers: BTreeMap::new(), started: 0, reports, reporter }
    }

    /// Starts a process; its number.
    pub(crate) fn start(&mut self, task: Task) -> usize {
        self.start_by(&[], task)
    }

    /// As [`Fleet::start`], behind a command, as `unshare` is one.
    pub(crate) fn start_by(&mut self, wrapper: &[&str], task: Task) -> usize {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(wrapper.first().map_or(program.as_ref(), OsStr::new));
        if !wrapper.is_empty() {
            command.args(&wrapper[1..]).arg(&program);
        }
        let mut child = command
            .args([ENTRY, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
            .env(TASK, serde_json::to_string(&task).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let id = self.started;
        self.started += 1;
        let output = child.stdout.take().unwrap();
        let reporter = self.reporter.clone();
        std::thread::spawn(move || listen(id, output, &reporter));
        let input = child.stdin.take();
        self.workers.insert(id, Worker { child, input, may_end: false, task });
        id
    }

    /// Whether it runs, or something that it reported was not heard yet.
    pub(crate) fn exists(&self, id: usize) -> bool {
        self.workers.contains_key(&id)
    }

    /// Those that run, and those that were not heard out yet.
    pub(crate) fn known(&self) -> Vec<usize> {
        self.workers.keys().copied().collect()
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<usize> {
        let alive = self.workers.iter().filter(|(_, worker)| !worker.may_end);
        alive.map(|(id, _)| *id).collect()
    }

    pub(crate) fn task(&self, id: usize) -> &Task {
        &self.workers[&id].task
    }

    pub(crate) fn process_id(&self, id: usize) -> u32 {
        self.workers[&id].child.id()
    }

    /// SIGKILL. What it had reported is still heard.
    pub(crate) fn kill(&mut self, id: usize) {
        self.signal(id, Signal::KILL);
        self.workers.get_mut(&id).unwrap().may_end = true;
    }

    pub(crate) fn signal(&mut self, id: usize, signal: Signal) {
        let pid = Pid::from_child(&self.workers[&id].child);
        kill_process(pid, signal).unwrap();
    }

    /// Tells it to finish and to end.
    pub(crate) fn stop(&mut self, id: usize) {
        let worker = self.workers.get_mut(&id).unwrap();
        worker.may_end = true;
        // It may have ended already.
        let _ = worker.input.as_mut().unwrap().write_all(b"stop\n");
    }

    /// The next report, or nothing in this time. Fails the test when a worker fails or ends by
    /// itself.
    pub(crate) fn next(&mut self, at_most: Duration) -> Option<(usize, Event)> {
        let give_up = now() + at_most;
        loop {
            let (id, report) = match self.reports.recv_timeout(give_up.saturating_sub(now())) {
                Ok(report) => report,
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is kept"),
            };
            match report {
                Report::Event(Event::Failed { what }) => {
                    panic!("worker {id} failed: {what}\n{:?}", self.workers[&id].task)
                }
                Report::Event(event) => return Some((id, event)),
                Report::End => {
                    let mut worker = self.workers.remove(&id).unwrap();
                    let status = worker.child.wait().unwrap();
                    assert!(worker.may_end, "worker {id} ended: {status}; {:?}", worker.task);
                }
            }
        }
    }

    /// Waits for what `pick` finds in the reports; the deadline fails the test.
    pub(crate) fn expect<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(usize, Event) -> Option<T>,
    ) -> T {
        let give_up = now() + DEADLINE;
        loop {
            let left = give_up.saturating_sub(now());
            let Some((id, event)) = self.next(left) else {
                panic!("{what} did not come within {DEADLINE:?}; running: {:?}", self.running())
            };
            if let Some(found) = pick(id, event) {
                return found;
            }
        }
    }

    /// Waits until those that were killed or told to end have ended, and everything that they had
    /// reported is heard.
    pub(crate) fn settle(&mut self, mut hear: impl FnMut(usize, &Task, Event)) {
        let give_up = now() + DEADLINE;
        while self.workers.values().any(|worker| worker.may_end) {
            assert!(now() < give_up, "workers do not end: {:?}", self.workers.keys());
            if let Some((id, event)) = self.next(Duration::from_millis(20)) {
                hear(id, &self.workers[&id].task, event);
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in self.workers.values_mut() {
            // Those that ended by themselves cannot be killed any more.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Hears a worker until its output ends. A line that it did not finish was never said.
fn listen(id: usize, output: impl std::io::Read, reporter: &Sender<(usize, Report)>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match output.read_until(b'\n', &mut line) {
            Ok(read) if read > 0 && line.ends_with(b"\n") => {}
            _ => break,
        }
        // What the test runner of the worker prints is no report.
        if let Ok(event) = serde_json::from_slice(&line) {
            // The test may be over.
            let _ = reporter.send((id, Report::Event(event)));
        }
    }
    let _ = reporter.send((id, Report::End));
}
