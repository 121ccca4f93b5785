//! Payloads of services: read from files, written in either format, shown and kept.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busline::Limits;
use busline::service::wire::{self, Body, Format, Value};
use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::exit::{Failure, Outcome};
use crate::input::Source;

/// The payload that an argument names: CBOR in a file named `.cbor`, else JSON.
pub(super) fn read(path: &Path, format: Format) -> Outcome<Bytes> {
    let source = Source::of(Some(path));
    let bytes = source.read(Limits::default().payload_bytes_max)?;
    let is_cbor = source.content_type() == Some(Format::Cbor.content_type());
    let written = if is_cbor { Format::Cbor } else { Format::Json };
    let named = |error: busline::Error| Failure::from(error).prefixed(&path.display().to_string());
    if bytes.is_empty() {
        return Err(Failure::usage(format!("{}: the payload is empty", path.display())));
    }
    let body = Body::new(written, bytes.into()).map_err(named)?;
    wire::encode(format, &body).map_err(named)
}

/// The format that the option asks for.
pub(super) fn format(json: bool) -> Format {
    if json { Format::Json } else { Format::Cbor }
}

/// A payload as JSON. What JSON has no place for: bytes are `{"base64": …}`, tags `{"tag", "value"}`,
/// numbers beyond 64 bits and infinities are text.
pub(super) fn shown(body: &Body) -> Json {
    body.value().map_or(Json::Null, |value| of(&value))
}

/// What cannot be decoded, as text where it is that.
pub(super) fn raw(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => base64(bytes),
    }
}

/// Bytes as JSON.
fn base64(bytes: &[u8]) -> Json {
    json!({"base64": STANDARD.encode(bytes)})
}

fn of(value: &Value) -> Json {
    match value {
        Value::Integer(number) => {
            let number = i128::from(*number);
            match (i64::try_from(number), u64::try_from(number)) {
                (Ok(number), _) => number.into(),
                (_, Ok(number)) => number.into(),
                _ => number.to_string().into(),
            }
        }
        Value::Float(number) if number.is_finite() => (*number).into(),
        Value::Float(number) => number.to_string().into(),
        Value::Text(text) => text.clone().into(),
        Value::Bool(value) => (*value).into(),
        Value::Bytes(bytes) => base64(bytes),
        Value::Tag(tag, inner) => {
            long(value).unwrap_or_else(|| json!({"tag": tag, "value": of(inner)}))
        }
        Value::Array(items) => items.iter().map(of).collect(),
        Value::Map(entries) => {
            let name = |key: &Value| match of(key) {
                Json::String(text) => text,
                other => other.to_string(),
            };
            entries.iter().map(|(key, value)| (name(key), of(value))).collect()
        }
        _ => Json::Null,
    }
}

/// An integer that CBOR writes as bytes, as the text of its digits.
fn long(value: &Value) -> Option<Json> {
    let is_long = matches!(value, Value::Tag(2 | 3, _));
    let digits = is_long.then(|| wire::encode(Format::Json, value).ok()).flatten()?;
    Some(String::from_utf8_lossy(&digits).into())
}

/// Keeps the bytes as they came, in a new file of this directory that is named after them.
pub(super) fn save(directory: &Path, name: &str, format: Format, bytes: &[u8]) -> Outcome<PathBuf> {
    let extension = if format == Format::Cbor { "cbor" } else { "json" };
    let name = file_name(name);
    for number in 1..=u32::MAX {
        let number = if number == 1 { String::new() } else { format!(".{number}") };
        let path = directory.join(format!("{name}{number}.{extension}"));
        // Nothing that is there is written over, whoever else saves at the same time.
        match File::create_new(&path) {
            Ok(mut file) => {
                file.write_all(bytes).map_err(|error| Failure::file(&path, &error))?;
                return Ok(path);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::file(&path, &error)),
        }
    }
    Err(Failure::usage(format!("{}: there are too many files '{name}'", directory.display())))
}

/// What can be a file's name on every system: keys and ids of others may hold anything.
fn file_name(text: &str) -> String {
    let keep = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = text.chars().take(100).map(keep).collect();
    name.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_become_json() {
        // {1: h'ff', "n": 18446744073709551615, "t": 1(0), "f": Infinity}
        let cbor = [
            &[0xa4, 0x01, 0x41, 0xff, 0x61, b'n', 0x1b][..],
            &[0xff; 8],
            &[0x61, b't', 0xc1, 0x00, 0x61, b'f', 0xf9, 0x7c, 0x00],
        ];
        let body = Body::new(Format::Cbor, cbor.concat().into()).unwrap();
        // 2^70 and -2^70.
        let long =
            [&[0x82, 0xc2, 0x49, 0x40][..], &[0; 8], &[0xc3, 0x49, 0x3f], &[0xff; 8]].concat();
        let long = Body::new(Format::Cbor, long.into()).unwrap();
        assert_eq!(shown(&long), json!(["1180591620717411303424", "-1180591620717411303424"]));
        let expected = json!({
            "1": {"base64": "/w=="}, "n": u64::MAX, "t": {"tag": 1, "value": 0}, "f": "inf"
        });
        assert_eq!(shown(&body), expected);
    }

    #[test]
    fn files_stay_in_their_directory_and_are_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let save = |name: &str| {
            let path = save(directory.path(), name, Format::Json, b"1").unwrap();
            assert_eq!(path.parent(), Some(directory.path()));
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(save("../a/b c"), "_a_b_c.json");
        assert_eq!(save("../a/b c"), "_a_b_c.2.json");
        assert_eq!(save("../a/b c"), "_a_b_c.3.json");
    }
}
