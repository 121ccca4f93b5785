//! Bodies as Python writes and reads them.
//!
//! Each row of `python.json` is one value, as `cbor2.dumps(value).hex()`, `json.dumps(value, ensure_ascii=False)`
//! and `json.dumps(value)` of Python 3.11 and cbor2 6.3.0 gave it; without texts where JSON refuses the value.

use std::collections::BTreeMap;

use busline_core::{Key, Message};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde::{Deserialize, Serialize};

use super::super::format::write;
use super::super::json::JsonSink;
use super::super::*;
use super::bytes;

#[derive(Deserialize)]
struct Row {
    cbor: String,
    json: Option<String>,
    ascii: Option<String>,
}

fn value(format: Format, body: impl Into<Bytes>) -> Value {
    Body::new(format, body.into()).unwrap().value().unwrap()
}

#[test]
fn every_value_is_written_as_python_writes_it() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("python.json")).unwrap();
    assert!(rows.len() > 100);
    for Row { cbor, json, ascii } in rows {
        let from_cbor = value(Format::Cbor, bytes(&cbor));
        assert_eq!(encode(Format::Cbor, &from_cbor).unwrap(), bytes(&cbor), "{cbor}");
        let body = Body::new(Format::Cbor, bytes(&cbor)).unwrap();
        assert_eq!(encode(Format::Cbor, &body).unwrap(), bytes(&cbor), "{cbor}");
        let Some((json, ascii)) = json.zip(ascii) else {
            let refused = encode(Format::Json, &from_cbor);
            assert!(refused.is_err() || cbor.starts_with("82"), "{cbor}: {refused:?}");
            continue;
        };
        assert_eq!(encode(Format::Json, &from_cbor).unwrap(), json, "{cbor}");
        let escaped = write(JsonSink::ascii(), Format::Json, &from_cbor).unwrap();
        assert_eq!(escaped, ascii, "{cbor}");
        // Either text reads as the same value, with keys that are texts now.
        for text in [json.clone(), ascii] {
            let from_json = value(Format::Json, text);
            assert_eq!(encode(Format::Json, &from_json).unwrap(), json, "{cbor}");
            let is_same =
                !json.starts_with("{\"1\"") && !json.starts_with("{\"1180591620717411303424\"");
            let again = encode(Format::Cbor, &from_json).unwrap();
            assert_eq!(again == bytes(&cbor), is_same, "{cbor}: {json}");
        }
    }
}

/// What Python takes and never writes itself.
#[test]
fn unusual_bodies_are_understood() {
    let cases = [
        (Format::Cbor, "bf61616162ff", r#"{"a": "b"}"#),
        (Format::Cbor, "9f0102ff", "[1, 2]"),
        (Format::Cbor, "7f61616162ff", r#""ab""#),
        (Format::Cbor, "f93c00", "1.0"),
        (Format::Cbor, "fa3fc00000", "1.5"),
        (Format::Cbor, "0102", "1"),
        (Format::Cbor, "c240", "0"),
        (Format::Cbor, "c340", "-1"),
        (Format::Cbor, "1800", "0"),
        (Format::Cbor, "a2616101616102", r#"{"a": 2}"#),
        (Format::Cbor, "f7", "null"),
        (Format::Cbor, "", "null"),
        (Format::Json, "", "null"),
        (Format::Json, "efbbbf31", "1"),
        (Format::Json, "fffe2200e9002200", "\"é\""),
        (Format::Json, "feff0022d83dde000022", "\"😀\""),
        (Format::Json, "220061002200", r#""a""#),
        (Format::Json, "002200610022", r#""a""#),
        (Format::Json, "3100", "1"),
        (Format::Json, "0031", "1"),
        (Format::Json, "fffe000031000000", "1"),
        (Format::Json, "0000feff00000031", "1"),
        (Format::Json, "31000000", "1"),
        (Format::Json, "00000031", "1"),
    ];
    for (format, hex, json) in cases {
        assert_eq!(encode(Format::Json, &value(format, bytes(hex))).unwrap(), json, "{hex}");
    }
    for (text, json) in [
        (" [ 1 , 2 ]\r\n\t", "[1, 2]"),
        (r#"{"a": 1, "b": 2, "a": 3}"#, r#"{"a": 3, "b": 2}"#),
        (r#""\ud83d\ude00\u00e9\/""#, "\"😀é/\""),
        (r#""\ud83d x \ude00\ud83d\u0041""#, "\"\u{fffd} x \u{fffd}\u{fffd}A\""),
        ("[1e400, -1e400, 1E2, 1e-400]", "[Infinity, -Infinity, 100.0, 0.0]"),
        ("[-0, -0.0, 0e5]", "[0, -0.0, 0.0]"),
        ("[NaN, Infinity, -Infinity]", "[NaN, Infinity, -Infinity]"),
    ] {
        assert_eq!(encode(Format::Json, &value(Format::Json, text)).unwrap(), json, "{text}");
    }
}

#[test]
fn what_is_no_json_is_refused() {
    let many = format!("1{}", "0".repeat(4300));
    for text in [
        "[1,]",
        "{\"a\":1,}",
        "[1 2]",
        "{\"a\" 1}",
        "{1: 2}",
        "01",
        "+1",
        "1.",
        ".5",
        "1.e5",
        "1e",
        "--1",
        "-",
        "nan",
        "-NaN",
        "tru",
        "nul",
        "'a'",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"a",
        "\"\\",
        "\"\\u00",
        "[",
        "{",
        "{\"a\"",
        "{\"a\":",
        "1 1",
        "\u{a0}1",
        "\"\u{1}\"",
        "//",
        &many,
    ] {
        let refused = Body::new(Format::Json, text.to_owned().into());
        assert!(refused.is_err(), "{text}");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    New(u8),
    Tuple(i8, String),
    Struct { a: Option<bool>, b: f32 },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Typed {
    shapes: Vec<Shape>,
    wide: (i128, u128),
    by_number: BTreeMap<u32, char>,
    unit: (),
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[test]
fn types_go_there_and_back() {
    let typed = || Typed {
        shapes: vec![
            Shape::Unit,
            Shape::New(7),
            Shape::Tuple(-1, "t".to_owned()),
            Shape::Struct { a: None, b: 0.5 },
        ],
        wide: (i128::MIN, u128::MAX),
        by_number: [(1, 'x'), (2, 'é')].into(),
        unit: (),
        rest: [("more".to_owned(), Value::from("value"))].into(),
    };
    let json = r#"{"shapes": ["Unit", {"New": 7}, {"Tuple": [-1, "t"]}, {"Struct": {"a": null, "b": 0.5}}], "wide": [-170141183460469231731687303715884105728, 340282366920938463463374607431768211455], "by_number": {"1": "x", "2": "é"}, "unit": null, "more": "value"}"#;
    assert_eq!(encode(Format::Json, &typed()).unwrap(), json);
    for format in [Format::Json, Format::Cbor] {
        let body = Body::new(format, encode(format, &typed()).unwrap()).unwrap();
        assert_eq!(body.decode::<Typed>().unwrap(), typed(), "{format}");
    }
    // The last one counts, for types too.
    #[derive(Debug, PartialEq, Deserialize)]
    struct Point {
        x: f64,
    }
    for body in [
        Body::new(Format::Json, r#"{"x": 1, "x": 2}"#.into()),
        Body::new(Format::Cbor, bytes("a2617801617802")),
    ] {
        assert_eq!(body.unwrap().decode::<Point>().unwrap(), Point { x: 2.0 });
    }
    // A whole number is a float to Python, as an address is a text.
    let body = Body::new(Format::Cbor, bytes("82fb3ff800000000000003")).unwrap();
    assert_eq!(body.decode::<[f64; 2]>().unwrap(), [1.5, 3.0]);
    let text = Body::new(Format::Cbor, encode(Format::Cbor, "::1").unwrap()).unwrap();
    assert!(text.decode::<std::net::IpAddr>().unwrap().is_loopback());
    let wrong = Body::new(Format::Json, r#"{"x": "text"}"#.into()).unwrap();
    let error = wrong.decode::<Point>().unwrap_err().to_string();
    assert!(error.contains("is not application/json of the expected shape"), "{error}");
}

#[test]
fn json_cannot_hold_everything() {
    for bad in [
        Value::Bytes(vec![1]),
        Value::Tag(0, Box::new("2026-11-23T00:00:00Z".into())),
        Value::Tag(2, Box::new(1.into())),
        Value::Map(vec![(Value::Array(vec![]), Value::Null)]),
        Value::Tag(2, Box::new(Value::Bytes(vec![0xff; 2000]))),
    ] {
        let error = encode(Format::Json, &bad).unwrap_err();
        assert!(error.to_string().contains("cannot be written as application/json"), "{error}");
    }
}

/// Values that both formats hold.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..8).prop_map(|map| {
                Value::Map(map.into_iter().map(|(key, item)| (key.into(), item)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_goes_there_and_back(before in any_value()) {
        for format in [Format::Cbor, Format::Json] {
            let body = encode(format, &before).unwrap();
            let after = value(format, body.clone());
            // By what is written: NaN is not equal to itself.
            prop_assert_eq!(encode(Format::Cbor, &after).unwrap(), encode(Format::Cbor, &before).unwrap());
            prop_assert_eq!(encode(format, &after).unwrap(), body);
        }
    }

    #[test]
    fn any_float_is_read_back(bits in any::<u64>()) {
        let float = f64::from_bits(bits);
        let body = Body::new(Format::Json, encode(Format::Json, &float).unwrap()).unwrap();
        let again = body.decode::<f64>().unwrap();
        prop_assert!(again.to_bits() == bits || again.is_nan() && float.is_nan());
    }
}

/// Whatever comes: it is refused or it is a value, which can be read and written again.
#[test]
fn arbitrary_bytes_are_taken_or_refused() {
    let any_body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        // Heads of CBOR with anything behind, and what JSON is made of.
        prop::collection::vec(
            prop::sample::select(
                &b"\x1b\x5f\x7f\x82\x9f\xa1\xbf\xc1\xc2\xd8\xf9\xff\x61a\x00\x01"[..]
            ),
            0..48
        ),
        prop::collection::vec(prop::sample::select(&b"[]{},:\"\\u0d8-.eNIan1 tr"[..]), 0..48),
    ];
    let mut runner = TestRunner::default();
    runner
        .run(&(any_body, any::<bool>()), |(body, is_cbor)| {
            let mut message = Message::new(topic(Kind::Command), Key::empty(), body);
            message.properties.conversation_id = Some("c".into());
            message.properties.reply_to = Some("r".into());
            message.properties.content_type = is_cbor.then(|| "application/cbor".into());
            if let Ok(incoming) = decode(Kind::Command, &message) {
                let read = incoming.body.value().unwrap();
                let written = encode(Format::Cbor, &read).unwrap();
                let again = value(Format::Cbor, written.clone());
                prop_assert_eq!(encode(Format::Cbor, &again).unwrap(), written);
                let _ = encode(Format::Json, &read);
            }
            Ok(())
        })
        .unwrap();
}
