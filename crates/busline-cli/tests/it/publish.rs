//! `publish`: receipts, keys, headers, content types, bad lines.

use crate::support::{Place, QUAKES};

#[test]
fn one_message_with_everything() {
    let place = Place::new();
    let receipts = place.json(&[
        "publish",
        "t",
        "--key",
        "a.b",
        "--header",
        "x=1=2",
        "--header",
        "x=3",
        "--data",
        "{\"n\":1.50}",
        "--content-type",
        "application/json",
    ]);
    let [receipt] = receipts.as_slice() else { panic!("{receipts:?}") };
    assert_eq!(receipt["topic"], "t");
    assert_eq!(receipt["key"], "a.b");
    assert_eq!(receipt["status"], "stored");
    let records = place.json(&["read", "t"]);
    assert_eq!(records[0]["offset"], receipt["offset"]);
    assert_eq!(records[0]["headers"], serde_json::json!({"x": ["1=2", "3"]}));
    assert_eq!(records[0]["content_type"], "application/json");
    assert!(place.run(&["--json", "read", "t"]).stdout.contains("\"payload\":{\"n\":1.50}"));
    assert_eq!(records[0]["message_id"].as_str().unwrap().len(), 36);
}

#[test]
fn payloads_come_from_files_and_standard_input() {
    let place = Place::new();
    std::fs::write(place.path().join("a.json"), "{\n \"a\": 1\n}").unwrap();
    std::fs::write(place.path().join("b.cbor"), [0xa1, 0x61, 0x62, 0x02]).unwrap();
    for file in ["a.json", "b.cbor"] {
        assert_eq!(place.run(&["publish", "t", "--file", file]).code, 0);
    }
    assert_eq!(place.run_with(&["publish", "t", "--file", "-"], b"piped\n").code, 0);
    assert_eq!(place.run_with(&["publish", "t"], b"").code, 0);
    let records = place.json(&["read", "t"]);
    let shown: Vec<_> = records
        .iter()
        .map(|r| {
            (
                r["content_type"].as_str(),
                r["payload_encoding"].as_str().unwrap(),
                r["payload"].clone(),
            )
        })
        .collect();
    assert_eq!(shown[0], (Some("application/json"), "json", serde_json::json!({"a": 1})));
    assert_eq!(shown[1], (Some("application/cbor"), "base64", "oWFiAg==".into()));
    assert_eq!(shown[2], (None, "utf8", "piped\n".into()));
    assert_eq!(shown[3], (None, "utf8", "".into()));
}

#[test]
fn real_input_line_by_line() {
    let place = Place::new();
    let args = ["--json", "publish", "quakes", "--lines", "--file", QUAKES, "--key-field", "net"];
    let done = place.run(&args);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let receipts = done.lines();
    assert_eq!(receipts.len(), 1707);
    let records = place.json(&["read", "quakes"]);
    let offsets = |lines: &[serde_json::Value]| -> Vec<_> {
        lines.iter().map(|line| (line["offset"].clone(), line["key"].clone())).collect()
    };
    assert_eq!(offsets(&records), offsets(&receipts), "in order, each with its own receipt");
    for (line, record) in std::fs::read_to_string(QUAKES).unwrap().lines().zip(&records) {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap(), record["payload"]);
    }
}

#[test]
fn a_bad_line_is_named_with_what_is_stored() {
    let place = Place::new();
    let input = b"{\"k\":\"a\"}\n{\"k\":\"b\"}\nno json\n{\"k\":\"c\"}\n";
    let done = place.run_with(&["publish", "t", "--lines", "--key-field", "k"], input);
    done.fails(2, &["line 3: the payload is no JSON", "stored: lines 1-2"]);
    assert_eq!(place.json(&["read", "t"]).len(), 2);
    let done = place.run_with(&["publish", "t", "--lines", "--key-field", "k"], b"{}\n");
    done.fails(2, &["line 1: the payload has no field 'k'", "stored: no line"]);
}

#[test]
fn a_line_is_sent_when_it_comes() {
    let place = Place::new();
    let mut publisher = place.start(&["--json", "publish", "t", "--lines"]);
    for n in 1..=3 {
        publisher.write(&format!("line {n}"));
        // Its receipt comes though standard input stays open.
        assert_eq!(publisher.json()["status"], "stored");
    }
    assert_eq!(publisher.finish().code, 0);
    assert_eq!(place.json(&["read", "t"])[2]["payload"], "line 3");
}

#[test]
fn mandatory_messages_come_back() {
    let place = Place::new();
    let publish = ["--json", "publish", "t", "--key", "a", "--data", "1", "--mandatory"];
    let done = place.run(&publish);
    done.fails(4, &["1 message matched no group"]);
    assert_eq!(done.lines()[0]["status"], "unroutable");
    assert_eq!(done.lines()[0]["offset"], serde_json::Value::Null);
    place.run(&["consume", "t", "--group", "g", "--pattern", "a", "--timeout", "1ms"]);
    assert_eq!(place.run(&publish).code, 0);
    let other = ["publish", "t", "--key", "b", "--data", "1", "--mandatory"];
    assert_eq!(place.run(&other).code, 4);
}
