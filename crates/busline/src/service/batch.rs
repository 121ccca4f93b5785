//! Events that are handled together: collected until there are enough, or the first one is old enough.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busline_core::gate::ConfirmGate;
use busline_core::{Attempt, Outcome, PublishError, Result, new_message_id};
use bytestring::ByteString;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::context::Context;
use super::core::Core;
use super::dispatch;
use super::fault::{BoxError, Ended};
use super::handler::Erased;
use super::request::{Environment, Request};
use super::respond::Response;
use super::wire::{self, Meta};

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    /// The payload.
    pub payload: T,
    /// The conversation that the event is part of, as text: [`Context::in_conversation`] publishes in it.
    pub conversation: ByteString,
    /// What else came with it.
    pub meta: Meta,
    /// Which delivery of the event this is.
    pub attempt: Attempt,
}

/// When a batch is complete.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// With this many entries.
    pub(crate) entries_max: u32,
    /// Or when the first one has waited this long.
    pub(crate) age_max: Duration,
}

/// A handler of batches, in the place of one of messages.
pub(crate) fn erase<T, F, Fut>(bounds: Bounds, handler: F) -> Arc<dyn Erased>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(Vec<Entry<T>>, Context) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: Ended,
{
    let handler: Box<HandleBatch<T>> = Box::new(move |entries, context| {
        let handling = handler(entries, context);
        Box::pin(async move { handling.await.ended() })
    });
    Arc::new(Collecting(Arc::new(Collector { bounds, handler, forming: Mutex::default() })))
}

/// Something that a batch published is not stored: its events are tried again, for as long as that is so.
#[derive(Debug, Clone)]
pub(crate) struct Unstored(pub(crate) PublishError);

impl fmt::Display for Unstored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "what the batch published is not stored: {}", self.0)
    }
}

impl std::error::Error for Unstored {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

type HandleBatch<T> =
    dyn Fn(Vec<Entry<T>>, Context) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

struct Collecting<T>(Arc<Collector<T>>);

struct Collector<T> {
    bounds: Bounds,
    handler: Box<HandleBatch<T>>,
    /// At most one for each service that runs with this handler.
    forming: Mutex<Vec<Forming<T>>>,
}

/// A batch that is not complete yet.
struct Forming<T> {
    core: Arc<Core>,
    waiting: Vec<Waiting<T>>,
    /// To the task that handles it.
    complete: oneshot::Sender<Vec<Waiting<T>>>,
}

/// An entry, and who settles it.
struct Waiting<T> {
    entry: Entry<T>,
    handled: oneshot::Sender<Result<(), Failure>>,
}

/// Why a batch was not handled, for each of its events.
#[derive(Debug, Clone)]
enum Failure {
    Failed(String),
    Unstored(Unstored),
}

impl<T: DeserializeOwned + Send + 'static> Erased for Collecting<T> {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, BoxError>> {
        let collector = Arc::clone(&self.0);
        Box::pin(async move {
            let payload = match request.payload() {
                Ok(payload) => payload,
                Err(rejection) => return rejection.into_response(&request),
            };
            let entry = Entry {
                payload,
                conversation: request.incoming().conversation(),
                meta: request.incoming().meta.clone(),
                attempt: request.attempt(),
            };
            // What failed with others is tried alone, so that only what fails by itself is given up.
            if entry.attempt.number > 1 {
                (collector.handler)(vec![entry], request.context().clone()).await?;
                return Ok(Response::Done);
            }
            match collector.collect(entry, request.context().core()).await {
                Ok(Ok(())) => Ok(Response::Done),
                Ok(Err(Failure::Failed(why))) => Err(why.into()),
                Ok(Err(Failure::Unstored(unstored))) => Err(Box::new(unstored)),
                Err(_) => Err("the batch was not handled to its end".into()),
            }
        })
    }

    fn check(&self, _: &Environment) -> Result<()> {
        Ok(())
    }
}

impl<T: Send + 'static> Collector<T> {
    /// Adds an entry to the batch that forms; resolves when that is handled.
    fn collect(
        self: &Arc<Self>,
        entry: Entry<T>,
        core: &Arc<Core>,
    ) -> oneshot::Receiver<Result<(), Failure>> {
        let (handled, handling) = oneshot::channel();
        let waiting = Waiting { entry, handled };
        let mut forming = self.lock();
        let place = forming.iter().position(|forming| Arc::ptr_eq(&forming.core, core));
        let place = place.unwrap_or_else(|| {
            let (complete, completed) = oneshot::channel();
            forming.push(Forming { core: Arc::clone(core), waiting: Vec::new(), complete });
            core.spawn(Arc::clone(self).handle(Arc::clone(core), completed));
            forming.len() - 1
        });
        forming[place].waiting.push(waiting);
        if forming[place].waiting.len() >= self.bounds.entries_max as usize {
            let Forming { waiting, complete, .. } = forming.swap_remove(place);
            // Its task waits for this until it has it.
            drop(complete.send(waiting));
        }
        handling
    }

    /// Waits until a batch is complete, and handles it. A stop completes it too.
    async fn handle(
        self: Arc<Self>,
        core: Arc<Core>,
        mut completed: oneshot::Receiver<Vec<Waiting<T>>>,
    ) {
        let full = tokio::select! {
            biased;
            full = &mut completed => full.ok(),
            () = core.clock().sleep(self.bounds.age_max) => None,
            () = core.stopper.stopping() => None,
        };
        let waiting = full.unwrap_or_else(|| {
            let mut forming = self.lock();
            // It may have become full just now; then another one forms by now.
            completed.try_recv().unwrap_or_else(|_| {
                let place = forming.iter().position(|forming| Arc::ptr_eq(&forming.core, &core));
                place.map(|place| forming.swap_remove(place).waiting).unwrap_or_default()
            })
        });
        let (entries, handled): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.entry, waiting.handled)).unzip();
        let ended = self.run(&core, entries).await;
        for handled in handled {
            // It may have been given up meanwhile, by a layer.
            drop(handled.send(ended.clone()));
        }
    }

    async fn run(&self, core: &Arc<Core>, entries: Vec<Entry<T>>) -> Result<(), Failure> {
        let gate = ConfirmGate::new();
        let conversation = wire::Conversation::new(new_message_id());
        let context = Context::of_message(Arc::clone(core), gate.clone(), conversation, None);
        let handling = async { (self.handler)(entries, context.clone()).await };
        let handled = tokio::select! {
            biased;
            handled = AssertUnwindSafe(handling).catch_unwind() => handled,
            // What it holds is given back.
            () = core.stopper.ending() => return Err(Failure::Failed("the service ended".into())),
        };
        let handled = handled.unwrap_or_else(|panic| Err(dispatch::panicked(&*panic)));
        let mut unroutable = Vec::new();
        let verdict = gate.close(Outcome::Ack, None, |message| unroutable.push(message)).await;
        for message in unroutable {
            dispatch::returned(&context.detached(), message).await;
        }
        handled.map_err(|error| Failure::Failed(error.to_string()))?;
        verdict.failure.map_or(Ok(()), |failure| Err(Failure::Unstored(Unstored(failure))))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Forming<T>>> {
        self.forming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
