//! Where a consumer stands, where it goes, and what it finds.

use std::time::Duration;

use busline::log::{Consumer, Producer};
use busline::{ErrorKind, Offset, PublishError, Timestamp};
use futures_util::{FutureExt, StreamExt};

use super::{World, n, rest, send};

#[tokio::test]
async fn it_reads_from_wherever_it_is_told() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        let mut early = world.consumer("t");
        assert_eq!(early.position(), None);
        assert!(early.next().await.unwrap().is_none(), "{}", world.url);
        send(&producer, 0..30).await;

        let mut consumer = world.consumer("t");
        let mut records = Vec::new();
        while let Some(record) = consumer.next().await.unwrap() {
            records.push(record);
        }
        assert_eq!(records.iter().map(n).collect::<Vec<_>>(), (0..30).collect::<Vec<_>>());
        assert_eq!(records[9].message.key.as_str(), "rare.one");
        assert!(records.windows(2).all(|two| two[0].time <= two[1].time));
        assert_eq!(rest(&mut early).await, (0..30).collect::<Vec<_>>(), "{}", world.url);

        // Places are text when they are kept, and good for another consumer.
        let text = records[12].offset.to_string();
        let mut other = Consumer::open(&world.url, "t").await.unwrap().timeout(Duration::ZERO);
        other.seek(&text.parse().unwrap()).await.unwrap();
        assert_eq!(n(&other.next().await.unwrap().unwrap()), 12);
        let kept = other.position().unwrap().to_string();
        other.close().await.unwrap();
        consumer.seek(&kept.parse().unwrap()).await.unwrap();
        assert_eq!(rest(&mut consumer).await, (13..30).collect::<Vec<_>>());
        // Behind the last one is a place.
        let end = consumer.position().unwrap();
        consumer.seek(&end).await.unwrap();
        assert_eq!(consumer.next().await.unwrap().map(|r| n(&r)), None);

        consumer.seek_to_beginning().await.unwrap();
        assert_eq!(rest(&mut consumer).await.len(), 30);
        consumer.seek_to_end().await.unwrap();
        assert_eq!(consumer.position(), Some(end.clone()), "{}", world.url);
        send(&producer, 30..32).await;
        assert_eq!(rest(&mut consumer).await, [30, 31]);
        consumer.seek_to_time(Timestamp::from_unix_us(0)).await.unwrap();
        assert_eq!(rest(&mut consumer).await.len(), 32);

        // A place that is none leaves it where it was.
        consumer.seek(&records[5].offset).await.unwrap();
        let far = Offset::of(end.pairs().map(|(shard, number)| (shard, number + 1000))).unwrap();
        let error = consumer.seek(&far).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains(&far.to_string()), "{error}");
        assert_eq!(n(&consumer.next().await.unwrap().unwrap()), 5);
    }
}

#[tokio::test]
async fn find_next_goes_behind_what_it_finds_and_stays_where_nothing_is() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        send(&producer, 0..100).await;
        let mut consumer = world.consumer("t");
        for expected in [9, 19, 29] {
            let found = consumer.find_next("rare.one").await.unwrap().unwrap();
            assert_eq!(n(&found), expected, "{}", world.url);
        }
        // Nothing between two finds was used up.
        assert_eq!(n(&consumer.next().await.unwrap().unwrap()), 30);
        assert!(consumer.find_next("nobody").await.unwrap().is_none());
        assert_eq!(n(&consumer.next().await.unwrap().unwrap()), 31);
        let mut found = Vec::new();
        while let Some(record) = consumer.find_next("rare.one").await.unwrap() {
            found.push(n(&record));
        }
        assert_eq!(found, [39, 49, 59, 69, 79, 89, 99]);
        assert!(consumer.next().await.unwrap().is_none());
        // It comes later, and is found then.
        producer.send("late", "100").await.unwrap();
        assert_eq!(n(&consumer.find_next("late").await.unwrap().unwrap()), 100);
    }
}

#[tokio::test]
async fn a_category_that_looks_like_a_pattern_is_itself() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        for (number, category) in ["a", "*", "#", "a*b", "", "a.b", "*.*"].iter().enumerate() {
            producer.send(*category, number.to_string()).await.unwrap();
        }
        let mut consumer = world.consumer("t");
        for (category, expected) in [("*", 1), ("#", 2), ("a*b", 3), ("", 4), ("*.*", 6)] {
            let found = consumer.find_next(category).await.unwrap();
            assert_eq!(found.map(|r| n(&r)), Some(expected), "'{category}' on {}", world.url);
        }
    }
}

#[tokio::test]
async fn a_stream_gives_what_comes_in_time_and_can_be_left() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        send(&producer, 0..20).await;
        let mut consumer = world.consumer("t");
        let first: Vec<_> = consumer.stream().take(7).map(|r| n(&r.unwrap())).collect().await;
        assert_eq!(first, (0..7).collect::<Vec<_>>());
        // What follows the last one that was taken, not that one again.
        let more: Vec<_> = consumer.stream().map(|r| n(&r.unwrap())).collect().await;
        assert_eq!(more, (7..20).collect::<Vec<_>>());
        let decode = |record: &busline::Record| Ok(n(record) * 2);
        consumer.seek_to_beginning().await.unwrap();
        let doubled: Vec<_> = consumer.stream_with(decode).map(Result::unwrap).collect().await;
        assert_eq!(doubled, (0..20).map(|n| n * 2).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_loses_nothing() {
    let world = World::file().await;
    let producer = world.producer("t").await;
    let mut consumer = world.consumer("t").timeout(None);
    let mut seen = Vec::new();
    let mut sent = 0;
    while seen.len() < 200 {
        if sent < 200 {
            send(&producer, sent..sent + 1).await;
            sent += 1;
        }
        let mut next = Box::pin(consumer.next());
        // Given up after each poll that came to nothing.
        if let Some(record) = (&mut next).now_or_never() {
            seen.push(n(&record.unwrap().unwrap()));
        }
        drop(next);
        tokio::task::yield_now().await;
    }
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_producer_resolves_when_it_is_stored_and_refuses_what_is_not_its_own() {
    for world in World::all().await {
        let producer = Producer::open(&world.url, "t").await.unwrap();
        let offset = producer.send("base", "0").await.unwrap();
        let mut consumer = world.consumer("t");
        let record = consumer.next().await.unwrap().unwrap();
        assert!(offset.is_none_or(|offset| offset == record.offset), "{}", world.url);
        let other = busline::Message::new("other".try_into().unwrap(), busline::Key::empty(), "");
        let error = producer.send_message(other).await.unwrap_err();
        assert!(matches!(&error, PublishError::TooLarge(_)), "{error}");
        assert!(error.to_string().contains("for topic 'other'"), "{error}");
        let error = producer.send("x".repeat(256), "").await.unwrap_err();
        assert!(matches!(&error, PublishError::TooLarge(_)), "{error}");
        let too_large = vec![0; 300 << 20];
        let error = producer.send("base", too_large).await.unwrap_err();
        assert!(matches!(&error, PublishError::TooLarge(_)), "{error}");
        producer.send("base", "1").await.unwrap();
        producer.close().await.unwrap();
        assert_eq!(rest(&mut consumer).await, [1], "what was refused is not there");
    }
}

#[tokio::test]
async fn a_topic_of_a_broker_gets_a_log() {
    let Some(ground) = crate::python::ground::Ground::find() else { return };
    let world = World::at(ground.url()).await;
    let producer = world.producer("t").await;
    send(&producer, 0..10).await;
    let mut consumer = world.consumer("t");
    assert_eq!(n(&consumer.find_next("rare.one").await.unwrap().unwrap()), 9);
}
