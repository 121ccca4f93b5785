//! Waiting for records, for event loops: a file descriptor that becomes readable.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::files::BELLS;
use crate::log::open::fresh_token;
use crate::log::wait::Mark;
use crate::log::{Inner, Log, lock};
use crate::storage::{Bell, Rope};

const OP: &str = "make a doorbell";

const FREE: u64 = 0;
const STATES: u64 = 0b11;
const IDLE: u64 = 1;
const ARMED: u64 = 2;

/// A bell that publishers in any process ring when it is armed.
///
/// ```text
/// loop {
///     let mark = log.mark();
///     if look_for_work() { continue; }
///     bell.drain()?;
///     if bell.arm(mark)? { wait until the descriptor is readable, at most a second }
/// }
/// ```
/// The bound on the wait is for publishers that are killed between making records visible and ringing.
pub struct Doorbell {
    log: Log,
    bell: Arc<dyn Bell>,
    slot: usize,
    token: u64,
}

impl Log {
    /// Makes a doorbell. `Limit` when 256 others are in use.
    pub fn doorbell(&self) -> Result<Doorbell> {
        let inner = &self.inner;
        inner.check_open(OP)?;
        let dir = inner.dir.join(BELLS);
        inner.storage.create_dir_all(&dir).map_err(|e| Error::io(OP, &dir, e))?;
        // Two bits of the slot are its state; a token of zero would read as a free slot.
        let token = (fresh_token() >> 2).max(1);
        let path = bell_path(inner, token);
        let bell = inner.storage.bell(&path).map_err(|e| Error::io(OP, &path, e))?;
        let claimed = claim_slot(inner, token).or_else(|| {
            sweep(inner);
            claim_slot(inner, token)
        });
        let Some(slot) = claimed else {
            drop(bell);
            // Nobody knows the path yet; a left-over is removed with the log.
            let _ = inner.storage.remove(&path);
            return Err(inner.error(
                ErrorKind::Limit,
                OP,
                "all doorbells of the log are in use; share one within a process",
            ));
        };
        Ok(Doorbell { log: self.clone(), bell, slot, token })
    }
}

impl Doorbell {
    /// Asks to be rung. False when something changed since the mark was taken: look for work again, the
    /// bell may ring for that. True: wait for the descriptor; any change from the mark on rings it.
    /// Several threads may wait with one bell: who drains it wakes the others.
    pub fn arm(&self, mark: Mark) -> Result<bool> {
        let inner = &self.log.inner;
        inner.check_open("arm a doorbell")?;
        if inner.mark() != mark {
            return Ok(false);
        }
        let Some(word) = self.word() else {
            return Ok(false);
        };
        word.store(self.token << 2 | ARMED, Ordering::SeqCst);
        inner.control.announce_armed();
        if inner.mark() == mark {
            return Ok(true);
        }
        // It stays armed: another thread may wait with it since then. A needless ring, the next drain takes.
        Ok(false)
    }

    /// Empties the bell: call it after it was readable and before arming it again. True when it was rung.
    pub fn drain(&self) -> Result<bool> {
        self.bell.drain().map_err(|e| Error::io("drain a doorbell", &self.bell.path(), e))
    }

    /// Blocks until it is rung or the timeout passed; true when rung.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        self.bell.wait(timeout).map_err(|e| Error::io("wait for a doorbell", &self.bell.path(), e))
    }

    /// The descriptor to watch for readability, where the medium has one.
    #[cfg(unix)]
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.bell.fd()
    }

    fn word(&self) -> Option<&AtomicU64> {
        self.log.inner.control.bells().nth(self.slot)
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        let inner = &self.log.inner;
        if inner.check_open("drop a doorbell").is_ok() {
            if let Some(word) = self.word() {
                word.store(FREE, Ordering::SeqCst);
            }
            // A left-over is found without an owner, or removed with the log.
            let _ = inner.storage.remove(&bell_path(inner, self.token));
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("path", &self.bell.path()).finish_non_exhaustive()
    }
}

fn bell_path(inner: &Inner, token: u64) -> PathBuf {
    inner.dir.join(BELLS).join(format!("{token:016x}"))
}

fn claim_slot(inner: &Inner, token: u64) -> Option<usize> {
    inner.control.bells().position(|word| {
        let idle = token << 2 | IDLE;
        word.compare_exchange(FREE, idle, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    })
}

/// Rings every armed bell once.
pub(super) fn ring_armed(inner: &Inner) {
    for (slot, word) in inner.control.bells().enumerate() {
        let seen = word.load(Ordering::SeqCst);
        if seen & STATES == ARMED {
            let idle = seen & !STATES | IDLE;
            if word.compare_exchange(seen, idle, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                ring(inner, slot, word, idle);
            }
        }
    }
}

/// Frees the slots of bells whose owners are dead.
fn sweep(inner: &Inner) {
    for (slot, word) in inner.control.bells().enumerate() {
        let seen = word.load(Ordering::SeqCst);
        if seen != FREE {
            // The living take it for a needless wake-up.
            ring(inner, slot, word, seen);
        }
    }
}

fn ring(inner: &Inner, slot: usize, word: &AtomicU64, seen: u64) {
    let token = seen >> 2;
    let rung = lock(&inner.ropes).to(inner, slot, token);
    if let Ok(false) = rung.and_then(|rope| rope.map_or(Ok(false), |rope| rope.ring()))
        && word.compare_exchange(seen, FREE, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    {
        // Its owner is dead. A left-over would only take up a name.
        let _ = inner.storage.remove(&bell_path(inner, token));
    }
}

/// Of this many slots, the first ones, a handle keeps the ropes: opening one takes longer than ringing.
const ROPES_MAX: usize = 16;

/// The ropes of bells that were rung before, by slot.
#[derive(Debug, Default)]
pub(super) struct Ropes {
    kept: [Option<(u64, Arc<dyn Rope>)>; ROPES_MAX],
}

impl Ropes {
    /// The rope of the bell in a slot; `None` when nobody owns it.
    fn to(&mut self, inner: &Inner, slot: usize, token: u64) -> io::Result<Option<Arc<dyn Rope>>> {
        let Some(kept) = self.kept.get_mut(slot) else {
            return inner.storage.rope(&bell_path(inner, token));
        };
        if let Some((of, rope)) = kept
            && *of == token
        {
            return Ok(Some(Arc::clone(rope)));
        }
        *kept = inner.storage.rope(&bell_path(inner, token))?.map(|rope| (token, rope));
        Ok(kept.as_ref().map(|(_, rope)| Arc::clone(rope)))
    }
}
