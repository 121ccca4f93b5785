//! Clocks that jump: what people read may go back or forward, what must pass goes by the boot clock.

use std::time::Duration;

use busline::transport::{Retention, TopicSpec, Topology};
use busline::{Position, Timestamp, Topic};
use busline_transports::file::FileConfig;

use super::*;

const NOON: i64 = 1_700_000_000;
const HOUR: i64 = 3600;

fn at(unix_s: i64) -> Timestamp {
    Timestamp::from_unix_ms(unix_s * 1000)
}

#[tokio::test]
async fn times_of_records_never_go_back_and_reading_by_time_works_across_a_jump() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock_at(NOON);
    let bus = open_at(FileConfig::new(directory.path().join("bus")), &clock).await;
    let publisher = bus.publisher("t").await.unwrap();
    publish(&publisher, "k", "noon").await;
    clock.jump_to(at(NOON - HOUR));
    publish(&publisher, "k", "an hour back").await;
    clock.jump_to(at(NOON + 24 * HOUR));
    publish(&publisher, "k", "a day on").await;
    clock.jump_to(at(NOON + HOUR));
    publish(&publisher, "k", "set right").await;
    let records = read(&bus, "t").await;
    let times: Vec<_> = records.iter().map(|record| record.time.unix_us() / 1_000_000).collect();
    assert_eq!(times, [NOON, NOON, NOON + 24 * HOUR, NOON + 24 * HOUR]);
    for (from, expected) in [
        (NOON - HOUR, 4),
        (NOON, 4),
        (NOON + 1, 2),
        (NOON + 24 * HOUR, 2),
        (NOON + 24 * HOUR + 1, 0),
    ] {
        let mut reader = bus.reader("t", Position::Time(at(from))).unwrap().open().await.unwrap();
        let mut count = 0;
        while reader.next().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, expected, "from {from}");
    }
}

#[tokio::test]
async fn delays_and_leases_go_by_the_time_that_passes() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock_at(NOON);
    let bus = open_at(FileConfig::new(directory.path().join("bus")), &clock).await;
    let publisher = bus.publisher("t").await.unwrap();
    let lease = Duration::from_secs(100);
    let group = bus.group("t", "g").unwrap().start(Position::Earliest).lease(lease);
    let mut consumer = group.subscribe().await.unwrap();
    publish_many(&publisher, ["later", "held"].map(str::to_owned)).await;
    let (later, held) = (next(&mut consumer).await, next(&mut consumer).await);
    later.retry(Duration::from_secs(60)).await.unwrap();
    for jump in [NOON - HOUR, NOON + 24 * HOUR, NOON] {
        clock.jump_to(at(jump));
        stays_pending("nothing is due", consumer.next()).await;
        assert!(!held.is_lost(), "a jump of the wall clock is no time that passes");
    }
    clock.advance(Duration::from_secs(59));
    stays_pending("not yet due", consumer.next()).await;
    clock.advance(Duration::from_secs(1));
    let later = next(&mut consumer).await;
    assert_eq!((text(&later), later.attempt.number), ("later", 2));
    later.ack().await.unwrap();
    held.ack().await.unwrap();
    let info = bus.admin().await.unwrap().groups(None).await.unwrap().remove(0);
    assert_eq!((info.acked, info.delivered), (2, 3), "{info:?}");
}

#[tokio::test]
async fn who_waits_is_woken_when_time_is_moved_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock_at(NOON);
    let bus = open_at(FileConfig::new(directory.path().join("bus")), &clock).await;
    let publisher = bus.publisher("t").await.unwrap();
    let mut consumer = bus.group("t", "g").unwrap().attempts_max(None).subscribe().await.unwrap();
    publish(&publisher, "k", "again and again").await;
    let first = next(&mut consumer).await;
    first.retry(Duration::from_millis(500)).await.unwrap();
    for round in 0..60 {
        // Whether it looks at the clock or goes to sleep at this moment must not matter.
        let (delivery, ()) = tokio::join!(next(&mut consumer), async {
            for _ in 0..round * 20 {
                tokio::task::yield_now().await;
            }
            clock.advance(Duration::from_millis(500));
        });
        assert_eq!(delivery.attempt.number, round + 2);
        delivery.retry(Duration::from_millis(500)).await.unwrap();
    }
}

#[tokio::test]
async fn retention_by_age_stays_sane_when_the_clock_jumps() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock_at(NOON);
    let config =
        FileConfig { segment_bytes: 4096, ..FileConfig::new(directory.path().join("bus")) };
    let bus = open_at(config, &clock).await;
    let retention = Retention { age_max: Some(Duration::from_secs(600)), ..Retention::default() };
    let topic = Topic::new("t").unwrap();
    let spec = TopicSpec { retention: Some(retention), ..TopicSpec::new(topic.clone()) };
    bus.declare(&Topology { topics: vec![spec], ..Topology::default() }).await.unwrap();
    let publisher = bus.publisher("t").await.unwrap();
    publish_many(&publisher, (0..200).map(|index| format!("{index:0100}"))).await;
    // Back: nothing is older than it was, so nothing goes.
    clock.jump_to(at(NOON - HOUR));
    for round in 1..=3 {
        clock.advance(Duration::from_secs(2));
        publish(&publisher, "k", "still noon").await;
        assert_eq!(messages(&bus).await, 200 + round);
    }
    // On: what is too old goes, and nothing else.
    clock.jump_to(at(NOON + HOUR));
    for round in 1.. {
        clock.advance(Duration::from_secs(2));
        publish(&publisher, "k", "fresh").await;
        let records = read(&bus, "t").await;
        let fresh = texts(&records).iter().filter(|text| **text == "fresh").count();
        assert_eq!(fresh, round, "something fresh was removed");
        // Whole segments go: what is old in the segment of the first fresh one stays with it.
        if records.len() < fresh + 40 {
            break;
        }
        assert!(round < 50, "nothing is removed: {} records", records.len());
    }
}

async fn messages(bus: &Bus) -> u64 {
    bus.admin().await.unwrap().topics().await.unwrap().remove(0).messages
}
