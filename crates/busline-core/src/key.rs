//! Keys and the patterns that select them: the AMQP 0-9-1 topic grammar on every transport.
//!
//! A key is any UTF-8 of up to 255 bytes. For matching it falls into words at its dots; the empty
//! key has no word. In a pattern `*` stands for exactly one word and `#` for zero or more.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The longest key or pattern, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// The dotted words a message carries; the empty key is valid.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(ByteString);

impl Key {
    /// Checks the length; `Limit` when it is over 255 bytes.
    pub fn new(key: impl Into<ByteString>) -> Result<Self> {
        let key = key.into();
        if key.len() > KEY_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("key has {} bytes, at most {KEY_BYTES_MAX} are allowed", key.len()),
            ));
        }
        Ok(Self(key))
    }

    /// The key without words.
    pub const fn empty() -> Self {
        Self(ByteString::new())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Key {
    type Error = Error;

    fn try_from(key: &str) -> Result<Self> {
        Self::new(key)
    }
}

impl TryFrom<String> for Key {
    type Error = Error;

    fn try_from(key: String) -> Result<Self> {
        Self::new(key)
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(key: &str) -> Result<Self> {
        Self::new(key)
    }
}

/// A pattern over keys, parsed once.
///
/// ```
/// use busline_core::{Key, KeyPattern};
/// let strong: KeyPattern = "quake.*.strong".parse()?;
/// assert!(strong.matches("quake.us.strong"));
/// assert!(!strong.matches("quake.us.deep.strong"));
/// # Ok::<(), busline_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPattern(ByteString);

impl KeyPattern {
    /// Parses a pattern; `Limit` names the word that is no word, `*` or `#`.
    pub fn new(pattern: impl Into<ByteString>) -> Result<Self> {
        let pattern = pattern.into();
        let wrong = |why: String| {
            Err(Error::new(ErrorKind::Limit, format!("pattern '{}' {why}", pattern.escape_debug()))
                .hint("a pattern is dotted words, '*' for exactly one word, '#' for any number"))
        };
        if pattern.len() > KEY_BYTES_MAX {
            return wrong(format!("has {} bytes, at most {KEY_BYTES_MAX}", pattern.len()));
        }
        for word in pattern.split('.') {
            if word.len() > 1 && word.contains(['*', '#']) {
                return wrong(format!("mixes a wildcard with text in the word '{word}'"));
            }
        }
        Ok(Self(pattern))
    }

    /// The pattern that every key matches.
    pub const fn all() -> Self {
        Self(ByteString::from_static("#"))
    }

    /// Whether this is the pattern that every key matches.
    pub fn is_all(&self) -> bool {
        self.0.split('.').all(|word| word == "#") && !self.0.is_empty()
    }

    /// The only key that it matches, when it has no wildcard.
    pub fn as_key(&self) -> Option<&str> {
        self.0.split('.').all(|word| word != "*" && word != "#").then_some(&self.0)
    }

    /// Whether the key is selected. Allocates nothing; linear but for a `#` in the middle.
    pub fn matches(&self, key: &str) -> bool {
        matches_words(Words::of(&self.0), Words::of(key))
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The words not read yet; `None` when there is no more, which an empty last word is not.
#[derive(Clone, Copy)]
struct Words<'a>(Option<&'a str>);

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        Self((!text.is_empty()).then_some(text))
    }

    fn split(self) -> Option<(&'a str, Self)> {
        let text = self.0?;
        Some(match text.split_once('.') {
            Some((word, rest)) => (word, Self(Some(rest))),
            None => (text, Self(None)),
        })
    }
}

/// The usual greedy match: on a mismatch the last `#` takes one word more.
fn matches_words<'a>(mut pattern: Words<'a>, mut key: Words<'a>) -> bool {
    let mut retry: Option<(Words<'a>, Words<'a>)> = None;
    loop {
        match (pattern.split(), key.split()) {
            (Some(("#", rest)), _) => {
                retry = Some((rest, key));
                pattern = rest;
                continue;
            }
            (Some((word, rest)), Some((found, after))) if word == "*" || word == found => {
                (pattern, key) = (rest, after);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after_hash, taken)) = retry else { return false };
        let Some((_, taken)) = taken.split() else { return false };
        retry = Some((after_hash, taken));
        (pattern, key) = (after_hash, taken);
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyPattern {
    type Err = Error;

    fn from_str(pattern: &str) -> Result<Self> {
        Self::new(pattern)
    }
}

impl TryFrom<&str> for KeyPattern {
    type Error = Error;

    fn try_from(pattern: &str) -> Result<Self> {
        Self::new(pattern)
    }
}

impl Serialize for KeyPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Several patterns; a key matches when one of them does. Without any, every key matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Patterns(Vec<KeyPattern>);

impl Patterns {
    /// Every key.
    pub const fn all() -> Self {
        Self(Vec::new())
    }

    /// Sorted and without repetitions, so that equal sets compare equal.
    pub fn new(patterns: impl IntoIterator<Item = KeyPattern>) -> Self {
        let mut patterns: Vec<_> = patterns.into_iter().collect();
        patterns.sort();
        patterns.dedup();
        if patterns.iter().any(KeyPattern::is_all) {
            patterns.clear();
        }
        Self(patterns)
    }

    /// Whether one of the patterns selects the key.
    pub fn matches(&self, key: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(key))
    }

    /// Whether every key is selected without looking.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The only keys that are selected, when no pattern has a wildcard.
    pub fn as_keys(&self) -> Option<Vec<&str>> {
        if self.is_all() { None } else { self.0.iter().map(KeyPattern::as_key).collect() }
    }

    /// The patterns, sorted; empty when every key matches.
    pub fn as_slice(&self) -> &[KeyPattern] {
        &self.0
    }
}

impl FromIterator<KeyPattern> for Patterns {
    fn from_iter<I: IntoIterator<Item = KeyPattern>>(patterns: I) -> Self {
        Self::new(patterns)
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("#");
        }
        for (index, pattern) in self.0.iter().enumerate() {
            write!(f, "{}{pattern}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let parsed = KeyPattern::new(pattern).unwrap();
        for key in yes {
            assert!(parsed.matches(key), "'{pattern}' must match '{key}'");
        }
        for key in no {
            assert!(!parsed.matches(key), "'{pattern}' must not match '{key}'");
        }
    }

    #[test]
    fn a_pattern_without_wildcards_is_a_key() {
        for literal in ["", "a", "a.b", ".", "a..b", "a."] {
            assert_eq!(KeyPattern::new(literal).unwrap().as_key(), Some(literal));
            check(literal, &[literal], &["other", "a.b.c"]);
        }
        for wild in ["#", "*", "a.*", "#.a", "a.#.b"] {
            assert_eq!(KeyPattern::new(wild).unwrap().as_key(), None, "{wild}");
        }
        let keys = |texts: &[&str]| {
            let patterns = Patterns::new(texts.iter().map(|text| KeyPattern::new(*text).unwrap()));
            patterns.as_keys().map(|keys| keys.join(" "))
        };
        assert_eq!(keys(&["b", "a", "b"]).as_deref(), Some("a b"));
        assert_eq!((keys(&["b", "a.*"]), keys(&["b", "#"]), keys(&[])), (None, None, None));
    }

    #[test]
    fn the_grammar_of_amqp_topics() {
        check("#", &["", "a", "a.b", "a..b", "."], &[]);
        check("*", &["a", "ü"], &["", "a.b", "."]);
        check("", &[""], &["a", "."]);
        check("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a"]);
        check("a.#", &["a", "a.b", "a.b.c"], &["", "b.a"]);
        check("#.z", &["z", "a.z", "a.b.z", "z.z"], &["", "z.a"]);
        check("a.#.z", &["a.z", "a.b.z", "a.z.z", "a.b.c.z"], &["a", "z", "a.z.b"]);
        check("#.b.#", &["b", "a.b", "b.c", "a.b.c"], &["", "a", "bb"]);
        check("*.#", &["a", "a.b"], &[""]);
        check("#.#", &["", "a", "a.b"], &[]);
        check("*.*.#.c", &["a.b.c", "a.b.x.c"], &["a.c", "c"]);
    }

    #[test]
    fn a_wildcard_inside_a_word_is_refused_by_name() {
        for bad in ["a*", "a.b#.c", "##", "**"] {
            let error = KeyPattern::new(bad).unwrap_err();
            assert!(error.to_string().contains("mixes a wildcard"), "{error}");
        }
        assert!(KeyPattern::new("x".repeat(256)).is_err());
        assert!(Key::new("x".repeat(256)).is_err());
    }

    #[test]
    fn a_set_with_the_hash_is_everything() {
        let set = Patterns::new([KeyPattern::all(), "a".parse().unwrap()]);
        assert!(set.is_all() && set.matches("whatever"));
        assert_eq!(set.to_string(), "#");
    }

    /// The plain recursive definition, to compare with.
    fn model(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => (0..=key.len()).any(|n| model(rest, &key[n..])),
            (Some((&"*", p)), Some((_, k))) => model(p, k),
            (Some((word, p)), Some((found, k))) if word == found => model(p, k),
            _ => false,
        }
    }

    fn words(text: &str) -> Vec<&str> {
        if text.is_empty() { Vec::new() } else { text.split('.').collect() }
    }

    proptest! {
        #[test]
        fn equals_the_definition(pattern in "(([ab*#]|)(\\.([ab*#]|)){0,5})", key in "([ab](\\.[ab]?){0,5})?") {
            let parsed = KeyPattern::new(pattern.clone()).unwrap();
            prop_assert_eq!(parsed.matches(&key), model(&words(&pattern), &words(&key)));
        }
    }
}
