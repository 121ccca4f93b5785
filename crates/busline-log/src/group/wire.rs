//! The integers and byte strings of group records: strict to read, bounded by what is there.

/// Bytes that are no group record, and what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(super) struct Malformed {
    what: &'static str,
    /// They are well-formed as far as they can be read, and of a version above this one.
    pub(super) is_newer: bool,
}

impl Malformed {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, is_newer: false }
    }

    pub(super) const fn newer(what: &'static str) -> Self {
        Self { what, is_newer: true }
    }
}

/// Appends an unsigned integer, seven bits a byte, lowest first.
pub(super) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a signed integer, zigzag so that small magnitudes stay short.
pub(super) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends a byte string behind its length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the `put` functions wrote, and nothing else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed::new("it ends too early"))?;
        self.rest = rest;
        Ok(first)
    }

    /// An integer in its shortest form: two spellings of one number would be two records of one state.
    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(Malformed::new("an integer has more than 64 bits"));
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift != 0 {
                    return Err(Malformed::new("an integer is longer than it needs to be"));
                }
                return Ok(value);
            }
        }
        Err(Malformed::new("an integer has more than 64 bits"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed::new("an integer has more than 32 bits"))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        let raw = self.u64()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Malformed::new("a byte string ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(Malformed::new("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// A count of items of at least `item_bytes` each: refused when they cannot all be there, so
    /// that the caller may reserve room for it.
    pub(super) fn count(&mut self, item_bytes: usize) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        if count > self.rest.len() / item_bytes.max(1) {
            return Err(Malformed::new("a count is larger than what follows it"));
        }
        Ok(count)
    }

    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::new("something follows its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_and_have_one_spelling() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_u64(&mut out, value);
                put_i64(&mut out, value.cast_signed());
                put_i64(&mut out, value.cast_signed().wrapping_neg());
                let mut input = Input::new(&out);
                assert_eq!(input.u64(), Ok(value));
                assert_eq!(input.i64(), Ok(value.cast_signed()));
                assert_eq!(input.i64(), Ok(value.cast_signed().wrapping_neg()));
                assert_eq!(input.end(), Ok(()));
            }
        }
        assert!(Input::new(&[0x80, 0x00]).u64().is_err(), "zero in two bytes");
        assert!(Input::new(&[0xff; 10]).u64().is_err(), "more than 64 bits");
        assert!(Input::new(&[0x80]).u64().is_err(), "cut short");
    }

    #[test]
    fn a_claimed_length_buys_nothing() {
        let mut out = Vec::new();
        put_u64(&mut out, u64::MAX);
        assert!(Input::new(&out).bytes().is_err());
        assert!(Input::new(&out).count(2).is_err());
        let mut five = Vec::new();
        put_u64(&mut five, 5);
        five.extend_from_slice(&[0; 9]);
        assert!(Input::new(&five).count(2).is_err(), "five items of two bytes need ten");
        five.push(0);
        assert_eq!(Input::new(&five).count(2), Ok(5));
    }
}
