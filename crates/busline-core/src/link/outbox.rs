//! What was accepted and not confirmed: kept, and sent again in order after a lost session.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Inner, Link, bind, closed};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::receipt::{PendingReceipt, PublishError, Published, ReceiptSender};
use crate::transport::{Batch, Role, Session};

/// The sending half of the one task that publishes for a link, in order.
#[derive(Debug)]
pub(super) struct Outbox {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    Send { batch: Batch, accepted: oneshot::Sender<Result<Vec<PendingReceipt>>> },
    Drain(oneshot::Sender<()>),
}

impl Outbox {
    pub(super) fn start(link: &Link) -> Self {
        let (jobs, queue) = mpsc::channel(16);
        let window = link.0.options.window.max(1);
        let worker = Worker {
            link: Arc::downgrade(&link.0),
            queue,
            window,
            unconfirmed: BTreeMap::new(),
            next: 0,
            receipts: FuturesUnordered::new(),
            lost: None,
            session: None,
            closed: link.0.closed.subscribe(),
        };
        tokio::spawn(worker.run());
        Self { jobs }
    }

    /// Cancelled before the batch was accepted, nothing of it is sent.
    pub(super) async fn send(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        let (accepted, answer) = oneshot::channel();
        self.jobs.send(Job::Send { batch, accepted }).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Resolves when everything accepted before has its receipt.
    pub(super) async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.jobs.send(Job::Drain(done)).await.is_ok() {
            drop(drained.await);
        }
    }
}

struct Unconfirmed {
    message: Message,
    mandatory: bool,
    receipt: ReceiptSender,
}

type Tracked = futures_util::future::BoxFuture<'static, (u64, Published)>;

struct Worker {
    /// Weak, so that a link that everybody dropped ends this task.
    link: Weak<Inner>,
    queue: mpsc::Receiver<Job>,
    window: usize,
    /// By the order of acceptance, which is the order of sending again.
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    next: u64,
    receipts: FuturesUnordered<Tracked>,
    /// Why the session is gone, while its last receipts come in.
    lost: Option<Error>,
    session: Option<Arc<dyn Session>>,
    /// The link was closed: nothing is sent any more.
    closed: watch::Receiver<bool>,
}

impl Worker {
    async fn run(mut self) {
        let mut closed = self.closed.clone();
        tokio::select! {
            biased;
            () = self.work() => {}
            Ok(_) = closed.wait_for(|closed| *closed) => self.close(),
        }
    }

    async fn work(&mut self) {
        loop {
            if self.lost.is_some() && self.receipts.is_empty() && !self.resend().await {
                return;
            }
            let may_take = self.lost.is_none() && self.unconfirmed.len() < self.window;
            tokio::select! {
                // Receipts first: they make room.
                biased;
                Some((number, published)) = self.receipts.next() => self.receipt(number, published),
                job = self.queue.recv(), if may_take => match job {
                    Some(Job::Send { batch, accepted }) => self.accept(batch, accepted).await,
                    Some(Job::Drain(done)) => self.drain(done).await,
                    None => return self.finish().await,
                },
            }
        }
    }

    /// The link is gone: what was sent still gets its receipts, nothing is sent again.
    async fn finish(&mut self) {
        while let Some((number, published)) = self.receipts.next().await {
            if let Some(entry) = self.unconfirmed.remove(&number) {
                entry.receipt.send(published);
            }
        }
    }

    /// Closed: receipts that are there are given, and nobody can say any more about the others.
    fn close(&mut self) {
        while let Some(Some((number, published))) = self.receipts.next().now_or_never() {
            self.receipt(number, published);
        }
        self.session = None;
        self.give_up(&closed());
    }

    async fn drain(&mut self, done: oneshot::Sender<()>) {
        while !self.unconfirmed.is_empty() {
            if self.receipts.is_empty() && !self.resend().await {
                return;
            }
            if let Some((number, published)) = self.receipts.next().await {
                self.receipt(number, published);
            }
        }
        // Nobody may be waiting any more.
        let _ = done.send(());
    }

    fn receipt(&mut self, number: u64, published: Published) {
        match published {
            // The session ended: the message stays and is sent again, in its order.
            Err(PublishError::Unknown(error)) if error.kind() == ErrorKind::Disconnected => {
                self.lost.get_or_insert(error);
            }
            published => {
                if let Some(entry) = self.unconfirmed.remove(&number) {
                    entry.receipt.send(published);
                }
            }
        }
    }

    /// Cancelled by its sender before it is accepted, nothing of the batch is sent.
    async fn accept(
        &mut self,
        batch: Batch,
        mut accepted: oneshot::Sender<Result<Vec<PendingReceipt>>>,
    ) {
        loop {
            let sent = tokio::select! {
                biased;
                () = accepted.closed() => return,
                sent = self.try_send(&batch) => sent,
            };
            match sent {
                Ok(receipts) => {
                    let pending = self.track(batch, receipts);
                    return drop(accepted.send(Ok(pending)));
                }
                Err(error) if error.kind() == ErrorKind::Disconnected => {
                    self.lost.get_or_insert(error);
                    while let Some((number, published)) = self.receipts.next().await {
                        self.receipt(number, published);
                    }
                    if !self.resend().await {
                        return drop(accepted.send(Err(closed())));
                    }
                }
                Err(error) => return drop(accepted.send(Err(error))),
            }
        }
    }

    async fn try_send(&mut self, batch: &Batch) -> Result<Vec<PendingReceipt>> {
        let session = self.live().await?;
        bind(&*session, batch)?;
        session.send(batch.clone()).await
    }

    fn track(&mut self, batch: Batch, receipts: Vec<PendingReceipt>) -> Vec<PendingReceipt> {
        let mandatory = batch.mandatory;
        let mut pending = Vec::with_capacity(receipts.len());
        for (message, receipt) in batch.messages.into_iter().zip(receipts) {
            let number = self.next;
            self.next += 1;
            let (sender, receiver) = PendingReceipt::channel();
            self.unconfirmed.insert(number, Unconfirmed { message, mandatory, receipt: sender });
            self.receipts.push(Box::pin(async move { (number, receipt.await) }));
            pending.push(receiver);
        }
        pending
    }

    /// Sends what is unconfirmed on a new session, in its order; false when the link is gone.
    async fn resend(&mut self) -> bool {
        loop {
            let Some(link) = self.link.upgrade().map(Link) else { return false };
            self.lost = None;
            if let Some(session) = self.session.take() {
                link.forget(Role::Publish, &session).await;
            }
            let session = match self.live().await {
                Ok(session) => session,
                Err(error) => {
                    self.give_up(&error);
                    return true;
                }
            };
            match self.resend_on(&*session).await {
                Ok(()) => return true,
                Err(error) => self.lost = Some(error),
            }
            // Receipts of a half sent window are void: all of it goes again.
            self.receipts.clear();
        }
    }

    /// Fails only when this session is lost too. A message that it does not take is given up by
    /// itself: whether it was stored before is not known.
    async fn resend_on(&mut self, session: &dyn Session) -> Result<()> {
        let numbers: Vec<u64> = self.unconfirmed.keys().copied().collect();
        for number in numbers {
            let Some(entry) = self.unconfirmed.get(&number) else { continue };
            let batch = Batch { messages: vec![entry.message.clone()], mandatory: entry.mandatory };
            let sent = match bind(session, &batch) {
                Ok(()) => session.send(batch).await,
                Err(refused) => Err(refused),
            };
            match sent {
                Ok(receipts) => {
                    for receipt in receipts {
                        self.receipts.push(Box::pin(async move { (number, receipt.await) }));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Disconnected => return Err(error),
                Err(error) => {
                    if let Some(entry) = self.unconfirmed.remove(&number) {
                        entry.receipt.send(Err(PublishError::Unknown(error)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Nobody can say any more what became of these.
    fn give_up(&mut self, error: &Error) {
        self.receipts.clear();
        for entry in std::mem::take(&mut self.unconfirmed).into_values() {
            entry.receipt.send(Err(PublishError::Unknown(error.clone())));
        }
    }

    async fn live(&mut self) -> Result<Arc<dyn Session>> {
        if let Some(session) = &self.session {
            return Ok(Arc::clone(session));
        }
        let link = self.link.upgrade().map(Link).ok_or_else(closed)?;
        let session = link.session(Role::Publish).await?;
        self.session = Some(Arc::clone(&session));
        Ok(session)
    }
}
