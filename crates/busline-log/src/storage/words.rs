//! The low half of a 64-bit atomic word: a futex is 32 bits wide, the words of a page are 64.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64};

/// The low 32 bits of `word`, in place.
///
/// Callers keep to one width for each word: accesses of two widths that race have no meaning in
/// Rust's memory model.
pub(super) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let halves = std::ptr::from_ref(word).cast::<AtomicU32>();
    let offset = if cfg!(target_endian = "little") { 0 } else { 1 };
    // SAFETY: an AtomicU64 is 8 bytes with an alignment of 8 and allows mutation through a shared
    // reference, so each of its halves is a valid, aligned place for an AtomicU32 that lives as
    // long as the word does. The offset is 0 or 1, inside the word.
    unsafe { &*halves.add(offset) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn the_low_half_is_the_low_half() {
        let word = AtomicU64::new(0x1111_2222_3333_4444);
        assert_eq!(low_half(&word).load(Ordering::SeqCst), 0x3333_4444);
        low_half(&word).store(7, Ordering::SeqCst);
        assert_eq!(word.load(Ordering::SeqCst), 0x1111_2222_0000_0007);
    }
}
