//! Room on the disk: publishers leave the last of it to the groups, so that settling goes on when it is full.
//!
//! A group keeps a reserve, which it gives up when it finds the disk full. Publishers that try again and again would take
//! what it gave up before the group can. So once the disk was full they write only where more than a margin is left.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use busline_core::{Error, ErrorKind, Result};
use busline_log::storage::Storage;

/// What publishers leave: the reserves of a few groups, and the journals that they become.
const MARGIN_BYTES: u64 = 256 << 10;

/// Whether there was little room when somebody looked.
#[derive(Debug, Default)]
pub(super) struct Room {
    is_scarce: AtomicBool,
}

impl Room {
    /// Says `Full` when there was little room, and there still is. One load while there is enough.
    pub(super) fn check(&self, storage: &dyn Storage, path: &Path) -> Result<()> {
        if !self.is_scarce.load(Ordering::Relaxed) || !self.look(storage, path) {
            return Ok(());
        }
        let message = format!(
            "no space left: the last {} KiB are kept for what consumers settle",
            MARGIN_BYTES >> 10
        );
        Err(Error::new(ErrorKind::Full, message)
            .context("path", path.display())
            .hint("free some space: publishers go on by themselves"))
    }

    /// Remembers that there was no room.
    pub(super) fn note_full(&self) {
        self.is_scarce.store(true, Ordering::Relaxed);
    }

    /// Looks how much room there is; true when it is little. Where that cannot be told it is never little.
    pub(super) fn look(&self, storage: &dyn Storage, path: &Path) -> bool {
        let free_bytes = storage.free_bytes(path).ok().flatten();
        let is_scarce = free_bytes.is_some_and(|bytes| bytes < MARGIN_BYTES);
        self.is_scarce.store(is_scarce, Ordering::Relaxed);
        is_scarce
    }
}
