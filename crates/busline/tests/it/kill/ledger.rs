//! The account: everything that processes reported, held against what the bus says at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use busline::transport::GroupInfo;
use busline::{HeaderValue, Patterns, Record, dead};

use super::consuming::Spec;
use super::publishing::{content, origin};
use crate::harness::number;
use crate::harness::wire::{Decision, Event, Got, Saw, Task};

/// What was reported.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By publisher: how many it may have sent, and where those with receipts are.
    published: BTreeMap<String, Published>,
    /// By group and offset: what its members got, by attempt.
    got: BTreeMap<String, BTreeMap<u64, BTreeMap<u32, Decision>>>,
    /// By group: the settles that were answered, by offset and attempt.
    settled: BTreeMap<String, BTreeMap<(u64, u32), Decision>>,
    /// By process: where its broadcast began, and what it saw.
    broadcasts: BTreeMap<usize, (u64, Vec<Saw>)>,
    /// What readers saw, one going on where the one before was killed.
    pub(crate) followed: Vec<Saw>,
}

#[derive(Debug, Default)]
struct Published {
    tried: u64,
    stored: BTreeMap<u64, u64>,
}

/// What the account says in numbers.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) stored: usize,
    pub(crate) receipts: usize,
    pub(crate) deliveries: u64,
    pub(crate) redeliveries: u64,
    pub(crate) dead_letters: usize,
    /// Attempts that no member reported: it was killed between claiming and saying so.
    pub(crate) unreported: u64,
    pub(crate) broadcast: usize,
}

impl Ledger {
    /// Notes a report of a process with this task.
    pub(crate) fn hear(&mut self, id: usize, task: &Task, event: Event) {
        match (task, event) {
            (Task::Publish { name, .. }, Event::Trying { first, count }) => {
                self.published.entry(name.clone()).or_default().tried = first + count;
            }
            (Task::Publish { name, .. }, Event::Stored { first, offsets }) => {
                let stored = &mut self.published.entry(name.clone()).or_default().stored;
                stored.extend((first..).zip(offsets));
            }
            (Task::Consume { group, .. }, Event::Took { got }) => {
                let offsets = self.got.entry(group.clone()).or_default();
                for Got { offset, attempt, decision } in got {
                    let attempts = offsets.entry(offset).or_default();
                    let before = attempts.insert(attempt, decision);
                    assert_eq!(before, None, "{group}: attempt {attempt} of {offset} came twice");
                }
            }
            (Task::Consume { group, .. }, Event::Settled { settles }) => {
                let settled = self.settled.entry(group.clone()).or_default();
                for settle in settles {
                    // No lease runs out, and nobody is taken for dead who is not.
                    assert_eq!(settle.error, None, "{group}: {settle:?}");
                    settled.insert((settle.offset, settle.attempt), settle.decision);
                }
            }
            (Task::Broadcast { .. }, Event::Ready { end }) => {
                self.broadcasts.insert(id, (end, Vec::new()));
            }
            (Task::Broadcast { .. }, Event::Saw { records }) => {
                self.broadcasts.get_mut(&id).unwrap().1.extend(records);
            }
            (Task::Follow { .. }, Event::Saw { records }) => self.followed.extend(records),
            _ => {}
        }
    }

    /// Every message with a receipt is stored once, where the receipt says, unchanged; whatever
    /// else is stored was sent; and each publisher's messages are in their order.
    pub(crate) fn check_log(&self, log: &[Record], sums: &mut Sums) {
        let mut at: HashMap<(String, u64), u64> = HashMap::new();
        let mut newest: HashMap<String, u64> = HashMap::new();
        for record in log {
            let payload = std::str::from_utf8(&record.message.payload).unwrap();
            let (name, index) = origin(payload);
            let (key, text) = content(&name, index);
            assert_eq!((record.message.key.as_str(), payload), (key, text.as_str()));
            let tried = self.published.get(&name).map_or(0, |published| published.tried);
            assert!(index < tried, "{name} never sent {index}");
            let offset = number(&record.offset);
            let before = at.insert((name.clone(), index), offset);
            assert_eq!(before, None, "{name}:{index} is stored twice");
            let before = newest.insert(name.clone(), index);
            // A killed publisher stored a beginning of what it sent, without a hole.
            let next = before.map_or(0, |before| before + 1);
            assert_eq!(index, next, "{name} is out of order at {offset}");
        }
        for (name, published) in &self.published {
            for (index, offset) in &published.stored {
                let found = at.get(&(name.clone(), *index));
                assert_eq!(found, Some(offset), "{name}:{index} has a receipt");
                sums.receipts += 1;
            }
        }
        sums.stored = log.len();
    }

    /// The group settled every message that matches, as its members said, and its counters agree.
    pub(crate) fn check_group(
        &self,
        spec: &Spec,
        log: &[Record],
        letters: &[Record],
        info: &GroupInfo,
        sums: &mut Sums,
    ) {
        let name = spec.name;
        let patterns: Patterns = spec.patterns.iter().map(|text| text.parse().unwrap()).collect();
        let wanted = |record: &&Record| patterns.matches(record.message.key.as_str());
        let wanted: BTreeMap<u64, &Record> =
            log.iter().filter(wanted).map(|record| (number(&record.offset), record)).collect();
        let letters = check_letters(name, letters, &wanted);
        let nothing = BTreeMap::new();
        let got = self.got.get(name).unwrap_or(&nothing);
        let strange: Vec<_> = got.keys().filter(|offset| !wanted.contains_key(offset)).collect();
        assert!(strange.is_empty(), "{name} got what is not for it: {strange:?}");
        let no_attempts = BTreeMap::new();
        let (mut claims, mut rejected, mut reported, mut exact) = (0, 0, 0, true);
        for offset in wanted.keys() {
            let attempts = got.get(offset).unwrap_or(&no_attempts);
            let end = self.end(spec, *offset, attempts, letters.get(offset));
            reported += attempts.len() as u64;
            claims += u64::from(end.claims);
            rejected += u64::from(end.rejected);
            exact &= end.exact;
        }
        let count = wanted.len() as u64;
        assert_eq!((info.lag, info.in_flight, info.waiting), (0, 0, 0), "{info:?}");
        assert_eq!(info.acked + info.rejected, count, "{name}: settled {info:?}");
        assert_eq!(info.rejected, rejected, "{name}: rejected {info:?}");
        assert_eq!(info.delivered - info.redelivered, count, "{name}: first deliveries {info:?}");
        if exact {
            assert_eq!(info.delivered, claims, "{name}: deliveries {info:?}");
        }
        assert!(info.delivered >= claims, "{name}: deliveries {claims} {info:?}");
        sums.deliveries += info.delivered;
        sums.redeliveries += info.redelivered;
        sums.dead_letters += letters.values().map(BTreeSet::len).sum::<usize>();
        sums.unreported += info.delivered - reported;
    }

    /// What became of a message: its last attempt settled it, or its attempts were used up.
    fn end(
        &self,
        spec: &Spec,
        offset: u64,
        attempts: &BTreeMap<u32, Decision>,
        letters: Option<&Letters>,
    ) -> End {
        let (name, limit) = (spec.name, spec.attempts_max);
        let (last, decision) = attempts.last_key_value().map_or((0, None), |(n, d)| (*n, Some(*d)));
        assert!(last <= limit, "{name}: attempt {last} of {offset}");
        let settled = self.settled.get(name).expect("somebody settled something");
        for ((_, attempt), decision) in settled.range((offset, 0)..=(offset, u32::MAX)) {
            let for_good = matches!(decision, Decision::Ack | Decision::Reject);
            // What was settled for good, and said so, never came again.
            assert!(!for_good || *attempt == last, "{name}: {offset} came again after {attempt}");
        }
        let answered = settled.contains_key(&(offset, last));
        let used_up = letters.is_some_and(|letters| letters.iter().any(|(_, used_up)| *used_up));
        let letter = letters.is_some_and(|letters| letters.contains(&(last, false)));
        let (rejected, exact) = match decision {
            Some(Decision::Ack) if answered => (false, true),
            // A member that was killed may have settled what it reported, or not.
            Some(Decision::Ack | Decision::Quiet) => (used_up, !used_up),
            Some(Decision::Reject) => {
                assert!(letter || used_up, "{name}: {offset} was rejected and has no letter");
                (true, answered || !used_up)
            }
            // Given back, and then used up: by this very attempt, or by members that were killed.
            _ => {
                assert!(used_up, "{name}: {offset} was given back at {last}: {attempts:?}");
                (true, answered && last == limit)
            }
        };
        End { claims: if exact { last } else { last.max(limit) }, rejected, exact }
    }

    /// A broadcast got everything from its beginning on, once, in order; a reader too.
    pub(crate) fn check_streams(&self, log: &[Record], sums: &mut Sums) {
        let at: BTreeMap<u64, &[u8]> =
            log.iter().map(|r| (number(&r.offset), r.message.payload.as_ref())).collect();
        for (id, (end, saw)) in &self.broadcasts {
            let Some(first) = saw.first() else { continue };
            assert!(first.offset <= *end, "broadcast {id} began late");
            check_stream(&format!("broadcast {id}"), &at, saw);
            assert!(saw.iter().all(|saw| saw.attempt == 1), "broadcast {id}");
            sums.broadcast += saw.len();
        }
        assert_eq!(self.followed.len(), log.len(), "the reader saw another number");
        check_stream("the reader", &at, &self.followed);
    }

    /// Whether the broadcast of this process saw everything that ends with this offset.
    pub(crate) fn heard_to(&self, id: usize, last: Option<u64>) -> bool {
        self.broadcasts.get(&id).is_some_and(|(end, saw)| {
            last.is_none_or(|last| *end > last) || saw.last().map(|saw| saw.offset) == last
        })
    }
}

/// The end of a message in a group.
struct End {
    /// How often it was claimed in all; at least, when that is not exact.
    claims: u32,
    /// Whether it went to the dead letters.
    rejected: bool,
    exact: bool,
}

/// The dead letters of a message: the attempts that they tell, and whether its attempts were used
/// up. A member that is killed between writing a letter and settling leaves one too many.
type Letters = BTreeSet<(u32, bool)>;

fn check_stream(what: &str, log: &BTreeMap<u64, &[u8]>, saw: &[Saw]) {
    let from = saw.first().map_or(0, |saw| saw.offset);
    for (saw, (offset, payload)) in saw.iter().zip(log.range(from..)) {
        assert_eq!(saw.offset, *offset, "{what} has a hole or a double");
        assert_eq!(saw.payload.as_bytes(), *payload, "{what} at {offset}");
    }
}

/// The dead letters by the offset that they came from. The messages are as they were published.
fn check_letters(
    group: &str,
    letters: &[Record],
    wanted: &BTreeMap<u64, &Record>,
) -> BTreeMap<u64, Letters> {
    let mut found: BTreeMap<u64, Letters> = BTreeMap::new();
    for letter in letters {
        let message = &letter.message;
        let text = |name| message.headers.get(name).and_then(HeaderValue::as_str).unwrap();
        let offset = number(&text(dead::HEADER_OFFSET).parse().unwrap());
        let origin = wanted.get(&offset).unwrap_or_else(|| panic!("{group}: letter of {offset}"));
        assert_eq!(message.payload, origin.message.payload);
        assert_eq!((text(dead::HEADER_GROUP), &message.key), (group, &origin.message.key));
        let attempts = match message.headers.get(dead::HEADER_ATTEMPTS) {
            Some(HeaderValue::Int(attempts)) => u32::try_from(*attempts).unwrap(),
            other => panic!("{group}: attempts of {offset}: {other:?}"),
        };
        let reason = text(dead::HEADER_REASON);
        let used_up = reason.starts_with("attempts exhausted: ");
        assert!(used_up || reason == "a test rejects it", "{reason}");
        found.entry(offset).or_default().insert((attempts, used_up));
    }
    found
}
