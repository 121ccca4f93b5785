//! Logs that shrink while they are used: by age, by bytes, as far as groups let them.

use std::time::Duration;

use busline::transport::{Retention, TopicSpec, Topology};
use busline::{ErrorKind, ManualClock, Offset, Position, Topic};
use busline_transports::file::FileConfig;

use super::*;

/// A topic in small segments that keeps about 20 kB, and its clock: retention is looked at once a
/// second.
async fn small(directory: &Path, ignore_groups: bool) -> (Bus, Publisher, ManualClock) {
    let clock = clock_at(1_700_000_000);
    let config = FileConfig { segment_bytes: 4096, ..FileConfig::new(directory.join("bus")) };
    let bus = open_at(config, &clock).await;
    let retention = Retention { bytes_max: Some(20_000), age_max: None, ignore_groups };
    let topic = Topic::new("t").unwrap();
    let spec = TopicSpec { retention: Some(retention), ..TopicSpec::new(topic) };
    bus.declare(&Topology { topics: vec![spec], ..Topology::default() }).await.unwrap();
    let publisher = bus.publisher("t").await.unwrap();
    (bus, publisher, clock)
}

async fn fill(publisher: &Publisher, from: u64, to: u64) {
    // Not all of them in one segment.
    for first in (from..to).step_by(20) {
        publish_many(publisher, (first..first + 20).map(|index| format!("{index:0100}"))).await;
    }
}

/// Lets seconds pass until the log begins at another place, if it does so soon.
async fn first_after_a_while(bus: &Bus, publisher: &Publisher, clock: &ManualClock) -> u64 {
    let before = first(bus).await;
    for _ in 0..5 {
        clock.advance(Duration::from_secs(2));
        publish(publisher, "k", "tick").await;
        // The thread that removes has looked when it has answered once more.
        publish(publisher, "k", "tock").await;
    }
    let after = first(bus).await;
    assert!(after >= before);
    after
}

async fn first(bus: &Bus) -> u64 {
    let info = bus.admin().await.unwrap().topics().await.unwrap().remove(0);
    number(&info.earliest.unwrap())
}

#[tokio::test]
async fn what_a_group_needs_stays_and_goes_when_it_is_settled() {
    let directory = tempfile::tempdir().unwrap();
    let (bus, publisher, clock) = small(directory.path(), false).await;
    let mut consumer =
        bus.group("t", "slow").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    fill(&publisher, 0, 1000).await;
    let held = next(&mut consumer).await;
    assert_eq!(first_after_a_while(&bus, &publisher, &clock).await, 0, "the group needs it");
    held.ack().await.unwrap();
    for _ in 1..1000 {
        next(&mut consumer).await.ack().await.unwrap();
    }
    let kept = first_after_a_while(&bus, &publisher, &clock).await;
    assert!((700..1020).contains(&kept), "the log begins at {kept}");
}

#[tokio::test]
async fn with_ignore_groups_a_group_loses_what_is_removed_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (bus, publisher, clock) = small(directory.path(), true).await;
    let mut consumer =
        bus.group("t", "slow").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    fill(&publisher, 0, 1000).await;
    let held = next(&mut consumer).await;
    let kept = first_after_a_while(&bus, &publisher, &clock).await;
    assert!(kept > 700, "the log begins at {kept}");
    // What it holds is in its hand; it can be settled, and what is left comes.
    held.ack().await.unwrap();
    drop(consumer);
    let mut consumer = bus.group("t", "slow").unwrap().join().await.unwrap();
    let give_up = now() + DEADLINE;
    loop {
        let Ok(found) = tokio::time::timeout(A_WHILE, consumer.next()).await else {
            // What was removed counts as unsettled until a member meets the hole.
            let info = bus.admin().await.unwrap().groups(None).await.unwrap().remove(0);
            if info.lag + info.in_flight + info.waiting == 0 {
                break;
            }
            assert!(now() < give_up, "{info:?}");
            continue;
        };
        let delivery = found.unwrap().unwrap();
        let offset = number(delivery.offset.as_ref().unwrap());
        assert!(offset < 1000 && offset >= kept || text(&delivery).starts_with("t"), "{offset}");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn reading_what_was_removed_is_a_clear_error_and_no_loop() {
    let directory = tempfile::tempdir().unwrap();
    let (bus, publisher, clock) = small(directory.path(), false).await;
    fill(&publisher, 0, 100).await;
    let read_from = |position| bus.reader("t", position).unwrap().chunk_max(10);
    let mut slow = read_from(Position::Earliest).open().await.unwrap();
    let old: Offset = slow.next().await.unwrap().unwrap().offset;
    fill(&publisher, 100, 2000).await;
    let kept = first_after_a_while(&bus, &publisher, &clock).await;
    assert!(kept > 1500, "{kept}");
    let error = read_from(Position::Offset(old.clone())).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("removed by retention"), "{error}");
    assert!(error.to_string().contains(&format!(".{kept}")), "it names the way out: {error}");
    // What it had fetched still comes, then the error, again and again, until it seeks.
    let mut error = None;
    for _ in 0..100 {
        match slow.next().await {
            Ok(Some(record)) => assert!(number(&record.offset) < 100),
            Ok(None) => panic!("the end of the log is not here"),
            Err(found) => {
                error = Some(found);
                break;
            }
        }
    }
    let error = error.expect("it was overtaken");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("earliest"), "{error}");
    assert_eq!(slow.follow().await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(slow.seek(Position::Offset(old)).await.unwrap_err().kind(), ErrorKind::NotFound);
    slow.seek(Position::Earliest).await.unwrap();
    assert_eq!(number(&slow.next().await.unwrap().unwrap().offset), kept);
}

#[tokio::test]
async fn old_records_go_also_when_nobody_publishes_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let (bus, publisher, clock) = small(directory.path(), false).await;
    fill(&publisher, 0, 1000).await;
    drop(publisher);
    drop(bus);
    // A program that only consumes, as all that is left.
    let config =
        FileConfig { segment_bytes: 4096, ..FileConfig::new(directory.path().join("bus")) };
    let bus = open_at(config, &clock).await;
    let mut consumer = bus.group("t", "g").unwrap().subscribe().await.unwrap();
    stays_pending("nothing is new", consumer.next()).await;
    let give_up = now() + DEADLINE;
    while first(&bus).await == 0 {
        assert!(now() < give_up, "nothing is removed");
        clock.advance(Duration::from_secs(2));
        stays_pending("nothing is new", consumer.next()).await;
    }
}
