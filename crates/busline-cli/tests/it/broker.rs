//! The broker of the tests, and a virtual host of its own for each.

use std::io::{Read, Write};
use std::net::TcpStream;

/// A virtual host, which goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Vhost {
    name: String,
    host: String,
    port: u16,
}

impl Vhost {
    /// A new one; `None`, said aloud, where there is no broker and none is required.
    pub(crate) fn new() -> Option<Self> {
        let address = std::env::var("BUSLINE_TEST_RABBITMQ");
        let address = address.unwrap_or_else(|_| "127.0.0.1:35672".to_owned());
        if let Err(error) = TcpStream::connect(&address) {
            let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
            assert!(!required, "RabbitMQ is required and not at {address}: {error}");
            println!("skip: RabbitMQ is not at {address}, see `cargo xtask brokers`: {error}");
            return None;
        }
        let (host, port) = address.rsplit_once(':').expect("host:port");
        // Who else runs these tests has another number, or another time.
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let name = format!("test-cli-{}-{now}", std::process::id());
        let vhost = Self { name, host: host.to_owned(), port: port.parse().expect("a port") };
        vhost.request("PUT", &format!("vhosts/{}", vhost.name), "").unwrap();
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        vhost.request("PUT", &format!("permissions/{}/guest", vhost.name), all).unwrap();
        Some(vhost)
    }

    /// Its URL, with more options, as `&queue=quorum`.
    pub(crate) fn url(&self, options: &str) -> String {
        let Self { name, host, port } = self;
        let management = format!("http://{host}:{}", port + 1);
        format!("amqp://guest:guest@{host}:{port}/{name}?management={management}{options}")
    }

    /// Its URL for a user without any tag, who may use AMQP and nothing else.
    pub(crate) fn url_untagged(&self, options: &str) -> String {
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        let Self { name, host, port } = self;
        let user = r#"{"password":"plain","tags":""}"#;
        self.request("PUT", &format!("users/{name}"), user).unwrap();
        self.request("PUT", &format!("permissions/{name}/{name}"), all).unwrap();
        let management = format!("http://{host}:{}", port + 1);
        format!("amqp://{name}:plain@{host}:{port}/{name}?management={management}{options}")
    }

    /// A request to the management API about a thing in it, as `queues`; the body of a good answer.
    pub(crate) fn ask(&self, method: &str, what: &str, body: &str) -> String {
        let (kind, rest) = what.split_once('/').unwrap_or((what, ""));
        self.request(method, &format!("{kind}/{}/{rest}", self.name), body).unwrap()
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
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
        if is_good { Ok(body.to_owned()) } else { Err(format!("{method} {path}: {answer}")) }
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // What is left behind is only untidy.
        let _ = self.request("DELETE", &format!("vhosts/{}", self.name), "");
        let _ = self.request("DELETE", &format!("users/{}", self.name), "");
    }
}
