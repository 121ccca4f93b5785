//! Threads that publish: what arrives, what is tried again and when, and what is refused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use busline_core::memory::{MemoryBroker, MemoryTransport};
use busline_core::transport::Transport;
use busline_core::{
    Clock, Error, ErrorKind, ManualClock, Message, Position, SystemClock, Timestamp,
};

use super::Publisher;
use super::attempts::Attempts;
use crate::service::wire::{Kind, Level, LogLine, decode, topic};
use crate::{Bus, BusConfig};

struct Setup {
    broker: MemoryBroker,
    transport: Arc<dyn Transport>,
    publisher: Publisher,
    runtime: tokio::runtime::Runtime,
}

fn setup() -> Setup {
    let transport = MemoryTransport::new();
    let broker = transport.broker();
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let (over, config) = (vec![Arc::clone(&transport)], BusConfig::new("memory:"));
    let publisher = Publisher::over(over, config, SystemClock::shared(), "shop").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Setup { broker, transport, publisher, runtime }
}

impl Setup {
    /// The first messages of a topic.
    fn messages(&self, kind: Kind, count: usize) -> Vec<Message> {
        let transports = vec![Arc::clone(&self.transport)];
        self.runtime.block_on(async {
            let config = BusConfig::new("memory:");
            let bus = Bus::over(transports, config, SystemClock::shared()).await.unwrap();
            let reader = bus.reader(topic(kind), Position::Earliest).unwrap();
            let mut reader = reader.open().await.unwrap();
            let mut messages = Vec::new();
            while messages.len() < count {
                messages.push(reader.next().await.unwrap().unwrap().message);
            }
            messages
        })
    }
}

#[test]
fn what_a_thread_publishes_arrives_as_from_a_service() {
    let setup = setup();
    let publisher = &setup.publisher;
    std::thread::scope(|scope| {
        for n in 0..4 {
            let publisher = publisher.clone();
            scope.spawn(move || publisher.event("Placed", "c", &n, None).unwrap());
        }
    });
    let mut seen: Vec<u8> = Vec::new();
    for message in setup.messages(Kind::Event, 4) {
        let event = decode(Kind::Event, &message).unwrap();
        assert_eq!((&*event.key, &*event.conversation()), ("Placed", "c"));
        assert_eq!(message.properties.content_type.as_deref(), Some("application/cbor"));
        assert_eq!(message.properties.message_id, None);
        seen.push(event.payload().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    publisher.configuration("Settings", &[1], Some(1)).unwrap();
    let settings = decode(Kind::Configuration, &setup.messages(Kind::Configuration, 1)[0]).unwrap();
    assert_eq!(settings.payload::<[u8; 1]>().unwrap(), [1]);
    publisher.log(&LogLine::new(Level::INFO, "here"), "", Some(1)).unwrap();
    assert_eq!(setup.messages(Kind::Log, 1)[0].key.as_str(), "shop.INFO");
}

#[test]
fn json_on_demand() {
    let mut setup = setup();
    setup.publisher = setup.publisher.json();
    setup.publisher.event("E", "c", "é", None).unwrap();
    let messages = setup.messages(Kind::Event, 1);
    // As kombu writes it.
    assert_eq!(messages[0].payload, r#""\u00e9""#);
}

#[test]
fn a_refused_message_is_tried_again() {
    let setup = setup();
    setup.broker.nack_next(1, "full");
    setup.publisher.event("E", "c", &1, Some(2)).unwrap();
    setup.broker.nack_next(1, "full");
    let error = setup.publisher.event("E", "c", &2, Some(1)).unwrap_err();
    assert!(error.to_string().contains("refuses the message"), "{error}");
    assert!(error.to_string().contains("attempts: 1"), "{error}");
    assert_eq!(setup.messages(Kind::Event, 1).len(), 1);
}

#[test]
fn a_broker_that_cannot_be_reached_ends_after_the_attempts() {
    let setup = setup();
    setup.broker.refuse_connects(true);
    let error = setup.publisher.event("E", "c", &1, Some(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains("attempts: 2"), "{error}");
    // Nothing of it is left behind: it goes on as soon as it can.
    setup.broker.refuse_connects(false);
    setup.publisher.event("E", "c", &2, Some(1)).unwrap();
    let message = &setup.messages(Kind::Event, 1)[0];
    assert_eq!(decode(Kind::Event, message).unwrap().payload::<u8>().unwrap(), 2);
}

#[test]
fn async_code_is_refused() {
    let setup = setup();
    let refused = setup.runtime.block_on(async {
        let opened = Publisher::open("memory:", "shop").map(drop).unwrap_err();
        [opened, setup.publisher.event("E", "c", &1, None).unwrap_err()]
    });
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
}

#[test]
fn bad_input_is_told_at_once() {
    let setup = setup();
    let long = "x".repeat(256);
    assert_eq!(setup.publisher.event(&long, "c", &1, None).unwrap_err().kind(), ErrorKind::Limit);
    let none = setup.publisher.event("E", "c", &1, Some(0)).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Limit);
    assert_eq!(Publisher::open("nothing:", "s").unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn closed_is_closed() {
    let setup = setup();
    setup.publisher.event("E", "c", &1, None).unwrap();
    setup.publisher.close().unwrap();
    assert_eq!(setup.broker.sessions(), 0);
    for error in [setup.publisher.close(), setup.publisher.event("E", "c", &1, None)] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Closed);
    }
    // One that was never used has nothing to close.
    Publisher::open("memory:", "shop").unwrap().close().unwrap();
}

/// Remembers for how long it was asked to sleep, and does not.
#[derive(Debug)]
struct Hasty {
    clock: Arc<ManualClock>,
    waits_s: Mutex<Vec<u64>>,
}

impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> futures_util::future::BoxFuture<'static, ()> {
        self.waits_s.lock().unwrap().push(duration.as_secs());
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn waits_grow_by_a_second_up_to_thirty() {
    let clock = Hasty {
        clock: Arc::new(ManualClock::new(Timestamp::from_unix_us(0))),
        waits_s: Mutex::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut attempts = Attempts::new(Some(34)).unwrap();
    let away = || Error::new(ErrorKind::Disconnected, "away");
    for _ in 0..33 {
        runtime.block_on(attempts.failed(&clock, away())).unwrap();
    }
    let error = runtime.block_on(attempts.failed(&clock, away())).unwrap_err();
    assert!(error.to_string().contains("attempts: 34"), "{error}");
    let waits_s = clock.waits_s.lock().unwrap();
    assert_eq!(waits_s.len(), 33);
    assert_eq!(waits_s[..5], [0, 1, 2, 3, 4]);
    assert_eq!(waits_s[29..], [29, 30, 30, 30]);
}

#[test]
fn what_does_not_pass_is_not_tried_again() {
    let clock = SystemClock::shared();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut attempts = Attempts::new(None).unwrap();
    let error = Error::new(ErrorKind::Unauthorized, "no");
    let error = runtime.block_on(attempts.failed(&*clock, error)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}
