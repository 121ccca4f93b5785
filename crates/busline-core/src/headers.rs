//! Headers: an ordered multimap from names to typed values.

use bytes::Bytes;
use bytestring::ByteString;

use crate::time::Timestamp;

/// A typed header value, wide enough for what the brokers' own tables can hold.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HeaderValue {
    /// Present without a value.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// Text.
    Str(ByteString),
    /// Bytes.
    Bytes(Bytes),
    /// A point in time.
    Time(Timestamp),
    /// Values in order.
    List(Vec<Self>),
    /// Named values in order.
    Map(Vec<(ByteString, Self)>),
}

impl HeaderValue {
    /// The text, when it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, when it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// An estimate of its bytes on the wire, for bounds.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 1,
            Self::Int(_) | Self::Float(_) | Self::Time(_) => 8,
            Self::Str(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(items) => items.iter().map(Self::size_bytes).sum(),
            Self::Map(items) => items.iter().map(|(name, v)| name.len() + v.size_bytes()).sum(),
        }
    }

    /// How deeply lists and maps stand in one another; 1 for a plain value.
    pub fn depth(&self) -> usize {
        let inner = match self {
            Self::List(items) => items.iter().map(Self::depth).max(),
            Self::Map(items) => items.iter().map(|(_, value)| value.depth()).max(),
            _ => None,
        };
        1 + inner.unwrap_or(0)
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $make:expr;)*) => {$(
        impl From<$type> for HeaderValue {
            fn from($value: $type) -> Self {
                $make
            }
        }
    )*};
}

from! {
    &str => |value| Self::Str(value.into());
    String => |value| Self::Str(value.into());
    ByteString => |value| Self::Str(value);
    Bytes => |value| Self::Bytes(value);
    bool => |value| Self::Bool(value);
    i64 => |value| Self::Int(value);
    i32 => |value| Self::Int(value.into());
    u32 => |value| Self::Int(value.into());
    f64 => |value| Self::Float(value);
    Timestamp => |value| Self::Time(value);
}

/// Names and values in the order they were added; a name may stand more than once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers(Vec<(ByteString, HeaderValue)>);

impl Headers {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a value behind the others, also under a name that is there already.
    pub fn append(&mut self, name: impl Into<ByteString>, value: impl Into<HeaderValue>) {
        self.0.push((name.into(), value.into()));
    }

    /// Replaces every value of the name by this one.
    pub fn insert(&mut self, name: impl Into<ByteString>, value: impl Into<HeaderValue>) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// The first value of the name.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// All values of the name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.0.iter().filter(move |(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Removes every value of the name; true when there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(n, _)| *n != name);
        self.0.len() != before
    }

    /// Keeps what the predicate says.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &HeaderValue) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ByteString, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<ByteString>, V: Into<HeaderValue>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordered_multimap() {
        let mut headers: Headers = [("a", 1), ("b", 2), ("a", 3)].into_iter().collect();
        let all: Vec<_> = headers.get_all("a").filter_map(HeaderValue::as_int).collect();
        assert_eq!(all, [1, 3]);
        headers.insert("a", "x");
        let names: Vec<_> = headers.iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["b", "a"]);
        assert!(headers.remove("b") && !headers.remove("b"));
    }
}
