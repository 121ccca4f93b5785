//! A frame: one batch of records behind a checked header, the unit that is written and torn as one.
//!
//! ```text
//!  0        4           8         12        16        24          32       40     44     48
//!  | magic  | header_crc| body_len| body_crc| base_seq| synced_seq| time_us| count| flags| body .. | 0..7 zeros
//! ```
//! `header_crc` is the CRC-32 of bytes 8..48 seeded with the salt of the segment, so that a frame that
//! lay in another file is no frame here. `body_crc` covers the body alone and is computed before any
//! lock is taken.

mod batch;
mod record;

pub use batch::Batch;
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
}

impl FrameHeader {
    /// The whole frame with its padding, in bytes.
    pub(crate) fn frame_len(&self) -> u64 {
        (HEADER_LEN as u64 + u64::from(self.body_len)).next_multiple_of(ALIGN)
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
                return Err(Fault::Flags(flags));
            }
            let fits = header.body_len as usize <= FRAME_BODY_MAX
                && header.count > 0
                && header.count <= header.body_len
                && header.base_seq.checked_add(u64::from(header.count)).is_some()
                && header.synced_seq <= header.base_seq;
            if fits { Ok(header) } else { Err(Fault::Header) }
        })
    }

    fn fields(raw: &[u8]) -> Option<(Self, u32)> {
        let header = Self {
            body_len: u32_at(raw, 8)?,
            body_crc: u32_at(raw, 12)?,
            base_seq: u64_at(raw, 16)?,
            synced_seq: u64_at(raw, 24)?,
            time_us: i64::from_le_bytes(field(raw, 32)?),
            count: u32_at(raw, 40)?,
        };
        Some((header, u32_at(raw, 44)?))
    }

    /// Checks what follows the header (body and padding, exactly) against it; returns the body.
    pub(crate) fn check_body<'a>(&self, rest: &'a [u8]) -> Result<&'a [u8], Fault> {
        let (body, padding) =
            rest.split_at_checked(self.body_len as usize).ok_or(Fault::Truncated)?;
        if crc32fast::hash(body) != self.body_crc {
            return Err(Fault::BodyCrc);
        }
        if padding.iter().any(|&b| b != 0) {
            return Err(Fault::Padding);
        }
        Ok(body)
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
    let body = header.check_body(bytes.get(HEADER_LEN..len).ok_or(Fault::Truncated)?)?;
    check_records(&header, body)?;
    Ok((header, body))
}

/// Checks that the body is exactly the records that the header promises.
pub(crate) fn check_records(header: &FrameHeader, body: &[u8]) -> Result<i64, Fault> {
    let mut records = Records::new(body);
    let mut count = 0u32;
    let mut time_us = header.time_us;
    for record in records.by_ref() {
        count = count.checked_add(1).ok_or(Fault::Record)?;
        time_us = time_us.max(record.time_us(header.time_us));
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
    }
}
