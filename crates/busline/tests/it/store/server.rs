//! Redis servers and sentinels of the tests' own, each on a free port with nothing on the disk.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

#[derive(Debug)]
pub(super) struct RedisServer {
    pub(super) port: u16,
    child: Child,
    log: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl RedisServer {
    /// Starts one; where there is no program, this says so and is none.
    pub(super) fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), arguments)
    }

    pub(super) fn start_at(port: u16, arguments: &[&str]) -> Option<Self> {
        let program = program()?;
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.args(["--repl-diskless-sync-delay", "0"]).args(arguments);
        let mut server = Self::spawn(command, port, directory);
        server.said("Ready to accept connections");
        Some(server)
    }

    /// Starts a sentinel that watches the server of this port.
    pub(super) fn sentinel(service: &str, watched: u16) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let settings = directory.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\n\
             sentinel monitor {service} 127.0.0.1 {watched} 1\n\
             sentinel down-after-milliseconds {service} 500\n\
             sentinel failover-timeout {service} 3000\n"
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new(program().unwrap());
        command.arg(&settings).arg("--sentinel");
        let mut sentinel = Self::spawn(command, port, directory);
        sentinel.said("+monitor master");
        sentinel
    }

    fn spawn(mut command: Command, port: u16, directory: tempfile::TempDir) -> Self {
        command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        Self { port, child, log, _directory: directory }
    }

    /// Sends a command with its own tool.
    pub(super) fn command(&self, password: &str, command: &[&str]) {
        let tool = program().unwrap().with_file_name("redis-cli");
        let mut tool = Command::new(tool);
        tool.args(["-p", &self.port.to_string(), "-a", password, "--no-auth-warning"]);
        let output = tool.args(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "OK", "{output:?}");
    }

    /// Waits for a line of its log.
    pub(super) fn said(&mut self, part: &str) {
        let mut all = String::new();
        loop {
            let start = all.len();
            let read = self.log.read_line(&mut all).unwrap();
            assert!(read > 0, "it ended before it said '{part}':\n{all}");
            if all[start..].contains(part) {
                return;
            }
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn program() -> Option<PathBuf> {
    let named = std::env::var_os("BUSLINE_TEST_REDIS_SERVER").map(PathBuf::from);
    let program = named.unwrap_or_else(|| "/usr/bin/redis-server".into());
    if program.exists() {
        return Some(program);
    }
    let missing = format!("there is no Redis server at {}", program.display());
    let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
    assert!(!required, "{missing}");
    println!("skip: Redis: {missing}");
    None
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
