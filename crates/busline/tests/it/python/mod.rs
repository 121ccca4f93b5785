//! Beside the real Python library on a real broker: each side calls, answers and hears the other.

mod peer;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use busline::{Bus, Delivery, Message, Publisher, Receipt};
use peer::{Ground, PATIENCE};
use serde_json::{Value, json};

const JSON: &str = "application/json";

async fn bus(ground: &Ground) -> Bus {
    Bus::open(&format!("{}?dialect=eventail", ground.url())).await.unwrap()
}

/// A name that no other run has.
fn name(what: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{what}{random:x}")
}

/// A member of the group of a service.
async fn member(bus: &Bus, topic: &str, service: &str, keys: &[&str]) -> busline::Consumer {
    let mut group = bus.group(topic, service).unwrap().attempts_max(None);
    for key in keys {
        group = group.pattern(*key).unwrap();
    }
    group.subscribe().await.unwrap()
}

async fn next(consumer: &mut busline::Consumer) -> Delivery {
    let came = tokio::time::timeout(PATIENCE, consumer.next()).await;
    came.expect("a delivery in time").unwrap().expect("it has not stopped")
}

fn said(delivery: &Delivery) -> Value {
    assert_eq!(delivery.message.properties.content_type.as_deref(), Some(JSON));
    serde_json::from_slice(&delivery.message.payload).unwrap()
}

fn status(delivery: &Delivery) -> Option<&str> {
    delivery.message.headers.get("status").and_then(|status| status.as_str())
}

/// A command, and what makes it one.
fn command(to: &Publisher, key: &str, payload: &Value, number: usize, back: &str) -> Message {
    let mut message = to.message(key, payload.to_string()).unwrap();
    message.properties.content_type = Some(JSON.into());
    message.properties.conversation_id = Some(format!("conversation {number}").into());
    message.properties.correlation_id = Some(number.to_string().into());
    message.properties.reply_to = Some(back.to_owned().into());
    message
}

/// What a service by hand does with a command to reverse a text.
async fn answer(to: &Publisher, delivery: Delivery) {
    let asked = &delivery.message.properties;
    let text = said_or_cbor(&delivery);
    let reversed: String = text.chars().rev().collect();
    let back = asked.reply_to.clone().unwrap();
    let mut result = to.message(&*back, json!({ "text": reversed }).to_string()).unwrap();
    result.properties.content_type = Some(JSON.into());
    result.properties.conversation_id.clone_from(&asked.conversation_id);
    result.properties.correlation_id.clone_from(&asked.correlation_id);
    result.headers.append("status", "success");
    assert!(matches!(to.publish_mandatory(result).await.unwrap(), Receipt::Stored { .. }));
    delivery.ack().await.unwrap();
}

/// The text of `{"text": …}` in either encoding; shorter than 24 bytes in CBOR.
fn said_or_cbor(delivery: &Delivery) -> String {
    let payload = &delivery.message.payload;
    if delivery.message.properties.content_type.as_deref() == Some(JSON) {
        return said(delivery)["text"].as_str().unwrap().to_owned();
    }
    let text = payload.strip_prefix(b"\xa1\x64text").expect("a map with a text");
    assert_eq!(usize::from(text[0] - 0x60), text.len() - 1);
    String::from_utf8(text[1..].to_vec()).unwrap()
}

/// Durable queues stay, unless somebody removes them.
async fn remove(bus: &Bus, groups: &[(&str, &str)]) {
    let admin = bus.admin().await.unwrap();
    for (topic, group) in groups {
        let (topic, group) = ((*topic).try_into().unwrap(), (*group).try_into().unwrap());
        admin.delete_group(&topic, &group, Default::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_service_answers_hears_events_and_is_heard() {
    let Some(ground) = Ground::find() else { return };
    let bus = bus(&ground).await;
    let (python, ours) = (name("echo"), name("ours"));
    let mut logs = {
        let pattern = format!("{python}.#");
        let patterns = busline::Patterns::new([busline::KeyPattern::new(pattern).unwrap()]);
        let logs = bus.broadcast("logs").unwrap().patterns(patterns);
        logs.subscribe().await.unwrap()
    };
    let reversed = format!("{python}Reversed");
    let mut events = member(&bus, "events", &ours, &[&reversed]).await;
    let back = format!("{ours}.Return");
    let mut results = member(&bus, "commands", &ours, &[&back]).await;
    let mut peer = ground.start("echo.py", &[&python, "--json"]);
    assert_eq!(peer.says().await["kind"], "ready");

    let log = next(&mut logs).await;
    assert_eq!(log.message.key.as_str(), format!("{python}.INFO"));
    let line: Value = serde_json::from_slice(&log.message.payload).unwrap();
    assert_eq!(line["short_message"], "echo is ready");
    assert_eq!((&line["_logical_service"], &line["level"]), (&json!(python), &json!(6)));
    assert_eq!(line["_extra"], json!([1, "two"]));

    let commands = bus.publisher("commands").await.unwrap();
    let key = format!("{python}.Reverse");
    let asked = json!({ "text": "Zoé" });
    let receipt = commands.publish_mandatory(command(&commands, &key, &asked, 1, &back)).await;
    assert!(matches!(receipt.unwrap(), Receipt::Stored { .. }));
    let result = next(&mut results).await;
    assert_eq!((said(&result), status(&result)), (json!({ "text": "éoZ" }), Some("success")));
    let properties = &result.message.properties;
    assert_eq!(properties.correlation_id.as_deref(), Some("1"));
    assert_eq!(properties.conversation_id.as_deref(), Some("conversation 1"));
    assert_eq!(properties.reply_to, None, "a result asks for nothing");
    result.ack().await.unwrap();
    let event = next(&mut events).await;
    assert_eq!((event.message.key.as_str(), said(&event)), (&*reversed, asked));
    assert_eq!(event.message.properties.conversation_id.as_deref(), Some("conversation 1"));
    event.ack().await.unwrap();

    commands.publish_mandatory(command(&commands, &key, &json!(7), 2, &back)).await.unwrap();
    let fault = next(&mut results).await;
    assert_eq!((said(&fault), status(&fault)), (json!({ "reason": "no text" }), Some("error")));
    fault.ack().await.unwrap();

    let to = bus.publisher("events").await.unwrap();
    let mut asked = to.message(format!("{python}Asked"), "\"üml\"").unwrap();
    asked.properties.content_type = Some(JSON.into());
    asked.properties.conversation_id = Some("talk".into());
    asked.headers.append("extra", "kept");
    to.publish(asked).await.unwrap();
    let heard = peer.says().await;
    assert_eq!((&heard["payload"], &heard["conversation_id"]), (&json!("üml"), &json!("talk")));
    let nothing = ["timestamp", "expiration", "user_id", "app_id"];
    assert!(nothing.iter().all(|name| heard["meta"][name].is_null()), "{heard}");
    assert_eq!(heard["meta"]["extra"], "kept");

    let nobody = command(&commands, "nobody.Does", &json!({}), 3, &back);
    assert!(matches!(commands.publish_mandatory(nobody).await.unwrap(), Receipt::Unroutable));
    peer.kill();
    let all = [("events", &*ours), ("commands", &*ours), ("events", &*python)];
    remove(&bus, &all).await;
    remove(&bus, &[("commands", &*python)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_caller_gets_each_answer_and_what_nobody_takes_back() {
    let Some(ground) = Ground::find() else { return };
    let bus = bus(&ground).await;
    let (python, ours) = (name("caller"), name("ours"));
    let mut asked = member(&bus, "commands", &ours, &[&format!("{ours}.*")]).await;
    let commands = bus.publisher("commands").await.unwrap();
    let mut peer = ground.start("caller.py", &[&python, &ours, "200"]);
    let answering = async {
        loop {
            answer(&commands, next(&mut asked).await).await;
        }
    };
    let counted = tokio::select! {
        counted = peer.says() => counted,
        () = answering => unreachable!("it goes on for ever"),
    };
    assert_eq!(counted, json!({ "right": 200, "wrong": 0, "returned": 0 }));
    peer.ends().await;

    let mut peer = ground.start("caller.py", &[&python, "nobody", "5"]);
    let counted = peer.says().await;
    assert_eq!(counted, json!({ "right": 0, "wrong": 0, "returned": 5 }));
    peer.ends().await;
    asked.stop().await.unwrap();
    remove(&bus, &[("commands", &*ours), ("commands", &*python)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_publishes_without_a_loop_is_heard() {
    let Some(ground) = Ground::find() else { return };
    let bus = bus(&ground).await;
    let python = name("endpoint");
    let mut all = Vec::new();
    for (topic, key) in [
        ("events", format!("{python}Happened")),
        ("configurations", format!("{python}Settings")),
        ("logs", format!("{python}.ERROR")),
    ] {
        let patterns = busline::Patterns::new([busline::KeyPattern::new(key.clone()).unwrap()]);
        let stream = bus.broadcast(topic).unwrap().patterns(patterns).subscribe().await.unwrap();
        all.push((key, stream));
    }
    ground.start("endpoint.py", &[&python]).ends().await;
    let mut came = Vec::new();
    for (key, stream) in &mut all {
        let delivery = next(stream).await;
        assert_eq!(delivery.message.key.as_str(), key);
        came.push(delivery.message.clone());
        delivery.ack().await.unwrap();
    }
    let conversation = |of: &Message| of.properties.conversation_id.as_deref().map(str::to_owned);
    assert_eq!(conversation(&came[0]).as_deref(), Some("of endpoint"));
    assert_eq!(came[0].payload, &b"\xa1an\x01"[..]);
    assert_eq!((conversation(&came[1]), &came[1].payload[..]), (None, &b"\xa1an\x02"[..]));
    let line: Value = serde_json::from_slice(&came[2].payload).unwrap();
    assert_eq!((&line["_levelname"], &line["level"]), (&json!("ERROR"), &json!(3)));
}

/// Both take from one queue. One dies in the middle: what it held comes to the other, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn both_share_a_queue_and_the_death_of_one_loses_nothing() {
    const COUNT: usize = 1000;
    let Some(ground) = Ground::find() else { return };
    let bus = bus(&ground).await;
    let (shared, ours) = (name("shared"), name("ours"));
    let (key, back) = (format!("{shared}.Reverse"), format!("{ours}.Return"));
    let mut results = member(&bus, "commands", &ours, &[&back]).await;
    let commands = bus.publisher("commands").await.unwrap();
    let mut peer = ground.start("echo.py", &[&shared, "--json"]);
    assert_eq!(peer.says().await["kind"], "ready");
    // As few at a time as the other takes, or one would get everything.
    let group = bus.group("commands", &*shared).unwrap().attempts_max(None);
    let group = group.pattern(&*format!("{shared}.*")).unwrap().max_in_flight(20);
    let mut served = group.subscribe().await.unwrap();
    let to = commands.clone();
    let rust = tokio::spawn(async move {
        while let Some(delivery) = served.next().await.unwrap() {
            answer(&to, delivery).await;
        }
    });
    let payload = |number: usize| json!({ "text": format!("text {number}") });
    let batch: Vec<_> =
        (0..COUNT).map(|n| command(&commands, &key, &payload(n), n, &back)).collect();
    for receipt in commands.send(batch).await.unwrap() {
        assert!(matches!(receipt.await.unwrap(), Receipt::Stored { .. }));
    }
    let (mut missing, mut seen): (BTreeSet<usize>, usize) = ((0..COUNT).collect(), 0);
    while !missing.is_empty() {
        let result = next(&mut results).await;
        let number = result.message.properties.correlation_id.as_deref().unwrap().parse().unwrap();
        let reversed: String = format!("text {number}").chars().rev().collect();
        assert_eq!(
            (said(&result), status(&result)),
            (json!({ "text": reversed }), Some("success"))
        );
        missing.remove(&number);
        result.ack().await.unwrap();
        seen += 1;
        if seen == COUNT / 4 {
            peer.kill();
        }
    }
    rust.abort();
    tokio::time::timeout(Duration::from_secs(30), rust).await.unwrap().unwrap_err();
    let all = [("commands", &*ours), ("commands", &*shared), ("events", &*shared)];
    remove(&bus, &all).await;
}
