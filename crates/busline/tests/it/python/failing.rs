//! What fails: tried twice, logged and dead lettered by us as by them.

use serde_json::{Value, json};

use super::both::Both;
use super::ground::Ground;
use super::peer::Peer;

const JSON: &str = "application/json";
const RETRY: &str = "Unhandled error while processing message";

/// The three lines about a message that is given up.
fn given_up(key: &str, talk: &str) -> Vec<(i64, String, String)> {
    let line = |level, text: &str| (level, format!("{text} {key}"), talk.to_owned());
    vec![line(1, RETRY), line(1, RETRY), line(0, "Giving up on")]
}

/// Of one conversation, with more properties on top.
fn properties(talk: &str, headers: &Value, more: &Value) -> Value {
    let mut all = json!({ "content_type": JSON, "headers": { "conversation_id": talk } });
    for (name, value) in headers.as_object().unwrap() {
        all["headers"][name] = value.clone();
    }
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_is_tried_twice_then_dead_lettered_by_both_alike() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({
        "events": ["FailAlways", "Panics", "Unhandled", "FailOnce", "Fine"],
        "commands": ["S.#"],
        "fails": ["FailAlways", "Boom"], "panics": ["Panics"],
        "once": ["FailOnce"], "unhandled": ["Unhandled"],
    });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    let command = json!({ "reply_to": "nobody.Return", "correlation_id": "7" });
    let (none, status) = (json!({}), json!({ "status": "success" }));
    let cases = [
        ("events", "FailAlways", none.clone(), none.clone(), 2),
        ("events", "Panics", none.clone(), none.clone(), 2),
        ("events", "Unhandled", none.clone(), none.clone(), 0),
        ("commands", "S.Boom", none.clone(), command, 2),
        ("commands", "S.Boom", status, json!({ "correlation_id": "8" }), 2),
        ("events", "FailAlways", json!({ "extra": [1, "x"] }), json!({ "app_id": "app" }), 2),
    ];
    for (at, (exchange, key, headers, more, tries)) in cases.into_iter().enumerate() {
        let talk = format!("talk {at}");
        let properties = properties(&talk, &headers, &more);
        both.publish(exchange, key, properties, br#"{"n": 1}"#).await;
        both.lines(tries).await;
        assert_eq!(both.logs(3).await, given_up(key, &talk));
        let letter = both.dead().await;
        assert_eq!(letter["properties"]["headers"]["conversation_id"], talk, "{letter}");
        let death = &letter["properties"]["headers"]["x-death"];
        assert_eq!((&death[0]["reason"], &death[0]["count"]), (&json!("rejected"), &json!(1)));
    }
    both.publish("events", "FailOnce", properties("once", &json!({}), &json!({})), b"1").await;
    both.lines(2).await;
    assert_eq!(both.logs(1).await, given_up("FailOnce", "once")[..1]);
    // It goes on, and lost nothing else: this is the next line, and there was no other log.
    both.publish("events", "Fine", properties("fine", &json!({}), &json!({})), b"2").await;
    assert_eq!(both.lines(1).await[0]["key"], "Fine");
    both.stop().await;
}

/// Exchange, key, properties and body; what is logged, and of which conversation.
type Case = (&'static str, &'static str, Value, &'static [u8], String, &'static str);

fn undecodable(key: &str) -> String {
    format!("Unable to decode payload for {key}; dead lettering.")
}

fn unconventional() -> Vec<Case> {
    let missing = |key: &str| format!("Missing headers on {key}");
    let talk = json!({ "conversation_id": "talk" });
    let invalid = "invalid enveloppe for command/result: {'extra': 'x', 'timestamp': 1700000000, \
                   'expiration': None, 'user_id': 'guest', 'app_id': 'it\\'s \"app\"'}; dead lettering.";
    vec![
        ("events", "Happened", json!({ "content_type": JSON }), b"{}", missing("Happened"), ""),
        (
            "events",
            "Happened",
            json!({ "content_type": JSON, "headers": { "extra": 1 } }),
            b"{}",
            missing("Happened"),
            "",
        ),
        ("commands", "S.Do", json!({ "reply_to": "a.Return" }), b"{}", missing("S.Do"), ""),
        // What is said first counts: it has no conversation.
        ("events", "Happened", json!({ "headers": {} }), b"{bad", missing("Happened"), ""),
        (
            "events",
            "Happened",
            json!({ "content_type": JSON, "headers": talk }),
            b"{bad",
            undecodable("Happened"),
            "talk",
        ),
        (
            "events",
            "Happened",
            json!({ "headers": talk }),
            b"\xc3\x28\xff",
            undecodable("Happened"),
            "talk",
        ),
        (
            "commands",
            "S.Do",
            json!({ "headers": talk, "reply_to": "a.Return" }),
            b"\"",
            undecodable("S.Do"),
            "talk",
        ),
        (
            "commands",
            "S.Do",
            json!({
                "headers": { "conversation_id": "talk", "extra": "x" },
                "timestamp": 1_700_000_000, "user_id": "guest", "app_id": "it's \"app\"",
            }),
            b"{}",
            invalid.to_owned(),
            "talk",
        ),
        (
            "commands",
            "S.Do",
            json!({ "headers": { "conversation_id": "talk", "status": "" }, "reply_to": "" }),
            b"{}",
            "invalid enveloppe for command/result: {'timestamp': None, 'expiration': None, \
             'user_id': None, 'app_id': None}; dead lettering."
                .to_owned(),
            "talk",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_convention_s_are_dead_lettered_by_both_alike() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "events": ["Happened"], "commands": ["S.#"] });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    let talk = json!({ "conversation_id": "talk" });
    for (exchange, key, properties, body, says, talk) in unconventional() {
        both.publish(exchange, key, properties, body).await;
        let logs = both.logs(1).await;
        assert_eq!(logs, [(0, says, talk.to_owned())]);
        let letter = both.dead().await;
        assert_eq!(letter["body"], super::witness::hex(body));
    }
    // Where they connect again without end, we give up what can never be read, and go on.
    let cbor = json!({ "content_type": "application/cbor", "headers": talk, "reply_to": "a.R" });
    for body in [&b"\xa1\x61\x61"[..], b"\x1c", b"\x62\xc3\x28", b"\xff"] {
        both.publish_one("commands", "ours.Do", cbor.clone(), body).await;
        let line = both.log_of_ours().await;
        assert_eq!(line["short_message"], undecodable("ours.Do"));
        assert_eq!((&line["level"], &line["_conversation_id"]), (&json!(0), &json!("talk")));
        assert_eq!(both.dead_of_ours().await["body"], super::witness::hex(body));
    }
    both.publish("events", "Happened", json!({ "headers": talk }), b"2").await;
    both.lines(1).await;
    both.stop().await;
}

/// What failed twice is put back by their tool, whoever gave it up, and succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_either_are_put_back_by_their_tool() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "events": ["Flaky"], "once": ["Flaky", "Flaky"] });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    both.publish("events", "Flaky", properties("talk", &json!({}), &json!({})), b"1").await;
    both.lines(2).await;
    both.logs(3).await;
    let resurrect = ["dead", "--count", "2"];
    Peer::start(ground.tool("resurrect.py").args(resurrect)).ends().await;
    // It puts each back for everybody.
    for _ in 0..2 {
        for line in [both.ours.expect("event").await, both.theirs.expect("event").await] {
            assert_eq!((&line["key"], &line["payload"]), (&json!("Flaky"), &json!("01")));
            assert_eq!(line["conversation_id"], "talk");
            assert_eq!(line["meta"]["x-first-death-reason"], "rejected");
        }
    }
    both.stop().await;
}

/// They take it for a configuration; to us it is what the queue is for, and nobody handles that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_straight_into_a_queue_of_ours_is_no_configuration() {
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "events": ["Happened"], "configurations": ["Settings"] });
    let mut both = Both::start(&ground, &options).await;
    both.lines(1).await;
    let complete = json!({ "complete": true });
    both.ours.context().configuration("Settings", &complete).await.unwrap();
    both.lines(2).await;
    let properties = properties("talk", &json!({}), &json!({}));
    both.publish_one("", "ours.events", properties, b"1").await;
    for says in [RETRY, RETRY, "Giving up on"] {
        let line = both.log_of_ours().await;
        assert_eq!(line["short_message"], format!("{says} ours.events"));
        assert_eq!(line["_conversation_id"], "talk");
    }
    assert_eq!(both.dead_of_ours().await["body"], super::witness::hex(b"1"));
    both.stop().await;
}
