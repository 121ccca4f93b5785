//! A service that runs: it starts, is configured, becomes ready, and stops in every state.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Dialect, OnDifference};
use busline_core::{Capability, Message, Patterns, Result, Support};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::{Semaphore, mpsc, watch};

use super::app::Hook;
use super::context::Context;
use super::core::{Core, Parts, Tasks};
use super::dispatch;
use super::router::Router;
use super::wire::{self, Kind, Level};
use crate::bus::Bus;
use crate::consume::{Consumer, GroupBuilder};
use crate::publish::Publisher;

/// The bound on attempts that ends what kills its process each time; a handler that fails is given up
/// after two.
const ATTEMPTS_MAX: u32 = 20;

/// How a service takes messages.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) prefetch: u32,
    pub(super) concurrency: Option<u32>,
    pub(super) exclusive: bool,
    pub(super) stop_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefetch: 64,
            concurrency: None,
            exclusive: false,
            stop_max: Duration::from_secs(10),
        }
    }
}

/// What is run around the messages.
pub(super) struct Hooks {
    pub(super) on_ready: Option<Arc<Hook>>,
    pub(super) on_unconfigured: Option<Arc<Hook>>,
}

/// Runs a service until it is stopped, and closes the bus.
pub(super) async fn serve(
    given: Bus,
    router: Router,
    parts: Parts,
    hooks: Hooks,
    settings: Settings,
) -> Result<()> {
    let bus = given.in_dialect(Dialect::Eventail)?;
    let (stopper, stop_max) = (parts.stopper.clone(), settings.stop_max);
    let starting = Service::start(bus.clone(), router, parts, hooks, settings);
    let started = tokio::select! {
        biased;
        () = stopper.stopping() => None,
        started = starting => Some(started?),
    };
    let served = match started {
        Some((service, lines)) => service.run(lines).await,
        None => Ok(()),
    };
    // What was settled and published is flushed here; what cannot be within the time comes again.
    for bus in [bus, given] {
        let closed = tokio::select! {
            closed = bus.close(stop_max) => closed,
            () = stopper.ending() => Ok(()),
        };
        if let Err(error) = closed {
            tracing::warn!(%error, "the bus is closed before everything was settled");
        }
    }
    served
}

struct Service {
    core: Arc<Core>,
    router: Arc<Router>,
    hooks: Hooks,
    settings: Settings,
    events: Option<Patterns>,
    commands: Option<Patterns>,
    configurations: Option<Patterns>,
    /// Whether the bus bounds attempts.
    bounded: bool,
}

impl Service {
    /// Declares everything: from here on no message is missed.
    async fn start(
        bus: Bus,
        router: Router,
        parts: Parts,
        hooks: Hooks,
        settings: Settings,
    ) -> Result<(Self, mpsc::Receiver<Message>)> {
        let [events, commands, configurations] =
            [Kind::Event, Kind::Command, Kind::Configuration].map(|kind| router.patterns(kind));
        let (events, commands, configurations) = (events?, commands?, configurations?);
        for kind in [Kind::Command, Kind::Configuration, Kind::Log] {
            bus.publisher(wire::topic(kind)).await?;
        }
        let publisher = bus.publisher(wire::topic(Kind::Event)).await?;
        let limit = bus.capabilities().await?.get(Capability::RetryLimit);
        let (core, lines) = parts.over(bus, publisher);
        let service = Self {
            core,
            router: Arc::new(router),
            hooks,
            settings,
            events,
            commands,
            configurations,
            bounded: !matches!(limit, Support::Refused(_)),
        };
        if !service.settings.exclusive {
            for (kind, patterns) in service.business() {
                service.group(kind, patterns)?.declare().await?;
            }
        }
        Ok((service, lines))
    }

    async fn run(self, lines: mpsc::Receiver<Message>) -> Result<()> {
        let core = Arc::clone(&self.core);
        let (flush, flushing) = watch::channel(false);
        let logging = tokio::spawn(send_lines(core.publisher.clone(), lines, flushing));
        let stopping = async {
            core.stopper.stopping().await;
            context(&core).log(Level::WARNING, "Shutting down…");
            core.clock().sleep(self.settings.stop_max).await;
            core.stopper.end();
            std::future::pending().await
        };
        let served = tokio::select! {
            // In this order, so that the line is logged however quickly there is nothing left to do.
            biased;
            never = stopping => never,
            served = self.live() => served,
        };
        if served.is_err() {
            core.stopper.stop();
        }
        tokio::select! {
            () = core.tasks.quiet() => {}
            () = core.stopper.ending() => {}
            () = core.clock().sleep(self.settings.stop_max) => {}
        }
        core.stopper.end();
        // Nobody listens for the end of a log that the bus does not take.
        flush.send_replace(true);
        tokio::select! {
            _ = logging => {}
            () = core.clock().sleep(LOGS_FLUSH_MAX) => {}
        }
        served
    }

    /// Until it is stopped, or a message can never be taken again.
    async fn live(&self) -> Result<()> {
        let Some(configurations) = &self.configurations else { return self.ready().await };
        let configured = watch::Sender::new(false);
        let consumer = self.broadcast(Kind::Configuration, configurations, 1).await?;
        let configuring = self.pump(Kind::Configuration, consumer, 1, Some(configured.clone()));
        let business = async {
            if !self.hook(self.hooks.on_unconfigured.as_ref()).await {
                return Ok(());
            }
            let mut configured = configured.subscribe();
            tokio::select! {
                () = self.core.stopper.stopping() => return Ok(()),
                _ = configured.wait_for(|configured| *configured) => {}
            }
            self.ready().await
        };
        both(configuring, business).await
    }

    /// Takes events and commands.
    async fn ready(&self) -> Result<()> {
        if !self.hook(self.hooks.on_ready.as_ref()).await {
            return Ok(());
        }
        let prefetch = self.settings.prefetch;
        let concurrency = self.settings.concurrency.unwrap_or(prefetch);
        let mut pumps = FuturesUnordered::new();
        for (kind, patterns) in self.business() {
            let joining = async {
                if self.settings.exclusive {
                    return self.broadcast(kind, patterns, prefetch).await;
                }
                self.group(kind, patterns)?.max_in_flight(prefetch).join().await
            };
            let consumer = tokio::select! {
                () = self.core.stopper.stopping() => return Ok(()),
                consumer = joining => consumer?,
            };
            pumps.push(self.pump(kind, consumer, concurrency, None));
        }
        if pumps.is_empty() {
            self.core.stopper.stopping().await;
        }
        let mut ended = Ok(());
        while let Some(pumped) = pumps.next().await {
            if ended.is_ok() && pumped.is_err() {
                // The others stop too.
                self.core.stopper.stop();
                ended = pumped;
            }
        }
        ended
    }

    /// Runs a hook until it succeeds; false when the service was stopped before.
    async fn hook(&self, hook: Option<&Arc<Hook>>) -> bool {
        let Some(hook) = hook else { return !self.core.stopper.is_stopping() };
        let mut failures = 0;
        loop {
            let context = context(&self.core);
            let ended = tokio::select! {
                biased;
                () = self.core.stopper.stopping() => return false,
                ended = AssertUnwindSafe(async { hook(context.clone()).await }).catch_unwind() => {
                    ended.unwrap_or_else(|panic| Err(dispatch::panicked(&*panic)))
                }
            };
            let Err(error) = ended else { return true };
            dispatch::failed(&context, "a hook of the service", &error);
            failures = 30.min(failures + 1);
            tokio::select! {
                () = self.core.stopper.stopping() => return false,
                () = self.core.clock().sleep(Duration::from_secs(failures)) => {}
            }
        }
    }

    /// Takes messages until the service stops and what it took is handled.
    async fn pump(
        &self,
        kind: Kind,
        mut consumer: Consumer,
        concurrency: u32,
        configured: Option<watch::Sender<bool>>,
    ) -> Result<()> {
        let core = &self.core;
        let places = Arc::new(Semaphore::new(concurrency as usize));
        let handlers = Tasks::default();
        let ended = loop {
            let taking = async {
                // It is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, consumer.next().await)
            };
            let (place, next) = tokio::select! {
                biased;
                () = core.stopper.stopping() => break Ok(()),
                taken = taking => taken,
            };
            let delivery = match next {
                Ok(Some(delivery)) => delivery,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let (core, router) = (Arc::clone(core), Arc::clone(&self.router));
            let (running, configured) = (handlers.enter(), configured.clone());
            tokio::spawn(async move {
                let is_configured = dispatch::handle(&core, &router, kind, delivery).await;
                if let (true, Some(configured)) = (is_configured, configured) {
                    configured.send_replace(true);
                }
                drop((running, place));
            });
        };
        // What was fetched and not begun goes back at once.
        drop(consumer);
        tokio::select! {
            () = handlers.quiet() => {}
            () = core.stopper.ending() => {}
        }
        ended
    }

    fn business(&self) -> impl Iterator<Item = (Kind, &Patterns)> {
        let both = [(Kind::Event, &self.events), (Kind::Command, &self.commands)];
        both.into_iter().filter_map(|(kind, patterns)| Some((kind, patterns.as_ref()?)))
    }

    fn group(&self, kind: Kind, patterns: &Patterns) -> Result<GroupBuilder> {
        // Patterns are added and never taken away, so that instances of two versions can run at once.
        let group = self.core.bus.group(wire::topic(kind), self.core.service())?;
        Ok(group
            .patterns(patterns.clone())
            .on_difference(OnDifference::Add)
            .attempts_max(self.bounded.then_some(ATTEMPTS_MAX)))
    }

    async fn broadcast(&self, kind: Kind, patterns: &Patterns, prefetch: u32) -> Result<Consumer> {
        let broadcast = self.core.bus.broadcast(wire::topic(kind))?;
        broadcast.patterns(patterns.clone()).max_in_flight(prefetch).subscribe().await
    }
}

/// How long a stop waits for the last log lines.
const LOGS_FLUSH_MAX: Duration = Duration::from_secs(1);

/// Sends log lines, without waiting for receipts; at the end those that are left.
async fn send_lines(
    publisher: Publisher,
    mut lines: mpsc::Receiver<Message>,
    mut flushing: watch::Receiver<bool>,
) {
    loop {
        let line = tokio::select! {
            biased;
            line = lines.recv() => line,
            _ = flushing.wait_for(|flushing| *flushing), if !lines.is_closed() => {
                lines.close();
                continue;
            }
        };
        let Some(line) = line else { return };
        if let Err(error) = publisher.send(vec![line]).await {
            tracing::warn!(%error, "a log line is not sent");
        }
    }
}

/// Runs both to their ends; an error of either ends both.
async fn both(
    one: impl Future<Output = Result<()>>,
    other: impl Future<Output = Result<()>>,
) -> Result<()> {
    futures_util::future::try_join(one, other).await.map(drop)
}

fn context(core: &Arc<Core>) -> Context {
    Context::of_service(Arc::clone(core))
}
