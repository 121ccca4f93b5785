//! The texts that stand for dates and for bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::date::DateTime;
use super::text::Text;
use super::value::Value;

const DATE: (&str, &str) = ("HermesDatetime(", "Z)");
const BYTES: (&str, &str) = ("HermesBytes(", ")");

/// Bytes as a typed attribute: through serde they are the marker text that Hermes writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Binary(pub Bytes);

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&of_bytes(&self.0))
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = bytes(&text).ok_or_else(|| serde::de::Error::custom("not a HermesBytes(…)"))?;
        Ok(Self(bytes.into()))
    }
}

pub(super) fn of_date(date: DateTime) -> String {
    format!("{}{date}{}", DATE.0, DATE.1)
}

pub(super) fn of_bytes(bytes: &[u8]) -> String {
    format!("{}{}{}", BYTES.0, STANDARD.encode(bytes), BYTES.1)
}

/// What a text that was read stands for: nearly always itself.
pub(super) fn value_of(text: Text) -> Value {
    match text.as_str() {
        Some(plain) if plain.starts_with("Hermes") => {
            let date = date(plain).map(Value::DateTime);
            let value = date.or_else(|| bytes(plain).map(|bytes| Value::Bytes(bytes.into())));
            value.unwrap_or(Value::Text(text))
        }
        _ => Value::Text(text),
    }
}

pub(super) fn date(text: &str) -> Option<DateTime> {
    inside(text, DATE)?.parse().ok()
}

pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    let inside = inside(text, BYTES)?;
    if inside.contains(')') || !inside.is_ascii() { None } else { lenient_base64(inside) }
}

fn inside<'a>(text: &'a str, (open, close): (&str, &str)) -> Option<&'a str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

/// Base64 as Python's `b64decode` reads it unless told otherwise: what is not of the alphabet is skipped, what
/// follows the padding is not looked at; `None` when the padding is wrong.
fn lenient_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut place, mut pads, mut left) = (0_u8, 0_u8, 0_u8);
    for byte in text.bytes() {
        let bits = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' if place >= 2 => {
                pads += 1;
                if place + pads >= 4 {
                    return Some(bytes);
                }
                continue;
            }
            _ => continue,
        };
        pads = 0;
        match place {
            0 => {}
            1 => bytes.push(left << 2 | bits >> 4),
            2 => bytes.push(left << 4 | bits >> 2),
            _ => bytes.push(left << 6 | bits),
        }
        left = bits;
        place = (place + 1) % 4;
    }
    (place == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_python_reads_it() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("AP8Q", Some(b"\x00\xff\x10")),
            ("AP8=", Some(b"\x00\xff")),
            ("AA==BB", Some(b"\x00")),
            ("%%%", Some(b"")),
            ("A A\n= =", Some(b"\x00")),
            ("=", Some(b"")),
            ("A=A=A=A=", Some(b"\x00\x00")),
            ("AAAA====", Some(b"\x00\x00\x00")),
            ("A", None),
            ("AA", None),
            ("AAA", None),
            ("AA=", None),
            ("AA=A", None),
            ("_-8=", None),
        ] {
            let found = lenient_base64(text);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn only_a_whole_text_is_a_marker() {
        for text in [
            "HermesDatetime(2024-13-02T03:04:05Z)",
            "HermesDatetime(2024-01-02T03:04:60Z)",
            "HermesDatetime(0000-01-02T03:04:05Z)",
            "HermesDatetime(2023-02-29T03:04:05Z)",
            "HermesDatetime(2024-01-02T24:04:05Z)",
            "HermesDatetime(2024-01-02T03:04:05Z)\n",
            " HermesDatetime(2024-01-02T03:04:05Z)",
            "HermesDatetime(2024-01-02T03:04:05)",
            "HermesDatetime(+024-01-02T03:04:05Z)",
            "HermesBytes(AA==",
            "HermesBytes(AA==))",
            "HermesBytes(é)",
        ] {
            assert_eq!(value_of(text.into()), Value::from(text), "{text}");
        }
        let date = DateTime::new((2024, 2, 29), (23, 59, 58)).unwrap();
        assert_eq!(value_of(of_date(date).into()), Value::DateTime(date));
        assert_eq!(date.to_utc().to_string(), "2024-02-29T23:59:58Z");
        assert_eq!(DateTime::of_utc(date.to_utc()).unwrap(), date);
    }
}
