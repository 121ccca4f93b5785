//! What a group has settled of one partition, and how often it was handed what it has not.
//!
//! Kafka keeps one number a partition and group, the place before which all is settled, and with it up to 4096 bytes
//! of text. The text says what is known behind that place: what was settled out of order does not come again, and
//! attempts are counted over the death of any member.

use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What a text of ours starts with.
const PREFIX: &str = "busline1:";

/// Brokers take 4096 bytes unless they are told otherwise.
const TEXT_BYTES_MAX: usize = 4000;

/// What [`TEXT_BYTES_MAX`] leaves for bytes in base64.
const BYTES_MAX: usize = (TEXT_BYTES_MAX - PREFIX.len()) / 4 * 3;

/// Nothing that was written is larger: at most two places a byte pair of runs, each run below this.
const RUN_MAX: u64 = 1 << 32;

/// What is known about one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Handed out this often, and not settled.
    Delivered(u32),
    Settled,
}

/// One partition, from the place before which all is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ledger {
    base: u64,
    marks: VecDeque<Mark>,
    /// The place behind everything that came.
    next: u64,
}

/// What to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) base: u64,
    pub(super) text: String,
    /// Everything before this is kept by it.
    pub(super) covered: u64,
}

/// What is known about a record that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It was settled before, or was there already.
    Settled,
    /// It was handed out so often.
    Delivered(u32),
}

impl Ledger {
    /// With nothing known behind that place.
    pub(super) fn new(base: u64) -> Self {
        Self { base, marks: VecDeque::new(), next: base }
    }

    /// From what was committed; a text of somebody else's says nothing.
    pub(super) fn restore(base: u64, text: &str) -> Self {
        let mut ledger = Self::new(base);
        ledger.marks = decode(text).unwrap_or_default();
        ledger.advance();
        ledger
    }

    /// The place before which all is settled.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// How many places are known about.
    pub(super) fn span(&self) -> u64 {
        self.marks.len() as u64
    }

    /// How many are known to be settled behind [`Ledger::base`].
    pub(super) fn settled_behind(&self) -> u64 {
        self.marks.iter().filter(|mark| **mark == Mark::Settled).count() as u64
    }

    /// How many were handed out and are not settled.
    pub(super) fn delivered(&self) -> u64 {
        let out = |mark: &&Mark| matches!(mark, Mark::Delivered(count) if *count > 0);
        self.marks.iter().filter(out).count() as u64
    }

    /// What is known about a place.
    pub(super) fn known(&self, place: u64) -> Known {
        if place < self.base {
            return Known::Settled;
        }
        let mark = self.index(place).and_then(|index| self.marks.get(index));
        match mark {
            Some(Mark::Settled) => Known::Settled,
            Some(Mark::Delivered(count)) => Known::Delivered(*count),
            None => Known::Delivered(0),
        }
    }

    /// A record came: the places before it that did not come hold nothing.
    pub(super) fn comes(&mut self, place: u64) -> Known {
        if place < self.next {
            return Known::Settled;
        }
        for gap in self.next..place {
            self.settle(gap);
        }
        let known = self.known(place);
        self.next = place + 1;
        // What is behind the last mark is not handed out yet, but it is no gap.
        if known == Known::Delivered(0) {
            self.set(place, Mark::Delivered(0));
        }
        known
    }

    /// It is handed out; how often it was before.
    pub(super) fn deliver(&mut self, place: u64) -> u32 {
        let Known::Delivered(before) = self.known(place) else { return 0 };
        self.set(place, Mark::Delivered(before.saturating_add(1)));
        before
    }

    /// Nobody saw it after all.
    pub(super) fn take_back(&mut self, place: u64) {
        if let Known::Delivered(count) = self.known(place) {
            self.set(place, Mark::Delivered(count.saturating_sub(1)));
        }
    }

    pub(super) fn settle(&mut self, place: u64) {
        if place >= self.base {
            self.set(place, Mark::Settled);
        }
        self.advance();
    }

    /// As text, as much as there is room for.
    pub(super) fn entry(&self) -> Entry {
        let mut bytes = Vec::new();
        let (mut at, mut covered) = (0, 0);
        // What nobody was handed at the end needs no word.
        let known = |mark: &Mark| *mark != Mark::Delivered(0);
        let end = self.marks.iter().rposition(known).map_or(0, |last| last + 1);
        while let Some(mark) = self.marks.get(at).filter(|_| at < end) {
            let run = self.marks.iter().skip(at).take(end - at).take_while(|m| *m == mark).count();
            let before = bytes.len();
            put(&mut bytes, run as u64);
            put(
                &mut bytes,
                match mark {
                    Mark::Settled => 0,
                    Mark::Delivered(count) => u64::from(*count) + 1,
                },
            );
            if bytes.len() > BYTES_MAX {
                bytes.truncate(before);
                break;
            }
            at += run;
            covered = at;
        }
        let all = covered == end;
        let covered = if all { u64::MAX } else { self.base + covered as u64 };
        let mut text = String::new();
        if !bytes.is_empty() {
            text.push_str(PREFIX);
            STANDARD_NO_PAD.encode_string(&bytes, &mut text);
        }
        Entry { base: self.base, text, covered }
    }

    fn index(&self, place: u64) -> Option<usize> {
        usize::try_from(place.checked_sub(self.base)?).ok()
    }

    fn set(&mut self, place: u64, mark: Mark) {
        let Some(index) = self.index(place) else { return };
        while self.marks.len() <= index {
            self.marks.push_back(Mark::Delivered(0));
        }
        if let Some(known) = self.marks.get_mut(index) {
            *known = mark;
        }
    }

    fn advance(&mut self) {
        while self.marks.front() == Some(&Mark::Settled) {
            self.marks.pop_front();
            self.base += 1;
        }
        self.next = self.next.max(self.base);
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// As many places as [`BYTES_MAX`] can name, in runs: a text of somebody else's must not fill the memory.
const PLACES_MAX: u64 = 1 << 22;

fn decode(text: &str) -> Option<VecDeque<Mark>> {
    let coded = text.strip_prefix(PREFIX)?;
    if coded.len() > TEXT_BYTES_MAX {
        return None;
    }
    let bytes = STANDARD_NO_PAD.decode(coded).ok()?;
    let (mut rest, mut marks, mut places) = (bytes.as_slice(), VecDeque::new(), 0_u64);
    while !rest.is_empty() {
        let run = get(&mut rest).filter(|run| *run < RUN_MAX)?;
        places = places.saturating_add(run);
        if places > PLACES_MAX {
            return None;
        }
        let mark = match get(&mut rest)? {
            0 => Mark::Settled,
            count => Mark::Delivered(u32::try_from(count - 1).ok()?),
        };
        marks.extend((0..run).map(|_| mark));
    }
    Some(marks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_is_settled_in_order_needs_no_words() {
        let mut ledger = Ledger::new(10);
        for place in 10..15 {
            assert_eq!(ledger.comes(place), Known::Delivered(0));
            assert_eq!(ledger.deliver(place), 0);
        }
        (10..15).for_each(|place| ledger.settle(place));
        assert_eq!(ledger.entry(), Entry { base: 15, text: String::new(), covered: u64::MAX });
    }

    #[test]
    fn what_is_settled_out_of_order_and_attempts_come_back() {
        let mut ledger = Ledger::new(0);
        for place in 0..4 {
            ledger.comes(place);
        }
        for place in 0..3 {
            ledger.deliver(place);
        }
        ledger.deliver(0);
        ledger.settle(1);
        ledger.settle(2);
        let entry = ledger.entry();
        let mut again = Ledger::restore(entry.base, &entry.text);
        let known: Vec<_> = (0..4).map(|place| again.comes(place)).collect();
        let delivered = Known::Delivered;
        assert_eq!(known, [delivered(2), Known::Settled, Known::Settled, delivered(0)]);
        again.settle(0);
        assert_eq!(again.base(), 3);
    }

    #[test]
    fn gaps_hold_nothing_and_what_came_is_not_taken_twice() {
        let mut ledger = Ledger::new(0);
        assert_eq!(ledger.comes(3), Known::Delivered(0));
        assert_eq!(ledger.base(), 3);
        assert_eq!(ledger.comes(3), Known::Settled);
        ledger.deliver(3);
        ledger.take_back(3);
        assert_eq!(ledger.known(3), Known::Delivered(0));
    }

    #[test]
    fn more_than_fits_is_left_out_and_says_so() {
        let mut ledger = Ledger::new(0);
        for place in 0..20_000 {
            ledger.comes(place);
            ledger.deliver(place);
            if place % 2 == 1 {
                ledger.settle(place);
            }
        }
        let entry = ledger.entry();
        assert!(entry.text.len() <= TEXT_BYTES_MAX && entry.covered < 20_000, "{}", entry.covered);
        let again = Ledger::restore(entry.base, &entry.text);
        assert_eq!(again.known(entry.covered - 1), ledger.known(entry.covered - 1));
        assert_eq!(again.known(entry.covered), Known::Delivered(0));
    }

    #[test]
    fn texts_of_others_say_nothing() {
        let huge = format!("{PREFIX}{}", "A".repeat(10_000));
        let long = format!("{PREFIX}{}", STANDARD_NO_PAD.encode([0xff, 0xff, 0xff, 0x7f, 0]));
        for text in ["", "mine", "busline1:?", "busline1:A", &huge, &long] {
            assert_eq!(Ledger::restore(5, text), Ledger::new(5), "{text:.40}");
        }
    }

    proptest! {
        /// Against a plain map; each commit is a death and a new member.
        #[test]
        fn nothing_settled_comes_again(steps in prop::collection::vec((0u8..6, 0u64..30), 1..300)) {
            let mut ledger = Ledger::new(0);
            let mut model: BTreeMap<u64, Option<u32>> = BTreeMap::new();
            let mut next = 0;
            for (what, pick) in steps {
                let open: Vec<_> = model.iter().filter(|(_, m)| m.is_some()).map(|(p, _)| *p).collect();
                let picked = open.get(pick as usize % open.len().max(1)).copied();
                match (what, picked) {
                    (0 | 1, _) | (_, None) => {
                        prop_assert_eq!(ledger.comes(next), Known::Delivered(0));
                        model.insert(next, Some(0));
                        next += 1;
                    }
                    (2 | 3, Some(place)) => {
                        let before = model[&place].unwrap();
                        prop_assert_eq!(ledger.deliver(place), before);
                        model.insert(place, Some(before + 1));
                    }
                    (4, Some(place)) => {
                        ledger.settle(place);
                        model.insert(place, None);
                    }
                    _ => {
                        let entry = ledger.entry();
                        prop_assert_eq!(entry.covered, u64::MAX);
                        ledger = Ledger::restore(entry.base, &entry.text);
                        let first = model.iter().find(|(_, m)| m.is_some()).map_or(next, |(p, _)| *p);
                        prop_assert_eq!(ledger.base(), first);
                        for place in first..next {
                            let wanted = model[&place].map_or(Known::Settled, Known::Delivered);
                            prop_assert_eq!(ledger.comes(place), wanted);
                        }
                    }
                }
            }
        }

        #[test]
        fn any_text_is_read(text in ".*") {
            drop(Ledger::restore(0, &text));
            drop(Ledger::restore(0, &format!("{PREFIX}{text}")));
        }
    }
}
