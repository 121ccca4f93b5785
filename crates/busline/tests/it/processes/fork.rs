//! A program forks while it has a bus open, as a server with workers does: the child is told, and costs its parent
//! nothing, whatever it does with what it inherited.

use std::time::Duration;

use busline::{Bus, Position, Result};
use fork::Fork;
use rustix::process::{Pid, WaitOptions, waitpid};

use crate::harness::wire::Saw;
use crate::harness::worker::{Stop, report};
use crate::harness::{self, Event, Fleet, Task, number, runtime};

const TOPIC: &str = "forked";
const COUNT: u64 = 10;

#[test]
fn a_child_that_inherits_a_bus_is_told_and_its_parent_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    forked(harness::url(directory.path(), ""));
}

/// A member of the bus of this URL has a child.
pub(crate) fn forked(url: String) {
    let mut fleet = Fleet::new();
    let parent = fleet.start(Task::Fork { url, topic: TOPIC.to_owned() });
    let told = fleet.expect("what the child was told", |id, event| match event {
        Event::Told { what } if id == parent => Some(what),
        _ => None,
    });
    for (what, said) in ["publish", "subscribe", "ack"].iter().zip(told.lines()) {
        assert!(said.starts_with(&format!("{what}: closed")) && said.contains("forked"), "{said}");
    }
    let records = fleet.expect("what the parent got", |id, event| match event {
        Event::Saw { records } if id == parent => Some(records),
        _ => None,
    });
    let attempts: Vec<_> = records.iter().map(|saw| (saw.offset, saw.attempt)).collect();
    assert_eq!(attempts, (0..=COUNT).map(|offset| (offset, 1)).collect::<Vec<_>>());
    fleet.stop(parent);
    fleet.settle(|_, _, _| {});
}

/// Holds deliveries and a publisher, forks, and goes on when the child is gone.
pub(crate) async fn have_a_child(bus: &Bus, topic: &str, mut stop: Stop) -> Result<()> {
    let publisher = bus.publisher(topic).await?;
    for index in 0..COUNT {
        publisher.publish(publisher.message("k", index.to_string())?).await?;
    }
    let mut consumer = bus.group(topic, "g")?.start(Position::Earliest).subscribe().await?;
    let mut held = Vec::new();
    while (held.len() as u64) < COUNT {
        held.extend(consumer.next_chunk().await?.unwrap_or_default());
    }
    // From a thread of its own, which is all that the child has of this process.
    let builder = bus.group(topic, "g")?;
    let inherited = (publisher, consumer, held, bus.clone());
    let forking = std::thread::spawn(move || {
        let (publisher, consumer, mut held, bus) = inherited;
        match fork::fork().unwrap() {
            Fork::Parent(child) => {
                let child = Pid::from_raw(child).unwrap();
                let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
                assert_eq!(status.exit_status(), Some(0), "the child failed");
                (publisher, consumer, held, bus)
            }
            Fork::Child => {
                let what = runtime().block_on(async {
                    let message = publisher.message("k", "of the child").unwrap();
                    let publishing = publisher.publish(message);
                    let published =
                        in_time(async { publishing.await.map_err(busline::Error::from) });
                    let published = said("publish", published.await);
                    let next = async { builder.subscribe().await?.next_chunk().await };
                    let subscribed = said("subscribe", in_time(next).await);
                    let acked = said("ack", in_time(held.remove(0).ack()).await);
                    format!("{published}\n{subscribed}\n{acked}")
                });
                report(&Event::Told { what });
                drop((publisher, consumer, held, bus));
                std::process::exit(0);
            }
        }
    });
    let joined = tokio::task::spawn_blocking(move || forking.join()).await;
    let (publisher, mut consumer, held, _bus) = joined.unwrap().expect("the child went well");
    publisher.publish(publisher.message("k", "of the parent")?).await?;
    let mut all = held;
    all.extend(consumer.next_chunk().await?.unwrap_or_default());
    let records = all.iter().map(|delivery| Saw {
        offset: number(delivery.offset.as_ref().unwrap()),
        attempt: delivery.attempt.number,
        text: String::new(),
        payload: String::new(),
    });
    report(&Event::Saw { records: records.collect() });
    for delivery in all {
        delivery.ack().await?;
    }
    stop.wait().await;
    bus.close(Duration::from_secs(10)).await?;
    report(&Event::Done);
    Ok(())
}

async fn in_time<T>(what: impl IntoFuture<Output = Result<T>>) -> Option<Result<T>> {
    tokio::time::timeout(Duration::from_secs(10), what.into_future()).await.ok()
}

fn said<T>(what: &str, result: Option<Result<T>>) -> String {
    match result {
        None => format!("{what}: hangs"),
        Some(Ok(_)) => format!("{what}: works"),
        Some(Err(error)) => format!("{what}: {} {error}", error.kind().as_str()),
    }
}
