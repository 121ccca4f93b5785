//! `cargo xtask bench kafka`: Kafka through Busline, beside its raw client used the same way, in one run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busline::{Bus, BusConfig, Receipt};
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// What everything here comes to; the error is a sentence for people.
type Result<T> = std::result::Result<T, String>;

/// What is in flight at most, both ways.
const WINDOW: usize = 1000;
const PAYLOAD: [u8; 100] = [b'x'; 100];

/// How many times the raw client's rate ours must be.
const GOAL: f64 = 0.95;

const USAGE: &str = "\
usage: cargo xtask bench kafka [OPTION…]

  --address HOST:PORT  the broker (the node of `cargo xtask brokers start kafka`)
  --messages N         how many messages each work takes (200000)
  --repetitions N      how often each work is done, interleaved (5)
";

struct Setup {
    address: String,
    messages: usize,
    repetitions: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = parse(&arguments).and_then(|setup| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.map_err(text)?.block_on(run(&setup))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Result<Setup> {
    let mut setup =
        Setup { address: "127.0.0.1:29092".to_owned(), messages: 200_000, repetitions: 5 };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))?;
        let count = || match value.parse() {
            Ok(0) | Err(_) => Err(format!("'{value}' is no number of them\n{USAGE}")),
            Ok(count) => Ok(count),
        };
        match argument.as_str() {
            "--address" => setup.address.clone_from(value),
            "--messages" => setup.messages = count()?,
            "--repetitions" => setup.repetitions = count()?,
            other => return Err(format!("'{other}' is no option\n{USAGE}")),
        }
    }
    Ok(setup)
}

async fn run(setup: &Setup) -> Result<()> {
    let mut figures: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for repetition in 0..setup.repetitions {
        let mut config = BusConfig::new(&format!("kafka://{}", setup.address));
        config.window = WINDOW;
        let bus = Bus::connect(config).await.map_err(text)?;
        let unique = std::process::id();
        // A topic each: what one left is not for the other.
        for who in turned(repetition) {
            let topic = format!("bench-{unique}-{repetition}-{who}");
            let group = bus.group(topic.as_str(), "all").map_err(text)?;
            group.declare().await.map_err(text)?;
            let start = now();
            match who {
                "rdkafka" => raw_publish(setup, &topic).await?,
                _ => publish(&bus, setup, &topic).await?,
            }
            add(&mut figures, "publish, acks=all, msg/s", who, setup, start);
            let start = now();
            match who {
                "rdkafka" => raw_consume(setup, &topic).await?,
                _ => consume(&bus, setup, &topic).await?,
            }
            add(&mut figures, "consume, each chunk committed, msg/s", who, setup, start);
            let admin = bus.admin().await.map_err(text)?;
            let topic = busline::Topic::new(topic).map_err(text)?;
            let any = busline::transport::DeleteIf::default();
            admin.delete_topic(&topic, any).await.map_err(text)?;
        }
        bus.close(Duration::from_secs(10)).await.map_err(text)?;
    }
    print(setup, &figures)
}

/// Who is first changes: a broker has more to do just after a work.
fn turned(repetition: usize) -> [&'static str; 2] {
    if repetition.is_multiple_of(2) { ["rdkafka", "busline"] } else { ["busline", "rdkafka"] }
}

#[allow(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

fn add<'a>(
    figures: &mut BTreeMap<(&'a str, &'a str), Vec<f64>>,
    work: &'a str,
    who: &'a str,
    setup: &Setup,
    start: Instant,
) {
    let rate = setup.messages as f64 / start.elapsed().as_secs_f64();
    figures.entry((work, who)).or_default().push(rate);
}

fn print(setup: &Setup, figures: &BTreeMap<(&str, &str), Vec<f64>>) -> Result<()> {
    println!(
        "# {} repetitions of {} messages of 100 B, one partition; acks=all and idempotent, durability 'process' \
         (the page cache of the brokers); {WINDOW} in flight",
        setup.repetitions, setup.messages
    );
    let median = |work: &str, who: &str| {
        let mut rates = figures.get(&(work, who)).cloned().unwrap_or_default();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().ok_or_else(|| format!("{work}: not measured"))
    };
    for ((work, who), rates) in figures {
        let (least, most) = rates
            .iter()
            .fold((f64::INFINITY, 0.0_f64), |(l, m), rate| (l.min(*rate), m.max(*rate)));
        println!("{work:40} {who:10} {:>12.0}   {least:.0} to {most:.0}", median(work, who)?);
    }
    for work in ["publish, acks=all, msg/s", "consume, each chunk committed, msg/s"] {
        let ratio = median(work, "busline")? / median(work, "rdkafka")?;
        let verdict = if ratio >= GOAL { "met" } else { "MISSED" };
        println!("{work:40} busline / rdkafka = {ratio:.2}, asked is {GOAL}: {verdict}");
    }
    Ok(())
}

async fn publish(bus: &Bus, setup: &Setup, topic: &str) -> Result<()> {
    let publisher = bus.publisher(topic).await.map_err(text)?;
    let mut receipts = VecDeque::with_capacity(WINDOW);
    for _ in 0..setup.messages {
        let message = publisher.message("key", &PAYLOAD[..]).map_err(text)?;
        receipts.extend(publisher.send(vec![message]).await.map_err(text)?);
        if receipts.len() >= WINDOW {
            stored(receipts.pop_front()).await?;
        }
    }
    while !receipts.is_empty() {
        stored(receipts.pop_front()).await?;
    }
    Ok(())
}

async fn stored(receipt: Option<busline::PendingReceipt>) -> Result<()> {
    let Some(receipt) = receipt else { return Ok(()) };
    match receipt.await.map_err(text)? {
        Receipt::Stored { offset: Some(_) } => Ok(()),
        other => Err(format!("a message is not stored: {other:?}")),
    }
}

async fn consume(bus: &Bus, setup: &Setup, topic: &str) -> Result<()> {
    let in_flight = u32::try_from(WINDOW).map_err(text)?;
    let group = bus.group(topic, "all").map_err(text)?.max_in_flight(in_flight);
    let mut consumer = group.subscribe().await.map_err(text)?;
    let mut last = None;
    for _ in 0..setup.messages {
        let delivery = consumer.next().await.map_err(text)?.ok_or("it ended")?;
        last = Some(delivery.ack());
    }
    last.ok_or("nothing came")?.await.map_err(text)?;
    consumer.stop().await.map_err(text)
}

fn client(setup: &Setup) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &setup.address);
    client
}

/// As Busline does: each message by itself, each receipt awaited, so many in flight.
async fn raw_publish(setup: &Setup, topic: &str) -> Result<()> {
    let mut client = client(setup);
    client.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "0");
    let producer: FutureProducer = client.create().map_err(text)?;
    let mut receipts = VecDeque::with_capacity(WINDOW);
    for _ in 0..setup.messages {
        let record = FutureRecord::to(topic).key("key").payload(&PAYLOAD[..]);
        receipts.push_back(producer.send_result(record).map_err(|(error, _)| text(error))?);
        if receipts.len() >= WINDOW
            && let Some(oldest) = receipts.pop_front()
        {
            oldest.await.map_err(text)?.map_err(|(error, _)| text(error))?;
        }
    }
    for receipt in receipts {
        receipt.await.map_err(text)?.map_err(|(error, _)| text(error))?;
    }
    Ok(())
}

/// As Busline does: what is handed out is taken out of the client's memory, and the place is committed, and known to
/// be, before more is in flight than the window allows.
async fn raw_consume(setup: &Setup, topic: &str) -> Result<()> {
    let mut client = client(setup);
    client.set("group.id", format!("raw.{topic}")).set("enable.auto.commit", "false");
    client.set("auto.offset.reset", "earliest");
    let consumer: Arc<StreamConsumer> = Arc::new(client.create().map_err(text)?);
    consumer.subscribe(&[topic]).map_err(text)?;
    let mut bytes = 0;
    for number in 1..=setup.messages {
        let message = consumer.recv().await.map_err(text)?.detach();
        bytes += message.payload().map_or(0, <[u8]>::len);
        if number.is_multiple_of(WINDOW) || number == setup.messages {
            let mut list = TopicPartitionList::new();
            let place = Offset::Offset(message.offset() + 1);
            list.add_partition_offset(topic, message.partition(), place).map_err(text)?;
            let consumer = Arc::clone(&consumer);
            let commit = move || consumer.commit(&list, CommitMode::Sync).map_err(text);
            tokio::task::spawn_blocking(commit).await.map_err(text)??;
        }
    }
    if bytes != setup.messages * PAYLOAD.len() {
        return Err("the bytes are not those that were published".to_owned());
    }
    Ok(())
}

/// Any error as a sentence.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
