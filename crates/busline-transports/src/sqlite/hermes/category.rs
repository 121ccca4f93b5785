//! The category of an event, read out of its JSON text without decoding the rest.
//!
//! It takes what Python's decoder takes, which is more than the standard: `NaN`, `Infinity`, surrogates without their
//! other half. Of a name that stands twice the last one counts.

use std::borrow::Cow;
use std::fmt;

/// Values nest no deeper: Python's decoder gives up at about twice this.
const DEPTH_MAX: usize = 500;

/// How the text of an event begins as Hermes writes it.
const USUAL: &str = "{\n    \"evcategory\": \"";

/// Why a text is no event, and at which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub why: &'static str,
    /// Where, in bytes from the start.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is no JSON object: {} at byte {}", self.why, self.at)
    }
}

impl std::error::Error for Malformed {}

/// The category of an event; `None` when it has none, or one that is no text. The whole text is checked.
pub fn category(text: &str) -> Result<Option<Cow<'_, str>>, Malformed> {
    let mut input = Input { text, at: 0 };
    input.space();
    let category = input.event()?;
    input.space();
    if input.at != text.len() {
        return Err(input.wrong("something follows the object"));
    }
    Ok(category)
}

/// As [`category`], without checking the rest of a text that begins as Hermes writes it.
pub(super) fn category_quickly(text: &str) -> Result<Option<Cow<'_, str>>, Malformed> {
    if let Some((usual, rest)) = text.strip_prefix(USUAL).and_then(|rest| rest.split_once('"'))
        && !usual.contains('\\')
        && !rest.contains("\"evcategory\"")
    {
        return Ok(Some(Cow::Borrowed(usual)));
    }
    category(text)
}

struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn wrong(&self, why: &'static str) -> Malformed {
        Malformed { why, at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self
            .text
            .as_bytes()
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(token.as_bytes()));
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn event(&mut self) -> Result<Option<Cow<'a, str>>, Malformed> {
        if self.peek() != Some(b'{') {
            return Err(self.wrong("no '{'"));
        }
        let mut category = None;
        self.members(DEPTH_MAX, |input, name| {
            if unescaped(name) != "evcategory" {
                return input.value(DEPTH_MAX - 1);
            }
            category = None;
            if input.peek() == Some(b'"') {
                category = Some(unescaped(input.string()?));
                return Ok(());
            }
            input.value(DEPTH_MAX - 1)
        })?;
        Ok(category)
    }

    /// The members of an object; `member` reads a value.
    fn members(
        &mut self,
        depth: usize,
        mut member: impl FnMut(&mut Self, &'a str) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        if depth == 0 {
            return Err(self.wrong("values nest too deeply"));
        }
        self.at += 1;
        self.space();
        if self.take("}") {
            return Ok(());
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            if !self.take(":") {
                return Err(self.wrong("no ':'"));
            }
            self.space();
            member(self, name)?;
            self.space();
            if self.take("}") {
                return Ok(());
            }
            if !self.take(",") {
                return Err(self.wrong("neither ',' nor '}'"));
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        match self.peek() {
            Some(b'{') => self.members(depth, |input, _| input.value(depth - 1)),
            Some(b'[') => self.items(depth),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if ["true", "false", "null", "NaN", "Infinity"]
                .iter()
                .any(|word| self.take(word)) =>
            {
                Ok(())
            }
            _ => Err(self.wrong("no value")),
        }
    }

    fn items(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth == 0 {
            return Err(self.wrong("values nest too deeply"));
        }
        self.at += 1;
        self.space();
        if self.take("]") {
            return Ok(());
        }
        loop {
            self.space();
            self.value(depth - 1)?;
            self.space();
            if self.take("]") {
                return Ok(());
            }
            if !self.take(",") {
                return Err(self.wrong("neither ',' nor ']'"));
            }
        }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.take("-Infinity") {
            return Ok(());
        }
        self.take("-");
        let leading_zero = self.peek() == Some(b'0');
        if self.digits() > 1 && leading_zero {
            return Err(self.wrong("a number begins with 0"));
        }
        if self.take(".") && self.digits() == 0 {
            return Err(self.wrong("no digit"));
        }
        if self.take("e") || self.take("E") {
            let _ = self.take("+") || self.take("-");
            if self.digits() == 0 {
                return Err(self.wrong("no digit"));
            }
        }
        // A lone sign.
        if self.text.as_bytes().get(self.at.wrapping_sub(1)).is_some_and(|last| *last == b'-') {
            return Err(self.wrong("no digit"));
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    /// What stands between the quotes, escapes as they are.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        if !self.take("\"") {
            return Err(self.wrong("no '\"'"));
        }
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let inside = self.text.get(start..self.at);
                    self.at += 1;
                    return inside.ok_or(self.wrong("no text"));
                }
                Some(b'\\') => self.escape()?,
                Some(0..=0x1f) => return Err(self.wrong("a control character in a text")),
                Some(_) => self.at += 1,
                None => return Err(self.wrong("the text ends too early")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        let hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
        let bytes = self.text.as_bytes();
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') if bytes.get(self.at + 1..self.at + 5).is_some_and(hex) => self.at += 5,
            _ => return Err(self.wrong("an unknown escape")),
        }
        Ok(())
    }
}

/// The text behind the escapes of a checked string; half a surrogate becomes U+FFFD, which no category has.
fn unescaped(inside: &str) -> Cow<'_, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    let mut units = Vec::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        match escaped {
            None => units.extend(c.encode_utf16(&mut [0; 2]).iter()),
            Some('u') => {
                let hex: String = chars.by_ref().take(4).collect();
                units.push(u16::from_str_radix(&hex, 16).unwrap_or(0xfffd));
            }
            Some(short) => units.push(match short {
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                other => u16::try_from(u32::from(other)).unwrap_or(0xfffd),
            }),
        }
    }
    Cow::Owned(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Option<String> {
        let found = category(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let quick = category_quickly(text).unwrap();
        assert_eq!(found, quick, "{text}");
        found.map(Cow::into_owned)
    }

    #[test]
    fn the_category_wherever_it_stands() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            of("{\n    \"evcategory\": \"base\",\n    \"x\": {\"evcategory\": 1}\n}"),
            some("base")
        );
        assert_eq!(
            of(r#"{"a":[1,-2.5e+3,"\ud800",{"evcategory":"in"}],"evcategory":"initsync"}"#),
            some("initsync")
        );
        assert_eq!(
            of("{\n    \"evcategory\": \"one\",\n    \"evcategory\": \"two\"\n}"),
            some("two")
        );
        assert_eq!(of(r#"{"\u0065vcategory":"b\u00e4\"\n\ud83d\ude00"}"#), some("bä\"\n😀"));
        assert_eq!(
            of(" {\"evcategory\" : null , \"n\":NaN,\"i\":-Infinity,\"j\":Infinity}\n"),
            None
        );
        assert_eq!(of(r#"{"evcategory":"x","evcategory":7}"#), None);
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{"big":1180591620717411303424,"z":0,"m":-0.0,"t":true}"#), None);
    }

    #[test]
    fn what_is_no_object_is_said_with_its_place() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(600), "]".repeat(600));
        for (text, why) in [
            ("", "no '{'"),
            ("[]", "no '{'"),
            ("null", "no '{'"),
            ("\u{feff}{}", "no '{'"),
            ("{} x", "something follows"),
            ("{\"a\":}", "no value"),
            ("{\"a\" 1}", "no ':'"),
            ("{\"a\":1 \"b\":2}", "neither ','"),
            ("{\"a\":[1 2]}", "neither ','"),
            ("{\"a\":\"b", "ends too early"),
            ("{\"a\":\"\\x\"}", "unknown escape"),
            ("{\"a\":\"\\u12g4\"}", "unknown escape"),
            ("{\"a\":\"\n\"}", "control character"),
            ("{\"a\":01}", "begins with 0"),
            ("{\"a\":-}", "no digit"),
            ("{\"a\":1.}", "no digit"),
            ("{\"a\":1e}", "no digit"),
            ("{a:1}", "no '\"'"),
            (deep.as_str(), "too deeply"),
        ] {
            let error = category(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    proptest! {
        /// Whatever the standard calls an object is one here, with the same category.
        #[test]
        fn agrees_with_the_standard(text in "[{}\\[\\]\",:a-c0-9.eE+\\\\nu \\-]{0,40}", category in ".{0,8}") {
            let standard = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            if standard.is_ok() {
                prop_assert!(super::category(&text).is_ok(), "{}", text);
            }
            let event = serde_json::json!({ "x": text, "evcategory": category, "y": [{ "z": text }] });
            for text in [event.to_string(), serde_json::to_string_pretty(&event).unwrap()] {
                let found = super::category(&text).unwrap();
                prop_assert_eq!(found.as_deref(), Some(category.as_str()));
            }
        }
    }
}
