//! A subscription as those see it who hold its deliveries: settling enqueues, and never waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busline_core::delivery::{SettleQueue, SettledSender, lost};
use busline_core::{GroupName, Outcome, Result, Topic};
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot};

use super::hands::{Hands, Held};
use super::topics::Shards;
use crate::ended::Ended;

/// A subscription, for those who hold its deliveries.
#[derive(Debug)]
pub(super) struct Consuming {
    /// Its own end: the session's, or that of its group.
    pub(super) ended: Ended,
    pub(super) topic: Topic,
    /// `None` for a broadcast.
    pub(super) group: Option<GroupName>,
    pub(super) shards: Shards,
    /// Rings when there may be something to hand out.
    pub(super) bell: Notify,
    hands: Arc<Mutex<Hands>>,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
pub(super) enum Job {
    Settle {
        held: Held,
        outcome: Outcome,
        done: Option<SettledSender>,
    },
    /// It counts as an attempt, and backs off.
    Release(Held),
    /// Nobody saw it.
    GiveBack(Held),
    /// Stops fetching; answered when the rest was given back.
    Stop(Option<oneshot::Sender<()>>),
    /// Stops, and is answered when nothing that was settled is left to be told.
    Finish(oneshot::Sender<()>),
}

impl Consuming {
    pub(super) fn new(
        topic: Topic,
        group: Option<GroupName>,
        shards: Shards,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (ended, bell, hands) = (Ended::new(), Notify::new(), Arc::default());
        (Arc::new(Self { ended, topic, group, shards, bell, hands, jobs }), queue)
    }

    pub(super) fn hands(&self) -> MutexGuard<'_, Hands> {
        lock(&self.hands)
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
        self.hands().take(tag)
    }
}

fn lock(hands: &Mutex<Hands>) -> MutexGuard<'_, Hands> {
    hands.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SettleQueue for Consuming {
    fn settle(&self, tag: u64, outcome: Outcome, done: Option<SettledSender>) {
        match self.take(tag) {
            Some(held) => self.job(Job::Settle { held, outcome, done }),
            None => answer(done, Err(lost("its session is gone, or its partition another's"))),
        }
    }

    fn release(&self, tag: u64) {
        if let Some(held) = self.take(tag) {
            self.job(Job::Release(held));
        }
    }

    fn give_back(&self, tag: u64) {
        if let Some(held) = self.take(tag) {
            self.job(Job::GiveBack(held));
        }
    }

    fn is_lost(&self, tag: u64) -> bool {
        self.ended.get().is_some() || !self.hands().out.contains_key(&tag)
    }

    fn lost(&self, tag: u64) -> BoxFuture<'static, ()> {
        let (share, is_lost) = {
            let hands = self.hands();
            (hands.out.get(&tag).map(|held| Arc::clone(&held.share)), hands.is_lost(tag))
        };
        if is_lost {
            return Box::pin(std::future::ready(()));
        }
        let (hands, ended) = (Arc::clone(&self.hands), self.ended.clone());
        Box::pin(async move {
            let Some(share) = share else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = ended.wait() => {}
                _ = share.lost.wait() => {}
            }
            // One that was settled before is nobody's loss.
            let is_out = {
                let hands = lock(&hands);
                hands.is_lost(tag) || hands.out.contains_key(&tag)
            };
            if !is_out {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Answers whoever asked.
pub(super) fn answer(done: Option<SettledSender>, result: Result<()>) {
    if let Some(done) = done {
        done.send(result);
    }
}
