//! Many topics, groups and waiting consumers of one process, through a session: what one more costs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Batch, Connect, GroupSpec, Membership, Role, Session, Subscribe, TopicSpec, Topology,
};
use busline_core::{GroupName, Key, Message, Topic};
use bytes::Bytes;

use crate::log::failed;
use crate::measure::{self, Timer, processor_time};
use crate::report::{Figure, Report};
use crate::{Result, Setup, remove};

const TABLE: &str = "Many topics and groups of one process, through a session";

/// Messages sent before their receipts are awaited, and the topics that "few" is: each message is a frame of
/// its own, to few topics as to many.
const ROUND: u64 = 10;

pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(failed)?.block_on(run_all(setup, report))
}

async fn run_all(setup: &Setup, report: &mut Report) -> Result<()> {
    let dir = setup.fresh("many")?;
    let (topics, groups) = (topics(setup, report), setup.scaled(1000, 50));
    let few = publish(&dir.join("topic"), ROUND, setup.scaled(50_000, 5000)).await?;
    let many = publish(&dir.join("topics"), topics, setup.scaled(50_000, 5000)).await?;
    let mut add = |work, durability, unit, busline, beside| {
        report.add(Figure { table: TABLE, work, durability, unit, busline, beside });
    };
    let work = format!("publish to {topics} topics in turn");
    add(work, "crash of the process", "ns/msg", many, ("to 10 topics", few));
    let one = wait(&dir.join("group"), 1).await?;
    let many = wait(&dir.join("groups"), groups).await?;
    let work = format!("{groups} groups of a topic wait");
    add(work, "", "% of a processor", many, ("one group waits", one));
    remove(&dir)
}

/// Ten thousand, or as many as this process may have open at once: beyond that each message would open a log.
fn topics(setup: &Setup, report: &mut Report) -> u64 {
    const FILES_EACH: u64 = 10;
    let all = setup.scaled(10_000, 50);
    let Some(files) = measure::open_files_max() else { return all };
    let topics = all.min(files / FILES_EACH);
    if topics < all {
        report.leave_out(format!(
            "{all} topics at once: a process may have {files} open files here, which is enough for {topics}"
        ));
    }
    topics
}

async fn connect(dir: &Path) -> Result<Arc<dyn Session>> {
    let transport = busline_transports::open(&format!("file:{}?sync=os", dir.display()));
    transport.map_err(failed)?.connect(Connect::new(Role::Publish)).await.map_err(failed)
}

fn topic(number: u64) -> Result<Topic> {
    Topic::new(format!("topic-{number}")).map_err(failed)
}

/// Nanoseconds a message, each to the next topic. The topics are open before.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
async fn publish(dir: &Path, topics: u64, messages: u64) -> Result<f64> {
    let session = connect(dir).await?;
    let topics = (0..topics).map(topic).collect::<Result<Vec<_>>>()?;
    let specs = topics.iter().cloned().map(TopicSpec::new).collect();
    let topology = Topology { topics: specs, ..Topology::default() };
    session.declare(&topology).await.map_err(failed)?;
    let key = Key::try_from("category.0000001").map_err(failed)?;
    let body = Bytes::from(vec![7; 100]);
    let mut next = topics.iter().cycle();
    // Once to every topic, and then as many as are measured.
    let mut start = Timer::start();
    let mut left = topics.len() as u64;
    for measured in [false, true] {
        if measured {
            start = Timer::start();
            left = messages;
        }
        while left > 0 {
            let count = left.min(ROUND);
            let round = next.by_ref().take(usize::try_from(count).map_err(failed)?);
            let message = |topic: &Topic| Message::new(topic.clone(), key.clone(), body.clone());
            let batch: Vec<Message> = round.map(message).collect();
            for receipt in session.send(Batch::from(batch)).await.map_err(failed)? {
                receipt.await.map_err(failed)?;
            }
            left -= count;
        }
    }
    let took = start.took();
    session.close(Duration::from_secs(600)).await.map_err(failed)?;
    Ok(took.as_secs_f64() * 1e9 / messages as f64)
}

/// The share of a processor, in percent, that members of so many groups use while nothing happens.
async fn wait(dir: &Path, groups: u64) -> Result<f64> {
    const FOR: Duration = Duration::from_secs(2);

    let session = connect(dir).await?;
    let names: Result<Vec<GroupName>> =
        (0..groups).map(|n| GroupName::new(format!("group-{n}")).map_err(failed)).collect();
    let specs = |names: &[GroupName]| -> Result<Vec<GroupSpec>> {
        names.iter().map(|name| Ok(GroupSpec::new(topic(0)?, name.clone()))).collect()
    };
    let names = names?;
    let topics = vec![TopicSpec::new(topic(0)?)];
    let topology = Topology { topics, groups: specs(&names)?, ..Topology::default() };
    session.declare(&topology).await.map_err(failed)?;
    let mut waiting = tokio::task::JoinSet::new();
    for name in names {
        let subscribe = Subscribe::new(topic(0)?, Membership::Group(name));
        let mut subscription = session.subscribe(subscribe).await.map_err(failed)?;
        waiting.spawn(async move {
            let delivered = subscription.next().await.map_err(failed)?;
            let delivered = delivered.map_or(0, |deliveries| {
                deliveries.into_iter().map(|delivery| drop(delivery.ack())).count()
            });
            subscription.stop().await.map_err(failed)?;
            Ok::<_, String>(delivered)
        });
    }
    // Until each has looked once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = processor_time();
    tokio::time::sleep(FOR).await;
    let used = processor_time().saturating_sub(before);
    // They did wait: one message reaches every group.
    let message = Message::new(topic(0)?, Key::empty(), "now");
    for receipt in session.send(Batch::from(vec![message])).await.map_err(failed)? {
        receipt.await.map_err(failed)?;
    }
    while let Some(delivered) = waiting.join_next().await {
        if delivered.map_err(failed)?? != 1 {
            return Err("a group that waited did not get its message".to_owned());
        }
    }
    session.close(Duration::from_secs(600)).await.map_err(failed)?;
    Ok(used.as_secs_f64() / FOR.as_secs_f64() * 100.0)
}
