//! Values as people read them in logs; no more than they need.

use super::text::Text;
use super::value::Value;

/// The longest text that is shown whole.
const CHARS_MAX: usize = 256;

/// A value that names something: as Python prints it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => shortened(&text.to_str_lossy()),
        other => quoted(other),
    }
}

/// A primary key: a composite one as Python prints a tuple.
pub(super) fn key(value: &Value) -> String {
    match value {
        Value::List(items) => match &items[..] {
            [only] => format!("({},)", quoted(only)),
            items => format!("({})", items.iter().map(quoted).collect::<Vec<_>>().join(", ")),
        },
        other => plain(other),
    }
}

/// How much there is, and nothing of what it is.
pub(super) fn size(value: &Value) -> String {
    match value {
        Value::Map(map) => format!("{} attributes", map.len()),
        other => format!("{} for attributes", other.kind()),
    }
}

fn quoted(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => shortened(&number.to_string()),
        Value::Float(number) => crate::service::wire::python_float(*number),
        Value::Text(text) => quoted_text(text),
        Value::DateTime(date) => date.to_string().replace('T', " "),
        Value::List(items) => format!("<{} values>", items.len()),
        Value::Map(map) => format!("<{} values>", map.len()),
        Value::Bytes(bytes) => format!("<{} bytes>", bytes.len()),
    }
}

fn quoted_text(text: &Text) -> String {
    let text = text.to_str_lossy();
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for c in shortened(&text).chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            c if c == quote => shown.extend(['\\', c]),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown.push(quote);
    shown
}

/// The text on one line, and no longer than is good for a log.
fn shortened(text: &str) -> String {
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        match c {
            _ if at == CHARS_MAX => {
                shown.push('…');
                break;
            }
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}
