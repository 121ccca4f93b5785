//! The words between threads that do nothing else, small enough for Miri, which gives each load any value that
//! the memory model allows.

use std::sync::Arc;
use std::thread;

use super::*;
use crate::page::PrivatePage;

/// Few under Miri, where each is a schedule of its own already.
const ROUNDS: u64 = if cfg!(miri) { 4 } else { 2_000 };
/// A word that nothing else uses, in the place of the bytes of a frame.
const BYTES: usize = 62;

fn fresh() -> Control {
    let control = Control::new(Arc::new(PrivatePage::new()));
    let tail = Tail { active_base: 0, seq: 0, pos: 72, last_time_us: 0 };
    control.init(7, tail, 0, Poison::None, false);
    control
}

/// Runs both at once.
fn both<A: Send, B: Send>(
    one: impl FnOnce() -> A + Send,
    two: impl FnOnce() -> B + Send,
) -> (A, B) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let two = scope.spawn(two);
        (one.join().unwrap(), two.join().unwrap())
    })
}

#[test]
fn who_sees_a_tail_sees_what_was_written_below_it() {
    let control = fresh();
    let write = || {
        for seq in 1..=ROUNDS {
            control.begin_append(72 + seq * 48);
            control.word(BYTES).store(seq, Ordering::Relaxed);
            control.end_append(seq, 72 + seq * 48, seq.cast_signed());
        }
    };
    let read = || {
        let mut before = 0;
        loop {
            let seq = control.tail_seq();
            assert!(seq >= before, "the tail went back");
            before = seq;
            assert!(control.word(BYTES).load(Ordering::Relaxed) >= seq, "a frame below the tail");
            assert!(control.last_time_us() >= seq.cast_signed(), "its time");
            if seq == ROUNDS {
                return;
            }
            thread::yield_now();
        }
    };
    both(write, read);
}

#[test]
fn who_arms_a_bell_sees_what_was_appended_or_is_rung() {
    for _ in 0..ROUNDS {
        let control = fresh();
        let write = || {
            control.begin_append(120);
            control.end_append(1, 120, 0);
            control.notify(Signal::Tail, false)
        };
        let wait = || {
            control.announce_armed();
            control.tail_seq()
        };
        let (rung, seen) = both(write, wait);
        assert!(rung || seen == 1, "a wake-up was lost");
    }
}

#[test]
fn who_goes_to_sleep_sees_what_was_appended_or_is_woken() {
    for _ in 0..ROUNDS {
        let control = fresh();
        let write = || {
            control.end_append(1, 120, 0);
            control.notify(Signal::Tail, false);
        };
        // Without a timeout: a lost wake-up never ends.
        let sleep = || {
            while control.tail_seq() == 0 {
                control.sleep(Signal::Tail, None, || control.tail_seq() != 0);
            }
        };
        both(write, sleep);
    }
}

#[test]
fn a_page_is_believed_only_when_all_of_it_is_there() {
    for _ in 0..ROUNDS {
        let control = Control::new(Arc::new(PrivatePage::new()));
        let fill = || {
            let tail = Tail { active_base: 3, seq: 5, pos: 99, last_time_us: 4 };
            control.init(7, tail, 2, Poison::Damaged, true);
        };
        let look = || {
            if control.is_trusted(7) {
                assert_eq!((control.tail_seq(), control.first_seq(), control.durable()), (5, 2, 5));
                assert_eq!((control.poison(), control.is_clean()), (Poison::Damaged, true));
                assert!(!control.is_changing());
            }
        };
        both(fill, look);
    }
}

#[test]
fn both_ends_of_durability_only_rise() {
    let control = fresh();
    let raise = |step: u64| {
        let control = control.clone();
        move || {
            for seq in 1..=ROUNDS {
                control.raise_durable(seq * step);
                assert!(control.durable() >= seq * step);
            }
        }
    };
    both(raise(1), raise(2));
    assert_eq!(control.durable(), ROUNDS * 2);
}
