//! Deliveries: received messages that somebody has to settle.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::GroupName;
use crate::offset::Offset;
use crate::time::Timestamp;

/// How a delivery is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done; it does not come again.
    Ack,
    /// Not done; it comes again, to this member or another.
    Retry {
        /// At the earliest after this; `None` is at once.
        after: Option<Duration>,
    },
    /// It goes to the dead letters.
    Reject {
        /// Why, for the people who look at the dead letters.
        reason: String,
    },
}

/// Which delivery of a message this is, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first delivery.
    pub number: u32,
    /// Whether the number was counted; if not, it is the least that it can be.
    pub exact: bool,
}

impl Attempt {
    /// A counted attempt.
    pub const fn exact(number: u32) -> Self {
        Self { number, exact: true }
    }
}

/// What a session does with settled deliveries. Settling only enqueues; it never waits.
pub trait SettleQueue: fmt::Debug + Send + Sync + 'static {
    /// Settles the delivery `tag`. `done`, where given, gets the answer once it is committed, or
    /// `Lost` when the delivery belongs to somebody else by now or its session has ended.
    fn settle(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>);

    /// Gives the delivery back unsettled: it counts as an attempt and comes again, from the second
    /// time on after a back-off.
    fn release(&self, tag: u64);

    /// Takes the delivery back that nobody saw: it does not count as an attempt where the transport
    /// can help it; elsewhere as [`SettleQueue::release`].
    fn give_back(&self, tag: u64) {
        self.release(tag);
    }

    /// Whether the delivery was lost: its lease ran out, or its session ended.
    fn is_lost(&self, tag: u64) -> bool;

    /// Resolves when the delivery is lost; never when it is settled before.
    fn lost(&self, tag: u64) -> BoxFuture<'static, ()>;
}

/// Answers a [`Settled`].
#[derive(Debug)]
pub struct SettledSender(oneshot::Sender<Result<()>>);

impl SettledSender {
    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }

    /// Answers; nobody may be listening any more, which is no error.
    pub fn send(self, result: Result<()>) {
        drop(self.0.send(result));
    }
}

/// Resolves when a settle is committed, or to `Lost`: then the message will come again.
///
/// May be dropped: the settle goes on. Cancel safe.
#[derive(Debug)]
pub struct Settled(oneshot::Receiver<Result<()>>);

impl Settled {
    /// An answer and the side that gives it.
    pub fn channel() -> (SettledSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (SettledSender(sender), Self(receiver))
    }
}

impl Future for Settled {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll(context).map(|answer| {
            answer
                .unwrap_or_else(|_| Err(lost("the session ended before the settle was committed")))
        })
    }
}

/// The error of a delivery that is somebody else's by now.
pub fn lost(why: &str) -> Error {
    Error::new(ErrorKind::Lost, format!("the delivery is lost: {why}"))
        .hint("it will be delivered again; do nothing")
}

/// A received message that is not settled yet.
///
/// Settling consumes it. Dropping it gives it back: that counts as an attempt, and from the second
/// time on it comes again only after a back-off.
#[must_use = "a delivery that is dropped is given back and comes again: settle it"]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The group that it was delivered to; `None` for a broadcast.
    pub group: Option<GroupName>,
    /// Its place in the log, where there is one.
    pub offset: Option<Offset>,
    /// When the broker took the message, where it tells.
    pub time: Option<Timestamp>,
    /// Which delivery of the message this is.
    pub attempt: Attempt,
    /// `None` once settled.
    settler: Option<Settler>,
}

/// How a delivery reaches the queue that settles it.
#[derive(Debug, Clone)]
pub struct Settler {
    /// The session's queue of settles.
    pub queue: Arc<dyn SettleQueue>,
    /// The delivery in the words of that queue.
    pub tag: u64,
}

impl Delivery {
    /// A delivery of `message`, for transports.
    pub fn new(message: Message, attempt: Attempt, settler: Settler) -> Self {
        Self { message, group: None, offset: None, time: None, attempt, settler: Some(settler) }
    }

    /// Done: it does not come again.
    pub fn ack(self) -> Settled {
        self.settle(Outcome::Ack)
    }

    /// Not done: it comes again, at the earliest after this.
    pub fn retry(self, after: impl Into<Option<Duration>>) -> Settled {
        self.settle(Outcome::Retry { after: after.into() })
    }

    /// To the dead letters, with the reason.
    pub fn reject(self, reason: impl Into<String>) -> Settled {
        self.settle(Outcome::Reject { reason: reason.into() })
    }

    /// Settles it; the settle is on its way when this returns.
    pub fn settle(mut self, outcome: Outcome) -> Settled {
        let (sender, settled) = Settled::channel();
        if let Some(settler) = self.settler.take() {
            settler.queue.settle(settler.tag, outcome, Some(sender));
        }
        settled
    }

    /// Settles it without an answer: the cheapest way, for who does not ask.
    pub fn settle_quietly(mut self, outcome: Outcome) {
        if let Some(settler) = self.settler.take() {
            settler.queue.settle(settler.tag, outcome, None);
        }
    }

    /// Gives it back unseen, for wrappers that fetched more than anybody asked for: unlike a drop it
    /// does not count as an attempt, where the transport can help it.
    pub fn give_back(mut self) {
        if let Some(settler) = self.settler.take() {
            settler.queue.give_back(settler.tag);
        }
    }

    /// Whether it was lost meanwhile: settling it would change nothing.
    pub fn is_lost(&self) -> bool {
        self.settler.as_ref().is_none_or(|settler| settler.queue.is_lost(settler.tag))
    }

    /// Resolves when it is lost, so that a handler can stop; else never. Cancel safe.
    pub fn lost(&self) -> BoxFuture<'static, ()> {
        match &self.settler {
            Some(settler) => settler.queue.lost(settler.tag),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Takes the message apart from the duty to settle, for wrappers.
    pub fn into_parts(mut self) -> (Message, Option<Settler>) {
        let settler = self.settler.take();
        let empty =
            Message::new(self.message.topic.clone(), crate::key::Key::empty(), bytes::Bytes::new());
        (std::mem::replace(&mut self.message, empty), settler)
    }

    /// Puts another queue between this delivery and its session, for wrappers.
    pub fn map_settler(mut self, wrap: impl FnOnce(Settler) -> Settler) -> Self {
        self.settler = self.settler.take().map(wrap);
        self
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take() {
            settler.queue.release(settler.tag);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("topic", &self.message.topic)
            .field("key", &self.message.key)
            .field("group", &self.group)
            .field("offset", &self.offset)
            .field("attempt", &self.attempt)
            .field("settled", &self.settler.is_none())
            .finish_non_exhaustive()
    }
}

/// A record read from a log: nobody settles it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The message.
    pub message: Message,
    /// Its place in the log.
    pub offset: Offset,
    /// When the broker took it.
    pub time: Timestamp,
}
