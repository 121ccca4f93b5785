//! Events that are handled in batches: when a batch is complete, who settles what, and what a bad one does to the others.

use std::time::Duration;

use busline::service::{App, Context, Entry, Level};
use busline::{Bus, ErrorKind};
use serde_json::json;
use tokio::sync::mpsc;

use super::harness::{Probe, World, pass, soon};

const AGE_MAX: Duration = Duration::from_secs(5);

type Batches = mpsc::UnboundedReceiver<Vec<(u64, u32)>>;

/// A service that tells the numbers and attempts of each batch; it panics at a 13 and fails at a 7.
fn collecting(entries_max: u32) -> (App, Batches) {
    let (said, batches) = mpsc::unbounded_channel();
    let handle = move |entries: Vec<Entry<u64>>, context: Context| {
        let told = entries.iter().map(|entry| (entry.payload, entry.attempt.number)).collect();
        said.send(told).unwrap();
        async move {
            for entry in &entries {
                context.in_conversation(&*entry.conversation).event("Seen", &entry.payload).await?;
            }
            assert!(entries.iter().all(|entry| entry.payload != 13), "unlucky");
            if entries.iter().any(|entry| entry.payload == 7) {
                return Err("seven".into());
            }
            Ok::<_, busline::service::BoxError>(())
        }
    };
    (App::new("s").batch_event("E", entries_max, AGE_MAX, handle), batches)
}

async fn publish(probe: &Probe, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        probe.context.in_conversation(format!("talk {n}")).event("E", &n).await.unwrap();
    }
}

async fn next(batches: &mut Batches) -> Vec<(u64, u32)> {
    soon("a batch", batches.recv()).await.unwrap()
}

/// How many events were acknowledged, and how many somebody still holds.
async fn settled(bus: Bus) -> (u64, u64) {
    let infos = bus.admin().await.unwrap().groups(None).await.unwrap();
    let group = infos.iter().find(|info| info.group.as_str() == "s").unwrap();
    (group.acked, group.in_flight)
}

fn first(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, u32)> {
    numbers.into_iter().map(|n| (n, 1)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_full_or_its_first_event_is_old_or_the_service_stops() {
    let world = World::in_memory().await;
    let (app, mut batches) = collecting(4);
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    let mut events = world.tap("events").await;
    publish(&probe, 100..110).await;
    assert_eq!(next(&mut batches).await, first(100..104));
    assert_eq!(next(&mut batches).await, first(104..108));
    // The age is that of the first: another one does not lengthen it.
    pass(4).await;
    publish(&probe, [110]).await;
    assert!(batches.try_recv().is_err());
    pass(2).await;
    assert_eq!(batches.try_recv().unwrap(), first(108..111));
    publish(&probe, [111]).await;
    // What it publishes belongs to the conversation of each event.
    let mut seen = 0;
    while seen < 11 {
        let event = events.next().await;
        if event.key == "Seen" {
            let n: u64 = event.payload().unwrap();
            assert_eq!(event.conversation(), format!("talk {n}"));
            seen += 1;
        }
    }
    // Time passes only when nobody has anything to do: the service has taken the last one.
    pass(1).await;
    service.stop().await.unwrap();
    assert_eq!(batches.try_recv().unwrap(), first([111]));
    assert_eq!(settled(world.bus().await).await, (12, 0));
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_with_others_is_tried_alone_and_only_that_is_given_up() {
    for bad in [7, 13] {
        let world = World::in_memory().await;
        let mut logs = world.tap("logs").await;
        let (app, mut batches) = collecting(3);
        let service = world.start(app).await;
        let probe = world.probe("probe").await;
        publish(&probe, [1, bad, 2]).await;
        assert_eq!(next(&mut batches).await, first([1, bad, 2]));
        let mut alone = Vec::new();
        for _ in 0..3 {
            let batch = next(&mut batches).await;
            assert_eq!(batch.len(), 1, "{batch:?}");
            alone.extend(batch);
        }
        alone.sort_unstable();
        let mut expected = vec![(1, 2), (bad, 2), (2, 2)];
        expected.sort_unstable();
        assert_eq!(alone, expected);
        let emergency = loop {
            let (level, line) = logs.log(Level::ALERT).await;
            if level == 0 {
                break line;
            }
        };
        assert_eq!(emergency, "Giving up on E");
        // What has another shape has no part in a batch.
        probe.context.event("E", &json!({"no": "number"})).await.unwrap();
        publish(&probe, [3, 4, 5]).await;
        assert_eq!(next(&mut batches).await, first([3, 4, 5]));
        service.stop().await.unwrap();
        assert_eq!(settled(world.bus().await).await, (5, 0));
        probe.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_would_never_be_full_is_refused() {
    let world = World::in_memory().await;
    for (app, kind, what) in [
        (collecting(100).0, ErrorKind::Conflict, "a batch of 100 events would never be full: 64"),
        (collecting(10).0.concurrency(1), ErrorKind::Conflict, "1 are handled at once"),
        (collecting(0).0, ErrorKind::Limit, "no entries"),
    ] {
        let error = world.start_unready(app).await.ended().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}
