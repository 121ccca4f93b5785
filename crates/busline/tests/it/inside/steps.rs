//! A process that dies, or its machine, at every single step of making, deleting and changing topics
//! and groups.

use std::sync::Arc;

use busline::transport::{DeleteIf, Retention, TopicSpec, Topology};
use busline::{GroupName, Position, Result, Topic};
use busline_log::storage::MemStorage;
use busline_transports::file::FileConfig;

use super::*;

const STEPS_MAX: u64 = 1000;

/// How a step is the last one.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    /// The medium forgets everything that was not synced.
    PowerLoss,
    /// It forgets some of it.
    SomeArrived,
}

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

/// A bus with three messages and a group that has settled one of them.
async fn used() -> (MemStorage, Bus) {
    let memory = MemStorage::new();
    let bus = open_on(Arc::new(memory.clone()), FileConfig::new("/bus")).await;
    let publisher = bus.publisher("t").await.unwrap();
    publish_many(&publisher, ["1", "2", "3"].map(str::to_owned)).await;
    let mut member =
        bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    next(&mut member).await.ack().await.unwrap();
    member.stop().await.unwrap();
    (memory, bus)
}

/// Runs an operation in a process that dies at its n-th step, for every n; then `check` looks at
/// what the next process finds.
async fn at_every_step(
    what: &str,
    operation: impl AsyncFn(&Bus) -> Result<()>,
    check: impl AsyncFn(Bus, String),
) {
    for step in 0..STEPS_MAX {
        let (memory, bus) = used().await;
        memory.kill_after(step, 0);
        let result = soon(what, operation(&bus)).await;
        let died = !memory.is_alive();
        assert!(died || result.is_ok(), "{what}: {result:?}");
        for end in [End::Kill, End::PowerLoss, End::SomeArrived] {
            let medium = memory.snapshot();
            match end {
                End::Kill => medium.kill(),
                End::PowerLoss => medium.crash(&mut |_| 0),
                End::SomeArrived => medium.crash_seeded(step),
            }
            let after = open_on(Arc::new(medium), FileConfig::new("/bus")).await;
            check(after, format!("{what}, {end:?} at step {step}: {result:?}")).await;
        }
        memory.kill();
        if !died {
            println!("{what}: {step} steps");
            return;
        }
    }
    panic!("{what} takes more than {STEPS_MAX} steps");
}

async fn listed(bus: &Bus, at: &str) -> bool {
    let topics = bus.admin().await.unwrap().topics().await;
    let topics = topics.unwrap_or_else(|error| panic!("{at}: {error}"));
    topics.iter().any(|info| info.topic == topic())
}

#[tokio::test]
async fn a_topic_is_deleted_wholly_or_not_at_all() {
    let delete =
        async |bus: &Bus| bus.admin().await?.delete_topic(&topic(), DeleteIf::default()).await;
    at_every_step("deleting a topic", delete, async |bus, at| {
        let was_there = listed(&bus, &at).await;
        let publisher = bus.publisher("t").await;
        let publisher = publisher.unwrap_or_else(|error| panic!("{at}: {error}"));
        publish(&publisher, "k", "new").await;
        let records = read(&bus, "t").await;
        let expected: &[_] = if was_there { &["1", "2", "3", "new"] } else { &["new"] };
        assert_eq!(texts(&records), expected, "{at}");
        let mut member =
            bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
        let first = if was_there { "2" } else { "new" };
        assert_eq!(text(&next(&mut member).await), first, "{at}");
    })
    .await;
}

#[tokio::test]
async fn a_group_is_deleted_wholly_or_not_at_all() {
    let group = GroupName::new("g").unwrap();
    let delete = async |bus: &Bus| {
        bus.admin().await?.delete_group(&topic(), &group, DeleteIf::default()).await
    };
    at_every_step("deleting a group", delete, async |bus, at| {
        let groups = bus.admin().await.unwrap().groups(None).await;
        let was_there = !groups.unwrap_or_else(|error| panic!("{at}: {error}")).is_empty();
        let builder = bus.group("t", "g").unwrap().start(Position::Earliest);
        let mut member = builder.subscribe().await.unwrap_or_else(|error| panic!("{at}: {error}"));
        let first = if was_there { "2" } else { "1" };
        assert_eq!(text(&next(&mut member).await), first, "{at}");
    })
    .await;
}

#[tokio::test]
async fn what_is_declared_is_there_wholly_or_not_at_all() {
    let retention = Retention { bytes_max: Some(12_345), ..Retention::default() };
    let declare = async |bus: &Bus| {
        let spec = |name: &str, retention| {
            Topic::new(name).map(|topic| TopicSpec { retention, ..TopicSpec::new(topic) })
        };
        let topics = vec![spec("t", Some(retention))?, spec("other", Some(retention))?];
        bus.declare(&Topology { topics, ..Topology::default() }).await?;
        bus.group("other", "h")?.declare().await
    };
    at_every_step("declaring", declare, async |bus, at| {
        let topics = bus.admin().await.unwrap().topics().await;
        let topics = topics.unwrap_or_else(|error| panic!("{at}: {error}"));
        for info in topics.iter().filter(|info| info.topic.as_str() == "other") {
            assert_eq!(info.retention, retention, "{at}");
        }
        assert_eq!(texts(&read(&bus, "t").await), ["1", "2", "3"], "{at}");
        let declared = declare(&bus).await;
        declared.unwrap_or_else(|error| panic!("{at}: {error}"));
        let publisher = bus.publisher("other").await.unwrap();
        publish(&publisher, "k", "it works").await;
        let mut member = bus.group("other", "h").unwrap().join().await.unwrap();
        assert_eq!(text(&next(&mut member).await), "it works", "{at}");
    })
    .await;
}

#[tokio::test]
async fn a_bus_whose_making_was_cut_off_is_made_by_the_next() {
    for step in 0..STEPS_MAX {
        let memory = MemStorage::new();
        memory.kill_after(step, 0);
        let transport = FileTransport::on(FileConfig::new("/bus"), Arc::new(memory.clone()));
        let clock = SystemClock::shared();
        let made = Bus::over(vec![Arc::new(transport)], BusConfig::new("file:test"), clock).await;
        let died = !memory.is_alive();
        assert!(died || made.is_ok(), "{made:?}");
        memory.kill();
        let bus = open_on(Arc::new(memory.process()), FileConfig::new("/bus")).await;
        let publisher = bus.publisher("t").await.unwrap();
        assert_eq!(publish(&publisher, "k", "first").await, 0, "dead at step {step}");
        if !died {
            return;
        }
    }
    panic!("making a bus takes more than {STEPS_MAX} steps");
}
