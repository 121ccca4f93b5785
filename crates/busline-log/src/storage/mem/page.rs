//! Shared pages on the heap.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::life::Life;
use crate::storage::words::low_half;
use crate::storage::{PAGE_WORDS, SharedPage};

/// The words that all handles of one page file share.
pub(super) struct PageWords {
    words: Box<[AtomicU64; PAGE_WORDS]>,
    gate: Mutex<()>,
    woken: Condvar,
}

impl PageWords {
    pub(super) const BYTES: usize = PAGE_WORDS * size_of::<AtomicU64>();

    pub(super) fn new() -> Self {
        Self {
            words: Box::new([const { AtomicU64::new(0) }; PAGE_WORDS]),
            gate: Mutex::new(()),
            woken: Condvar::new(),
        }
    }

    pub(super) fn load(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(self.words.iter()) {
            place.copy_from_slice(&word.load(Ordering::SeqCst).to_ne_bytes());
        }
        bytes
    }

    /// Stores the words that lie in the range, wholly or in part.
    pub(super) fn store(&self, bytes: &[u8], range: Range<usize>) {
        const SIZE: usize = size_of::<u64>();
        let range = range.start / SIZE..range.end.div_ceil(SIZE);
        for (index, (word, bytes)) in self.words.iter().zip(bytes.chunks_exact(SIZE)).enumerate() {
            if range.contains(&index) {
                let value = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
                word.store(value, Ordering::SeqCst);
            }
        }
    }

    /// Wakes all who wait on any word; a wake-up may be spurious, so there is one bell for the page.
    pub(super) fn wake_all(&self) {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }
}

impl fmt::Debug for PageWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageWords").finish_non_exhaustive()
    }
}

/// One handle of a page.
#[derive(Debug)]
pub(super) struct MemPage {
    shared: Arc<PageWords>,
    /// What the code of a dead process goes on with: a private copy, so that nothing it does after its
    /// death is seen by the living.
    ghost: OnceLock<PageWords>,
    life: Arc<Life>,
    identity: u128,
    sync: Box<dyn SyncPage>,
}

/// Makes the page's file durable.
pub(super) trait SyncPage: fmt::Debug + Send + Sync + 'static {
    fn sync(&self) -> io::Result<()>;
}

impl MemPage {
    pub(super) fn new(
        shared: Arc<PageWords>,
        life: Arc<Life>,
        identity: u128,
        sync: Box<dyn SyncPage>,
    ) -> Self {
        Self { shared, ghost: OnceLock::new(), life, identity, sync }
    }

    fn page(&self) -> &PageWords {
        if self.life.is_alive() {
            return &self.shared;
        }
        self.ghost.get_or_init(|| {
            let ghost = PageWords::new();
            ghost.store(&self.shared.load(), 0..PageWords::BYTES);
            ghost
        })
    }
}

impl SharedPage for MemPage {
    fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        &self.page().words
    }

    fn identity(&self) -> u128 {
        self.identity
    }

    fn wait(&self, word: usize, expected: u32, timeout: Option<Duration>) {
        let gate = self.shared.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.life.is_alive() || self.low(word).load(Ordering::SeqCst) != expected {
            return;
        }
        match timeout {
            Some(timeout) => drop(self.shared.woken.wait_timeout(gate, timeout)),
            None => drop(self.shared.woken.wait(gate)),
        }
    }

    fn wake(&self, _word: usize) {
        if self.life.is_alive() {
            self.shared.wake_all();
        }
    }

    fn low(&self, word: usize) -> &AtomicU32 {
        self.words().get(word).map(low_half).expect("a shared page has PAGE_WORDS words")
    }

    fn sync(&self) -> io::Result<()> {
        self.sync.sync()
    }
}
