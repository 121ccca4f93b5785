//! A service that calls another one, many commands at a time, and checks every answer.

mod support;

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busline::service::{App, Context, ResultStatus, Returned, State};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use support::{Common, Seen, Signals, finish, line, ready};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Calls the commands of an echo service. Exit code 0 when all is good, 1 when an answer was wrong, came
/// twice or the command came back, 2 when one is missing.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The service that is called.
    #[arg(long, value_name = "NAME", default_value = "echo")]
    target: String,
    /// How many commands.
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: u64,
    /// How many of them wait for their answers at the same time.
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
    /// What is called.
    #[arg(long, value_enum, default_value_t = Mode::Reverse)]
    mode: Mode,
    /// Write payloads as JSON instead of CBOR.
    #[arg(long)]
    json: bool,
    /// Get answers by a queue that stays, shared by the instances of this name, instead of one of its own.
    #[arg(long)]
    durable: bool,
    /// Publish an event `EchoRequested` beside each command, and check the events that it leads to.
    #[arg(long)]
    events: bool,
    /// What is not answered within this many seconds is missing, even when it is answered later.
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    timeout: f64,
}

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// `Reverse` with a text.
    Reverse,
    /// `Identity` with payloads of many shapes.
    Identity,
    /// `Reverse` with something that has no text.
    Error,
    /// `Meta`.
    Meta,
    /// `Later`, a tenth of a second.
    Later,
    /// All of them in turn.
    Mixed,
    /// A command that nobody takes: it comes back.
    Unroutable,
}

/// How many events one `EchoRequested` asks for.
const COPIES: u64 = 2;

/// How long it waits, asked to stop, for what it has sent.
const STOP_MAX: Duration = Duration::from_millis(200);

/// How long it waits for answers that come twice, when all have come once.
const DOUBLES: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    if Duration::try_from_secs_f64(arguments.timeout).is_err() {
        use clap::CommandFactory;
        let mut command = Arguments::command();
        command.error(clap::error::ErrorKind::InvalidValue, "--timeout is no time").exit();
    }
    let run = Run::new(arguments.clone());
    let started = run.clone();
    let mut app = App::new(arguments.common.name("caller"))
        .stop_max(STOP_MAX)
        .state(run.clone())
        .result("EchoReturn", result)
        .returned({
            let run = run.clone();
            move |returned: Returned, _: Context| {
                run.returned(&returned);
                std::future::ready(())
            }
        })
        .on_ready(move |context: Context| {
            let run = started.clone();
            async move {
                ready();
                run.start(&context);
            }
        });
    if arguments.events {
        app = app.event("EchoPublished", published).event("TextReversed", published);
    }
    if arguments.json {
        app = app.json();
    }
    if !arguments.durable {
        app = app.exclusive();
    }
    let ended = arguments.common.run(app, signals).await;
    if ended == ExitCode::SUCCESS {
        run.stopped();
        finish();
    }
    match run.verdict() {
        // Stopped by a signal: nothing is said about what was not waited for.
        None => ended,
        Some(code) => ExitCode::from(code),
    }
}

async fn result(seen: Seen, status: ResultStatus, State(run): State<Run>) {
    run.answered(&seen, &status.0);
}

async fn published(seen: Seen, State(run): State<Run>) {
    run.seen_event(&seen);
}

/// A run, from the first command to the summary. Clones are of the same one.
#[derive(Debug, Clone)]
struct Run(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    arguments: Arguments,
    /// Which answers are this run's.
    id: String,
    window: Arc<Semaphore>,
    progress: Notify,
    state: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    began: Option<Instant>,
    calls: HashMap<String, Call>,
    /// Events that are waited for, by conversation.
    events: HashMap<String, Awaited>,
    tally: Tally,
    is_told: bool,
    verdict: Option<u8>,
}

#[derive(Debug)]
struct Call {
    n: u64,
    mode: Mode,
    sent: Value,
    at: Instant,
    /// Until it is answered.
    place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Awaited {
    since: Instant,
    names: HashSet<String>,
}

#[derive(Debug, Default, Clone)]
struct Tally {
    good: u64,
    wrong: u64,
    doubled: u64,
    returned: u64,
    late: u64,
    events: u64,
}

impl Run {
    fn new(arguments: Arguments) -> Self {
        let window = Arc::new(Semaphore::new(arguments.window as usize));
        let (id, progress, state) =
            (busline::new_message_id().to_string(), Notify::new(), Mutex::default());
        Self(Arc::new(Inner { arguments, id, window, progress, state }))
    }

    /// Once, however often the connection is lost.
    fn start(&self, context: &Context) {
        if self.with(|state| state.began.replace(Instant::now())).is_none() {
            let run = self.clone();
            context.after(Duration::ZERO, move |context| async move { run.calls(context).await });
        }
    }

    /// Until it was asked to stop, or everything is known.
    async fn calls(self, context: Context) {
        tokio::select! {
            biased;
            () = context.stopper().stopping() => self.stopped(),
            () = self.work(&context) => {
                let count = self.0.arguments.count;
                self.summary(count);
                self.with(|state| state.verdict = Some(state.judged(count)));
                context.stopper().stop();
            }
        }
    }

    async fn work(&self, context: &Context) {
        for n in 1..=self.0.arguments.count {
            let Some(place) = self.place().await else { break };
            if let Err(error) = self.call(context, n, place).await {
                line(&json!({"kind": "error", "n": n, "error": error.to_string()}));
                break;
            }
        }
        while self.left() > 0 && self.waited().await {}
        // Until no more of them come.
        while tokio::time::timeout(DOUBLES, self.0.progress.notified()).await.is_ok() {}
    }

    /// Room for one more; `None` when nothing has come for too long.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            tokio::select! {
                biased;
                place = Arc::clone(&self.0.window).acquire_owned() => return place.ok(),
                came = self.waited() => if !came { return None },
            }
        }
    }

    /// Whether something came within the time.
    async fn waited(&self) -> bool {
        tokio::time::timeout(self.timeout(), self.0.progress.notified()).await.is_ok()
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.0.arguments.timeout)
    }

    async fn call(
        &self,
        context: &Context,
        n: u64,
        place: OwnedSemaphorePermit,
    ) -> Result<(), busline::Error> {
        let Arguments { target, mode, events, .. } = &self.0.arguments;
        let mode = mode.of(n);
        let (id, conversation) = (format!("{}.{n}", self.0.id), format!("{}-{n}", self.0.id));
        let payload = mode.payload(n);
        let context = context.in_conversation(conversation.clone());
        let call = Call { n, mode, sent: payload.clone(), at: Instant::now(), place: Some(place) };
        self.with(|state| {
            state.calls.insert(id.clone(), call);
            if *events {
                let copies = (1..=COPIES).map(|copy| format!("EchoPublished {copy}"));
                let mut names: HashSet<_> = copies.collect();
                if mode == Mode::Reverse {
                    names.insert("TextReversed".to_owned());
                }
                state.events.insert(conversation, Awaited { since: Instant::now(), names });
            }
        });
        let return_key = format!("{}.EchoReturn", context.service());
        let key = format!("{target}.{}", mode.command());
        context.send_command_mandatory(&key, &payload, &return_key, &id, true).await?;
        if *events {
            let event = json!({"text": format!("event {n}"), "copies": COPIES});
            context.event("EchoRequested", &event).await?;
        }
        Ok(())
    }

    fn answered(&self, seen: &Seen, status: &str) {
        let id = &seen.correlation_id;
        let outcome = self.with(|state| {
            // Of another run, or of another instance.
            let call = state.calls.get_mut(id)?;
            let outcome = match call.place.take() {
                None => "doubled",
                // It is one of those that are missing.
                Some(_) if call.at.elapsed() > self.timeout() => "late",
                Some(_) if call.mode.is_good(&call.sent, status, &seen.payload()) => "good",
                Some(_) => "wrong",
            };
            let (n, mode, ms) = (call.n, call.mode.command(), call.at.elapsed().as_millis());
            *state.tally.of(outcome) += 1;
            Some((outcome, n, mode, ms))
        });
        let Some((outcome, n, command, ms)) = outcome else { return };
        self.tell(&json!({
            "kind": "outcome",
            "n": n,
            "command": command,
            "outcome": outcome,
            "status": status,
            "payload": seen.payload(),
            "correlation_id": id,
            "conversation_id": seen.conversation_id,
            "ms": u64::try_from(ms).unwrap_or(u64::MAX),
        }));
        self.0.progress.notify_one();
    }

    fn returned(&self, returned: &Returned) {
        let id = returned.correlation_id.as_deref().unwrap_or_default();
        let n = self.with(|state| {
            let call = state.calls.get_mut(id)?;
            drop(call.place.take()?);
            let n = call.n;
            state.tally.returned += 1;
            Some(n)
        });
        let Some(n) = n else { return };
        self.tell(&json!({
            "kind": "outcome",
            "n": n,
            "command": returned.key,
            "outcome": "returned",
            "correlation_id": id,
            "conversation_id": returned.conversation.to_string(),
        }));
        self.0.progress.notify_one();
    }

    /// An event of a conversation of this run.
    fn seen_event(&self, seen: &Seen) {
        let name = match seen.payload().get("n").and_then(Value::as_u64) {
            Some(n) if seen.key == "EchoPublished" => format!("EchoPublished {n}"),
            _ => seen.key.clone(),
        };
        let is_ours = self.with(|state| {
            let expected = state.events.get_mut(&seen.conversation_id)?;
            // One that comes again is no error: delivery is at least once.
            if expected.since.elapsed() <= self.timeout() && expected.names.remove(&name) {
                state.tally.events += 1;
            }
            if expected.names.is_empty() {
                state.events.remove(&seen.conversation_id);
            }
            Some(())
        });
        if is_ours.is_some() {
            self.with(|state| (!state.is_told).then(|| seen.print()));
            self.0.progress.notify_one();
        }
    }

    /// What is waited for.
    fn left(&self) -> u64 {
        self.with(|state| {
            let calls = state.calls.values().filter(|call| call.place.is_some()).count();
            calls as u64 + state.missing_events()
        })
    }

    /// Asked to stop, it misses no more than it has sent.
    fn stopped(&self) {
        self.summary(self.with(|state| state.calls.len() as u64));
    }

    /// Once; so many answers were to come.
    fn summary(&self, expected: u64) {
        let Arguments { count, target, .. } = &self.0.arguments;
        self.with(|state| {
            if std::mem::replace(&mut state.is_told, true) {
                return;
            }
            let Tally { good, wrong, doubled, returned, late: _, events } = state.tally;
            line(&json!({
                "kind": "summary",
                "target": target,
                "count": count,
                "sent": state.calls.len(),
                "good": good,
                "wrong": wrong,
                "doubled": doubled,
                "returned": returned,
                "missing": state.missing(expected),
                "events": events,
                "missing_events": state.missing_events(),
                "seconds": state.began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
            }));
        });
    }

    /// Nothing is said after the summary.
    fn tell(&self, value: &Value) {
        self.with(|state| (!state.is_told).then(|| line(value)));
    }

    fn verdict(&self) -> Option<u8> {
        self.with(|state| state.verdict)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress {
    /// Of so many commands.
    fn missing(&self, count: u64) -> u64 {
        let Tally { good, wrong, returned, .. } = self.tally;
        count.saturating_sub(good + wrong + returned)
    }

    fn missing_events(&self) -> u64 {
        self.events.values().map(|awaited| awaited.names.len() as u64).sum()
    }

    /// The exit code of a run to its end.
    fn judged(&self, count: u64) -> u8 {
        match &self.tally {
            Tally { wrong, doubled, returned, .. } if wrong + doubled + returned > 0 => 1,
            _ if self.missing(count) + self.missing_events() > 0 => 2,
            _ => 0,
        }
    }
}

impl Tally {
    fn of(&mut self, outcome: &str) -> &mut u64 {
        match outcome {
            "good" => &mut self.good,
            "late" => &mut self.late,
            "doubled" => &mut self.doubled,
            _ => &mut self.wrong,
        }
    }
}

impl Mode {
    /// That of the nth command.
    fn of(self, n: u64) -> Self {
        const TURNS: [Mode; 5] =
            [Mode::Reverse, Mode::Identity, Mode::Error, Mode::Meta, Mode::Later];
        match self {
            Self::Mixed => TURNS[(n as usize - 1) % TURNS.len()],
            mode => mode,
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Reverse | Self::Error | Self::Mixed => "Reverse",
            Self::Identity => "Identity",
            Self::Meta => "Meta",
            Self::Later => "Later",
            Self::Unroutable => "NobodyTakesThis",
        }
    }

    fn payload(self, n: u64) -> Value {
        match self {
            Self::Reverse | Self::Mixed => json!({"text": format!("Zoé {n}")}),
            Self::Identity => match n % 6 {
                0 => Value::Null,
                1 => json!({"n": n, "pi": 3.5, "ok": true, "none": null, "nested": {"k": "é"}}),
                2 => json!([1, "a", [], {}]),
                3 => json!(format!("text {n}")),
                4 => json!(1_099_511_627_776_u64 + n),
                _ => json!(false),
            },
            Self::Error => json!({"text": n}),
            Self::Meta | Self::Unroutable => json!({"n": n}),
            Self::Later => json!({"seconds": 0.1}),
        }
    }

    /// Whether this answers that.
    fn is_good(self, sent: &Value, status: &str, got: &Value) -> bool {
        let is_success = status == "success";
        match self {
            Self::Reverse | Self::Mixed => {
                let text = sent["text"].as_str().unwrap_or_default();
                let reversed: String = text.chars().rev().collect();
                is_success && *got == json!({"text": reversed})
            }
            Self::Identity => is_success && got == sent,
            Self::Error => status == "error" && got["reason"].is_string(),
            Self::Meta => {
                let all_text = |meta: &serde_json::Map<String, Value>| {
                    meta.values().all(|value| value.is_null() || value.is_string())
                        && !meta.contains_key("delivery_tag")
                };
                is_success && got["meta"].as_object().is_some_and(all_text)
            }
            Self::Later => is_success && got["waited"].as_f64() == sent["seconds"].as_f64(),
            Self::Unroutable => false,
        }
    }
}
