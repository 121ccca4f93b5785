//! Text as Python has it: Unicode that may hold half of a surrogate pair.

use std::borrow::Cow;
use std::fmt;

/// Text that may hold half of a surrogate pair, as Python's may; nearly always it is a plain `str`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Text(Repr);

/// UTF-16 only where UTF-8 cannot hold it, so that equal texts are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Utf8(String),
    Utf16(Vec<u16>),
}

impl Text {
    /// From UTF-16, whose surrogates need not be paired.
    pub fn from_utf16(units: &[u16]) -> Self {
        match String::from_utf16(units) {
            Ok(text) => Self(Repr::Utf8(text)),
            Err(_) => Self(Repr::Utf16(units.to_vec())),
        }
    }

    /// The text; `None` when it holds half of a surrogate pair.
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Repr::Utf8(text) => Some(text),
            Repr::Utf16(_) => None,
        }
    }

    /// The text, with U+FFFD for half of a surrogate pair.
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        match &self.0 {
            Repr::Utf8(text) => Cow::Borrowed(text),
            Repr::Utf16(units) => Cow::Owned(String::from_utf16_lossy(units)),
        }
    }

    /// Its UTF-16 units.
    pub fn utf16(&self) -> impl Iterator<Item = u16> + '_ {
        let (utf8, utf16): (&str, &[u16]) = match &self.0 {
            Repr::Utf8(text) => (text, &[]),
            Repr::Utf16(units) => ("", units),
        };
        utf8.encode_utf16().chain(utf16.iter().copied())
    }
}

impl fmt::Display for Text {
    /// With U+FFFD for half of a surrogate pair.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_str_lossy())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Utf8(text) => fmt::Debug::fmt(text, f),
            Repr::Utf16(units) => write!(f, "utf16{units:04x?}"),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Repr::Utf8(text.to_owned()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Repr::Utf8(text))
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}
