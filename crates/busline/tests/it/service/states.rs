//! What a service is: waiting to be configured, ready, stopping.

use std::time::Duration;

use busline::service::{App, Context, Fault, Lease, Level, Manual, Payload};
use busline::{Attempt, ErrorKind, Message};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::python::ground::Ground;
use crate::python::peer::PATIENCE;

use super::harness::{World, pass, soon};

/// A service that tells when it asks for its configuration, and when it is ready.
fn configured(said: mpsc::UnboundedSender<&'static str>) -> App {
    let unconfigured = said.clone();
    App::new("configured")
        .configuration("Settings", async |Payload(complete): Payload<bool>| complete)
        .event("Ping", async |context: Context| -> Result<(), Fault> {
            context.event("Pong", &()).await?;
            Ok(())
        })
        .on_unconfigured(move |_| {
            unconfigured.send("unconfigured").unwrap();
            async {}
        })
        .on_ready(move |_| {
            said.send("ready").unwrap();
            async {}
        })
}

#[tokio::test(start_paused = true)]
async fn a_service_takes_messages_once_it_is_configured() {
    let world = World::in_memory().await;
    let (said, mut says) = mpsc::unbounded_channel();
    let service = world.start_unready(configured(said)).await;
    assert_eq!(soon("its question", says.recv()).await, Some("unconfigured"));
    let probe = world.probe("probe").await;
    let mut events = world.tap("events").await;
    // It waits in the group meanwhile.
    probe.context.event("Ping", &()).await.unwrap().await.unwrap();
    assert_eq!(&*events.next().await.key, "Ping");
    probe.context.configuration("Settings", &false).await.unwrap();
    probe.context.configuration("Settings", &true).await.unwrap();
    assert_eq!(soon("readiness", says.recv()).await, Some("ready"));
    assert_eq!(&*events.next().await.key, "Pong");
    service.stop().await.unwrap();
    probe.stop().await;
}

/// Whoever has the bus sees that: what was settled is flushed, and nothing goes on.
#[tokio::test(start_paused = true)]
async fn a_stop_closes_the_bus() {
    let world = World::in_memory().await;
    // Again and again: a close that is raced against something is lucky now and then.
    for _ in 0..30 {
        let (bus, app) = (world.bus().await, App::new("idle").event("E", async || {}));
        let publisher = bus.publisher("events").await.unwrap();
        let stopper = app.stopper();
        let app = app.on_ready(move |_| {
            stopper.stop();
            async {}
        });
        app.run_until(bus, std::future::pending()).await.unwrap();
        let message = Message::new("events".try_into().unwrap(), Default::default(), "");
        let refused = publisher.send(vec![message]).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Closed, "{refused}");
    }
}

/// As those of Python services do: what is logged outside of a conversation names none.
#[tokio::test(start_paused = true)]
async fn what_a_service_logs_by_itself_has_no_conversation() {
    let world = World::in_memory().await;
    let mut logs = world.tap("logs").await;
    let app = App::new("probe").on_ready(async |context: Context| {
        context.log(Level::INFO, "it is ready");
        context.in_conversation("talk").log(Level::INFO, "in one");
    });
    let service = world.start_unready(app).await;
    let mut line =
        async || -> Value { serde_json::from_slice(&logs.message().await.payload).unwrap() };
    for (short, conversation) in [("it is ready", ""), ("in one", "talk")] {
        let line = line().await;
        assert_eq!(
            (&line["short_message"], &line["_conversation_id"]),
            (&json!(short), &json!(conversation))
        );
    }
    service.stop().await.unwrap();
    let last = line().await;
    assert_eq!(last["short_message"], "Shutting down…");
    assert_eq!(last["_conversation_id"], "");
}

#[tokio::test(start_paused = true)]
async fn it_stops_in_every_state() {
    let world = World::in_memory().await;
    let mut logs = world.tap("logs").await;
    // Nothing to do at all.
    world.start(App::new("idle")).await.stop().await.unwrap();
    assert_eq!(logs.log(Level::WARNING).await.1, "Shutting down…");
    // Never configured.
    let (said, mut says) = mpsc::unbounded_channel();
    let service = world.start_unready(configured(said)).await;
    soon("its question", says.recv()).await;
    service.stop().await.unwrap();
    // Before it began.
    let app = App::new("early").event("E", async || {});
    app.stopper().stop();
    world.start_unready(app).await.ended().await.unwrap();
    // A hook that always fails.
    let app = App::new("hook").on_ready(async |_| Err::<(), _>(Fault::new("never")));
    let service = world.start_unready(app).await;
    assert_eq!(logs.log(Level::ALERT).await.0, 1);
    service.stop().await.unwrap();
    // A hook that never ends.
    let app = App::new("hook").on_ready(async |_| std::future::pending::<()>().await);
    world.start_unready(app).await.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_handlers_and_not_for_ever() {
    let world = World::in_memory().await;
    let (began, mut beginnings) = mpsc::unbounded_channel();
    let work = move |Payload(seconds): Payload<u64>, context: Context| {
        let began = began.clone();
        async move {
            began.send(()).unwrap();
            pass(seconds).await;
            context.event("Done", &seconds).await.unwrap();
        }
    };
    let app = || App::new("s").event("Work", work.clone());
    let service = world.start(app()).await;
    let mut events = world.tap("events").await;
    let probe = world.probe("probe").await;
    for seconds in [3_u64, 1000] {
        probe.context.event("Work", &seconds).await.unwrap();
        events.next().await;
        soon("a beginning", beginnings.recv()).await.unwrap();
    }
    service.stop().await.unwrap();
    assert_eq!(&*events.next().await.key, "Done");
    // What did not end in time comes again.
    let service = world.start(app()).await;
    soon("a beginning", beginnings.recv()).await.unwrap();
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn timers_run_once_or_often_until_they_are_cancelled() {
    let world = World::in_memory().await;
    let mut events = world.tap("events").await;
    let mut logs = world.tap("logs").await;
    let probe = world.probe("probe").await;
    let second = Duration::from_secs(1);
    let tick = async |context: Context| drop(context.event("Tick", &()).await);
    let ticking = probe.context.every(second, tick);
    for _ in 0..3 {
        assert_eq!(&*events.next().await.key, "Tick");
    }
    ticking.cancel();
    let never =
        probe.context.after(second, async |context| drop(context.event("Never", &()).await));
    never.cancel();
    probe.context.after(second, async |_| panic!("contained"));
    assert_eq!(logs.log(Level::ALERT).await.0, 1);
    probe.context.after(second * 2, async |context| drop(context.event("Last", &()).await));
    assert_eq!(&*events.next().await.key, "Last");
    drop(probe.context.after(second * 1000, async |_| {}));
    probe.stop().await;
}

/// Who holds a message too long is told, and its acknowledgement counts for nothing: the next attempt has it.
#[tokio::test(start_paused = true)]
async fn a_handler_is_told_that_its_message_was_lost() {
    let world = World::in_memory().await;
    let (told, mut tellings) = mpsc::unbounded_channel();
    let work = move |attempt: Attempt, lease: Lease, manual: Manual| {
        let told = told.clone();
        async move {
            if attempt.number == 1 {
                lease.lost().await;
            }
            told.send((attempt.number, manual.ack().await.map_err(|error| error.kind()))).unwrap();
        }
    };
    let app = App::new("s").event("Work", work).hold_max(Duration::from_secs(5));
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    probe.context.event("Work", &()).await.unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        outcomes.push(soon("an outcome", tellings.recv()).await.unwrap());
    }
    outcomes.sort_by_key(|(attempt, _)| *attempt);
    assert_eq!(outcomes, [(1, Err(ErrorKind::Lost)), (2, Ok(()))]);
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_yet_is_waited_for() {
    let Some(ground) = Ground::find() else { return };
    // A port at which nobody is yet.
    let late = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = ground.url().replacen(&ground.address(), &late.to_string(), 1);
    let (said, mut says) = mpsc::unbounded_channel();
    let app = App::new("early").on_ready(move |_| {
        said.send(()).unwrap();
        async {}
    });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::time::pause();
    let mut serving = tokio::spawn(app.serve_until(url, async { drop(stopped.await) }));
    let long = tokio::time::timeout(Duration::from_secs(100), &mut serving).await;
    assert!(long.is_err(), "it gave up: {long:?}");
    tokio::time::resume();
    let listener = tokio::net::TcpListener::bind(late).await.unwrap();
    let broker = ground.address();
    let forwarding = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(&broker).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    assert_eq!(tokio::time::timeout(PATIENCE, says.recv()).await.unwrap(), Some(()));
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    forwarding.abort();

    // What waiting does not mend is said at once; and who waits can be stopped.
    let wrong = ground.url().replacen("guest:guest", "guest:wrong", 1);
    let error = App::new("early").serve_until(wrong, std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let nobody = "amqp://127.0.0.1:9/";
    let error = App::new("").serve_until(nobody, std::future::pending()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    let app = App::new("early");
    let stopper = app.stopper();
    let (stopped, ()) = tokio::join!(app.serve(nobody), async { stopper.stop() });
    stopped.unwrap();
}
