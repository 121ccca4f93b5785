//! What a subscription has at hand: ready to be handed out, and handed out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::mapping::Came;
use crate::ended::Ended;

/// A partition for as long as it is this member's.
#[derive(Debug)]
pub(super) struct Share {
    /// No other share of the session has it.
    pub(super) number: u64,
    /// Ends when the partition is somebody else's.
    pub(super) lost: Ended,
}

/// A message that is not settled.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) came: Arc<Came>,
    /// How often it was delivered before.
    pub(super) before: u32,
    pub(super) share: Arc<Share>,
}

impl Held {
    pub(super) fn place(&self) -> u64 {
        self.came.offset
    }
}

/// Ready and handed out.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// In the order in which it came.
    pub(super) ready: VecDeque<(u64, Held)>,
    /// Handed out and not settled.
    pub(super) out: HashMap<u64, Held>,
    /// Handed out, and somebody else's by now.
    lost: HashSet<u64>,
    bytes: u64,
}

impl Hands {
    /// How many deliveries there are, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.ready.len() + self.out.len(), self.bytes)
    }

    pub(super) fn is_ready(&mut self, tag: u64, held: Held) {
        self.bytes += held.came.bytes();
        self.ready.push_back((tag, held));
    }

    /// Hands out everything that is ready.
    pub(super) fn hand_out(&mut self) -> Vec<(u64, Held)> {
        let ready: Vec<_> = self.ready.drain(..).collect();
        self.out.extend(ready.iter().cloned());
        ready
    }

    /// Takes one back from those that were handed out.
    pub(super) fn take(&mut self, tag: u64) -> Option<Held> {
        self.lost.remove(&tag);
        let held = self.out.remove(&tag)?;
        self.bytes -= held.came.bytes();
        Some(held)
    }

    /// Takes back what is ready, of one share or of all.
    pub(super) fn take_ready(&mut self, share: Option<u64>) -> Vec<Held> {
        let is_it = |held: &Held| share.is_none_or(|share| held.share.number == share);
        let (taken, kept): (Vec<_>, Vec<_>) =
            self.ready.drain(..).partition(|(_, held)| is_it(held));
        self.ready.extend(kept);
        let taken: Vec<_> = taken.into_iter().map(|(_, held)| held).collect();
        self.bytes -= taken.iter().map(|held| held.came.bytes()).sum::<u64>();
        taken
    }

    /// A share is somebody else's: so is everything of it.
    pub(super) fn lose(&mut self, share: u64) {
        drop(self.take_ready(Some(share)));
        let of_share = self.out.iter().filter(|(_, held)| held.share.number == share);
        let tags: Vec<_> = of_share.map(|(tag, _)| *tag).collect();
        for tag in tags {
            drop(self.take(tag));
            self.lost.insert(tag);
        }
    }

    pub(super) fn is_lost(&self, tag: u64) -> bool {
        self.lost.contains(&tag)
    }
}
