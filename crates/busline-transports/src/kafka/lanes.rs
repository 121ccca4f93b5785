//! Ordering keys whose later messages wait while an earlier one is unsettled.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;

use super::part::Fetched;

/// One lane an ordering key that has an unsettled message.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<ByteString, Lane>,
    waiting: usize,
}

/// What is ordered together is on one partition.
#[derive(Debug)]
struct Lane {
    partition: i32,
    waiting: VecDeque<Fetched>,
}

impl Lanes {
    /// A message came; it is given back when it may be handed out now.
    pub(super) fn comes(&mut self, fetched: Fetched) -> Option<Fetched> {
        // One that comes again has kept its lane.
        if fetched.is_first {
            return Some(fetched);
        }
        match self.lanes.entry(fetched.came.lane()) {
            Entry::Vacant(lane) => {
                let partition = fetched.came.partition;
                lane.insert(Lane { partition, waiting: VecDeque::new() });
                Some(Fetched { is_first: true, ..fetched })
            }
            Entry::Occupied(mut lane) => {
                lane.get_mut().waiting.push_back(fetched);
                self.waiting += 1;
                None
            }
        }
    }

    /// The first of a lane is done with; the next may be handed out.
    pub(super) fn goes_on(&mut self, name: &ByteString) -> Option<Fetched> {
        let next = self.lanes.get_mut(name)?.waiting.pop_front();
        match next {
            None => drop(self.lanes.remove(name)),
            Some(_) => self.waiting -= 1,
        }
        next.map(|fetched| Fetched { is_first: true, ..fetched })
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A partition is somebody else's: its lanes are.
    pub(super) fn clear(&mut self, partition: i32) {
        self.lanes.retain(|_, lane| lane.partition != partition);
        self.waiting = self.lanes.values().map(|lane| lane.waiting.len()).sum();
    }
}
