//! What the bus does not take: sent again, given up, or said to who waits for it.

use std::sync::Arc;
use std::time::Duration;

use busline::service::{App, CallError, Context, Fault};
use busline::{Bus, BusConfig, SystemClock};
use busline_core::memory::{MemoryBroker, MemoryTransport};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::harness::{World, soon};

/// A bus whose broker refuses what it is told to.
async fn refusing() -> (Bus, MemoryBroker) {
    let transport = MemoryTransport::new();
    let broker = transport.broker();
    let (over, config) = (vec![Arc::new(transport) as _], BusConfig::new("memory:"));
    (Bus::over(over, config, SystemClock::shared()).await.unwrap(), broker)
}

/// The broker refuses it: it is sent again, and only when it is stored the sender hears of it.
#[tokio::test(start_paused = true)]
async fn what_is_refused_outside_of_handlers_is_sent_again() {
    let (bus, broker) = refusing().await;
    let mut heard = bus.broadcast("configurations").unwrap().subscribe().await.unwrap();
    let (said, mut says) = mpsc::unbounded_channel();
    broker.nack_next(2, "full");
    let app = App::new("asking").on_ready(move |context: Context| {
        let said = said.clone();
        async move {
            let before = Instant::now();
            context.configuration("Wanted", &1).await?.await?;
            said.send(before.elapsed().as_secs()).unwrap();
            Ok::<_, Fault>(())
        }
    });
    let stopper = app.stopper();
    let running = tokio::spawn(app.run_until(bus, std::future::pending()));
    assert_eq!(soon("a receipt", says.recv()).await, Some(30), "twice 15 s");
    let delivery = soon("the configuration", heard.next()).await.unwrap().unwrap();
    assert_eq!(delivery.message.key.as_str(), "Wanted");
    delivery.ack().await.unwrap();
    stopper.stop();
    soon("its end", running).await.unwrap().unwrap();
}

/// A stop waits for no broker that refuses.
#[tokio::test(start_paused = true)]
async fn what_is_refused_is_given_up_by_a_stop() {
    let (bus, broker) = refusing().await;
    let (said, mut says) = mpsc::unbounded_channel();
    broker.nack_next(1, "full");
    let app = App::new("asking").on_ready(move |context: Context| {
        let said = said.clone();
        async move {
            said.send(context.event("Wanted", &1).await?).unwrap();
            Ok::<_, Fault>(())
        }
    });
    let stopper = app.stopper();
    let running = tokio::spawn(app.run_until(bus, std::future::pending()));
    let sent = soon("the start", says.recv()).await.unwrap();
    let before = Instant::now();
    stopper.stop();
    soon("its end", running).await.unwrap().unwrap();
    assert!(sent.await.is_err());
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_is_an_error_that_says_so() {
    let world = World::in_memory().await;
    let large = async || Ok::<_, Fault>("x".repeat(17 << 20));
    let service = world.start(App::new("large").command("Get", large)).await;
    let probe = world.probe("probe").await;
    let limit = Duration::from_secs(60);
    let answer = probe.context.call::<_, String>("large.Get", &(), limit).await.unwrap_err();
    let CallError::Fault(answer) = answer else { panic!("{answer}") };
    let reason = answer.payload::<serde_json::Value>().unwrap()["reason"].to_string();
    assert!(reason.contains("cannot be sent") && reason.contains("bytes"), "{reason}");
    service.stop().await.unwrap();
    probe.stop().await;
}
