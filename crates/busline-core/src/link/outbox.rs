//! What was accepted and not confirmed: kept, and sent again in order after a lost session.
//!
//! Who sends hands his batch to the session himself, one after the other; receipts are looked at where they are
//! answered. So a message passes no task and no queue of the link as long as its session lives.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore, watch};

use super::{Inner, Link, bind, closed};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::receipt::{PendingReceipt, PublishError, Published, ReceiptAnswer, ReceiptWatch};
use crate::transport::{Batch, Role, Session};

/// From here on the pauses are as long as they get.
const PAUSES_MAX: usize = 32;

/// The publishing half of a link, in order.
pub(super) struct Outbox {
    /// Weak, so that a link that everybody dropped ends.
    link: Weak<Inner>,
    /// Where a session that is lost is replaced.
    runtime: Handle,
    /// The live session, for one at a time: who has it sends next, or sends again.
    live: Arc<tokio::sync::Mutex<Live>>,
    /// A permit for each message that is kept.
    window: Semaphore,
    window_size: u32,
    kept: Mutex<Kept>,
    /// Told when nothing is on its way any more.
    calm: Notify,
    closed: watch::Receiver<bool>,
}

type Live = Option<Arc<dyn Session>>;

/// The right to send, and what sends.
type Turn = OwnedMutexGuard<Live>;

#[derive(Default)]
struct Kept {
    /// By the order of acceptance, which is the order of sending again; `None` has its receipt.
    messages: VecDeque<Option<Unconfirmed>>,
    /// The number of the first of them.
    first: u64,
    /// How many a session has to answer.
    on_their_way: usize,
    /// Why the session is gone, until another takes its place.
    lost: Option<Error>,
    is_resending: bool,
    /// How many sessions were lost in a row without an answer: a message may be what ends them.
    losses: usize,
    is_closed: bool,
}

struct Unconfirmed {
    message: Message,
    mandatory: bool,
    permits: usize,
    receipt: ReceiptAnswer,
}

impl Unconfirmed {
    fn again(&self) -> Batch {
        Batch { messages: vec![self.message.clone()], mandatory: self.mandatory }
    }
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// These are to be sent again. Until that is done they count as lost: whoever does it may be cut off.
    fn begin_again(&mut self) -> Range<u64> {
        (self.lost, self.is_resending) = (None, true);
        self.first..self.next()
    }

    /// Notes a loss; how many there were before it without an answer.
    fn lose_again(&mut self) -> usize {
        let before = self.losses;
        self.losses += 1;
        before
    }

    fn is_lost(&self) -> bool {
        self.lost.is_some() || self.is_resending
    }

    fn get(&self, number: u64) -> Option<&Unconfirmed> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.messages.get(index)?.as_ref()
    }

    fn take(&mut self, number: u64) -> Option<Unconfirmed> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let taken = self.messages.get_mut(index)?.take();
        while let Some(None) = self.messages.front() {
            self.messages.pop_front();
            self.first += 1;
        }
        taken
    }

    fn take_all(&mut self) -> Vec<Unconfirmed> {
        self.first = self.next();
        self.messages.drain(..).flatten().collect()
    }
}

impl Outbox {
    /// Must be called inside of a runtime.
    pub(super) fn new(link: &Link) -> Arc<Self> {
        let window = u32::try_from(link.0.options.window).unwrap_or(u32::MAX);
        let window_size = window.clamp(1, u32::MAX >> 3);
        Arc::new(Self {
            link: Arc::downgrade(&link.0),
            runtime: Handle::current(),
            live: Arc::default(),
            window: Semaphore::new(window_size as usize),
            window_size,
            kept: Mutex::default(),
            calm: Notify::new(),
            closed: link.0.closed.subscribe(),
        })
    }

    /// Accepts a batch when there is room. Cancelled before, nothing of it is sent.
    pub(super) async fn send(
        self: &Arc<Self>,
        link: &Link,
        batch: Batch,
    ) -> Result<Vec<PendingReceipt>> {
        // A batch larger than the window takes all of it.
        let room = batch.messages.len().min(self.window_size as usize);
        let permits = u32::try_from(room).expect("the window is no larger");
        let permits = self.window.acquire_many(permits).await.map_err(|_| closed())?;
        let mut turn = Arc::clone(&self.live).lock_owned().await;
        loop {
            while self.kept().is_lost() {
                turn = self.replace(turn).await?;
            }
            let session = match &*turn {
                Some(session) => Arc::clone(session),
                None => Arc::clone(turn.insert(link.session(Role::Publish).await?)),
            };
            bind(&*session, &batch)?;
            match session.send(batch.clone()).await {
                Ok(receipts) => {
                    permits.forget();
                    return Ok(self.keep(batch, receipts, room));
                }
                Err(error) if error.kind() == ErrorKind::Disconnected => self.lose(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Resolves when everything accepted before has its receipt.
    pub(super) async fn drain(&self) {
        drop(self.window.acquire_many(self.window_size).await);
    }

    /// Nobody can say any more what becomes of what has no receipt.
    pub(super) fn close(&self) {
        self.kept().is_closed = true;
        self.give_up(&closed());
        // Who has the turn is told of the close, and lets it go.
        let live = Arc::clone(&self.live);
        self.runtime.spawn(async move { drop(live.lock_owned().await.take()) });
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(
        self: &Arc<Self>,
        batch: Batch,
        mut receipts: Vec<PendingReceipt>,
        room: usize,
    ) -> Vec<PendingReceipt> {
        let mut kept = self.kept();
        let first = kept.next();
        let mut answered = Vec::new();
        for (index, (message, receipt)) in batch.messages.into_iter().zip(&mut receipts).enumerate()
        {
            let number = kept.next();
            // Under the lock: whoever gives up all that is kept finds it watched.
            let (receipt, answer) = receipt.watch(self.watch(), number);
            answered.extend(answer.map(|answer| (number, answer)));
            let (permits, mandatory) = (usize::from(index < room), batch.mandatory);
            kept.messages.push_back(Some(Unconfirmed { message, mandatory, permits, receipt }));
            kept.on_their_way += 1;
        }
        let count = usize::try_from(kept.next() - first).unwrap_or(usize::MAX);
        drop(kept);
        self.window.add_permits(room.saturating_sub(count));
        for (number, answer) in answered {
            Arc::clone(self).answered(number, answer);
        }
        receipts
    }

    fn watch(self: &Arc<Self>) -> Arc<dyn ReceiptWatch> {
        Arc::<Self>::clone(self)
    }

    fn lose(&self, error: Error) {
        self.kept().lost.get_or_insert(error);
    }

    fn give_up(&self, error: &Error) {
        let all = self.kept().take_all();
        all.into_iter().for_each(|one| self.answer(one, Err(PublishError::Unknown(error.clone()))));
    }

    fn answer(&self, one: Unconfirmed, published: Published) {
        self.window.add_permits(one.permits);
        one.receipt.answer(published);
    }

    /// Puts a session in the place of the lost one. It goes on when nobody waits for it any more: what it
    /// has sent again already must not be sent once more by the next who comes.
    async fn replace(self: &Arc<Self>, turn: Turn) -> Result<Turn> {
        // In the runtime of who sends: that of the outbox may be gone.
        let replacing = tokio::spawn(Arc::clone(self).replacing(turn));
        replacing.await.unwrap_or_else(|cause| {
            Err(Error::new(ErrorKind::Other, "sending again panicked").source(cause))
        })
    }

    async fn replacing(self: Arc<Self>, turn: Turn) -> Result<Turn> {
        let mut closing = self.closed.clone();
        tokio::select! {
            biased;
            Ok(_) = closing.wait_for(|closed| *closed) => {
                self.give_up(&closed());
                Err(closed())
            }
            turn = self.resend(turn) => turn,
        }
    }

    /// Sends what is unconfirmed on a new session, in its order, before anybody else has his turn.
    async fn resend(self: &Arc<Self>, mut turn: Turn) -> Result<Turn> {
        loop {
            // What the old session has still to say, it says: nothing is sent twice that was stored.
            self.calm().await;
            let Some(link) = self.link.upgrade().map(Link) else {
                self.give_up(&closed());
                return Err(closed());
            };
            if let Some(session) = turn.take() {
                link.forget(Role::Publish, &session).await;
            }
            self.pause_after_losses(&link).await;
            let numbers = self.kept().begin_again();
            if numbers.is_empty() {
                self.kept().is_resending = false;
                return Ok(turn);
            }
            let session = match link.session(Role::Publish).await {
                Ok(session) => Arc::clone(turn.insert(session)),
                Err(error) => {
                    self.kept().is_resending = false;
                    self.give_up(&error);
                    return Ok(turn);
                }
            };
            match self.resend_on(&*session, numbers).await {
                Ok(()) => {
                    self.kept().is_resending = false;
                    return Ok(turn);
                }
                Err(error) => self.lose(error),
            }
        }
    }

    /// None after the first loss, then longer ones until something is answered.
    async fn pause_after_losses(&self, link: &Link) {
        let losses = self.kept().lose_again();
        if let Some(again) = losses.checked_sub(1) {
            link.pause(&mut link.0.options.backoff.waits().skip(again.min(PAUSES_MAX))).await;
        }
    }

    /// Fails only when this session is lost too. A message that it does not take is given up by
    /// itself: whether it was stored before is not known.
    async fn resend_on(self: &Arc<Self>, session: &dyn Session, numbers: Range<u64>) -> Result<()> {
        for number in numbers {
            let Some(batch) = self.kept().get(number).map(Unconfirmed::again) else { continue };
            let sent = match bind(session, &batch) {
                Ok(()) => session.send(batch).await,
                Err(refused) => Err(refused),
            };
            match sent {
                Ok(receipts) => {
                    for mut receipt in receipts {
                        self.kept().on_their_way += 1;
                        // Nobody waits for this one: what answers is that of the first copy.
                        if let (_, Some(answer)) = receipt.watch(self.watch(), number) {
                            Arc::clone(self).answered(number, answer);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Disconnected => return Err(error),
                Err(error) => {
                    let refused = self.kept().take(number);
                    if let Some(one) = refused {
                        self.answer(one, Err(PublishError::Unknown(error)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Resolves when nothing is on its way.
    async fn calm(&self) {
        loop {
            let mut calm = pin!(self.calm.notified());
            calm.as_mut().enable();
            if self.kept().on_their_way == 0 {
                return;
            }
            calm.await;
        }
    }

    /// As nobody may come to send something new, who would send again what is lost.
    async fn sending_again(self: Arc<Self>) {
        let turn = Arc::clone(&self.live).lock_owned().await;
        if self.kept().is_lost() {
            // Where it fails, those who wait for receipts were told.
            drop(self.replacing(turn).await);
        }
    }
}

impl ReceiptWatch for Outbox {
    fn answered(self: Arc<Self>, number: u64, published: Published) {
        let mut kept = self.kept();
        kept.on_their_way -= 1;
        let is_calm = kept.on_their_way == 0;
        let lost = match &published {
            Err(PublishError::Unknown(error)) if error.kind() == ErrorKind::Disconnected => {
                // Without a link nobody sends it again.
                (!kept.is_closed && self.link.strong_count() > 0).then(|| error.clone())
            }
            _ => None,
        };
        match lost {
            // The session ended: the message stays and is sent again, in its order.
            Some(error) => {
                let is_news = kept.lost.replace(error).is_none();
                drop(kept);
                if is_news {
                    let outbox = Arc::clone(&self);
                    self.runtime.spawn(outbox.sending_again());
                }
            }
            None => {
                kept.losses = 0;
                let one = kept.take(number);
                drop(kept);
                if let Some(one) = one {
                    self.answer(one, published);
                }
            }
        }
        if is_calm {
            self.calm.notify_waiters();
        }
        // The last one ends the session, elsewhere: who answers may be in the middle of it.
        let runtime = self.runtime.clone();
        if let Some(last) = Arc::into_inner(self) {
            runtime.spawn(async move { drop(last) });
        }
    }
}
