//! Media that fail: a sync that fails, a disk that is full, power that goes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline::{ErrorKind, Outcome, Position, PublishError};
use busline_log::storage::{Call, Fault, FaultyStorage, FsStorage, MemStorage, Storage};
use busline_transports::file::{FileConfig, Sync};

use super::*;

fn faulty() -> FaultyStorage {
    FaultyStorage::new(Arc::new(FsStorage::new()))
}

#[tokio::test]
async fn after_a_sync_that_failed_every_session_says_so_and_a_repair_tells_the_truth() {
    let directory = tempfile::tempdir().unwrap();
    let config = FileConfig::new(directory.path().join("bus"));
    let storage = faulty();
    // Two that share nothing but the medium, as two processes do.
    let one = open_on(Arc::new(storage.clone()), config.clone()).await;
    let other = open_on(Arc::new(storage.clone()), config.clone()).await;
    let (publisher, elsewhere) =
        (one.publisher("t").await.unwrap(), other.publisher("t").await.unwrap());
    publish(&publisher, "k", "receipted").await;
    publish(&elsewhere, "k", "this too").await;
    storage.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on("t/log/0"));
    let error = failed(publisher.publish(publisher.message("k", "unknown").unwrap()).await);
    assert!(matches!(&error, PublishError::Unknown(_)), "{error:?}");
    assert_eq!(kind(error.error()), ErrorKind::Damaged, "{error:?}");
    for publisher in [&publisher, &elsewhere] {
        let again = publisher.message("k", "refused").unwrap();
        let error = failed(soon("a refusal", publisher.publish(again)).await);
        assert_eq!(kind(error.error()), ErrorKind::Damaged, "{error:?}");
        assert!(error.to_string().contains("repair"), "{error}");
    }
    // What is there can still be read, also by a session that comes now.
    let late = open_on(Arc::new(FsStorage::new()), config.clone()).await;
    assert_eq!(texts(&read(&late, "t").await)[..2], ["receipted", "this too"]);
    let publishers = late.publisher("t").await.unwrap();
    let refused = publishers.publish(publishers.message("k", "refused").unwrap()).await;
    assert_eq!(kind(failed(refused).error()), ErrorKind::Damaged);
    for bus in [one, other, late] {
        // What is left cannot be made durable: it says so, and lets go all the same.
        let _ = bus.close(Duration::from_secs(10)).await;
    }
    drop((publisher, elsewhere, publishers));
    let log = config.path.join("topics/t/log");
    let fs: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let give_up = now() + DEADLINE;
    // Their threads let go of the log when they see that nobody is left.
    while let Err(error) = busline_log::repair(&fs, &log, true, 0) {
        assert_eq!(error.kind(), busline_log::ErrorKind::Busy, "{error}");
        assert!(now() < give_up, "{error}");
        tokio::task::yield_now().await;
    }
    let repaired = open_on(fs, config).await;
    let publisher = repaired.publisher("t").await.unwrap();
    publish(&publisher, "k", "after").await;
    let records = read(&repaired, "t").await;
    let texts = texts(&records);
    assert!(texts.starts_with(&["receipted", "this too"]), "{texts:?}");
    assert!(texts.ends_with(&["after"]) && !texts.contains(&"refused"), "{texts:?}");
}

fn full_config(directory: &Path, full_wait: Duration) -> FileConfig {
    FileConfig { full_wait, ..FileConfig::new(directory.join("bus")) }
}

#[tokio::test]
async fn on_a_full_disk_publishers_wait_and_go_on_and_settles_never_stop() {
    let directory = tempfile::tempdir().unwrap();
    let storage = faulty();
    let config = full_config(directory.path(), Duration::from_secs(3600));
    let bus = open_on(Arc::new(storage.clone()), config).await;
    let publisher = bus.publisher("t").await.unwrap();
    let mut consumer =
        bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish_many(&publisher, (0..100).map(|index| index.to_string())).await;
    storage.plan().set_space(Some(0));
    // Larger than what the groups keep for themselves.
    let message = |text: &str| publisher.message("k", format!("{text:60000}").repeat(4)).unwrap();
    let mut waiting = Box::pin(publisher.publish(message("first")));
    stays_pending("a publish on a full disk", &mut waiting).await;
    let mut behind = Box::pin(publisher.publish(message("second")));
    // The consumers of the very same bus are held up neither by the disk nor by the publishers.
    for _ in 0..99 {
        soon("a settle on a full disk", next(&mut consumer).await.ack()).await.unwrap();
    }
    let rejected = next(&mut consumer).await;
    // There may be no room for a dead letter: then it stays in the group, and holds nobody up.
    let mut left = vec!["first", "second"];
    if let Err(error) = soon("a reject on a full disk", rejected.reject("bad")).await {
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        left.push("99");
    }
    stays_pending("a second publish on a full disk", &mut behind).await;
    storage.plan().set_space(None);
    assert_eq!(stored(soon("the publish", waiting).await), 100);
    assert_eq!(stored(soon("the second publish", behind).await), 101);
    while !left.is_empty() {
        let delivery = next(&mut consumer).await;
        let found = text(&delivery).split(' ').next().unwrap().to_owned();
        let at = left.iter().position(|text| *text == found).expect("it is left");
        // The one that could not be rejected comes again.
        assert_eq!(left.remove(at) == "99", delivery.attempt.number > 1, "{delivery:?}");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_publisher_gives_up_on_a_full_disk_when_its_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let storage = faulty();
    let config = full_config(directory.path(), Duration::from_millis(400));
    let bus = open_on(Arc::new(storage.clone()), config).await;
    let publisher = bus.publisher("t").await.unwrap();
    publish(&publisher, "k", "before").await;
    storage.plan().set_space(Some(10));
    let large = "x".repeat(100_000);
    let batch: Vec<_> = (0..50).map(|_| publisher.message("k", large.clone()).unwrap()).collect();
    // Many frames: each fails, and they do not wait one after the other.
    let before = now();
    for receipt in publisher.send(batch).await.unwrap() {
        let error = failed(soon("a refusal", receipt).await);
        assert!(
            matches!(&error, PublishError::Nacked(e) if e.kind() == ErrorKind::Full),
            "{error}"
        );
        assert!(error.error().is_temporary());
    }
    let took = now() - before;
    println!("5 MB refused by a full disk in {took:?}, with 400 ms to wait");
    assert!(took < Duration::from_secs(4), "{took:?}");
    storage.plan().set_space(None);
    publish(&publisher, "k", "after").await;
    assert_eq!(texts(&read(&bus, "t").await), ["before", "after"]);
}

#[tokio::test]
async fn with_an_interval_syncs_come_by_the_interval_and_not_by_the_message() {
    let directory = tempfile::tempdir().unwrap();
    let storage = faulty();
    let sync = Sync::Interval(Duration::from_secs(3600));
    let config = FileConfig { sync, ..FileConfig::new(directory.path().join("bus")) };
    let bus = open_on(Arc::new(storage.clone()), config).await;
    let publisher = bus.publisher("t").await.unwrap();
    publish(&publisher, "k", "warm").await;
    let before = storage.plan().calls(Call::Sync);
    for index in 0..100 {
        publish(&publisher, "k", index.to_string()).await;
    }
    let syncs = storage.plan().calls(Call::Sync) - before;
    assert!(syncs <= 2, "{syncs} syncs for 100 messages within an interval of an hour");
    bus.close(Duration::from_secs(10)).await.unwrap();
    assert!(storage.plan().calls(Call::Sync) > before + syncs, "closing syncs what is left");
}

#[tokio::test]
async fn an_interval_makes_acks_durable_too() {
    let memory = MemStorage::new();
    let sync = Sync::Interval(Duration::from_millis(20));
    let config = FileConfig { sync, ..FileConfig::new("/bus") };
    let bus = open_on(Arc::new(memory.clone()), config.clone()).await;
    let publisher = bus.publisher("t").await.unwrap();
    let mut consumer =
        bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish_many(&publisher, ["a", "b"].map(str::to_owned)).await;
    next(&mut consumer).await.ack().await.unwrap();
    // The journal of the group is synced by the interval: watch it until it is.
    let journal_is_durable = || {
        let after = memory.snapshot();
        after.crash(&mut |_| 0);
        after
    };
    let give_up = now() + DEADLINE;
    loop {
        let after = journal_is_durable();
        let bus = open_on(Arc::new(after), config.clone()).await;
        let info = bus.admin().await.unwrap().groups(None).await.unwrap();
        if info.iter().any(|info| info.acked == 1) {
            break;
        }
        assert!(now() < give_up, "the ack never becomes durable: {info:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_makes_quiet_settles_durable() {
    let memory = MemStorage::new();
    let config = FileConfig::new("/bus");
    let bus = open_on(Arc::new(memory.clone()), config.clone()).await;
    let publisher = bus.publisher("t").await.unwrap();
    let mut consumer =
        bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish_many(&publisher, ["a", "b", "c"].map(str::to_owned)).await;
    for _ in 0..3 {
        next(&mut consumer).await.settle_quietly(Outcome::Ack);
    }
    bus.close(Duration::from_secs(10)).await.unwrap();
    // Everything that was not synced is gone.
    memory.crash(&mut |_| 0);
    let bus = open_on(Arc::new(memory), config).await;
    assert_eq!(texts(&read(&bus, "t").await), ["a", "b", "c"]);
    let info = bus.admin().await.unwrap().groups(None).await.unwrap().remove(0);
    assert_eq!((info.acked, info.lag), (3, 0), "{info:?}");
}
