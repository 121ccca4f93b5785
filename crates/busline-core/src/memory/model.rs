//! A group against a plain model: whatever happens, each message is somewhere exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::group::{Config, Group};
use super::log::TopicLog;
use super::settle::Dead;
use crate::delivery::Outcome;
use crate::transport::{Membership, Retention, RetryMode, Subscribe};
use crate::{GroupName, Key, KeyPattern, Message, Patterns, Timestamp, Topic};

const ATTEMPTS_MAX: u32 = 4;
const MEMBERS: u64 = 3;
const IN_FLIGHT_MAX: u32 = 5;

#[derive(Debug, Clone)]
enum Step {
    Publish {
        lane: u8,
        wanted: bool,
    },
    Claim {
        member: u64,
    },
    Settle {
        which: usize,
        how: How,
    },
    /// The member dies and is there again.
    Die {
        member: u64,
    },
    Advance {
        ms: u64,
    },
    Reset {
        back: u64,
    },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Ack,
    Retry,
    RetryLater,
    Reject,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    let how = prop_oneof![
        4 => Just(How::Ack),
        1 => Just(How::Retry),
        1 => Just(How::RetryLater),
        1 => Just(How::Reject),
        1 => Just(How::Release),
    ];
    prop_oneof![
        8 => (0..3_u8, prop::bool::weighted(0.8))
            .prop_map(|(lane, wanted)| Step::Publish { lane, wanted }),
        6 => (0..MEMBERS).prop_map(|member| Step::Claim { member }),
        10 => (any::<usize>(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => (0..MEMBERS).prop_map(|member| Step::Die { member }),
        2 => (0..300_u64).prop_map(|ms| Step::Advance { ms }),
        1 => (0..20_u64).prop_map(|back| Step::Reset { back }),
    ]
}

/// What the model knows of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    NotForUs,
    Unseen,
    Held { tag: u64, member: u64, until: Option<Duration> },
    Waiting,
    Done,
    Dead,
}

struct Model {
    mode: RetryMode,
    log: TopicLog,
    group: Group,
    now: Duration,
    fates: Vec<Fate>,
    attempts: Vec<u32>,
}

impl Model {
    fn new(mode: RetryMode) -> Self {
        let topic = Topic::new("t").unwrap();
        let config = Config {
            patterns: Patterns::new([KeyPattern::new("yes").unwrap()]),
            attempts_max: Some(ATTEMPTS_MAX),
            retry_mode: mode,
            expires_after: None,
        };
        let name = GroupName::new("g").unwrap();
        let mut model = Self {
            mode,
            log: TopicLog::new(1, topic, Retention::default(), 0),
            group: Group::new(1, name, config, 0, Duration::ZERO),
            now: Duration::ZERO,
            fates: Vec::new(),
            attempts: Vec::new(),
        };
        (0..MEMBERS).for_each(|member| model.join(member, IN_FLIGHT_MAX));
        model
    }

    fn join(&mut self, member: u64, in_flight_max: u32) {
        let membership = Membership::Group(GroupName::new("g").unwrap());
        let mut subscribe = Subscribe::new(Topic::new("t").unwrap(), membership);
        subscribe.max_in_flight = in_flight_max;
        subscribe.hold_max = (member == 0).then_some(Duration::from_millis(200));
        self.group.join(member, &subscribe, Arc::default());
    }

    fn run(&mut self, step: &Step) {
        let dead = self.group.tick(self.now);
        self.buried(dead);
        self.expired();
        match *step {
            Step::Publish { lane, wanted } => {
                let key = Key::new(if wanted { "yes" } else { "no" }).unwrap();
                let mut message = Message::new(Topic::new("t").unwrap(), key, "x");
                message.ordering_key = (lane > 0).then(|| lane.to_string().into());
                self.log.append(message, Timestamp::default());
                self.fates.push(if wanted { Fate::Unseen } else { Fate::NotForUs });
                self.attempts.push(0);
            }
            Step::Claim { member } => drop(self.claim(member)),
            Step::Settle { which, how } => {
                let held = self.held();
                if !held.is_empty() {
                    self.settle(held[which % held.len()], how);
                }
            }
            Step::Die { member } => {
                let dead = self.group.leave(member, self.now);
                self.lost(|fate| matches!(fate, Fate::Held { member: of, .. } if of == member));
                self.buried(dead);
                self.join(member, IN_FLIGHT_MAX);
            }
            Step::Advance { ms } => self.now += Duration::from_millis(ms),
            Step::Reset { back } => {
                let to = self.log.tail().saturating_sub(back);
                self.group.reset(to);
                for (number, fate) in self.fates.iter_mut().enumerate() {
                    if *fate != Fate::NotForUs {
                        *fate = if number as u64 >= to { Fate::Unseen } else { Fate::Done };
                        self.attempts[number] = 0;
                    }
                }
            }
        }
        self.check();
    }

    fn claim(&mut self, member: u64) -> usize {
        let claimed = self.group.claim(member, &self.log, self.now);
        for claim in &claimed {
            let number = usize::try_from(claim.number).unwrap();
            assert!(
                matches!(self.fates[number], Fate::Unseen | Fate::Waiting),
                "{number} was handed out and is {:?}",
                self.fates[number]
            );
            self.attempts[number] += 1;
            assert_eq!(claim.attempts, self.attempts[number], "the attempts of {number}");
            let until = (member == 0).then(|| self.now + Duration::from_millis(200));
            self.fates[number] = Fate::Held { tag: claim.tag, member, until };
        }
        claimed.len()
    }

    fn held(&self) -> Vec<usize> {
        let held = |number: &usize| matches!(self.fates[*number], Fate::Held { .. });
        (0..self.fates.len()).filter(held).collect()
    }

    fn settle(&mut self, number: usize, how: How) {
        let Fate::Held { tag, .. } = self.fates[number] else { panic!("{number} is not held") };
        let later = Some(Duration::from_millis(100));
        let outcome = match how {
            How::Ack => Outcome::Ack,
            How::Retry => Outcome::Retry { after: None },
            How::RetryLater => Outcome::Retry { after: later },
            How::Reject => Outcome::Reject { reason: "no".to_owned() },
            How::Release => {
                self.fates[number] = Fate::Waiting;
                let dead = self.group.release(tag, self.now);
                return self.buried(dead);
            }
        };
        self.fates[number] = if outcome == Outcome::Ack { Fate::Done } else { Fate::Waiting };
        let rejected = matches!(outcome, Outcome::Reject { .. });
        let dead = self.group.settle(tag, outcome.clone(), self.now).unwrap();
        assert!(!rejected || dead.is_some(), "a rejected message is not buried");
        self.buried(dead);
        assert!(self.group.settle(tag, outcome, self.now).is_err(), "settled twice");
    }

    fn lost(&mut self, which: impl Fn(Fate) -> bool) {
        for fate in self.fates.iter_mut().filter(|fate| which(**fate)) {
            *fate = Fate::Waiting;
        }
    }

    /// What was held for too long waits again.
    fn expired(&mut self) {
        let now = self.now;
        self.lost(|fate| matches!(fate, Fate::Held { until: Some(until), .. } if until <= now));
    }

    fn buried(&mut self, dead: impl IntoIterator<Item = Dead>) {
        for dead in dead {
            let number = usize::try_from(dead.number).unwrap();
            assert_eq!(dead.attempts, self.attempts[number]);
            assert!(dead.attempts <= ATTEMPTS_MAX);
            assert_ne!(self.fates[number], Fate::Dead, "{number} was buried twice");
            self.fates[number] = Fate::Dead;
        }
    }

    fn check(&self) {
        let held = self.held();
        let info = self.group.info(&self.log);
        assert_eq!(info.in_flight, held.len() as u64);
        for member in 0..MEMBERS {
            let of = |fate: &&Fate| matches!(fate, Fate::Held { member: of, .. } if *of == member);
            assert!(self.fates.iter().filter(of).count() <= IN_FLIGHT_MAX as usize);
        }
        for fate in &self.fates {
            if let Fate::Held { tag, .. } = fate {
                assert!(self.group.holds(*tag));
            }
        }
        let unsettled = self.group.unsettled(&self.log).count();
        let open = |fate: &&Fate| !matches!(fate, Fate::NotForUs | Fate::Done | Fate::Dead);
        assert_eq!(unsettled, self.fates.iter().filter(open).count());
        let first = self.fates.iter().position(|fate| open(&fate)).map(|first| first as u64);
        assert!(first.is_none_or(|first| self.group.floor() <= first), "the floor is too high");
        if self.mode == RetryMode::Block {
            self.check_lanes();
        }
    }

    /// Of each ordering key only the first unsettled message may be out.
    fn check_lanes(&self) {
        let mut lanes: BTreeMap<Option<String>, bool> = BTreeMap::new();
        for (number, fate) in self.fates.iter().enumerate() {
            let Some(record) = self.log.get(number as u64) else { continue };
            let lane = record.message.ordering_key.as_ref().map(ToString::to_string);
            let open = matches!(fate, Fate::Unseen | Fate::Waiting | Fate::Held { .. });
            let behind = lanes.entry(lane).or_default();
            if matches!(fate, Fate::Held { .. }) {
                assert!(!*behind, "{number} is out while one before it is not settled");
            }
            *behind |= open;
        }
    }

    /// One patient member gets everything that is left.
    fn drain(&mut self) {
        for member in 0..MEMBERS {
            self.run(&Step::Die { member });
        }
        self.join(1, 2);
        loop {
            self.run(&Step::Advance { ms: 60_000 });
            let dead = self.group.tick(self.now);
            self.buried(dead);
            if self.claim(1) == 0 {
                break;
            }
            for number in self.held() {
                self.settle(number, How::Ack);
            }
        }
        for (number, fate) in self.fates.iter().enumerate() {
            let settled = matches!(fate, Fate::NotForUs | Fate::Done | Fate::Dead);
            assert!(settled, "{number} is left as {fate:?}");
        }
        assert_eq!(self.group.floor(), self.log.tail());
        assert_eq!(self.group.due(), None, "something falls due in a group without messages");
    }
}

proptest! {
    #[test]
    fn each_message_is_somewhere_exactly_once(
        block in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mode = if block { RetryMode::Block } else { RetryMode::Overtake };
        let mut model = Model::new(mode);
        for step in &steps {
            model.run(step);
        }
        model.drain();
    }
}
