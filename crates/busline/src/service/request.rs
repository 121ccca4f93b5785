//! A message on its way to its handler, as layers and extractors see it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use busline_core::{Attempt, Delivery};
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
}

impl Request {
    pub(crate) fn new(incoming: Incoming, attempt: Attempt, context: Context, held: Held) -> Self {
        Self { incoming, attempt, context, held, answered_by_hand: false }
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

    pub(crate) fn take_delivery(&self) -> Option<Delivery> {
        self.held.take()
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

/// The delivery of a request, until somebody takes the duty to settle it.
#[derive(Debug, Clone)]
pub(crate) struct Held(Arc<Mutex<Option<Delivery>>>);

impl Held {
    pub(crate) fn new(delivery: Delivery) -> Self {
        Self(Arc::new(Mutex::new(Some(delivery))))
    }

    pub(crate) fn take(&self) -> Option<Delivery> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
