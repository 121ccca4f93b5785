//! A message on its way to its handler, as layers and extractors see it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busline_core::{Attempt, Delivery};
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;

use super::context::Context;
use super::extract::Rejection;
use super::wire::{Format, Incoming, Kind};

pub use super::core::Environment;

/// A message on its way to its handler.
pub struct Request {
    incoming: Incoming,
    attempt: Attempt,
    context: Context,
    held: Held,
    /// Somebody took the duty to answer.
    answered_by_hand: bool,
    /// Somebody took the duty to settle.
    settled_by_hand: bool,
}

impl Request {
    pub(crate) fn new(incoming: Incoming, attempt: Attempt, context: Context, held: Held) -> Self {
        Self { incoming, attempt, context, held, answered_by_hand: false, settled_by_hand: false }
    }

    /// What kind of message it is.
    pub fn kind(&self) -> Kind {
        self.incoming.kind
    }

    /// The routing key.
    pub fn key(&self) -> &str {
        &self.incoming.key
    }

    /// Which delivery of the message this is.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// The message, decoded but for its payload.
    pub fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// The payload as a value of this type.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Rejection> {
        self.incoming.payload().map_err(|error| Rejection::new(error.to_string()))
    }

    /// What the handler publishes with.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The format in which this service writes.
    pub(crate) fn format(&self) -> Format {
        self.context.core().format
    }

    pub(crate) fn is_answered_by_hand(&self) -> bool {
        self.answered_by_hand
    }

    pub(crate) fn answer_by_hand(&mut self) {
        self.answered_by_hand = true;
    }

    /// What the handler settles by hand once it is called; `None` when another argument does.
    pub(crate) fn settle_by_hand(&mut self) -> Option<Held> {
        let first = !std::mem::replace(&mut self.settled_by_hand, true);
        first.then(|| self.held.clone())
    }

    /// All arguments are there, and the handler is called.
    pub(crate) fn begin(&self) {
        if self.settled_by_hand {
            self.held.lock().by_hand = true;
        }
    }

    /// Resolves when the delivery is lost.
    pub(crate) fn lost(&self) -> BoxFuture<'static, ()> {
        let held = self.held.lock();
        held.delivery.as_ref().map_or_else(|| Box::pin(std::future::pending()) as _, Delivery::lost)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("kind", &self.kind())
            .field("key", &self.key())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// The delivery of a request, until it is settled: by its handler, when that took the duty and was called.
#[derive(Debug, Clone)]
pub(crate) struct Held(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    delivery: Option<Delivery>,
    by_hand: bool,
}

impl Held {
    pub(crate) fn new(delivery: Delivery) -> Self {
        Self(Arc::new(Mutex::new(State { delivery: Some(delivery), by_hand: false })))
    }

    /// The delivery, for who settles what handlers leave.
    pub(crate) fn take(&self) -> Option<Delivery> {
        let mut state = self.lock();
        if state.by_hand { None } else { state.delivery.take() }
    }

    /// The delivery, for who took the duty.
    pub(crate) fn take_by_hand(&self) -> Option<Delivery> {
        self.lock().delivery.take()
    }

    /// Gives the delivery back, unless the handler was never called.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        let abandoned = if state.by_hand { state.delivery.take() } else { None };
        // What is told of it needs no lock.
        drop(state);
        drop(abandoned);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
