//! Little-endian fields and variable-length integers, read without trusting the bytes.

/// The longest variable-length integer, in bytes.
pub(crate) const VARINT_LEN_MAX: usize = 10;

/// Reads a fixed-size field at an offset; `None` when the bytes end before.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// Reads a little-endian `u32`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

/// Reads a little-endian `u64`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

/// Overwrites a field; the caller's buffer has room by construction.
pub(crate) fn put<const N: usize>(out: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(slot) = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) {
        *slot = value;
    } else {
        debug_assert!(false, "a field lies inside its fixed-size header");
    }
}

/// Writes `value` as LEB128 into `out` at `at`; returns the place after it.
pub(crate) fn put_varint(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        put(out, at, [(value & 0x7f) as u8 | 0x80]);
        value >>= 7;
        at += 1;
    }
    put(out, at, [(value & 0x7f) as u8]);
    at + 1
}

/// Reads a LEB128 integer in its shortest form; returns it and what follows.
#[inline]
pub(crate) fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((u64::from(first), rest));
    }
    take_long_varint(first, rest)
}

/// The rest of an integer of two bytes or more.
fn take_long_varint(first: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = u64::from(first & 0x7f);
    let mut rest = rest;
    for shift in (7..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            // A longer form of the same number would give one record two spellings.
            return (byte != 0).then_some((value, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_and_only_the_shortest_form_is_read() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = [0u8; VARINT_LEN_MAX];
            let end = put_varint(&mut out, 0, value);
            assert_eq!(take_varint(&out[..end]), Some((value, &[][..])));
            assert_eq!(take_varint(&out[..end - 1]), None, "cut: {value}");
        }
        assert_eq!(take_varint(&[0x80, 0x00]), None, "overlong");
        assert_eq!(take_varint(&[0xff; 11]), None, "too long");
        assert_eq!(take_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
    }
}
