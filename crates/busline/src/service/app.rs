//! The service as a program builds it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use busline_core::{GroupName, Result};
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tower_layer::Layer;
use tower_service::Service;

use super::batch::Entry;
use super::context::Context;
use super::core::{Environment, Mandatory, Parts, ReturnedHandler};
use super::fault::{BoxError, Ended};
use super::handler::Handler;
use super::kind;
use super::request::Request;
use super::respond::Response;
use super::returned::Returned;
use super::router::{Route, Router};
use super::run::{self, Hooks, Settings};
use super::stop::{Signals, Stopper};
use super::wire::Format;
use crate::bus::Bus;
use crate::config::BusConfig;

pub(super) type Hook = dyn Fn(Context) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// A service: a name, handlers, and what is to happen around them.
///
/// All instances of a name share its messages. See the [module](super) for an example.
#[must_use = "an app does nothing until it runs"]
pub struct App {
    router: Router,
    environment: Environment,
    format: Format,
    mandatory: Mandatory,
    settings: Settings,
    on_ready: Option<Arc<Hook>>,
    on_unconfigured: Option<Arc<Hook>>,
    returned: Option<Arc<ReturnedHandler>>,
    stopper: Stopper,
}

/// What an app does as its router does.
macro_rules! as_router {
    ($($(#[$doc:meta])* $name:ident($kind:ty $(, $key:ident)?);)*) => {$(
        $(#[$doc])*
        pub fn $name<A: 'static, H: Handler<$kind, A>>(mut self, $($key: &str,)? handler: H) -> Self {
            self.router = self.router.$name($($key,)? handler);
            self
        }
    )*};
}

impl App {
    /// A service of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            router: Router::new(),
            environment: Environment::new(name.into()),
            format: Format::Cbor,
            mandatory: Mandatory { events: false, commands: true, results: true },
            settings: Settings::default(),
            on_ready: None,
            on_unconfigured: None,
            returned: None,
            stopper: Stopper::new(),
        }
    }

    as_router! {
        /// See [`Router::event`].
        event(kind::Event, name);
        /// See [`Router::command`].
        command(kind::Command, name);
        /// See [`Router::result`].
        result(kind::CommandResult, name);
        /// See [`Router::configuration`].
        configuration(kind::Configuration, name);
        /// See [`Router::fallback_event`].
        fallback_event(kind::Event);
        /// See [`Router::fallback_command`].
        fallback_command(kind::Command);
        /// See [`Router::fallback_result`].
        fallback_result(kind::CommandResult);
        /// See [`Router::fallback_configuration`].
        fallback_configuration(kind::Configuration);
    }

    /// See [`Router::batch_event`].
    pub fn batch_event<T, F, Fut>(
        mut self,
        name: &str,
        entries_max: u32,
        age_max: Duration,
        handler: F,
    ) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Vec<Entry<T>>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Ended,
    {
        self.router = self.router.batch_event(name, entries_max, age_max, handler);
        self
    }

    /// See [`Router::bind_event`].
    pub fn bind_event(mut self, pattern: &str) -> Self {
        self.router = self.router.bind_event(pattern);
        self
    }

    /// See [`Router::bind_command`].
    pub fn bind_command(mut self, pattern: &str) -> Self {
        self.router = self.router.bind_command(pattern);
        self
    }

    /// See [`Router::bind_configuration`].
    pub fn bind_configuration(mut self, pattern: &str) -> Self {
        self.router = self.router.bind_configuration(pattern);
        self
    }

    /// Adds the handlers of a router.
    pub fn merge(mut self, router: Router) -> Self {
        self.router = self.router.merge(router);
        self
    }

    /// See [`Router::layer`].
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route>,
        L::Service: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Error: Into<BoxError>,
        <L::Service as Service<Request>>::Future: Send,
    {
        self.router = self.router.layer(layer);
        self
    }

    /// Gives a state to the handlers that take a [`State`](super::State) of its type.
    pub fn state<S: Clone + Send + Sync + 'static>(mut self, state: S) -> Self {
        self.environment.put(state);
        self
    }

    /// Runs this before the service takes its first event or command. When it fails it is tried again
    /// after 1, 2, … 30 seconds; nothing is taken before it succeeds. A connection that is lost and comes
    /// back does not run it again.
    pub fn on_ready<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Ended,
    {
        self.on_ready = Some(erase(hook));
        self
    }

    /// Runs this before the service waits to be configured, so that it can ask for it; as
    /// [`App::on_ready`] when it fails. It runs again after a lost connection, for what was published meanwhile did
    /// not come; the service goes on with the configuration that it has until another comes.
    pub fn on_unconfigured<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Ended,
    {
        self.on_unconfigured = Some(erase(hook));
        self
    }

    /// Gets the mandatory messages that nobody wanted. What it fails with is logged.
    pub fn returned<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Returned, Context) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Ended,
    {
        self.returned = Some(Arc::new(move |returned, context| {
            let handling = handler(returned, context);
            Box::pin(async move { handling.await.ended() })
        }));
        self
    }

    /// Writes payloads as JSON; as CBOR unless set. What comes says itself what it is.
    pub fn json(mut self) -> Self {
        self.format = Format::Json;
        self
    }

    /// How many unsettled events, and as many commands, it holds at most, handlers that run at the same
    /// time included; 64 unless set. Instances of other libraries that share the queue may hold less: each
    /// gets its turn as long as it has room.
    pub fn prefetch(mut self, messages: u32) -> Self {
        self.settings.prefetch = messages.max(1);
        self
    }

    /// How many handlers of events, and as many of commands, run at the same time; as many as
    /// [`App::prefetch`] unless set. With 1 messages are handled one after the other in the order in which
    /// they came.
    pub fn concurrency(mut self, handlers: u32) -> Self {
        self.settings.concurrency = Some(handlers.max(1));
        self
    }

    /// Gets every event and command itself, from now on and for as long as it runs, instead of sharing them
    /// with the other instances: for tools that watch.
    pub fn exclusive(mut self) -> Self {
        self.settings.exclusive = true;
        self
    }

    /// Whether events come back that no service wants; not unless set.
    pub fn mandatory_events(mut self, mandatory: bool) -> Self {
        self.mandatory.events = mandatory;
        self
    }

    /// Whether commands come back that no service takes; they do unless set.
    pub fn mandatory_commands(mut self, mandatory: bool) -> Self {
        self.mandatory.commands = mandatory;
        self
    }

    /// Whether results come back that nobody waits for; they do unless set.
    pub fn mandatory_results(mut self, mandatory: bool) -> Self {
        self.mandatory.results = mandatory;
        self
    }

    /// How long an event or command may be held, from its delivery until it is settled; as long as its process
    /// runs unless set. Then it is given to another instance, or comes again; [`Lease`](super::Lease) tells the handler.
    /// `Refused` where the bus knows no leases.
    pub fn hold_max(mut self, limit: Duration) -> Self {
        self.settings.hold_max = Some(limit);
        self
    }

    /// How long a stop waits for handlers that run; 10 s unless set. What is not settled then comes again.
    pub fn stop_max(mut self, limit: Duration) -> Self {
        self.settings.stop_max = limit;
        self
    }

    /// The name of the service.
    pub fn name(&self) -> &str {
        self.environment.service()
    }

    /// Tells when it is ready, after what it does then.
    pub(super) fn tell_ready(mut self, ready: mpsc::UnboundedSender<Context>) -> Self {
        let hook = self.on_ready.take();
        self.on_ready(move |context| {
            let (hook, ready) = (hook.clone(), ready.clone());
            async move {
                if let Some(hook) = hook {
                    hook(context.clone()).await?;
                }
                // Nobody may wait for it any more.
                drop(ready.send(context));
                Ok::<_, BoxError>(())
            }
        })
    }

    /// A handle that stops the service.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Opens the bus of a URL or a configuration and runs on it, see [`App::run`]; what cannot be reached yet is
    /// waited for, however long it takes: 1 s, 2 s, 3 s and so on between the attempts, 30 s at most.
    ///
    /// A broker that may start after its services, and services that are started without order, need nothing else.
    /// Errors that no waiting mends are returned at once: wrong credentials, a malformed URL, and those of [`App::run`].
    pub async fn serve(self, bus: impl Into<BusConfig>) -> Result<()> {
        let (signals, stopper) = (Signals::listen()?, self.stopper.clone());
        tokio::select! {
            result = self.serve_on(bus.into()) => result,
            () = signals.stop(&stopper) => Ok(()),
        }
    }

    /// As [`App::serve`], until the future resolves instead of a signal.
    pub async fn serve_until(
        self,
        bus: impl Into<BusConfig>,
        until: impl Future<Output = ()>,
    ) -> Result<()> {
        let stopper = self.stopper.clone();
        tokio::select! {
            result = self.serve_on(bus.into()) => result,
            () = stopper.stop_after(until) => Ok(()),
        }
    }

    /// Runs until it is stopped, by [`App::stopper`], SIGHUP, SIGTERM or SIGINT; the second time at once.
    ///
    /// It takes the bus over and closes it. Lost connections come back by themselves. `Ok` after a stop,
    /// whatever the service was doing when it was asked to. Errors: `Conflict` for two handlers of one key or
    /// a group that differs, `NotFound` for a state that nobody gave, `Refused` when the bus lacks a
    /// promise, and what else makes taking messages impossible for good. Dropped, it stops at once.
    pub async fn run(self, bus: Bus) -> Result<()> {
        let (signals, stopper) = (Signals::listen()?, self.stopper.clone());
        tokio::select! {
            result = self.run_on(bus) => result,
            () = signals.stop(&stopper) => Ok(()),
        }
    }

    /// As [`App::run`], until the future resolves instead of a signal.
    pub async fn run_until(self, bus: Bus, until: impl Future<Output = ()>) -> Result<()> {
        let stopper = self.stopper.clone();
        tokio::select! {
            result = self.run_on(bus) => result,
            () = stopper.stop_after(until) => Ok(()),
        }
    }

    async fn serve_on(self, config: BusConfig) -> Result<()> {
        // What is wrong with the app is said before anything is waited for.
        self.check()?;
        match run::reach(config, &self.stopper).await? {
            Some(bus) => self.run_on(bus).await,
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        GroupName::new(self.environment.service()).map(drop).map_err(|error| error.during("run"))
    }

    async fn run_on(self, bus: Bus) -> Result<()> {
        self.check()?;
        let router = self.router.resolved(&self.environment)?;
        let parts = Parts {
            environment: self.environment,
            format: self.format,
            mandatory: self.mandatory,
            stopper: self.stopper,
            returned: self.returned,
        };
        let hooks = Hooks { on_ready: self.on_ready, on_unconfigured: self.on_unconfigured };
        run::serve(bus, router, parts, hooks, self.settings).await
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.environment.service())
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

fn erase<F, Fut>(hook: F) -> Arc<Hook>
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: Ended,
{
    Arc::new(move |context| {
        let running = hook(context);
        Box::pin(async move { running.await.ended() })
    })
}
