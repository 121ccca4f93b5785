//! The same for threads: an iterator, and what is refused.

use std::time::Duration;

use busline::ErrorKind;
use busline::log::OnUnreadable;
use busline::log::blocking::{Consumer, Producer};
use busline::log::hermes::Event;

fn n(record: &busline::Record) -> u64 {
    super::n(record)
}

#[test]
fn threads_send_and_iterate() {
    let directory = tempfile::tempdir().unwrap();
    let url = crate::harness::url(directory.path(), "");
    let producer = Producer::open(&url, "t").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let producer = producer.clone();
            scope.spawn(move || {
                for n in 0..25 {
                    let offset = producer.send("base", (thread * 25 + n).to_string()).unwrap();
                    assert!(offset.is_some());
                }
            });
        }
    });
    let mut consumer = Consumer::open(&url, "t").unwrap().timeout(Duration::ZERO);
    let mut seen: Vec<_> = consumer.by_ref().take(40).map(|r| n(&r.unwrap())).collect();
    let kept = consumer.position().unwrap().to_string();
    seen.extend(consumer.by_ref().map(|r| n(&r.unwrap())));
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    consumer.seek(&kept.parse().unwrap()).unwrap();
    assert_eq!(consumer.by_ref().count(), 60);

    producer.send("rare", "100").unwrap();
    consumer.seek_to_beginning().unwrap();
    assert_eq!(n(&consumer.find_next("rare").unwrap().unwrap()), 100);
    assert!(consumer.find_next("rare").unwrap().is_none());
    consumer.seek_to_end().unwrap();
    assert!(consumer.next_message().unwrap().is_none());
    consumer.close().unwrap();
    producer.close().unwrap();
    assert_eq!(producer.close().unwrap_err().kind(), ErrorKind::Closed);
    let error = producer.send("base", "late").unwrap_err();
    assert!(error.to_string().contains("the producer is closed"), "{error}");
}

#[test]
fn a_waiting_thread_gets_what_comes() {
    let url = "memory:log-blocking-wait";
    let producer = Producer::open(url, "t").unwrap();
    let mut consumer = Consumer::open(url, "t").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || n(&consumer.next_message().unwrap().unwrap()));
        producer.send("base", "5").unwrap();
        assert_eq!(waiting.join().unwrap(), 5);
    });
}

#[test]
fn an_iteration_ends_behind_an_error_and_never_spins() {
    let url = "memory:log-blocking-unreadable";
    let producer = Producer::open(url, "t").unwrap();
    producer.send_event(&Event::removed("T", 0)).unwrap();
    producer.send("base", "none").unwrap();
    producer.send_event(&Event::removed("T", 2)).unwrap();
    let mut consumer = Consumer::open(url, "t").unwrap().timeout(Duration::ZERO);
    for _ in 0..3 {
        // Behind the first event it fails each time, once.
        let items: Vec<_> = consumer.events().collect();
        assert!(items.len() <= 2 && items.last().unwrap().is_err(), "{items:?}");
    }
    consumer.skip_unreadable();
    assert_eq!(consumer.next_event().unwrap().unwrap().key.as_i64(), Some(2));

    let mut consumer = consumer.on_unreadable(OnUnreadable::Skip);
    consumer.seek_to_beginning().unwrap();
    let items: Vec<_> = consumer.events().collect();
    assert_eq!(items.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(consumer.events().count(), 0);
}

#[tokio::test]
async fn in_async_code_it_is_refused() {
    for error in
        [Producer::open("memory:", "t").unwrap_err(), Consumer::open("memory:", "t").unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("async code has no blocking"), "{error}");
    }
}
