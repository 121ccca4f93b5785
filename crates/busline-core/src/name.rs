//! Names of topics and groups: parsed once, valid ever after.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The longest name of a topic or group, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

fn check(what: &str, text: &str) -> Result<()> {
    let wrong = |why: String| Err(Error::new(ErrorKind::Limit, format!("{what} name {why}")));
    if text.is_empty() {
        return wrong("is empty".to_owned());
    }
    if text.len() > NAME_BYTES_MAX {
        return wrong(format!("has {} bytes, at most {NAME_BYTES_MAX} are allowed", text.len()));
    }
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        return wrong(format!("'{}' holds the control character {bad:?}", text.escape_debug()));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Any UTF-8 of 1 to 255 bytes without control characters.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(ByteString);

        impl $type {
            /// Parses the name; `Limit` says what is wrong with it.
            pub fn new(name: impl Into<ByteString>) -> Result<Self> {
                let name = name.into();
                check($what, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = Error;

            fn try_from(name: &str) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(name: String) -> Result<Self> {
                Self::new(name)
            }
        }

        impl TryFrom<&$type> for $type {
            type Error = Error;

            fn try_from(name: &$type) -> Result<Self> {
                Ok(name.clone())
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The named stream a message goes to.
    Topic,
    "topic"
);

name!(
    /// The name of a durable consumer of a topic.
    GroupName,
    "group"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        for good in ["a", "quakes", "a.b/c d", "ünï", &"x".repeat(255)] {
            assert_eq!(Topic::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "nul\0", &"x".repeat(256)] {
            let error = Topic::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        }
        assert!(GroupName::new("").unwrap_err().to_string().starts_with("group name is empty"));
    }
}
