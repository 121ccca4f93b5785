//! Layers that others wrote, around handlers: time limits, bounds on what runs at once, and panics anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use busline::Topic;
use busline::service::{
    App, CallError, FromRequest, Lease, Level, Manual, Payload, Rejection, Request, Router,
};
use busline::transport::DeleteIf;
use tokio::sync::mpsc;
use tower::ServiceBuilder;
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;

use super::harness::{World, pass, soon};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_ended_tried_again_and_given_up() {
    let world = World::in_memory().await;
    let mut logs = world.tap("logs").await;
    let (began, mut begun) = mpsc::unbounded_channel();
    let router = Router::new().event("Slow", move || {
        began.send(()).unwrap();
        std::future::pending::<()>()
    });
    let app = App::new("s").merge(router.layer(TimeoutLayer::new(Duration::from_secs(3))));
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    probe.context.event("Slow", &()).await.unwrap();
    let unhandled = "Unhandled error while processing message Slow";
    for line in [(1, unhandled), (1, unhandled), (0, "Giving up on Slow")] {
        assert_eq!(logs.log(Level::ALERT).await, (line.0, line.1.to_owned()));
    }
    for _ in 0..2 {
        begun.try_recv().unwrap();
    }
    assert!(begun.try_recv().is_err());
    service.stop().await.unwrap();
    probe.stop().await;
}

/// A layer that is not ready makes its messages wait, and nobody else's.
#[tokio::test(start_paused = true)]
async fn a_layer_that_is_not_ready_is_waited_for() {
    let world = World::in_memory().await;
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counted = (Arc::clone(&now), Arc::clone(&most));
    let (done, mut finished) = mpsc::unbounded_channel();
    let router = Router::new().event("Bounded", move || {
        let ((now, most), done) = (counted.clone(), done.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            pass(1).await;
            now.fetch_sub(1, Ordering::SeqCst);
            done.send(()).unwrap();
        }
    });
    let layers = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(TimeoutLayer::new(LONG))
        .into_inner();
    let app =
        App::new("s").merge(router.layer(layers)).command("Free", async || Ok::<_, Rejection>(1));
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    for _ in 0..10 {
        probe.context.event("Bounded", &()).await.unwrap();
    }
    let free: u32 = probe.context.call("s.Free", &(), LONG).await.unwrap();
    assert_eq!(free, 1);
    assert!(finished.try_recv().is_err());
    for _ in 0..10 {
        soon("an event", finished.recv()).await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    service.stop().await.unwrap();
    probe.stop().await;
}

/// An argument that panics while it is taken.
struct Broken;

impl FromRequest for Broken {
    fn from_request(_: &mut Request) -> Result<Self, Rejection> {
        panic!("an extractor")
    }
}

#[tokio::test(start_paused = true)]
async fn panics_of_layers_and_arguments_are_failures_of_their_message() {
    let world = World::in_memory().await;
    let mut logs = world.tap("logs").await;
    let layered = Router::new()
        .event("Layered", async || {})
        .layer(tower::util::MapRequestLayer::new(|_: Request| -> Request { panic!("a layer") }));
    let app = App::new("s")
        .event("Broken", async |_: Broken| {})
        .merge(layered)
        .command("Fine", async || Ok::<_, Rejection>(1));
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    for key in ["Broken", "Layered"] {
        probe.context.event(key, &()).await.unwrap();
        let unhandled = format!("Unhandled error while processing message {key}");
        for line in [(1, unhandled.clone()), (1, unhandled), (0, format!("Giving up on {key}"))] {
            assert_eq!(logs.log(Level::ALERT).await, line);
        }
    }
    let fine: Result<u32, CallError> = probe.context.call("s.Fine", &(), LONG).await;
    assert_eq!(fine.unwrap(), 1);
    service.stop().await.unwrap();
    probe.stop().await;
}

/// Who settles by hand does so once its handler is called, and not when another argument was missing.
#[tokio::test(start_paused = true)]
async fn a_message_whose_handler_is_not_called_is_not_left_to_it() {
    let world = World::in_memory().await;
    let mut logs = world.tap("logs").await;
    let app = App::new("s")
        .command("Claimed", async |manual: Manual, _: Lease| {
            manual.ack().await?;
            Ok::<_, busline::service::Fault>(1)
        })
        .event("Number", async |manual: Manual, Payload(_): Payload<u64>| {
            drop(manual.ack());
        })
        .event("Panics", async |_: Manual, _: Broken| {});
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    let one: u32 = probe.context.call("s.Claimed", &(), LONG).await.unwrap();
    assert_eq!(one, 1);
    probe.context.event("Number", &"none").await.unwrap();
    let unhandled = |key| (1, format!("Unhandled error while processing message {key}"));
    assert_eq!(logs.log(Level::ALERT).await, unhandled("Number"));
    assert_eq!(logs.log(Level::ALERT).await, (0, "Giving up on Number".to_owned()));
    probe.context.event("Panics", &()).await.unwrap();
    assert_eq!(logs.log(Level::ALERT).await, unhandled("Panics"));
    assert_eq!(logs.log(Level::ALERT).await, unhandled("Panics"));
    assert_eq!(logs.log(Level::ALERT).await, (0, "Giving up on Panics".to_owned()));
    service.stop().await.unwrap();
    let infos = world.bus().await.admin().await.unwrap().groups(None).await.unwrap();
    for group in infos.iter().filter(|info| info.group.as_str() == "s") {
        assert_eq!((group.in_flight, group.lag), (0, 0), "{group:?}");
    }
    probe.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_again_after_somebody_deleted_their_queue() {
    let world = World::in_memory().await;
    let service =
        world.start(App::new("s").command("s.Fine", async || Ok::<_, Rejection>(1))).await;
    let probe = world.probe("probe").await;
    let fine: u32 = probe.context.call("s.Fine", &(), LONG).await.unwrap();
    let bus = world.bus().await;
    let (admin, commands) = (bus.admin().await.unwrap(), Topic::new("commands").unwrap());
    let groups = admin.groups(Some(&commands)).await.unwrap();
    let broadcasts: Vec<_> = groups.iter().filter(|group| group.broadcast).collect();
    assert_eq!((fine, broadcasts.len()), (1, 1));
    admin.delete_group(&commands, &broadcasts[0].group, DeleteIf::default()).await.unwrap();
    // Until it listens again nobody can answer it.
    let short = Duration::from_millis(100);
    let again =
        async { while probe.context.call::<_, u32>("s.Fine", &(), short).await.is_err() {} };
    soon("an answer", again).await;
    probe.stop().await;
    service.stop().await.unwrap();
}
