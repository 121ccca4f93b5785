//! Python programs as processes: told things by lines of JSON, and heard.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

/// Nothing that must come takes longer, however loaded the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A Python process; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Peer {
    pub(super) fn start(command: &mut Command) -> Self {
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
    pub(super) fn tell(&mut self, what: &Value) {
        writeln!(self.input, "{what}").unwrap();
    }

    /// The next line that it prints.
    pub(super) async fn prints(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        line.expect("a line of the Python program in time").expect("it has not ended")
    }

    /// The next line that it prints, which is JSON.
    pub(super) async fn says(&mut self) -> Value {
        let line = self.prints().await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next line, which is to be of this kind.
    pub(super) async fn expect(&mut self, kind: &str) -> Value {
        let said = self.says().await;
        assert_eq!(said["kind"], kind, "{said}");
        said
    }

    /// Ends it by SIGKILL, as it stands.
    pub(super) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself, well: its output ends then.
    pub(super) async fn ends(mut self) {
        let ending = async { while self.lines.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ending).await.expect("the Python program to end in time");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}
