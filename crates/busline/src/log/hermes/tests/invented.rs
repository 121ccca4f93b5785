//! Whatever values there may be: written and read again they are the same; whatever text there may be does no harm.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        any::<String>().prop_map(Text::from),
        "[a-z.]{0,8}".prop_map(Text::from),
        vec(any::<u16>(), 0..5).prop_map(|units| Text::from_utf16(&units)),
        vec(0xd7f0_u16..0xe010, 0..5).prop_map(|units| Text::from_utf16(&units)),
    ]
    // What looks like a marker is one for who reads it.
    .prop_filter("a marker", |text| !text.to_str_lossy().starts_with("Hermes"))
}

fn date() -> impl Strategy<Value = DateTime> {
    (1_u16..=9999, 1_u8..=12, 1_u8..=28, 0_u8..24, 0_u8..60, 0_u8..60).prop_map(
        |(year, month, day, hour, minute, second)| {
            DateTime::new((year, month, day), (hour, minute, second)).unwrap()
        },
    )
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i128>().prop_map(Value::from),
        "-?[1-9][0-9]{0,60}".prop_map(|digits| Value::Int(digits.parse().unwrap())),
        any::<f64>().prop_filter("not equal to itself", |f| !f.is_nan()).prop_map(Value::from),
        text().prop_map(Value::from),
        date().prop_map(Value::from),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Value::Bytes(Bytes::from(bytes))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::List),
            vec((text(), inner), 0..6)
                .prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

fn event() -> impl Strategy<Value = Event> {
    ([value(), value(), value(), value()], [value(), value(), value()]).prop_map(
        |([category, event_type, object_type, key], [attributes, step, is_partially_processed])| {
            Event {
                category,
                event_type,
                object_type,
                key,
                attributes,
                step,
                is_partially_processed,
                offset: None,
                timestamp: None,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(event in event()) {
        let text = event.to_json().unwrap();
        prop_assert!(text.is_ascii());
        let back = Event::from_json(&text).unwrap();
        prop_assert!(back == event, "{}", text);
        prop_assert_eq!(back.to_json().unwrap(), text);
        // None of this panics, whatever it holds.
        let _ = format!("{event} {event:?}");
        let _ = event.changes();
        let _ = event.attributes().map(DataSchema::from_map);
    }

    /// Beside another reader of JSON, which is right about what the standard has.
    #[test]
    fn what_is_written_is_json(entries in vec(("[a-zé\"\\\\\n]{0,6}", any::<i64>()), 0..8)) {
        let map: Map = entries.into_iter().collect();
        let text = Event::added("T", 1, map.clone()).to_json().unwrap();
        let other: serde_json::Value = serde_json::from_str(&text).unwrap();
        let found = other["objattrs"].as_object().unwrap();
        prop_assert_eq!(found.len(), map.len());
        for (name, value) in map.iter() {
            prop_assert_eq!(found[name.as_str().unwrap()].as_i64(), value.as_i64());
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,60}") {
        let _ = Event::from_json(&text);
        let _ = read::value(&text);
    }

    /// Texts that are nearly right: cut off and with a character changed.
    #[test]
    fn what_is_nearly_right_is_read_or_refused(
        event in event(),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(&b"\"\\{}[],:-+.0123456789eEtfnuNI Hd(=)"[..]),
    ) {
        let mut text = event.to_json().unwrap().into_bytes();
        let place = at.index(text.len());
        text[place] = byte;
        for end in [text.len(), cut.index(text.len())] {
            let text = std::str::from_utf8(&text[..end]).unwrap();
            if let Ok(event) = Event::from_json(text) {
                // What was understood is understood the same again.
                let written = event.to_json().unwrap();
                let again = Event::from_json(&written).unwrap();
                prop_assert_eq!(again.to_json().unwrap(), written);
            }
        }
    }

    #[test]
    fn dates_are_days_and_seconds(date in date()) {
        prop_assert_eq!(DateTime::of_utc(date.to_utc()).unwrap(), date);
        prop_assert_eq!(date.to_utc().to_string(), format!("{date}Z"));
    }
}

#[test]
fn nesting_is_bounded_both_ways() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nest = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        assert!(read::value(&nest(400)).is_ok());
        let error = read::value(&nest(401)).unwrap_err();
        assert!(error.contains("deeper than 400"), "{error}");
        // Neither the stack nor time without end.
        assert!(read::value(&open.repeat(1_000_000)).is_err());
    }
    let deep = (0..400).fold(Value::from(1), |inner, _| Value::List(vec![inner]));
    assert!(write::value(&deep).is_ok());
    let error = Event::removed("U", Value::List(vec![deep])).to_json().unwrap_err().to_string();
    assert!(error.contains("deeper than 400"), "{error}");
}

#[test]
fn many_names_take_no_square_of_time() {
    // With a name compared with each other this would take minutes.
    let names: Vec<_> = (0..200_000).map(|n| format!("\"n{}\":{n}", n % 150_000)).collect();
    let Value::Map(map) = read::value(&format!("{{{}}}", names.join(","))).unwrap() else {
        panic!("it is an object")
    };
    assert_eq!(map.len(), 150_000);
    assert_eq!(map.iter().next().unwrap().1, &Value::from(150_000), "the last one wins");
}

#[test]
fn numbers_as_json_has_them() {
    let int = |text: &str| read::value(text).unwrap();
    assert_eq!(int("-0"), Value::from(0));
    assert_eq!(int("1E400"), Value::from(f64::INFINITY));
    assert_eq!(int("9223372036854775808"), Value::from(9_223_372_036_854_775_808_u64));
    assert_eq!("0009".parse::<Integer>().unwrap(), Integer::from(9));
    assert_eq!("-000".parse::<Integer>().unwrap(), Integer::from(0));
    assert_eq!(Integer::from(u128::MAX).to::<u128>(), Some(u128::MAX));
    assert!(read::value(&"9".repeat(4300)).is_ok());
    assert!(read::value(&"9".repeat(4301)).unwrap_err().contains("4300 digits"));
    for bad in ["01", "+1", "1.", ".5", "-", "1e", "0x1", "nul", "Inf", "-Inf", "1é", "tru€"] {
        assert!(read::value(bad).is_err(), "{bad}");
    }
}
