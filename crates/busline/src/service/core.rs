//! What all of a running service share: where it publishes, its tasks, and the calls that wait.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busline_core::transport::Batch;
use busline_core::{Clock, Error, ErrorKind, Message, PendingReceipt, Result};
use bytestring::ByteString;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::context::Context;
use super::returned::Returned;
use super::stop::Stopper;
use super::wire::{Format, Incoming};
use crate::bus::Bus;
use crate::publish::Publisher;

/// The states that were given, by their types, and the service's name.
#[derive(Clone, Default)]
pub struct Environment {
    service: String,
    states: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl Environment {
    pub(crate) fn new(service: String) -> Self {
        Self { service, states: HashMap::new() }
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    pub(crate) fn put<S: Send + Sync + 'static>(&mut self, state: S) {
        self.states.insert(TypeId::of::<S>(), Arc::new(state));
    }

    /// The state of this type; `NotFound` when none was given.
    pub fn state<S: Clone + Send + Sync + 'static>(&self) -> Result<S> {
        let state = self.states.get(&TypeId::of::<S>()).and_then(|state| state.downcast_ref::<S>());
        state.cloned().ok_or_else(|| {
            let name = std::any::type_name::<S>();
            Error::new(ErrorKind::NotFound, format!("there is no state of the type {name}"))
                .hint("give it to the app with `.state(…)`")
        })
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("service", &self.service).finish_non_exhaustive()
    }
}

/// What is mandatory unless a message says otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mandatory {
    pub(crate) events: bool,
    pub(crate) commands: bool,
    pub(crate) results: bool,
}

pub(crate) type ReturnedHandler =
    dyn Fn(Returned, Context) -> BoxFuture<'static, Result<(), super::BoxError>> + Send + Sync;

/// How many log lines may wait for the broker; what comes on top is dropped, as it would be where
/// nobody listens.
const LOGS_WAITING_MAX: usize = 1024;

pub(crate) struct Core {
    pub(crate) environment: Environment,
    pub(crate) format: Format,
    pub(crate) mandatory: Mandatory,
    pub(crate) stopper: Stopper,
    pub(crate) bus: Bus,
    pub(crate) returned: Option<Arc<ReturnedHandler>>,
    /// Sends to every topic: it is the message that names one.
    pub(crate) publisher: Publisher,
    pub(crate) tasks: Tasks,
    pub(crate) calls: Calls,
    logs: mpsc::Sender<Message>,
}

impl Core {
    /// The service's name.
    pub(crate) fn service(&self) -> &str {
        self.environment.service()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.bus.clock()
    }

    pub(crate) async fn send(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        self.publisher.send(batch).await
    }

    /// Sends a log line when there is room; never waits.
    pub(crate) fn log(&self, line: Message) {
        if self.logs.try_send(line).is_err() {
            tracing::warn!(
                service = self.service(),
                "a log line is dropped: the bus does not take it"
            );
        }
    }

    /// Runs a task that a stop waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.tasks.enter();
        tokio::spawn(async move {
            task.await;
            drop(running);
        });
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("service", &self.service()).finish_non_exhaustive()
    }
}

/// What a core is made of.
pub(crate) struct Parts {
    pub(crate) environment: Environment,
    pub(crate) format: Format,
    pub(crate) mandatory: Mandatory,
    pub(crate) stopper: Stopper,
    pub(crate) returned: Option<Arc<ReturnedHandler>>,
}

impl Parts {
    /// The core over a bus, and the log lines that it wants sent.
    pub(crate) fn over(
        self,
        bus: Bus,
        publisher: Publisher,
    ) -> (Arc<Core>, mpsc::Receiver<Message>) {
        let (logs, lines) = mpsc::channel(LOGS_WAITING_MAX);
        let Self { environment, format, mandatory, stopper, returned } = self;
        let core = Core {
            environment,
            format,
            mandatory,
            stopper,
            bus,
            returned,
            publisher,
            tasks: Tasks::default(),
            calls: Calls::default(),
            logs,
        };
        (Arc::new(core), lines)
    }
}

/// Counts what runs, so that a stop can wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(watch::Sender<usize>);

impl Default for Tasks {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Tasks {
    /// Counts until it is dropped.
    pub(crate) fn enter(&self) -> Running {
        self.0.send_modify(|running| *running += 1);
        Running(self.clone())
    }

    /// Resolves when nothing runs. Cancel safe.
    pub(crate) async fn quiet(&self) {
        // The sender is here: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|running| *running == 0).await;
    }
}

/// Something that runs.
#[derive(Debug)]
pub(crate) struct Running(Tasks);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.send_modify(|running| *running -= 1);
    }
}

/// The calls that wait for their results, by correlation id.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    waiting: Mutex<HashMap<ByteString, oneshot::Sender<Incoming>>>,
    /// The return key of this instance, once somebody called.
    pub(crate) return_key: tokio::sync::OnceCell<String>,
}

impl Calls {
    /// Waits for the result with this correlation id until the guard is dropped.
    pub(crate) fn wait(&self, id: ByteString) -> (oneshot::Receiver<Incoming>, Waiting<'_>) {
        let (sender, result) = oneshot::channel();
        self.lock().insert(id.clone(), sender);
        (result, Waiting { calls: self, id })
    }

    /// Hands a result to who waits for it, if anybody still does.
    pub(crate) fn resolve(&self, id: &str, result: Incoming) {
        let waiting = self.lock().remove(id);
        if let Some(waiting) = waiting {
            // It may have given up just now.
            drop(waiting.send(result));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ByteString, oneshot::Sender<Incoming>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a result.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    calls: &'a Calls,
    id: ByteString,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

/// Waits at most this long; `Elapsed` says what for.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = clock.sleep(limit) => {
            Err(Error::new(ErrorKind::Elapsed, format!("{what} did not come within {limit:?}")))
        }
    }
}
