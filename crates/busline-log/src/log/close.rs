//! Closing: the last one syncs everything and leaves a mark, so that the next start need not look.

use std::sync::atomic::Ordering;

use crate::control::Poison;
use crate::error::{Error, ErrorKind, Result};
use crate::files::{CLEAN, CleanMark, OPEN_LOCK};
use crate::log::{Inner, Log};
use crate::options::Access;

const OP: &str = "close a log";

impl Log {
    /// Makes everything durable and gives the handle back; its clones are closed with it. The last one
    /// that has the log open marks it clean. Called again it does nothing; dropping the last clone
    /// does the same, without telling errors.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }

    /// As [`Log::close`], unless somebody else has the log open.
    ///
    /// # Errors
    /// `Busy` when others have it open: then nothing is closed.
    pub fn close_alone(&self) -> Result<()> {
        let inner = &self.inner;
        inner.check_open(OP)?;
        let path = inner.dir.join(OPEN_LOCK);
        let io = |e| Error::io(OP, &path, e);
        let alone = inner.open_lock.try_lock().map_err(io)?;
        // The attempt gave up the share. Who came in between found a log of this boot in order, and
        // whoever deletes it at this moment does what the caller is about to do.
        inner.open_lock.lock_shared().map_err(io)?;
        if !alone {
            return Err(inner.error(ErrorKind::Busy, OP, "others have the log open"));
        }
        inner.close()
    }

    /// Lets go of the log as the death of the process would: nothing is synced, nothing is marked. For tests.
    #[doc(hidden)]
    pub fn abandon(&self) {
        if !self.inner.closed.swap(true, Ordering::AcqRel) {
            self.inner.release();
        }
    }
}

impl Inner {
    fn close(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check_open(OP)?;
        if self.options.access == Access::ReadOnly {
            self.closed.store(true, Ordering::Release);
            return Ok(());
        }
        let marked = self.mark_clean();
        self.closed.store(true, Ordering::Release);
        self.release();
        marked
    }

    /// Syncs; as the last one, writes the clean mark.
    fn mark_clean(&self) -> Result<()> {
        if self.control.poison() != Poison::None {
            return Ok(());
        }
        self.sync(self.control.tail_seq(), OP)?;
        let path = self.dir.join(OPEN_LOCK);
        let alone = self.open_lock.try_lock().map_err(|e| Error::io(OP, &path, e))?;
        if !alone || self.control.is_clean() {
            return Ok(());
        }
        // Alone, but other threads may still append through clones of this handle.
        let mut guard = self.lock_append(OP)?;
        let next = guard.next_seq();
        self.sync(next, OP)?;
        if !guard.tail_fits() {
            // The page was written over. A mark after it would call records lost that never were.
            return Err(self.error(
                ErrorKind::Damaged,
                OP,
                "the control page tells another end than the segments; somebody else wrote to it. Stop all \
                 programs that have the log open, and remove the file 'control'",
            ));
        }
        guard.cut_zeros();
        // Said first: whoever appends after this process died in between must remove a mark that may be
        // there, or after a loss of power it would hide what was appended.
        self.control.set_clean(true);
        let mark = CleanMark { log_id: self.format.id, tail: self.control.tail() };
        mark.store(self.storage.as_ref(), &self.dir)
            .map_err(|e| Error::io(OP, &self.dir.join(CLEAN), e))?;
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn release(&self) {
        // Locks that cannot be given back are given back by the end of the process.
        let _ = self.open_lock.unlock();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A forked child must not give back the locks of its parent, and nobody is there to hear an error.
        if self.check_open(OP).is_ok() {
            let _ = self.close();
        }
    }
}
