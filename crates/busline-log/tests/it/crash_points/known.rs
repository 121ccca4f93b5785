//! What callers had been told at a moment, and what may therefore be found after it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use busline_log::{Counters, Group, Now, Peeked};

/// A record, told apart from all others by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) seq: u64,
    pub(crate) number: u64,
    pub(crate) bytes: usize,
}

impl Rec {
    /// Every second record has another key.
    pub(crate) fn key(self) -> &'static [u8] {
        key_of(self.number)
    }

    pub(crate) fn value(self) -> Vec<u8> {
        value_of(self.number, self.bytes)
    }
}

pub(crate) fn key_of(number: u64) -> &'static [u8] {
    if number.is_multiple_of(2) { b"even" } else { b"odd" }
}

/// No two sectors of any two values are the same.
pub(crate) fn value_of(number: u64, bytes: usize) -> Vec<u8> {
    let words = (0u64..).map(|at| (number << 20 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut value: Vec<u8> = number.to_le_bytes().to_vec();
    value.extend(words.flat_map(u64::to_le_bytes).take(bytes.saturating_sub(8)));
    value
}

/// How a group stands, as far as its users can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) cursor: u64,
    pub(crate) unsettled: Vec<Peeked>,
    pub(crate) config: Vec<u8>,
    epoch: u64,
    floor: u64,
    counters: Counters,
    members: Vec<(u64, u64)>,
}

impl View {
    pub(crate) fn of(group: &Group, now: Now) -> busline_log::Result<Self> {
        let info = group.info(now)?;
        let mut unsettled = Vec::new();
        group.peek(0, usize::MAX, &|_, _| false, &mut |peeked| unsettled.push(peeked))?;
        Ok(Self {
            cursor: info.cursor,
            unsettled,
            config: info.config.bytes,
            epoch: info.config.epoch,
            floor: info.floor,
            counters: info.counters,
            members: info.members.iter().map(|member| (member.id, member.held)).collect(),
        })
    }

    /// What a group that stands so owes of these records: number in the log and the next attempt.
    pub(crate) fn owes(&self, records: &[Rec]) -> Vec<(u64, u32)> {
        let next = |rec: &Rec| {
            if rec.seq >= self.cursor {
                return rec.key().starts_with(&self.config).then_some((rec.seq, 1));
            }
            let held = self.unsettled.iter().find(|peeked| peeked.seq == rec.seq)?;
            Some((rec.seq, held.attempts + 1))
        };
        records.iter().filter_map(next).collect()
    }
}

/// A state of a group: none when there is no group.
pub(crate) type Standing = Option<View>;

/// What is known of a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupKnown {
    /// How it stood after each change; from the durable one on.
    pub(crate) history: Arc<Vec<Standing>>,
    /// From where on the history may be lost with the power.
    pub(crate) durable: usize,
    /// What changes that did not return come to, should they come to light.
    pub(crate) flights: Vec<Arc<OnceLock<Standing>>>,
    /// The power failed, and nobody has opened it since.
    pub(crate) unpowered: bool,
}

impl GroupKnown {
    pub(crate) fn standing(standing: Standing) -> Self {
        Self { history: Arc::new(vec![standing]), ..Self::default() }
    }

    pub(crate) fn push(&mut self, standing: Standing) {
        Arc::make_mut(&mut self.history).push(standing);
    }

    pub(crate) fn now(&self) -> &Standing {
        self.history.last().unwrap_or(&None)
    }

    /// Whether it may stand so.
    pub(crate) fn allows(&self, found: &Standing) -> bool {
        let flights = self.flights.iter().filter_map(|flight| flight.get());
        self.allowed().chain(flights).any(|standing| standing == found)
    }

    /// How it may stand after its processes died, or the power failed.
    pub(crate) fn allowed(&self) -> impl Iterator<Item = &Standing> {
        let last = self.history.len().saturating_sub(1);
        self.history.iter().skip(if self.unpowered { self.durable } else { last })
    }
}

/// What callers had been told at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Counts what was learned.
    pub(crate) version: u64,
    /// The log was made.
    pub(crate) created: bool,
    /// The records that were visible, in order, removed ones included.
    pub(crate) records: Arc<Vec<Rec>>,
    /// Frames that may come to light: their appends did not return, and none returned since.
    pub(crate) flights: Vec<Arc<Vec<Rec>>>,
    /// Records below this survive a loss of power.
    pub(crate) durable: u64,
    /// The first record lies between these: what was removed, and what was about to be.
    pub(crate) first: (u64, u64),
    /// The power failed, and nobody has opened the log since.
    pub(crate) unpowered: bool,
    /// All closed it, and nobody appended since.
    pub(crate) clean: bool,
    /// No number below this is given out again.
    pub(crate) seen: u64,
    pub(crate) groups: BTreeMap<&'static str, GroupKnown>,
    pub(crate) boot_us: u64,
    pub(crate) wall_us: i64,
}

impl Known {
    pub(crate) fn group(&mut self, name: &'static str) -> &mut GroupKnown {
        self.groups.entry(name).or_insert_with(|| GroupKnown::standing(None))
    }

    /// Notes that the power failed.
    pub(crate) fn lose_power(&mut self) {
        self.unpowered = true;
        self.groups.values_mut().for_each(|group| group.unpowered = true);
    }

    /// Whether more is there than was visible.
    pub(crate) fn has_more(&self, found: &[Rec], first: u64) -> bool {
        found.len() > self.records.iter().filter(|rec| rec.seq >= first).count()
    }

    /// Says what is wrong with these records, found after an end; `first` is where the log begins.
    pub(crate) fn judge(&self, found: &[Rec], first: u64) -> Result<(), String> {
        if !(self.first.0..=self.first.1).contains(&first) {
            return Err(format!("it begins at {first}, not within {:?}", self.first));
        }
        let there: Vec<Rec> = self.records.iter().filter(|rec| rec.seq >= first).copied().collect();
        if let Some(at) = found.iter().zip(&there).position(|(found, known)| found != known) {
            return Err(format!("{:?} is there instead of {:?}", found[at], there[at]));
        }
        if let Some(extra) = found.get(there.len()..).filter(|extra| !extra.is_empty()) {
            if self.flights.iter().any(|flight| flight.as_slice() == extra) {
                return Ok(());
            }
            return Err(format!("{extra:?} came from nowhere; in flight: {:?}", self.flights));
        }
        let Some(lost) = there.get(found.len()) else { return Ok(()) };
        if !self.unpowered {
            return Err(format!("{lost:?} was visible and is lost without a loss of power"));
        }
        if lost.seq < self.durable {
            return Err(format!("{lost:?} was durable (below {}) and is lost", self.durable));
        }
        Ok(())
    }
}
