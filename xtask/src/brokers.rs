//! The brokers that the tests of the transports need: installed, started, found and stopped.

mod kafka;
mod rabbitmq;

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

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
    /// Where it is looked for unless told otherwise: where the node of ours listens.
    pub(crate) address: &'static str,
    /// The node that this tool starts.
    pub(crate) node: Node,
    /// Whether tests are run on it unasked. Otherwise they are, and need it, where its variable is set.
    pub(crate) by_default: bool,
}

/// A node of ours, of one broker or another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node {
    /// RabbitMQ.
    RabbitMq(rabbitmq::Node),
    /// Apache Kafka.
    Kafka(kafka::Node),
}

impl Node {
    fn directory(&self) -> std::path::PathBuf {
        match self {
            Self::RabbitMq(node) => node.directory(),
            Self::Kafka(node) => node.directory(),
        }
    }

    fn install(&self) -> Result<()> {
        match self {
            Self::RabbitMq(_) => rabbitmq::install(),
            Self::Kafka(_) => kafka::install(),
        }
    }

    fn start(&self) -> Result<()> {
        match self {
            Self::RabbitMq(node) => node.start(),
            Self::Kafka(node) => node.start(),
        }
    }

    fn stop(&self) -> Result<()> {
        match self {
            Self::RabbitMq(node) => node.stop(),
            Self::Kafka(node) => node.stop(),
        }
    }

    fn running(&self) -> Option<u32> {
        match self {
            Self::RabbitMq(node) => node.running(),
            Self::Kafka(node) => node.running(),
        }
    }
}

const fn rabbitmq(name: &'static str, port: u16) -> Node {
    Node::RabbitMq(rabbitmq::Node { name, port })
}

const fn kafka(name: &'static str, port: u16) -> Node {
    Node::Kafka(kafka::Node { name, port })
}

/// One row a broker. `memory:` and `file:` need none.
pub(crate) const SERVICES: &[Service] = &[
    Service {
        name: "rabbitmq",
        variable: "BUSLINE_TEST_RABBITMQ",
        address: "127.0.0.1:35672",
        node: rabbitmq("busline-rabbitmq", 35672),
        by_default: true,
    },
    // A second one to be stopped, blocked and killed, while other tests use the first.
    Service {
        name: "rabbitmq-faults",
        variable: "BUSLINE_TEST_RABBITMQ_FAULTS",
        address: "127.0.0.1:35682",
        node: rabbitmq("busline-faults", 35682),
        by_default: true,
    },
    // Below the ports that systems give to whoever connects: one that tries a port of these, while nobody listens,
    // would be connected with itself, and be in the way.
    Service {
        name: "kafka",
        variable: "BUSLINE_TEST_KAFKA",
        address: "127.0.0.1:29092",
        node: kafka("busline-kafka", 29092),
        by_default: false,
    },
    Service {
        name: "kafka-faults",
        variable: "BUSLINE_TEST_KAFKA_FAULTS",
        address: "127.0.0.1:29192",
        node: kafka("busline-kafka-faults", 29192),
        by_default: false,
    },
];

impl Service {
    fn is_wanted(&self) -> bool {
        self.by_default || std::env::var_os(self.variable).is_some_and(|value| !value.is_empty())
    }
}

/// Those that tests are to be run on: a broker that few can install must not be in the way of the others.
pub(crate) fn wanted() -> Vec<Service> {
    SERVICES.iter().copied().filter(Service::is_wanted).collect()
}

/// `cargo xtask brokers [install|start|stop|status] [NAME…]`; without names those that tests are run on, and `stop` all.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        [] => {
            report(&probe_all(SERVICES));
            Ok(())
        }
        ["status", names @ ..] => {
            let probes: Vec<_> = named(names)?.into_iter().map(probe).collect();
            report(&probes);
            demand(&probes, true)
        }
        ["install", names @ ..] => install(&named(names)?),
        ["start", names @ ..] => {
            let services = named(names)?;
            start(&services).map(|_| report(&probe_all(&services)))
        }
        ["stop"] => stop(SERVICES),
        ["stop", names @ ..] => stop(&named(names)?),
        [other, ..] => {
            Err(format!("brokers does not know '{other}': install, start, stop, status"))
        }
    }
}

fn install(services: &[Service]) -> Result<()> {
    services.iter().try_for_each(|service| service.node.install())
}

/// Starts those that cannot be reached, all at once; returns those that it started.
pub(crate) fn start(services: &[Service]) -> Result<Started> {
    let is_missing = |service: &Service| probe(*service).reached.is_err();
    let missing: Vec<_> = services.iter().copied().filter(is_missing).collect();
    if missing.is_empty() {
        return Ok(Started(missing));
    }
    install(&missing)?;
    let starting: Vec<_> = missing
        .iter()
        .copied()
        .map(|service| {
            println!(
                "broker {}: starting, in {}",
                service.name,
                service.node.directory().display()
            );
            std::thread::spawn(move || service.node.start())
        })
        .collect();
    let ended: Vec<_> = starting.into_iter().map(|start| start.join()).collect();
    let mut started = Started(missing);
    for end in ended {
        let end = end.map_err(|_| "starting a broker panicked".to_owned()).and_then(|end| end);
        if let Err(error) = end {
            started.stop()?;
            return Err(error);
        }
    }
    Ok(started)
}

/// What was started for one run, to be stopped when it is over.
#[derive(Debug)]
pub(crate) struct Started(Vec<Service>);

impl Started {
    /// Stops them.
    pub(crate) fn stop(&mut self) -> Result<()> {
        stop(&std::mem::take(&mut self.0))
    }
}

fn stop(services: &[Service]) -> Result<()> {
    let stopping: Vec<_> = services
        .iter()
        .map(|service| {
            let node = service.node;
            std::thread::spawn(move || node.stop())
        })
        .collect();
    for stop in stopping {
        stop.join().map_err(|_| "stopping a broker panicked".to_owned())??;
    }
    Ok(())
}

fn named(names: &[&str]) -> Result<Vec<Service>> {
    let find = |name: &&str| {
        let known = || SERVICES.iter().map(|service| service.name).collect::<Vec<_>>().join(", ");
        let found = SERVICES.iter().find(|service| service.name == *name).copied();
        found.ok_or_else(|| format!("there is no broker '{name}'; there are {}", known()))
    };
    if names.is_empty() { Ok(wanted()) } else { names.iter().map(find).collect() }
}

/// Whether it holds before this long has passed; looked at again and again.
fn until(longest: Duration, mut holds: impl FnMut() -> bool) -> bool {
    #[allow(clippy::disallowed_methods, reason = "a process of somebody else's tells no events")]
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > longest {
            return false;
        }
        #[allow(clippy::disallowed_methods, reason = "as above")]
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What looking for a broker came to.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    service: Service,
    /// The address, and why it cannot be reached.
    reached: std::result::Result<String, String>,
}

/// Looks for each of these brokers.
pub(crate) fn probe_all(services: &[Service]) -> Vec<Probe> {
    services.iter().copied().map(probe).collect()
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

/// Where tests find what talks to each node: `BUSLINE_TEST_RABBITMQ_DIR`, and so on.
pub(crate) fn directories() -> impl Iterator<Item = (String, std::path::PathBuf)> {
    let own = SERVICES.iter().filter(|service| service.node.running().is_some());
    own.map(|service| (format!("{}_DIR", service.variable), service.node.directory()))
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
        let node = rabbitmq("no-such-node", 0);
        let (name, variable) = ("TestMQ", "BUSLINE_TEST_NO_SUCH_VARIABLE");
        Service { name, variable, address, node, by_default: true }
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
    fn names_are_known() {
        assert_eq!(named(&[]).unwrap().len(), wanted().len());
        assert_eq!(named(&["rabbitmq"]).unwrap()[0].name, "rabbitmq");
        let error = run(&["start", "hareqm"]).unwrap_err();
        assert!(error.contains("no broker 'hareqm'; there are rabbitmq, "), "{error}");
        assert!(run(&["restart"]).unwrap_err().contains("install, start, stop, status"));
    }

    #[test]
    fn what_few_can_install_is_wanted_only_where_it_is_named() {
        let asked = Service { by_default: false, ..service("127.0.0.1:0") };
        assert!(!asked.is_wanted());
        assert!(Service { variable: "PATH", ..asked }.is_wanted());
        assert!(Service { by_default: true, ..asked }.is_wanted());
        let unasked = SERVICES.iter().filter(|service| service.by_default);
        let names: Vec<_> = unasked.map(|service| service.name).collect();
        assert_eq!(names, ["rabbitmq", "rabbitmq-faults"]);
    }

    #[test]
    fn what_does_not_run_is_stopped_already() {
        // Neither has it a directory, nor would a stale number of this very process be believed.
        for node in [rabbitmq("no-such-node", 35692), kafka("no-such-kafka", 29292)] {
            assert_eq!(node.running(), None);
            assert_eq!(node.stop(), Ok(()));
        }
    }
}
