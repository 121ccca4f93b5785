//! Where the tests take place: a virtual host of the broker for each, and Python beside it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::peer::Peer;

/// What each service's queues lose goes to the queue of this name, once [`Ground::keep_dead`] was called.
pub(crate) const DEAD: &str = "dead";

/// A virtual host of the broker, which goes when this is dropped, and the interpreter.
#[derive(Debug)]
pub(crate) struct Ground {
    host: String,
    port: u16,
    vhost: String,
    python: PathBuf,
}

impl Ground {
    /// A new one; `None`, said aloud, where broker or interpreter are missing and not required.
    pub(crate) fn find() -> Option<Self> {
        let address = std::env::var("BUSLINE_TEST_RABBITMQ");
        let address = address.unwrap_or_else(|_| "127.0.0.1:35672".to_owned());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let installed = || root.join("target/python/bin/python");
        let python = std::env::var_os("BUSLINE_TEST_PYTHON").map_or_else(installed, PathBuf::from);
        let missing = match (TcpStream::connect(&address), python.exists()) {
            (Ok(_), true) => return Some(Self::at(&address, python)),
            (Err(error), _) => format!("RabbitMQ is not at {address}: {error}"),
            (_, false) => format!("there is no Python at {}", python.display()),
        };
        let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
        assert!(!required, "{missing}");
        println!("skip: Python services: {missing}");
        None
    }

    fn at(address: &str, python: PathBuf) -> Self {
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let (host, port) = (host.to_owned(), port.parse().expect("a port"));
        // Who else runs these tests has another number, or another time.
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let vhost = format!("test-python-{}-{now}", std::process::id());
        let ground = Self { host, port, vhost, python };
        ground.request("PUT", &format!("vhosts/{}", ground.vhost), &Value::Null).unwrap();
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        ground.request("PUT", &format!("permissions/{}/guest", ground.vhost), &all).unwrap();
        ground
    }

    /// Where the broker is, as `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The broker's URL, as everybody writes it.
    pub(crate) fn url(&self) -> String {
        let Self { host, port, vhost, .. } = self;
        format!("amqp://guest:guest@{host}:{port}/{vhost}")
    }

    /// Starts a script of ours with these arguments after the URL.
    pub(crate) fn start(&self, script: &str, arguments: &[&str]) -> Peer {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
        let mut command = Command::new(&self.python);
        Peer::start(command.arg(scripts.join(script)).arg(self.url()).args(arguments))
    }

    /// Starts `probe.py`.
    pub(crate) fn probe(&self, service: &str, options: &Value) -> Peer {
        self.start("probe.py", &[service, &options.to_string()])
    }

    /// A program that comes with the library.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.python.with_file_name(name)).arg(self.url());
        command
    }

    /// Sets the policy that services ask their operators for, and keeps what is dead lettered.
    pub(crate) fn keep_dead(&self) {
        let exchange = json!({ "type": "topic", "durable": true });
        self.ask("PUT", "exchanges", "am-dlx", &exchange);
        self.ask("PUT", "queues", DEAD, &json!({ "durable": true }));
        let everything = json!({ "routing_key": "#" });
        self.ask("POST", "bindings", &format!("e/am-dlx/q/{DEAD}"), &everything);
        let policy = json!({
            "pattern": r".*\.events|.*\.commands",
            "definition": { "dead-letter-exchange": "am-dlx" },
            "apply-to": "queues",
        });
        self.ask("PUT", "policies", "am-dlx", &policy);
    }

    /// A request to the management API about things of a kind in this virtual host.
    pub(crate) fn ask(&self, method: &str, kind: &str, rest: &str, body: &Value) -> Value {
        self.request(method, &format!("{kind}/{}/{rest}", self.vhost), body).unwrap()
    }

    /// Closes so many connections of this virtual host, which is all of them: the broker's statistics learn of them late.
    pub(crate) fn cut(&self, count: usize) {
        let all = loop {
            let all =
                self.request("GET", &format!("vhosts/{}/connections", self.vhost), &Value::Null);
            let all = all.unwrap();
            if all.as_array().is_some_and(|all| all.len() >= count) {
                break all;
            }
        };
        for connection in all.as_array().unwrap() {
            let name = connection["name"].as_str().unwrap().replace(' ', "%20");
            let name = name.replace('>', "%3E");
            self.request("DELETE", &format!("connections/{name}"), &Value::Null).unwrap();
        }
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asking = || -> std::io::Result<String> {
            let mut socket = TcpStream::connect((self.host.as_str(), self.port + 1))?;
            write!(
                socket,
                "{method} /api/{path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n\
                 Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
                 Content-Type: application/json\r\n\r\n{body}",
                self.host,
                body.len(),
            )?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = asking().map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let is_good = head.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        if !is_good {
            return Err(format!("{method} {path}: {answer}"));
        }
        Ok(serde_json::from_str(body).unwrap_or_default())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What is left behind is only untidy.
        let _ = self.request("DELETE", &format!("vhosts/{}", self.vhost), &Value::Null);
    }
}
