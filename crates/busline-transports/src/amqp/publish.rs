//! Publishing with confirms: in the order of acceptance, many on the way at once.
//!
//! A returned message comes attached to whichever confirm is looked at next, not to its own. So returns
//! are kept in a ledger, and a mandatory message is decided when every confirm up to its own is in: by
//! then its return, if there is one, has been seen.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use busline_core::receipt::ReceiptSender;
use busline_core::{Error, ErrorKind, PendingReceipt, PublishError, Published, Receipt, Result};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::{Connection, Ended, disconnected, gone};
use super::error::error;
use super::mapping::Wire;

/// Publishes on a channel of its own. Who publishes hands the frames over himself; the task only takes in confirms.
#[derive(Debug)]
pub(super) struct Publisher {
    jobs: mpsc::UnboundedSender<Job>,
    channel: Channel,
    ledger: Arc<Mutex<Ledger>>,
    window: Arc<Semaphore>,
    window_size: usize,
}

enum Job {
    Confirm(Confirming),
    Drain(oneshot::Sender<()>),
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Confirm(_) => "Confirm",
            Self::Drain(_) => "Drain",
        })
    }
}

type Confirmed = (u64, lapin::Result<Confirmation>);

/// A message on its way, until it is confirmed.
type Confirming = BoxFuture<'static, Confirmed>;

impl Publisher {
    /// Starts on a channel of its own.
    pub(super) async fn start(
        connection: &Connection,
        ended: Ended,
        window_size: usize,
    ) -> Result<Self> {
        let channel = connection.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(error)?;
        Ok(Self::on(channel, ended, window_size))
    }

    /// Starts on a channel of its own that asks for no confirms: a receipt says that the
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
        let ledger = Arc::new(Mutex::new(Ledger::new(Arc::clone(&window), ended.clone())));
        let confirms = FuturesUnordered::new();
        tokio::spawn(Worker { ledger: Arc::clone(&ledger), queue, confirms }.run(ended));
        Self { jobs, channel, ledger, window, window_size }
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
        // Numbers are given in the order of publishing: nobody else comes in between.
        let mut ledger = lock(&self.ledger);
        if ledger.is_over {
            return Err(gone());
        }
        entry.forget();
        let mut receipts = Vec::with_capacity(batch.len());
        for (index, wire) in batch.into_iter().enumerate() {
            let (receipt, pending) = PendingReceipt::channel();
            receipts.push(pending);
            let permits = usize::from(index < room);
            let number = ledger.enter(&wire, mandatory, receipt, permits);
            let mut publishing = publish(self.channel.clone(), number, wire, mandatory);
            // The first step hands the frames over; what became of them, the task enters, however soon it is known.
            let confirming = match (&mut publishing).now_or_never() {
                Some(confirmed) => std::future::ready(confirmed).boxed(),
                None => publishing,
            };
            // The task ends after it has said in the ledger that it is over.
            drop(self.jobs.send(Job::Confirm(confirming)));
        }
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

fn publish(channel: Channel, number: u64, wire: Wire, mandatory: bool) -> Confirming {
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    async move {
        let Wire { exchange, key, properties, payload } = wire;
        let publish = channel.basic_publish(exchange, key, options, &payload, properties);
        let confirm = match publish.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        (number, confirm)
    }
    .boxed()
}

/// The task: it waits for confirms, and enters them.
struct Worker {
    ledger: Arc<Mutex<Ledger>>,
    queue: mpsc::UnboundedReceiver<Job>,
    confirms: FuturesUnordered<Confirming>,
}

impl Worker {
    async fn run(mut self, ended: Ended) {
        let mut drains: Vec<oneshot::Sender<()>> = Vec::new();
        let mut end = Box::pin(ended.wait());
        let mut is_open = true;
        // Nobody may send any more: what is on the way still gets its receipts.
        while is_open || !self.confirms.is_empty() {
            if !drains.is_empty() && lock(&self.ledger).waiting.is_empty() {
                drains.drain(..).for_each(|done| done.send(()).unwrap_or_default());
            }
            tokio::select! {
                biased;
                why = &mut end => return lock(&self.ledger).fail(&why),
                Some(confirmed) = self.confirms.next() => drains.extend(self.confirmed(confirmed)),
                job = self.queue.recv(), if is_open => match job {
                    Some(Job::Confirm(confirming)) => self.confirms.push(confirming),
                    Some(Job::Drain(done)) => drains.push(done),
                    None => is_open = false,
                },
            }
        }
    }

    /// Enters it, and all that came together with it: the return of one may hang at another that was
    /// published later. Who publishes has the ledger until that is in the queue, so nothing is missed.
    fn confirmed(&mut self, confirmed: Confirmed) -> Vec<oneshot::Sender<()>> {
        let mut drains = Vec::new();
        let mut ledger = lock(&self.ledger);
        ledger.take_in(confirmed);
        while let Ok(job) = self.queue.try_recv() {
            match job {
                Job::Confirm(confirming) => self.confirms.push(confirming),
                Job::Drain(done) => drains.push(done),
            }
        }
        // Until nothing is ready: a set of futures also says that it waits when it only lets others go first.
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        loop {
            flag.0.store(false, Ordering::SeqCst);
            match self.confirms.poll_next_unpin(&mut context) {
                Poll::Ready(Some(confirmed)) => ledger.take_in(confirmed),
                Poll::Ready(None) => break,
                Poll::Pending if !flag.0.load(Ordering::SeqCst) => break,
                Poll::Pending => {}
            }
        }
        ledger.decide();
        drains
    }
}

/// However it ends, nobody waits for it, and nothing is entered any more.
impl Drop for Worker {
    fn drop(&mut self) {
        let mut ledger = lock(&self.ledger);
        ledger.ended.end(gone());
        ledger.fail(&gone());
    }
}

/// Whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What is on its way, and what came back.
#[derive(Debug)]
struct Ledger {
    /// In the order of publishing.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    returned: VecDeque<BasicReturnMessage>,
    /// How many mandatory messages wait.
    mandatory: usize,
    window: Arc<Semaphore>,
    ended: Ended,
    /// The session has ended: nothing is entered any more.
    is_over: bool,
}

#[derive(Debug)]
struct Waiting {
    exchange: ShortString,
    receipt: ReceiptSender,
    permits: usize,
    /// What a mandatory message is known by when it comes back.
    mandatory: Option<Wire>,
    /// How it was confirmed, while it waits for those before it.
    confirmed: Option<bool>,
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    fn new(window: Arc<Semaphore>, ended: Ended) -> Self {
        Self {
            waiting: BTreeMap::new(),
            next: 0,
            returned: VecDeque::new(),
            mandatory: 0,
            window,
            ended,
            is_over: false,
        }
    }

    fn enter(
        &mut self,
        wire: &Wire,
        mandatory: bool,
        receipt: ReceiptSender,
        permits: usize,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        let exchange = wire.exchange.clone();
        let mandatory = mandatory.then(|| wire.clone());
        self.mandatory += usize::from(mandatory.is_some());
        let waiting = Waiting { exchange, receipt, permits, mandatory, confirmed: None };
        self.waiting.insert(number, waiting);
        number
    }

    /// A mandatory message is decided when all before it are.
    fn decide(&mut self) {
        while self.mandatory > 0 {
            let Some(entry) = self.waiting.first_entry() else { break };
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
                why.to_string().contains(&format!("exchange '{}'", waiting.exchange.as_str()))
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
        self.is_over = true;
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            self.answer(waiting, Err(PublishError::Unknown(why.clone())));
        }
        self.mandatory = 0;
        // Who waits for room waits for nothing.
        self.window.close();
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
