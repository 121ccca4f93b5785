//! The services that wait for settings, fail, and take batches.

use std::time::Duration;

use busline::service::{App, Context, Key, Payload};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::stage::Stage;
use crate::python::ground::DEAD;
use crate::service::harness::soon;

const LONG: Duration = Duration::from_secs(60);

type Heard = mpsc::UnboundedReceiver<(String, Value)>;

/// An app that hears these.
fn hearing(events: &[&str], configurations: &[&str]) -> (App, Heard) {
    let (said, heard) = mpsc::unbounded_channel();
    // In the order in which they come.
    let mut app = App::new("probe").concurrency(1);
    for event in events {
        let said = said.clone();
        app = app.event(event, move |Key(key): Key, Payload(p): Payload<Value>| {
            said.send((key.to_string(), p)).unwrap();
            async {}
        });
    }
    for configuration in configurations {
        let said = said.clone();
        app = app.configuration(configuration, move |Key(key): Key, Payload(p): Payload<Value>| {
            said.send((key.to_string(), p)).unwrap();
            async { true }
        });
    }
    (app, heard)
}

async fn next(heard: &mut Heard) -> (String, Value) {
    soon("a message", heard.recv()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_asks_waits_and_answers_with_the_latest() {
    for stage in Stage::all() {
        // It is not configured itself before somebody asks, so it speaks when it is unconfigured.
        let (app, mut asked) = hearing(&["ConfiguredPong"], &["ConfiguredSettingsRequested"]);
        let (ready, mut readiness) = mpsc::unbounded_channel();
        let app = app.on_unconfigured(move |context: Context| {
            ready.send(context).unwrap();
            async {}
        });
        let world = crate::service::harness::World::at(stage.url.clone()).await;
        let probe = world.start_unready(app).await;
        let context = soon("a probe", readiness.recv()).await.unwrap();
        let mut service = stage.start("03_configured", &["--service", "tuned"]);
        assert_eq!(
            next(&mut asked).await,
            ("ConfiguredSettingsRequested".to_owned(), json!({ "who": "tuned" }))
        );
        let publish = async |settings: Value| {
            context.configuration("ConfiguredSettings", &settings).await.unwrap().await.unwrap();
        };
        publish(json!({ "complete": false, "n": 0 })).await;
        context.event("ConfiguredPing", &json!({})).await.unwrap().await.unwrap();
        publish(json!({ "complete": true, "n": 1 })).await;
        service.expect("ready").await;
        let (key, pong) = next(&mut asked).await;
        assert_eq!(
            (key.as_str(), &pong["settings"]),
            ("ConfiguredPong", &json!({ "complete": true, "n": 1 }))
        );
        let settings: Value = context.call("tuned.GetSettings", &json!(null), LONG).await.unwrap();
        assert_eq!(settings, json!({ "complete": true, "n": 1 }));
        publish(json!({ "complete": true, "n": 2 })).await;
        // Configurations come by themselves: how soon is nobody's promise.
        let latest = async {
            loop {
                let settings: Value =
                    context.call("tuned.GetSettings", &json!(null), LONG).await.unwrap();
                if settings["n"] == 2 {
                    return;
                }
            }
        };
        soon("the later settings", latest).await;
        service.signal(Signal::TERM);
        assert_eq!(service.code().await, Some(0));
        probe.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_tries_twice_and_gives_up() {
    for stage in Stage::all() {
        if let Some(ground) = &stage.ground {
            ground.keep_dead();
        }
        let (app, mut heard) = hearing(&["FailLateSideEffect", "FailRecovered"], &[]);
        let probe = stage.probe(app).await;
        let mut service = stage.ready("04_failing", &[]).await;
        let context = &probe.context;
        for (key, tries) in [("FailAlways", 2), ("FailLate", 2), ("FailOnce", 2), ("FailNever", 1)]
        {
            context.event(key, &json!({ "of": key })).await.unwrap();
            for attempt in 1..=tries {
                let line = service.expect("attempt").await;
                assert_eq!(
                    (&line["key"], &line["attempt"]),
                    (&json!(key), &json!(attempt)),
                    "{line}"
                );
            }
        }
        for key in ["FailLateSideEffect", "FailLateSideEffect", "FailRecovered"] {
            assert_eq!(next(&mut heard).await.0, key);
        }
        context.event("FailUnhandled", &json!(1)).await.unwrap();
        let sent = context.send_command("failing.Boom", &json!(1), "probe.Nothing", "7").await;
        sent.unwrap();
        for attempt in 1..=2 {
            let line = service.expect("attempt").await;
            assert_eq!(
                (&line["key"], &line["attempt"]),
                (&json!("failing.Boom"), &json!(attempt)),
                "{line}"
            );
        }
        let fine: Value = context.call("failing.Fine", &json!(1), LONG).await.unwrap();
        assert_eq!(fine, json!({ "fine": true }));
        soon("four dead letters", dead(&stage, 4)).await;
        service.signal(Signal::TERM);
        assert_eq!(service.code().await, Some(0));
        probe.stop().await;
    }
}

/// Waits until so many messages were given up.
async fn dead(stage: &Stage, count: u64) {
    let bus = busline::Bus::open(&stage.url).await.unwrap();
    loop {
        let found = match &stage.ground {
            Some(ground) => {
                let queue = ground.ask("GET", "queues", DEAD, &Value::Null);
                queue["messages"].as_u64().unwrap_or_default()
            }
            None => {
                let groups = bus.admin().await.unwrap().groups(None).await.unwrap();
                let its = groups.iter().filter(|group| group.group.as_str() == "failing");
                its.map(|group| group.rejected).sum()
            }
        };
        if found == count {
            return;
        }
        assert!(found < count, "{found}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_full_or_old() {
    for stage in Stage::all() {
        let (app, _heard) = hearing(&[], &[]);
        let probe = stage.probe(app).await;
        let mut service = stage.ready("05_batcher", &["--size", "4", "--timeout", "1.5"]).await;
        for n in 0..10 {
            probe.context.event("BatchItem", &json!({ "n": n })).await.unwrap();
        }
        let mut batches = Vec::new();
        for size in [4, 4, 2] {
            let batch = service.expect("batch").await;
            assert_eq!(batch["size"], size, "{batch}");
            let items = batch["items"].as_array().unwrap();
            batches.push(items.iter().map(|item| item["n"].as_u64().unwrap()).collect::<Vec<_>>());
        }
        // The two that are full are handled at the same time: either may be told first.
        batches.sort_unstable();
        assert_eq!(batches.concat(), (0..10).collect::<Vec<_>>());
        service.signal(Signal::TERM);
        assert_eq!(service.code().await, Some(0));
        // All of them were settled: the next instance has nothing to do.
        let mut service = stage.ready("05_batcher", &["--size", "1"]).await;
        probe.context.event("BatchItem", &json!({ "n": 99 })).await.unwrap();
        assert_eq!(service.expect("batch").await["items"], json!([{ "n": 99 }]));
        probe.stop().await;
    }
}
