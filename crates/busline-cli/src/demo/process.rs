//! The processes of the demo: started, listened to, killed; none outlives the one that started it.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::event::Event;
use crate::demo::args::Role;
use crate::exit::{self, Failure, Outcome};

/// What came of a process.
#[derive(Debug)]
pub(super) enum News {
    /// It told something.
    Told(Event),
    /// Its standard output ended: it is ending, or dead.
    Silent,
}

/// A process of the demo. Dropped, it is killed; and it ends by itself when its standard input does,
/// should this process be the one that is killed.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: &'static str,
    pub(super) pid: u32,
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts this very program in a role; what it tells goes to `news` under this number.
    pub(super) fn start(
        name: &'static str,
        role: Role,
        url: &str,
        data: Option<&Path>,
        number: usize,
        news: &mpsc::UnboundedSender<(usize, News)>,
    ) -> Outcome<Self> {
        let failed = |error: std::io::Error| {
            Failure::new(exit::PROBLEM, format!("the process '{name}' cannot be started: {error}"))
        };
        let role =
            clap::ValueEnum::to_possible_value(&role).map(|value| value.get_name().to_owned());
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["--bus", url, "demo-worker"]).args(role);
        if let Some(data) = data {
            command.arg("--data").arg(data);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let news = news.clone();
        tokio::spawn(async move {
            if let Some(stdout) = stdout {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(event) = serde_json::from_str(&line) {
                        // Nobody listens any more when the demo is over.
                        let _ = news.send((number, News::Told(event)));
                    }
                }
            }
            let _ = news.send((number, News::Silent));
        });
        Ok(Self { name, pid: child.id().unwrap_or(0), child, stdin })
    }

    /// Sends a line to its standard input.
    pub(super) async fn tell(&mut self, line: &str) -> Outcome {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        let line = format!("{line}\n");
        stdin.write_all(line.as_bytes()).await.map_err(|error| {
            Failure::new(exit::PROBLEM, format!("the process '{}' is gone: {error}", self.name))
        })
    }

    /// SIGKILL: it gets no chance to give anything back.
    pub(super) async fn kill(&mut self) -> Outcome {
        self.child.kill().await.map_err(|error| {
            let text = format!("the process '{}' cannot be killed: {error}", self.name);
            Failure::new(exit::PROBLEM, text)
        })
    }

    /// Asks it to end, by closing its standard input, and waits for that.
    pub(super) async fn finish(&mut self) -> Outcome {
        drop(self.stdin.take());
        let status = self.child.wait().await;
        let ended_well = status.as_ref().is_ok_and(ExitStatus::success);
        if ended_well {
            return Ok(());
        }
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        Err(Failure::new(exit::PROBLEM, format!("the process '{}' failed: {how}", self.name)))
    }
}
