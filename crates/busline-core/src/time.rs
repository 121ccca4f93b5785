//! Points in time on the wire and on disk: microseconds since the Unix epoch, RFC 3339 as text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// A point in time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_unix_us(us: i64) -> Self {
        Self(us)
    }

    /// Microseconds since the Unix epoch.
    pub const fn unix_us(self) -> i64 {
        self.0
    }

    /// From milliseconds since the Unix epoch, saturating.
    pub const fn from_unix_ms(ms: i64) -> Self {
        Self(ms.saturating_mul(1000))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, for example `2018-02-07T00:31:39.65Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => time.fmt(f),
            // Beyond the years that RFC 3339 can name.
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let time: jiff::Timestamp = text.parse().map_err(|cause| {
            Error::new(ErrorKind::Limit, format!("'{text}' is not a time"))
                .source(cause)
                .hint("write RFC 3339 with an offset, as 2018-02-07T00:31:39Z")
        })?;
        Ok(Self(time.as_microsecond()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let time: Timestamp = "2018-02-07T01:31:39.65+01:00".parse().unwrap();
        assert_eq!(time.unix_us(), 1_517_963_499_650_000);
        assert_eq!(time.to_string(), "2018-02-07T00:31:39.65Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(Timestamp::from_unix_us(i64::MAX).to_string(), format!("{}us", i64::MAX));
    }
}
