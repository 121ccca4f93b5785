//! What publishing came to: receipts that arrive after acceptance, one a message.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

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
    Waiting(oneshot::Receiver<Published>),
}

/// The sending side of a [`PendingReceipt`]; dropped unanswered, the receipt is `Unknown`.
#[derive(Debug)]
pub struct ReceiptSender(oneshot::Sender<Published>);

impl ReceiptSender {
    /// Answers; nobody may be listening any more, which is no error.
    pub fn send(self, published: Published) {
        drop(self.0.send(published));
    }
}

impl PendingReceipt {
    /// A receipt and the side that answers it.
    pub fn channel() -> (ReceiptSender, Self) {
        let (sender, receiver) = oneshot::channel();
        (ReceiptSender(sender), Self(State::Waiting(receiver)))
    }

    /// A receipt that is known already.
    pub fn ready(published: Published) -> Self {
        Self(State::Ready(Some(published)))
    }
}

impl Future for PendingReceipt {
    type Output = Published;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Published> {
        let unanswered = || {
            let error = Error::new(ErrorKind::Disconnected, "the session ended before the receipt");
            Err(PublishError::Unknown(error))
        };
        match &mut self.0 {
            State::Ready(published) => Poll::Ready(published.take().unwrap_or_else(unanswered)),
            State::Waiting(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| answer.unwrap_or_else(|_| unanswered())),
        }
    }
}
