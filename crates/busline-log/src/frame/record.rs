//! A record inside a frame's body: four variable-length integers, then key, meta and value.

use crate::bytes::take_varint;
use crate::frame::KEY_BYTES_MAX;

/// A record as it lies in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) delta_us: u64,
    pub(crate) key: &'a [u8],
    pub(crate) meta: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl RawRecord<'_> {
    /// The record's time, from the time of its frame.
    #[inline]
    pub(crate) fn time_us(&self, base_us: i64) -> i64 {
        base_us.saturating_add_unsigned(self.delta_us)
    }
}

/// Reads the record at the start of `bytes`; returns it and what follows.
#[inline]
pub(crate) fn take_record(bytes: &[u8]) -> Option<(RawRecord<'_>, &[u8])> {
    // The first three are mostly of one byte: told together, the place of the next record is known sooner.
    let ([delta_us, key_len, meta_len], rest) = match bytes.split_first_chunk() {
        Some((&[a, b, c], rest)) if (a | b | c) < 0x80 => ([a, b, c].map(u64::from), rest),
        _ => take_long_numbers(bytes)?,
    };
    let (value_len, rest) = take_varint(rest)?;
    let (key, rest) = rest.split_at_checked(usize::try_from(key_len).ok()?)?;
    let (meta, rest) = rest.split_at_checked(usize::try_from(meta_len).ok()?)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(value_len).ok()?)?;
    Some((RawRecord { delta_us, key, meta, value }, rest))
}

/// The first three numbers of a record, of any length.
fn take_long_numbers(bytes: &[u8]) -> Option<([u64; 3], &[u8])> {
    let (delta_us, rest) = take_varint(bytes)?;
    let (key_len, rest) = take_varint(rest)?;
    let (meta_len, rest) = take_varint(rest)?;
    (key_len <= KEY_BYTES_MAX as u64).then_some(([delta_us, key_len, meta_len], rest))
}

/// The records of a body, in order; ends early at bytes that are no record.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Whether everything was read.
    pub(crate) fn is_complete(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RawRecord<'a>;

    fn next(&mut self) -> Option<RawRecord<'a>> {
        let (record, rest) = take_record(self.rest)?;
        self.rest = rest;
        Some(record)
    }
}
