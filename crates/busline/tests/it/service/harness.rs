//! A service that runs beside the test, and a caller.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use busline::service::wire::{Incoming, decode, topic};
use busline::service::{App, Context, Kind, Level, Stopper};
use busline::{Bus, Consumer, Message, Result};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::harness::DEADLINE;

/// A bus in memory of a test's own, and how many open it.
pub(crate) struct World {
    url: String,
    _kept: Bus,
}

/// A service that runs.
pub(crate) struct Running {
    stopper: Stopper,
    task: JoinHandle<Result<()>>,
}

/// What a test sees and says: an app without handlers of its own.
pub(crate) struct Probe {
    pub(crate) context: Context,
    running: Running,
}

/// What somebody sent to one topic.
pub(crate) struct Tap(Consumer);

impl World {
    pub(crate) async fn in_memory() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::at(format!("memory:service-{count}")).await
    }

    pub(crate) async fn at(url: String) -> Self {
        let kept = Bus::open(&url).await.unwrap();
        Self { url, _kept: kept }
    }

    pub(crate) async fn bus(&self) -> Bus {
        Bus::open(&self.url).await.unwrap()
    }

    /// Starts a service and waits until it is ready.
    pub(crate) async fn start(&self, app: App) -> Running {
        self.start_with(app).await.0
    }

    /// As [`World::start`], with its context.
    async fn start_with(&self, app: App) -> (Running, Context) {
        let (ready, mut readiness) = mpsc::unbounded_channel();
        let app = app.on_ready(move |context: Context| {
            ready.send(context).unwrap();
            async {}
        });
        let running = self.start_unready(app).await;
        let context = soon("a service that is ready", readiness.recv()).await.unwrap();
        (running, context)
    }

    pub(crate) async fn start_unready(&self, app: App) -> Running {
        let stopper = app.stopper();
        let bus = self.bus().await;
        let task = tokio::spawn(app.run_until(bus, std::future::pending()));
        Running { stopper, task }
    }

    pub(crate) async fn probe(&self, name: &str) -> Probe {
        self.probe_of(App::new(name)).await
    }

    pub(crate) async fn probe_of(&self, app: App) -> Probe {
        let (running, context) = self.start_with(app).await;
        Probe { context, running }
    }

    /// Hears everything that is sent to a topic from now on.
    pub(crate) async fn tap(&self, topic: &str) -> Tap {
        Tap(self.bus().await.broadcast(topic).unwrap().subscribe().await.unwrap())
    }
}

impl Running {
    /// Stops it; how it ended.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stopper.stop();
        self.ended().await
    }

    pub(crate) async fn ended(self) -> Result<()> {
        soon("a service that stops", self.task).await.unwrap()
    }
}

impl Probe {
    pub(crate) async fn stop(self) {
        self.running.stop().await.unwrap();
    }
}

impl Tap {
    pub(crate) async fn message(&mut self) -> Message {
        let delivery = soon("a message", self.0.next()).await.unwrap().unwrap();
        let message = delivery.message.clone();
        delivery.settle_quietly(busline::Outcome::Ack);
        message
    }

    pub(crate) async fn next(&mut self) -> Incoming {
        let message = self.message().await;
        let kinds = [Kind::Event, Kind::Command, Kind::Configuration];
        let kind = kinds.into_iter().find(|kind| topic(*kind) == message.topic).unwrap();
        decode(kind, &message).unwrap()
    }

    /// The next log of at least this importance: its level and its short message.
    pub(crate) async fn log(&mut self, least: Level) -> (i64, String) {
        loop {
            let line: Value = serde_json::from_slice(&self.message().await.payload).unwrap();
            let level = line["level"].as_i64().unwrap();
            if level <= least.0 {
                return (level, line["short_message"].as_str().unwrap().to_owned());
            }
        }
    }
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// Lets this much time pass, of the clock that is paused.
pub(crate) async fn pass(seconds: u64) {
    let never = std::future::pending::<()>();
    assert!(tokio::time::timeout(Duration::from_secs(seconds), never).await.is_err());
}
