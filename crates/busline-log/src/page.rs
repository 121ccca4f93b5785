//! A control page of one process alone, for logs that are opened without writing anything.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::storage::{PAGE_WORDS, SharedPage};

/// Words on the heap that nobody else sees.
#[derive(Debug)]
pub(crate) struct PrivatePage {
    words: Box<[AtomicU64; PAGE_WORDS]>,
    /// Nothing is appended through a private page, so one word serves both signals.
    low: AtomicU32,
    gate: Mutex<()>,
    woken: Condvar,
}

impl PrivatePage {
    pub(crate) fn new() -> Self {
        Self {
            words: Box::new([const { AtomicU64::new(0) }; PAGE_WORDS]),
            low: AtomicU32::new(0),
            gate: Mutex::new(()),
            woken: Condvar::new(),
        }
    }
}

impl SharedPage for PrivatePage {
    fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        &self.words
    }

    fn identity(&self) -> u128 {
        0
    }

    fn wait(&self, _word: usize, expected: u32, timeout: Option<Duration>) {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if self.low.load(Ordering::SeqCst) == expected {
            match timeout {
                Some(timeout) => drop(self.woken.wait_timeout(gate, timeout)),
                None => drop(self.woken.wait(gate)),
            }
        }
    }

    fn wake(&self, _word: usize) {
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }

    fn low(&self, _word: usize) -> &AtomicU32 {
        &self.low
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}
