//! JSON as Python's `json.loads` reads it.
//!
//! More than the standard: `NaN`, `Infinity` and `-Infinity`, integers of any size (up to 4300 digits),
//! UTF-8 with a byte order mark, UTF-16 and UTF-32. A surrogate without its other half becomes U+FFFD,
//! as Rust's text cannot hold it. Nesting is bounded.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer, StringDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::body::DEPTH_MAX;
use super::long::{self, DIGITS_MAX};
use super::unicode::{REPLACEMENT, scalar};

/// Why a text is no JSON, or not of the shape asked for.
#[derive(Debug)]
pub(super) struct Unreadable(pub(super) String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

impl de::Error for Unreadable {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self(why.to_string())
    }
}

pub(super) type Read<T> = Result<T, Unreadable>;

/// Reads one value that is the whole text.
pub(super) fn from_str<'de, T: de::Deserialize<'de>>(text: &'de str) -> Read<T> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let value = T::deserialize(&mut reader)?;
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.wrong("more follows the value")),
    }
}

struct Reader<'de> {
    text: &'de str,
    at: usize,
    depth: usize,
}

impl<'de> Reader<'de> {
    fn wrong(&self, why: &str) -> Unreadable {
        Unreadable(format!("{why} at byte {}", self.at))
    }

    fn bytes(&self) -> &'de [u8] {
        self.text.as_bytes()
    }

    /// The next byte that is no white space; it is not taken.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes().get(self.at) {
            self.at += 1;
        }
        self.bytes().get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> Read<()> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a value is expected"));
        }
        self.at += word.len();
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Read<()> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(&format!("'{}' is expected", char::from(byte))));
        }
        self.at += 1;
        Ok(())
    }

    fn enter(&mut self) -> Read<()> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong(&format!("lists and maps nest deeper than {DEPTH_MAX}")));
        }
        Ok(())
    }

    /// Steps to the next item, or past the closing byte: then there is none.
    fn next_item(&mut self, is_first: &mut bool, close: u8) -> Read<bool> {
        if std::mem::take(is_first) {
            if self.peek() != Some(close) {
                return Ok(true);
            }
        } else {
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(byte) if byte == close => {}
                _ => return Err(self.wrong("',' or the end of the list or map is expected")),
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(false)
    }

    /// The text that starts at the quote here.
    fn string(&mut self) -> Read<Cow<'de, str>> {
        self.expect(b'"')?;
        let (text, mut plain) = (self.text, self.at);
        let mut unescaped = String::new();
        loop {
            match self.bytes().get(self.at) {
                None => return Err(self.wrong("a text does not end")),
                Some(0..=0x1f) => return Err(self.wrong("a text holds a control character")),
                Some(b'"') => break,
                Some(b'\\') => {
                    unescaped.push_str(&text[plain..self.at]);
                    self.at += 1;
                    unescaped.push(self.escaped()?);
                    plain = self.at;
                }
                Some(_) => self.at += 1,
            }
        }
        let rest = &text[plain..self.at];
        self.at += 1;
        if unescaped.is_empty() && text.as_bytes().get(plain.wrapping_sub(1)) == Some(&b'"') {
            return Ok(Cow::Borrowed(rest));
        }
        unescaped.push_str(rest);
        Ok(Cow::Owned(unescaped))
    }

    /// The character of the escape whose backslash was taken.
    fn escaped(&mut self) -> Read<char> {
        let byte = self.bytes().get(self.at).copied();
        self.at += 1;
        Ok(match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let unit = self.unit()?;
                if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with("\\u") {
                    let back = self.at;
                    self.at += 2;
                    let low = self.unit()?;
                    if (0xdc00..0xe000).contains(&low) {
                        let joined = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        return Ok(scalar(joined).unwrap_or(REPLACEMENT));
                    }
                    self.at = back;
                }
                scalar(unit).unwrap_or(REPLACEMENT)
            }
            _ => return Err(self.wrong("an unknown escape")),
        })
    }

    fn unit(&mut self) -> Read<u32> {
        let digits = self.bytes().get(self.at..self.at + 4).unwrap_or_default();
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(self.wrong("four hexadecimal digits are expected"));
        }
        let digits = &self.text[self.at..self.at + 4];
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(de::Error::custom)
    }

    /// The number that starts here, and whether it is an integer.
    fn number(&mut self) -> Read<(&'de str, bool)> {
        let start = self.at;
        if self.bytes().get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.bytes().get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.wrong("a value is expected")),
        }
        let integer_end = self.at;
        // What does not go on as a number ends it, as in Python; then it is the wrong thing that follows.
        if self.digit_at(self.at + 1) && self.bytes()[self.at] == b'.' {
            self.at += 1;
            self.digits();
        }
        if let Some(b'e' | b'E') = self.bytes().get(self.at) {
            let sign = matches!(self.bytes().get(self.at + 1), Some(b'+' | b'-'));
            if self.digit_at(self.at + 1 + usize::from(sign)) {
                self.at += 1 + usize::from(sign);
                self.digits();
            }
        }
        let is_integer = self.at == integer_end;
        if is_integer && self.at - start > DIGITS_MAX {
            let why = format!("an integer has more than {DIGITS_MAX} digits");
            return Err(self.wrong(&why));
        }
        Ok((&self.text[start..self.at], is_integer))
    }

    fn digit_at(&self, at: usize) -> bool {
        self.bytes().get(at).is_some_and(u8::is_ascii_digit)
    }

    fn digits(&mut self) {
        while self.digit_at(self.at) {
            self.at += 1;
        }
    }

    /// The number here as a float; `None` when there is no number.
    fn float(&mut self) -> Read<Option<f64>> {
        let value = match self.peek() {
            Some(b'N') => self.take("NaN").map(|()| f64::NAN)?,
            Some(b'I') => self.take("Infinity").map(|()| f64::INFINITY)?,
            Some(b'-') if self.bytes().get(self.at + 1) == Some(&b'I') => {
                self.take("-Infinity").map(|()| f64::NEG_INFINITY)?
            }
            Some(b'-' | b'0'..=b'9') => self.number()?.0.parse().map_err(de::Error::custom)?,
            _ => return Ok(None),
        };
        Ok(Some(value))
    }
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = Unreadable;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.peek() {
            Some(b'n') => self.take("null").and_then(|()| visitor.visit_unit()),
            Some(b't') => self.take("true").and_then(|()| visitor.visit_bool(true)),
            Some(b'f') => self.take("false").and_then(|()| visitor.visit_bool(false)),
            Some(b'"') => match self.string()? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            Some(b'[') => {
                self.enter()?;
                let mut items = Items { reader: self, is_first: true, is_over: false };
                let value = visitor.visit_seq(&mut items)?;
                items.end(b']').map(|()| value)
            }
            Some(b'{') => {
                self.enter()?;
                let mut items = Items { reader: self, is_first: true, is_over: false };
                let value = visitor.visit_map(&mut items)?;
                items.end(b'}').map(|()| value)
            }
            Some(b'-') if self.bytes().get(self.at + 1) == Some(&b'I') => {
                self.deserialize_f64(visitor)
            }
            Some(b'-' | b'0'..=b'9') => match self.number()? {
                (digits, true) => integer(digits, visitor),
                (float, false) => visitor.visit_f64(float.parse().map_err(de::Error::custom)?),
            },
            Some(b'N' | b'I') => self.deserialize_f64(visitor),
            Some(_) => Err(self.wrong("a value is expected")),
            None => Err(self.wrong("the text ends where a value is expected,")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.float()? {
            Some(value) => visitor.visit_f64(value),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        self.deserialize_f64(visitor)
    }

    /// Numbers are looked over, not made.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.peek() {
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => {
                if self.bytes().get(self.at + 1) == Some(&b'I') || !self.digit_or_sign() {
                    self.float()?;
                } else {
                    self.number()?;
                }
                visitor.visit_unit()
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.peek() {
            Some(b'n') => self.take("null").and_then(|()| visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        match self.peek() {
            Some(b'"') => {
                let variant = self.string()?;
                visitor.visit_enum(StrDeserializer::new(&variant))
            }
            Some(b'{') => {
                self.enter()?;
                let mut items = Items { reader: self, is_first: true, is_over: false };
                let value = visitor.visit_enum(MapAccessDeserializer::new(&mut items))?;
                items.end(b'}').map(|()| value)
            }
            _ => Err(self.wrong("a variant is expected, as text or as a map of one entry,")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier
    }
}

impl Reader<'_> {
    fn digit_or_sign(&self) -> bool {
        matches!(self.bytes().get(self.at), Some(b'-' | b'0'..=b'9'))
    }
}

/// The items of a list or map.
struct Items<'a, 'de> {
    reader: &'a mut Reader<'de>,
    is_first: bool,
    is_over: bool,
}

impl Items<'_, '_> {
    fn next(&mut self, close: u8) -> Read<bool> {
        if !self.is_over {
            self.is_over = !self.reader.next_item(&mut self.is_first, close)?;
        }
        Ok(!self.is_over)
    }

    /// Nothing may be left over.
    fn end(mut self, close: u8) -> Read<()> {
        match self.next(close)? {
            true => Err(self.reader.wrong("more items than expected")),
            false => Ok(()),
        }
    }
}

impl<'de> de::SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = Unreadable;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        if !self.next(b']')? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for &mut Items<'_, 'de> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Read<Option<K::Value>> {
        if !self.next(b'}')? {
            return Ok(None);
        }
        if self.reader.peek() != Some(b'"') {
            return Err(self.reader.wrong("a key is expected, which is a text,"));
        }
        let key = self.reader.string()?;
        seed.deserialize(Key(key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<T::Value> {
        self.reader.expect(b':')?;
        seed.deserialize(&mut *self.reader)
    }
}

/// The key of a map: a text, or where the type wants that a number.
struct Key<'de>(Cow<'de, str>);

macro_rules! number_keys {
    ($($name:ident => $visit:ident)*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            match self.0.parse() {
                Ok(number) => visitor.$visit(number),
                Err(_) => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Key<'de> {
    type Error = Unreadable;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.0 {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    number_keys! {
        deserialize_i8 => visit_i8
        deserialize_i16 => visit_i16
        deserialize_i32 => visit_i32
        deserialize_i64 => visit_i64
        deserialize_u8 => visit_u8
        deserialize_u16 => visit_u16
        deserialize_u32 => visit_u32
        deserialize_u64 => visit_u64
        deserialize_bool => visit_bool
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Read<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        let text: StringDeserializer<Unreadable> = self.0.into_owned().into_deserializer();
        text.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

/// An integer of any size; what 128 bits do not hold is handed on as CBOR's long integers are.
fn integer<'de, V: Visitor<'de>>(digits: &str, visitor: V) -> Read<V::Value> {
    if let Ok(small) = digits.parse() {
        return visitor.visit_i64(small);
    }
    if let Ok(small) = digits.parse() {
        return visitor.visit_u64(small);
    }
    if let Ok(wide) = digits.parse() {
        return visitor.visit_i128(wide);
    }
    if let Ok(wide) = digits.parse() {
        return visitor.visit_u128(wide);
    }
    let (is_negative, bytes) = long::from_decimal(digits);
    let mut cbor = vec![if is_negative { 0xc3 } else { 0xc2 }, 0x59];
    // At most 4300 digits: that many bytes fit two.
    cbor.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    cbor.extend_from_slice(&bytes);
    let mut long = cbor2::de::Deserializer::from_reader(&cbor[..]);
    long.deserialize_any(visitor).map_err(de::Error::custom)
}
