//! Timeouts mean what they say: on a clock that is turned by hand, and while the bus is away.

use std::sync::Arc;
use std::time::Duration;

use busline::log::Consumer;
use busline::{Bus, BusConfig, Clock, ErrorKind, ManualClock, SystemClock, Timestamp};
use busline_core::memory::MemoryTransport;
use futures_util::FutureExt;

use super::{World, n, send};

/// A bus in memory by a clock that is turned by hand.
async fn turned() -> (Bus, ManualClock) {
    let clock = ManualClock::new(Timestamp::from_unix_us(0));
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let transport = Arc::new(MemoryTransport::with_clock(Arc::clone(&shared)));
    let bus = Bus::over(vec![transport], BusConfig::new("memory:"), shared).await.unwrap();
    (bus, clock)
}

#[tokio::test]
async fn a_timeout_is_over_then_and_no_sooner() {
    let (bus, clock) = turned().await;
    let producer = busline::log::Producer::on(&bus, "t").await.unwrap();
    for (seconds, find) in [(5, false), (5, true), (3600, false), (86_400 * 365, true)] {
        let timeout = Duration::from_secs(seconds);
        let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(timeout);
        consumer.seek_to_end().await.unwrap();
        let mut next = Box::pin(async {
            if find { consumer.find_next("rare.one").await } else { consumer.next().await }
        });
        assert!((&mut next).now_or_never().is_none());
        clock.advance(timeout - Duration::from_micros(1));
        tokio::task::yield_now().await;
        assert!((&mut next).now_or_never().is_none(), "{seconds} s are not over");
        if find {
            // What is of another category is no reason to wait longer, nor to stop waiting.
            send(&producer, 0..1).await;
            tokio::task::yield_now().await;
            assert!((&mut next).now_or_never().is_none());
        }
        clock.advance(Duration::from_micros(1));
        assert!(next.await.unwrap().is_none(), "{seconds} s are over");
    }
}

#[tokio::test]
async fn each_message_has_the_whole_time_and_what_comes_in_time_is_got() {
    let (bus, clock) = turned().await;
    let producer = busline::log::Producer::on(&bus, "t").await.unwrap();
    let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::from_secs(10));
    for number in 0..5 {
        let mut next = Box::pin(consumer.next());
        assert!((&mut next).now_or_never().is_none());
        clock.advance(Duration::from_secs(9));
        producer.send("base", number.to_string()).await.unwrap();
        assert_eq!(n(&next.await.unwrap().unwrap()), number);
    }
    // Whoever handles messages slowly has all of them nevertheless.
    send(&producer, 5..8).await;
    for number in 5..8 {
        clock.advance(Duration::from_secs(100));
        assert_eq!(n(&consumer.next().await.unwrap().unwrap()), number);
    }
}

#[tokio::test]
async fn without_a_timeout_it_waits_for_ever() {
    let (bus, clock) = turned().await;
    let mut consumer = Consumer::on(&bus, "t").unwrap();
    let mut next = Box::pin(consumer.next());
    assert!((&mut next).now_or_never().is_none());
    clock.advance(Duration::from_secs(86_400 * 365 * 100));
    tokio::task::yield_now().await;
    assert!((&mut next).now_or_never().is_none());
    let producer = busline::log::Producer::on(&bus, "t").await.unwrap();
    producer.send("base", "7").await.unwrap();
    assert_eq!(n(&next.await.unwrap().unwrap()), 7);
}

/// The machine's own clock, which a test may pause.
#[tokio::test(start_paused = true)]
async fn in_paused_time_a_year_takes_no_time() {
    let world = World::memory().await;
    let started = tokio::time::Instant::now();
    let year = Duration::from_secs(86_400 * 365);
    let mut consumer = Consumer::on(&world.bus, "t").unwrap().timeout(year);
    assert!(consumer.next().await.unwrap().is_none());
    assert!(consumer.find_next("base").await.unwrap().is_none());
    assert_eq!(started.elapsed().as_secs(), 2 * year.as_secs());
}

#[tokio::test]
async fn with_no_time_at_all_it_gets_what_is_there() {
    for world in World::all().await {
        let producer = world.producer("t").await;
        send(&producer, 0..2000).await;
        let mut consumer = world.consumer("t");
        assert_eq!(super::rest(&mut consumer).await.len(), 2000, "{}", world.url);
        consumer.seek_to_beginning().await.unwrap();
        let mut found = 0;
        while consumer.find_next("rare.one").await.unwrap().is_some() {
            found += 1;
        }
        assert_eq!(found, 200, "{}", world.url);
    }
}

#[tokio::test]
async fn a_bus_that_is_away_is_no_reason_to_wait_longer_and_nothing_is_lost_by_it() {
    let transport = MemoryTransport::new();
    let broker = transport.broker();
    let transports: Vec<Arc<dyn busline::transport::Transport>> = vec![Arc::new(transport)];
    let bus = Bus::over(transports, BusConfig::new("memory:"), SystemClock::shared()).await;
    let bus = bus.unwrap();
    let producer = busline::log::Producer::on(&bus, "t").await.unwrap();
    send(&producer, 0..4).await;
    let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::from_millis(20));
    assert_eq!(n(&consumer.next().await.unwrap().unwrap()), 0);
    consumer.seek(&consumer.position().unwrap()).await.unwrap();
    broker.refuse_connects(true);
    broker.restart();
    for _ in 0..3 {
        let error = consumer.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Elapsed, "{error}");
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
    broker.refuse_connects(false);
    consumer.set_timeout(Duration::from_secs(60));
    for number in 1..4 {
        assert_eq!(n(&consumer.next().await.unwrap().unwrap()), number);
    }
}
