//! What a handler gave, and what becomes of it.

use bytes::Bytes;
use serde::Serialize;

use super::fault::{BoxError, Fault, IntoFault};
use super::kind::{Command, CommandResult, Configuration, Event};
use super::request::Request;
use super::wire::{self, Status};

/// What a handler came to, for layers to look at.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Response {
    /// Done, without an answer.
    Done,
    /// A command's answer: it is sent to the caller before the command is acknowledged.
    Answer(Status, Bytes),
    /// Whether the service is configured now.
    Configured(bool),
}

/// What a handler of the kind `K` may return.
#[diagnostic::on_unimplemented(
    message = "a handler of the kind `{K}` cannot return `{Self}`",
    note = "events and results give `()` or `Result<(), E>`, commands `Result<T, E>` where `T: Serialize`, configurations `bool` or `Result<bool, E>`",
    note = "`E` is `busline::service::Fault` or any error"
)]
pub trait IntoResponse<K> {
    /// What becomes of the message; an error has it tried again, then dead lettered.
    fn into_response(self, request: &Request) -> Result<Response, BoxError>;
}

macro_rules! without_answer {
    ($($kind:ty),*) => {$(
        impl IntoResponse<$kind> for () {
            fn into_response(self, _: &Request) -> Result<Response, BoxError> {
                Ok(Response::Done)
            }
        }

        impl<E: IntoFault> IntoResponse<$kind> for Result<(), E> {
            fn into_response(self, _: &Request) -> Result<Response, BoxError> {
                self.map(|()| Response::Done).map_err(|error| error.into_fault().into_failure())
            }
        }
    )*};
}

without_answer!(Event, CommandResult);

/// As `Ok(())`: the answer is null, unless the handler took a [`Replier`](super::Replier).
impl IntoResponse<Command> for () {
    fn into_response(self, request: &Request) -> Result<Response, BoxError> {
        IntoResponse::<Command>::into_response(Ok::<(), Fault>(self), request)
    }
}

impl<T: Serialize, E: IntoFault> IntoResponse<Command> for Result<T, E> {
    fn into_response(self, request: &Request) -> Result<Response, BoxError> {
        let format = request.format();
        match self {
            Ok(_) if request.is_answered_by_hand() => Ok(Response::Done),
            Ok(value) => Ok(Response::Answer(Status::Success, wire::encode(format, &value)?)),
            Err(error) => {
                Ok(Response::Answer(Status::Error, error.into_fault().into_answer(format)?))
            }
        }
    }
}

impl IntoResponse<Configuration> for bool {
    fn into_response(self, _: &Request) -> Result<Response, BoxError> {
        Ok(Response::Configured(self))
    }
}

impl<E: IntoFault> IntoResponse<Configuration> for Result<bool, E> {
    fn into_response(self, _: &Request) -> Result<Response, BoxError> {
        self.map(Response::Configured).map_err(|error| error.into_fault().into_failure())
    }
}
