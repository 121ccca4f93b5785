//! JSON as Python's `json.loads` reads it, into values that keep everything: long integers, `NaN` and
//! `Infinity`, half surrogate pairs, and the order of names.

use super::integer::{DIGITS_MAX, Integer};
use super::marker;
use super::text::Text;
use super::value::{Map, Value};

/// How deeply lists and objects may stand in one another; Python's own limits are near that.
pub(super) const DEPTH_MAX: usize = 400;

/// Why a text is no JSON, with the byte.
pub(super) type Read<T> = Result<T, String>;

/// Reads one value that is the whole text, markers being what they stand for.
pub(super) fn value(text: &str) -> Read<Value> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong("more follows the value")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, why: &str) -> String {
        format!("{why} at byte {}", self.at)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// The next byte that is no white space; it is not taken.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte(self.at) {
            self.at += 1;
        }
        self.byte(self.at)
    }

    fn value(&mut self, depth: usize) -> Read<Value> {
        match self.peek() {
            None => Err(self.wrong("the text ends where a value is expected")),
            Some(b'{' | b'[') if depth >= DEPTH_MAX => {
                let why = format!("lists and objects nest deeper than {DEPTH_MAX}");
                Err(self.wrong(&why))
            }
            Some(b'{') => self.map(depth + 1),
            Some(b'[') => self.list(depth + 1),
            Some(b'"') => self.string().map(marker::value_of),
            Some(b'n') => self.word("null", Value::Null),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'N') => self.word("NaN", Value::Float(f64::NAN)),
            Some(b'I') => self.word("Infinity", Value::Float(f64::INFINITY)),
            Some(b'-') if self.byte(self.at + 1) == Some(b'I') => {
                self.word("-Infinity", Value::Float(f64::NEG_INFINITY))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err(self.wrong("a value is expected")),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Read<Value> {
        // By bytes: the place may be inside of a character of something that is no word.
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("a value is expected"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Read<Value> {
        let mut items = Vec::new();
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            if !self.goes_on(b']')? {
                return Ok(Value::List(items));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Read<Value> {
        let mut entries = Vec::new();
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Map(Map::new()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a name is expected, which is a text,"));
            }
            let name = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.wrong("':' is expected"));
            }
            self.at += 1;
            entries.push((name, self.value(depth)?));
            if !self.goes_on(b'}')? {
                return Ok(Value::Map(entries.into_iter().collect::<Map>()));
            }
        }
    }

    /// Whether there is another item, behind a comma, or the end.
    fn goes_on(&mut self, close: u8) -> Read<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.wrong("',' or the end of the list or object is expected")),
        }
    }

    fn number(&mut self) -> Read<Value> {
        let start = self.at;
        if self.byte(self.at) == Some(b'-') {
            self.at += 1;
        }
        match self.byte(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.wrong("a digit is expected")),
        }
        let integer_end = self.at;
        if self.byte(self.at) == Some(b'.') && self.is_digit(self.at + 1) {
            self.at += 1;
            self.digits();
        }
        if let Some(b'e' | b'E') = self.byte(self.at) {
            let sign = usize::from(matches!(self.byte(self.at + 1), Some(b'+' | b'-')));
            if self.is_digit(self.at + 1 + sign) {
                self.at += 1 + sign;
                self.digits();
            }
        }
        let digits = &self.text[start..self.at];
        if self.at > integer_end {
            let float = digits.parse().map_err(|_| self.wrong("a number is expected"))?;
            return Ok(Value::Float(float));
        }
        let why = format!("a whole number has more than {DIGITS_MAX} digits");
        Integer::of_digits(digits).map(Value::Int).ok_or_else(|| self.wrong(&why))
    }

    fn is_digit(&self, at: usize) -> bool {
        self.byte(at).is_some_and(|byte| byte.is_ascii_digit())
    }

    fn digits(&mut self) {
        while self.is_digit(self.at) {
            self.at += 1;
        }
    }

    /// The text that starts at the quote here.
    fn string(&mut self) -> Read<Text> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.byte(self.at) {
                Some(b'"') => {
                    let plain = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(plain.into());
                }
                Some(b'\\') => return self.escaped_string(start),
                _ => self.plain_byte()?,
            }
        }
    }

    /// The same of one with escapes, whose first is here.
    fn escaped_string(&mut self, start: usize) -> Read<Text> {
        let mut units: Vec<u16> = self.text[start..self.at].encode_utf16().collect();
        let mut plain = self.at;
        loop {
            match self.byte(self.at) {
                Some(byte @ (b'"' | b'\\')) => {
                    units.extend(self.text[plain..self.at].encode_utf16());
                    self.at += 1;
                    if byte == b'"' {
                        return Ok(Text::from_utf16(&units));
                    }
                    units.push(self.escape()?);
                    plain = self.at;
                }
                _ => self.plain_byte()?,
            }
        }
    }

    fn plain_byte(&mut self) -> Read<()> {
        match self.byte(self.at) {
            None => Err(self.wrong("a text does not end")),
            Some(0..=0x1f) => Err(self.wrong("a text holds a control character")),
            Some(_) => {
                self.at += 1;
                Ok(())
            }
        }
    }

    /// The unit of the escape whose backslash was taken.
    fn escape(&mut self) -> Read<u16> {
        let byte = self.byte(self.at);
        self.at += 1;
        Ok(match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte.into(),
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => 0x0a,
            Some(b'r') => 0x0d,
            Some(b't') => 0x09,
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
                if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(self.wrong("four hexadecimal digits are expected"));
                }
                let digits = &self.text[self.at..self.at + 4];
                self.at += 4;
                u16::from_str_radix(digits, 16).map_err(|why| self.wrong(&why.to_string()))?
            }
            _ => return Err(self.wrong("an unknown escape")),
        })
    }
}
