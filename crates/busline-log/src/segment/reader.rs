//! Reads frames of one file through one reused buffer, and trusts none of their lengths.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::files::read_full;
use crate::frame::{
    ALIGN, BATCH_BYTES_TARGET, FILTER_LEN_MAX, Fault, FrameHeader, HEADER_LEN, check_records,
};
use crate::keys::KeySet;
use crate::storage::StorageFile;

/// What is read at once, in bytes: a frame of the usual size with what it may be longer.
const CHUNK: usize = BATCH_BYTES_TARGET + (32 << 10);
/// A buffer that grew beyond this for a long frame is given back afterwards.
const BUFFER_KEPT_MAX: usize = 1 << 20;

/// Why no frame could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    Fault(Fault),
}

impl From<io::Error> for ReadError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A frame whose parts were checked, all but the inside of its body; it lies in the reader's buffer.
#[derive(Debug, Clone)]
pub(crate) struct LoadedFrame {
    pub(crate) header: FrameHeader,
    pub(crate) body: Range<usize>,
}

/// A window over a file.
#[derive(Debug)]
pub(crate) struct FrameReader {
    file: Option<(Arc<dyn StorageFile>, u32)>,
    buffer: Vec<u8>,
    /// The bytes of the file that the buffer holds.
    window: Range<u64>,
    /// Nothing is read ahead from here on.
    end: u64,
    /// A frame that is known already: where it begins and ends. The one behind it may not be wanted.
    known: Range<u64>,
    /// Takes only what is in memory; anything else fails with `WouldBlock`.
    is_hasty: bool,
}

impl FrameReader {
    pub(crate) fn new() -> Self {
        Self {
            file: None,
            buffer: Vec::new(),
            window: 0..0,
            end: u64::MAX,
            known: 0..0,
            is_hasty: false,
        }
    }

    /// Turns to a file; its frames are salted with `salt`.
    pub(crate) fn open(&mut self, file: Arc<dyn StorageFile>, salt: u32) {
        self.file = Some((file, salt));
        self.end = u64::MAX;
        self.forget();
    }

    pub(crate) fn file_len(&self) -> io::Result<u64> {
        self.file.as_ref().map_or(Ok(0), |(file, _)| file.len())
    }

    /// Forgets what was read, because more may have been written since.
    pub(crate) fn forget(&mut self) {
        (self.window, self.known) = (0..0, 0..0);
    }

    /// Says where the frames end, as far as that is known: behind it nothing is worth reading ahead.
    pub(crate) fn expect_end(&mut self, end: u64) {
        self.end = end;
    }

    /// The bytes of a loaded frame's body.
    #[inline]
    pub(crate) fn body(&self, range: Range<usize>) -> &[u8] {
        self.buffer.get(range).unwrap_or_default()
    }

    /// The bytes of a loaded frame's filter and body, as they follow its header.
    pub(crate) fn rest(&self, frame: &LoadedFrame) -> &[u8] {
        let filter_len = frame.header.body_start() - HEADER_LEN;
        self.body(frame.body.start.saturating_sub(filter_len)..frame.body.end)
    }

    /// Checks the inside of a loaded frame's body; the time of its youngest record.
    pub(crate) fn check_records(&self, frame: &LoadedFrame) -> Result<i64, Fault> {
        let filter = frame.header.check_filter(self.rest(frame))?;
        check_records(&frame.header, filter, self.body(frame.body.clone()))
    }

    /// Reads and checks the header at a position.
    pub(crate) fn header(&mut self, pos: u64) -> Result<FrameHeader, ReadError> {
        self.fill(pos, HEADER_LEN)?;
        Ok(FrameHeader::decode(self.slice(pos, HEADER_LEN), self.salt())?)
    }

    /// Reads and checks the frame at a position, all but the inside of its body.
    pub(crate) fn frame(&mut self, pos: u64) -> Result<LoadedFrame, ReadError> {
        let header = self.header(pos)?;
        let len = usize::try_from(header.frame_len()).map_err(|_| Fault::Header)?;
        if self.window.end < pos + header.frame_len() {
            if len > CHUNK && pos + header.frame_len() > self.file_len()? {
                // Nothing is allocated by a claim that the file cannot keep.
                return Err(Fault::Truncated.into());
            }
            self.fill(pos, len)?;
        }
        let rest = self.slice(pos + HEADER_LEN as u64, len - HEADER_LEN);
        if rest.len() < len - HEADER_LEN {
            return Err(Fault::Truncated.into());
        }
        header.check_rest(rest)?;
        let start = usize::try_from(pos - self.window.start).unwrap_or(usize::MAX);
        let start = start.saturating_add(header.body_start());
        Ok(LoadedFrame { body: start..start + header.body_len as usize, header })
    }

    /// Reads and checks the header and the filter of the frame at a position, and not its body; the header when
    /// no record can have one of these keys, nothing when one may.
    pub(crate) fn frame_without(
        &mut self,
        pos: u64,
        keys: &KeySet,
    ) -> Result<Option<FrameHeader>, ReadError> {
        let mut read = [0; HEADER_LEN + FILTER_LEN_MAX];
        let mut bytes = self.slice(pos, read.len());
        if bytes.len() < read.len() {
            let Some((file, _)) = &self.file else { return Ok(None) };
            let len = read_full(file.as_ref(), &mut read, pos)?;
            bytes = read.get(..len).unwrap_or_default();
        }
        let header = FrameHeader::decode(bytes, self.salt())?;
        let filter = header.check_filter(bytes.get(HEADER_LEN..).unwrap_or_default())?;
        if keys.may_be_in(filter) {
            self.known = pos..pos.saturating_add(header.frame_len());
            return Ok(None);
        }
        Ok(Some(header))
    }

    /// As [`FrameReader::frame`], if all of it is in memory and it is no longer than that. What is
    /// wrong, who waits for it finds out.
    pub(crate) fn frame_in_memory(&mut self, pos: u64, len_max: u64) -> Option<LoadedFrame> {
        self.is_hasty = true;
        let header = self.header(pos).ok().filter(|header| header.frame_len() <= len_max);
        let frame = header.and_then(|_| self.frame(pos).ok());
        self.is_hasty = false;
        frame
    }

    /// Searches for the next valid frame from a position on that passes `wanted`.
    pub(crate) fn search(
        &mut self,
        from: u64,
        mut wanted: impl FnMut(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let len = self.file_len()?;
        let mut pos = from.checked_next_multiple_of(ALIGN).unwrap_or(u64::MAX);
        while pos.saturating_add(HEADER_LEN as u64) <= len {
            match self.header(pos) {
                Ok(header) if wanted(&header) => match self.frame(pos) {
                    Ok(frame) => return Ok(Some((pos, frame.header))),
                    Err(ReadError::Io(e)) => return Err(e),
                    Err(ReadError::Fault(_)) => {}
                },
                Err(ReadError::Io(e)) => return Err(e),
                _ => {}
            }
            pos += ALIGN;
        }
        Ok(None)
    }

    /// Whether only zeros follow from a position to the end of the file.
    pub(crate) fn is_zero_from(&mut self, pos: u64) -> io::Result<bool> {
        let mut pos = pos;
        loop {
            self.fill(pos, 1)?;
            let rest = self.slice(pos, CHUNK);
            if rest.is_empty() {
                return Ok(true);
            }
            if rest.iter().any(|&b| b != 0) {
                return Ok(false);
            }
            pos += rest.len() as u64;
        }
    }

    fn salt(&self) -> u32 {
        self.file.as_ref().map_or(0, |(_, salt)| *salt)
    }

    /// What the buffer holds of `len` bytes at `pos`; fewer at the end of the file.
    fn slice(&self, pos: u64, len: usize) -> &[u8] {
        if pos < self.window.start || pos >= self.window.end {
            return &[];
        }
        let start = usize::try_from(pos - self.window.start).unwrap_or(usize::MAX);
        let held = usize::try_from(self.window.end - self.window.start).unwrap_or(0);
        self.buffer.get(start..held.min(start.saturating_add(len))).unwrap_or_default()
    }

    /// Makes the buffer hold `len` bytes at `pos`, or all there are.
    fn fill(&mut self, pos: u64, len: usize) -> io::Result<()> {
        if pos >= self.window.start && pos.saturating_add(len as u64) <= self.window.end {
            return Ok(());
        }
        let Some((file, _)) = &self.file else {
            return Ok(());
        };
        let end = if self.known.contains(&pos) { self.known.end } else { u64::MAX }.min(self.end);
        let ahead = usize::try_from(end.saturating_sub(pos)).unwrap_or(CHUNK).min(CHUNK);
        let want = len.max(ahead);
        // What is there of it already is moved, not read again.
        let held = self.slice(pos, want).len();
        let start = usize::try_from(pos.saturating_sub(self.window.start)).unwrap_or(0);
        if held > 0 {
            self.buffer.copy_within(start..start + held, 0);
        }
        self.window = 0..0;
        let room = want.max(CHUNK);
        if self.buffer.len() < room || (self.buffer.len() > BUFFER_KEPT_MAX && room == CHUNK) {
            // Fresh zeros cost nothing until they are written over; zeroing what is there costs every byte.
            let mut buffer = vec![0; room];
            if let (Some(to), Some(from)) = (buffer.get_mut(..held), self.buffer.get(..held)) {
                to.copy_from_slice(from);
            }
            self.buffer = buffer;
        }
        let missing = self.buffer.get_mut(held..want).unwrap_or_default();
        let at = pos + held as u64;
        let read = if self.is_hasty {
            file.try_read_at(missing, at)?.ok_or(io::ErrorKind::WouldBlock)?
        } else {
            read_full(file.as_ref(), missing, at)?
        };
        self.window = pos..pos + (held + read) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Batch;
    use crate::storage::{MemStorage, OpenMode, Storage};
    use std::path::Path;

    const SALT: u32 = 9;

    fn frame(seq: u64, len: usize) -> Vec<u8> {
        let mut batch = Batch::new(8 << 20);
        batch.push(b"", b"", &vec![(seq % 251) as u8; len]).unwrap();
        batch.encode(seq, 0, 0, SALT).to_vec()
    }

    fn reader(bytes: &[u8]) -> FrameReader {
        let storage = MemStorage::new();
        let file = storage.open(Path::new("/f"), OpenMode::CreateNew).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let mut reader = FrameReader::new();
        reader.open(file, SALT);
        reader
    }

    #[test]
    fn frames_of_any_length_are_read_in_any_order_and_memory_is_given_back() {
        let lengths = [5, 200 << 10, 90 << 10, 300 << 10, 7, 3 << 20, 1, CHUNK - 60, CHUNK, 40];
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for (seq, len) in (0..).zip(lengths) {
            places.push((bytes.len() as u64, seq, len));
            bytes.extend(frame(seq, len));
        }
        let mut reader = reader(&bytes);
        for &(pos, seq, len) in places.iter().chain(places.iter().rev()) {
            let frame = reader.frame(pos).unwrap();
            assert_eq!(frame.header.base_seq, seq);
            let body = reader.body(frame.body);
            assert!(body.ends_with(&vec![(seq % 251) as u8; len]));
        }
        assert!(reader.buffer.len() <= BUFFER_KEPT_MAX, "{}", reader.buffer.len());
        assert!(matches!(reader.frame(bytes.len() as u64), Err(ReadError::Fault(Fault::Empty))));
    }

    /// What lies behind the end that is known is not read; where the end is out of date it is.
    #[test]
    fn reading_ahead_stops_where_the_frames_end() {
        let frames = [frame(0, 100), frame(1, 300), frame(2, 9000)].concat();
        let end = frames.len() as u64;
        for (ahead_end, window_end) in
            [(end, end), (0, HEADER_LEN as u64), (u64::MAX, CHUNK as u64)]
        {
            let mut reader = reader(&[frames.clone(), vec![0; 2 * CHUNK]].concat());
            reader.expect_end(ahead_end);
            assert_eq!(reader.header(0).unwrap().base_seq, 0);
            assert_eq!(reader.window, 0..window_end);
            let mut pos = 0;
            for seq in 0..3 {
                let found = reader.frame(pos).unwrap();
                assert_eq!(found.header.base_seq, seq);
                assert_eq!(reader.body(found.body).len() as u64, u64::from(found.header.body_len));
                pos += found.header.frame_len();
            }
            assert!(matches!(reader.frame(pos), Err(ReadError::Fault(Fault::Empty))));
        }
    }

    #[test]
    fn nothing_is_allocated_by_a_claim() {
        let bytes = frame(0, 6 << 20);
        let mut reader = reader(&bytes[..1000]);
        assert!(matches!(reader.frame(0), Err(ReadError::Fault(Fault::Truncated))));
        assert!(reader.buffer.len() <= CHUNK);
    }
}
