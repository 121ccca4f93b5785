//! Copying: a bounded window of messages on their way, progress behind their receipts.

use std::collections::VecDeque;
use std::time::Duration;

use busline::transport::{Batch, Dialect};
use busline::{
    Bus, Capability, Message, Offset, PendingReceipt, Position, Published, Publisher, Receipt,
};

use super::args::Plan;
use super::source::{Done, Item, Source};
use crate::app::App;
use crate::exit::{self, Failure, Outcome};
use crate::progress::Progress;

/// The most messages sent and not receipted, and the most bytes of them.
const WINDOW: usize = 1024;
const WINDOW_BYTES: usize = 32 << 20;
/// It is made durable how far it has come after so long, or so many messages.
const SAVE_EVERY: Duration = Duration::from_millis(500);
const SAVE_EVERY_COUNT: u64 = 2048;
/// How often it is asked how much is left, for who looks on.
const LAG_EVERY: Duration = Duration::from_secs(2);
/// After a signal receipts are waited for no longer than this.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Where messages go to.
#[derive(Debug)]
pub(super) struct Target {
    publisher: Publisher,
    /// Where there is no log to keep a message, somebody has to take it.
    mandatory: bool,
    /// Whether it keeps all that a message has.
    pub(super) keeps_all: bool,
    /// It has no place for anything beside key, payload and time, and refuses what has more.
    is_plain: bool,
}

impl Target {
    pub(super) async fn open(bus: &Bus, plan: &Plan) -> Outcome<Self> {
        let capabilities = bus.capabilities().await?;
        let keeps = |capability| capabilities.get(capability).is_kept();
        let mandatory = !keeps(Capability::Replay) && keeps(Capability::Unroutable);
        let publisher = bus.publisher(plan.to.topic.clone()).await?;
        let keeps_all = keeps(Capability::AllFields);
        let is_plain = bus.dialect() == Dialect::Hermes;
        Ok(Self { publisher, mandatory, keeps_all, is_plain })
    }

    /// The same message for the target: when the source took it is when it was made, if nothing else says.
    fn message(&self, item: &Item) -> Message {
        let mut message = match self.is_plain {
            true => {
                let Message { topic, key, payload, properties, .. } = item.message.clone();
                let mut plain = Message::new(topic, key, payload);
                plain.properties.timestamp = properties.timestamp;
                plain
            }
            false => item.message.clone(),
        };
        message.topic = self.publisher.topic().clone();
        if message.properties.timestamp.is_none() && item.time.is_some() {
            message.properties.timestamp = item.time;
        }
        message
    }
}

/// A message on its way.
struct Sent {
    at: Option<Offset>,
    bytes: usize,
    done: Done,
    receipt: PendingReceipt,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) copied: u64,
    pub(super) bytes: u64,
    /// The place of the next message to copy.
    pub(super) next: Option<Offset>,
}

/// A run, from the first message to the last receipt.
pub(super) struct Copying<'a> {
    app: &'a App,
    from: &'a Bus,
    plan: &'a Plan,
    source: Source,
    target: Target,
    pending: VecDeque<Sent>,
    pending_bytes: usize,
    tally: Tally,
    saved: Option<Offset>,
    save_at: Duration,
    save_at_count: u64,
    lag_at: Duration,
}

impl<'a> Copying<'a> {
    pub(super) fn new(
        app: &'a App,
        from: &'a Bus,
        plan: &'a Plan,
        (source, next): (Source, Option<Offset>),
        target: Target,
    ) -> Self {
        let now = app.clock.monotonic();
        Self {
            app,
            from,
            plan,
            source,
            target,
            pending: VecDeque::new(),
            pending_bytes: 0,
            tally: Tally { next: next.clone(), ..Tally::default() },
            saved: next,
            save_at: now + SAVE_EVERY,
            save_at_count: SAVE_EVERY_COUNT,
            lag_at: now,
        }
    }

    /// Copies until the end, or until a signal; whatever ends it, the progress is saved.
    pub(super) async fn run(mut self) -> (Tally, Outcome) {
        let copied = self.copy().await;
        let stopped = self.source.stop().await;
        let next = self.tally.next.clone();
        let saved = self.source.save(next.as_ref()).await;
        (self.tally, copied.and(stopped).and(saved))
    }

    async fn copy(&mut self) -> Outcome {
        let mut stop = self.app.stop.clone();
        let mut progress = Progress::new(self.app, "copied", None);
        let mut give_up: Option<Duration> = None;
        let mut is_open = true;
        while is_open || !self.pending.is_empty() {
            let has_room = self.pending.len() < WINDOW && self.pending_bytes < WINDOW_BYTES;
            let follow = self.plan.follow;
            tokio::select! {
                biased;
                () = stop.requested(), if give_up.is_none() => {
                    is_open = false;
                    give_up = Some(self.app.clock.monotonic() + DRAIN_MAX);
                }
                published = front(&mut self.pending) => {
                    let copied = self.settle_all(published)?;
                    progress.advance(self.app, copied);
                }
                items = self.source.next(follow), if is_open && has_room => {
                    let items = items?;
                    is_open = !items.is_empty();
                    tokio::select! {
                        sent = self.send(items) => sent?,
                        // What is not accepted by then is not sent, and copied by the next run.
                        () = stop.requested() => {}
                    }
                }
                () = self.app.clock.sleep_until(self.save_at), if self.is_behind() => {}
                () = until(self.app, give_up) => return Ok(()),
            }
            self.keep_time(&mut progress).await?;
        }
        // What is left behind the last message is of other keys.
        if !self.app.stop.is_requested() {
            self.tally.next = self.source.position().or(self.tally.next.take());
        }
        Ok(())
    }

    fn is_behind(&self) -> bool {
        self.tally.next != self.saved
    }

    /// Saves, and looks how much is left, from time to time.
    async fn keep_time(&mut self, progress: &mut Progress) -> Outcome {
        let now = self.app.clock.monotonic();
        if now >= self.save_at || self.tally.copied >= self.save_at_count {
            self.save_at = now + SAVE_EVERY;
            self.save_at_count = self.tally.copied + SAVE_EVERY_COUNT;
            let next = self.tally.next.clone();
            self.source.save(next.as_ref()).await?;
            self.saved = next;
        }
        if progress.is_seen() && now >= self.lag_at {
            self.lag_at = now + LAG_EVERY;
            if let Some(lag) = lag(self.from, self.plan, self.tally.next.as_ref()).await {
                progress.say(format!("copied, {} behind,", crate::human::count(lag)));
            }
        }
        Ok(())
    }

    async fn send(&mut self, items: Vec<Item>) -> Outcome {
        if items.is_empty() {
            return Ok(());
        }
        let messages = items.iter().map(|item| self.target.message(item)).collect();
        let batch = Batch { messages, mandatory: self.target.mandatory };
        let receipts = self.target.publisher.send(batch).await?;
        for (item, receipt) in items.into_iter().zip(receipts) {
            let bytes = item.message.payload.len();
            self.pending_bytes += bytes;
            self.pending.push_back(Sent { at: item.at, bytes, done: item.done, receipt });
        }
        Ok(())
    }

    /// Takes note of the oldest message on its way and of all behind it that are there too.
    fn settle_all(&mut self, published: Published) -> Outcome<u64> {
        self.settle(published)?;
        let mut settled = 1;
        while let Some(sent) = self.pending.front_mut() {
            let Some(published) = super::ready(&mut sent.receipt) else { break };
            self.settle(published)?;
            settled += 1;
        }
        Ok(settled)
    }

    /// In order: what is behind a message that was not stored is not taken for copied.
    fn settle(&mut self, published: Published) -> Outcome {
        let Some(sent) = self.pending.pop_front() else { return Ok(()) };
        let at = sent.at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
        match published {
            Ok(Receipt::Stored { .. }) => {}
            Ok(_) => {
                let why = format!("no group of the target takes the message{at}");
                let way_out = "declare one there first, or a log, as with ?replay=true";
                return Err(Failure::new(exit::UNROUTABLE, format!("{why}; {way_out}")));
            }
            Err(error) => return Err(Failure::from(error).prefixed(&format!("the message{at}"))),
        }
        self.pending_bytes -= sent.bytes;
        self.tally.copied += 1;
        self.tally.bytes += sent.bytes as u64;
        if let Some(place) = self.source.done(sent.done) {
            self.tally.next = Some(place);
        }
        Ok(())
    }
}

/// How many records of the source stand behind this place, also those of other keys; `None` when nobody can say.
pub(super) async fn lag(bus: &Bus, plan: &Plan, next: Option<&Offset>) -> Option<u64> {
    let reader = bus.reader(plan.from.topic.clone(), Position::Latest).ok()?.open().await.ok()?;
    let end = reader.position()?;
    let mut lag = 0;
    for (shard, end) in end.pairs() {
        lag += end.saturating_sub(next?.number(shard)?);
    }
    Some(lag)
}

/// The receipt of the oldest message on its way; never without one. Cancel safe.
async fn front(pending: &mut VecDeque<Sent>) -> Published {
    match pending.front_mut() {
        Some(sent) => (&mut sent.receipt).await,
        None => std::future::pending().await,
    }
}

async fn until(app: &App, time: Option<Duration>) {
    match time {
        Some(time) => app.clock.sleep_until(time).await,
        None => std::future::pending().await,
    }
}
