//! Runs the program in a directory of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// The program.
pub(crate) const BUSLINE: &str = env!("CARGO_BIN_EXE_busline");

/// The real input.
pub(crate) const QUAKES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data/earthquakes.ndjson");

/// A directory, and what was run in it. The default bus is in it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    url: Option<String>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit code; a signal counts as 128 and its number.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), url: None }
    }

    /// The same with another bus as the default.
    pub(crate) fn on(url: String) -> Self {
        Self { url: Some(url), ..Self::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of the default bus.
    pub(crate) fn bus(&self) -> PathBuf {
        self.path().join("busline-data")
    }

    /// The program, to be run here, with nothing from outside but the path.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BUSLINE);
        command.args(args).current_dir(self.path());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.url.iter().map(|url| ("BUSLINE_URL", url)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        done(self.command(args).output().unwrap())
    }

    /// Runs it with this on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // It may end before it has read everything, which is for the test to judge.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        done(output)
    }

    /// Runs it, demands that it succeeds, and parses its JSON lines.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let done = self.run(&[&["--json"], args].concat());
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        done.lines()
    }

    /// Starts it, to be talked to.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        spawn(&mut self.command(args))
    }

    /// Publishes messages with these keys and `n` from 1 as payloads.
    pub(crate) fn publish(&self, topic: &str, keys: &[&str]) {
        let lines: String =
            (1..).zip(keys).map(|(n, key)| format!("{{\"key\":\"{key}\",\"n\":{n}}}\n")).collect();
        let done =
            self.run_with(&["publish", topic, "--lines", "--key-field", "key"], lines.as_bytes());
        assert_eq!(done.code, 0, "{done:?}");
    }
}

/// Starts a program, to be talked to.
pub(crate) fn spawn(command: &mut Command) -> Running {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    Running { child, stdin, stdout: Some(stdout) }
}

/// A Python that has the library which services are tested beside, to run a script of ours; `None`, said aloud, where
/// there is none and none is required.
pub(crate) fn python(script: &str) -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("BUSLINE_TEST_PYTHON")
        .map_or_else(|| root.join("target/python/bin/python"), Into::into);
    if !python.exists() {
        let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
        assert!(!required, "there is no Python at {}", python.display());
        println!("skip: Python services: there is no Python at {}", python.display());
        return None;
    }
    let mut command = Command::new(python);
    command.arg(root.join("crates/busline/tests/python").join(script));
    Some(command)
}

impl Done {
    /// Standard output as JSON lines, and nothing else.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Demands the exit code, and one clear line on standard error that holds all these words.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let mut errors = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let error = errors.next().unwrap_or_else(|| panic!("no error line: {self:?}"));
        assert_eq!(errors.next(), None, "more than one error line");
        for word in words {
            assert!(error.contains(word), "'{word}' is not in: {error}");
        }
    }
}

pub(crate) fn done(output: Output) -> Done {
    use std::os::unix::process::ExitStatusExt;
    let status = output.status;
    Done {
        code: status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A process that runs. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub(crate) fn write(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// Its standard input, to be written from elsewhere.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    /// The next line of its standard output; waits for it. Empty at the end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// The next JSON line of its standard output.
    #[track_caller]
    pub(crate) fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("'{line}': {error}"))
    }

    /// Nobody reads its standard output any more.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; what it printed since is in the output.
    pub(crate) fn finish(mut self) -> Done {
        drop(self.stdin.take());
        let mut stdout = String::new();
        if let Some(mut reader) = self.stdout.take() {
            std::io::Read::read_to_string(&mut reader, &mut stdout).unwrap();
        }
        let mut stderr = String::new();
        let mut reader = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut reader, &mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Done { stdout, stderr, ..done(Output { status, stdout: vec![], stderr: vec![] }) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether a shell line can be run in a mount namespace of its own, as root; else says what is
/// skipped.
pub(crate) fn namespace(test: &str) -> bool {
    let tried = Command::new("unshare").args(["-m", "true"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        println!("skip: {test}: unshare -m needs root");
    }
    can
}

/// A shell line in a mount namespace of its own; `$0` is the program.
pub(crate) fn in_namespace(place: &Place, script: &str, args: &[&str]) -> Command {
    let mut command = place.command(&[]);
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-ec", script, BUSLINE]).args(args).current_dir(place.path());
    shell.env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command = shell;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command) -> Done {
    done(command.output().unwrap())
}
