//! JSON as Python's `json.dumps` writes it: `, ` and `: ` between, floats as `repr` shows them.

use super::long;
use super::serialize::{Open, Sink, Unwritable, Written};

#[derive(Debug, Default)]
pub(super) struct JsonSink {
    out: Vec<u8>,
    /// Escapes what is not ASCII.
    is_ascii: bool,
    /// The tag of a long integer, whose bytes come next.
    bignum: Option<u64>,
}

impl JsonSink {
    /// As `json.dumps` without `ensure_ascii=False`.
    pub(super) fn ascii() -> Self {
        Self { is_ascii: true, ..Self::default() }
    }

    fn push(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.push(&format!("\\u{unit:04x}"));
        }
    }
}

impl Sink for JsonSink {
    const IS_HUMAN_READABLE: bool = true;

    fn null(&mut self) {
        self.push("null");
    }

    fn bool(&mut self, value: bool) {
        self.push(if value { "true" } else { "false" });
    }

    fn int(&mut self, is_negative: bool, magnitude: u128) {
        if is_negative {
            self.push("-");
        }
        match u64::try_from(magnitude) {
            Ok(small) => self.push(&small.to_string()),
            Err(_) => self.push(&magnitude.to_string()),
        }
    }

    fn float(&mut self, value: f64) {
        self.push(&python_float(value));
    }

    fn text(&mut self, value: &str) {
        self.push("\"");
        let mut plain = 0;
        for (at, character) in value.char_indices() {
            let short = match character {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                '\0'..='\u{1f}' => "",
                _ if self.is_ascii && !(' '..='~').contains(&character) => "",
                _ => continue,
            };
            self.push(&value[plain..at]);
            plain = at + character.len_utf8();
            match short {
                "" => self.escape(character),
                short => self.push(short),
            }
        }
        self.push(&value[plain..]);
        self.push("\"");
    }

    fn bytes(&mut self, value: &[u8]) -> Written {
        let Some(tag) = self.bignum.take() else {
            return Err(Unwritable("JSON has no bytes".to_owned()));
        };
        let text = long::to_decimal(value, tag == 3)?;
        self.push(&text);
        Ok(())
    }

    fn tag(&mut self, tag: u64) -> Written {
        if !matches!(tag, 2 | 3) {
            return Err(Unwritable(format!("JSON has no tags, as {tag}")));
        }
        self.bignum = Some(tag);
        Ok(())
    }

    fn tag_end(&mut self) -> Written {
        match self.bignum.take() {
            Some(tag) => Err(Unwritable(format!("tag {tag} is of bytes"))),
            None => Ok(()),
        }
    }

    fn simple(&mut self, value: u8) -> Written {
        Err(Unwritable(format!("JSON has no simple values, as {value}")))
    }

    fn open(&mut self, is_map: bool, len: Option<usize>) -> Open {
        let open = Open { is_map, len, at: self.out.len() };
        self.push(if is_map { "{" } else { "[" });
        open
    }

    fn item(&mut self, index: usize) {
        if index > 0 {
            self.push(", ");
        }
    }

    /// Numbers, truth values and null become text, as in Python.
    fn key_end(&mut self, at: usize) -> Written {
        match self.out.get(at) {
            Some(b'"') => {}
            Some(b'[' | b'{') => {
                return Err(Unwritable("JSON has no lists and maps as keys".to_owned()));
            }
            _ => {
                self.out.insert(at, b'"');
                self.push("\"");
            }
        }
        self.push(": ");
        Ok(())
    }

    fn close(&mut self, open: Open, _: usize) -> Written {
        self.push(if open.is_map { "}" } else { "]" });
        Ok(())
    }

    fn at(&self) -> usize {
        self.out.len()
    }

    fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

/// A float as Python's `repr`: the shortest digits that mean it, with an exponent below 1e-4 and from
/// 1e16 on.
pub(crate) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-Infinity" } else { "Infinity" }.to_owned();
    }
    let exponential = format!("{value:e}");
    let (digits, exponent) = exponential.split_once('e').unwrap_or((&exponential, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}
