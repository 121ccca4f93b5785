//! The forms in which an offset is kept elsewhere: bytes, a whole number, a float.

use super::{Offset, SHARDS_MAX, TOKEN_BYTES_MAX};
use crate::error::{Error, ErrorKind, Result};

/// What the bytes begin with, so that a text or a number is not taken for them.
const PAIRS: u8 = 0x01;
const TOKEN: u8 = 0x02;
const PAIR_LEN: usize = 16;

impl Offset {
    /// As bytes: those of two places of one shard compare as the places do.
    pub fn to_bytes(&self) -> Vec<u8> {
        if let Some(token) = self.as_token() {
            return [&[TOKEN], token].concat();
        }
        let mut bytes = vec![PAIRS];
        for (shard, number) in self.pairs() {
            bytes.extend_from_slice(&shard.to_be_bytes());
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// From what [`Offset::to_bytes`] gave; `Limit` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = || {
            let why = format!("these {} bytes are no offset", bytes.len());
            Error::new(ErrorKind::Limit, why).hint("use the bytes of an offset as it gave them")
        };
        match bytes.split_first() {
            Some((&TOKEN, token)) if (1..=TOKEN_BYTES_MAX).contains(&token.len()) => {
                Self::token(token)
            }
            Some((&PAIRS, pairs))
                if pairs.len().is_multiple_of(PAIR_LEN) && pairs.len() / PAIR_LEN <= SHARDS_MAX =>
            {
                let pairs: Vec<_> = pairs.chunks_exact(PAIR_LEN).map(pair).collect();
                // Another order would be another form of the same offset.
                if pairs.is_sorted() { Self::of(pairs) } else { Err(wrong()) }
            }
            _ => Err(wrong()),
        }
    }

    /// As a whole number: the shard times 2^64, and the number. Of the next place it is one more, and
    /// those of two places of one shard compare as the places do. On shard 0 it is the number itself.
    ///
    /// `Limit` for a token and for a place on several shards.
    pub fn to_int(&self) -> Result<u128> {
        let mut pairs = self.pairs();
        match (pairs.next(), pairs.next()) {
            (Some((shard, number)), None) => Ok(u128::from(shard) << 64 | u128::from(number)),
            _ => Err(self.unfit("a whole number")),
        }
    }

    /// From what [`Offset::to_int`] gave.
    pub fn from_int(int: u128) -> Self {
        // The halves fit.
        Self::new((int >> 64) as u64, int as u64)
    }

    /// As a float, when the whole number is one exactly, as every number below 2^53 on shard 0 is.
    ///
    /// `Limit` when it would have to be rounded, and where there is no whole number.
    pub fn to_float(&self) -> Result<f64> {
        let int = self.to_int()?;
        // Judged by reading it back: a rounded one is another offset.
        let float = int as f64;
        match exact(float) {
            Some(same) if same == int => Ok(float),
            _ => Err(self.unfit("a float, which would have to be rounded")),
        }
    }

    /// From what [`Offset::to_float`] gave; `Limit` for what is negative, no whole number, or none at all.
    pub fn from_float(float: f64) -> Result<Self> {
        exact(float).map(Self::from_int).ok_or_else(|| {
            Error::new(ErrorKind::Limit, format!("the float {float} is no offset"))
                .hint("an offset is a whole number from 0 on; keep its text if in doubt")
        })
    }

    fn unfit(&self, form: &str) -> Error {
        Error::new(ErrorKind::Limit, format!("the offset {self} cannot be {form}"))
            .hint("keep its text or its bytes")
    }
}

/// The whole number that a float is, if it is one from 0 on.
fn exact(float: f64) -> Option<u128> {
    // 2^128, the first that does not fit.
    const END: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
    // -0.0 would come back as 0.0.
    let fits = float.is_sign_positive() && float < END && float.fract() == 0.0;
    fits.then_some(float as u128)
}

fn pair(bytes: &[u8]) -> (u64, u64) {
    let word = |part: &[u8]| part.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let (shard, number) = bytes.split_at(PAIR_LEN / 2);
    (word(shard), word(number))
}

/// Bytes in hexadecimal, in lower case as they are written.
pub(super) fn unhex(hex: &str) -> Option<Vec<u8>> {
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if !hex.len().is_multiple_of(2) || !hex.as_bytes().iter().all(is_hex) {
        return None;
    }
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    hex.as_bytes().chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn offset() -> impl Strategy<Value = Offset> {
        prop_oneof![
            any::<(u64, u64)>().prop_map(|(shard, number)| Offset::new(shard, number)),
            (0..1_u64 << 53).prop_map(|number| Offset::new(0, number)),
            vec(any::<u8>(), 1..40).prop_map(|token| Offset::token(token).unwrap()),
            vec(any::<(u64, u64)>(), 1..5)
                .prop_filter_map("a shard twice", |pairs| Offset::of(pairs).ok()),
        ]
    }

    proptest! {
        #[test]
        fn every_form_comes_back_as_the_same_or_is_refused(offset in offset()) {
            prop_assert_eq!(&offset.to_string().parse::<Offset>().unwrap(), &offset);
            prop_assert_eq!(&Offset::from_bytes(&offset.to_bytes()).unwrap(), &offset);
            match offset.to_int() {
                Ok(int) => prop_assert_eq!(&Offset::from_int(int), &offset),
                Err(_) => prop_assert!(offset.pairs().count() != 1),
            }
            match offset.to_float() {
                Ok(float) => prop_assert_eq!(&Offset::from_float(float).unwrap(), &offset),
                Err(error) => prop_assert!(error.to_string().contains("keep its text"), "{error}"),
            }
        }

        #[test]
        fn any_float_is_exact_or_refused(float in any::<f64>()) {
            if let Ok(offset) = Offset::from_float(float) {
                prop_assert_eq!(offset.to_float().unwrap().to_bits(), float.to_bits());
            }
        }

        #[test]
        fn any_bytes_are_the_only_form_or_refused(bytes in vec(any::<u8>(), 0..70)) {
            for first in [None, Some(PAIRS), Some(TOKEN)] {
                let bytes: Vec<u8> = first.into_iter().chain(bytes.iter().copied()).collect();
                if let Ok(offset) = Offset::from_bytes(&bytes) {
                    prop_assert_eq!(offset.to_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn numbers_count_and_compare_as_places_do() {
        let [one, two] = [Offset::new(7, 41), Offset::new(7, 42)];
        assert_eq!(one.to_int().unwrap() + 1, one.next().to_int().unwrap());
        assert!(one.to_int().unwrap() < two.to_int().unwrap() && one.to_bytes() < two.to_bytes());
        assert_eq!(Offset::new(0, 1_795_221_612).to_float().unwrap(), 1_795_221_612.0);
        assert_eq!(Offset::new(0, 9).to_int().unwrap(), 9);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_so() {
        let beyond = Offset::new(0, (1 << 53) + 1).to_float().unwrap_err().to_string();
        assert!(beyond.contains("rounded") && beyond.contains("0.9007199254740993"), "{beyond}");
        for bad in [-1.0, -0.0, 0.5, f64::NAN, f64::INFINITY, 1e39] {
            let error = Offset::from_float(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("the float {bad} is no offset")), "{error}");
        }
        let token = Offset::token("1526919030474-55").unwrap();
        assert_eq!(token.as_token(), Some(&b"1526919030474-55"[..]));
        assert!(token.to_int().is_err() && token.to_float().is_err());
        assert_eq!((token.number(0), token.next()), (None, token.clone()));
        assert_eq!(token.compare(&token.clone()), Some(std::cmp::Ordering::Equal));
        assert_eq!(token.compare(&Offset::token("b").unwrap()), None);
        assert!(Offset::token("").is_err() && Offset::token(vec![0; 1025]).is_err());
        for bad in ["~", "~0", "~0g", "~0G", "~é"] {
            assert!(bad.parse::<Offset>().is_err(), "{bad}");
        }
    }
}
