//! A transport of one's own: registered under a scheme, configured by settings that are checked.
#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busline::log::{Consumer, Producer};
use busline::transport::{
    BusUrl, Connect, Registry, Schema, Session, Setting, Settings, Transport, TransportFactory,
};
use busline::{Bus, Capabilities, Result};

/// Opens `pigeon:` URLs, as `pigeon:loft?speed=fast`.
#[derive(Debug)]
struct Pigeons;

impl TransportFactory for Pigeons {
    fn scheme(&self) -> &str {
        "pigeon"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .with(Setting::int("birds").between(1, 100).default(2).about("how many fly at once"))
            .with(Setting::text("speed").one_of(["slow", "fast"]).default("slow"))
    }

    fn open(&self, url: &BusUrl, settings: &Settings) -> Result<Arc<dyn Transport>> {
        // A real one keeps what it needs to connect, and implements `Session` over its own client.
        // This one sends all its birds to a bus in memory.
        let loft = busline::transport::open(&format!("memory:{}", url.address))?;
        let birds = settings.int("birds").unwrap_or_default();
        Ok(Arc::new(Pigeon { loft, birds }))
    }
}

#[derive(Debug)]
struct Pigeon {
    loft: Arc<dyn Transport>,
    birds: i64,
}

impl fmt::Display for Pigeon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pigeons", self.birds)
    }
}

impl Transport for Pigeon {
    fn capabilities(&self) -> Capabilities {
        self.loft.capabilities()
    }

    fn connect(&self, connect: Connect) -> Connecting<'_> {
        self.loft.connect(connect)
    }
}

/// What connecting comes to.
type Connecting<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Arc<dyn Session>>> + Send + 'a>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let registry = Registry::new().with(Pigeons)?;
    let bus = Bus::connect_by(&registry, "pigeon:loft?birds=3".into()).await?;
    println!("opened {bus}");
    let producer = Producer::on(&bus, "letters").await?;
    producer.send("love", "Dear reader").await?;
    let mut consumer = Consumer::on(&bus, "letters")?.timeout(Duration::from_secs(1));
    let letter = consumer.find_next("love").await?.expect("it was sent");
    println!("{}", String::from_utf8_lossy(&letter.message.payload));

    for wrong in ["pigeon:loft?bird=3", "pigeon:loft?birds=0", "pigeon:loft?speed=light"] {
        let error = registry.open(wrong).expect_err("it is wrong");
        println!("{wrong}: {error}");
    }
    Ok(())
}
