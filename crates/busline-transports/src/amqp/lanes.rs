//! Ordering keys whose later messages wait while an earlier one is unsettled.

use std::collections::{HashMap, VecDeque};

use bytestring::ByteString;

use super::held::Held;
use super::mapping::{self, Came};

/// A message with its tag.
type Tagged = (u64, Held);

/// One lane an ordering key that has an unsettled message.
#[derive(Debug, Default)]
pub(super) struct Lanes(HashMap<ByteString, Lane>);

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Tagged>,
    /// The first was given back and comes again, before those that wait.
    returning: bool,
}

impl Lanes {
    /// A message came; it is given back when it may be handed out now.
    pub(super) fn comes(&mut self, tag: u64, held: Held) -> Option<Tagged> {
        match self.0.get_mut(&mapping::lane(&held.came)) {
            None => {
                self.0.insert(mapping::lane(&held.came), Lane::default());
                Some((tag, held))
            }
            Some(lane) if lane.returning && held.came.redelivered => {
                lane.returning = false;
                Some((tag, held))
            }
            Some(lane) => {
                lane.waiting.push_back((tag, held));
                None
            }
        }
    }

    /// The first of a lane is done with; the next may be handed out.
    pub(super) fn goes_on(&mut self, came: &Came) -> Option<Tagged> {
        let name = mapping::lane(came);
        let next = self.0.get_mut(&name)?.waiting.pop_front();
        if next.is_none() {
            self.0.remove(&name);
        }
        next
    }

    /// The first of a lane was given back.
    pub(super) fn returns(&mut self, came: &Came) {
        self.0.entry(mapping::lane(came)).or_default().returning = true;
    }

    /// All that waits.
    pub(super) fn rest(self) -> Vec<Tagged> {
        self.0.into_values().flat_map(|lane| lane.waiting).collect()
    }
}
