//! What a Hermes server put on its bus, and what Hermes' own class makes of edge cases.

use serde::{Deserialize, Serialize};

use super::super::*;

/// A row of the bus of a Hermes server.
#[derive(Deserialize)]
struct Row {
    msgid: u64,
    data: String,
}

/// A text that Hermes' class wrote, or read.
#[derive(Deserialize)]
struct Edge {
    kind: String,
    name: String,
    json: String,
    /// What it writes when it has read the text.
    event: Option<String>,
    /// Why it does not read it.
    error: Option<String>,
}

fn lines<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn rows() -> Vec<Row> {
    lines(include_str!("server.ndjson"))
}

#[test]
fn what_a_server_wrote_is_read_and_written_the_same() {
    let rows = rows();
    assert_eq!(rows.len(), 19);
    for row in rows {
        let event = Event::from_json(&row.data).unwrap();
        assert_eq!(event.to_json().unwrap(), row.data, "row {}", row.msgid);
        // The same in any other layout.
        let compact: serde_json::Value = serde_json::from_str(&row.data).unwrap();
        assert_eq!(Event::from_json(&compact.to_string()).unwrap().key, event.key);
    }
}

#[test]
fn every_edge_is_as_in_hermes() {
    let edges: Vec<Edge> = lines(include_str!("edges.ndjson"));
    let (mut written, mut read, mut refused) = (0, 0, 0);
    for Edge { kind, name, json, event, error } in edges {
        let found = Event::from_json(&json);
        match (kind.as_str(), event, error) {
            // What Hermes writes is read, and written again byte for byte.
            ("encode", None, None) => {
                written += 1;
                let again = found.unwrap().to_json().unwrap();
                assert_eq!(again, json, "{name}");
            }
            ("decode", Some(event), None) => {
                read += 1;
                let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(found.to_json().unwrap(), event, "{name}");
                let again = Event::from_json(&event).unwrap();
                assert_eq!(again.to_json().unwrap(), event, "{name}");
            }
            ("decode", None, Some(class)) => {
                refused += 1;
                let why = found.unwrap_err().to_string();
                let words = match class.as_str() {
                    "HermesInvalidJSONError" => "is no JSON",
                    "HermesInvalidVersionError" => "'9.9.9', which is not known",
                    _ if json.starts_with('{') => "no 'objpkey'",
                    _ => "not an object",
                };
                assert!(why.contains(words), "{name}: {why}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!((written, read, refused), (13, 25, 10));
}

/// The events of the edge cases, made by our own constructors from values.
#[test]
fn values_become_the_bytes_that_hermes_writes() {
    let edges: Vec<Edge> = lines(include_str!("edges.ndjson"));
    let expected = |name: &str| {
        let found = edges.iter().find(|edge| edge.kind == "encode" && edge.name == name);
        found.unwrap().json.clone()
    };
    let date = |date, time| Value::from(DateTime::new(date, time).unwrap());
    let added = |attributes: Map| Event::added("U", 1, attributes);
    for (name, event) in [
        ("init-stop", Event::init_stop()),
        ("removed", Event::removed("U", 1)),
        ("tuple-pkey", Event::removed("U", ("g1", 2))),
        ("datetime-pkey", Event::removed("U", date((2024, 2, 29), (1, 2, 3)))),
        (
            "escapes",
            added(
                Map::new()
                    .with("s", "\"\\/\u{8}\u{c}\n\r\t\0\u{1f}\u{7f}\u{80}é\u{2028}\u{ffff}😀")
                    .with("lone", Text::from_utf16(&[0xd800]))
                    .with("kéy\n", 1),
            ),
        ),
        (
            "numbers",
            added(
                Map::new()
                    .with("z", 0)
                    .with("neg", -1)
                    .with("big", 1_180_591_620_717_411_303_424_u128)
                    .with("f", 1.0)
                    .with("nz", -0.0)
                    .with("e16", 1e16)
                    .with("e15", 1e15)
                    .with("em4", 1e-4)
                    .with("em5", 1e-5)
                    .with("p", 0.1 + 0.2)
                    .with("min", 5e-324)
                    .with("max", f64::MAX)
                    .with("e22", 1e22)
                    .with("e23", 1e23),
            ),
        ),
        (
            "nonfinite",
            added(
                Map::new()
                    .with("i", f64::INFINITY)
                    .with("n", f64::NEG_INFINITY)
                    .with("x", f64::NAN),
            ),
        ),
        (
            "datetimes",
            added(
                Map::new()
                    .with("micro", date((2024, 2, 29), (23, 59, 58)))
                    .with("aware", date((2024, 1, 1), (12, 0, 0)))
                    .with("first", date((1, 1, 1), (0, 0, 0)))
                    .with("last", date((9999, 12, 31), (23, 59, 59))),
            ),
        ),
        ("booleans", added(Map::new().with("t", true).with("f", false).with("n", Value::Null))),
    ] {
        assert_eq!(event.to_json().unwrap(), expected(name), "{name}");
    }
}

#[test]
fn events_of_the_server_are_what_they_say() {
    let rows = rows();
    let event = |msgid: usize| Event::from_json(&rows[msgid - 1].data).unwrap();
    let start = event(3);
    assert_eq!(
        (start.category(), start.event_type()),
        (Some(INITSYNC), Some(EventType::InitStart))
    );
    let schema = DataSchema::from_map(start.attributes().unwrap()).unwrap();
    let names: Vec<_> = schema.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["SRVGroups", "SRVUsers", "SRVGroupsMembers"]);
    assert_eq!(Event::init_start(&schema), start);
    assert_eq!(Event::data_schema(&schema).to_json().unwrap().len(), rows[2].data.len() - 4);

    let changed = event(13);
    let changes = changed.changes().unwrap();
    assert_eq!(changes.modified.get("login"), Some(&"alice2".into()));
    assert_eq!(changes.removed.get("first"), Some(&Value::Null));
    assert_eq!(Event::modified("SRVUsers", 1, changes), changed);
    assert_eq!(changed.to_string(), "<Event(SRVUsers_modified[1])>");
    assert_eq!(event(14).to_string(), "<Event(SRVGroupsMembers_removed[('g1', 2)])>");
    assert_eq!(event(3).to_string(), "<Event(initsync_init-start)>");
    assert!(event(14).changes().unwrap_err().to_string().contains("no object 'added'"));

    let photo = event(6);
    let bytes = photo.attributes().unwrap().get("photo").unwrap();
    assert_eq!(bytes, &Value::Bytes(bytes::Bytes::from_static(b"\x00\xff\x10")));
    // A password is in there, and nowhere where people look.
    assert!(!format!("{photo:?}{photo}").contains("s3cret"), "{photo:?}");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    login: String,
    first: Option<String>,
    score: f64,
    mails: Vec<String>,
    born: Option<DateTime>,
    photo: Option<Binary>,
}

#[test]
fn attributes_are_structs_where_wanted() {
    let event = Event::from_json(&rows()[5].data).unwrap();
    let user: User = event.attributes().unwrap().to().unwrap();
    assert_eq!((user.id, user.score, user.mails.len()), (1, 1.5, 2));
    assert_eq!(user.born.unwrap().to_string(), "1990-02-03T04:05:06");
    assert_eq!(user.photo, Some(Binary(bytes::Bytes::from_static(b"\x00\xff\x10"))));

    let dave = User { first: None, born: None, photo: None, ..user };
    let map = Map::of(&dave).unwrap();
    let names: Vec<_> = map.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["id", "login", "score", "mails"], "what is none is absent");
    assert_eq!(map.to::<User>().unwrap(), dave);
    assert!(Map::of(&1).unwrap_err().to_string().contains("not an object"));
    assert!(map.to::<Vec<u8>>().is_err());
}

#[test]
fn an_event_is_a_message_and_back() {
    let topic = busline_core::Topic::new("bus").unwrap();
    let event = Event::removed("U", 1);
    let message = event.to_message(topic.clone()).unwrap();
    assert_eq!((message.key.as_str(), &message.payload[..1]), ("base", &b"{"[..]));
    let record = |payload: &'static [u8]| busline_core::Record {
        message: busline_core::Message::new(topic.clone(), "other".try_into().unwrap(), payload),
        offset: busline_core::Offset::new(7, 9),
        time: busline_core::Timestamp::from_unix_us(5),
    };
    let text: &'static str = event.to_json().unwrap().leak();
    let back = Event::from_record(&record(text.as_bytes())).unwrap();
    assert_eq!(back.category(), Some(BASE), "the text counts, not the key");
    assert_eq!(back.offset, Some(busline_core::Offset::new(7, 9)));
    assert_eq!(back.timestamp, Some(busline_core::Timestamp::from_unix_us(5)));
    assert!(Event::from_record(&record(b"\xff")).unwrap_err().to_string().contains("UTF-8"));

    let nameless = Event { category: Value::Null, ..event.clone() };
    assert_eq!(nameless.to_message(topic.clone()).unwrap().key.as_str(), "");
    let odd = Event { category: 5.into(), ..event };
    assert!(odd.to_message(topic).unwrap_err().to_string().contains("no text"));
}

#[test]
fn the_rule_of_before_partial_processing_was_a_field() {
    for (step, expected) in [
        ("", false),
        (r#","step":0"#, false),
        (r#","step":0.0"#, false),
        (r#","step":false"#, false),
        (r#","step":3"#, true),
        (r#","step":"0""#, true),
        (r#","step":null"#, true),
        (r#","step":true"#, true),
        (r#","step":3,"isPartiallyProcessed":false"#, false),
    ] {
        let event = Event::from_json(&format!(r#"{{"objpkey":1{step}}}"#)).unwrap();
        assert_eq!(event.is_partially_processed, expected.into(), "{step}");
    }
}

#[test]
fn versions_and_wrappers() {
    let of = |version: &str| {
        let text = format!(r#"{{"content":{{"objpkey":1}},"__HERMES_VERSION__":{version}}}"#);
        Event::from_json(&text).map(|event| event.key)
    };
    for good in ["1.0.0-alpha.1", "1.0.0-alpha.12", "1.0.0-beta.1", "1.0.0", "1.0.9"] {
        assert_eq!(of(&format!("\"{good}\"")).unwrap(), 1.into(), "{good}");
    }
    for bad in ["1.0.10", "1.1.0", "0.9.0", "1.0", "1.0.0-gamma.1", "1.0.1-alpha.1", "1.00.1", "x"]
    {
        let error = of(&format!("\"{bad}\"")).unwrap_err().to_string();
        assert!(error.contains(bad), "{error}");
    }
    assert!(of("1").unwrap_err().to_string().contains("'1'"));
    // A third name makes it an ordinary object, which has no key.
    let third = r#"{"content":{"objpkey":1},"__HERMES_VERSION__":"1.0.9","more":1}"#;
    assert!(Event::from_json(third).unwrap_err().to_string().contains("objpkey"));
    let list = r#"{"content":[1],"__HERMES_VERSION__":"1.0.9"}"#;
    assert!(Event::from_json(list).unwrap_err().to_string().contains("a list, not an object"));
}
