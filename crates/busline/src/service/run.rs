//! A service that runs: it starts, is configured, becomes ready, and stops in every state.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Dialect, OnDifference};
use busline_core::{
    Capability, Error, ErrorKind, Lease, Message, Patterns, Result, Support, SystemClock,
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::sync::{Semaphore, mpsc, watch};

use super::app::Hook;
use super::context::Context;
use super::core::{Core, Parts, Tasks};
use super::dispatch;
use super::router::Router;
use super::stop::Stopper;
use super::wire::{self, Kind, Level};
use crate::bus::Bus;
use crate::config::BusConfig;
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
    pub(super) hold_max: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prefetch: 64,
            concurrency: None,
            exclusive: false,
            stop_max: Duration::from_secs(10),
            hold_max: None,
        }
    }
}

impl Settings {
    /// Whether a batch of this many can be complete by what is held and handled at once.
    fn carry(&self, entries_max: u32) -> Result<()> {
        let at_once = self.concurrency.unwrap_or(self.prefetch).min(self.prefetch);
        if entries_max <= at_once {
            return Ok(());
        }
        let what = format!(
            "a batch of {entries_max} events would never be full: {at_once} are handled at once"
        );
        Err(Error::new(ErrorKind::Conflict, what).hint(
            "raise `.prefetch(…)` and `.concurrency(…)` to twice that, or take smaller batches",
        ))
    }
}

/// What is run around the messages.
pub(super) struct Hooks {
    pub(super) on_ready: Option<Arc<Hook>>,
    pub(super) on_unconfigured: Option<Arc<Hook>>,
}

/// The most seconds between two attempts to reach the bus; each failure in a row makes it one more.
const REACH_PAUSE_S_MAX: u64 = 30;

/// Opens the bus as soon as it can be reached; `None` when the service was stopped before.
pub(super) async fn reach(mut config: BusConfig, stopper: &Stopper) -> Result<Option<Bus>> {
    let clock = SystemClock::shared();
    let mut failures = 0;
    loop {
        let opened = tokio::select! {
            biased;
            () = stopper.stopping() => return Ok(None),
            opened = Bus::connect_with_clock(config.clone(), Arc::clone(&clock)) => opened,
        };
        match opened {
            Ok(bus) => return Ok(Some(bus)),
            Err(error) if !error.is_temporary() => return Err(error),
            Err(error) => {
                failures = REACH_PAUSE_S_MAX.min(failures + 1);
                tracing::warn!(%error, again_s = failures, "the bus cannot be reached yet");
                // One step in the list an attempt.
                config.urls.rotate_left(1);
            }
        }
        tokio::select! {
            biased;
            () = stopper.stopping() => return Ok(None),
            () = clock.sleep(Duration::from_secs(failures)) => {}
        }
    }
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
    let stopper = parts.stopper.clone();
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
            biased;
            () = stopper.ending() => Ok(()),
            closed = bus.close(CLOSE_MAX) => closed,
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
        settings.carry(router.batch_entries_max())?;
        for kind in [Kind::Command, Kind::Configuration, Kind::Log] {
            bus.publisher(wire::topic(kind)).await?;
        }
        let publisher = bus.publisher(wire::topic(Kind::Event)).await?;
        let capabilities = bus.capabilities().await?;
        if settings.hold_max.is_some() && capabilities.lease == Lease::None {
            return Err(Error::new(
                ErrorKind::Refused,
                "this bus has no leases that could run out",
            )
            .hint("leave `.hold_max(…)` out, or bound handlers with a layer"));
        }
        let limit = capabilities.get(Capability::RetryLimit);
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
            () = core.tasks.quiet() => core.stopper.finish(),
            () = core.stopper.ending() => {}
            () = core.clock().sleep(self.settings.stop_max) => core.stopper.end(),
        }
        flush.send_replace(true);
        tokio::select! {
            _ = logging => {}
            // A bus that does not take them takes nothing else either.
            () = core.clock().sleep(LOGS_FLUSH_MAX) => core.stopper.end(),
        }
        served
    }

    /// Until it is stopped, or a message can never be taken again.
    async fn live(&self) -> Result<()> {
        // Tools must not miss what comes while they wait to be ready.
        let mut own = Vec::new();
        if self.settings.exclusive {
            for (kind, patterns) in self.business() {
                own.push(self.join(kind, patterns).await?);
            }
        }
        let Some(configurations) = &self.configurations else { return self.ready(own).await };
        let (configured, missed) = (watch::Sender::new(false), watch::Sender::new(0));
        let consumer = self.join(Kind::Configuration, configurations).await?;
        let told = Told { configured: configured.clone(), missed: missed.clone() };
        let configuring = self.take(Kind::Configuration, configurations, consumer, Some(told));
        let business = async {
            let (mut configured, mut missed) = (configured.subscribe(), missed.subscribe());
            if !self.hook(self.hooks.on_unconfigured.as_ref()).await {
                return Ok(());
            }
            let asking = async {
                while missed.changed().await.is_ok() {
                    self.hook(self.hooks.on_unconfigured.as_ref()).await;
                }
                std::future::pending().await
            };
            let working = async {
                tokio::select! {
                    () = self.core.stopper.stopping() => return Ok(()),
                    _ = configured.wait_for(|configured| *configured) => {}
                }
                self.ready(own).await
            };
            tokio::select! {
                worked = working => worked,
                never = asking => never,
            }
        };
        both(configuring, business).await
    }

    /// Takes events and commands, with consumers that are there already or with new ones.
    async fn ready(&self, own: Vec<Consumer>) -> Result<()> {
        if !self.hook(self.hooks.on_ready.as_ref()).await {
            return Ok(());
        }
        let mut own = own.into_iter();
        let mut pumps = FuturesUnordered::new();
        for (kind, patterns) in self.business() {
            let consumer = match own.next() {
                Some(consumer) => consumer,
                None => tokio::select! {
                    () = self.core.stopper.stopping() => return Ok(()),
                    consumer = self.join(kind, patterns) => consumer?,
                },
            };
            pumps.push(self.take(kind, patterns, consumer, None));
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

    /// Takes messages until the service stops; what they come by is declared anew when somebody deleted it.
    async fn take(
        &self,
        kind: Kind,
        patterns: &Patterns,
        mut consumer: Consumer,
        told: Option<Told>,
    ) -> Result<()> {
        loop {
            let deleted = match self.pump(kind, consumer, told.as_ref()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => error,
                ended => return ended,
            };
            tracing::warn!(%kind, error = %deleted, "declared anew, as somebody deleted it; what was in it is lost");
            let again = async {
                // Who deletes it each time is not to be outrun.
                self.core.clock().sleep(REDECLARE_AFTER).await;
                if !self.is_broadcast(kind) {
                    self.group(kind, patterns)?.declare().await?;
                }
                self.join(kind, patterns).await
            };
            consumer = tokio::select! {
                () = self.core.stopper.stopping() => return Ok(()),
                joined = again => joined?,
            };
            if let Some(told) = &told {
                told.missed.send_modify(|times| *times += 1);
            }
        }
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
    async fn pump(&self, kind: Kind, mut consumer: Consumer, told: Option<&Told>) -> Result<()> {
        let core = &self.core;
        let prefetch = self.prefetch(kind);
        let concurrency = self.settings.concurrency.unwrap_or(prefetch).min(prefetch);
        let mut openings = consumer.openings();
        openings.mark_unchanged();
        let places = Arc::new(Semaphore::new(concurrency as usize));
        let handlers = Tasks::default();
        // Batches are made in the order in which their events came.
        let in_order = kind == Kind::Event && self.router.batch_entries_max() > 0;
        let ended = loop {
            let taking = async {
                // It is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, consumer.next().await)
            };
            let (place, next) = tokio::select! {
                biased;
                () = core.stopper.stopping() => break Ok(()),
                _ = openings.changed(), if told.is_some() => {
                    told.inspect(|told| told.missed.send_modify(|times| *times += 1));
                    continue;
                }
                taken = taking => taken,
            };
            let delivery = match next {
                Ok(Some(delivery)) => delivery,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let (core, router) = (Arc::clone(core), Arc::clone(&self.router));
            let (running, configured) =
                (handlers.enter(), told.map(|told| told.configured.clone()));
            let mut handling = Box::pin(async move {
                let is_configured = dispatch::handle(&core, &router, kind, delivery).await;
                if let (true, Some(configured)) = (is_configured, configured) {
                    configured.send_replace(true);
                }
                drop((running, place));
            });
            if !in_order || (&mut handling).now_or_never().is_none() {
                tokio::spawn(handling);
            }
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

    /// Whether every instance gets its own copies.
    fn is_broadcast(&self, kind: Kind) -> bool {
        self.settings.exclusive || kind == Kind::Configuration
    }

    /// Configurations come one after the other.
    fn prefetch(&self, kind: Kind) -> u32 {
        if kind == Kind::Configuration { 1 } else { self.settings.prefetch }
    }

    async fn join(&self, kind: Kind, patterns: &Patterns) -> Result<Consumer> {
        let prefetch = self.prefetch(kind);
        if !self.is_broadcast(kind) {
            let mut group = self.group(kind, patterns)?.max_in_flight(prefetch);
            if let Some(hold_max) = self.settings.hold_max {
                group = group.hold_max(hold_max);
            }
            return group.join().await;
        }
        let broadcast = self.core.bus.broadcast(wire::topic(kind))?;
        broadcast.patterns(patterns.clone()).max_in_flight(prefetch).subscribe().await
    }
}

/// What configurations do to a service.
struct Told {
    /// That it has one that suffices.
    configured: watch::Sender<bool>,
    /// How often some may not have come.
    missed: watch::Sender<u64>,
}

/// How soon what was deleted is declared again.
const REDECLARE_AFTER: Duration = Duration::from_secs(1);

/// How long closing may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);

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
