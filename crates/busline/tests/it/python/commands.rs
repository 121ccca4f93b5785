//! Commands and their results, between every caller and every service.

use std::time::Duration;

use busline::service::wire::{Body, Format, encode};
use busline::service::{
    App, CallError, Context, Fault, Level, LogLine, Manual, Meta, Payload, Replier,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ground::Ground;
use super::peer::Peer;
use super::witness::{Witness, cbor, hex};
use crate::service::harness::{Running, World};

const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct Text {
    text: String,
}

/// What `echo.py` does.
fn echo(name: &str) -> App {
    App::new(name)
        .command("Reverse", reverse)
        .command("Identity", async |Payload(body): Payload<Body>| Ok::<_, Fault>(body))
        .command("Meta", async |meta: Meta| Ok::<_, Fault>(json!({ "meta": meta })))
        .command("Later", later)
        .on_ready(async |context: Context| -> Result<(), Fault> {
            let line = LogLine::new(Level::INFO, "echo is ready");
            context.log_line(&line.field("extra", json!([1, "two"]))?);
            Ok(())
        })
}

async fn reverse(Payload(payload): Payload<Value>, context: Context) -> Result<Text, Fault> {
    let Some(text) = payload["text"].as_str() else {
        return Err(Fault::of(json!({ "reason": "no text" })));
    };
    context.event("Reversed", &payload).await?;
    Ok(Text { text: text.chars().rev().collect() })
}

/// Settled when it is answered.
async fn later(Payload(payload): Payload<Value>, to: Replier, settle: Manual, context: Context) {
    let wait = Duration::from_secs_f64(payload["seconds"].as_f64().unwrap());
    context.after(wait, async move |_| {
        to.success(&payload).await.unwrap().await.unwrap();
        settle.ack();
    });
}

/// One of ours and one of theirs, ready.
async fn services(ground: &Ground, is_json: bool) -> (Running, Peer) {
    let format: &[&str] = if is_json { &["--json"] } else { &[] };
    let mut theirs = ground.start("echo.py", &[&["theirs"], format].concat());
    let app = if is_json { echo("ours").json() } else { echo("ours") };
    let ours = World::at(ground.url()).await.start(app).await;
    theirs.expect("ready").await;
    (ours, theirs)
}

/// What is asked, and what a caller hears of it: the status and payload of the result.
fn questions() -> Vec<(&'static str, Value, &'static str, Value)> {
    let text = |text: &str| json!({ "text": text });
    let nested = json!({ "list": [1, "a", null, [true, 1.5]], "é": { "k": -7 }, "big": u64::MAX });
    let nothing = json!({ "timestamp": null, "expiration": null, "user_id": null, "app_id": null });
    let later = json!({ "seconds": 0.3, "and": "more" });
    vec![
        ("Later", later.clone(), "success", later),
        ("Reverse", text("Zoé \u{1f600}"), "success", text("\u{1f600} éoZ")),
        ("Reverse", json!({ "text": 7 }), "error", json!({ "reason": "no text" })),
        ("Reverse", json!([1]), "error", json!({ "reason": "no text" })),
        ("Identity", Value::Null, "success", Value::Null),
        ("Identity", nested.clone(), "success", nested),
        ("Meta", json!(1), "success", json!({ "meta": nothing })),
    ]
}

/// The results of all questions as lines, by their correlation ids, and the events in between.
fn check(service: &str, mut lines: Vec<Value>) {
    let questions = questions();
    let (events, results): (Vec<_>, Vec<_>) =
        lines.drain(..).partition(|line| line["kind"] == "event");
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["key"], &events[0]["conversation_id"]),
        (&json!("Reversed"), &json!("talk 1"))
    );
    assert_eq!(events[0]["payload"], cbor(&questions[1].1));
    assert_eq!(results.len(), questions.len());
    for line in results {
        let id = line["correlation_id"].as_str().unwrap().parse::<usize>().unwrap();
        let (_, _, status, payload) = &questions[id];
        assert_eq!((&line["kind"], &line["status"]), (&json!("result"), &json!(status)), "{line}");
        assert_eq!(line["conversation_id"], format!("talk {id}"), "{service}: {line}");
        let bytes = unhex(line["payload"].as_str().unwrap());
        let body = Body::new(Format::Cbor, bytes.into()).unwrap();
        assert_eq!(body.decode::<Value>().unwrap(), *payload, "{service}: {line}");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_is_answered_by_every_service_in_both_formats() {
    let Some(ground) = Ground::find() else { return };
    for (is_json, asks_json) in [(false, false), (true, true), (false, true)] {
        let (ours, theirs) = services(&ground, is_json).await;
        let options =
            json!({ "events": ["Reversed"], "commands": ["S.Return"], "json": asks_json });
        let mut caller = Witness::start(&ground, "rustcaller", &options).await;
        let mut python = ground.probe("pythoncaller", &options);
        caller.expect("ready").await;
        python.expect("ready").await;
        let questions = questions();
        for service in ["ours", "theirs"] {
            // One result for each, and the one event of those that succeed.
            let count = questions.len() + 1;
            for (id, (name, payload, ..)) in questions.iter().enumerate() {
                let (key, talk, id) =
                    (format!("{service}.{name}"), format!("talk {id}"), id.to_string());
                let context = caller.context().in_conversation(talk);
                context.send_command(&key, payload, "S.Return", &id).await.unwrap();
            }
            // Both callers have bound the key: each hears every result.
            let (mut mine, mut other) = (Vec::new(), Vec::new());
            for _ in 0..count {
                mine.push(caller.says().await);
                other.push(python.says().await);
            }
            check(service, mine);
            check(service, other);
            for (id, (name, payload, ..)) in questions.iter().enumerate() {
                let (key, talk, id) =
                    (format!("{service}.{name}"), format!("talk {id}"), id.to_string());
                python.tell(&json!(["send_command", key, payload, talk, "S.Return", id]));
            }
            let (mut mine, mut other) = (Vec::new(), Vec::new());
            for _ in 0..count {
                mine.push(caller.says().await);
                other.push(python.says().await);
            }
            check(service, mine);
            check(service, other);
        }
        caller.stop().await;
        ours.stop().await.unwrap();
        drop(theirs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_come_back_to_python_as_they_were() {
    let Some(ground) = Ground::find() else { return };
    for (is_json, asks_json, count) in [(false, false, 64), (false, true, 50), (true, true, 50)] {
        let app = if is_json { echo("ours").json() } else { echo("ours") };
        let ours = World::at(ground.url()).await.start(app).await;
        let format: &[&str] = if asks_json { &["--json"] } else { &[] };
        let values = [&["values", "ours.Identity"], format].concat();
        let mut peer = ground.start("values.py", &values);
        // Before that it would print what differs.
        assert_eq!(peer.says().await, json!({ "seen": count }));
        peer.ends().await;
        ours.stop().await.unwrap();
    }
}

/// As their library writes them.
const VALUES: &[&[u8]] = &[
    b"\xf6",
    b"\xf5",
    b"\xf8\x63",
    b"\x00",
    b"\x18\xff",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xc3\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xfb\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xf9\x7c\x00",
    b"\xf9\xfc\x00",
    b"\xf9\x7e\x00",
    b"\x60",
    b"\x64\xf0\x9f\x98\x80",
    b"\x40",
    b"\x44\x00\xff\x80\x7f",
    b"\x80",
    b"\xa0",
    b"\x83\x01\x81\x82\x61a\xf6\xa1\x61k\xa1\x61k\x80",
    b"\xa3\x01\x61a\x20\x61b\x41k\xf6",
    b"\xc0\x742026-01-02T03:04:05Z",
    b"\xc4\x82\x21\x19\x01\x3a",
    b"\xd8\x25\x50\x12\x34\x56\x78\x12\x34\x56\x78\x12\x34\x56\x78\x12\x34\x56\x78",
    b"\xd9\x01\x02\x81\x01",
    b"\xd9\x17\x70\x81\x66tagged",
];

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_come_back_from_python_as_they_were() {
    let Some(ground) = Ground::find() else { return };
    let mut theirs = ground.start("echo.py", &["theirs"]);
    let probe = World::at(ground.url()).await.probe("probe").await;
    theirs.expect("ready").await;
    for bytes in VALUES {
        let body = Body::new(Format::Cbor, bytes.to_vec().into()).unwrap();
        let back: Body = probe.context.call("theirs.Identity", &body, LONG).await.unwrap();
        assert_eq!(hex(&encode(Format::Cbor, &back).unwrap()), hex(bytes));
    }
    let texts: Vec<_> = (0..20_000).map(|number| Text { text: format!("é{number}") }).collect();
    let back: Vec<Text> = probe.context.call("theirs.Identity", &texts, LONG).await.unwrap();
    assert!(back.iter().zip(&texts).all(|(back, sent)| back.text == sent.text));
    assert_eq!(back.len(), texts.len());
    probe.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_python_is_answered_refused_or_not_taken() {
    let Some(ground) = Ground::find() else { return };
    let mut theirs = ground.start("echo.py", &["theirs"]);
    let probe = World::at(ground.url()).await.probe("probe").await;
    theirs.expect("ready").await;
    let context = &probe.context;
    let text = Text { text: "abc".to_owned() };
    let back: Text = context.call("theirs.Reverse", &text, LONG).await.unwrap();
    assert_eq!(back.text, "cba");
    // Each gets its own answer, in whatever order they come.
    let later = json!({ "seconds": 0.3 });
    let (late, quick) = tokio::join!(
        context.call::<_, Value>("theirs.Later", &later, LONG),
        context.call::<_, Value>("theirs.Identity", &2, LONG),
    );
    assert_eq!((late.unwrap(), quick.unwrap()), (later, json!(2)));
    let refused = context.call::<_, Value>("theirs.Reverse", &1, LONG).await.unwrap_err();
    let CallError::Fault(answer) = refused else { panic!("{refused}") };
    assert_eq!(answer.payload::<Value>().unwrap(), json!({ "reason": "no text" }));
    let nobody = context.call::<_, Value>("nobody.Does", &1, LONG).await;
    assert!(matches!(nobody, Err(CallError::Unroutable)), "{nobody:?}");
    // It has no such command: tried twice and dead lettered, and the caller waits in vain.
    let short = Duration::from_millis(100);
    let silent = context.call::<_, Value>("theirs.Unknown", &1, short).await;
    assert!(matches!(silent, Err(CallError::Elapsed(_))), "{silent:?}");
    probe.stop().await;
}
