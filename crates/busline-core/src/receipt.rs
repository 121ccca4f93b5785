//! What publishing came to: receipts that arrive after acceptance, one a message.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, ErrorKind, Result};
use crate::offset::Offset;

/// What publishing one message came to, when the broker answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Receipt {
    /// The broker took it under the durability promised; not that anyone will receive it.
    Stored {
        /// Its place in the log, where the broker tells.
        offset: Option<Offset>,
    },
    /// It was mandatory and matched no group declared at that moment.
    Unroutable,
}

/// Why a message has no receipt. It never goes round again by itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker said no: it is not stored.
    Nacked(Error),
    /// It exceeds a bound: nothing was sent.
    TooLarge(Error),
    /// Nobody knows: the answer did not come. It may be stored; sending it again may duplicate it.
    Unknown(Error),
}

impl PublishError {
    /// The error behind, whatever is known about the message.
    pub fn error(&self) -> &Error {
        match self {
            Self::Nacked(error) | Self::TooLarge(error) | Self::Unknown(error) => error,
        }
    }

    /// Sorts an error of the medium: bounds are `TooLarge`, a lost session is `Unknown`.
    pub fn from_send(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Limit => Self::TooLarge(error),
            ErrorKind::Disconnected | ErrorKind::Elapsed | ErrorKind::Closed => {
                Self::Unknown(error)
            }
            _ => Self::Nacked(error),
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nacked(error) => write!(f, "not stored: {error}"),
            Self::TooLarge(error) => write!(f, "not sent: {error}"),
            Self::Unknown(error) => write!(f, "it is unknown whether it was stored: {error}"),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.error())
    }
}

impl From<PublishError> for Error {
    /// Keeps the kind, so that the exit code and `is_temporary` stay what they are.
    fn from(error: PublishError) -> Self {
        error.error().clone().during("publish")
    }
}

/// The result for one message.
pub type Published = Result<Receipt, PublishError>;

/// A receipt that is on its way. Dropping it cancels nothing: the message stays sent.
///
/// Cancel safe: polling it later or elsewhere gives the same answer.
#[derive(Debug)]
pub struct PendingReceipt(State);

#[derive(Debug)]
enum State {
    Ready(Option<Published>),
    Waiting(Arc<Cell>),
}

/// The sending side of a [`PendingReceipt`]; dropped unanswered, the receipt is `Unknown`.
#[derive(Debug)]
pub struct ReceiptSender(Option<Arc<Cell>>);

impl ReceiptSender {
    /// Answers; nobody may be listening any more, which is no error.
    pub fn send(mut self, published: Published) {
        if let Some(cell) = self.0.take() {
            cell.tell(published);
        }
    }
}

impl Drop for ReceiptSender {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.tell(unanswered());
        }
    }
}

/// Hears an answer in the place of who waits for the receipt, and answers that one by a [`ReceiptAnswer`].
pub(crate) trait ReceiptWatch: Send + Sync {
    /// Called once a receipt, by whoever answers it: it must not block, nor call into a session.
    fn answered(self: Arc<Self>, number: u64, published: Published);
}

/// Answers who waits for a receipt, whether it is watched or not. The first answer counts; dropped
/// unanswered, it is `Unknown`.
#[derive(Debug)]
pub(crate) struct ReceiptAnswer(Option<Arc<Cell>>);

impl ReceiptAnswer {
    pub(crate) fn answer(mut self, published: Published) {
        if let Some(cell) = self.0.take() {
            Cell::answer(cell.lock(), published);
        }
    }
}

impl Drop for ReceiptAnswer {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            Cell::answer(cell.lock(), unanswered());
        }
    }
}

/// What both sides of a receipt share: one allocation a message, however many look at its answer.
#[derive(Default)]
struct Cell(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    answer: Option<Published>,
    is_answered: bool,
    waker: Option<Waker>,
    watch: Option<(Arc<dyn ReceiptWatch>, u64)>,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of a session: to who watches, else to who waits.
    fn tell(&self, published: Published) {
        let mut inside = self.lock();
        match inside.watch.take() {
            Some((watch, number)) => {
                drop(inside);
                watch.answered(number, published);
            }
            // Under the same lock: who begins to watch finds either no answer, or this one.
            None => Self::answer(inside, published),
        }
    }

    fn answer(mut inside: MutexGuard<'_, Inside>, published: Published) {
        if inside.is_answered {
            return;
        }
        inside.is_answered = true;
        inside.answer = Some(published);
        let waker = inside.waker.take();
        drop(inside);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cell").field(&self.lock().is_answered).finish()
    }
}

impl PendingReceipt {
    /// A receipt and the side that answers it.
    pub fn channel() -> (ReceiptSender, Self) {
        let cell = Arc::<Cell>::default();
        (ReceiptSender(Some(Arc::clone(&cell))), Self(State::Waiting(cell)))
    }

    /// A receipt that is known already.
    pub fn ready(published: Published) -> Self {
        Self(State::Ready(Some(published)))
    }

    /// From here on its session answers `watch`, and who waits is answered by what this returns. With it comes the
    /// answer that is there already: it is the watcher's now.
    pub(crate) fn watch(
        &mut self,
        watch: Arc<dyn ReceiptWatch>,
        number: u64,
    ) -> (ReceiptAnswer, Option<Published>) {
        let cell = self.cell();
        let mut inside = cell.lock();
        let answered = inside.answer.take();
        match &answered {
            Some(_) => inside.is_answered = false,
            None => inside.watch = Some((watch, number)),
        }
        drop(inside);
        (ReceiptAnswer(Some(Arc::clone(cell))), answered)
    }

    fn cell(&mut self) -> &Arc<Cell> {
        if let State::Ready(answer) = &mut self.0 {
            let answer = answer.take();
            let inside = Inside { is_answered: answer.is_some(), answer, ..Inside::default() };
            self.0 = State::Waiting(Arc::new(Cell(Mutex::new(inside))));
        }
        match &self.0 {
            State::Waiting(cell) => cell,
            State::Ready(_) => unreachable!("it was made to wait above"),
        }
    }
}

fn unanswered() -> Published {
    let error = Error::new(ErrorKind::Disconnected, "the session ended before the receipt");
    Err(PublishError::Unknown(error))
}

impl Future for PendingReceipt {
    type Output = Published;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Published> {
        let cell = match &mut self.0 {
            State::Ready(published) => {
                return Poll::Ready(published.take().unwrap_or_else(unanswered));
            }
            State::Waiting(cell) => cell,
        };
        let mut inside = cell.lock();
        if inside.is_answered {
            return Poll::Ready(inside.answer.take().unwrap_or_else(unanswered));
        }
        match &mut inside.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}
