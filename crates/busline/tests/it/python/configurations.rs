//! Configurations: who waits for them, who sends them, and what happens to those that do not suffice.

use serde_json::{Value, json};

use super::both::Both;
use super::ground::Ground;
use super::witness::{Witness, cbor};

fn configured() -> Value {
    json!({ "events": ["Ping"], "configurations": ["Settings"], "asks": "SettingsRequested" })
}

/// Both ask the same one, wait while what comes is not enough, and are ready at the same message; events
/// that came meanwhile wait for that. Later ones replace it.
async fn follow(both: &mut Both, mut publish: impl AsyncFnMut(&str, Value)) {
    assert_eq!(both.lines(1).await[0]["kind"], "unconfigured");
    publish("Ping", json!(1)).await;
    publish("Settings", json!({ "complete": false })).await;
    assert_eq!(both.lines(1).await[0]["payload"], cbor(&json!({ "complete": false })));
    // Tried twice as any other, and still not ready.
    publish("Settings", json!({ "fail": true })).await;
    both.lines(2).await;
    let (alert, gone) =
        ("Unhandled error while processing message Settings", "Giving up on Settings");
    let line = |level, text: &str| (level, text.to_owned(), String::new());
    assert_eq!(both.logs(3).await, [line(1, alert), line(1, alert), line(0, gone)]);
    publish("Settings", json!({ "complete": true, "n": 1 })).await;
    let kinds: Vec<_> = both.lines(3).await.iter().map(|line| line["kind"].clone()).collect();
    assert_eq!(kinds, ["configuration", "ready", "event"]);
    // It stays configured, whatever comes.
    publish("Settings", json!({ "complete": false, "n": 2 })).await;
    assert_eq!(both.lines(1).await[0]["payload"], cbor(&json!({ "complete": false, "n": 2 })));
    publish("Ping", json!(2)).await;
    assert_eq!(both.lines(1).await[0]["payload"], cbor(&json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_wait_for_a_configuration_of_theirs() {
    let Some(ground) = Ground::find() else { return };
    let mut owner = ground.probe("owner", &json!({ "configurations": ["SettingsRequested"] }));
    owner.expect("unconfigured").await;
    let mut both = Both::start(&ground, &configured()).await;
    let mut asked = [owner.says().await["payload"].clone(), owner.says().await["payload"].clone()];
    asked.sort_by_key(ToString::to_string);
    let who = |name: &str| json!(cbor(&json!({ "who": name })));
    assert_eq!(asked, [who("ours"), who("theirs")]);
    let publish = async |key: &str, payload| match key {
        "Ping" => owner.tell(&json!(["publish_event", key, payload, "talk"])),
        key => owner.tell(&json!(["publish_configuration", key, payload])),
    };
    follow(&mut both, publish).await;
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_wait_for_a_configuration_of_ours() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "configurations": ["SettingsRequested"] });
    let mut owner = Witness::start(&ground, "owner", &options).await;
    owner.expect("unconfigured").await;
    let mut both = Both::start(&ground, &configured()).await;
    for _ in 0..2 {
        owner.expect("configuration").await;
    }
    let context = owner.context();
    let publish = async |key: &str, payload| {
        let sent = match key {
            "Ping" => context.event(key, &payload).await,
            key => context.configuration(key, &payload).await,
        };
        sent.unwrap().await.unwrap();
    };
    follow(&mut both, publish).await;
    both.stop().await;
    owner.stop().await;
}

/// Their connection is lost with the queue, and they ask again. We keep our settings, declare the queue
/// anew, and go on.
#[tokio::test(flavor = "multi_thread")]
async fn after_its_queue_was_deleted_theirs_asks_again_and_ours_goes_on() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "configurations": ["SettingsRequested"] });
    let mut owner = Witness::start(&ground, "owner", &options).await;
    owner.expect("unconfigured").await;
    let mut both = Both::start(&ground, &configured()).await;
    both.lines(1).await;
    let settings = json!({ "complete": true });
    let context = owner.context();
    for _ in 0..2 {
        owner.expect("configuration").await;
    }
    context.configuration("Settings", &settings).await.unwrap();
    both.lines(2).await;
    ground.ask("DELETE", "queues", "theirs.events", &Value::Null);
    let asked = owner.expect("configuration").await;
    assert_eq!(asked["payload"], cbor(&json!({ "who": "theirs" })));
    both.theirs.expect("unconfigured").await;
    context.configuration("Settings", &settings).await.unwrap();
    both.lines(1).await;
    both.theirs.expect("ready").await;
    ground.ask("DELETE", "queues", "ours.events", &Value::Null);
    // It is back when its binding is.
    let is_bound =
        |binding: &Value| binding["destination"] == "ours.events" && binding["source"] == "events";
    while !ground.ask("GET", "bindings", "", &Value::Null).as_array().unwrap().iter().any(is_bound)
    {
        tokio::task::yield_now().await;
    }
    context.event("Ping", &1).await.unwrap();
    assert_eq!(both.lines(1).await[0]["kind"], "event");
    both.stop().await;
    owner.stop().await;
}

/// What was published while they were away did not come, so both ask again. We go on with what we have.
#[tokio::test(flavor = "multi_thread")]
async fn after_lost_connections_both_ask_again() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "configurations": ["SettingsRequested"] });
    let mut owner = Witness::start(&ground, "owner", &options).await;
    owner.expect("unconfigured").await;
    let mut both = Both::start(&ground, &configured()).await;
    both.lines(1).await;
    let context = owner.context();
    for _ in 0..2 {
        owner.expect("configuration").await;
    }
    let settings = json!({ "complete": true, "n": 1 });
    context.configuration("Settings", &settings).await.unwrap();
    both.lines(2).await;
    ground.cut(9);
    // The owner may have been away when the first of them asked, and does not know it.
    both.ours.expect("unconfigured").await;
    both.theirs.expect("unconfigured").await;
    owner.expect("unconfigured").await;
    context.configuration("Settings", &json!({ "complete": true, "n": 2 })).await.unwrap();
    assert_eq!(both.lines(1).await[0]["kind"], "configuration");
    both.theirs.expect("ready").await;
    context.event("Ping", &1).await.unwrap();
    assert_eq!(both.lines(1).await[0]["kind"], "event");
    both.stop().await;
}
