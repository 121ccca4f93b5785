//! Programs as processes: told things by lines of JSON, and heard.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::mpsc;

/// Nothing that must come takes longer, however loaded the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Far more than an end takes that waits for nothing, and less than one that waits for what never comes.
pub(crate) const SOON: Duration = Duration::from_secs(6);

/// A process; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.env("PYTHONUNBUFFERED", "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (said, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The test may be over.
                let _ = said.send(line);
            }
        });
        Self { child, input, lines }
    }

    /// Tells it something.
    pub(crate) fn tell(&mut self, what: &Value) {
        writeln!(self.input, "{what}").unwrap();
    }

    /// The next line that it prints.
    pub(crate) async fn prints(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        line.expect("a line of the program in time").expect("it has not ended")
    }

    /// The next line that it prints, which is JSON.
    pub(crate) async fn says(&mut self) -> Value {
        let line = self.prints().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line, which is to be of this kind.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let said = self.says().await;
        assert_eq!(said["kind"], kind, "{said}");
        said
    }

    /// Ends it by SIGKILL, as it stands.
    pub(crate) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself, well.
    pub(crate) async fn ends(self) {
        assert_eq!(self.code().await, Some(0));
    }

    /// Waits until it has ended by itself; its exit code. Its output ends then.
    pub(crate) async fn code(mut self) -> Option<i32> {
        self.rest().await;
        self.child.wait().unwrap().code()
    }

    /// As [`Peer::code`], and it takes not long.
    pub(crate) async fn code_soon(self) -> Option<i32> {
        tokio::time::timeout(SOON, self.code()).await.expect("it ends soon")
    }

    /// What it prints until its output ends.
    pub(crate) async fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        let ending = async {
            while let Some(line) = self.lines.recv().await {
                rest.push(line);
            }
        };
        tokio::time::timeout(PATIENCE, ending).await.expect("the program to end in time");
        rest
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}
