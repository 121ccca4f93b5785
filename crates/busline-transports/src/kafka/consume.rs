//! The one task of a subscription: takes in what comes, and tells the broker what was settled.

use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::SessionEvent;
use busline_core::{Error, ErrorKind, Patterns, Result, Timestamp};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, oneshot, watch};

use super::assign::Located;
use super::client::blocking;
use super::consuming::{Consuming, Job};
use super::directory::Read;
use super::error::error;
use super::hands::Held;
use super::lanes::Lanes;
use super::mapping::Came;
use super::member::{Event, Member, Told};
use super::part::{Fetched, Part};
use super::session::Core;
use super::settings::Settings;
use super::settle::Routed;
use super::topics::About;

/// A commit that failed is tried again after this.
const RECOMMIT: Duration = Duration::from_millis(100);

/// How often it is looked whether the topic is still the one that it was.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What happens after some time.
pub(super) enum Pause {
    Recommit,
    Deadline,
    Look(Result<()>),
    Seen { at_once: bool, seen: Result<()> },
    Due { share: u64, fetched: Fetched },
}

pub(super) type Futures<T> = FuturesUnordered<BoxFuture<'static, T>>;

/// How a subscription consumes.
pub(super) struct Plan {
    pub(super) about: Arc<About>,
    /// Of a broadcast there is none.
    pub(super) group: Option<PlanOfGroup>,
    pub(super) patterns: Patterns,
    pub(super) count_max: usize,
    pub(super) bytes_max: u64,
}

/// What a member of a group knows besides.
pub(super) struct PlanOfGroup {
    /// Its name at the broker.
    pub(super) name: String,
    pub(super) settings: Settings,
    /// The topic of its retries.
    pub(super) retry: Option<String>,
    pub(super) directory: watch::Receiver<Read>,
}

/// The task.
pub(super) struct Worker {
    pub(super) core: Arc<Core>,
    pub(super) consuming: Arc<Consuming>,
    pub(super) member: Member,
    pub(super) plan: Plan,
    pub(super) parts: Vec<Part>,
    pub(super) lanes: Option<Lanes>,
    next_tag: u64,
    pub(super) next_share: u64,
    pub(super) locating: Futures<Result<Vec<Located>>>,
    pub(super) routes: Futures<Routed>,
    pub(super) pauses: Futures<Pause>,
    /// The commit on its way, one at a time.
    commits: Futures<Result<()>>,
    /// A commit failed; nothing is told until it is tried again.
    is_waiting: bool,
    /// The group takes partitions away, as soon as nothing of them is open.
    pub(super) is_revoking: bool,
    /// Whether it is being written that a member was there.
    pub(super) seeing: usize,
    pub(super) stopping: bool,
    pub(super) stops: Vec<oneshot::Sender<()>>,
    pub(super) finishes: Vec<oneshot::Sender<()>>,
}

impl Worker {
    pub(super) fn new(
        core: &Arc<Core>,
        consuming: &Arc<Consuming>,
        member: Member,
        plan: Plan,
    ) -> Self {
        let blocking = plan.group.as_ref().is_some_and(|group| group.settings.blocking);
        Self {
            core: Arc::clone(core),
            consuming: Arc::clone(consuming),
            member,
            plan,
            parts: Vec::new(),
            lanes: blocking.then(Lanes::default),
            next_tag: 0,
            next_share: 0,
            locating: FuturesUnordered::new(),
            routes: FuturesUnordered::new(),
            pauses: FuturesUnordered::new(),
            commits: FuturesUnordered::new(),
            is_waiting: false,
            is_revoking: false,
            seeing: 0,
            stopping: false,
            stops: Vec::new(),
            finishes: Vec::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) {
        let consumer = Arc::clone(self.member.consumer());
        let (session, own) = (self.core.ended.clone(), self.consuming.ended.clone());
        let mut end = Box::pin(session.wait());
        let mut own_end = Box::pin(own.wait());
        self.look_later();
        self.see(Duration::ZERO);
        loop {
            let (count_max, bytes_max) = (self.plan.count_max, self.plan.bytes_max);
            tokio::select! {
                biased;
                why = &mut end => break self.consuming.ended.end(why),
                why = &mut own_end => break self.consuming.ended.end(why),
                Some(job) = jobs.recv() => {
                    self.job(job);
                    while let Ok(job) = jobs.try_recv() {
                        self.job(job);
                    }
                }
                Some(event) = events.recv() => self.event(event),
                Some(committed) = self.commits.next() => self.committed(committed),
                Some(located) = self.locating.next() => self.located(located),
                Some(routed) = self.routes.next() => self.routed(routed),
                Some(pause) = self.pauses.next() => self.paused(pause),
                Some(()) = changed(&mut self.plan) => self.declared_anew(),
                came = main(&consumer) => self.main(came),
                (index, came) = fetch(&self.parts, count_max, bytes_max), if self.may_fetch() => {
                    self.came(index, came);
                }
            }
            self.pump();
            self.tell();
            self.give_up_revoked();
            if self.is_done() {
                break;
            }
        }
        drop(consumer);
        self.over(events);
    }

    fn may_fetch(&self) -> bool {
        let waiting = self.lanes.as_ref().map_or(0, Lanes::waiting);
        !self.stopping && waiting < RETRIES_MAX + self.plan.count_max
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(super) fn later(&mut self, share: u64, fetched: Fetched, after: Duration) {
        let sleep = self.core.clock.sleep(after);
        self.pauses.push(Box::pin(async move {
            sleep.await;
            Pause::Due { share, fetched }
        }));
    }

    fn paused(&mut self, pause: Pause) {
        match pause {
            Pause::Recommit => self.is_waiting = false,
            Pause::Deadline => self.lose_revoked(),
            Pause::Look(Ok(())) => self.look_later(),
            Pause::Seen { at_once, seen } => self.seen(at_once, seen),
            Pause::Look(Err(why)) => self.consuming.ended.end(why),
            Pause::Due { share, fetched } => {
                let mut parts = self.parts.iter_mut();
                let Some(part) = parts.find(|part| part.share.number == share) else { return };
                part.timed -= 1;
                if !part.is_leaving && !self.stopping {
                    part.push(fetched, true);
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Assign(partitions) => self.locate(partitions),
            Event::Revoke { partitions, lost } => self.revoke(&partitions, lost),
        }
    }

    fn committed(&mut self, result: Result<()>) {
        match result {
            Ok(()) => {
                let mut hands = self.consuming.hands();
                let told = self.parts.iter_mut().flat_map(Part::told);
                told.for_each(|(tag, held)| hands.is_ready(tag, held));
                drop(hands);
                self.consuming.bell.notify_one();
            }
            Err(why) => {
                self.parts.iter_mut().for_each(Part::not_told);
                if why.kind() != ErrorKind::Disconnected && why.kind() != ErrorKind::Other {
                    return self.consuming.ended.end(why.during("commit"));
                }
                tracing::debug!(error = %why, "a commit is tried again");
                self.recommit();
            }
        }
    }

    fn recommit(&mut self) {
        self.is_waiting = true;
        let sleep = self.core.clock.sleep(RECOMMIT);
        self.pauses.push(Box::pin(async move {
            sleep.await;
            Pause::Recommit
        }));
    }

    /// What came where only events are expected: it came before its partition had a queue of its own.
    fn main(&mut self, came: KafkaResult<(String, Came)>) {
        match came {
            Ok((name, came)) => {
                let is_it = |part: &Part| part.name == name && part.partition == came.partition;
                if let Some(index) = self.parts.iter().position(is_it) {
                    self.take_in(index, came);
                }
            }
            Err(said) => self.failed(said),
        }
    }

    fn came(&mut self, index: usize, came: KafkaResult<Vec<Came>>) {
        match came {
            Ok(came) => came.into_iter().for_each(|came| self.take_in(index, came)),
            Err(said) => self.failed(said),
        }
    }

    fn failed(&mut self, said: KafkaError) {
        let topic = &self.consuming.topic;
        match said.rdkafka_error_code() {
            // The place is gone: whoever subscribes again sees why.
            Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => {
                self.core.tell(SessionEvent::Gap(topic.clone()));
                let why = format!("records of topic '{topic}' are gone that were to come");
                let why = Error::new(ErrorKind::Disconnected, why).source(said);
                self.consuming.ended.end(why);
            }
            Some(code) if super::publish::is_unknown(code) => self.look_now(),
            Some(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::GroupMaxSizeReached
                | Code::InconsistentGroupProtocol,
            ) => self.consuming.ended.end(error(said).context("topic", topic)),
            // The library goes on by itself, or the session ends.
            _ => tracing::debug!(%said, "a consumer waits"),
        }
    }

    fn take_in(&mut self, index: usize, came: Came) {
        let now = self.core.clock.now();
        let Some(part) = self.parts.get_mut(index) else { return };
        let place = came.offset;
        if !part.comes(place) {
            return;
        }
        let group = self.consuming.group.as_ref().map_or("", |group| group.as_str());
        let wanted = part.is_retry || self.plan.patterns.matches(came.key());
        if !wanted || !came.is_for_group(group) {
            return part.pass_over(place);
        }
        let due = came.due().map_or(Duration::ZERO, |due| until(due, now));
        let fetched = Fetched { came: Arc::new(came), is_first: false };
        if due.is_zero() {
            return part.push(fetched, false);
        }
        part.timed += 1;
        let share = part.share.number;
        self.later(share, fetched, due);
    }

    /// Hands out as much as there is room for.
    fn pump(&mut self) {
        if self.stopping {
            return;
        }
        let (mut count, mut bytes) = self.consuming.hands().size();
        for part in &self.parts {
            let (marked, marked_bytes) = part.marked();
            count += marked;
            bytes += marked_bytes;
        }
        let mut exhausted = Vec::new();
        for part in self.parts.iter_mut().filter(|part| !part.is_leaving) {
            while let Some(next) = part.fetched.front() {
                let more = next.came.bytes();
                let is_full = count >= self.plan.count_max;
                if is_full || count > 0 && bytes.saturating_add(more) > self.plan.bytes_max {
                    break;
                }
                let Some(next) = part.pop() else { break };
                let next = match &mut self.lanes {
                    None => next,
                    Some(lanes) => match lanes.comes(next) {
                        None => continue,
                        Some(next) => next,
                    },
                };
                let delivered = part.delivered(&next.came);
                let settings = self.plan.group.as_ref().map(|group| &group.settings);
                let max = settings.and_then(|settings| settings.attempts_max);
                if let Some(max) = max.filter(|max| delivered >= *max) {
                    part.open += 1;
                    let share = Arc::clone(&part.share);
                    exhausted.push((Held { came: next.came, before: max - 1, share }, max));
                    continue;
                }
                self.next_tag += 1;
                (count, bytes) = (count + 1, bytes.saturating_add(more));
                part.mark(self.next_tag, next);
            }
        }
        for (held, max) in exhausted {
            self.reject(held, format!("attempts exhausted: {max} of {max}"), None);
        }
    }

    /// Tells the broker what is new; what waited for that goes on when it knows.
    fn tell(&mut self) {
        if self.plan.group.is_none() {
            let mut hands = self.consuming.hands();
            let mut is_ready = false;
            for part in &mut self.parts {
                while part.tell().is_some() {
                    let told = part.told();
                    is_ready |= !told.is_empty();
                    told.into_iter().for_each(|(tag, held)| hands.is_ready(tag, held));
                }
            }
            drop(hands);
            if is_ready {
                self.consuming.bell.notify_one();
            }
            return;
        }
        if !self.commits.is_empty() || self.is_waiting {
            return;
        }
        let mut list = TopicPartitionList::new();
        for part in &mut self.parts {
            let Some(entry) = part.tell() else { continue };
            let mut element = list.add_partition(&part.name, part.partition);
            let place = Offset::Offset(i64::try_from(entry.base).unwrap_or(i64::MAX));
            if element.set_offset(place).is_ok() {
                element.set_metadata(&entry.text);
            }
        }
        if list.count() == 0 {
            return;
        }
        // The library calls nobody back when it is done, so somebody waits for it.
        let consumer = Arc::clone(self.member.consumer());
        self.commits.push(Box::pin(blocking(move || {
            consumer.commit(&list, CommitMode::Sync).map_err(error)
        })));
    }

    pub(super) fn stop(&mut self) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        for part in &mut self.parts {
            let ready = self.consuming.hands().take_ready(Some(part.share.number));
            part.withdraw(ready);
        }
        // Who watches for members shall see that there is none from now on, not from before.
        self.see(Duration::ZERO);
    }

    fn is_done(&mut self) -> bool {
        if !self.stopping {
            return false;
        }
        let settled = self.routes.is_empty()
            && self.seeing == 0
            && self.locating.is_empty()
            && self.parts.iter().all(|part| !part.is_dirty() && !part.is_telling());
        let open: usize = self.parts.iter().map(|part| part.open).sum();
        if settled {
            self.finishes.drain(..).for_each(|done| done.send(()).unwrap_or_default());
        }
        if open > 0 {
            // It is a member for as long as somebody may settle what it has handed out.
            self.stops.drain(..).for_each(|done| done.send(()).unwrap_or_default());
        }
        settled && open == 0
    }

    fn over(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        self.member.leaves();
        self.answer_rebalance();
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Assign(_) => self.answer_rebalance_with(None),
                Event::Revoke { partitions, .. } => self.answer_rebalance_with(Some(&partitions)),
            }
        }
        for part in self.parts.drain(..) {
            self.consuming.hands().lose(part.share.number);
            part.lose();
        }
        self.stops.drain(..).for_each(|done| done.send(()).unwrap_or_default());
    }

    /// The partition that it came from, if that is still this member's.
    pub(super) fn part(&mut self, held: &Held) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.share.number == held.share.number)
    }
}

/// How long from now.
fn until(due: Timestamp, now: Timestamp) -> Duration {
    let us = due.unix_us().saturating_sub(now.unix_us());
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// What the group looks like changed.
async fn changed(plan: &mut Plan) -> Option<()> {
    match &mut plan.group {
        Some(group) => group.directory.changed().await.ok(),
        None => std::future::pending().await,
    }
}

async fn main(consumer: &StreamConsumer<Told>) -> KafkaResult<(String, Came)> {
    use rdkafka::message::Message as _;
    let came = consumer.recv().await?;
    Ok((came.topic().to_owned(), Came::of(&came)))
}

/// The next of any partition that has room for more.
async fn fetch(
    parts: &[Part],
    count_max: usize,
    bytes_max: u64,
) -> (usize, KafkaResult<Vec<Came>>) {
    // Enough to be handed out while the broker is told of others.
    let fetching = parts.iter().enumerate().filter_map(|(index, part)| {
        let count = count_max.max(if part.is_retry { RETRIES_MAX } else { AHEAD_MIN });
        let has_room = part.has_room(count, bytes_max.max(AHEAD_BYTES_MIN));
        has_room.then(|| Box::pin(async move { (index, part.fetch().await) }))
    });
    let fetching: Vec<_> = fetching.collect();
    if fetching.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(fetching).await.0
}

/// So many copies at least are looked through for one that is due.
const RETRIES_MAX: usize = 1024;
const AHEAD_MIN: usize = 64;
const AHEAD_BYTES_MIN: u64 = 1 << 20;
