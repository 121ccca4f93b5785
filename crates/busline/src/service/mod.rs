//! Services: events, commands with results, configurations and logs, over any bus.
//!
//! ```
#![doc = include_str!("../../examples/service.rs")]
//! ```
//!
//! A service has a name, which all its instances share, and handlers: async functions that ask for what they
//! need as arguments (see [`Handler`] and [`FromRequest`]). What it says on the wire are the conventions of the
//! Python library eventail, whatever the bus: a program runs on files during development and beside Python
//! services on RabbitMQ by its URL alone.
//!
//! # What becomes of a message
//!
//! | the handler | the message |
//! |---|---|
//! | succeeds | is acknowledged once everything that it published through its [`Context`], the answer included, is stored |
//! | of a command gives a [`Fault`] | is answered with the status `error`, and acknowledged |
//! | fails or panics | is logged (`ALERT`) and tried again at once; the second time it is logged (`EMERGENCY`) and dead lettered |
//! | cannot be called, because the payload has another shape | a command is answered with `{"reason": …}`, others are dead lettered at once |
//! | there is none, and no fallback | as if it had failed |
//!
//! What has no conversation, no body that can be decoded, or is neither command nor result goes to the dead letters
//! with a log line, and the service goes on. A message is seen at least once: a handler may see one again whose process
//! died, and [`Attempt`](crate::Attempt) tells.
//!
//! Handlers run at the same time, up to [`App::prefetch`] events and as many commands; what starts first does not
//! necessarily end first. [`App::concurrency`] of 1 handles one after the other.
//!
//! Events can be handled [in batches](Router::batch_event), which are settled when the batch is handled: what failed with others is
//! tried alone, so that one bad event takes no other one with it to the dead letters.
//!
//! # What is stopped how
//!
//! A signal or a [`Stopper`] stops a service in every state: it takes nothing more, handlers finish within
//! [`App::stop_max`], settles and receipts are flushed, and `run` returns. Timers that are not due are dropped.

mod app;
mod batch;
mod call;
mod context;
mod core;
mod dispatch;
mod extract;
mod fault;
mod handler;
pub mod kind;
mod request;
mod respond;
mod returned;
mod router;
mod run;
mod stop;
pub mod testing;
mod timer;
pub mod wire;

pub use app::App;
pub use batch::Entry;
pub use call::{Answer, CallError};
pub use context::{Context, Sent};
pub use extract::{
    Conversation, Correlation, FromRequest, Key, Lease, Manual, Payload, Rejection, Replier,
    ReplyTo, ResultStatus, State,
};
pub use fault::{BoxError, Ended, Fault, IntoFault};
pub use handler::Handler;
pub use request::{Environment, Request};
pub use respond::{IntoResponse, Response};
pub use returned::Returned;
pub use router::{Route, Router};
pub use stop::Stopper;
pub use timer::Timer;
pub use wire::{Format, Kind, Level, LogLine, Meta, Status};
