//! The control page: what the processes that share a log tell each other, and in which order.
//!
//! One page of atomic words, mapped by every process. It is a cache of what lies in the segments and
//! the only truth about what is *visible*; it is believed only when its boot id is this boot's and its
//! identity (device and inode) is its own, for then the page cache below it is the one that was written.
//! Everything else (power loss, a copied directory) is found out from the segments, see [`crate::log`].
//!
//! # Protocol
//!
//! All words but `durable`, the two signals, the doorbell slots and `poison` are written only by the
//! holder of the append lock, which is itself a word, see `log::append_lock`.
//!
//! * **Append**: `dirty_until = end` → write the bytes → `last_time` → `tail_seq = next` (Release, *the
//!   commit point*) → `tail_pos = dirty_until`. A reader that loads `tail_seq` (Acquire) finds every frame
//!   below it complete. A holder that died is recognised by `dirty_until != tail_pos`: the next holder walks
//!   the frames from `tail_pos` as long as they are below `tail_seq`, and cuts what lies behind.
//! * **Reserved**: so many bytes the active segment's file has for certain. Who appends may store a frame that ends
//!   below it into a mapping of the file; whoever cuts the file sets it to 0 before.
//! * **Structure** (roll, removal, recovery): `generation` is made odd before the first change on disk and
//!   even after the last word is stored. A holder that died is recognised by an odd generation: the next
//!   one lists the directory. Readers keep their segment table as long as the generation is the same.
//! * **Durable**: raised (never lowered) by the holder of the sync lock, who read `(active_base, tail_seq)`
//!   under one even generation and then synced all segments from `sync_base` to that one.
//! * **Signals**: the low half is a futex word. Bit 0: a thread sleeps. Bit 1: a doorbell is armed. The rest
//!   counts. Who changes the state looks at the bits with one load (behind a full fence); when both are
//!   clear nobody waits. Else it swaps in the next count with clear bits, wakes, and rings. Who waits sets
//!   its bit and then looks at the state once more. A waiter that was killed leaves a bit, which costs one
//!   needless wake-up and no more: there is no count that could drift.
//! * **Doorbells**: a slot holds `token << 2 | state`. Armed → idle is swapped by whoever rings, who then
//!   writes one byte into `bells/<token>`; a bell without owner is freed and its file removed.
//! * **Poison**: set once, by whoever saw an fsync fail or found the middle damaged; only a repair clears it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use crate::storage::{PAGE_WORDS, SharedPage};

/// Magic and version of the page. A page of another version is made anew, once nobody has the log open: it holds
/// nothing lasting, but those who wrote it would go on with their own words.
const MAGIC: u64 = u64::from_le_bytes(*b"BLCTL\0\0\x03");
/// The bits of the magic that tell the version: its last byte.
const MAGIC_VERSION: u64 = 0xff << 56;
const STATE_READY: u64 = u64::from_le_bytes(*b"BLREADY\0");

const W_MAGIC: usize = 0;
const W_BOOT: usize = 1;
const W_SELF: usize = 3;
const W_STATE: usize = 5;
const W_GENERATION: usize = 6;
const W_ACTIVE: usize = 7;
const W_FIRST: usize = 8;
const W_CLEAN: usize = 9;
const W_POISON: usize = 10;
const W_RINGS: usize = 11;
const W_TAIL_SEQ: usize = 16;
const W_TAIL_POS: usize = 17;
const W_DIRTY: usize = 18;
const W_LAST_TIME: usize = 19;
const W_RESERVED: usize = 20;
const W_DURABLE: usize = 24;
const W_SYNC_BASE: usize = 25;
const W_BELLS: usize = 64;
/// The word whose low half wakes those who wait for records.
const W_SIGNAL: usize = 32;
/// The word whose low half wakes those who wait for durability.
const W_DURABLE_SIGNAL: usize = 40;
/// The word whose low half is the append lock; alone on its cache line.
const W_APPEND: usize = 48;

/// How many doorbells a log has at once.
pub(crate) const BELLS_MAX: usize = 256;
const _: () = assert!(W_BELLS + BELLS_MAX <= PAGE_WORDS);

const BIT_SLEEPER: u32 = 1;
const BIT_ARMED: u32 = 2;
const COUNT_ONE: u32 = 4;

/// Why a log refuses writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poison {
    /// Not at all.
    None,
    /// An fsync failed.
    SyncFailed,
    /// Records in the middle are damaged.
    Damaged,
}

/// Which of the two signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Records, rings, structure.
    Tail,
    /// Durability and poison.
    Durable,
}

/// Where the next frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) active_base: u64,
    pub(crate) seq: u64,
    pub(crate) pos: u64,
    pub(crate) last_time_us: i64,
}

/// The page, behind names. Clones are the same page.
#[derive(Clone)]
pub(crate) struct Control {
    page: Arc<dyn SharedPage>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("generation", &self.generation())
            .field("tail", &self.tail())
            .field("durable", &self.durable())
            .field("poison", &self.poison())
            .finish_non_exhaustive()
    }
}

impl Control {
    pub(crate) fn new(page: Arc<dyn SharedPage>) -> Self {
        Self { page }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.page.words().get(at).expect("word numbers are constants below PAGE_WORDS")
    }

    fn get(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    fn set(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    fn get_u128(&self, at: usize) -> u128 {
        u128::from(self.get(at)) | u128::from(self.get(at + 1)) << 64
    }

    fn set_u128(&self, at: usize, value: u128) {
        let halves = value.to_le_bytes();
        let (words, _) = halves.as_chunks::<8>();
        for (word, bytes) in (at..).zip(words) {
            self.set(word, u64::from_le_bytes(*bytes));
        }
    }

    /// Whether the words describe this log in this boot.
    pub(crate) fn is_trusted(&self, boot_id: u128) -> bool {
        self.get(W_STATE) == STATE_READY
            && self.get(W_MAGIC) == MAGIC
            && self.get_u128(W_BOOT) == boot_id
            && self.get_u128(W_SELF) == self.page.identity()
    }

    /// Whether a program with another version of the page made it, in whatever boot.
    pub(crate) fn is_of_another_version(&self) -> bool {
        let difference = self.get(W_MAGIC) ^ MAGIC;
        difference != 0 && difference & !MAGIC_VERSION == 0
    }

    /// Fills the page after a recovery; trusted from the last store on. Under the append lock.
    pub(crate) fn init(&self, boot_id: u128, tail: Tail, first: u64, poison: Poison, clean: bool) {
        self.forget();
        let generation = self.generation().wrapping_add(2) & !1;
        self.set(W_MAGIC, MAGIC);
        self.set_u128(W_BOOT, boot_id);
        self.set_u128(W_SELF, self.page.identity());
        self.set(W_FIRST, first);
        self.set(W_CLEAN, u64::from(clean));
        self.set(W_POISON, poison_code(poison));
        self.set(W_DURABLE, tail.seq);
        self.set(W_SYNC_BASE, tail.active_base);
        for slot in W_BELLS..W_BELLS + BELLS_MAX {
            self.set(slot, 0);
        }
        // Whoever stands in it died with the boot or the directory that the page was written in.
        self.append_word().store(0, Ordering::SeqCst);
        self.set_tail(tail);
        self.set(W_GENERATION, generation);
        self.set(W_STATE, STATE_READY);
    }

    /// Makes the page untrusted, so that the next who opens the log recovers it.
    pub(crate) fn forget(&self) {
        self.set(W_STATE, 0);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.get(W_GENERATION)
    }

    /// Whether a change of structure is under way, or its holder died.
    pub(crate) fn is_changing(&self) -> bool {
        is_odd(self.generation())
    }

    /// Announces a change of structure: the generation is odd until [`Control::end_change`].
    pub(crate) fn begin_change(&self) {
        self.set(W_GENERATION, self.generation() | 1);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn end_change(&self) {
        self.set(W_GENERATION, (self.generation() | 1).wrapping_add(1));
    }

    pub(crate) fn tail_seq(&self) -> u64 {
        self.get(W_TAIL_SEQ)
    }

    pub(crate) fn tail(&self) -> Tail {
        let words = self.page.words();
        let get = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Acquire));
        Tail {
            active_base: get(W_ACTIVE),
            seq: get(W_TAIL_SEQ),
            pos: get(W_TAIL_POS),
            last_time_us: get(W_LAST_TIME).cast_signed(),
        }
    }

    /// Stores a whole tail. Only inside a change of structure, or to finish what a dead holder began.
    pub(crate) fn set_tail(&self, tail: Tail) {
        self.set(W_ACTIVE, tail.active_base);
        self.set(W_LAST_TIME, tail.last_time_us.cast_unsigned());
        self.set(W_TAIL_POS, tail.pos);
        self.set(W_DIRTY, tail.pos);
        self.set(W_RESERVED, 0);
        self.set(W_TAIL_SEQ, tail.seq);
    }

    /// Up to where the active segment's file certainly goes.
    pub(crate) fn reserved(&self) -> u64 {
        self.get(W_RESERVED)
    }

    /// Says how long the active segment's file is at least: behind making it longer, before cutting it.
    pub(crate) fn set_reserved(&self, len: u64) {
        self.word(W_RESERVED).store(len, Ordering::SeqCst);
    }

    /// Announces that bytes up to `end` will be written. Only the next holder of the append lock looks at it:
    /// behind this one's release of the lock, or its death.
    pub(crate) fn begin_append(&self, end: u64) {
        self.set(W_DIRTY, end);
    }

    /// Makes what was written visible.
    pub(crate) fn end_append(&self, seq: u64, pos: u64, last_time_us: i64) {
        self.set(W_LAST_TIME, last_time_us.cast_unsigned());
        self.set(W_TAIL_SEQ, seq);
        self.set(W_TAIL_POS, pos);
    }

    /// Takes back [`Control::begin_append`] after the bytes were cut.
    pub(crate) fn cancel_append(&self) {
        self.set(W_DIRTY, self.get(W_TAIL_POS));
    }

    /// How far a holder may have written.
    pub(crate) fn dirty_until(&self) -> u64 {
        self.get(W_DIRTY)
    }

    pub(crate) fn last_time_us(&self) -> i64 {
        self.get(W_LAST_TIME).cast_signed()
    }

    pub(crate) fn active_base(&self) -> u64 {
        self.get(W_ACTIVE)
    }

    pub(crate) fn first_seq(&self) -> u64 {
        self.get(W_FIRST)
    }

    pub(crate) fn set_first_seq(&self, seq: u64) {
        self.set(W_FIRST, seq);
    }

    /// Whether a mark on disk says that the log was closed cleanly (and nothing was written since).
    pub(crate) fn is_clean(&self) -> bool {
        self.get(W_CLEAN) != 0
    }

    pub(crate) fn set_clean(&self, clean: bool) {
        self.set(W_CLEAN, u64::from(clean));
    }

    pub(crate) fn durable(&self) -> u64 {
        self.get(W_DURABLE)
    }

    pub(crate) fn raise_durable(&self, seq: u64) {
        self.word(W_DURABLE).fetch_max(seq, Ordering::AcqRel);
    }

    /// The oldest segment that may hold something unsynced.
    pub(crate) fn sync_base(&self) -> u64 {
        self.get(W_SYNC_BASE)
    }

    pub(crate) fn raise_sync_base(&self, base: u64) {
        self.word(W_SYNC_BASE).fetch_max(base, Ordering::AcqRel);
    }

    pub(crate) fn poison(&self) -> Poison {
        match self.get(W_POISON) {
            0 => Poison::None,
            2 => Poison::Damaged,
            _ => Poison::SyncFailed,
        }
    }

    pub(crate) fn set_poison(&self, poison: Poison) {
        self.word(W_POISON).store(poison_code(poison), Ordering::SeqCst);
    }

    /// The word of the append lock.
    pub(crate) fn append_word(&self) -> &AtomicU32 {
        self.page.low(W_APPEND)
    }

    /// Sleeps until the append lock is given back, unless it does not hold `seen`, and at most so long.
    pub(crate) fn wait_append(&self, seen: u32, timeout: Duration) {
        self.page.wait(W_APPEND, seen, Some(timeout));
    }

    /// Wakes one who waits for the append lock.
    pub(crate) fn wake_append(&self) {
        self.page.wake_one(W_APPEND);
    }

    /// How often somebody rang although nothing was appended.
    pub(crate) fn rings(&self) -> u64 {
        self.get(W_RINGS)
    }

    pub(crate) fn add_ring(&self) {
        self.word(W_RINGS).fetch_add(1, Ordering::SeqCst);
    }

    fn signal(&self, which: Signal) -> &AtomicU32 {
        self.page.low(signal_word(which))
    }

    /// How often the signal was given while somebody waited.
    pub(crate) fn signal_count(&self, which: Signal) -> u32 {
        self.signal(which).load(Ordering::SeqCst) / COUNT_ONE
    }

    /// Wakes whoever waits; true when a doorbell may be armed. One load when nobody does.
    pub(crate) fn notify(&self, which: Signal, always: bool) -> bool {
        fence(Ordering::SeqCst);
        let signal = self.signal(which);
        let mut seen = signal.load(Ordering::Relaxed);
        loop {
            if seen & (BIT_SLEEPER | BIT_ARMED) == 0 && !always {
                return false;
            }
            let next = (seen & !(BIT_SLEEPER | BIT_ARMED)).wrapping_add(COUNT_ONE);
            match signal.compare_exchange_weak(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if seen & BIT_SLEEPER != 0 {
            self.page.wake(signal_word(which));
        }
        seen & BIT_ARMED != 0
    }

    /// Sleeps until the signal is given, unless `changed` says that there is nothing to wait for.
    /// May return early for no reason.
    pub(crate) fn sleep(
        &self,
        which: Signal,
        timeout: Option<Duration>,
        changed: impl Fn() -> bool,
    ) {
        let signal = self.signal(which);
        let word = signal.fetch_or(BIT_SLEEPER, Ordering::SeqCst) | BIT_SLEEPER;
        fence(Ordering::SeqCst);
        if !changed() {
            self.page.wait(signal_word(which), word, timeout);
        }
    }

    /// Sets the bit that makes publishers look at the doorbells.
    pub(crate) fn announce_armed(&self) {
        self.signal(Signal::Tail).fetch_or(BIT_ARMED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The slots of the doorbells.
    pub(crate) fn bells(&self) -> impl Iterator<Item = &AtomicU64> {
        self.page.words().iter().skip(W_BELLS).take(BELLS_MAX)
    }
}

/// Whether a generation was read during a change.
pub(crate) fn is_odd(generation: u64) -> bool {
    generation & 1 != 0
}

fn signal_word(which: Signal) -> usize {
    match which {
        Signal::Tail => W_SIGNAL,
        Signal::Durable => W_DURABLE_SIGNAL,
    }
}

fn poison_code(poison: Poison) -> u64 {
    match poison {
        Poison::None => 0,
        Poison::SyncFailed => 1,
        Poison::Damaged => 2,
    }
}

#[cfg(test)]
mod tests;
