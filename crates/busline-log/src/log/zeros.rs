//! Zeros ahead of the tail, so that neither making a small frame durable nor writing it has to grow the file.
//!
//! Where the medium is waited for, they are written. //! An fdatasync of bytes that were written into blocks the file has already writes those blocks and no more; one
//! that grows the file also commits its new length and its new blocks, which about doubles what it costs.
//! Where nobody waits, room is allocated and mapped, and a frame is stored into it, which is no system call.
//!
//! Zeros to the end of the file are an ordinary end for whoever reads or recovers it. Behind the tail there is
//! nothing else: what a dead holder left there is cut, the zeros with it.

use std::io;
use std::sync::Arc;

use crate::control::Control;
use crate::log::Active;
use crate::log::append::AppendGuard;
use crate::options::SyncMode;
use crate::segment::{FRAMES_START, FrameReader};

/// Larger frames grow the file themselves: the zeros would double what is written.
const FRAME_BYTES_MAX: u64 = 16 << 10;
/// How far the zeros go ahead, at least and at most; in between as far as the file is long.
const AHEAD_BYTES_MIN: u64 = 16 << 10;
const AHEAD_BYTES_MAX: u64 = 256 << 10;

/// The zeros of one write.
static ZEROS: [u8; 16 << 10] = [0; 16 << 10];

impl AppendGuard<'_> {
    /// Makes room for the frames that follow one of `len` bytes, which was written to `end`. That there is none is no
    /// error: the file grows by its frames then.
    pub(super) fn make_room(&mut self, len: u64, end: u64) {
        let inner = self.inner;
        let Some(active) = &mut self.writer.active else { return };
        if end < active.zeros_end || len > FRAME_BYTES_MAX {
            return;
        }
        // Without a better answer nobody looks again in this segment.
        active.zeros_end = u64::MAX;
        let ahead = end.next_power_of_two().clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        let until = end.saturating_add(ahead).min(inner.options.segment_bytes);
        if until <= end {
            return;
        }
        let made = match inner.options.sync {
            SyncMode::Always => zero_ahead(active, end, until),
            // Nobody waits for the medium: storing beats a system call several times over.
            SyncMode::Interval(_) | SyncMode::Os => {
                reserve_ahead(active, &inner.control, end, until)
            }
        };
        if made.is_err() {
            inner.control.set_reserved(0);
            // Others may need the room more. If it cannot be given back, it is used by what comes next.
            let _ = active.file.truncate(end);
        }
    }

    /// Whether the segment can end where the page says, as far as that shows without reading its records.
    pub(super) fn tail_fits(&self) -> bool {
        let tail = self.inner.control.tail();
        let Ok(active) = self.active() else { return false };
        let base = active.info.base();
        let (Some(bytes), Some(records)) =
            (tail.pos.checked_sub(FRAMES_START), tail.seq.checked_sub(base))
        else {
            return false;
        };
        // A record has a byte at least.
        let fits = base == tail.active_base && records <= bytes && (records == 0) == (bytes == 0);
        let mut reader = FrameReader::new();
        reader.open(Arc::clone(&active.file), active.info.header.salt);
        fits && active.file.len().is_ok_and(|len| len >= tail.pos)
            && reader.is_zero_from(tail.pos).unwrap_or(false)
    }

    /// Gives back the room of the zeros behind the tail.
    pub(super) fn cut_zeros(&mut self) {
        let tail = self.inner.control.tail();
        if let Some(active) = &mut self.writer.active
            && active.file.len().is_ok_and(|len| len > tail.pos)
        {
            active.zeros_end = 0;
            self.inner.control.set_reserved(0);
            // Left-over zeros take up room and nothing else.
            let _ = active.file.truncate(tail.pos);
        }
    }
}

/// Writes zeros from the end of the file on.
fn zero_ahead(active: &mut Active, end: u64, until: u64) -> io::Result<()> {
    match active.file.len() {
        // Another handle was here.
        Ok(file_len) if file_len > end => active.zeros_end = file_len,
        Ok(_) => {
            let step = ZEROS.len() as u64;
            (end..until).step_by(ZEROS.len()).try_for_each(|at| {
                let len = usize::try_from(step.min(until - at)).unwrap_or_default();
                active.file.write_all_at(ZEROS.get(..len).unwrap_or_default(), at)
            })?;
            active.zeros_end = until;
        }
        Err(_) => {}
    }
    Ok(())
}

/// Makes the file longer, and maps what it got, where the storage can.
fn reserve_ahead(active: &mut Active, control: &Control, end: u64, until: u64) -> io::Result<()> {
    if active.file.reserve(end, until)? {
        // Another handle may have made it longer still.
        control.set_reserved(until.max(control.reserved()));
        // A frame that is not stored is one that goes beyond, or finds the file cut.
        active.zeros_end = 0;
    }
    Ok(())
}
