//! Processes that use a bus through the transport, step by step, with every promise noted as it is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Batch, Connect, DeleteIf, GroupSpec, Membership, OnDifference, Retention, Role, Session,
    Subscribe, Subscription, TopicSpec, Topology, Transport,
};
use busline_core::{
    Clock, Delivery, ErrorKind, GroupName, Key, KeyPattern, ManualClock, Message as Sent, Outcome,
    Patterns, Position, Receipt, Settled, Timestamp, Topic,
};
use busline_transports::file::{FileConfig, FileTransport, Sync};

use super::known::{Known, Message, Presence, Verdict, payload};
use super::tape::Recorder;

/// The longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a member waits before time goes on.
const MOMENT: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3600);

/// One thing that a process does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Declare(usize, &'static str),
    /// Publishes so many messages of so many bytes in one batch, and waits for their receipts.
    Publish(usize, &'static str, usize, usize),
    /// Takes what it may have; it holds two messages at most.
    Take(usize, &'static str),
    /// The same, unless it might wait for nothing.
    TakeIfAny(usize, &'static str),
    /// Settles the first so many deliveries that it holds, and waits for the answers.
    Settle(usize, &'static str, usize, Outcome),
    /// The same, and waits for nothing.
    SettleQuietly(usize, &'static str, usize, Outcome),
    /// Drops the first so many deliveries that it holds.
    Drop(usize, &'static str, usize),
    /// An hour passes: what is held is lost.
    Pass,
    /// Has the topic keep no more bytes than this of what is done with.
    Keep(usize, &'static str, u64),
    /// Changes what the group wants, and back: a long entry in the group's own log.
    Fill(usize, &'static str),
    /// Retention is due: whoever writes next looks what may go.
    RetentionIsDue,
    /// Deletes a topic, that nobody else has open.
    Delete(usize, &'static str),
    /// Closes its session.
    Close(usize),
    /// The process dies between two calls and is started again.
    Kill(usize),
    /// It dies in this step, after so many changes, and so many bytes of one more write.
    Die(u64, usize, Box<Self>),
}

/// How the bus is used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) sync: Sync,
    pub(crate) attempts_max: Option<u32>,
    /// Whether topics have a group: declaring one syncs more than declaring a topic does.
    pub(crate) has_group: bool,
}

impl Setting {
    pub(crate) fn known(self) -> Known {
        Known {
            is_durable: self.sync == Sync::Always,
            attempts_max: self.attempts_max,
            ..Known::default()
        }
    }
}

/// A process with what it has open.
struct Process {
    held: Vec<(&'static str, u64, Delivery)>,
    subscriptions: BTreeMap<&'static str, Box<dyn Subscription>>,
    session: Option<Arc<dyn Session>>,
    storage: Recorder,
}

impl Process {
    fn start(recorder: &Recorder) -> Self {
        Self {
            held: Vec::new(),
            subscriptions: BTreeMap::new(),
            session: None,
            storage: recorder.process(),
        }
    }

    /// As by SIGKILL: its thread, which a test cannot kill, reaches nothing any more.
    fn die(&self) {
        self.storage.medium().kill();
        self.storage.medium().kill_after(0, 0);
    }
}

/// All processes on one medium.
pub(crate) struct Stage {
    pub(crate) recorder: Recorder,
    pub(crate) setting: Setting,
    clock: ManualClock,
    processes: Vec<Process>,
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name.to_owned()).expect("a topic")
}

pub(crate) fn group() -> GroupName {
    GroupName::new("g").expect("a group")
}

fn said<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Verdict<T> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("{what} hangs"))
}

impl Stage {
    /// So many processes, on a medium that may be in any state that was promised.
    pub(crate) fn new(recorder: &Recorder, setting: Setting, processes: usize) -> Self {
        let (wall_us, monotonic) = recorder.learn(|known| (known.wall_us, known.monotonic));
        let passed = i64::try_from(monotonic.as_micros()).expect("an hour or so");
        let clock = ManualClock::new(Timestamp::from_unix_us(wall_us - passed));
        clock.advance(monotonic);
        let processes = (0..processes).map(|_| Process::start(recorder)).collect();
        Self { recorder: recorder.clone(), setting, clock, processes }
    }

    pub(crate) async fn run(&mut self, steps: &[Step]) -> Verdict {
        for step in steps {
            Box::pin(self.step(step)).await.map_err(|wrong| format!("{step:?}: {wrong}"))?;
            self.recorder.moment(|| format!("after {step:?}"));
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Verdict {
        match step {
            Step::Declare(p, name) => self.declare(*p, name, None).await,
            Step::Publish(p, name, count, bytes) => self.publish(*p, name, *count, *bytes).await,
            Step::Take(p, name) => self.take(*p, name).await,
            Step::TakeIfAny(p, name) => {
                let held = self.processes[*p].held.iter().filter(|(of, ..)| of == name).count();
                let may_take = held < 2 && self.recorder.learn(|known| known.is_ready(name));
                if may_take { self.take(*p, name).await } else { Ok(()) }
            }
            Step::Settle(p, name, count, outcome) => self.settle(*p, name, *count, outcome).await,
            Step::SettleQuietly(p, name, count, outcome) => {
                for (number, delivery) in self.let_go(*p, name, *count) {
                    self.intend(name, number, delivery.attempt.number, outcome);
                    delivery.settle_quietly(outcome.clone());
                }
                Ok(())
            }
            Step::Drop(p, name, count) => {
                let dropped = self.let_go(*p, name, *count);
                self.drop_all(name, dropped);
                Ok(())
            }
            Step::Pass => {
                self.pass();
                Ok(())
            }
            Step::Keep(p, name, bytes) => self.keep(*p, name, *bytes).await,
            Step::Fill(p, name) => {
                self.declare_as(*p, name, None, long_patterns()).await?;
                self.declare(*p, name, None).await
            }
            Step::RetentionIsDue => {
                self.advance(Duration::from_secs(11));
                Ok(())
            }
            Step::Delete(p, name) => self.delete(*p, name).await,
            Step::Close(p) => self.close(*p).await,
            Step::Kill(p) => {
                self.kill(*p);
                Ok(())
            }
            Step::Die(changes, bytes, step) => self.die_in(*changes, *bytes, step).await,
        }
    }

    async fn die_in(&mut self, changes: u64, bytes: usize, step: &Step) -> Verdict {
        let p = match step {
            Step::Publish(p, ..) | Step::Settle(p, ..) | Step::Close(p) => *p,
            Step::Take(p, _) | Step::TakeIfAny(p, _) => *p,
            Step::Declare(p, _) | Step::Delete(p, _) | Step::Keep(p, ..) => *p,
            _ => return Err("nobody dies in this".to_owned()),
        };
        self.processes[p].storage.medium().kill_after(changes, bytes);
        let outcome = Box::pin(self.step(step)).await;
        if self.processes[p].storage.medium().is_alive() {
            outcome?;
        }
        self.kill(p);
        Ok(())
    }

    /// The session of a process, opened when there is none.
    pub(crate) async fn session(&mut self, p: usize) -> Verdict<Arc<dyn Session>> {
        if let Some(session) = &self.processes[p].session {
            return Ok(Arc::clone(session));
        }
        let config = FileConfig {
            sync: self.setting.sync,
            segment_bytes: 4096,
            ..FileConfig::new("/srv/data/bus")
        };
        let storage = Arc::new(self.processes[p].storage.clone());
        let transport = FileTransport::on(config, storage).with_clock(Arc::new(self.clock.clone()));
        let session = transport.connect(Connect::new(Role::Consume));
        let session = soon("connecting", session).await?.map_err(said)?;
        self.processes[p].session = Some(Arc::clone(&session));
        Ok(session)
    }

    pub(crate) async fn declare(
        &mut self,
        p: usize,
        name: &'static str,
        retention: Option<Retention>,
    ) -> Verdict {
        self.declare_as(p, name, retention, Patterns::all()).await
    }

    async fn declare_as(
        &mut self,
        p: usize,
        name: &'static str,
        retention: Option<Retention>,
        patterns: Patterns,
    ) -> Verdict {
        let session = self.session(p).await?;
        self.recorder.learn(|known| {
            let topic = known.topic(name);
            if topic.presence == Presence::Absent {
                topic.presence = Presence::Unsure;
            }
        });
        let group = GroupSpec {
            start: Position::Earliest,
            attempts_max: self.setting.attempts_max,
            on_difference: OnDifference::Replace,
            patterns,
            ..GroupSpec::new(topic(name), group())
        };
        let topics = vec![TopicSpec { retention, ..TopicSpec::new(topic(name)) }];
        let groups = if self.setting.has_group { vec![group] } else { Vec::new() };
        let topology = Topology { topics, groups, ..Topology::default() };
        soon("declaring", session.declare(&topology)).await?.map_err(said)?;
        self.learn(|known| known.topic(name).presence = Presence::There);
        Ok(())
    }

    pub(crate) async fn keep(&mut self, p: usize, name: &'static str, bytes: u64) -> Verdict {
        self.learn(|known| {
            let topic = known.topic(name);
            (topic.is_retained, topic.bytes_max[1]) = (true, Some(bytes));
        });
        let retention = Retention { bytes_max: Some(bytes), ..Retention::default() };
        self.declare(p, name, Some(retention)).await?;
        self.learn(|known| known.topic(name).bytes_max[0] = Some(bytes));
        Ok(())
    }

    pub(crate) async fn publish(
        &mut self,
        p: usize,
        name: &'static str,
        count: usize,
        bytes: usize,
    ) -> Verdict {
        let session = self.session(p).await?;
        let numbers: Vec<u64> = self.learn(|known| {
            let first = known.next_number;
            known.next_number += count as u64;
            let numbers = first..known.next_number;
            let messages = numbers.clone().map(|number| Message::new(number, bytes));
            Arc::make_mut(&mut known.topic(name).messages).extend(messages);
            numbers.collect()
        });
        let sent = |number: &u64| {
            let key = if number.is_multiple_of(2) { "even" } else { "odd" };
            let key = Key::new(key.to_owned()).expect("a key");
            Sent::new(topic(name), key, payload(*number, bytes))
        };
        let batch = Batch::from(numbers.iter().map(sent).collect::<Vec<_>>());
        let receipts = soon("acceptance", session.send(batch)).await?.map_err(said)?;
        for (number, receipt) in numbers.into_iter().zip(receipts) {
            match soon("a receipt", receipt).await? {
                Ok(Receipt::Stored { .. }) => self.learn(|known| {
                    if let Some(message) = known.topic(name).message(number) {
                        (message.is_stored, message.is_ready) = (true, true);
                    }
                }),
                other => return Err(format!("message {number} came to {other:?}")),
            }
        }
        Ok(())
    }

    pub(crate) async fn take(&mut self, p: usize, name: &'static str) -> Verdict {
        self.subscribe(p, name).await?;
        self.expect_deliveries(name);
        let chunk = self.next(p, name).await?;
        for delivery in chunk {
            let number = number_of(&delivery.message.payload)?;
            let attempt = delivery.attempt.number;
            self.learn(|known| known.deliver(name, number, attempt, &delivery.message.payload))?;
            self.processes[p].held.push((name, number, delivery));
        }
        self.learn(|known| known.settle_expectations(name));
        Ok(())
    }

    pub(crate) async fn subscribe(&mut self, p: usize, name: &'static str) -> Verdict {
        let session = self.session(p).await?;
        if !self.processes[p].subscriptions.contains_key(name) {
            let membership = Membership::Group(group());
            let subscribe =
                Subscribe { max_in_flight: 2, ..Subscribe::new(topic(name), membership) };
            let subscription = soon("subscribing", session.subscribe(subscribe)).await?;
            self.processes[p].subscriptions.insert(name, subscription.map_err(said)?);
        }
        Ok(())
    }

    /// Whatever can be claimed may be, from now on; and is rejected when it was tried too often.
    pub(crate) fn expect_deliveries(&self, name: &'static str) {
        self.learn(|known| {
            let attempts_max = known.attempts_max.unwrap_or(u32::MAX);
            let topic = known.topic(name);
            let mut exhausted = Vec::new();
            for message in Arc::make_mut(&mut topic.messages).iter_mut() {
                if message.is_settled || message.is_held {
                    continue;
                }
                message.deliveries.1 += 1;
                if message.deliveries.1 > attempts_max {
                    exhausted.push(message.number);
                }
            }
            exhausted.into_iter().for_each(|number| topic.reject(number));
        });
    }

    /// The next chunk; time goes on while it is waited for, so that a dead member is noticed.
    async fn next(&mut self, p: usize, name: &str) -> Verdict<Vec<Delivery>> {
        for _ in 0..PATIENCE.as_millis() / MOMENT.as_millis() {
            match self.next_within(p, name, MOMENT).await? {
                Some(chunk) => return Ok(chunk),
                None => self.advance(Duration::from_millis(300)),
            }
        }
        Err("no delivery comes".to_owned())
    }

    pub(crate) async fn next_within(
        &mut self,
        p: usize,
        name: &str,
        time: Duration,
    ) -> Verdict<Option<Vec<Delivery>>> {
        let subscription = self.processes[p].subscriptions.get_mut(name);
        let Some(subscription) = subscription else { return Err("nobody takes".to_owned()) };
        match tokio::time::timeout(time, subscription.next()).await {
            Ok(chunk) => chunk.map_err(said)?.ok_or("it ended".to_owned()).map(Some),
            Err(_) => Ok(None),
        }
    }

    pub(crate) async fn settle(
        &mut self,
        p: usize,
        name: &'static str,
        count: usize,
        outcome: &Outcome,
    ) -> Verdict {
        let mut settles: Vec<(u64, Outcome, Settled)> = Vec::new();
        for (number, delivery) in self.let_go(p, name, count) {
            let becomes = self.intend(name, number, delivery.attempt.number, outcome);
            settles.push((number, becomes, delivery.settle(outcome.clone())));
        }
        for (number, outcome, settled) in settles {
            match soon("a settle", settled).await? {
                Ok(()) => self.learn(|known| known.note_settled(name, number, &outcome)),
                Err(error) if error.kind() == ErrorKind::Lost => {}
                Err(error) => return Err(format!("message {number}: {error}")),
            }
        }
        Ok(())
    }

    /// Notes what somebody is about to do with a delivery; what it becomes.
    fn intend(&self, name: &'static str, number: u64, attempt: u32, outcome: &Outcome) -> Outcome {
        self.learn(|known| {
            let exhausted = known.attempts_max.is_some_and(|max| attempt >= max);
            let topic = known.topic(name);
            if let Some(message) = topic.message(number) {
                message.is_held = false;
            }
            match outcome {
                Outcome::Ack => {
                    if let Some(message) = topic.message(number) {
                        message.is_acked = true;
                    }
                }
                Outcome::Reject { .. } => topic.reject(number),
                Outcome::Retry { .. } if exhausted => {
                    topic.reject(number);
                    return Outcome::Reject { reason: String::new() };
                }
                Outcome::Retry { .. } => {}
            }
            outcome.clone()
        })
    }

    fn let_go(&mut self, p: usize, name: &str, count: usize) -> Vec<(u64, Delivery)> {
        let held = &mut self.processes[p].held;
        let mut left = count;
        let taken = held.extract_if(.., |(of, ..)| {
            let is_taken = *of == name && left > 0;
            left -= usize::from(is_taken);
            is_taken
        });
        taken.map(|(_, number, delivery)| (number, delivery)).collect()
    }

    fn drop_all(&self, name: &'static str, deliveries: Vec<(u64, Delivery)>) {
        for (number, delivery) in deliveries {
            let retry = Outcome::Retry { after: None };
            self.intend(name, number, delivery.attempt.number, &retry);
            drop(delivery);
        }
    }

    fn drop_held(&mut self, p: usize) {
        for (name, number, delivery) in std::mem::take(&mut self.processes[p].held) {
            self.drop_all(name, vec![(number, delivery)]);
        }
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.learn(|known| {
            known.wall_us = self.clock.now().unix_us();
            known.monotonic = self.clock.monotonic();
        });
    }

    pub(crate) fn pass(&mut self) {
        (0..self.processes.len()).for_each(|p| self.drop_held(p));
        self.advance(HOUR);
        self.learn(|known| known.ready_all(|_, _| true));
    }

    async fn delete(&mut self, p: usize, name: &'static str) -> Verdict {
        for other in 0..self.processes.len() {
            self.close(other).await?;
        }
        let session = self.session(p).await?;
        self.learn(|known| known.topic(name).presence = Presence::Unsure);
        let topic = topic(name);
        let admin = session.admin().ok_or("no admin")?;
        let deleted = admin.delete_topic(&topic, DeleteIf::default());
        soon("deleting", deleted).await?.map_err(said)?;
        self.learn(|known| known.topic(name).forget());
        Ok(())
    }

    pub(crate) async fn close(&mut self, p: usize) -> Verdict {
        self.drop_held(p);
        self.processes[p].subscriptions.clear();
        match self.processes[p].session.take() {
            Some(session) => soon("closing", session.close(PATIENCE)).await?.map_err(said),
            None => Ok(()),
        }
    }

    pub(crate) fn kill(&mut self, p: usize) {
        self.processes[p].die();
        let dead = std::mem::replace(&mut self.processes[p], Process::start(&self.recorder));
        let held: Vec<_> = dead.held.iter().map(|(name, number, _)| (*name, *number)).collect();
        self.learn(|known| known.ready_all(|name, number| held.contains(&(name, number))));
    }

    fn learn<R>(&self, note: impl FnOnce(&mut Known) -> R) -> R {
        self.recorder.learn(|known| {
            known.version += 1;
            note(known)
        })
    }
}

/// About 200 KiB that select nothing.
fn long_patterns() -> Patterns {
    let long = |number: u32| KeyPattern::new(format!("{number:0>250}")).expect("a pattern");
    (0..800).map(long).collect()
}

/// The number of the message with this payload.
pub(crate) fn number_of(bytes: &[u8]) -> Verdict<u64> {
    let number = bytes.first_chunk().map(|number| u64::from_le_bytes(*number));
    number.ok_or_else(|| format!("a payload of {} bytes is none of ours", bytes.len()))
}
