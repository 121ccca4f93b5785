//! The brokers that the tests of the transports need, and which of them can be reached.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::Result;

/// Set, and not to `0`, it makes a broker that cannot be reached a failure.
pub(crate) const REQUIRE: &str = "BUSLINE_REQUIRE_BROKERS";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A broker that test cases of a transport need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    /// Its name, as people say it.
    pub(crate) name: &'static str,
    /// The variable that gives another address, as `host:port`.
    pub(crate) variable: &'static str,
    /// Where it is looked for unless told otherwise.
    pub(crate) address: &'static str,
}

/// One row a broker. The transports of this version, `memory:` and `file:`, need none.
pub(crate) const SERVICES: &[Service] = &[];

/// What looking for a broker came to.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    service: Service,
    /// The address, and why it cannot be reached.
    reached: std::result::Result<String, String>,
}

/// Looks for each broker.
pub(crate) fn probe_all() -> Vec<Probe> {
    SERVICES.iter().copied().map(probe).collect()
}

fn probe(service: Service) -> Probe {
    let address = std::env::var(service.variable).unwrap_or_else(|_| service.address.to_owned());
    let connected = address.to_socket_addrs().and_then(|addresses| {
        let mut last = std::io::Error::other("the name has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    });
    let reached = match connected {
        Ok(()) => Ok(address),
        Err(error) => Err(format!("{address}: {error}; {} names another", service.variable)),
    };
    Probe { service, reached }
}

/// Says aloud which brokers are there and which cases will be skipped.
pub(crate) fn report(probes: &[Probe]) {
    print!("{}", text(probes));
}

fn text(probes: &[Probe]) -> String {
    if probes.is_empty() {
        return "brokers: none needed, the transports of this version are memory: and file:\n"
            .to_owned();
    }
    let line = |probe: &Probe| match &probe.reached {
        Ok(address) => format!("broker {}: reached at {address}\n", probe.service.name),
        Err(why) => {
            format!("broker {}: NOT reached, its cases are SKIPPED ({why})\n", probe.service.name)
        }
    };
    probes.iter().map(line).collect()
}

/// The names of the brokers that are missing.
pub(crate) fn missing(probes: &[Probe]) -> Vec<&'static str> {
    probes.iter().filter(|probe| probe.reached.is_err()).map(|probe| probe.service.name).collect()
}

/// Whether a missing broker is a failure.
pub(crate) fn required() -> bool {
    std::env::var(REQUIRE).is_ok_and(|value| !value.is_empty() && value != "0")
}

/// Fails when brokers are required and some are missing.
pub(crate) fn demand(probes: &[Probe], required: bool) -> Result<()> {
    let missing = missing(probes);
    if required && !missing.is_empty() {
        return Err(format!("{REQUIRE} is set, and not reached: {}", missing.join(", ")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(address: &'static str) -> Service {
        Service { name: "TestMQ", variable: "BUSLINE_TEST_NO_SUCH_VARIABLE", address }
    }

    #[test]
    fn a_listening_broker_is_reached() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().leak();
        let probes = [probe(service(address))];
        assert_eq!(text(&probes), format!("broker TestMQ: reached at {address}\n"));
        assert_eq!(demand(&probes, true), Ok(()));
    }

    #[test]
    fn an_absent_broker_is_named_and_fails_only_when_required() {
        // Nobody can listen on port 0.
        let probes = [probe(service("127.0.0.1:0"))];
        assert!(text(&probes).starts_with("broker TestMQ: NOT reached, its cases are SKIPPED ("));
        assert_eq!(demand(&probes, false), Ok(()));
        let error = demand(&probes, true).unwrap_err();
        assert_eq!(error, "BUSLINE_REQUIRE_BROKERS is set, and not reached: TestMQ");
    }

    #[test]
    fn without_brokers_it_says_so() {
        assert!(text(&[]).contains("none needed"));
    }
}
