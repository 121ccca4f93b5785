//! The brokers of the tests: where they are, and stopping, killing and starting the one that is there for it.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

/// A broker that can be reached.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) address: String,
}

impl Broker {
    /// The broker that this variable names; `None`, said aloud, where it names none or it cannot be reached.
    pub(crate) fn find(variable: &str) -> Option<Self> {
        let Some(address) = std::env::var(variable).ok().filter(|address| !address.is_empty())
        else {
            println!("skip: {variable} names no Kafka, see CONTRIBUTING.md");
            return None;
        };
        match TcpStream::connect(&address) {
            Ok(_) => Some(Self { address }),
            Err(error) => {
                assert!(!is_required(), "Kafka is required and not at {address}: {error}");
                println!("skip: Kafka is not at {address}, see `cargo xtask brokers`: {error}");
                None
            }
        }
    }

    pub(crate) fn shared() -> Option<Self> {
        Self::find("BUSLINE_TEST_KAFKA")
    }

    /// Deaths are noticed soon.
    pub(crate) fn url(&self, options: &str) -> String {
        format!("kafka://{}?session_timeout=3s&heartbeat=200ms{options}", self.address)
    }
}

fn is_required() -> bool {
    std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0")
}

/// Tests that break the broker take turns.
pub(crate) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The node that may be broken.
#[derive(Debug, Clone)]
pub(crate) struct Breakable {
    pub(crate) broker: Broker,
    directory: PathBuf,
}

impl Breakable {
    pub(crate) fn find() -> Option<Self> {
        let broker = Broker::find("BUSLINE_TEST_KAFKA_FAULTS")?;
        let directory = directory("BUSLINE_TEST_KAFKA_FAULTS_DIR", "busline-kafka-faults")?;
        Some(Self { broker, directory })
    }

    /// Stops, kills or starts it, and returns when that is done.
    pub(crate) async fn ctl(&self, what: &'static str) {
        let mut tool = Command::new(self.directory.join("ctl"));
        tool.arg(what);
        let output = tokio::task::spawn_blocking(move || tool.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{what}: {output:?}");
    }
}

/// Where everything of a node of ours is kept; `None`, said aloud, where it is not there.
pub(crate) fn directory(variable: &str, ours: &str) -> Option<PathBuf> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let ours = || here.join("../../target/brokers").join(ours);
    let directory = std::env::var_os(variable).map_or_else(ours, Into::into);
    if directory.join("ctl").exists() {
        return Some(directory);
    }
    assert!(!is_required(), "nothing can break the broker: {} is not there", directory.display());
    println!("skip: nothing can break the broker: {} is not there", directory.display());
    None
}
