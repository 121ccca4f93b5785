//! Whole numbers of any size.

use std::fmt;
use std::str::FromStr;

use busline_core::{Error, ErrorKind, Result};

/// Python reads no longer integers from text.
pub(super) const DIGITS_MAX: usize = 4300;

/// A whole number of any size up to 4300 digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Integer(Repr);

/// Decimal digits only of what 64 bits cannot hold, so that equal numbers are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Small(i64),
    Large(Box<str>),
}

impl Integer {
    /// The number, when it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match &self.0 {
            Repr::Small(number) => Some(*number),
            Repr::Large(_) => None,
        }
    }

    /// The number as another type of integers, when it fits.
    pub fn to<T: FromStr>(&self) -> Option<T> {
        self.to_string().parse().ok()
    }

    /// From digits as JSON has them: perhaps a minus, then digits.
    pub(super) fn of_digits(digits: &str) -> Option<Self> {
        if let Ok(small) = digits.parse() {
            return Some(Self(Repr::Small(small)));
        }
        let (sign, magnitude) = match digits.strip_prefix('-') {
            Some(magnitude) => ("-", magnitude),
            None => ("", digits),
        };
        let is_number = !magnitude.is_empty() && magnitude.bytes().all(|b| b.is_ascii_digit());
        if !is_number || magnitude.len() > DIGITS_MAX {
            return None;
        }
        let plain = format!("{sign}{}", magnitude.trim_start_matches('0'));
        match plain.parse() {
            Ok(small) => Some(Self(Repr::Small(small))),
            Err(_) if plain.len() == sign.len() => Some(Self(Repr::Small(0))),
            Err(_) => Some(Self(Repr::Large(plain.into()))),
        }
    }
}

impl FromStr for Integer {
    type Err = Error;

    /// Decimal digits, perhaps with a minus before them; `Limit` for anything else and above 4300.
    fn from_str(text: &str) -> Result<Self> {
        Self::of_digits(text).ok_or_else(|| {
            let why = format!("a text of {} bytes is no whole number", text.len());
            Error::new(ErrorKind::Limit, why).hint(format!("at most {DIGITS_MAX} digits are read"))
        })
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Small(number) => number.fmt(f),
            Repr::Large(digits) => f.write_str(digits),
        }
    }
}

impl fmt::Debug for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! from_small {
    ($($type:ty)*) => {$(
        impl From<$type> for Integer {
            fn from(number: $type) -> Self {
                Self(Repr::Small(number.into()))
            }
        }
    )*};
}

from_small!(i64 i32 i16 i8 u32 u16 u8);

macro_rules! from_wide {
    ($($type:ty)*) => {$(
        impl From<$type> for Integer {
            fn from(number: $type) -> Self {
                match i64::try_from(number) {
                    Ok(small) => Self(Repr::Small(small)),
                    Err(_) => Self(Repr::Large(number.to_string().into())),
                }
            }
        }
    )*};
}

from_wide!(u64 i128 u128 usize);
