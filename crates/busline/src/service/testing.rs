//! Testing services: a bus in memory, on which an app runs as it is, and a test that talks to it.
//!
//! With the clock of Tokio paused, retries, timers and time limits take no time at all:
//!
//! ```
//! use busline::service::testing::TestBus;
//! use busline::service::{App, Context, Fault, Payload};
//!
//! async fn user_created(Payload(name): Payload<String>, context: Context) -> Result<(), Fault> {
//!     context.event("WelcomeSent", &name).await?;
//!     Ok(())
//! }
//!
//! # async fn test() -> busline::Result<()> {
//! // In a test of yours: #[tokio::test(start_paused = true)]
//! let mut bus = TestBus::new().await?;
//! bus.start(App::new("greeter").event("UserCreated", user_created)).await?;
//! bus.context().event("UserCreated", &"Ada").await?;
//! let welcome = bus.published("WelcomeSent").await?;
//! assert_eq!(welcome.payload::<String>()?, "Ada");
//! assert_eq!(bus.settled().await?.acked, 1);
//! bus.stop().await
//! # }
//! # let mut paused = tokio::runtime::Builder::new_current_thread();
//! # paused.enable_all().start_paused(true).build().unwrap().block_on(test()).unwrap();
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use busline_core::{
    Error, ErrorKind, HeaderValue, KeyPattern, Message, Outcome, Result, Topic, dead,
    new_message_id,
};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::core::within;
use super::wire::{self, Body, Format, Incoming, Kind, Level};
use super::{App, Context, Stopper};
use crate::bus::Bus;

/// How long something is waited for unless the test says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether everything is settled.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// So much is told of what came instead of what was waited for.
const TOLD_MAX: usize = 20;

/// A bus of one test's own, in memory, with the services that run on it.
///
/// What a test waits for and does not come within its [patience](TestBus::patience) fails with `Elapsed`, and the
/// error tells what came instead. Dropped, it ends its services at once.
#[derive(Debug)]
pub struct TestBus {
    bus: Bus,
    url: String,
    patience: Duration,
    services: Vec<Running>,
    context: Context,
    messages: Heard<Incoming>,
    logs: Heard<Logged>,
    letters: Heard<DeadLetter>,
}

/// What services have done with their events and commands so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settled {
    /// Messages that are done with.
    pub acked: u64,
    /// Deliveries beyond the first of their message.
    pub redelivered: u64,
    /// Messages that became dead letters.
    pub dead_lettered: u64,
}

/// A line that a service logged.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logged {
    /// How bad it is.
    pub level: Level,
    /// What it says.
    pub short: String,
    /// More of it; may be empty.
    pub full: String,
    /// Who logged it.
    pub service: String,
    /// The conversation that it is about; may be empty.
    pub conversation: String,
}

/// A message that a service gave up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The service.
    pub service: String,
    /// Why.
    pub reason: String,
    /// How often it had been tried.
    pub attempts: u32,
    /// All of it, with the headers of a dead letter.
    pub message: Message,
}

impl TestBus {
    /// An empty one.
    pub async fn new() -> Result<Self> {
        let url = format!("memory:testing-{}", new_message_id());
        let bus = Bus::open(&url).await?;
        let (messages, logs, letters) = (Heard::new(), Heard::new(), Heard::new());
        for kind in [Kind::Event, Kind::Command, Kind::Configuration] {
            // What is no message of services nobody can have waited for.
            messages.hear(&bus, wire::topic(kind), move |m| wire::decode(kind, m).ok()).await?;
        }
        logs.hear(&bus, wire::topic(Kind::Log), Logged::of).await?;
        let (service, context) = Running::start(&url, App::new("test"), PATIENCE).await?;
        Ok(Self {
            bus,
            url,
            patience: PATIENCE,
            services: vec![service],
            context,
            messages,
            logs,
            letters,
        })
    }

    /// How long it waits for what should come; 60 s unless set. While the clock is paused that takes no time.
    pub fn patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Runs a service, and waits until it is ready. Errors: why it ended, and `Elapsed`.
    pub async fn start(&mut self, app: App) -> Result<()> {
        self.hear_letters(&app).await?;
        let (service, _) = Running::start(&self.url, app, self.patience).await?;
        self.services.push(service);
        Ok(())
    }

    /// Runs a service without waiting: one that needs a configuration is ready after it.
    pub async fn start_unready(&mut self, app: App) -> Result<()> {
        self.hear_letters(&app).await?;
        self.services.push(Running::launch(&self.url, app).await?);
        Ok(())
    }

    /// Publishes, calls and sends as another service, named `test`.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The bus itself, for what no service would send.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The first event, command, result or configuration whose key the pattern matches, and which was not asked for
    /// before; what was sent by the test too. Cancel safe.
    pub async fn published(&mut self, pattern: &str) -> Result<Incoming> {
        let pattern = KeyPattern::try_from(pattern)?;
        let told = |incoming: &Incoming| format!("{} {}", incoming.kind.as_str(), incoming.key);
        let clock = &**self.bus.clock();
        self.messages
            .next(clock, self.patience, &format!("a message {pattern}"), told, |incoming| {
                pattern.matches(&incoming.key)
            })
            .await
    }

    /// The first line of at least this importance that was not asked for before. Cancel safe.
    pub async fn logged(&mut self, least: Level) -> Result<Logged> {
        let told = |line: &Logged| format!("{} {}", line.level.name(), line.short);
        let clock = &**self.bus.clock();
        self.logs
            .next(clock, self.patience, "a line of a log", told, |line| line.level.0 <= least.0)
            .await
    }

    /// The first message that a service gave up and that was not asked for before. Cancel safe.
    pub async fn dead_letter(&mut self) -> Result<DeadLetter> {
        let clock = &**self.bus.clock();
        let told = |letter: &DeadLetter| letter.message.key.to_string();
        self.letters.next(clock, self.patience, "a dead letter", told, |_| true).await
    }

    /// Waits until the services that run have settled all events and commands, retries included; what they did in
    /// all. Exclusive services are not looked at. Cancel safe.
    pub async fn settled(&self) -> Result<Settled> {
        let clock = self.bus.clock();
        let settling = async {
            loop {
                if let Some(settled) = self.look().await? {
                    return Ok(settled);
                }
                clock.sleep(LOOK_PAUSE).await;
            }
        };
        within(&**clock, self.patience, "everything settled", settling).await?
    }

    /// Lets this much time pass: at once while the clock is paused.
    pub async fn pass(&self, time: Duration) {
        self.bus.clock().sleep(time).await;
    }

    /// Stops its services, the last one first; the first error that one ended with.
    pub async fn stop(mut self) -> Result<()> {
        let mut stopped = Ok(());
        while let Some(mut service) = self.services.pop() {
            service.stopper.stop();
            stopped = stopped.and(service.ended().await);
        }
        stopped
    }

    /// None while something is not settled.
    async fn look(&self) -> Result<Option<Settled>> {
        let admin = self.bus.admin().await?;
        let mut settled = Settled::default();
        for info in admin.groups(None).await? {
            if !self.services.iter().any(|service| service.name == info.group.as_str()) {
                continue;
            }
            if info.lag + info.in_flight + info.waiting > 0 {
                return Ok(None);
            }
            settled.acked += info.acked;
            settled.redelivered += info.redelivered;
            settled.dead_lettered += info.rejected;
        }
        Ok(Some(settled))
    }

    async fn hear_letters(&self, app: &App) -> Result<()> {
        if self.services.iter().any(|service| service.name == app.name()) {
            // Another instance.
            return Ok(());
        }
        let group = busline_core::GroupName::new(app.name().to_owned())?;
        for kind in [Kind::Event, Kind::Command] {
            let topic = dead::dead_topic(&group, &wire::topic(kind))?;
            self.letters.hear(&self.bus, topic, DeadLetter::of).await?;
        }
        Ok(())
    }
}

/// A service that runs.
#[derive(Debug)]
struct Running {
    name: String,
    stopper: Stopper,
    task: JoinHandle<Result<()>>,
}

impl Running {
    async fn launch(url: &str, app: App) -> Result<Self> {
        let (name, stopper) = (app.name().to_owned(), app.stopper());
        let bus = Bus::open(url).await?;
        let task = tokio::spawn(app.run_until(bus, std::future::pending()));
        Ok(Self { name, stopper, task })
    }

    async fn start(url: &str, app: App, patience: Duration) -> Result<(Self, Context)> {
        let (ready, mut readiness) = mpsc::unbounded_channel();
        let clock = Arc::clone(Bus::open(url).await?.clock());
        let mut service = Self::launch(url, app.tell_ready(ready)).await?;
        let readying = async {
            tokio::select! {
                biased;
                Some(context) = readiness.recv() => Ok(context),
                ended = service.ended() => Err(ended.err().unwrap_or_else(|| {
                    Error::new(ErrorKind::Closed, "the service has stopped before it was ready")
                })),
            }
        };
        let context = within(&*clock, patience, "a service that is ready", readying).await??;
        Ok((service, context))
    }

    async fn ended(&mut self) -> Result<()> {
        let panicked =
            |error| Error::new(ErrorKind::Other, "the service has panicked").source(error);
        (&mut self.task).await.map_err(panicked)?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was sent to some topics, in the order in which it came.
#[derive(Debug)]
struct Heard<T> {
    tell: mpsc::UnboundedSender<T>,
    told: mpsc::UnboundedReceiver<T>,
    /// What nobody asked for yet.
    waiting: VecDeque<T>,
}

impl<T: Send + 'static> Heard<T> {
    fn new() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self { tell, told, waiting: VecDeque::new() }
    }

    /// From now on; it ends with the bus or with whoever listens.
    async fn hear(
        &self,
        bus: &Bus,
        topic: Topic,
        read: impl Fn(&Message) -> Option<T> + Send + 'static,
    ) -> Result<()> {
        let mut consumer = bus.broadcast(topic)?.subscribe().await?;
        let tell = self.tell.clone();
        let hearing = tokio::spawn(async move {
            while let Ok(Some(delivery)) = consumer.next().await {
                let is_heard = read(&delivery.message).is_none_or(|one| tell.send(one).is_ok());
                delivery.settle_quietly(Outcome::Ack);
                if !is_heard {
                    return;
                }
            }
        });
        drop(hearing);
        Ok(())
    }

    /// The first that is wanted; the others wait.
    async fn next(
        &mut self,
        clock: &dyn busline_core::Clock,
        patience: Duration,
        what: &str,
        tells: impl Fn(&T) -> String,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Result<T> {
        if let Some(at) = self.waiting.iter().position(&is_wanted)
            && let Some(found) = self.waiting.remove(at)
        {
            return Ok(found);
        }
        let (told, waiting) = (&mut self.told, &mut self.waiting);
        let coming = async {
            while let Some(one) = told.recv().await {
                if is_wanted(&one) {
                    return Some(one);
                }
                waiting.push_back(one);
            }
            // There is a sender in here.
            None
        };
        let came = within(clock, patience, what, coming).await;
        match came {
            Ok(Some(one)) => Ok(one),
            Ok(None) => Err(Error::new(ErrorKind::Closed, "the bus is closed")),
            Err(error) => {
                let others: Vec<_> = self.waiting.iter().take(TOLD_MAX).map(tells).collect();
                let others =
                    if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
                Err(error.context("came instead", others))
            }
        }
    }
}

impl Logged {
    fn of(message: &Message) -> Option<Self> {
        #[derive(Deserialize)]
        struct Gelf {
            level: i64,
            short_message: String,
            #[serde(default)]
            full_message: String,
            #[serde(default, rename = "_conversation_id")]
            conversation_id: String,
        }
        let body = Body::new(Format::Json, message.payload.clone()).ok()?;
        let gelf: Gelf = body.decode().ok()?;
        let (service, _) = message.key.as_str().rsplit_once('.')?;
        Some(Self {
            level: Level(gelf.level),
            short: gelf.short_message,
            full: gelf.full_message,
            service: service.to_owned(),
            conversation: gelf.conversation_id,
        })
    }
}

impl DeadLetter {
    fn of(message: &Message) -> Option<Self> {
        let get = |name| message.headers.get(name);
        let attempts = get(dead::HEADER_ATTEMPTS).and_then(HeaderValue::as_int).unwrap_or(0);
        Some(Self {
            service: dead::origin(message)?.group.to_string(),
            reason: get(dead::HEADER_REASON).and_then(HeaderValue::as_str).unwrap_or("").to_owned(),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            message: message.clone(),
        })
    }
}
