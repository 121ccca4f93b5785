//! A frame under construction: records are encoded once, into one buffer that is used again.

use crate::bytes::{VARINT_LEN_MAX, put_varint};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::filter::{FILTER_LEN_MAX, FilterBuilder, filter_len};
use crate::frame::{ALIGN_BYTES, FRAME_BODY_MAX, FrameHeader, HEADER_LEN, KEY_BYTES_MAX, KeyHash};

/// Where the body begins in the buffer, with room for header and filter before it.
const BODY_START: usize = (HEADER_LEN + FILTER_LEN_MAX).next_multiple_of(ALIGN_BYTES);

/// Records that will be written as one frame: all of them become visible, or none.
#[derive(Debug)]
pub struct Batch {
    /// Room for header and filter, then the body, then padding once sealed.
    buffer: Vec<u8>,
    body_len: usize,
    count: u32,
    delta_us_max: u64,
    filter: Option<FilterBuilder>,
    sealed: Option<Sealed>,
    record_bytes_max: usize,
}

/// What is known once all records are there.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    body_crc: u32,
    filter_blocks: u16,
    /// Where header, filter and body begin in the buffer, one after the other.
    frame_start: usize,
}

impl Batch {
    /// An empty batch for records of at most `record_bytes_max` bytes (key, meta and value together).
    pub fn new(record_bytes_max: usize) -> Self {
        Self {
            buffer: vec![0; BODY_START],
            body_len: 0,
            count: 0,
            delta_us_max: 0,
            filter: Some(FilterBuilder::new()),
            sealed: None,
            record_bytes_max: record_bytes_max.min(FRAME_BODY_MAX / 2),
        }
    }

    /// A batch whose frames get no filter of their keys: a few nanoseconds less a record, and who looks for keys
    /// has to read all of them.
    #[must_use]
    pub fn without_filter(self) -> Self {
        Self { filter: None, ..self }
    }

    /// Adds a record. `Limit` when it, its key or the frame would be too long; the batch is then as before.
    pub fn push(&mut self, key: &[u8], meta: &[u8], value: &[u8]) -> Result<()> {
        self.push_after(0, key, meta, value)
    }

    /// Adds a record that is `delta_us` microseconds younger than the frame.
    pub(crate) fn push_after(
        &mut self,
        delta_us: u64,
        key: &[u8],
        meta: &[u8],
        value: &[u8],
    ) -> Result<()> {
        let len = key.len().saturating_add(meta.len()).saturating_add(value.len());
        if key.len() > KEY_BYTES_MAX || len > self.record_bytes_max {
            return Err(self.too_long(key.len(), len));
        }
        let mut lengths = [0u8; 4 * VARINT_LEN_MAX];
        let at = put_varint(&mut lengths, 0, delta_us);
        let at = put_varint(&mut lengths, at, key.len() as u64);
        let at = put_varint(&mut lengths, at, meta.len() as u64);
        let at = put_varint(&mut lengths, at, value.len() as u64);
        if self.body_len + at + len > FRAME_BODY_MAX || self.count == u32::MAX {
            return Err(Error::new(
                ErrorKind::Limit,
                "push a record",
                "the batch is full; flush it before adding more",
            )
            .with("body_bytes", self.body_len)
            .with("body_bytes_max", FRAME_BODY_MAX));
        }
        if self.sealed.take().is_some() {
            self.buffer.truncate(BODY_START + self.body_len);
        }
        if let Some(filter) = &mut self.filter {
            filter.add(KeyHash::of(key));
        }
        self.buffer.reserve(at + len);
        self.buffer.extend_from_slice(lengths.get(..at).unwrap_or_default());
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(meta);
        self.buffer.extend_from_slice(value);
        self.body_len += at + len;
        self.count += 1;
        self.delta_us_max = self.delta_us_max.max(delta_us);
        Ok(())
    }

    #[cold]
    fn too_long(&self, key_len: usize, len: usize) -> Error {
        if key_len > KEY_BYTES_MAX {
            Error::new(ErrorKind::Limit, "push a record", "the key is too long; shorten it")
                .with("key_bytes", key_len)
                .with("key_bytes_max", KEY_BYTES_MAX)
        } else {
            Error::new(
                ErrorKind::Limit,
                "push a record",
                "the record is too long; shorten it or raise record_bytes_max",
            )
            .with("record_bytes", len)
            .with("record_bytes_max", self.record_bytes_max)
        }
    }

    /// The number of records.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded records, in bytes.
    pub fn body_len(&self) -> usize {
        self.body_len
    }

    /// Forgets all records and keeps the buffer.
    pub fn clear(&mut self) {
        self.buffer.truncate(BODY_START);
        self.body_len = 0;
        self.count = 0;
        self.delta_us_max = 0;
        if let Some(filter) = &mut self.filter {
            filter.clear();
        }
        self.sealed = None;
    }

    /// How much younger the youngest record is than the frame, in microseconds.
    pub(crate) fn delta_us_max(&self) -> u64 {
        self.delta_us_max
    }

    /// Pads and checksums the body and makes the filter: the part of the work that needs no lock. Returns
    /// the frame's length.
    pub(crate) fn seal(&mut self) -> u64 {
        let sealed = self.sealed();
        (self.buffer.len() - sealed.frame_start) as u64
    }

    /// Writes the header for a place in a segment; returns the whole frame.
    pub(crate) fn encode(
        &mut self,
        base_seq: u64,
        synced_seq: u64,
        time_us: i64,
        salt: u32,
    ) -> &[u8] {
        let Sealed { body_crc, filter_blocks, frame_start } = self.sealed();
        let header = FrameHeader {
            // The body is at most FRAME_BODY_MAX, which is far below 4 GiB.
            body_len: u32::try_from(self.body_len).unwrap_or(u32::MAX),
            body_crc,
            base_seq,
            synced_seq,
            time_us,
            count: self.count,
            filter_blocks,
        };
        let frame = self.buffer.get_mut(frame_start..).unwrap_or_default();
        if let Some(slot) = frame.first_chunk_mut::<HEADER_LEN>() {
            *slot = header.encode(salt);
        }
        frame
    }

    fn sealed(&mut self) -> Sealed {
        if let Some(sealed) = self.sealed {
            return sealed;
        }
        let (room, body) = self.buffer.split_at_mut(BODY_START);
        let body_crc = crc32fast::hash(body);
        let filter = self.filter.as_ref();
        let filter_blocks = filter.map_or(0, |filter| filter.encode(body.len(), body_crc, room));
        let frame_start = BODY_START - HEADER_LEN - filter_len(usize::from(filter_blocks));
        let frame_len = (self.buffer.len() - frame_start).next_multiple_of(ALIGN_BYTES);
        self.buffer.resize(frame_start + frame_len, 0);
        *self.sealed.insert(Sealed { body_crc, filter_blocks, frame_start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::decode_frame;

    #[test]
    fn bounds_are_refused_by_name_and_leave_the_batch_alone() {
        let mut batch = Batch::new(100);
        batch.push(b"k", b"", &[0; 99]).unwrap();
        let before = batch.body_len();
        for (key, value) in [(0, 101), (KEY_BYTES_MAX + 1, 0)] {
            let e = batch.push(&vec![0; key], b"", &vec![0; value]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Limit);
        }
        assert_eq!((batch.count(), batch.body_len()), (1, before));
    }

    #[test]
    fn a_batch_may_grow_after_it_was_sealed() {
        let mut batch = Batch::new(100);
        batch.push(b"a", b"", b"").unwrap();
        batch.encode(0, 0, 0, 1);
        batch.push(b"b", b"", b"").unwrap();
        let bytes = batch.encode(5, 5, 9, 1).to_vec();
        let (header, _) = decode_frame(&bytes, 1).unwrap();
        assert_eq!((header.base_seq, header.count), (5, 2));
        batch.clear();
        assert!(batch.is_empty());
        batch.push(b"c", b"", b"").unwrap();
        assert_eq!(decode_frame(batch.encode(0, 0, 0, 1), 1).unwrap().0.count, 1);
    }

    #[test]
    fn a_frame_without_a_filter_may_hold_every_key() {
        let mut batch = Batch::new(1 << 20).without_filter();
        batch.push(b"a", b"", &[0; 40_000]).unwrap();
        let bytes = batch.encode(0, 0, 0, 1).to_vec();
        let (header, _) = decode_frame(&bytes, 1).unwrap();
        let filter = header.check_filter(&bytes[HEADER_LEN..]).unwrap();
        assert!(filter.is_none() && filter.may_hold(KeyHash::of(b"b")));
    }

    #[test]
    fn a_filter_is_of_the_records_since_the_last_clear_and_of_all_of_them() {
        let mut batch = Batch::new(1 << 20);
        let mut filtered = |keys: &[&str]| {
            for key in keys {
                batch.push(key.as_bytes(), b"", &[0; 6_000]).unwrap();
            }
            // Sealed, and gone on with.
            batch.seal();
            batch.push(b"last", b"", &[0; 6_000]).unwrap();
            let bytes = batch.encode(0, 0, 0, 1).to_vec();
            batch.clear();
            let (header, _) = decode_frame(&bytes, 1).unwrap();
            let filter = header.check_filter(&bytes[HEADER_LEN..]).unwrap();
            assert!(!filter.is_none());
            ["a", "b", "c", "last"].map(|key| filter.may_hold(KeyHash::of(key.as_bytes())))
        };
        assert_eq!(filtered(&["a", "b"]), [true, true, false, true]);
        assert_eq!(filtered(&["b", "c"]), [false, true, true, true]);
    }

    #[test]
    fn a_full_frame_asks_for_a_flush() {
        let mut batch = Batch::new(FRAME_BODY_MAX);
        batch.push(b"", b"", &vec![1; FRAME_BODY_MAX / 2]).unwrap();
        let e = batch.push(b"", b"", &vec![1; FRAME_BODY_MAX / 2]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Limit);
        assert!(e.to_string().contains("flush"), "{e}");
    }
}
