//! Works that need a process of their own: this program, started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use busline_log::SyncMode;

use crate::log::{self, failed};
use crate::measure::{anonymous_mib, timed};
use crate::payload::Payload;
use crate::{Result, durable, wake};

/// What a child is asked for: `child VERB DIR …`.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    match arguments {
        ["open", dir] => open(Path::new(dir)),
        ["hold", dir] => hold(Path::new(dir)),
        ["grow", dir, messages] => grow(Path::new(dir), number(messages)?),
        ["listen", how, dir, messages] => wake::listen(how, Path::new(dir), number(messages)?),
        ["publish", dir, threads, per_thread] => {
            publish(Path::new(dir), number(threads)?, number(per_thread)?)
        }
        _ => Err("a child is started by the benchmarks only".to_owned()),
    }
}

/// Opens the log and says how long it took and what it cost.
fn open(dir: &Path) -> Result<()> {
    let before = anonymous_mib();
    let (log, took) = timed(|| log::open_existing(dir));
    let log = log?;
    let ms = took.as_secs_f64() * 1e3;
    say(&format!("{ms} {} {}", anonymous_mib() - before, log.next_seq()))?;
    log.close().map_err(failed)
}

/// Opens the log, publishes a message, and holds both until it is killed.
fn hold(dir: &Path) -> Result<()> {
    let log = log::open_existing(dir)?;
    let mut appender = log.appender();
    log::publish_one(&mut appender, 0, &mut Payload::new(1024))?;
    say("ready")?;
    wait_for_the_end()
}

/// Publishes and then reads everything; says its memory after a tenth, after all and after reading.
fn grow(dir: &Path, messages: u64) -> Result<()> {
    let log = log::open(dir, SyncMode::Os)?;
    let mut payload = Payload::new(100);
    log::publish(&log, 0..messages / 10, &mut payload)?;
    let early = anonymous_mib();
    log::publish(&log, messages / 10..messages, &mut payload)?;
    let late = anonymous_mib();
    log::read_all(&log, messages)?;
    say(&format!("{early} {late} {}", anonymous_mib()))?;
    log.close().map_err(failed)
}

/// Waits for the start, then publishes from threads.
fn publish(dir: &Path, threads: u64, per_thread: u64) -> Result<()> {
    let log = log::open_existing(dir)?;
    say("ready")?;
    wait_for_the_end()?;
    durable::publish_from_threads(&log, threads, per_thread)?;
    say("done")?;
    log.close().map_err(failed)
}

/// One line to the parent.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(failed)
}

/// Until the parent closes the pipe.
fn wait_for_the_end() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new()).map(|_| ()).map_err(failed)
}

/// A child that was started, and what it says.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Started {
    /// Starts a child.
    pub(crate) fn new(arguments: &[&str], dir: &Path, more: &[String]) -> Result<Self> {
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.arg("child").args(arguments).arg(dir).args(more);
        Self::of(&mut command)
    }

    /// Starts any program.
    pub(crate) fn of(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().ok_or("the child has no output")?;
        Ok(Self { child, stdout: BufReader::new(stdout) })
    }

    /// Its next line.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line).map_err(failed)? {
            0 => Err("a child ended early".to_owned()),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// Closes its input.
    fn go(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Writes to its input.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().ok_or("the child has no input any more")?;
        stdin.write_all(bytes).and_then(|()| stdin.flush()).map_err(failed)
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn end(mut self) -> Result<()> {
        self.go();
        let status = self.child.wait().map_err(failed)?;
        if status.success() { Ok(()) } else { Err(format!("a child failed: {status}")) }
    }

    /// The numbers of its next line, which is its last.
    pub(crate) fn numbers<const N: usize>(mut self) -> Result<[f64; N]> {
        let line = self.line()?;
        self.end()?;
        let numbers = line.split_whitespace().map(str::parse);
        let numbers: std::result::Result<Vec<f64>, _> = numbers.collect();
        let numbers = numbers.map_err(|error| format!("'{line}': {error}"))?;
        numbers.try_into().map_err(|_| format!("'{line}' is not {N} numbers"))
    }

    /// SIGKILL.
    fn kill(mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map(|_| ()).map_err(failed)
    }
}

/// Opening a log in a new process: milliseconds, MiB of memory, the next sequence number.
pub(crate) fn open_in_a_process(dir: &Path) -> Result<[f64; 3]> {
    Started::new(&["open"], dir, &[])?.numbers()
}

/// Memory in MiB after a tenth of the messages, after all of them, and after reading them.
pub(crate) fn memory_of_a_process(dir: &Path, messages: u64) -> Result<[f64; 3]> {
    Started::new(&["grow"], dir, &[messages.to_string()])?.numbers()
}

/// A process opens the log, publishes, and is killed.
pub(crate) fn kill_a_holder(dir: &Path) -> Result<()> {
    let mut child = Started::new(&["hold"], dir, &[])?;
    child.line()?;
    child.kill()
}

/// Publishes from processes with threads; returns how long they took to get ready, which is part
/// of the time of this call.
pub(crate) fn publish_from_processes(
    dir: &Path,
    processes: u64,
    threads: u64,
    per_thread: u64,
) -> Result<Duration> {
    let more = [threads.to_string(), per_thread.to_string()];
    let (children, started) = timed(|| {
        let start = |_| {
            let mut child = Started::new(&["publish"], dir, &more)?;
            child.line()?;
            Ok(child)
        };
        (0..processes).map(start).collect::<Result<Vec<_>>>()
    });
    let mut children = children?;
    children.iter_mut().for_each(Started::go);
    children.iter_mut().try_for_each(|child| child.line().map(|_| ()))?;
    let (ended, ending) = timed(|| children.into_iter().try_for_each(Started::end));
    ended?;
    Ok(started + ending)
}
