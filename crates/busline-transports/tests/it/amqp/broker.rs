//! The broker of the tests: where it is, and a virtual host for each run.

use std::io::{Read, Write};
use std::net::TcpStream;

/// A broker that can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Broker {
    /// The broker that this variable names, or ours; `None`, said aloud, where it cannot be reached.
    pub(crate) fn find(variable: &str, ours: &str) -> Option<Self> {
        let address = std::env::var(variable).unwrap_or_else(|_| ours.to_owned());
        let (host, port) = address.rsplit_once(':').expect("host:port");
        let broker = Self { host: host.to_owned(), port: port.parse().expect("a port") };
        match TcpStream::connect(&address) {
            Ok(_) => Some(broker),
            Err(error) => {
                let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
                assert!(!required, "RabbitMQ is required and not at {address}: {error}");
                println!("skip: RabbitMQ is not at {address}, see `cargo xtask brokers`: {error}");
                None
            }
        }
    }

    pub(crate) fn shared() -> Option<Self> {
        Self::find("BUSLINE_TEST_RABBITMQ", "127.0.0.1:35672")
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(crate) fn management(&self) -> String {
        format!("http://{}:{}", self.host, self.port + 1)
    }

    /// A request to the management API; the body of a good answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        let asking = || -> std::io::Result<String> {
            let mut socket = TcpStream::connect((self.host.as_str(), self.port + 1))?;
            write!(
                socket,
                "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
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
        if is_good { Ok(body.to_owned()) } else { Err(format!("{method} {path}: {head}")) }
    }

    /// A virtual host that goes when it is dropped.
    pub(crate) fn vhost(&self) -> Vhost {
        let name = format!("test-{}", uuid::Uuid::new_v4().simple());
        self.request("PUT", &format!("/api/vhosts/{name}"), "").unwrap();
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        self.request("PUT", &format!("/api/permissions/{name}/guest"), all).unwrap();
        Vhost { name, broker: self.clone() }
    }
}

#[derive(Debug)]
pub(crate) struct Vhost {
    pub(crate) name: String,
    pub(crate) broker: Broker,
}

impl Vhost {
    /// The URL of this virtual host, reached at this address.
    pub(crate) fn url(&self, address: &str, options: &str) -> String {
        let management = self.broker.management();
        format!("amqp://guest:guest@{address}/{}?management={management}{options}", self.name)
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        // What is left behind is only untidy.
        let _ = self.broker.request("DELETE", &format!("/api/vhosts/{}", self.name), "");
    }
}
