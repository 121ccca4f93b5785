//! `read`: positions, patterns, counts, following.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::Place;

fn numbers(records: &[Value]) -> Vec<i64> {
    records.iter().map(|record| record["payload"]["n"].as_i64().unwrap()).collect()
}

#[test]
fn from_every_position() {
    let place = Place::new();
    place.publish("t", &["a.x", "a.y", "b.x"]);
    let all = place.json(&["read", "t"]);
    assert_eq!(numbers(&all), [1, 2, 3]);
    let from = |position: &str| numbers(&place.json(&["read", "t", "--from", position]));
    assert_eq!(from("earliest"), [1, 2, 3]);
    assert_eq!(from("latest"), [0i64; 0]);
    assert_eq!(from(all[1]["offset"].as_str().unwrap()), [2, 3]);
    assert_eq!(from(all[0]["time"].as_str().unwrap()), [1, 2, 3]);
    assert_eq!(from("2999-01-01T00:00:00Z"), [0i64; 0]);
    assert_eq!(numbers(&place.json(&["read", "t", "--pattern", "a.*"])), [1, 2]);
    let two = place.json(&["read", "t", "--pattern", "*.y", "--pattern", "b.#"]);
    assert_eq!(numbers(&two), [2, 3]);
    assert_eq!(numbers(&place.json(&["read", "t", "--count", "2"])), [1, 2]);
}

#[test]
fn quiet_ends_it_and_a_missing_count_is_told() {
    let place = Place::new();
    place.publish("t", &["a"]);
    assert_eq!(place.json(&["read", "t", "--follow", "--timeout", "20ms"]).len(), 1);
    let done = place.run(&["--json", "read", "t", "--count", "2", "--timeout", "20ms"]);
    done.fails(3, &["1 of 2 records came"]);
    assert_eq!(done.lines().len(), 1);
    place.run(&["read", "t", "--count", "2"]).fails(3, &["1 of 2"]);
}

#[test]
fn following_sees_what_others_publish() {
    let place = Place::new();
    place.publish("t", &["a"]);
    let mut reader = place.start(&["--json", "read", "t", "--follow"]);
    assert_eq!(reader.json()["payload"]["n"], 1);
    place.publish("t", &["b"]);
    assert_eq!(reader.json()["key"], "b");
    reader.signal(Signal::TERM);
    let done = reader.finish();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

#[test]
fn people_get_one_line_a_record() {
    let place = Place::new();
    place.run(&["publish", "t", "--key", "k", "--data", "one\ntwo \u{1b}[31m"]);
    let done = place.run(&["read", "t"]);
    assert_eq!(done.stdout.lines().count(), 1);
    assert!(done.stdout.ends_with(" k one two \\u{1b}[31m\n"), "{:?}", done.stdout);
}

#[test]
fn looking_creates_nothing() {
    let place = Place::new();
    for args in [&["read", "t"][..], &["topics"], &["groups"], &["dead", "list", "x"], &["doctor"]]
    {
        let done = place.run(args);
        assert_eq!(done.code, 5, "{args:?} {done:?}");
    }
    assert!(!place.bus().exists());
    place.publish("t", &["a"]);
    place.run(&["read", "other"]).fails(2, &["no topic 'other'"]);
    assert_eq!(place.json(&["topics"]).len(), 1);
}
