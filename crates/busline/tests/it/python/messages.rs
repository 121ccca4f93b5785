//! What may come, if only just: both take it, and see the same in it.

use serde_json::{Value, json};

use super::both::Both;
use super::ground::Ground;
use super::peer::PATIENCE;
use super::witness::{Witness, cbor};

const CBOR: &str = "application/cbor";

/// Bodies, by how they are said to be written.
const BODIES: &[(Option<&str>, &[u8])] = &[
    (None, br#"{"noct": 1}"#),
    (Some("text/plain"), b"\"txt\""),
    (Some("application/data"), b"[1]"),
    (Some("application/json; charset=utf-8"), "\"Zoé\"".as_bytes()),
    (Some("APPLICATION/CBOR"), b"true"),
    (Some(CBOR), b""),
    (Some("application/json"), b""),
    (None, b" [NaN, Infinity, -Infinity, 1E400, -0.0, 1.0] "),
    (None, b"123456789012345678901234567890123456789012345678901234567890"),
    (None, br#"{"a": 1, "b": 2, "a": 3}"#),
    (None, b"\xef\xbb\xbf\"bom\""),
    (None, b"\xff\xfe\"\0u\0\"\0"),
    (None, b"\0\"\0u\0\""),
    (None, br#""\ud83d\ude00\u0000""#),
    (Some(CBOR), b"\xbf\x61a\x01\x61b\x9f\x01\x02\xff\xff"),
    (Some(CBOR), b"\x5f\x42\x01\x02\x41\x03\xff"),
    (Some(CBOR), b"\x7f\x61a\x61b\xff"),
    (Some(CBOR), b"\x01\x02\x03"),
    (Some(CBOR), b"\xf9\x3c\x00"),
    (Some(CBOR), b"\xfa\x3f\x80\x00\x00"),
    (Some(CBOR), b"\x18\x01"),
    (Some(CBOR), b"\xc2\x49\x01\x00\x00\x00\x00\x00\x00\x00\x00"),
    (Some(CBOR), b"\xa2\x01\x61a\x20\x61b"),
    (Some(CBOR), b"\xa3\x61a\x01\x61b\x02\x61a\x03"),
    (Some(CBOR), b"\xc0\x742013-03-21T20:04:00Z"),
    (Some(CBOR), b"\xd9\xd9\xf7\x01"),
];

#[tokio::test(flavor = "multi_thread")]
async fn unusual_messages_are_read_by_both_alike() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "events": ["Happened"], "commands": ["S.#"] });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    let talk = json!({ "conversation_id": "talk" });
    for (content_type, body) in BODIES {
        let mut properties = json!({ "headers": talk });
        if let Some(content_type) = content_type {
            properties["content_type"] = json!(content_type);
        }
        both.publish("events", "Happened", properties, body).await;
        both.lines(1).await;
    }
    let everything = json!({
        "headers": {
            "conversation_id": "talk", "custom": "h", "status": "weird", "timestamp": "fake",
            "list": [1, "two", null, true], "map": { "k": 1 },
        },
        "content_encoding": "utf-8", "timestamp": 1_700_000_000, "expiration": "60000",
        "app_id": "app", "user_id": "guest", "priority": 3, "message_id": "m", "type": "t",
    });
    both.publish("events", "Happened", everything.clone(), b"1").await;
    let meta = both.lines(1).await[0]["meta"].clone();
    assert_eq!((&meta["timestamp"], &meta["expiration"]), (&json!(1_700_000_000), &json!("60000")));
    assert_eq!((&meta["status"], &meta["custom"]), (&json!("weird"), &json!("h")));
    for id in [json!(""), json!(77), json!(null), json!(true), json!("long ".repeat(1000))] {
        let properties = json!({ "headers": { "conversation_id": id } });
        both.publish("events", "Happened", properties, b"1").await;
        both.lines(1).await;
    }
    // What makes a command, and what a result.
    let mut command = everything;
    command["reply_to"] = json!("a.Return");
    command["correlation_id"] = json!("7");
    let to = json!("a.Return");
    let envelopes = [
        (command, "command"),
        (json!({ "headers": talk, "reply_to": to }), "command"),
        (json!({ "headers": { "conversation_id": "", "status": "partial" } }), "result"),
        (
            json!({
                "headers": { "conversation_id": "t", "status": "success" }, "reply_to": "",
                "correlation_id": "c".repeat(255),
            }),
            "result",
        ),
    ];
    for (properties, kind) in envelopes {
        both.publish("commands", "S.Do", properties, b"1").await;
        assert_eq!(both.lines(1).await[0]["kind"], kind);
    }
    both.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_heard_in_both_directions_and_by_both_formats() {
    let Some(ground) = Ground::find() else { return };
    let payload = json!({ "name": "Zoé", "n": [1, -1.5, null, true], "big": 1_u64 << 40 });
    for is_json in [false, true] {
        let options = json!({ "events": ["a.#"], "json": is_json });
        let (mut ours, mut theirs) =
            (Witness::start(&ground, "ours", &options).await, ground.probe("theirs", &options));
        ours.expect("ready").await;
        theirs.expect("ready").await;
        let talk = ours.context().in_conversation("talk");
        talk.event("a.b", &payload).await.unwrap().await.unwrap();
        let line = ours.says().await;
        assert_eq!(line, theirs.says().await);
        assert_eq!(
            (&line["conversation_id"], &line["payload"]),
            (&json!("talk"), &json!(cbor(&payload)))
        );
        theirs.tell(&json!(["publish_event", "a.b", payload, "talk"]));
        // No difference can be seen between who sent it.
        assert_eq!(line, theirs.says().await);
        assert_eq!(line, ours.says().await);
        ours.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_publishes_without_a_loop_is_heard() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "events": ["Happened"], "configurations": ["Settings"] });
    let mut ours = Witness::start(&ground, "ours", &options).await;
    ours.expect("unconfigured").await;
    let mut logs = super::both::Logs::tap(&ground).await;
    let text = json!({ "text": "Zoé" });
    for format in [&[][..], &["--json"]] {
        ground.start("endpoint.py", &[&["theirs"], format].concat()).ends().await;
        let configuration = ours.expect("configuration").await;
        assert_eq!(
            (&configuration["conversation_id"], &configuration["payload"]),
            (&json!(""), &json!(cbor(&text)))
        );
        let line = logs.next("theirs").await;
        assert_eq!(line["short_message"], "it failed: é");
        assert_eq!((&line["level"], &line["_conversation_id"]), (&json!(3), &json!("of endpoint")));
    }
    // What they published meanwhile was kept until it is configured.
    let context = ours.context();
    context.configuration("Settings", &json!({ "complete": true })).await.unwrap();
    ours.expect("configuration").await;
    ours.expect("ready").await;
    for _ in 0..2 {
        let event = ours.expect("event").await;
        let heard = (&event["conversation_id"], &event["payload"]);
        assert_eq!(heard, (&json!("of endpoint"), &json!(cbor(&text))));
    }
    ours.stop().await;
}

/// Three that nobody wants: what it is told to send comes back to who sent it, as to the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_comes_back_to_either() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "commands": ["S.#"] });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    let payload = json!({ "n": 1 });
    let context = both.ours.context().in_conversation("talk");
    context.send_command("nobody.Do", &payload, "S.Return", "7").await.unwrap();
    both.theirs.tell(&json!(["send_command", "nobody.Do", payload, "talk", "S.Return", "7"]));
    let line = both.lines(1).await.remove(0);
    let envelope =
        json!({ "conversation_id": "talk", "reply_to": "S.Return", "correlation_id": "7" });
    assert_eq!((&line["kind"], &line["envelope"]), (&json!("returned"), &envelope));
    context.return_error("nobody.Return", &payload, "8").await.unwrap();
    both.theirs.tell(&json!(["return_error", "nobody.Return", payload, "talk", "8"]));
    let line = both.lines(1).await.remove(0);
    assert_eq!(line["envelope"]["status"], "error");
    context.event_mandatory("Unheard", &Value::Null).await.unwrap();
    both.theirs.tell(&json!(["publish_event", "Unheard", null, "talk", true]));
    assert_eq!(both.lines(1).await[0]["payload"], "f6");
    // Not mandatory, it is lost in silence: what comes next is the next command.
    context.event("Unheard", &payload).await.unwrap();
    both.theirs.tell(&json!(["publish_event", "Unheard", payload, "talk"]));
    context.send_command("nobody.Do", &payload, "S.Return", "9").await.unwrap();
    both.theirs.tell(&json!(["send_command", "nobody.Do", payload, "talk", "S.Return", "9"]));
    assert_eq!(both.lines(1).await[0]["envelope"]["correlation_id"], "9");
    both.stop().await;
}

/// Their service stops then; ours says so and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_of_returned_messages_that_fails_is_logged_by_both_alike() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "commands": ["S.#"], "returned": false });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    let context = both.ours.context().in_conversation("talk");
    context.send_command("nobody.Do", &1, "S.Return", "7").await.unwrap();
    both.theirs.tell(&json!(["send_command", "nobody.Do", 1, "talk", "S.Return", "7"]));
    let expected = (0, "in handle_returned_message [S] no luck".to_owned(), "talk".to_owned());
    assert_eq!(both.logs(1).await, [expected]);
    let Both { mut ours, theirs, .. } = both;
    tokio::time::timeout(PATIENCE, theirs.ends()).await.expect("it ends");
    context.send_command("ours.Do", &1, "S.Return", "8").await.unwrap();
    ours.expect("command").await;
    ours.stop().await;
}
