//! Log lines over the bus, as each writes them and as the other prints them.

use busline::service::{Level, LogLine};
use serde_json::{Value, json};

use super::both::{Both, comparable};
use super::ground::Ground;
use super::peer::Peer;

#[tokio::test(flavor = "multi_thread")]
async fn their_logger_prints_our_lines_as_its_own() {
    let Some(ground) = Ground::find() else { return };
    let mut logger = Peer::start(ground.tool("logger.py").args(["--filter", "*.*"]));
    while logger.prints().await != "connected!" {}
    let mut both = Both::start(&ground, &json!({ "events": ["Happened"] })).await;
    both.lines(1).await;
    let fields = json!({ "extra": [1, "two", null], "_under": { "k": 1.5 }, "_levelname": "MINE" });
    for level in [0, 1, 2, 3, 4, 5, 6, 7, 12, -1] {
        let mut line = LogLine::new(Level(level), "short é").full("full\ntext \u{1f600}");
        let with_fields = level == 6;
        if with_fields {
            for (name, value) in fields.as_object().unwrap() {
                line = line.field(name, value).unwrap();
            }
        }
        both.ours.context().in_conversation("talk").log_line(&line);
        let fields = if with_fields { fields.clone() } else { json!({}) };
        let theirs = json!(["log", level, "short é", "full\ntext \u{1f600}", "talk", fields]);
        both.theirs.tell(&theirs);
        let mut printed = [logger.prints().await, logger.prints().await];
        printed.sort();
        let [ours, theirs] = printed.map(|line| {
            let (key, body) = line.strip_prefix('[').unwrap().split_once("] ").unwrap();
            assert!(body.is_ascii(), "{body}");
            (key.split_once('.').unwrap().1.to_owned(), body.to_owned())
        });
        assert_eq!(ours.0, theirs.0);
        let names = |body: &str| -> Vec<String> {
            let mut parts: Vec<_> = body.split("\": ").collect();
            // What follows the last name.
            parts.pop();
            parts.iter().map(|part| part.rsplit('"').next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&ours.1), names(&theirs.1), "the same names in the same order");
        let value = |body: &str| serde_json::from_str::<Value>(body).unwrap();
        let (ours, theirs) = (value(&ours.1), value(&theirs.1));
        assert_eq!(comparable(&ours, "ours"), comparable(&theirs, "theirs"));
    }
    both.stop().await;
}

/// Their tool that watches everything sees what ours sends.
#[tokio::test(flavor = "multi_thread")]
async fn their_monitor_shows_what_ours_sends() {
    let Some(ground) = Ground::find() else { return };
    let mut both = Both::start(&ground, &json!({ "commands": ["S.#"] })).await;
    both.lines(1).await;
    let all = ["--events", "#", "--commands", "#", "--configurations", "Settings"];
    let mut monitor = Peer::start(ground.tool("monitor.py").args(all));
    while monitor.prints().await != "Started" {}
    let context = both.ours.context().in_conversation("talk");
    let payload = json!({ "n": 1 });
    context.event("Happened", &payload).await.unwrap().await.unwrap();
    context.send_command("ours.Do", &payload, "ours.Return", "7").await.unwrap().await.unwrap();
    context.return_success("ours.Return", &payload, "7").await.unwrap().await.unwrap();
    context.configuration("Settings", &payload).await.unwrap().await.unwrap();
    let mut blocks = Vec::new();
    for _ in 0..4 {
        let mut block = Vec::new();
        loop {
            let line = monitor.prints().await;
            if line == "---------" {
                break;
            }
            if !line.is_empty() {
                block.push(line);
            }
        }
        blocks.push(block);
    }
    blocks.sort();
    let firsts: Vec<_> = blocks.iter().map(|block| block[0].as_str()).collect();
    let expected = [
        "Got a Command ours.Do",
        "Got a Result: ours.Return",
        "Got a configuration Settings {'n': 1}",
        "Got an Event Happened",
    ];
    assert_eq!(firsts, expected, "{blocks:?}");
    let has = |at: usize, line: &str| blocks[at].iter().any(|said| said == line);
    assert!(has(0, "Return to ours.Return") && has(0, "Correlation ID 7"), "{blocks:?}");
    assert!(has(1, "Status success") && has(1, "Correlation ID: 7"), "{blocks:?}");
    assert!((0..4).all(|at| has(at, "{'n': 1}")), "{blocks:?}");
    assert!([0, 1, 3].into_iter().all(|at| has(at, "Conversation ID: talk")), "{blocks:?}");
    both.stop().await;
}
