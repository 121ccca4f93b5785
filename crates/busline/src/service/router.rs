//! Which handler a message goes to.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use busline_core::{Error, ErrorKind, KeyPattern, Patterns, Result};
use futures_util::future::{self, BoxFuture};
use serde::de::DeserializeOwned;
use tower_layer::Layer;
use tower_service::Service;

use super::batch::{self, Bounds, Entry};
use super::fault::{BoxError, Ended};
use super::handler::{Erased, Handler, erase};
use super::kind;
use super::request::{Environment, Request};
use super::respond::Response;
use super::wire::Kind;

/// Handlers by kind and routing key, to be merged into an [`App`](super::App) or another router.
///
/// Mistakes, as two handlers of one key, are told when the service starts.
#[derive(Clone, Default)]
#[must_use = "a router does nothing until it is merged into an app"]
pub struct Router {
    routes: HashMap<(Kind, String), Route>,
    fallbacks: HashMap<Kind, Route>,
    bindings: Vec<(Kind, String)>,
    /// The size of the largest batch.
    batch_entries_max: u32,
    /// What was wrong first, to be told when the service starts.
    mistake: Option<Error>,
}

impl Router {
    /// Without handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles the events of this name.
    pub fn event<A: 'static, H: Handler<kind::Event, A>>(self, name: &str, handler: H) -> Self {
        self.named(Kind::Event, name, erase(handler))
    }

    /// Handles the events of this name together, as many as `entries_max` (1 or more) at once, or those that are
    /// there when the first one has waited for `age_max`, or the service stops.
    ///
    /// All events of a batch are acknowledged when the handler has succeeded and all that it published with its
    /// context is stored. When it fails, each is tried once more alone, and dead lettered when that fails: only
    /// what fails by itself is given up. So an event that was delivered before, for whatever reason, comes alone.
    /// The context has a conversation of its own; each [`Entry`] says the one that it belongs to. Entries stand in the
    /// order in which they came. A payload that is no `T` is dead lettered by itself. Layers see each event.
    ///
    /// Several batches can be handled at once. The service must be able to hold one
    /// ([`App::prefetch`](super::App::prefetch), and [`App::concurrency`](super::App::concurrency) where it is
    /// set): it does not start otherwise (`Conflict`).
    pub fn batch_event<T, F, Fut>(
        mut self,
        name: &str,
        entries_max: u32,
        age_max: Duration,
        handler: F,
    ) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Vec<Entry<T>>, super::Context) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Ended,
    {
        if entries_max == 0 {
            let what = format!("batches of the event {name} are to have no entries");
            self.mistaken(Error::new(ErrorKind::Limit, what).hint("allow 1 or more"));
        }
        self.batch_entries_max = self.batch_entries_max.max(entries_max);
        let bounds = Bounds { entries_max, age_max };
        self.named(Kind::Event, name, batch::erase(bounds, handler))
    }

    /// Handles a command: `Name`, which callers send as `service.Name`, or a whole key with dots.
    pub fn command<A: 'static, H: Handler<kind::Command, A>>(self, name: &str, handler: H) -> Self {
        self.named(Kind::Command, name, erase(handler))
    }

    /// Handles results of commands that were sent with this return key: `Name` for `service.Name`,
    /// or a whole key with dots.
    pub fn result<A: 'static, H: Handler<kind::CommandResult, A>>(
        self,
        name: &str,
        handler: H,
    ) -> Self {
        self.named(Kind::Result, name, erase(handler))
    }

    /// Handles the configurations of this name. A service with one of these takes events and
    /// commands only after one has given `true`.
    pub fn configuration<A: 'static, H: Handler<kind::Configuration, A>>(
        self,
        name: &str,
        handler: H,
    ) -> Self {
        self.named(Kind::Configuration, name, erase(handler))
    }

    /// Handles the events that no named handler takes, of patterns bound by [`Router::bind_event`].
    pub fn fallback_event<A: 'static, H: Handler<kind::Event, A>>(self, handler: H) -> Self {
        self.fallback(Kind::Event, erase(handler))
    }

    /// Handles the commands that no named handler takes, of patterns bound by
    /// [`Router::bind_command`].
    pub fn fallback_command<A: 'static, H: Handler<kind::Command, A>>(self, handler: H) -> Self {
        self.fallback(Kind::Command, erase(handler))
    }

    /// Handles the results that no named handler takes, of patterns bound by
    /// [`Router::bind_command`]: commands and results travel together.
    pub fn fallback_result<A: 'static, H: Handler<kind::CommandResult, A>>(
        self,
        handler: H,
    ) -> Self {
        self.fallback(Kind::Result, erase(handler))
    }

    /// Handles the configurations that no named handler takes, of patterns bound by
    /// [`Router::bind_configuration`].
    pub fn fallback_configuration<A: 'static, H: Handler<kind::Configuration, A>>(
        self,
        handler: H,
    ) -> Self {
        self.fallback(Kind::Configuration, erase(handler))
    }

    /// Gets events of this pattern too (`*` is one word, `#` any number); what no handler takes goes
    /// to the fallback, and without one to the dead letters.
    pub fn bind_event(self, pattern: &str) -> Self {
        self.bind(Kind::Event, pattern)
    }

    /// As [`Router::bind_event`], for commands and results; the pattern is of whole keys.
    pub fn bind_command(self, pattern: &str) -> Self {
        self.bind(Kind::Command, pattern)
    }

    /// As [`Router::bind_event`], for configurations.
    pub fn bind_configuration(self, pattern: &str) -> Self {
        self.bind(Kind::Configuration, pattern)
    }

    /// Adds everything of another router.
    pub fn merge(mut self, other: Self) -> Self {
        for ((kind, name), route) in other.routes {
            self = self.routed(kind, name, route);
        }
        for (kind, route) in other.fallbacks {
            if self.fallbacks.insert(kind, route).is_some() {
                self.mistaken(twice(&format!("{kind} fallback")));
            }
        }
        self.bindings.extend(other.bindings);
        self.batch_entries_max = self.batch_entries_max.max(other.batch_entries_max);
        if let Some(mistake) = other.mistake {
            self.mistaken(mistake);
        }
        self
    }

    /// Wraps every handler that is here by now in a layer; the last one added is outermost.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route>,
        L::Service: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Error: Into<BoxError>,
        <L::Service as Service<Request>>::Future: Send,
    {
        for route in self.routes.values_mut().chain(self.fallbacks.values_mut()) {
            let service = layer.layer(route.clone());
            *route = Route(Arc::new(Layered { service, inner: route.clone() }));
        }
        self
    }

    /// The handler of a message. The keys of commands and results are whole: see
    /// [`Router::resolved`].
    pub(crate) fn route(&self, kind: Kind, key: &str) -> Option<&Route> {
        // Looked up without making a key of it: services have few handlers, and many messages.
        let named = self.routes.iter().find(|((of, name), _)| *of == kind && name == key);
        named.map(|(_, route)| route).or_else(|| self.fallbacks.get(&kind))
    }

    /// With the keys of commands and results made whole, every mistake told, and every argument of
    /// every handler looked for.
    pub(crate) fn resolved(mut self, environment: &Environment) -> Result<Self> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        let service = environment.service();
        let whole = |kind: Kind, name: String| match kind {
            Kind::Command | Kind::Result if !name.contains('.') => format!("{service}.{name}"),
            _ => name,
        };
        let routes = self.routes.into_iter();
        self.routes =
            routes.map(|((kind, name), route)| ((kind, whole(kind, name)), route)).collect();
        for ((kind, name), route) in &self.routes {
            route
                .0
                .check(environment)
                .map_err(|error| error.context("handler", format!("{kind} {name}")))?;
        }
        for (kind, route) in &self.fallbacks {
            route
                .0
                .check(environment)
                .map_err(|error| error.context("handler", format!("fallback of {kind}")))?;
        }
        Ok(self)
    }

    /// How many events the largest batch has; 0 without batches.
    pub(crate) fn batch_entries_max(&self) -> u32 {
        self.batch_entries_max
    }

    /// What to bind on the topic of a kind, where there is anything; commands and results share one.
    pub(crate) fn patterns(&self, kind: Kind) -> Result<Option<Patterns>> {
        let topic = |kind| if kind == Kind::Result { Kind::Command } else { kind };
        let named = self.routes.keys().map(|(kind, name)| (*kind, name));
        let bound = self.bindings.iter().map(|(kind, pattern)| (*kind, pattern));
        let patterns: Result<Vec<_>> = named
            .chain(bound)
            .filter(|(of, _)| topic(*of) == kind)
            .map(|(_, pattern)| KeyPattern::try_from(pattern.as_str()))
            .collect();
        let patterns = patterns?;
        Ok((!patterns.is_empty()).then(|| Patterns::new(patterns)))
    }

    fn named(self, kind: Kind, name: &str, handler: Arc<dyn Erased>) -> Self {
        self.routed(kind, name.to_owned(), Route(handler))
    }

    fn routed(mut self, kind: Kind, name: String, route: Route) -> Self {
        let what = format!("{kind} {name}");
        if self.routes.insert((kind, name), route).is_some() {
            self.mistaken(twice(&what));
        }
        self
    }

    fn fallback(mut self, kind: Kind, handler: Arc<dyn Erased>) -> Self {
        if self.fallbacks.insert(kind, Route(handler)).is_some() {
            self.mistaken(twice(&format!("{kind} fallback")));
        }
        self
    }

    fn bind(mut self, kind: Kind, pattern: &str) -> Self {
        self.bindings.push((kind, pattern.to_owned()));
        self
    }

    fn mistaken(&mut self, mistake: Error) {
        self.mistake.get_or_insert(mistake);
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut routes: Vec<_> =
            self.routes.keys().map(|(kind, name)| format!("{kind} {name}")).collect();
        routes.sort_unstable();
        f.debug_struct("Router")
            .field("routes", &routes)
            .field("fallbacks", &self.fallbacks.keys())
            .field("bindings", &self.bindings)
            .finish()
    }
}

/// A handler with its layers, as a tower service.
#[derive(Clone)]
pub struct Route(Arc<dyn Erased>);

impl Service<Request> for Route {
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.handle(request)
    }
}

impl Route {
    pub(crate) fn handle(
        &self,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, BoxError>> {
        self.0.call(request)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// A layer's service; it is asked whether it is ready before each message.
struct Layered<S> {
    service: S,
    inner: Route,
}

impl<S> Erased for Layered<S>
where
    S: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Response, BoxError>> {
        let mut service = self.service.clone();
        Box::pin(async move {
            future::poll_fn(|context| service.poll_ready(context)).await.map_err(Into::into)?;
            service.call(request).await.map_err(Into::into)
        })
    }

    fn check(&self, environment: &Environment) -> Result<()> {
        self.inner.0.check(environment)
    }
}

fn twice(what: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("{what} has two handlers"))
        .hint("give one handler to each key")
}
