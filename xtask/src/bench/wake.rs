//! From publishing to a sleeping process that holds the message, beside the machine's own wake-ups.
//!
//! Each row has one consuming process that hears both: ours and the bare one, in blocks that alternate, so
//! that both meet the same processors, pauses and clocks.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use busline_core::transport::{
    Batch, Connect, GroupSpec, Membership, Read, Reader, Role, Session, Subscribe, Subscription,
    TopicSpec, Topology,
};
use busline_core::{GroupName, Key, Message, Position, Topic};
use busline_log::storage::SharedPage;
use busline_log::{Log, Scanner, SyncMode};
use bytes::Bytes;
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Runtime};

use crate::child::{Started, say};
use crate::goals::PROCESS;
use crate::log::{self, failed};
use crate::measure::{Latencies, now_ns, now_us};
use crate::peers::{Peer, Sync};
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

const TABLE: &str = "From publish to another process that slept and holds the message, 100 B";

/// Messages to one of the two before it is the other's turn.
const BLOCK: u64 = 50;

/// Between two messages, so that the consumer is asleep when the next one comes.
const PAUSE_US: std::ops::Range<u64> = 200..1000;

/// A consumer that gets nothing for this long has missed a message.
const PATIENCE: Duration = Duration::from_secs(10);

const BODY_LEN: usize = 100;

/// Who publishes, and how the consuming process hears of it.
struct Row {
    work: &'static str,
    how: &'static str,
    /// A session of the transport publishes, else an appender of the log.
    by_session: bool,
}

const ROWS: &[Row] = &[
    Row { work: "a thread that waits", how: "thread", by_session: false },
    Row { work: READER, how: "reader", by_session: false },
    Row { work: "a reader, several", how: "reader-multi", by_session: false },
    Row { work: "a group's member, one thread", how: "group", by_session: false },
    Row { work: "a group's member, several", how: "group-multi", by_session: false },
    Row { work: "session to reader, one thread", how: "reader", by_session: true },
];

const READER: &str = "a reader, one thread in the runtime";

/// Peers whose consumer sleeps, and enough messages to know how long.
const PEERS: &[(Peer, u64)] = &[
    (Peer::new("Redis XREAD BLOCK, TCP", "redis-tcp", Sync::Process), 1000),
    (Peer::new("Redis XREAD BLOCK, Unix socket", "redis", Sync::Process), 1000),
    (Peer::new("stand-in for Hermes' bus", "hermes", Sync::Power), 20),
];

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("wake")?;
    for (number, row) in ROWS.iter().enumerate() {
        let bare = if row.how == "thread" { "a futex" } else { "a pipe in the runtime" };
        let [ours, beside] = measure(&dir.join(number.to_string()), row, setup.scaled(1000, 100))?;
        for (at, unit) in ["us, p50", "us, p99"].into_iter().enumerate() {
            report.add(Figure {
                table: TABLE,
                work: row.work.to_owned(),
                durability: "crash of the process",
                unit,
                busline: ours[at],
                beside: (bare, beside[at]),
            });
        }
    }
    remove(&dir)?;
    others(setup, report)
}

fn others(setup: &Setup, report: &mut Report) -> Result<()> {
    for (peer, messages) in PEERS {
        let messages = setup.scaled(*messages, messages / 10);
        if let Some(quantiles) = peer.figures::<2>(setup, report, "wake", &[messages])? {
            for (at, unit) in ["us, p50", "us, p99"].into_iter().enumerate() {
                report.compare([READER, PROCESS, unit], (peer.name, quantiles[at]))?;
            }
        }
    }
    Ok(())
}

/// The quantiles of our messages, and those of the bare ones.
fn measure(dir: &Path, row: &Row, messages: u64) -> Result<[[f64; 2]; 2]> {
    let runtime = runtime(row.by_session)?;
    let session = runtime.block_on(declare(dir))?;
    let log = open_log(dir)?;
    let mut appender = log.appender();
    let page = page(dir)?;
    let mut child = Started::new(&["listen", row.how], dir, &[messages.to_string()])?;
    child.line()?;
    let mut pauses = Pauses(0x9E37_79B9_7F4A_7C15);
    for block in 0..2 * messages / BLOCK {
        for _ in 0..BLOCK {
            std::thread::park_timeout(pauses.next());
            let mut body = [0; BODY_LEN];
            body[..8].copy_from_slice(&now_ns().to_le_bytes());
            if is_ours(block) {
                if row.by_session {
                    let message = Message::new(topic()?, key()?, Bytes::copy_from_slice(&body));
                    let sent = session.send(Batch::from(vec![message]));
                    runtime.block_on(sent).map_err(failed)?;
                } else {
                    appender.append(now_us(), b"category.0000001", b"", &body).map_err(failed)?;
                }
            } else if row.how == "thread" {
                give(&*page);
            } else {
                child.write(&body)?;
            }
        }
    }
    let quantiles = [two(&child.line()?)?, two(&child.line()?)?];
    child.end()?;
    runtime.block_on(session.close(PATIENCE)).map_err(failed)?;
    Ok(quantiles)
}

fn is_ours(block: u64) -> bool {
    block % 2 == 1
}

/// Lengths of pauses: any numbers will do that do not repeat soon.
struct Pauses(u64);

impl Pauses {
    fn next(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(PAUSE_US.start + self.0 % (PAUSE_US.end - PAUSE_US.start))
    }
}

fn two(line: &str) -> Result<[f64; 2]> {
    let numbers: Option<Vec<f64>> = line.split(' ').map(|text| text.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| format!("'{line}' is not two numbers"))
}

fn topic() -> Result<Topic> {
    Topic::new("wake").map_err(failed)
}

fn group() -> Result<GroupName> {
    GroupName::new("wake").map_err(failed)
}

fn key() -> Result<Key> {
    Key::try_from("category.0000001").map_err(failed)
}

fn runtime(several: bool) -> Result<Runtime> {
    let mut builder =
        if several { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.enable_all().build().map_err(failed)
}

async fn connect(dir: &Path) -> Result<Arc<dyn Session>> {
    let url = format!("file:{}?sync=os", dir.join("bus").display());
    let transport = busline_transports::open(&url).map_err(failed)?;
    transport.connect(Connect::new(Role::Publish)).await.map_err(failed)
}

async fn declare(dir: &Path) -> Result<Arc<dyn Session>> {
    std::fs::create_dir_all(dir).map_err(failed)?;
    let session = connect(dir).await?;
    let topology = Topology {
        topics: vec![TopicSpec::new(topic()?)],
        groups: vec![GroupSpec::new(topic()?, group()?)],
        ..Topology::default()
    };
    session.declare(&topology).await.map_err(failed)?;
    Ok(session)
}

/// The log of the topic.
fn open_log(dir: &Path) -> Result<Log> {
    log::open(&dir.join("bus/topics/wake/log"), SyncMode::Os)
}

/// The consuming process.
pub(crate) fn listen(how: &str, dir: &Path, messages: u64) -> Result<()> {
    let (ours, bare) = match how {
        "thread" => listen_with_a_thread(dir, messages)?,
        _ => runtime(how.ends_with("multi"))?.block_on(async {
            // On the runtime's own threads, where programs have their consumers.
            let (group, dir) = (how.starts_with("group"), dir.to_owned());
            let listening = async move { listen_in_a_runtime(group, &dir, messages).await };
            if how.ends_with("multi") {
                tokio::spawn(listening).await.map_err(failed)?
            } else {
                listening.await
            }
        })?,
    };
    for latencies in [ours, bare] {
        say(&format!("{} {}", latencies.quantile_us(0.5), latencies.quantile_us(0.99)))?;
    }
    Ok(())
}

fn listen_with_a_thread(dir: &Path, messages: u64) -> Result<(Latencies, Latencies)> {
    let (mut ours, mut bare) = (Latencies::default(), Latencies::default());
    let log = open_log(dir)?;
    let mut scanner = log.scanner();
    scanner.seek_tail();
    let page = page(dir)?;
    let mut given = 0;
    say("ready")?;
    for block in 0..2 * messages / BLOCK {
        let mut left = BLOCK;
        while left > 0 {
            if is_ours(block) {
                let mark = log.mark();
                left -= take(&mut scanner, &mut ours)?;
                if left > 0 && !log.wait(mark, Some(PATIENCE)).map_err(failed)? {
                    return Err(format!("waited in vain, {left} messages are missing"));
                }
            } else {
                let sent = wait_for_the_page(&*page, given);
                bare.add(since(sent));
                given += 1;
                left -= 1;
            }
        }
    }
    Ok((ours, bare))
}

async fn listen_in_a_runtime(
    group: bool,
    dir: &Path,
    messages: u64,
) -> Result<(Latencies, Latencies)> {
    let (mut ours, mut bare) = (Latencies::default(), Latencies::default());
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let heard = pipe::Receiver::from_owned_fd(stdin).map_err(failed)?;
    let session = connect(dir).await?;
    let mut consumer = Consumer::new(&*session, group).await?;
    say("ready")?;
    for block in 0..2 * messages / BLOCK {
        let mut left = BLOCK;
        while left > 0 {
            if is_ours(block) {
                left -= consumer.take(&mut ours).await?;
            } else {
                let mut body = [0; BODY_LEN];
                heard.readable().await.map_err(failed)?;
                match heard.try_read(&mut body) {
                    Ok(BODY_LEN) => {
                        bare.add(since(stamp(&body)?));
                        left -= 1;
                    }
                    Ok(other) => return Err(format!("the pipe gave {other} bytes")),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
    }
    consumer.stop().await?;
    session.close(PATIENCE).await.map_err(failed)?;
    Ok((ours, bare))
}

enum Consumer {
    Reader(Box<dyn Reader>),
    Group(Box<dyn Subscription>),
}

impl Consumer {
    async fn new(session: &dyn Session, group: bool) -> Result<Self> {
        if group {
            let subscribe = Subscribe::new(topic()?, Membership::Group(self::group()?));
            Ok(Self::Group(session.subscribe(subscribe).await.map_err(failed)?))
        } else {
            let read = Read::new(topic()?, Position::Latest);
            Ok(Self::Reader(session.read(read).await.map_err(failed)?))
        }
    }

    /// Waits for messages and takes them.
    async fn take(&mut self, latencies: &mut Latencies) -> Result<u64> {
        let mut taken = 0;
        match self {
            Self::Reader(reader) => {
                let records = reader.next().await.map_err(failed)?;
                for record in &records {
                    latencies.add(since(stamp(&record.message.payload)?));
                    taken += 1;
                }
                if records.is_empty() {
                    reader.wait().await.map_err(failed)?;
                }
            }
            Self::Group(subscription) => {
                let deliveries = subscription.next().await.map_err(failed)?;
                for delivery in deliveries.ok_or("the subscription ended early")? {
                    latencies.add(since(stamp(&delivery.message.payload)?));
                    taken += 1;
                    delivery.settle_quietly(busline_core::Outcome::Ack);
                }
            }
        }
        Ok(taken)
    }

    async fn stop(self) -> Result<()> {
        match self {
            Self::Reader(_) => Ok(()),
            Self::Group(mut subscription) => subscription.stop().await.map_err(failed),
        }
    }
}

fn take(scanner: &mut Scanner, latencies: &mut Latencies) -> Result<u64> {
    let mut taken = 0;
    while let Some(record) = scanner.next().map_err(failed)? {
        latencies.add(since(stamp(record.value)?));
        taken += 1;
    }
    Ok(taken)
}

fn stamp(body: &[u8]) -> Result<u64> {
    let stamp = body.first_chunk().ok_or("a message is too short")?;
    Ok(u64::from_le_bytes(*stamp))
}

fn since(sent_ns: u64) -> Duration {
    Duration::from_nanos(now_ns().saturating_sub(sent_ns))
}

/// A page that both processes have, for a bare futex: word 0 counts, word 8 says when.
fn page(dir: &Path) -> Result<Arc<dyn SharedPage>> {
    log::storage().shared_page(&dir.join("page")).map_err(failed)
}

fn give(page: &dyn SharedPage) {
    page.words()[8].store(now_ns(), Ordering::SeqCst);
    page.low(0).fetch_add(1, Ordering::SeqCst);
    page.wake(0);
}

fn wait_for_the_page(page: &dyn SharedPage, given: u32) -> u64 {
    while page.low(0).load(Ordering::SeqCst) == given {
        page.wait(0, given, Some(PATIENCE));
    }
    page.words()[8].load(Ordering::SeqCst)
}
