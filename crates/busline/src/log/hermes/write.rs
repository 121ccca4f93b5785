//! JSON as Python's encoder writes it with an indentation of four: pure ASCII, an item a line.

use std::fmt::Write as _;

use super::marker;
use super::read::DEPTH_MAX;
use super::text::Text;
use super::value::{Map, Value};
use crate::service::wire::python_float;

/// Writes a value; the error says what it cannot hold.
pub(super) fn value(value: &Value) -> Result<String, String> {
    let mut writer = Writer { out: String::new() };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// Writes an object of these members in this order.
pub(super) fn members(members: &[(&str, &Value)]) -> Result<String, String> {
    let mut writer = Writer { out: String::new() };
    writer.items('{', '}', 0, members, |writer, (name, value)| {
        writer.plain(name);
        writer.out.push_str(": ");
        writer.value(value, 1)
    })?;
    Ok(writer.out)
}

struct Writer {
    out: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), String> {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => self.out.push_str(&number.to_string()),
            Value::Float(number) => self.out.push_str(&python_float(*number)),
            Value::Text(text) => self.text(text),
            Value::DateTime(date) => self.plain(&marker::of_date(*date)),
            Value::Bytes(bytes) => self.plain(&marker::of_bytes(bytes)),
            Value::List(items) => {
                self.items('[', ']', depth, items, |writer, item| writer.value(item, depth + 1))?;
            }
            Value::Map(map) => self.map(map, depth)?,
        }
        Ok(())
    }

    fn map(&mut self, map: &Map, depth: usize) -> Result<(), String> {
        self.items('{', '}', depth, map.iter(), |writer, (name, value)| {
            writer.text(name);
            writer.out.push_str(": ");
            writer.value(value, depth + 1)
        })
    }

    fn items<I: IntoIterator>(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: I,
        mut write: impl FnMut(&mut Self, I::Item) -> Result<(), String>,
    ) -> Result<(), String> {
        if depth >= DEPTH_MAX {
            return Err(format!("lists and maps nest deeper than {DEPTH_MAX}"));
        }
        self.out.push(open);
        let mut is_empty = true;
        for item in items {
            if !std::mem::take(&mut is_empty) {
                self.out.push(',');
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n("    ", depth));
    }

    fn plain(&mut self, text: &str) {
        self.units(text.encode_utf16());
    }

    fn text(&mut self, text: &Text) {
        self.units(text.utf16());
    }

    fn units(&mut self, units: impl Iterator<Item = u16>) {
        self.out.push('"');
        for unit in units {
            match (u8::try_from(unit), unit) {
                (Ok(b'"'), _) => self.out.push_str("\\\""),
                (Ok(b'\\'), _) => self.out.push_str("\\\\"),
                (Ok(0x08), _) => self.out.push_str("\\b"),
                (Ok(0x0c), _) => self.out.push_str("\\f"),
                (Ok(b'\n'), _) => self.out.push_str("\\n"),
                (Ok(b'\r'), _) => self.out.push_str("\\r"),
                (Ok(b'\t'), _) => self.out.push_str("\\t"),
                (Ok(byte @ b' '..=b'~'), _) => self.out.push(char::from(byte)),
                (_, unit) => {
                    // A `String` takes everything.
                    let _ = write!(self.out, "\\u{unit:04x}");
                }
            }
        }
        self.out.push('"');
    }
}
