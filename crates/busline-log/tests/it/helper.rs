//! Helper processes: this test binary, started again with a role in its environment.
//!
//! A helper says lines on its standard output, one write each, so that what it said before it was killed is
//! whole and is read to the end. It stops when its standard input ends: when its test says so, or is gone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::fleet::roles;
use crate::{every_fault, fork, media, processes, stop};

const ROLE: &str = "BUSLINE_TEST_ROLE";
/// What a helper says begins with this; the test harness prints lines of its own.
const PREFIX: &str = "> ";
/// Seconds, longer than anything here takes; whoever waits this long waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
#[ignore = "started by other tests, with a role"]
fn helper() {
    let Ok(role) = std::env::var(ROLE) else { return };
    // The harness has begun a line with the name of this test.
    println!();
    match role.as_str() {
        "writer" => roles::write(),
        "member" => roles::work(),
        "follower" => roles::follow(),
        "listener" => roles::listen_alone(),
        "keeper" => roles::keep(),
        "bell-owner" => processes::own_a_bell(),
        "lock-holder" => processes::hold_a_lock(),
        "append-holder" => processes::hold_the_append_lock(),
        "many-logs" => processes::open_many_logs(),
        "page-sleeper" => processes::sleep_on_a_page(),
        "poisoner" => every_fault::poison_a_log(),
        "full-disk" => media::fill_a_disk(),
        "read-only" => media::use_a_read_only_disk(),
        "file-size-limit" => media::reach_the_file_size_limit(),
        "parent" => fork::live_with_a_child(),
        "parent-of-heir" => fork::have_a_child_that_uses_what_it_inherits(),
        "locker" => fork::lock_among_forks(),
        "stopper" => stop::stop_inside(),
        "stopped-reader" => stop::read_and_stop(),
        "spawner" => fork::list_what_a_command_inherits(),
        other => panic!("no such role: {other}"),
    }
}

/// A value that the test gave its helper.
pub(crate) fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the helper was not given {name}"))
}

/// Tells the test something.
pub(crate) fn say(line: &str) {
    let line = format!("{PREFIX}{line}\n");
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).expect("the test listens");
    stdout.flush().expect("the test listens");
}

/// Becomes true when the helper should stop.
pub(crate) fn stop_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    std::thread::spawn(move || {
        wait_for_the_end_of_input();
        set.store(true, Ordering::SeqCst);
    });
    flag
}

/// Returns when the test wants the helper to stop.
pub(crate) fn wait_for_the_end_of_input() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Returns when the test tells it something.
pub(crate) fn wait_for_a_line() {
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A helper, as its test sees it. Dropping it kills it.
pub(crate) struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// What a helper said, and which one; `None` when it is gone.
pub(crate) type Said = (usize, Option<String>);

impl Helper {
    /// Starts a helper in a role, with values for [`given`]. What it says goes to `to`, under a number.
    pub(crate) fn start(
        number: usize,
        role: &str,
        values: &[(&str, &str)],
        to: &Sender<Said>,
    ) -> Self {
        Self::start_by(&[], number, role, values, to)
    }

    /// As [`Helper::start`], with a command in front of it, as `unshare -m` is one.
    pub(crate) fn start_by(
        wrapper: &[&str],
        number: usize,
        role: &str,
        values: &[(&str, &str)],
        to: &Sender<Said>,
    ) -> Self {
        let program = std::env::current_exe().expect("a test binary has a path");
        let mut command = match wrapper.split_first() {
            None => Command::new(&program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
        };
        let values: BTreeMap<_, _> = values.iter().copied().collect();
        let mut child = command
            .args(["--ignored", "--exact", "helper::helper", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .envs(values)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start a helper: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let to = to.clone();
        let reader = std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some(said) = line.strip_prefix(PREFIX) {
                    // The test may be over already.
                    let _ = to.send((number, Some(said.to_owned())));
                }
            }
            let _ = to.send((number, None));
        });
        Self { child, input, reader: Some(reader) }
    }

    /// Starts one helper with a channel of its own.
    pub(crate) fn alone(role: &str, values: &[(&str, &str)]) -> (Self, Receiver<Said>) {
        let (to, said) = channel();
        (Self::start(0, role, values, &to), said)
    }

    /// Sends a signal and waits for nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child");
    }

    /// SIGSTOP. Returns when every thread of it stands still.
    pub(crate) fn stop_still(&self) {
        self.signal(Signal::STOP);
        let pid = Some(Pid::from_child(&self.child));
        let status = waitpid(pid, WaitOptions::UNTRACED).expect("it is our child").expect("it is");
        assert!(status.1.stopped(), "{status:?}");
    }

    /// Gives it a line, for [`wait_for_a_line`].
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was not asked to stop");
        input.write_all(format!("{line}\n").as_bytes()).expect("it listens");
    }

    /// Asks it to stop; waits for nothing.
    pub(crate) fn ask_to_stop(&mut self) {
        drop(self.input.take());
    }

    /// Returns when the process is gone and all it said was passed on; whether it went well.
    pub(crate) fn wait(&mut self) -> bool {
        self.finish()
    }

    /// SIGKILL. Returns when the process is gone and all it said was passed on.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.finish();
    }

    /// Asks it to stop. Returns when it is gone and all it said was passed on; whether it went well.
    pub(crate) fn stop(&mut self) -> bool {
        self.ask_to_stop();
        self.finish()
    }

    fn finish(&mut self) -> bool {
        let status = self.child.wait().expect("it is our child");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        status.success()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The next thing that a helper says; fails when nothing comes for long.
pub(crate) fn listen(said: &Receiver<Said>) -> Said {
    said.recv_timeout(PATIENCE).expect("a helper says something, or it hangs")
}

/// The next thing that the only helper says; fails when it is gone instead.
pub(crate) fn hear(said: &Receiver<Said>) -> String {
    listen(said).1.expect("the helper still lives")
}
