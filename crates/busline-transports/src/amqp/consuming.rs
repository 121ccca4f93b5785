//! A subscription as those see it who hold its deliveries: settling enqueues, and never waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busline_core::delivery::{SettleQueue, SettledSender, lost};
use busline_core::{Backoff, GroupName, Outcome, Result, Topic};
use futures_util::future::BoxFuture;
use lapin::types::ShortString;
use tokio::sync::{Notify, mpsc, oneshot};

use super::connection::Ended;
use super::held::{Hands, Held};

/// A subscription, for those who hold its deliveries.
#[derive(Debug)]
pub(super) struct Consuming {
    /// Its own end: the session's, or that of its queue.
    pub(super) ended: Ended,
    pub(super) about: About,
    /// Rings when there may be something to hand out.
    pub(super) bell: Notify,
    hands: Mutex<Hands>,
    jobs: mpsc::UnboundedSender<Job>,
}

/// What a subscription consumes, and how.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) topic: Topic,
    /// `None` for a broadcast.
    pub(super) group: Option<GroupName>,
    pub(super) queue: ShortString,
    pub(super) attempts_max: Option<u32>,
    /// Whether giving back counts as an attempt at the broker.
    pub(super) counts: bool,
    /// Whether later ones of an ordering key wait.
    pub(super) blocking: bool,
}

#[derive(Debug)]
pub(super) enum Job {
    Settle {
        tag: u64,
        held: Held,
        outcome: Outcome,
        done: Option<SettledSender>,
    },
    GiveBack {
        tag: u64,
        held: Held,
    },
    /// Stops fetching; answered when the rest was given back.
    Stop(Option<oneshot::Sender<()>>),
    /// Stops, and is answered when nothing that was settled is left to be told.
    Finish(oneshot::Sender<()>),
}

impl Consuming {
    pub(super) fn new(about: About) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (ended, bell, hands) = (Ended::new(), Notify::new(), Mutex::default());
        (Arc::new(Self { ended, about, bell, hands, jobs }), queue)
    }

    pub(super) fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops, and resolves when the broker knows everything that was settled.
    pub(super) async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        self.job(Job::Finish(done));
        drop(finished.await);
    }

    pub(super) fn job(&self, job: Job) {
        // A task that has ended has ended the subscription before.
        drop(self.jobs.send(job));
    }

    fn take(&self, tag: u64) -> Option<Held> {
        if self.ended.get().is_some() {
            return None;
        }
        let mut hands = self.hands();
        let held = hands.take(tag);
        // What waited for room may be handed out now.
        let is_waiting = !hands.ready.is_empty();
        drop(hands);
        if is_waiting {
            self.bell.notify_one();
        }
        held
    }

    fn send(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        match self.take(tag) {
            Some(held) => self.job(Job::Settle { tag, held, outcome, done }),
            None => answer(done, Err(lost("its session or its queue is gone"))),
        }
    }
}

impl SettleQueue for Consuming {
    fn settle(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        self.send(tag, outcome, done);
    }

    fn release(&self, tag: u64) {
        let Some(held) = self.take(tag) else { return };
        // Nothing after the first, then doubling.
        let wait = Backoff::default().before_attempt(held.before.count.saturating_add(1));
        let outcome = Outcome::Retry { after: Some(wait).filter(|wait| !wait.is_zero()) };
        self.job(Job::Settle { tag, held, outcome, done: None });
    }

    fn give_back(&self, tag: u64) {
        if let Some(held) = self.take(tag) {
            self.job(Job::GiveBack { tag, held });
        }
    }

    fn is_lost(&self, tag: u64) -> bool {
        self.ended.get().is_some() || !self.hands().out.contains_key(&tag)
    }

    fn lost(&self, tag: u64) -> BoxFuture<'static, ()> {
        let settled = !self.hands().out.contains_key(&tag);
        let ended = self.ended.clone();
        Box::pin(async move {
            if settled {
                return std::future::pending().await;
            }
            ended.wait().await;
        })
    }
}

/// Answers whoever asked.
pub(super) fn answer(done: Option<SettledSender>, result: Result<()>) {
    if let Some(done) = done {
        done.send(result);
    }
}
