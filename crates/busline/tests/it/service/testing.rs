//! The bus that users test their services on.

use std::time::Duration;

use busline::service::testing::TestBus;
use busline::service::{App, Context, Fault, Kind, Level, Payload};
use busline::{Attempt, ErrorKind};
use serde_json::{Value, json};

fn app() -> App {
    let twice = async |Payload(n): Payload<u64>, context: Context| -> Result<(), Fault> {
        context.log(Level::NOTICE, "it comes");
        context.event("Doubled", &(2 * n)).await?;
        Ok(())
    };
    let once = async |attempt: Attempt| -> Result<(), Fault> {
        assert!(attempt.number > 1, "the first time is bad luck");
        Ok(())
    };
    let late = async |context: Context| -> Result<(), Fault> {
        context.after(Duration::from_secs(3600), |context| async move {
            context.event("Late", &()).await.unwrap();
        });
        Ok(())
    };
    App::new("s")
        .event("Double", twice)
        .event("FailOnce", once)
        .event("FailAlways", async || Err::<(), _>(std::io::Error::other("no luck")))
        .event("Late", late)
        .command("Reverse", async |Payload(text): Payload<String>| -> Result<String, Fault> {
            Ok(text.chars().rev().collect())
        })
}

#[tokio::test(start_paused = true)]
async fn a_test_publishes_awaits_what_was_published_and_sees_outcomes() {
    let mut bus = TestBus::new().await.unwrap();
    bus.start(app()).await.unwrap();
    assert_eq!(bus.settled().await.unwrap().acked, 0);
    let context = bus.context().in_conversation("talk");
    context.event("Double", &21).await.unwrap();
    let doubled = bus.published("Doubled").await.unwrap();
    assert_eq!((doubled.kind, doubled.payload::<u64>().unwrap()), (Kind::Event, 42));
    assert_eq!(&*doubled.conversation(), "talk");
    let line = bus.logged(Level::NOTICE).await.unwrap();
    assert_eq!((&*line.short, &*line.service, &*line.conversation), ("it comes", "s", "talk"));
    // What nobody asked for waits, in its order.
    assert_eq!(&*bus.published("#").await.unwrap().key, "Double");

    let answer: String = context.call("s.Reverse", "abc", Duration::from_secs(1)).await.unwrap();
    assert_eq!(answer, "cba");
    assert_eq!(bus.published("s.*").await.unwrap().kind, Kind::Command);
    assert_eq!(bus.published("reply.#").await.unwrap().kind, Kind::Result);

    context.event("FailOnce", &json!({})).await.unwrap();
    context.event("FailAlways", &json!({"why": [1]})).await.unwrap();
    let letter = bus.dead_letter().await.unwrap();
    assert_eq!(
        (letter.message.key.as_str(), &*letter.service, letter.attempts),
        ("FailAlways", "s", 2)
    );
    assert!(!letter.reason.is_empty());
    let settled = bus.settled().await.unwrap();
    assert_eq!((settled.acked, settled.redelivered, settled.dead_lettered), (3, 2, 1));
    bus.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn time_passes_at_once_and_what_does_not_come_is_said_with_what_came() {
    let mut bus = TestBus::new().await.unwrap();
    bus.start(app()).await.unwrap();
    bus.context().event("Other", &1).await.unwrap();
    bus.context().event("Late", &1).await.unwrap();
    bus.published("Late").await.unwrap();
    let error = bus.published("Late").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Elapsed, "{error}");
    assert!(error.to_string().contains("event Other"), "{error}");
    bus.patience(Duration::from_secs(7200));
    assert_eq!(&*bus.published("Late").await.unwrap().key, "Late");
    bus.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_waits_for_its_configuration_and_one_that_cannot_start() {
    let mut bus = TestBus::new().await.unwrap();
    let ask = |context: Context| async move {
        context.configuration("SettingsRequested", &()).await.unwrap();
    };
    let configured = App::new("c")
        .configuration("Settings", async |Payload(_): Payload<Value>| true)
        .event("Ping", async |context: Context| -> Result<(), Fault> {
            context.event("Pong", &()).await?;
            Ok(())
        })
        .on_unconfigured(ask);
    bus.start_unready(configured).await.unwrap();
    bus.published("SettingsRequested").await.unwrap();
    bus.context().configuration("Settings", &1).await.unwrap();
    let ping = async { bus.context().event("Ping", &()).await.unwrap().await };
    ping.await.unwrap();
    bus.published("Pong").await.unwrap();

    let twice = App::new("t").event("E", async || {}).event("E", async || {});
    assert_eq!(bus.start(twice).await.unwrap_err().kind(), ErrorKind::Conflict);
    bus.stop().await.unwrap();
}
