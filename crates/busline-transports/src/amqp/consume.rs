//! The one task of a subscription: takes in what comes, and tells the broker what was settled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busline_core::delivery::{SettledSender, lost};
use busline_core::transport::Dialect;
use busline_core::{Error, ErrorKind, GroupName, Outcome, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicNackOptions, ChannelFlowOptions, QueueDeleteOptions,
};
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, oneshot};

use super::channel::ConsumerChannel;
use super::connection::disconnected;
use super::consuming::{Consuming, Job, answer};
use super::error::error;
use super::held::{Ack, Held, Tags};
use super::lanes::Lanes;
use super::mapping::{self, Came};
use super::route;
use super::session::Core;

/// Taken in at once, before anything else is looked at.
const TAKE_MAX: usize = 256;

/// A part of what the broker sends ahead.
const ACKS_SHARE: u16 = 4;

/// What became of a copy: the original is acked once it is stored.
struct Routed {
    tag: u64,
    held: Held,
    done: Option<SettledSender>,
    stored: Result<()>,
}

type Futures<T> = FuturesUnordered<BoxFuture<'static, T>>;

/// The task.
pub(super) struct Worker {
    core: Arc<Core>,
    consuming: Arc<Consuming>,
    channel: Channel,
    /// `None` when fetching has stopped.
    consumer: Option<Consumer>,
    tags: Tags,
    lanes: Option<Lanes>,
    /// Copies on their way.
    routes: Futures<Routed>,
    /// Frames on their way to the socket.
    writes: Futures<lapin::Result<()>>,
    /// Answers that wait until the broker has taken what was written before.
    flushes: Futures<()>,
    /// What is held here until it is due, then given back.
    timers: Futures<(u64, Held)>,
    /// The tags of what is held.
    holding: BTreeSet<u64>,
    /// Who asked, of those whose settles are not flushed yet.
    awaited: Vec<SettledSender>,
    /// So many are told the broker while it has not answered yet, so that it has always something to send.
    acks_max: usize,
    stopping: bool,
    stops: Vec<oneshot::Sender<()>>,
    finishes: Vec<oneshot::Sender<()>>,
}

impl Worker {
    pub(super) fn start(
        core: &Arc<Core>,
        consuming: &Arc<Consuming>,
        channel: Channel,
        consumer: Consumer,
        jobs: mpsc::UnboundedReceiver<Job>,
        prefetch: u16,
    ) {
        let worker = Self {
            core: Arc::clone(core),
            consuming: Arc::clone(consuming),
            channel,
            consumer: Some(consumer),
            tags: Tags::default(),
            lanes: consuming.about.blocking.then(Lanes::default),
            routes: FuturesUnordered::new(),
            writes: FuturesUnordered::new(),
            flushes: FuturesUnordered::new(),
            timers: FuturesUnordered::new(),
            holding: BTreeSet::new(),
            awaited: Vec::new(),
            acks_max: usize::from(prefetch / ACKS_SHARE).max(1),
            stopping: false,
            stops: Vec::new(),
            finishes: Vec::new(),
        };
        tokio::spawn(worker.run(jobs));
    }

    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let (session, own) = (self.core.ended.clone(), self.consuming.ended.clone());
        let mut end = Box::pin(session.wait());
        let mut own_end = Box::pin(own.wait());
        loop {
            tokio::select! {
                biased;
                why = &mut end => break self.over(why),
                why = &mut own_end => break self.over(why),
                Some(job) = jobs.recv() => {
                    self.job(job);
                    while let Ok(job) = jobs.try_recv() {
                        self.job(job);
                    }
                }
                Some(routed) = self.routes.next() => self.routed(routed),
                Some(written) = self.writes.next() => self.check(written),
                Some(()) = self.flushes.next() => {}
                Some((tag, held)) = self.timers.next() => {
                    self.holding.remove(&tag);
                    self.requeue(tag, &held);
                }
                came = next(&mut self.consumer) => self.came(came),
            }
            self.tell();
            if self.is_done() {
                break;
            }
        }
        let (core, about) = (&self.core, &self.consuming.about);
        if let Some(consumer) = self.consumer.take() {
            ConsumerChannel::new(self.channel, consumer).close().await;
        }
        if core.dialect == Dialect::Eventail && about.group.is_none() && core.ended.get().is_none()
        {
            // Nobody reads it any more, and it would fill as long as the connection lives.
            let queue = about.queue.clone();
            let delete = |channel: Channel| {
                let queue = queue.clone();
                async move { channel.queue_delete(queue, QueueDeleteOptions::default()).await }
            };
            drop(core.control(delete).await);
        }
    }

    fn job(&mut self, job: Job) {
        match job {
            Job::Settle { tag, held, outcome, done } => self.settle(tag, held, outcome, done),
            Job::GiveBack { tag, held } => self.requeue(tag, &held),
            Job::Stop(done) => {
                self.stops.extend(done);
                self.stop();
            }
            Job::Finish(done) => {
                self.finishes.push(done);
                self.stop();
            }
        }
    }

    fn settle(&mut self, tag: u64, held: Held, outcome: Outcome, done: Option<SettledSender>) {
        let about = &self.consuming.about;
        let attempt = held.before.count.saturating_add(1);
        let exhausted = about.attempts_max.filter(|max| attempt >= *max);
        match (outcome, exhausted) {
            (Outcome::Ack, _) => self.ack(tag, &held, done),
            (Outcome::Reject { reason }, _) => self.reject(tag, held, reason, done),
            (Outcome::Retry { .. }, Some(max)) => {
                let reason = format!("attempts exhausted: {attempt} of {max}");
                self.reject(tag, held, reason, done);
            }
            (Outcome::Retry { after: None }, None) if self.gives_back() => {
                self.requeue(tag, &held);
                self.awaited.extend(done);
            }
            (Outcome::Retry { after: Some(after) }, None)
                if about.blocking || self.core.dialect == Dialect::Eventail =>
            {
                // In its place, which only this member can keep for it.
                self.awaited.extend(done);
                self.hold(tag, held, after);
            }
            (Outcome::Retry { after }, None) => {
                let copy = route::retry(Arc::clone(&self.core), about, &held, after);
                self.route(tag, held, done, copy);
            }
        }
    }

    /// Whether a retry at once is counted, or at least marked, when the broker itself repeats it.
    fn gives_back(&self) -> bool {
        let about = &self.consuming.about;
        about.counts || about.blocking || self.core.dialect == Dialect::Eventail
    }

    fn reject(&mut self, tag: u64, held: Held, reason: String, done: Option<SettledSender>) {
        let about = &self.consuming.about;
        if self.core.dialect == Dialect::Eventail {
            // What becomes of it, the policies of the broker decide.
            tracing::warn!(topic = %about.topic, queue = %about.queue, %reason, "rejected");
            self.nack(tag, false);
            return self.awaited.extend(done);
        }
        let Some(group) = about.group.clone() else {
            // Nobody could ever look for them: its queue goes with it.
            tracing::warn!(topic = %about.topic, %reason, "a broadcast has no dead letters");
            return self.ack(tag, &held, done);
        };
        let letter = route::dead(Arc::clone(&self.core), about, group, &held, reason);
        self.route(tag, held, done, letter);
    }

    fn route(
        &mut self,
        tag: u64,
        held: Held,
        done: Option<SettledSender>,
        copy: BoxFuture<'static, Result<()>>,
    ) {
        let routing = async move { Routed { tag, held, done, stored: copy.await } };
        self.routes.push(Box::pin(routing));
    }

    fn routed(&mut self, routed: Routed) {
        let Routed { tag, held, done, stored } = routed;
        match stored {
            Ok(()) => self.ack(tag, &held, done),
            Err(why) => {
                tracing::warn!(topic = %self.consuming.about.topic, error = %why, "not settled, it comes again");
                self.requeue(tag, &held);
                answer(done, Err(why));
            }
        }
    }

    fn ack(&mut self, tag: u64, held: &Held, done: Option<SettledSender>) {
        self.tags.ack(tag);
        self.awaited.extend(done);
        self.next_of_lane(held);
    }

    fn hold(&mut self, tag: u64, held: Held, after: Duration) {
        let sleep = self.core.clock.sleep(after);
        self.holding.insert(tag);
        self.timers.push(Box::pin(async move {
            sleep.await;
            (tag, held)
        }));
    }

    /// Back to the front of the queue.
    fn requeue(&mut self, tag: u64, held: &Held) {
        if let Some(lanes) = &mut self.lanes {
            lanes.returns(&held.came);
        }
        self.nack(tag, true);
    }

    fn nack(&mut self, tag: u64, requeue: bool) {
        self.tags.gone(tag);
        let channel = self.channel.clone();
        let options = BasicNackOptions { requeue, multiple: false };
        self.write(async move { channel.basic_nack(tag, options).await }.boxed());
    }

    fn next_of_lane(&mut self, held: &Held) {
        let Some(lanes) = &mut self.lanes else { return };
        if let Some(next) = lanes.goes_on(&held.came) {
            self.consuming.hands().ready.push_back(next);
            self.consuming.bell.notify_one();
        }
    }

    /// The first step hands the frames over, in order; the rest is only waiting.
    fn write(&mut self, mut writing: BoxFuture<'static, lapin::Result<()>>) {
        match (&mut writing).now_or_never() {
            Some(written) => self.check(written),
            None => self.writes.push(writing),
        }
    }

    fn check(&mut self, written: lapin::Result<()>) {
        if let Err(said) = written {
            self.core.ended.end(disconnected(said));
        }
    }

    /// Tells the broker what was settled since the last time: at once when it has answered what it was told before, else
    /// together with what is settled until then, up to a part of what it may send ahead.
    fn tell(&mut self) {
        let is_busy = !self.flushes.is_empty() || !self.writes.is_empty();
        if is_busy && !self.stopping && self.tags.acked() < self.acks_max {
            return;
        }
        for Ack { tag, multiple } in self.tags.acks() {
            let channel = self.channel.clone();
            let options = BasicAckOptions { multiple };
            self.write(async move { channel.basic_ack(tag, options).await }.boxed());
        }
        let idle = self.routes.is_empty() && self.timers.is_empty();
        if self.consumer.is_none() && idle && !self.finishes.is_empty() {
            let finishes = std::mem::take(&mut self.finishes);
            self.flush(move || {
                finishes.into_iter().for_each(|done| done.send(()).unwrap_or_default())
            });
        }
        if !self.flushes.is_empty() && !self.stopping {
            return;
        }
        self.awaited.retain(SettledSender::is_awaited);
        if !self.awaited.is_empty() {
            let awaited = std::mem::take(&mut self.awaited);
            self.flush(move || awaited.into_iter().for_each(|done| done.send(Ok(()))));
        }
    }

    /// An ack has no answer: what comes behind it on the channel has.
    fn flush(&mut self, then: impl FnOnce() + Send + 'static) {
        let channel = self.channel.clone();
        let mut flushing = async move {
            let flow = channel.channel_flow(ChannelFlowOptions { active: true }).await;
            if flow.is_ok() {
                then();
            }
        }
        .boxed();
        if (&mut flushing).now_or_never().is_none() {
            self.flushes.push(flushing);
        }
    }

    fn came(&mut self, first: Option<lapin::Result<lapin::message::Delivery>>) {
        let (mut came, mut taken) = (Some(first), 0);
        while let Some(one) = came {
            match one {
                Some(Ok(delivery)) => self.take_in(delivery),
                Some(Err(said)) => {
                    self.consumer = None;
                    return self.core.ended.end(disconnected(said));
                }
                None => {
                    self.consumer = None;
                    return self.fetching_ended();
                }
            }
            taken += 1;
            came = if taken < TAKE_MAX { next(&mut self.consumer).now_or_never() } else { None };
        }
        self.consuming.bell.notify_one();
    }

    fn take_in(&mut self, delivery: lapin::message::Delivery) {
        let tag = delivery.delivery_tag;
        self.tags.open(tag);
        let came = Came {
            key: delivery.routing_key,
            properties: delivery.properties,
            payload: delivery.data.into(),
            redelivered: delivery.redelivered,
        };
        let about = &self.consuming.about;
        let mut before = mapping::delivered_before(&came);
        // The others that share the queue count nothing, and give back as they like.
        before.exact &= self.core.dialect != Dialect::Eventail;
        let bytes = came.payload.len() as u64 + 256;
        let held = Held { came: Arc::new(came), before, bytes };
        let group = about.group.as_ref().map_or("", GroupName::as_str);
        if !mapping::is_for_group(&held.came, group) {
            return self.ack(tag, &held, None);
        }
        if let Some(max) = about.attempts_max.filter(|max| before.count >= *max) {
            let reason = format!("attempts exhausted: {max} of {max}");
            let tried = Held { before: mapping::Before { count: max - 1, ..before }, ..held };
            return self.reject(tag, tried, reason, None);
        }
        match &mut self.lanes {
            None => self.consuming.hands().ready.push_back((tag, held)),
            Some(lanes) => {
                if let Some(next) = lanes.comes(tag, held) {
                    self.consuming.hands().ready.push_back(next);
                }
            }
        }
    }

    /// The broker sends no more: because it was asked to, or because the queue is gone.
    fn fetching_ended(&mut self) {
        if !self.stopping {
            let about = &self.consuming.about;
            let what = match &about.group {
                Some(group) => format!("the group '{group}' of topic '{}' is gone", about.topic),
                None => format!("the broadcast of topic '{}' is gone", about.topic),
            };
            let why = Error::new(ErrorKind::NotFound, what).hint("declare it again");
            return self.consuming.ended.end(why);
        }
        let mut rest: Vec<_> = self.consuming.hands().ready.drain(..).collect();
        rest.extend(self.lanes.take().into_iter().flat_map(Lanes::rest));
        rest.sort_by_key(|(tag, _)| *tag);
        for (tag, _) in rest {
            self.nack(tag, true);
        }
        // What is held until it is due is given back too: nobody would be there for it.
        self.timers = FuturesUnordered::new();
        for tag in std::mem::take(&mut self.holding) {
            self.nack(tag, true);
        }
        let stops = std::mem::take(&mut self.stops);
        self.flush(move || stops.into_iter().for_each(|done| done.send(()).unwrap_or_default()));
    }

    fn stop(&mut self) {
        let Some(consumer) = &self.consumer else {
            return self.stops.drain(..).for_each(|done| done.send(()).unwrap_or_default());
        };
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let (channel, tag) = (self.channel.clone(), consumer.tag());
        let cancel = async move { channel.basic_cancel(tag, BasicCancelOptions::default()).await };
        self.write(cancel.boxed());
    }

    fn is_done(&self) -> bool {
        self.stopping
            && self.consumer.is_none()
            && self.tags.is_empty()
            && self.finishes.is_empty()
            && [self.writes.is_empty(), self.flushes.is_empty(), self.routes.is_empty()]
                .into_iter()
                .all(|is_empty| is_empty)
    }

    /// Everything that was held is lost.
    fn over(&mut self, why: Error) {
        self.consuming.ended.end(why);
        self.consuming.hands().ready.clear();
        self.consuming.bell.notify_one();
        let lost = || Err(lost("its session or its queue is gone"));
        self.awaited.drain(..).for_each(|done| done.send(lost()));
    }
}

async fn next(consumer: &mut Option<Consumer>) -> Option<lapin::Result<lapin::message::Delivery>> {
    match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    }
}

/// What the broker says of a channel, for those who open one.
pub(super) fn opened<T>(result: lapin::Result<T>) -> Result<T> {
    result.map_err(error)
}
