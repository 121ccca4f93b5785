//! Publishing with confirms: one task a session, in the order of acceptance, many on the way at once.
//!
//! A returned message comes attached to whichever confirm is looked at next, not to its own. So returns
//! are kept in a ledger, and a mandatory message is decided when every confirm up to its own is in: by
//! then its return, if there is one, has been seen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use busline_core::receipt::ReceiptSender;
use busline_core::{Error, ErrorKind, PendingReceipt, PublishError, Published, Receipt, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::{Connection, Ended, disconnected, gone};
use super::error::error;
use super::mapping::Wire;

/// The sending half of the task.
#[derive(Debug)]
pub(super) struct Publisher {
    jobs: mpsc::UnboundedSender<Job>,
    window: Arc<Semaphore>,
    window_size: usize,
    /// Dropped by the task alone, it would be closed while its connection says goodbye, which then has no answer.
    _channel: Channel,
}

#[derive(Debug)]
enum Job {
    Send(Vec<Sending>),
    Drain(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Sending {
    wire: Wire,
    mandatory: bool,
    receipt: ReceiptSender,
    permits: usize,
}

impl Publisher {
    /// Starts the task on a channel of its own.
    pub(super) async fn start(
        connection: &Connection,
        ended: Ended,
        window_size: usize,
    ) -> Result<Self> {
        let channel = connection.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(error)?;
        Ok(Self::on(channel, ended, window_size))
    }

    /// Starts the task on a channel of its own that asks for no confirms: a receipt says that the
    /// message was written to the socket.
    pub(super) async fn start_unconfirmed(
        connection: &Connection,
        ended: Ended,
        window_size: usize,
    ) -> Result<Self> {
        Ok(Self::on(connection.channel().await?, ended, window_size))
    }

    fn on(channel: Channel, ended: Ended, window_size: usize) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(window_size));
        let worker = Worker {
            channel: channel.clone(),
            ended,
            window: Arc::clone(&window),
            confirms: FuturesUnordered::new(),
            waiting: BTreeMap::new(),
            next: 0,
            returned: VecDeque::new(),
            mandatory: 0,
        };
        tokio::spawn(worker.run(queue));
        Self { jobs, window, window_size, _channel: channel }
    }

    /// Accepts a batch when there is room. Cancelled before, nothing is sent.
    pub(super) async fn send(
        &self,
        batch: Vec<Wire>,
        mandatory: bool,
    ) -> Result<Vec<PendingReceipt>> {
        // A batch larger than the window takes all of it.
        let room = batch.len().min(self.window_size);
        let permits = u32::try_from(room).unwrap_or(u32::MAX);
        let entry = self.window.acquire_many(permits).await.map_err(|_| gone())?;
        entry.forget();
        let (sending, receipts): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .enumerate()
            .map(|(index, wire)| {
                let (receipt, pending) = PendingReceipt::channel();
                let permits = usize::from(index < room);
                (Sending { wire, mandatory, receipt, permits }, pending)
            })
            .unzip();
        self.jobs.send(Job::Send(sending)).map_err(|_| gone())?;
        Ok(receipts)
    }

    /// Resolves when everything accepted before has its receipt.
    pub(super) async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.jobs.send(Job::Drain(done)).is_ok() {
            drop(drained.await);
        }
    }
}

struct Waiting {
    exchange: String,
    receipt: ReceiptSender,
    permits: usize,
    /// What a mandatory message is known by when it comes back.
    mandatory: Option<Wire>,
    /// How it was confirmed, while it waits for those before it.
    confirmed: Option<bool>,
}

type Confirmed = (u64, lapin::Result<Confirmation>);

struct Worker {
    channel: Channel,
    ended: Ended,
    window: Arc<Semaphore>,
    confirms: FuturesUnordered<BoxFuture<'static, Confirmed>>,
    /// In the order of publishing.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    returned: VecDeque<BasicReturnMessage>,
    /// How many mandatory messages wait.
    mandatory: usize,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        let mut drains: Vec<oneshot::Sender<()>> = Vec::new();
        let ended = self.ended.clone();
        let mut end = Box::pin(ended.wait());
        loop {
            if self.waiting.is_empty() {
                drains.drain(..).for_each(|done| done.send(()).unwrap_or_default());
            }
            tokio::select! {
                biased;
                why = &mut end => break self.fail(&why),
                Some(confirmed) = self.confirms.next() => self.confirmed(confirmed),
                job = queue.recv() => match job {
                    Some(Job::Send(batch)) => batch.into_iter().for_each(|one| self.publish(one)),
                    Some(Job::Drain(done)) => drains.push(done),
                    None if self.waiting.is_empty() => return,
                    None => self.finish().await,
                },
            }
        }
        // Who waits for room waits for nothing.
        self.window.close();
    }

    /// Nobody sends any more: what is on the way still gets its receipts.
    async fn finish(&mut self) {
        while !self.waiting.is_empty() {
            let ended = self.ended.clone();
            tokio::select! {
                biased;
                why = ended.wait() => self.fail(&why),
                Some(confirmed) = self.confirms.next() => self.confirmed(confirmed),
            }
        }
    }

    fn publish(&mut self, sending: Sending) {
        let Sending { wire, mandatory, receipt, permits } = sending;
        let number = self.next;
        self.next += 1;
        let waiting = Waiting {
            exchange: wire.exchange.to_string(),
            receipt,
            permits,
            mandatory: mandatory.then(|| wire.clone()),
            confirmed: None,
        };
        self.mandatory += usize::from(mandatory);
        self.waiting.insert(number, waiting);
        let channel = self.channel.clone();
        let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
        let mut publishing = async move {
            let Wire { exchange, key, properties, payload } = wire;
            let publish = channel.basic_publish(exchange, key, options, &payload, properties);
            let confirm = match publish.await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            (number, confirm)
        }
        .boxed();
        // The first step hands the frames over: in order, so here.
        match (&mut publishing).now_or_never() {
            Some(confirmed) => self.confirmed(confirmed),
            None => self.confirms.push(publishing),
        }
    }

    fn confirmed(&mut self, confirmed: Confirmed) {
        self.take_in(confirmed);
        if self.mandatory == 0 {
            return;
        }
        // What came together is looked at together: the return of one may hang at another.
        while let Some(Some(confirmed)) = self.confirms.next().now_or_never() {
            self.take_in(confirmed);
        }
        while let Some(entry) = self.waiting.first_entry() {
            let Some(stored) = entry.get().confirmed else { break };
            let mut waiting = entry.remove();
            self.mandatory -= 1;
            let came_back = waiting.mandatory.take().is_some_and(|wire| self.came_back(&wire));
            self.answer(waiting, answer(stored, came_back));
        }
    }

    fn take_in(&mut self, (number, confirmation): Confirmed) {
        let (stored, back) = match confirmation {
            Ok(Confirmation::Ack(back)) => (true, back),
            Ok(Confirmation::Nack(back)) => (false, back),
            Ok(Confirmation::NotRequested) => (true, None),
            Err(said) => return self.failed(number, said),
        };
        self.returned.extend(back);
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        if waiting.mandatory.is_some() {
            waiting.confirmed = Some(stored);
        } else if let Some(waiting) = self.waiting.remove(&number) {
            self.answer(waiting, answer(stored, false));
        }
    }

    /// Takes the first return that is of this message out of the ledger.
    fn came_back(&mut self, wire: &Wire) -> bool {
        let is_it = |back: &BasicReturnMessage| {
            back.delivery.exchange == wire.exchange
                && back.delivery.routing_key == wire.key
                && back.delivery.properties.message_id() == wire.properties.message_id()
                && back.delivery.data == wire.payload
        };
        let found = self.returned.iter().position(is_it);
        found.and_then(|index| self.returned.remove(index)).is_some()
    }

    /// A missing exchange closes the channel, and with it all that is on the way.
    fn failed(&mut self, number: u64, said: lapin::Error) {
        let soft = said.is_amqp_soft_error();
        let why = error(said.clone());
        if soft {
            let missing = |waiting: &Waiting| {
                why.to_string().contains(&format!("exchange '{}'", waiting.exchange))
            };
            let culprits: Vec<_> = self
                .waiting
                .iter()
                .filter(|(_, waiting)| missing(waiting))
                .map(|(number, _)| *number)
                .collect();
            for number in culprits {
                if let Some(waiting) = self.waiting.remove(&number) {
                    self.mandatory -= usize::from(waiting.mandatory.is_some());
                    self.answer(waiting, Err(PublishError::from_send(why.clone())));
                }
            }
        }
        let why = disconnected(said);
        if let Some(waiting) = self.waiting.remove(&number) {
            self.mandatory -= usize::from(waiting.mandatory.is_some());
            self.answer(waiting, Err(PublishError::Unknown(why.clone())));
        }
        self.ended.end(why);
    }

    /// Nobody can say any more what became of these.
    fn fail(&mut self, why: &Error) {
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            self.answer(waiting, Err(PublishError::Unknown(why.clone())));
        }
        self.mandatory = 0;
    }

    fn answer(&self, waiting: Waiting, published: Published) {
        self.window.add_permits(waiting.permits);
        waiting.receipt.send(published);
    }
}

fn answer(stored: bool, came_back: bool) -> Published {
    match (stored, came_back) {
        (true, false) => Ok(Receipt::Stored { offset: None }),
        (true, true) => Ok(Receipt::Unroutable),
        (false, _) => Err(PublishError::Nacked(
            Error::new(ErrorKind::Full, "the broker does not take the message")
                .hint("a queue is full, or failed: look at the broker's log"),
        )),
    }
}
