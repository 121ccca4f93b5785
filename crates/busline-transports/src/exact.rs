//! Headers exactly as they are, as JSON: what the headers of a broker cannot hold, or drop.

use busline_core::{HeaderValue, Headers, Timestamp};
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::{Map, Value, json};

/// `[[name, value], …]`; types that JSON lacks are objects of one entry.
pub(crate) fn write(headers: &Headers) -> String {
    let pairs = headers.iter().map(|(name, value)| json!([&**name, to_json(value)]));
    Value::Array(pairs.collect()).to_string()
}

/// What [`write()`] wrote; `None` for anything else. Depth is bounded by the parser of JSON.
pub(crate) fn parse(text: &str) -> Option<Headers> {
    let Value::Array(pairs) = serde_json::from_str(text).ok()? else { return None };
    pairs.iter().map(pair).collect()
}

fn pair(pair: &Value) -> Option<(ByteString, HeaderValue)> {
    let [name, value] = pair.as_array()?.as_slice() else { return None };
    Some((name.as_str()?.into(), from_json(value)?))
}

fn to_json(value: &HeaderValue) -> Value {
    match value {
        HeaderValue::Bool(value) => json!(value),
        HeaderValue::Int(value) => json!(value),
        // By its bits: JSON has no word for what is no number.
        HeaderValue::Float(value) => json!({ "float": value.to_bits() }),
        HeaderValue::Str(value) => json!(&**value),
        HeaderValue::Bytes(value) => {
            json!({ "bytes": value.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
        }
        HeaderValue::Time(value) => json!({ "us": value.unix_us() }),
        HeaderValue::List(items) => Value::Array(items.iter().map(to_json).collect()),
        HeaderValue::Map(items) => {
            let entry =
                |(name, value): &(ByteString, HeaderValue)| json!([&**name, to_json(value)]);
            json!({ "map": items.iter().map(entry).collect::<Vec<_>>() })
        }
        _ => Value::Null,
    }
}

fn from_json(value: &Value) -> Option<HeaderValue> {
    Some(match value {
        Value::Null => HeaderValue::Null,
        Value::Bool(value) => HeaderValue::Bool(*value),
        Value::Number(value) => HeaderValue::Int(value.as_i64()?),
        Value::String(value) => HeaderValue::Str(value.as_str().into()),
        Value::Array(items) => {
            HeaderValue::List(items.iter().map(from_json).collect::<Option<_>>()?)
        }
        Value::Object(object) => typed(object)?,
    })
}

fn typed(object: &Map<String, Value>) -> Option<HeaderValue> {
    let mut entries = object.iter();
    let (name, value) = entries.next()?;
    if entries.next().is_some() {
        return None;
    }
    Some(match name.as_str() {
        "float" => HeaderValue::Float(f64::from_bits(value.as_u64()?)),
        "us" => HeaderValue::Time(Timestamp::from_unix_us(value.as_i64()?)),
        "bytes" => HeaderValue::Bytes(bytes(value.as_str()?)?),
        "map" => HeaderValue::Map(value.as_array()?.iter().map(pair).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn bytes(hex: &str) -> Option<Bytes> {
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = hex.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<_>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let mut headers = Headers::new();
        headers.append("z", f64::NEG_INFINITY);
        headers.append("a", i64::MIN);
        headers.append("a", HeaderValue::Null);
        headers.append("b", Bytes::from_static(&[0, 255]));
        headers.append("t", Timestamp::from_unix_us(-7));
        let map = vec![("y".into(), HeaderValue::Bool(true)), ("y".into(), "ü".into())];
        headers.append("m", HeaderValue::List(vec![HeaderValue::Map(map), 5.into()]));
        assert_eq!(parse(&write(&headers)), Some(headers));
        assert_eq!(parse("[]"), Some(Headers::new()));
    }

    #[test]
    fn nothing_else_is_read() {
        let deep = "[".repeat(100_000);
        for bad in
            ["", "{}", "[1]", "[[\"a\"]]", "[[\"a\",{}]]", "[[\"a\",{\"bytes\":\"0\"}]]", &deep]
        {
            assert_eq!(parse(bad), None);
        }
    }
}
