//! Where the examples run, and how they are started.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::python::ground::Ground;
use crate::python::peer::Peer;
use crate::service::harness::{Probe, World};

/// A bus, and what has to be kept for as long as it is used.
pub(super) struct Stage {
    pub(super) url: String,
    pub(super) ground: Option<Ground>,
    _directory: Option<tempfile::TempDir>,
}

impl Stage {
    /// One on files, and one on a broker where there is one.
    pub(super) fn all() -> Vec<Self> {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("file:{}", directory.path().join("bus").display());
        let files = Self { url, ground: None, _directory: Some(directory) };
        let broker = Ground::find().map(|ground| Self {
            url: ground.url(),
            ground: Some(ground),
            _directory: None,
        });
        std::iter::once(files).chain(broker).collect()
    }

    /// Starts an example with more arguments than the bus.
    pub(super) fn start(&self, example: &str, arguments: &[&str]) -> Peer {
        Peer::start(&mut self.command(example, arguments))
    }

    /// As [`Stage::start`], not started yet.
    pub(super) fn command(&self, example: &str, arguments: &[&str]) -> Command {
        command(example, &[&["--bus", &self.url], arguments].concat())
    }

    /// Starts an example and waits until it is ready, which is what it says first.
    pub(super) async fn ready(&self, example: &str, arguments: &[&str]) -> Peer {
        let mut peer = self.start(example, arguments);
        peer.expect("ready").await;
        peer
    }

    /// Runs a caller to its end: what it said, and its exit code.
    pub(super) async fn call(&self, arguments: &[&str]) -> (Vec<Value>, Option<i32>) {
        listen(self.ready("02_caller", arguments).await).await
    }

    /// An app of the test's own on the same bus.
    pub(super) async fn probe(&self, app: busline::service::App) -> Probe {
        World::at(self.url.clone()).await.probe_of(app).await
    }
}

/// What it says until its summary, and its exit code.
pub(super) async fn listen(mut peer: Peer) -> (Vec<Value>, Option<i32>) {
    let mut lines = Vec::new();
    loop {
        let line = peer.says().await;
        let is_last = line["kind"] == "summary";
        lines.push(line);
        if is_last {
            return (lines, peer.code().await);
        }
    }
}

/// Starts an example with these arguments.
pub(super) fn start(example: &str, arguments: &[&str]) -> Peer {
    Peer::start(&mut command(example, arguments))
}

fn command(example: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program(example));
    command.args(arguments);
    command
}

/// Where an example is.
pub(super) fn program(example: &str) -> PathBuf {
    // Beside the directory of this test.
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(example);
    assert!(
        path.exists(),
        "{} is not built: `cargo build -p busline --examples --all-features`",
        path.display()
    );
    path
}
