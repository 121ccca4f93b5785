//! Offsets: opaque cursors, text in and out.

mod forms;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;

/// The most shards one offset names.
const SHARDS_MAX: usize = 4096;
/// The longest token.
const TOKEN_BYTES_MAX: usize = 1024;

/// A place in a topic's log, small enough to keep beside the state that it belongs to.
///
/// Names the record it came with; reading `from` it starts with that very record, and
/// [`Offset::next`] is the place after it. Numbers may have gaps: never count with them.
///
/// Nearly always it is (shard, number) pairs. A transport whose places are texts, bytes or something else makes
/// [`Offset::token`] of them. Who keeps an offset keeps its text, or another of its forms: bytes, a
/// whole number, a float. Each comes back as the same offset, or is refused; none is ever rounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offset(Pairs);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pairs {
    One(u64, u64),
    Many(Arc<[(u64, u64)]>),
    Token(Arc<[u8]>),
}

impl Offset {
    /// The place `number` on the only shard `shard`.
    pub const fn new(shard: u64, number: u64) -> Self {
        Self(Pairs::One(shard, number))
    }

    /// A cursor over several shards; `Limit` without pairs, with too many, or a shard named twice.
    pub fn of(pairs: impl IntoIterator<Item = (u64, u64)>) -> Result<Self> {
        let mut pairs: Vec<_> = pairs.into_iter().take(SHARDS_MAX + 1).collect();
        pairs.sort_unstable();
        let twice = pairs.windows(2).any(|two| matches!(two, [(a, _), (b, _)] if a == b));
        match pairs.as_slice() {
            [] => Err(Error::new(ErrorKind::Limit, "an offset names at least one shard")),
            [(shard, number)] => Ok(Self::new(*shard, *number)),
            _ if twice => Err(Error::new(ErrorKind::Limit, "an offset names a shard twice")),
            _ if pairs.len() > SHARDS_MAX => {
                Err(Error::new(ErrorKind::Limit, "an offset names more than 4096 shards"))
            }
            _ => Ok(Self(Pairs::Many(pairs.into()))),
        }
    }

    /// A place in the transport's own form, which only that transport understands: text as its UTF-8, a
    /// float or another number as bytes of its own choice. `Limit` when it is empty or over 1024 bytes.
    ///
    /// It has no numbers, nothing is known to come next to it, and two of them are equal or cannot be compared.
    pub fn token(token: impl AsRef<[u8]>) -> Result<Self> {
        let token = token.as_ref();
        match token.len() {
            1..=TOKEN_BYTES_MAX => Ok(Self(Pairs::Token(token.into()))),
            len => {
                let why = format!("an offset of {len} bytes");
                Err(Error::new(ErrorKind::Limit, why)
                    .hint(format!("1 to {TOKEN_BYTES_MAX} are allowed")))
            }
        }
    }

    /// The transport's own form, of an offset that was made by [`Offset::token`].
    pub fn as_token(&self) -> Option<&[u8]> {
        match &self.0 {
            Pairs::Token(token) => Some(token),
            Pairs::One(..) | Pairs::Many(_) => None,
        }
    }

    /// The (shard, number) pairs, sorted by shard; a token has none.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (one, many): (_, &[_]) = match &self.0 {
            Pairs::One(shard, number) => (Some((*shard, *number)), &[]),
            Pairs::Many(pairs) => (None, pairs),
            Pairs::Token(_) => (None, &[]),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// The number on a shard.
    pub fn number(&self, shard: u64) -> Option<u64> {
        self.pairs().find(|(s, _)| *s == shard).map(|(_, number)| number)
    }

    /// The place right after the record that this offset names, for one on a single shard.
    #[must_use]
    pub fn next(&self) -> Self {
        match &self.0 {
            Pairs::One(shard, number) => Self::new(*shard, number.saturating_add(1)),
            Pairs::Many(_) | Pairs::Token(_) => self.clone(),
        }
    }

    /// The order of two offsets of the same shards; `None` when they cannot be compared.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if self.as_token().is_some() || other.as_token().is_some() {
            return (self == other).then_some(Ordering::Equal);
        }
        let mut order = Ordering::Equal;
        let (mut left, mut right) = (self.pairs(), other.pairs());
        loop {
            match (left.next(), right.next()) {
                (None, None) => return Some(order),
                (Some((a, m)), Some((b, n))) if a == b => match (order, m.cmp(&n)) {
                    (_, Ordering::Equal) => {}
                    (Ordering::Equal, found) => order = found,
                    (known, found) if known == found => {}
                    _ => return None,
                },
                _ => return None,
            }
        }
    }
}

impl fmt::Display for Offset {
    /// `shard.number` in hexadecimal and decimal, several joined by `+`; a token is `~` and hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(token) = self.as_token() {
            f.write_str("~")?;
            return token.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        }
        for (index, (shard, number)) in self.pairs().enumerate() {
            write!(f, "{}{shard:x}.{number}", if index == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

impl FromStr for Offset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Limit, format!("'{}' is not an offset", text.escape_debug()))
                .hint("use the text of an offset as a receipt or a record prints it")
        };
        if text.len() > SHARDS_MAX * 40 {
            return Err(Error::new(ErrorKind::Limit, "the text of an offset is too long"));
        }
        if let Some(hex) = text.strip_prefix('~') {
            return Self::token(forms::unhex(hex).ok_or_else(wrong)?);
        }
        let digits = |t: &str| t.bytes().all(|byte| byte.is_ascii_hexdigit());
        let pairs: Result<Vec<_>> = text
            .split('+')
            .map(|pair| {
                let (shard, number) = pair.split_once('.').ok_or_else(wrong)?;
                if !digits(shard) || !digits(number) {
                    return Err(wrong());
                }
                let shard = u64::from_str_radix(shard, 16).map_err(|_| wrong())?;
                Ok((shard, number.parse().map_err(|_| wrong())?))
            })
            .collect();
        Self::of(pairs?)
    }
}

impl Serialize for Offset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a reader or a new group starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// At the oldest record that is still kept.
    Earliest,
    /// Behind the newest record: only what comes from now on.
    Latest,
    /// At the record with this offset.
    Offset(Offset),
    /// At the first record that is not older than this.
    Time(Timestamp),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Offset(offset) => offset.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    /// `earliest`, `latest`, an offset, or a time in RFC 3339.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            // A time always holds a '-', an offset never does.
            _ if text.contains('-') => text.parse().map(Self::Time),
            _ => text.parse().map(Self::Offset).map_err(|error| {
                error.hint("a position is 'earliest', 'latest', an offset, or a time as 2018-02-07T00:31:39Z")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let one = Offset::new(0xab12, 7);
        assert_eq!(one.to_string(), "ab12.7");
        assert_eq!("ab12.7".parse::<Offset>().unwrap(), one);
        let two: Offset = "1.5+0.9".parse().unwrap();
        assert_eq!(two.to_string(), "0.9+1.5");
        for bad in ["", "7", "x.1", "1.", ".1", "1.-1", "+1.1", "1.1+1.2", "1.99999999999999999999"]
        {
            assert!(bad.parse::<Offset>().is_err(), "{bad}");
        }
    }

    #[test]
    fn order_on_the_same_shards_only() {
        let at = |pairs: &[(u64, u64)]| Offset::of(pairs.iter().copied()).unwrap();
        assert_eq!(at(&[(1, 2)]).compare(&at(&[(1, 3)])), Some(Ordering::Less));
        assert_eq!(at(&[(1, 2)]).compare(&at(&[(2, 2)])), None);
        assert_eq!(at(&[(1, 2), (2, 5)]).compare(&at(&[(1, 2), (2, 4)])), Some(Ordering::Greater));
        assert_eq!(at(&[(1, 2), (2, 5)]).compare(&at(&[(1, 3), (2, 4)])), None);
        assert_eq!(at(&[(1, 2)]).next(), at(&[(1, 3)]));
    }

    #[test]
    fn positions_are_told_apart() {
        assert_eq!("earliest".parse::<Position>().unwrap(), Position::Earliest);
        assert!(matches!("2018-02-07T00:00:00Z".parse().unwrap(), Position::Time(_)));
        assert!(matches!("0.12".parse().unwrap(), Position::Offset(_)));
        assert!("12".parse::<Position>().unwrap_err().to_string().contains("earliest"));
    }
}
