//! What a subscription has at hand: fetched, handed out, and settled but not told to the broker yet.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::mapping::{Before, Came};

/// A message that the broker counts as unsettled.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) came: Arc<Came>,
    pub(super) before: Before,
    pub(super) bytes: u64,
}

/// Fetched and handed out, within bounds.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// Fetched, in the order in which it came.
    pub(super) ready: VecDeque<(u64, Held)>,
    /// Handed out and not settled.
    pub(super) out: HashMap<u64, Held>,
    out_bytes: u64,
}

impl Hands {
    /// The next that fits: one that is larger than all bounds only by itself.
    pub(super) fn hand_out(&mut self, count_max: usize, bytes_max: u64) -> Option<(u64, Held)> {
        let (_, next) = self.ready.front()?;
        if self.out.len() >= count_max {
            return None;
        }
        if !self.out.is_empty() && self.out_bytes.saturating_add(next.bytes) > bytes_max {
            return None;
        }
        let (tag, held) = self.ready.pop_front()?;
        self.out_bytes += held.bytes;
        self.out.insert(tag, held.clone());
        Some((tag, held))
    }

    /// Takes one back from those that were handed out.
    pub(super) fn take(&mut self, tag: u64) -> Option<Held> {
        let held = self.out.remove(&tag)?;
        self.out_bytes -= held.bytes;
        Some(held)
    }
}

/// Which tags of a channel are open at the broker, and which of them may be acked together.
///
/// A multiple ack takes everything up to a tag: it is only given where nothing before is still open.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// The tag of the first state.
    first: u64,
    states: VecDeque<State>,
    acked: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Acked,
    Gone,
}

/// An ack for the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    pub(super) multiple: bool,
}

impl Tags {
    /// Tags come in order, one after another.
    pub(super) fn open(&mut self, tag: u64) {
        if self.states.is_empty() {
            self.first = tag;
        }
        // A gap belongs to nobody.
        while self.first + (self.states.len() as u64) < tag {
            self.states.push_back(State::Gone);
        }
        self.states.push_back(State::Open);
    }

    /// It was acked here; the broker hears of it by [`Tags::acks`].
    pub(super) fn ack(&mut self, tag: u64) {
        if self.turn(tag, State::Open, State::Acked) {
            self.acked.push(tag);
        }
    }

    /// It was given back.
    pub(super) fn gone(&mut self, tag: u64) {
        self.turn(tag, State::Open, State::Gone);
    }

    /// How many were acked that the broker has not heard of.
    pub(super) fn acked(&self) -> usize {
        self.acked.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.iter().all(|state| *state == State::Gone)
    }

    /// What to tell the broker: as few acks as say exactly what was acked.
    pub(super) fn acks(&mut self) -> Vec<Ack> {
        let mut together: Option<Ack> = None;
        while let Some(state) = self.states.front().filter(|state| **state != State::Open) {
            if *state == State::Acked {
                together = Some(Ack { tag: self.first, multiple: together.is_some() });
            }
            self.states.pop_front();
            self.first += 1;
        }
        let mut acks: Vec<_> = together.into_iter().collect();
        for tag in std::mem::take(&mut self.acked) {
            if tag >= self.first {
                self.turn(tag, State::Acked, State::Gone);
                acks.push(Ack { tag, multiple: false });
            }
        }
        acks
    }

    fn turn(&mut self, tag: u64, from: State, to: State) -> bool {
        let index = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let place = index.and_then(|index| self.states.get_mut(index));
        let Some(place) = place.filter(|place| **place == from) else { return false };
        *place = to;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_follows_one_another_is_acked_together() {
        let mut tags = Tags::default();
        (1..=6).for_each(|tag| tags.open(tag));
        [2, 1, 5].into_iter().for_each(|tag| tags.ack(tag));
        let acks = [Ack { tag: 2, multiple: true }, Ack { tag: 5, multiple: false }];
        assert_eq!(tags.acks(), acks);
        tags.gone(3);
        tags.ack(4);
        // Alone: 3 is not open any more, and 5 was acked.
        assert_eq!(tags.acks(), [Ack { tag: 4, multiple: false }]);
        assert!(!tags.is_empty());
        tags.ack(6);
        tags.ack(6);
        assert_eq!(tags.acks(), [Ack { tag: 6, multiple: false }]);
        assert!(tags.is_empty() && tags.acks().is_empty());
    }

    proptest! {
        /// Against a broker that believes what it is told.
        #[test]
        fn nothing_open_is_ever_acked(steps in prop::collection::vec((0u8..5, 0usize..20), 1..200)) {
            let (mut tags, mut next) = (Tags::default(), 1);
            let (mut open, mut due) = (BTreeSet::new(), BTreeSet::new());
            for (what, pick) in steps {
                let picked = open.iter().nth(pick % open.len().max(1)).copied();
                match (what, picked) {
                    (0 | 1, _) | (_, None) => {
                        tags.open(next);
                        open.insert(next);
                        next += 1;
                    }
                    (2, Some(tag)) => {
                        tags.ack(tag);
                        open.remove(&tag);
                        due.insert(tag);
                    }
                    (3, Some(tag)) => {
                        tags.gone(tag);
                        open.remove(&tag);
                    }
                    _ => {
                        for ack in tags.acks() {
                            let from = if ack.multiple { 0 } else { ack.tag };
                            prop_assert!(open.range(from..=ack.tag).next().is_none());
                            prop_assert!(due.contains(&ack.tag));
                            due.retain(|tag| !(from..=ack.tag).contains(tag));
                        }
                        prop_assert!(due.is_empty(), "left out: {due:?}");
                    }
                }
            }
        }
    }
}
