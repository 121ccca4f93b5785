//! Windows, shared syncs, consumers that end with things in hand.

use std::time::Duration;

use busline::{ErrorKind, KeyPattern, Position};
use busline_log::storage::{Call, FaultyStorage, FsStorage};
use busline_transports::file::FileConfig;

use super::*;

#[tokio::test]
async fn a_batch_larger_than_the_window_is_sent_and_receipted() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "window=4").await;
    let publisher = bus.publisher("t").await.unwrap();
    soon(
        "a batch of 50 in a window of 4",
        publish_many(&publisher, (0..50).map(|i| i.to_string())),
    )
    .await;
    // Two of them beside each other do not wait for one another for ever.
    let (one, other) = (publisher.clone(), publisher.clone());
    let both = futures_join(
        publish_many(&one, (50..100).map(|i| i.to_string())),
        publish_many(&other, (100..150).map(|i| i.to_string())),
    );
    soon("two batches beyond the window", both).await;
    assert_eq!(read(&bus, "t").await.len(), 150);
}

async fn futures_join(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::join!(one, other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_publishers_share_syncs() {
    let directory = tempfile::tempdir().unwrap();
    let storage = FaultyStorage::new(Arc::new(FsStorage::new()));
    let config = FileConfig::new(directory.path().join("bus"));
    let bus = open_on(Arc::new(storage.clone()), config).await;
    let publisher = bus.publisher("t").await.unwrap();
    publish(&publisher, "k", "warm").await;
    let run = async |tasks: u32, each: u32| {
        let (before, syncs) = (now(), storage.plan().calls(Call::Sync));
        let mut running = Vec::new();
        for _ in 0..tasks {
            let publisher = publisher.clone();
            running.push(tokio::spawn(async move {
                for _ in 0..each {
                    publish(&publisher, "k", "0123456789").await;
                }
            }));
        }
        for task in running {
            task.await.unwrap();
        }
        let rate = f64::from(tasks * each) / (now() - before).as_secs_f64();
        (rate, storage.plan().calls(Call::Sync) - syncs)
    };
    let (alone, syncs_alone) = run(1, 50).await;
    let (together, syncs) = run(64, 20).await;
    println!(
        "durable receipts a second: {alone:.0} by one task ({syncs_alone} syncs for 50 messages), \
         {together:.0} by 64 tasks ({syncs} syncs for 1280)"
    );
    assert!(syncs_alone >= 50, "each receipt of one task needs a sync of its own");
    assert!(syncs <= 640, "{syncs} syncs for 1280 messages of 64 tasks");
}

#[tokio::test]
async fn a_large_message_does_not_wait_until_all_others_are_settled() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "").await;
    let publisher = bus.publisher("t").await.unwrap();
    let large = 3 << 20;
    for length in [1, large, 2, large, large] {
        publish(&publisher, "k", vec![b'x'; length]).await;
    }
    let group = bus.group("t", "g").unwrap().start(Position::Earliest);
    let mut consumer = group.max_in_flight_bytes(7 << 20).subscribe().await.unwrap();
    let mut held = Vec::new();
    for length in [1, large, 2, large] {
        held.push(next(&mut consumer).await);
        assert_eq!(held[held.len() - 1].message.payload.len(), length);
    }
    // The bound on bytes holds as ever.
    stays_pending("the one beyond the bound", consumer.next()).await;
    held.remove(1).ack().await.unwrap();
    assert_eq!(next(&mut consumer).await.message.payload.len(), large);
}

#[tokio::test]
async fn what_a_consumer_fetched_and_nobody_saw_is_given_back_uncounted() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "").await;
    let publisher = bus.publisher("t").await.unwrap();
    let group = || bus.group("t", "g").unwrap().start(Position::Earliest).attempts_max(1);
    let mut consumer = group().subscribe().await.unwrap();
    publish_many(&publisher, (0..20).map(|index| index.to_string())).await;
    // One is seen and dropped: that counts, and it was its only attempt.
    drop(next(&mut consumer).await);
    drop(consumer);
    let mut consumer = group().subscribe().await.unwrap();
    for expected in 1..20 {
        let delivery = next(&mut consumer).await;
        assert_eq!((text(&delivery), delivery.attempt.number), (&*expected.to_string(), 1));
        delivery.ack().await.unwrap();
    }
    assert_eq!(texts(&read(&bus, "g.t.dead").await), ["0"]);
    let info = bus.admin().await.unwrap().groups(None).await.unwrap();
    let info = info.iter().find(|info| info.group.as_str() == "g").unwrap();
    assert_eq!((info.acked, info.rejected, info.redelivered), (19, 1, 0), "{info:?}");
}

#[tokio::test]
async fn after_a_stop_what_was_fetched_comes_and_can_be_settled() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "").await;
    let publisher = bus.publisher("t").await.unwrap();
    let mut consumer =
        bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish_many(&publisher, (0..10).map(|index| index.to_string())).await;
    let first = next(&mut consumer).await;
    consumer.stop().await.unwrap();
    consumer.stop().await.unwrap();
    publish(&publisher, "k", "too late").await;
    let mut seen = vec![text(&first).to_owned()];
    first.ack().await.unwrap();
    while let Some(delivery) = soon("the rest", consumer.next()).await.unwrap() {
        seen.push(text(&delivery).to_owned());
        delivery.ack().await.unwrap();
    }
    assert!(soon("the end", consumer.next()).await.unwrap().is_none());
    drop(consumer);
    let mut consumer = bus.group("t", "g").unwrap().join().await.unwrap();
    while seen.len() < 11 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.attempt.number, 1);
        seen.push(text(&delivery).to_owned());
        delivery.ack().await.unwrap();
    }
    let expected: Vec<_> = (0..10).map(|i| i.to_string()).chain(["too late".to_owned()]).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn closing_with_things_in_flight_keeps_every_promise() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "").await;
    let publisher = bus.publisher("t").await.unwrap();
    let mut consumer =
        bus.group("t", "g").unwrap().start(Position::Earliest).subscribe().await.unwrap();
    publish_many(&publisher, (0..10).map(|index| index.to_string())).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut consumer).await);
    }
    let acks: Vec<_> = held.drain(..5).map(|delivery| delivery.ack()).collect();
    let batch: Vec<_> = (10..60).map(|i| publisher.message("k", i.to_string()).unwrap()).collect();
    let receipts = publisher.send(batch).await.unwrap();
    bus.close(Duration::from_secs(30)).await.unwrap();
    // What was accepted and settled before is done.
    for (receipt, expected) in receipts.into_iter().zip(10..) {
        assert_eq!(stored(soon("a receipt", receipt).await), expected);
    }
    for ack in acks {
        soon("an ack", ack).await.unwrap();
    }
    // What comes after fails, and says why.
    let late = publisher.publish(publisher.message("k", "late").unwrap()).await;
    assert_eq!(kind(failed(late).error()), ErrorKind::Closed);
    assert_eq!(soon("next", consumer.next()).await.unwrap_err().kind(), ErrorKind::Closed);
    for delivery in held {
        let error = soon("a late ack", delivery.ack()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lost);
    }
    drop((bus, publisher, consumer));
    let bus = open(directory.path(), "").await;
    assert_eq!(read(&bus, "t").await.len(), 60);
    let mut consumer = bus.group("t", "g").unwrap().join().await.unwrap();
    for expected in 5..60 {
        let delivery = next(&mut consumer).await;
        let attempt = if expected < 10 { 2 } else { 1 };
        assert_eq!((text(&delivery), delivery.attempt.number), (&*expected.to_string(), attempt));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_held_delivery_does_not_keep_others_from_being_found_far_behind() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path(), "sync=os").await;
    let publisher = bus.publisher("t").await.unwrap();
    let pattern: KeyPattern = "wanted".parse().unwrap();
    let mut consumer = bus
        .group("t", "g")
        .unwrap()
        .pattern(pattern)
        .unwrap()
        .start(Position::Earliest)
        .subscribe()
        .await
        .unwrap();
    publish(&publisher, "wanted", "first").await;
    // More than one claim looks at.
    for _ in 0..15 {
        publish_many(&publisher, (0..5000).map(|_| String::new())).await;
    }
    publish(&publisher, "wanted", "second").await;
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    assert_eq!((text(&first), text(&second)), ("first", "second"));
}
