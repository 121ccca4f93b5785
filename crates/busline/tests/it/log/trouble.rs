//! Messages that cannot be read, and places that are gone.

use std::sync::Arc;
use std::time::Duration;

use busline::log::hermes::{Event, Map};
use busline::log::{Consumer, OnUnreadable, Producer};
use busline::transport::{Retention, TopicSpec, Topology};
use busline::{Bus, BusConfig, ErrorKind, PublishError, SystemClock, Topic};
use busline_core::memory::MemoryTransport;
use futures_util::StreamExt;

use super::{World, n, rest, send};

async fn some_events(producer: &Producer) {
    for key in 0..4 {
        producer.send_event(&Event::added("T", key, Map::new().with("id", key))).await.unwrap();
    }
    producer.send("base", "{").await.unwrap();
    producer.send("base", "[]").await.unwrap();
    producer.send_event(&Event::removed("T", 6)).await.unwrap();
}

fn key(event: &Event) -> i64 {
    event.key.as_i64().unwrap()
}

#[tokio::test]
async fn it_stops_at_what_it_cannot_read_and_says_where() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        some_events(&producer).await;
        let mut consumer = world.consumer("t");
        let items: Vec<_> = consumer.events().collect().await;
        assert_eq!(items.len(), 5, "it ends behind the error: {items:?}");
        let keys: Vec<_> = items[..4].iter().map(|item| key(item.as_ref().unwrap())).collect();
        assert_eq!(keys, [0, 1, 2, 3]);
        let error = items[4].as_ref().unwrap_err().to_string();
        let at = consumer.unreadable().unwrap().clone();
        assert!(error.contains("no JSON") && error.contains(&at.to_string()), "{error}");
        assert_eq!(consumer.position(), Some(at.clone()));
        // The same again, not what is behind it.
        let again = consumer.next_event().await.unwrap_err().to_string();
        assert_eq!(again, error);
        consumer.skip_unreadable();
        let error = consumer.next_event().await.unwrap_err().to_string();
        assert!(error.contains("a list, not an object"), "{error}");
        consumer.skip_unreadable();
        assert_eq!(key(&consumer.next_event().await.unwrap().unwrap()), 6, "{}", world.url);
        // As a message it can be had.
        consumer.seek(&at).await.unwrap();
        assert_eq!(consumer.next().await.unwrap().unwrap().message.payload, "{");
    }
}

#[tokio::test]
async fn or_it_reports_each_once_and_goes_on() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        some_events(&producer).await;
        let mut consumer = world.consumer("t").on_unreadable(OnUnreadable::Skip);
        let items: Vec<_> = consumer.events().collect().await;
        let shown: Vec<_> = items.iter().map(|item| item.as_ref().map(key).map_err(drop)).collect();
        let expected = [Ok(0), Ok(1), Ok(2), Ok(3), Err(()), Err(()), Ok(6)];
        assert_eq!(shown, expected, "{}", world.url);
        assert!(consumer.next_event().await.unwrap().is_none());
        let places: Vec<_> = items.iter().filter_map(|item| item.as_ref().err()).collect();
        assert!(places.iter().all(|error| error.to_string().contains("offset: ")), "{places:?}");
        // Also among those of a category.
        consumer.seek_to_beginning().await.unwrap();
        let mut good = 0;
        for _ in 0..7 {
            good += u32::from(consumer.find_next_with("base", Event::from_record).await.is_ok());
        }
        assert_eq!(good, 5);
    }
}

/// A topic that keeps little, and is full.
async fn shrinking(world: &World) -> Producer {
    let retention = Retention { bytes_max: Some(20_000), age_max: None, ignore_groups: true };
    let topic = Topic::new("t").unwrap();
    let spec = TopicSpec { retention: Some(retention), ..TopicSpec::new(topic) };
    world.bus.declare(&Topology { topics: vec![spec], ..Topology::default() }).await.unwrap();
    world.producer("t").await
}

#[tokio::test]
async fn a_place_that_retention_has_removed_is_an_error_that_names_the_earliest() {
    let world = World::memory().await;
    let producer = shrinking(&world).await;
    send(&producer, 0..10).await;
    let mut consumer = world.consumer("t");
    let first = consumer.next().await.unwrap().unwrap().offset;
    let mut slow = world.consumer("t");
    slow.seek(&first).await.unwrap();
    for _ in 0..2000 {
        producer.send("base", "x".repeat(100)).await.unwrap();
    }
    let earliest = consumer.earliest().await.unwrap().unwrap();
    assert!(first.compare(&earliest).unwrap().is_lt());
    let says_so = |error: busline::Error| {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(text.contains("removed by retention"), "{text}");
        assert!(text.contains(&format!("earliest: {earliest}")), "{text}");
    };
    // Going there, standing there, and looking for something from there on.
    let mut other = world.consumer("t");
    says_so(other.seek(&first).await.unwrap_err());
    says_so(slow.next().await.unwrap_err());
    says_so(slow.find_next("base").await.unwrap_err());
    // An iteration ends there, and does not spin.
    let items: Vec<_> = slow.stream().collect().await;
    assert_eq!(items.len(), 1);
    slow.seek(&earliest).await.unwrap();
    assert_eq!(slow.next().await.unwrap().unwrap().offset, earliest);
}

#[tokio::test]
async fn on_files_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let url = crate::harness::url(directory.path(), "sync=os&segment=4KiB");
    // Segments are as small as the transport allows by its configuration.
    let clock = busline::ManualClock::new(busline::Timestamp::from_unix_ms(1_700_000_000_000));
    let shared: Arc<dyn busline::Clock> = Arc::new(clock.clone());
    let config = busline_transports::file::FileConfig {
        segment_bytes: 4096,
        ..busline_transports::file::FileConfig::new(directory.path().join("bus"))
    };
    let transport = busline_transports::file::FileTransport::new(config);
    let transport = Arc::new(transport.with_clock(Arc::clone(&shared)));
    let bus = Bus::over(vec![transport], BusConfig::new("file:x"), shared).await.unwrap();
    let world = World { url, bus, _ground: None, _directory: Some(directory) };
    let producer = shrinking(&world).await;
    send(&producer, 0..10).await;
    let mut slow = world.consumer("t");
    assert_eq!(n(&slow.next().await.unwrap().unwrap()), 0);
    let place = slow.position().unwrap();
    for round in 0..200 {
        clock.advance(Duration::from_secs(2));
        for _ in 0..10 {
            producer.send("base", format!("{round:0100}")).await.unwrap();
        }
    }
    let mut late = world.consumer("t");
    let earliest = late.earliest().await.unwrap().unwrap();
    assert!(place.compare(&earliest).unwrap().is_lt(), "{earliest}");
    let error = late.seek(&place).await.unwrap_err().to_string();
    assert!(error.contains("retention") && error.contains(&earliest.to_string()), "{error}");
    // What it had fetched before is still good; then it says so.
    let error = loop {
        match slow.next().await {
            Ok(record) => drop(record.expect("an error comes before the end")),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("retention") && error.contains(&earliest.to_string()), "{error}");
}

#[tokio::test]
async fn damage_is_reported_where_it_is_and_passed_over_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let url = crate::harness::url(directory.path(), "");
    let world = World { _directory: Some(directory), ..World::at(url).await };
    let producer = world.producer("t").await;
    for number in 0..30 {
        producer.send("base", format!("{number:012}")).await.unwrap();
    }
    let path = world._directory.as_ref().unwrap().path().join("bus/topics/t/log");
    let mut files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let segment = files.find(|path| path.extension().is_some_and(|e| e == "seg"));
    let segment = segment.unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // The payload of the sixteenth message.
    let at = bytes.windows(12).position(|window| window == b"000000000015").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let bus = Bus::open(&world.url).await.unwrap();
    let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    let items: Vec<_> = consumer.stream().collect().await;
    let good: Vec<_> = items.iter().filter_map(|item| item.as_ref().ok().map(n)).collect();
    assert_eq!(good, (0..15).collect::<Vec<_>>());
    let error = items.last().unwrap().as_ref().unwrap_err();
    assert_eq!((items.len(), error.kind()), (16, ErrorKind::Damaged), "{error}");
    let place = consumer.unreadable().unwrap();
    assert!(error.to_string().contains(&format!("offset: {place}")), "{error}");
    consumer.skip_unreadable();
    assert_eq!(rest(&mut consumer).await, (16..30).collect::<Vec<_>>());

    let consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    let mut consumer = consumer.on_unreadable(OnUnreadable::Skip);
    let items: Vec<_> = consumer.stream().collect().await;
    let good: Vec<_> = items.iter().filter_map(|item| item.as_ref().ok().map(n)).collect();
    assert_eq!(good, (0..15).chain(16..30).collect::<Vec<_>>());
    assert_eq!(items.len(), 30, "the damaged message is reported, once");
}

#[tokio::test]
async fn a_send_that_failed_is_not_there_later() {
    let transport = MemoryTransport::new();
    let broker = transport.broker();
    let transports: Vec<Arc<dyn busline::transport::Transport>> = vec![Arc::new(transport)];
    let bus = Bus::over(transports, BusConfig::new("memory:"), SystemClock::shared()).await;
    let bus = bus.unwrap();
    let producer = Producer::on(&bus, "t").await.unwrap();
    producer.send("base", "0").await.unwrap();
    broker.nack_next(1, "no room");
    let error = producer.send("base", "1").await.unwrap_err();
    assert!(matches!(&error, PublishError::Nacked(_)), "{error}");
    assert!(error.to_string().contains("no room"), "{error}");
    producer.send("base", "2").await.unwrap();
    producer.close().await.unwrap();
    let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    assert_eq!(rest(&mut consumer).await, [0, 2]);
}
