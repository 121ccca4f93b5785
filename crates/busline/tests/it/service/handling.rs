//! What becomes of a message: handled, answered, tried again, given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use busline::service::{
    App, CallError, Context, Conversation, Correlation, Fault, Key, Kind, Level, Manual, Payload,
    Replier, ResultStatus, Returned, Router, State,
};
use busline::{Attempt, ErrorKind, dead};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::harness::{World, pass, soon};

const LONG: Duration = Duration::from_secs(100);

#[derive(Debug, Serialize, Deserialize)]
struct Text {
    text: String,
}

async fn reverse(Payload(p): Payload<Text>, context: Context) -> Result<Text, Fault> {
    let reversed = Text { text: p.text.chars().rev().collect() };
    context.event("TextReversed", &reversed).await?;
    Ok(reversed)
}

#[tokio::test(start_paused = true)]
async fn an_event_is_handled_in_its_conversation() {
    let world = World::in_memory().await;
    let echo = async |Payload(p): Payload<Text>, context: Context| -> Result<(), Fault> {
        for _ in 0..2 {
            context.event("EchoPublished", &p).await?;
        }
        Ok(())
    };
    let service = world.start(App::new("echo").event("EchoRequested", echo)).await;
    let mut events = world.tap("events").await;
    let probe = world.probe("probe").await;
    let context = probe.context.in_conversation("talk");
    context.event("EchoRequested", &json!({"text": "Zoé"})).await.unwrap().await.unwrap();
    for key in ["EchoRequested", "EchoPublished", "EchoPublished"] {
        let event = events.next().await;
        assert_eq!((&*event.key, &*event.conversation()), (key, "talk"));
        assert_eq!(event.payload::<Text>().unwrap().text, "Zoé");
    }
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_is_called_and_answers_or_says_why_not() {
    let world = World::in_memory().await;
    let app = App::new("echo")
        .command("Reverse", reverse)
        .command("Odd", async || Err::<(), _>(Fault::of(json!({"code": 7}))));
    let service = world.start(app).await;
    let probe = world.probe_of(App::new("probe").json()).await;
    let call = async |key, payload: Value| -> Result<Value, CallError> {
        probe.context.call(key, &payload, LONG).await
    };
    assert_eq!(call("echo.Reverse", json!({"text": "aé☃"})).await.unwrap(), json!({"text": "☃éa"}));
    // A payload that does not fit is answered, so that the caller knows why.
    let CallError::Fault(answer) = call("echo.Reverse", json!([1])).await.unwrap_err() else {
        panic!("it is a fault")
    };
    let reason: Value = answer.payload().unwrap();
    assert!(reason["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{reason}");
    let CallError::Fault(answer) = call("echo.Odd", json!(null)).await.unwrap_err() else {
        panic!("it is a fault")
    };
    assert_eq!(answer.payload::<Value>().unwrap(), json!({"code": 7}));
    assert!(matches!(call("nobody.Home", json!(1)).await, Err(CallError::Unroutable)));
    service.stop().await.unwrap();
    // The group is still there and keeps the command, but nobody answers.
    assert!(matches!(call("echo.Reverse", json!(1)).await, Err(CallError::Elapsed(_))));
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn results_of_a_return_key_come_to_their_handler() {
    let world = World::in_memory().await;
    let service = world.start(App::new("echo").command("Reverse", reverse)).await;
    let (seen, mut results) = mpsc::unbounded_channel();
    let got = move |Payload(p): Payload<Value>, id: Correlation, status: ResultStatus| {
        seen.send((p, id.0, status.is_success())).unwrap();
        async {}
    };
    let probe = world.probe_of(App::new("probe").result("Done", got)).await;
    let text = Text { text: "abc".to_owned() };
    probe.context.send_command("echo.Reverse", &text, "probe.Done", "id-1").await.unwrap();
    let (payload, id, is_success) = soon("a result", results.recv()).await.unwrap();
    assert_eq!((payload, &*id, is_success), (json!({"text": "cba"}), "id-1", true));
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_twice_and_dead_lettered_and_the_service_goes_on() {
    let world = World::in_memory().await;
    let (tried, mut tries) = mpsc::unbounded_channel();
    let fail = move |Key(key): Key, attempt: Attempt| {
        tried.send((key, attempt.number)).unwrap();
        async { Err::<(), _>(std::io::Error::other("no luck")) }
    };
    let once = async |attempt: Attempt, context: Context| -> Result<(), Fault> {
        assert!(attempt.number > 1, "the first time is bad luck");
        context.event("FailRecovered", &attempt.number).await?;
        Ok(())
    };
    let app = App::new("failing")
        .event("FailAlways", fail.clone())
        .command("Boom", fail)
        .event("FailOnce", once)
        .bind_event("FailUnhandled");
    let service = world.start(app).await;
    let (mut logs, mut events) = (world.tap("logs").await, world.tap("events").await);
    let mut dead =
        [world.tap("failing.events.dead").await, world.tap("failing.commands.dead").await];
    let probe = world.probe("probe").await;

    let given_up = |key: &str| {
        let alert = (1, format!("Unhandled error while processing message {key}"));
        [alert.clone(), alert, (0, format!("Giving up on {key}"))]
    };
    for (index, key) in ["FailAlways", "FailUnhandled", "failing.Boom"].into_iter().enumerate() {
        let is_command = key.contains('.');
        let context = &probe.context;
        let sent = match is_command {
            true => context.send_command(key, &index, "probe.Return", "id").await,
            false => context.event(key, &index).await,
        };
        sent.unwrap().await.unwrap();
        if key != "FailUnhandled" {
            for number in [1, 2] {
                let tried = soon("a try", tries.recv()).await.unwrap();
                assert_eq!(tried, (key.to_owned(), number));
            }
        }
        for expected in given_up(key) {
            assert_eq!(logs.log(Level::ALERT).await, expected);
        }
        let letter = dead[usize::from(is_command)].message().await;
        assert_eq!(letter.key.as_str(), key);
        let attempts = letter.headers.get(dead::HEADER_ATTEMPTS).unwrap().as_int();
        assert_eq!(attempts, Some(2), "{letter:?}");
    }
    probe.context.event("FailOnce", &()).await.unwrap();
    loop {
        let event = events.next().await;
        if &*event.key == "FailRecovered" {
            assert_eq!(event.payload::<u32>().unwrap(), 2);
            break;
        }
    }
    assert_eq!(logs.log(Level::ALERT).await, given_up("FailOnce")[0]);
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_messages_are_dead_lettered_and_logged() {
    let world = World::in_memory().await;
    let (seen, mut handled) = mpsc::unbounded_channel();
    let take = move |Payload(p): Payload<Value>| {
        seen.send(p).unwrap();
        async {}
    };
    let app =
        App::new("s").event("E", take.clone()).fallback_command(async || {}).bind_command("s.#");
    let service = world.start(app).await;
    let mut logs = world.tap("logs").await;
    let mut dead = [world.tap("s.events.dead").await, world.tap("s.commands.dead").await];
    let raw = world.bus().await;
    let events = raw.publisher("events").await.unwrap();
    let commands = raw.publisher("commands").await.unwrap();
    let with_id = |message: busline::Message| message.header("conversation_id", "c");

    events.publish(events.message("E", "{}").unwrap()).await.unwrap();
    assert_eq!(logs.log(Level::EMERGENCY).await.1, "Missing headers on E");
    dead[0].message().await;
    events.publish(with_id(events.message("E", "{bad").unwrap())).await.unwrap();
    let said = "Unable to decode payload for E; dead lettering.";
    assert_eq!(logs.log(Level::EMERGENCY).await.1, said);
    dead[0].message().await;
    commands.publish(with_id(commands.message("s.X", "{}").unwrap())).await.unwrap();
    let said = logs.log(Level::EMERGENCY).await.1;
    assert!(said.starts_with("invalid enveloppe for command/result: "), "{said}");
    dead[1].message().await;
    // As good as any.
    events.publish(with_id(events.message("E", "{\"a\":1}").unwrap())).await.unwrap();
    assert_eq!(soon("an event", handled.recv()).await.unwrap(), json!({"a": 1}));
    service.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn later_answers_hold_nobody_up() {
    let world = World::in_memory().await;
    let later = async |Payload(seconds): Payload<u64>| {
        pass(seconds).await;
        Ok::<_, Fault>(seconds)
    };
    let by_hand = async |Payload(n): Payload<u64>, replier: Replier, context: Context| {
        context.after(Duration::from_secs(5), move |_| async move {
            replier.success(&(n + 1)).await.unwrap();
        });
    };
    let app = App::new("echo").command("Later", later).command("ByHand", by_hand);
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    let started = tokio::time::Instant::now();
    let call = async |key, n: u64| probe.context.call::<u64, u64>(key, &n, LONG).await;
    let (late, soon, by_hand) =
        tokio::join!(call("echo.Later", 50), call("echo.Later", 1), call("echo.ByHand", 41));
    assert_eq!((late.unwrap(), soon.unwrap(), by_hand.unwrap()), (50, 1, 42));
    assert!(started.elapsed() < Duration::from_secs(51), "{:?}", started.elapsed());
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_comes_back_to_its_handler() {
    let world = World::in_memory().await;
    let (seen, mut back) = mpsc::unbounded_channel();
    let returned = move |returned: Returned, _: Context| {
        seen.send((returned.kind, returned.key.clone(), returned.conversation.clone())).unwrap();
        async { Err::<(), _>(Fault::new("the hook fails too")) }
    };
    let mut logs = world.tap("logs").await;
    let ask = async |context: Context| -> Result<(), Fault> {
        context.send_command("nobody.Home", &1, "s.Return", "id").await?;
        Ok(())
    };
    let app = App::new("s").event("Ask", ask).returned(returned);
    let probe = world.probe_of(app).await;
    let context = probe.context.in_conversation("talk");
    context.event("Ask", &()).await.unwrap();
    let back_is = async |back: &mut mpsc::UnboundedReceiver<_>, kind: Kind, key: &str| {
        let (of, name, conversation): (Kind, String, bytestring::ByteString) =
            soon("a returned message", back.recv()).await.unwrap();
        assert_eq!((of, name.as_str(), &*conversation), (kind, key, "talk"));
    };
    back_is(&mut back, Kind::Command, "nobody.Home").await;
    let said = logs.log(Level::EMERGENCY).await.1;
    assert!(said.starts_with("in handle_returned_message [s] "), "{said}");
    context.event_mandatory("Unheard", &()).await.unwrap();
    back_is(&mut back, Kind::Event, "Unheard").await;
    context.event("Unheard", &()).await.unwrap().await.unwrap();
    context.return_error("nobody.Return", &(), "id").await.unwrap();
    back_is(&mut back, Kind::Result, "nobody.Return").await;
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn messages_settled_by_hand_come_again_until_they_are() {
    let world = World::in_memory().await;
    let (taken, mut deliveries) = mpsc::unbounded_channel();
    let take = move |attempt: Attempt, manual: Manual| {
        taken.send((attempt.number, manual)).unwrap();
        async {}
    };
    let service = world.start(App::new("s").event("E", take)).await;
    let probe = world.probe("probe").await;
    probe.context.event("E", &()).await.unwrap();
    let (number, manual) = soon("a delivery", deliveries.recv()).await.unwrap();
    assert_eq!(number, 1);
    drop(manual);
    let (number, manual) = soon("a delivery", deliveries.recv()).await.unwrap();
    assert_eq!(number, 2);
    manual.ack().await.unwrap();
    service.stop().await.unwrap();
    let infos = world.bus().await.admin().await.unwrap().groups(None).await.unwrap();
    let group = infos.iter().find(|info| info.group.as_str() == "s").unwrap();
    assert_eq!((group.acked, group.in_flight, group.lag), (1, 0, 0));
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn routers_are_merged_and_layers_see_each_message() {
    #[derive(Clone)]
    struct Count(Arc<AtomicU32>);
    #[derive(Clone)]
    struct Counted<S>(S, Count);
    impl<S> tower_layer::Layer<S> for Count {
        type Service = Counted<S>;
        fn layer(&self, inner: S) -> Counted<S> {
            Counted(inner, self.clone())
        }
    }
    impl<R, S: tower_service::Service<R>> tower_service::Service<R> for Counted<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;
        fn poll_ready(
            &mut self,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), S::Error>> {
            self.0.poll_ready(context)
        }
        fn call(&mut self, request: R) -> S::Future {
            self.1.0.fetch_add(1, Ordering::SeqCst);
            self.0.call(request)
        }
    }
    let world = World::in_memory().await;
    let (inner, outer) = (Count(Arc::default()), Count(Arc::default()));
    let who = async |State(name): State<&'static str>, Conversation(talk): Conversation| {
        Ok::<_, Fault>(format!("{name} in {talk}"))
    };
    let router = Router::new().command("Who", who).layer(inner.clone());
    let app = App::new("s").command("Plain", async || Ok::<_, Fault>(1));
    let app = app.merge(router).layer(outer.clone()).state("me");
    let service = world.start(app).await;
    let probe = world.probe("probe").await;
    let context = probe.context.in_conversation("talk");
    let who: String = context.call("s.Who", &(), LONG).await.unwrap();
    assert_eq!(who, "me in talk");
    let plain: u32 = context.call("s.Plain", &(), LONG).await.unwrap();
    assert_eq!(plain, 1);
    let counts = [&inner, &outer].map(|count| count.0.load(Ordering::SeqCst));
    assert_eq!(counts, [1, 2]);
    service.stop().await.unwrap();
    probe.stop().await;
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_told_before_anything_runs() {
    let world = World::in_memory().await;
    let needs = async |State(_): State<u8>| {};
    let twice = || App::new("s").event("E", async || {}).event("E", async || {});
    for (app, kind, what) in [
        (App::new("s").event("E", needs), ErrorKind::NotFound, "u8 (handler: event E)"),
        (twice(), ErrorKind::Conflict, "event E has two handlers"),
        (App::new(""), ErrorKind::Limit, "empty"),
    ] {
        let running = world.start_unready(app).await;
        let error = running.ended().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}
