//! The append lock: one word of the control page, and a file that tells who of its holders lives.
//!
//! Taking a free lock and giving it back is one atomic exchange each and no system call. What a file lock
//! does by itself, to fall with its holder, is done here by those who wait.
//!
//! # Protocol
//!
//! The word is 0, or the holder's *token* and the bit [`CONTENDED`]. Inside a process a mutex goes before it,
//! so that each handle contends for itself alone.
//!
//! * **Take**: 0 → token. Who finds it taken sets the bit and sleeps on the word (a futex), at most
//!   [`PATIENCE`] at a time, and takes it *with* the bit, because others may sleep as well.
//! * **Give back**: token → 0, one call that wakes one sleeper when the bit was set. A holder that dies
//!   between the two costs the sleepers their patience and no more.
//! * **Holder's file**: before a token is first stored, its handle has made and locked (`flock`) the file
//!   `holder.<token>`, and keeps that lock for its life. So "nobody has it locked" means that the holder is
//!   dead: it cannot be seen of one that lives.
//! * **Take over**: who finds the word unchanged after its patience looks at that file, with a shared lock, so that
//!   those who look do not take each other for the holder. Is the holder dead, the word goes dead token →
//!   own token. The dead never store their token again, so of all who try one succeeds, and none can
//!   succeed later. What the dead one left half-done is finished as after any lock, see [`crate::control`].
//! * **Tokens**: 31 bits, at random. A new one is used only when its file is not locked by another and the word
//!   does not hold it, both looked at with the file locked; a file is removed by its owner, or by who has it
//!   locked while the word does not hold its token. So the token of a dead holder is never given out again
//!   while it stands in the word.
//!
//! A holder that is stopped (SIGSTOP, a debugger) is alive: the others wait for it, as for a file lock. A forked
//! child has no part in the file of its parent, unless it was made past the C library. Recovery takes no part in this: it runs only while the page is not believed, and then there is
//! no handle that could append, see [`crate::log::open`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::control::Control;
use crate::files::HOLDER;
use crate::log::open::fresh_token;
use crate::storage::{ForkGuard, Storage, StorageLock};

/// Somebody may sleep until the lock is given back.
const CONTENDED: u32 = 1;

/// How long one who waits believes that the holder lives without looking.
const PATIENCE: Duration = Duration::from_millis(10);

/// How often a free lock is looked for before sleeping: about as long as a small append takes.
const SPINS: u32 = 30;

/// The lock, as one handle takes it. Not for two threads at once.
#[derive(Debug)]
pub(super) struct AppendLock {
    control: Control,
    storage: Arc<dyn Storage>,
    /// The log's, where the holders' files are.
    dir: PathBuf,
    holder: Option<Holder>,
    /// What a try that failed saw: the word, and the end of the log.
    seen: Option<(u32, u64)>,
}

impl AppendLock {
    pub(super) fn new(control: &Control, storage: &Arc<dyn Storage>, dir: &Path) -> Self {
        let (control, storage) = (control.clone(), Arc::clone(storage));
        Self { control, storage, dir: dir.to_owned(), holder: None, seen: None }
    }

    /// Waits for the lock.
    pub(super) fn lock(&mut self) -> io::Result<()> {
        let token = self.token()?;
        if self.take(token) { Ok(()) } else { self.lock_contended(token) }
    }

    /// Takes the lock if nobody who lives has it. The death of a holder is noticed by the second try.
    pub(super) fn try_lock(&mut self) -> io::Result<bool> {
        let token = self.token()?;
        if self.take(token) {
            return Ok(true);
        }
        let word = self.control.append_word().load(Ordering::Relaxed);
        let seen = Some((word, self.control.tail_seq()));
        let unchanged = std::mem::replace(&mut self.seen, seen) == seen;
        Ok(unchanged && word != 0 && self.take_over(word, token)?)
    }

    /// Gives the lock back. In a forked child it does nothing: the lock is the parent's.
    pub(super) fn unlock(&self) {
        let Some(holder) = self.holder.as_ref().filter(|holder| !holder.guard.is_forked()) else {
            return;
        };
        let word = self.control.append_word();
        let free = |held| word.compare_exchange(held, 0, Ordering::SeqCst, Ordering::Relaxed);
        // While its holder lives nobody changes the word but to set the bit.
        if free(holder.token).is_err() && free(holder.token | CONTENDED).is_ok() {
            self.control.wake_append();
        }
    }

    fn token(&mut self) -> io::Result<u32> {
        if let Some(holder) = &self.holder {
            return Ok(holder.token);
        }
        let holder = Holder::new(&self.control, &self.storage, &self.dir)?;
        Ok(self.holder.insert(holder).token)
    }

    fn take(&self, word: u32) -> bool {
        let free = self.control.append_word();
        free.compare_exchange(0, word, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_contended(&mut self, token: u32) -> io::Result<()> {
        for _ in 0..SPINS {
            std::hint::spin_loop();
            if self.control.append_word().load(Ordering::Relaxed) == 0 && self.take(token) {
                return Ok(());
            }
        }
        loop {
            let word = self.control.append_word();
            let seen = word.load(Ordering::Relaxed);
            if seen == 0 {
                if self.take(token | CONTENDED) {
                    return Ok(());
                }
                continue;
            }
            let held = seen | CONTENDED;
            if seen != held
                && word.compare_exchange(seen, held, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            self.control.wait_append(held, PATIENCE);
            // Also after waking early for no reason: looking costs a few system calls and harms nobody.
            if word.load(Ordering::Relaxed) == held && self.take_over(held, token)? {
                return Ok(());
            }
        }
    }

    /// Takes the lock from a holder that is dead; false when it lives, or another was quicker.
    fn take_over(&self, held: u32, token: u32) -> io::Result<bool> {
        if is_alive(self.storage.as_ref(), &path_of(&self.dir, held & !CONTENDED))? {
            return Ok(false);
        }
        let word = self.control.append_word();
        let own = token | CONTENDED;
        Ok(word.compare_exchange(held, own, Ordering::Acquire, Ordering::Relaxed).is_ok())
    }
}

/// A token, and the locked file that says that its handle lives.
#[derive(Debug)]
struct Holder {
    token: u32,
    path: PathBuf,
    storage: Arc<dyn Storage>,
    /// Only ever dropped, never unlocked: a child's copy must not take the parent's lock away.
    _lock: Arc<dyn StorageLock>,
    guard: ForkGuard,
}

impl Holder {
    fn new(control: &Control, storage: &Arc<dyn Storage>, dir: &Path) -> io::Result<Self> {
        sweep(control, storage.as_ref(), dir);
        loop {
            let token = (fresh_token() >> 32) as u32 & !CONTENDED;
            let path = path_of(dir, token);
            let lock = storage.lock_file(&path)?;
            // Another may have swept the file away, or hold it for that, between its making and its locking.
            let is_own = lock.try_lock()? && storage.exists(&path)?;
            if is_own && token != 0 && !is_in_word(control, token) {
                let (storage, guard) = (Arc::clone(storage), ForkGuard::new());
                return Ok(Self { token, path, storage, _lock: lock, guard });
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if !self.guard.is_forked() {
            // A left-over is swept by the next handle that appends.
            let _ = self.storage.remove(&self.path);
        }
    }
}

/// Removes the files of dead holders, but for one whose token stands in the word. What cannot be removed
/// takes up a name and nothing else.
fn sweep(control: &Control, storage: &dyn Storage, dir: &Path) {
    for name in storage.list(dir).unwrap_or_default() {
        let path = dir.join(&name);
        if let Some(digits) = name.strip_prefix(HOLDER)
            && let Ok(token) = u32::from_str_radix(digits, 16)
            && let Ok(lock) = storage.lock_file(&path)
            && lock.try_lock().unwrap_or(false)
            && !is_in_word(control, token)
        {
            let _ = storage.remove(&path);
        }
    }
}

fn is_in_word(control: &Control, token: u32) -> bool {
    control.append_word().load(Ordering::SeqCst) & !CONTENDED == token
}

fn is_alive(storage: &dyn Storage, path: &Path) -> io::Result<bool> {
    Ok(storage.exists(path)? && !storage.lock_file(path)?.try_lock_shared()?)
}

fn path_of(dir: &Path, token: u32) -> PathBuf {
    dir.join(format!("{HOLDER}{token:08x}"))
}

#[cfg(test)]
mod tests;
