//! What went wrong in a handler: an answer to the caller, or a failure.

use std::fmt;

use busline_core::Result;
use bytes::Bytes;
use serde::Serialize;

use super::wire::{self, Format};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a handler did not succeed.
///
/// A *fault* answers a command: the caller gets it as the payload of a result with the status
/// `error`, and the command is done. A *failure* answers nobody: the message is tried a second time and
/// then dead lettered. `?` makes a failure of any error; a fault is made on purpose.
///
/// ```
/// use busline::service::{Fault, Payload};
///
/// async fn half(Payload(n): Payload<i64>) -> Result<i64, Fault> {
///     if n % 2 != 0 {
///         return Err(Fault::new("the number is odd"));
///     }
///     Ok(n / 2)
/// }
/// # drop(half);
/// ```
pub struct Fault(Inner);

enum Inner {
    Answer(Box<dyn Answer>),
    Failure(BoxError),
}

impl Fault {
    /// Tells the caller why: the payload is `{"reason": reason}`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self::of(Reason { reason: reason.into() })
    }

    /// Tells the caller this payload.
    pub fn of(payload: impl Serialize + fmt::Debug + Send + Sync + 'static) -> Self {
        Self(Inner::Answer(Box::new(payload)))
    }

    /// Fails: the message is tried again, then dead lettered.
    pub fn failure(error: impl Into<BoxError>) -> Self {
        Self(Inner::Failure(error.into()))
    }

    /// The payload for the caller, or what failed.
    pub(crate) fn into_answer(self, format: Format) -> Result<Bytes, BoxError> {
        match self.0 {
            Inner::Answer(payload) => Ok(payload.encode(format)?),
            Inner::Failure(error) => Err(error),
        }
    }

    /// What failed. Where nobody waits for an answer a fault is a failure too: its text says what was
    /// meant for the caller.
    pub(crate) fn into_failure(self) -> BoxError {
        match self.0 {
            Inner::Answer(payload) => format!("{payload:?}").into(),
            Inner::Failure(error) => error,
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Answer(payload) => f.debug_tuple("Fault").field(payload).finish(),
            Inner::Failure(error) => f.debug_tuple("Fault::failure").field(error).finish(),
        }
    }
}

/// So that `?` works on any error.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::failure(error)
    }
}

/// An error that a handler may return: [`Fault`], or anything that a boxed error can be made of.
#[diagnostic::on_unimplemented(
    message = "a handler cannot fail with `{Self}`",
    note = "use `busline::service::Fault`, or a type that implements `std::error::Error + Send + Sync`"
)]
pub trait IntoFault {
    /// Makes it a fault; everything that is none is a failure.
    fn into_fault(self) -> Fault;
}

impl IntoFault for Fault {
    fn into_fault(self) -> Fault {
        self
    }
}

impl<E: Into<BoxError>> IntoFault for E {
    fn into_fault(self) -> Fault {
        Fault::failure(self)
    }
}

#[derive(Debug, Serialize)]
struct Reason {
    reason: String,
}

/// A payload whose type was forgotten.
trait Answer: fmt::Debug + Send + Sync {
    fn encode(&self, format: Format) -> Result<Bytes>;
}

impl<T: Serialize + fmt::Debug + Send + Sync> Answer for T {
    fn encode(&self, format: Format) -> Result<Bytes> {
        wire::encode(format, self)
    }
}

/// What a hook of a service may return: `()` or `Result<(), E>`.
#[diagnostic::on_unimplemented(
    message = "a hook of a service cannot return `{Self}`",
    note = "hooks give `()` or `Result<(), E>` where `E` is `busline::service::Fault` or any error"
)]
pub trait Ended {
    /// How it ended.
    fn ended(self) -> Result<(), BoxError>;
}

impl Ended for () {
    fn ended(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: IntoFault> Ended for Result<(), E> {
    fn ended(self) -> Result<(), BoxError> {
        self.map_err(|error| error.into_fault().into_failure())
    }
}
