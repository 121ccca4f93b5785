//! A frame: one batch of records behind a checked header, the unit that is written and torn as one.
//!
//! ```text
//!  0        4           8         12        16        24          32       40     44     46             48
//!  | magic  | header_crc| body_len| body_crc| base_seq| synced_seq| time_us| count| flags| filter_blocks| ...
//!
//!  ... filter_crc | filter .. | body .. | 0..7 zeros
//! ```
//! `header_crc` is the CRC-32 of bytes 8..48 seeded with the salt of the segment, so that a frame that
//! lay in another file is no frame here. `body_crc` covers the body alone and is computed before any
//! lock is taken. The filter tells which keys the records may have; without blocks it has no checksum
//! either. Its checksum is seeded with `body_crc`, so that it belongs to this body.

mod batch;
mod filter;
mod record;

pub use batch::Batch;
pub(crate) use filter::{FILTER_LEN_MAX, Filter, KeyHash, filter_len};
pub(crate) use record::{Records, take_record};

use std::fmt;

use crate::bytes::{field, put, u32_at, u64_at};

/// The bytes before the body.
pub(crate) const HEADER_LEN: usize = 48;
/// Frames begin at multiples of this.
pub(crate) const ALIGN_BYTES: usize = 8;
pub(crate) const ALIGN: u64 = ALIGN_BYTES as u64;
/// The longest body of a frame, in bytes: 64 MiB.
pub const FRAME_BODY_MAX: usize = 64 << 20;
/// The body size at which a batch is worth writing, in bytes: 256 KiB.
pub const BATCH_BYTES_TARGET: usize = 256 << 10;
/// The longest key, in bytes: 64 KiB.
pub const KEY_BYTES_MAX: usize = 64 << 10;

const MAGIC: [u8; 4] = *b"BLF1";

/// Why bytes are no valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing was written here: zeros, or the end of the file.
    Empty,
    /// The file ends inside the frame.
    Truncated,
    /// The first four bytes are not a frame's.
    Magic,
    /// The header's checksum is wrong.
    HeaderCrc,
    /// The header's fields contradict each other.
    Header,
    /// A flag that this version does not know.
    Flags(u32),
    /// The filter's checksum is wrong.
    FilterCrc,
    /// The filter lacks a key of the body.
    Filter,
    /// The body's checksum is wrong.
    BodyCrc,
    /// Bytes after the body are not zero.
    Padding,
    /// A record does not parse, or there are more or fewer than the header says.
    Record,
    /// The frame continues another sequence.
    Sequence { expected: u64, found: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => {
                f.write_str("records are missing, the bytes here are zero or the file ends")
            }
            Self::Truncated => f.write_str("the file ends inside a frame"),
            Self::Magic => f.write_str("no frame begins here"),
            Self::HeaderCrc => f.write_str("the checksum of a frame's header does not match"),
            Self::Header => f.write_str("a frame's header contradicts itself"),
            Self::Flags(flags) => {
                write!(f, "a frame has flags {flags:#x} of a newer format; use a newer version")
            }
            Self::FilterCrc => f.write_str("the checksum of a frame's filter does not match"),
            Self::Filter => f.write_str("a frame's filter lacks the key of one of its records"),
            Self::BodyCrc => f.write_str("the checksum of a frame's body does not match"),
            Self::Padding => f.write_str("the bytes after a frame's body are not zero"),
            Self::Record => f.write_str("a record does not parse although the checksum matches"),
            Self::Sequence { expected, found } => {
                write!(f, "a frame begins with record {found} where {expected} was due")
            }
        }
    }
}

/// The header of a frame, without its constant parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) base_seq: u64,
    pub(crate) synced_seq: u64,
    pub(crate) time_us: i64,
    pub(crate) count: u32,
    pub(crate) filter_blocks: u16,
}

impl FrameHeader {
    /// The whole frame with its padding, in bytes.
    pub(crate) fn frame_len(&self) -> u64 {
        (self.body_start() as u64 + u64::from(self.body_len)).next_multiple_of(ALIGN)
    }

    /// Where in the frame the body begins: behind the header and the filter.
    pub(crate) fn body_start(&self) -> usize {
        HEADER_LEN + filter_len(usize::from(self.filter_blocks))
    }

    /// The sequence number after the last record.
    pub(crate) fn end_seq(&self) -> u64 {
        self.base_seq.saturating_add(u64::from(self.count))
    }

    pub(crate) fn encode(&self, salt: u32) -> [u8; HEADER_LEN] {
        let mut out = [0u8; HEADER_LEN];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, self.body_len.to_le_bytes());
        put(&mut out, 12, self.body_crc.to_le_bytes());
        put(&mut out, 16, self.base_seq.to_le_bytes());
        put(&mut out, 24, self.synced_seq.to_le_bytes());
        put(&mut out, 32, self.time_us.to_le_bytes());
        put(&mut out, 40, self.count.to_le_bytes());
        put(&mut out, 46, self.filter_blocks.to_le_bytes());
        let crc = crc_of(&out, salt);
        put(&mut out, 4, crc.to_le_bytes());
        out
    }

    /// Reads a header; says `Empty` for zeros.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Result<Self, Fault> {
        let Some(raw) = bytes.first_chunk::<HEADER_LEN>() else {
            let empty = bytes.iter().all(|&b| b == 0);
            return Err(if empty { Fault::Empty } else { Fault::Truncated });
        };
        if !raw.starts_with(&MAGIC) {
            let empty = raw.iter().all(|&b| b == 0);
            return Err(if empty { Fault::Empty } else { Fault::Magic });
        }
        if u32_at(raw, 4) != Some(crc_of(raw, salt)) {
            return Err(Fault::HeaderCrc);
        }
        Self::fields(raw).ok_or(Fault::Header).and_then(|(header, flags)| {
            if flags != 0 {
                return Err(Fault::Flags(u32::from(flags)));
            }
            let fits = header.body_len as usize <= FRAME_BODY_MAX
                && header.count > 0
                && header.count <= header.body_len
                && header.base_seq.checked_add(u64::from(header.count)).is_some()
                && header.synced_seq <= header.base_seq
                && usize::from(header.filter_blocks)
                    <= filter::blocks_max(header.body_len as usize);
            if fits { Ok(header) } else { Err(Fault::Header) }
        })
    }

    fn fields(raw: &[u8]) -> Option<(Self, u16)> {
        let header = Self {
            body_len: u32_at(raw, 8)?,
            body_crc: u32_at(raw, 12)?,
            base_seq: u64_at(raw, 16)?,
            synced_seq: u64_at(raw, 24)?,
            time_us: i64::from_le_bytes(field(raw, 32)?),
            count: u32_at(raw, 40)?,
            filter_blocks: u16::from_le_bytes(field(raw, 46)?),
        };
        Some((header, u16::from_le_bytes(field(raw, 44)?)))
    }

    /// Checks the filter that follows the header in `rest`, whatever comes behind it.
    pub(crate) fn check_filter<'a>(&self, rest: &'a [u8]) -> Result<Filter<'a>, Fault> {
        let filter = rest.get(..self.body_start() - HEADER_LEN).ok_or(Fault::Truncated)?;
        Filter::decode(filter, self.body_crc).ok_or(Fault::FilterCrc)
    }

    /// Checks what follows the header (filter, body and padding, exactly) against it; returns filter and body.
    pub(crate) fn check_rest<'a>(&self, rest: &'a [u8]) -> Result<(Filter<'a>, &'a [u8]), Fault> {
        let filter = self.check_filter(rest)?;
        let (body, padding) = rest
            .get(self.body_start() - HEADER_LEN..)
            .and_then(|rest| rest.split_at_checked(self.body_len as usize))
            .ok_or(Fault::Truncated)?;
        if crc32fast::hash(body) != self.body_crc {
            return Err(Fault::BodyCrc);
        }
        if padding.iter().any(|&b| b != 0) {
            return Err(Fault::Padding);
        }
        Ok((filter, body))
    }
}

fn crc_of(header: &[u8; HEADER_LEN], salt: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(header.get(8..).unwrap_or_default());
    crc.finalize()
}

/// Reads a whole frame from the start of `bytes` and checks all of it, records included.
#[allow(dead_code)] // for tests and fuzzing; a reader does it piece by piece
pub(crate) fn decode_frame(bytes: &[u8], salt: u32) -> Result<(FrameHeader, &[u8]), Fault> {
    let header = FrameHeader::decode(bytes, salt)?;
    let len = usize::try_from(header.frame_len()).map_err(|_| Fault::Header)?;
    let rest = bytes.get(HEADER_LEN..len).ok_or(Fault::Truncated)?;
    let (filter, body) = header.check_rest(rest)?;
    check_records(&header, filter, body)?;
    Ok((header, body))
}

/// Checks that the body is exactly the records that the header promises, and that the filter lacks none of
/// their keys; returns the time of the youngest.
pub(crate) fn check_records(
    header: &FrameHeader,
    filter: Filter<'_>,
    body: &[u8],
) -> Result<i64, Fault> {
    let mut records = Records::new(body);
    let mut count = 0u32;
    let mut time_us = header.time_us;
    for record in records.by_ref() {
        count = count.checked_add(1).ok_or(Fault::Record)?;
        time_us = time_us.max(record.time_us(header.time_us));
        if !filter.is_none() && !filter.may_hold(KeyHash::of(record.key)) {
            return Err(Fault::Filter);
        }
    }
    if records.is_complete() && count == header.count { Ok(time_us) } else { Err(Fault::Record) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut batch = Batch::new(1 << 20);
        batch.push(b"key", b"meta", b"value").unwrap();
        batch.push(b"", b"", &[7u8; 300]).unwrap();
        batch.push(b"k", b"", b"").unwrap();
        batch.encode(41, 30, 1_000, 0xfeed).to_vec()
    }

    #[test]
    fn a_frame_comes_back() {
        let bytes = sample();
        let (header, body) = decode_frame(&bytes, 0xfeed).unwrap();
        assert_eq!((header.base_seq, header.synced_seq, header.time_us), (41, 30, 1_000));
        assert_eq!((header.count, header.frame_len()), (3, bytes.len() as u64));
        let records: Vec<_> = Records::new(body).collect();
        assert_eq!(records[0].key, b"key");
        assert_eq!(records[0].meta, b"meta");
        assert_eq!(records[0].value, b"value");
        assert_eq!(records[1].value.len(), 300);
    }

    #[test]
    fn no_flipped_bit_goes_unseen() {
        let bytes = sample();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut torn = bytes.clone();
                torn[at] ^= 1 << bit;
                assert!(decode_frame(&torn, 0xfeed).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    /// A frame that is large enough for a filter.
    fn filtered() -> Vec<u8> {
        let mut batch = Batch::new(1 << 20);
        for number in 0..20 {
            batch.push(format!("key.{number}").as_bytes(), b"", &[7; 1000]).unwrap();
        }
        batch.encode(41, 30, 1_000, 0xfeed).to_vec()
    }

    #[test]
    fn a_filter_stands_between_header_and_body_and_is_checked_with_them() {
        let bytes = filtered();
        let (header, body) = decode_frame(&bytes, 0xfeed).unwrap();
        assert_eq!((header.filter_blocks, header.frame_len()), (5, bytes.len() as u64));
        let start = header.body_start();
        assert_eq!(&bytes[start..start + body.len()], body);
        for at in 0..start + 8 {
            for bit in 0..8 {
                let mut torn = bytes.clone();
                torn[at] ^= 1 << bit;
                let fault = decode_frame(&torn, 0xfeed).unwrap_err();
                let is_filter = (HEADER_LEN..start).contains(&at);
                assert_eq!(fault == Fault::FilterCrc, is_filter, "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_filter_that_lacks_a_key_is_a_fault_of_the_frame() {
        let mut bytes = filtered();
        let header = FrameHeader::decode(&bytes, 0xfeed).unwrap();
        let filter = &mut bytes[HEADER_LEN..header.body_start()];
        let (crc, blocks) = filter.split_at_mut(4);
        blocks.fill(0);
        let mut hasher = crc32fast::Hasher::new_with_initial(header.body_crc);
        hasher.update(blocks);
        crc.copy_from_slice(&hasher.finalize().to_le_bytes());
        assert_eq!(decode_frame(&bytes, 0xfeed), Err(Fault::Filter));
    }

    #[test]
    fn no_truncation_and_no_zeroed_end_goes_unseen() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(decode_frame(&bytes[..len], 0xfeed).is_err(), "cut at {len}");
            let mut zeroed = bytes.clone();
            zeroed[len..].fill(0);
            let same = zeroed == bytes;
            assert_eq!(decode_frame(&zeroed, 0xfeed).is_ok(), same, "zeros from {len}");
        }
        assert_eq!(decode_frame(&[], 1), Err(Fault::Empty));
        assert_eq!(decode_frame(&[0; 100], 1), Err(Fault::Empty));
    }

    #[test]
    fn a_frame_of_another_segment_is_none_here() {
        assert_eq!(decode_frame(&sample(), 0xbeef), Err(Fault::HeaderCrc));
    }

    #[test]
    fn unknown_flags_are_a_newer_format_by_name() {
        let mut bytes = sample();
        bytes[44] = 4;
        let mut crc = crc32fast::Hasher::new_with_initial(0xfeed);
        crc.update(&bytes[8..48]);
        bytes[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        assert_eq!(decode_frame(&bytes, 0xfeed), Err(Fault::Flags(4)));
    }

    /// Seals arbitrary body bytes with right checksums, to reach the decoder behind them.
    fn sealed(body: &[u8], count: u32) -> Vec<u8> {
        let header = FrameHeader {
            body_len: body.len() as u32,
            body_crc: crc32fast::hash(body),
            base_seq: 0,
            synced_seq: 0,
            time_us: 0,
            count,
            filter_blocks: 0,
        };
        let mut bytes = header.encode(1).to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(header.frame_len() as usize, 0);
        bytes
    }

    #[test]
    fn records_are_decoded_strictly() {
        assert!(decode_frame(&sealed(&[0, 0, 0, 0], 1), 1).is_ok());
        for (body, count, what) in [
            (&[0, 0, 0][..], 1, "a length is missing"),
            (&[0, 1, 0, 0], 1, "the key is missing"),
            (&[0, 0, 0, 9, 1], 1, "the value is short"),
            (&[0, 0, 0, 0, 0], 1, "a byte is left over"),
            (&[0, 0, 0, 0, 0, 0, 0, 0], 1, "one record too many"),
            (&[0, 0, 0, 0], 2, "one record too few"),
            (&[0x80, 0, 0, 0, 0], 1, "an overlong integer"),
            (&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0], 1, "a huge key"),
        ] {
            assert_eq!(decode_frame(&sealed(body, count), 1), Err(Fault::Record), "{what}");
        }
        assert_eq!(decode_frame(&sealed(&[0, 0, 0, 0], 0), 1), Err(Fault::Header));
        let mut header = FrameHeader::decode(&sealed(&[0; 6400], 1600), 1).unwrap();
        for (filter_blocks, is_read) in [(2, true), (3, false), (u16::MAX, false)] {
            header.filter_blocks = filter_blocks;
            assert_eq!(FrameHeader::decode(&header.encode(1), 1).is_ok(), is_read);
        }
    }
}
