//! Python programs as processes, in the environment that `cargo xtask test` installs.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

/// Nothing that must come takes longer, however loaded the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Where broker and interpreter are; `None`, said aloud, where one is missing.
pub(super) struct Ground {
    address: String,
    python: PathBuf,
}

impl Ground {
    pub(super) fn find() -> Option<Self> {
        let address = std::env::var("BUSLINE_TEST_RABBITMQ");
        let address = address.unwrap_or_else(|_| "127.0.0.1:35672".to_owned());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let installed = || root.join("target/python/bin/python");
        let python = std::env::var_os("BUSLINE_TEST_PYTHON").map_or_else(installed, PathBuf::from);
        let missing = match (TcpStream::connect(&address), python.exists()) {
            (Ok(_), true) => return Some(Self { address, python }),
            (Err(error), _) => format!("RabbitMQ is not at {address}: {error}"),
            (_, false) => format!("there is no Python at {}", python.display()),
        };
        let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
        assert!(!required, "{missing}");
        println!("skip: Python services: {missing}");
        None
    }

    /// The broker's URL, as everybody writes it.
    pub(super) fn url(&self) -> String {
        format!("amqp://guest:guest@{}/", self.address)
    }

    /// Starts a script of ours with these arguments after the URL.
    pub(super) fn start(&self, script: &str, arguments: &[&str]) -> Peer {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
        let mut command = Command::new(&self.python);
        command.arg(scripts.join(script)).arg(self.url()).args(arguments);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (said, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.send(serde_json::from_str(&line).expect("a line of JSON"));
            }
        });
        Peer { child, lines }
    }
}

/// A Python process; killed when it is dropped.
pub(super) struct Peer {
    child: Child,
    lines: mpsc::UnboundedReceiver<Value>,
}

impl Peer {
    /// The next line that it prints.
    pub(super) async fn says(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        line.expect("a line of the Python program in time").expect("it has not ended")
    }

    /// Ends it by itself or by SIGKILL, as it stands.
    pub(super) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself: its output ends then.
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
