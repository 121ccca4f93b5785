//! A service that calls another one, many commands at a time, and checks every answer.

mod support;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busline::service::{App, Context, ResultStatus, Returned, State};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use support::{Common, Seen, line, ready};
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
    /// What does not come within this many seconds is missing.
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

/// How long it waits for answers that come twice, when all have come once.
const DOUBLES: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if Duration::try_from_secs_f64(arguments.timeout).is_err() {
        use clap::CommandFactory;
        let mut command = Arguments::command();
        command.error(clap::error::ErrorKind::InvalidValue, "--timeout is no time").exit();
    }
    let run = Run::new(arguments.clone());
    let started = run.clone();
    let mut app = App::new(arguments.common.name("caller"))
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
    let ended = arguments.common.run(app).await;
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
    is_started: bool,
    calls: HashMap<String, Call>,
    /// Events that are waited for, by conversation.
    events: HashMap<String, HashMap<String, u64>>,
    tally: Tally,
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

#[derive(Debug, Default, Clone)]
struct Tally {
    good: u64,
    wrong: u64,
    doubled: u64,
    returned: u64,
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
        if !self.with(|state| std::mem::replace(&mut state.is_started, true)) {
            let run = self.clone();
            context.after(Duration::ZERO, move |context| async move { run.calls(context).await });
        }
    }

    async fn calls(self, context: Context) {
        let began = Instant::now();
        for n in 1..=self.0.arguments.count {
            let Some(place) = self.place().await else { break };
            if let Err(error) = self.call(&context, n, place).await {
                line(&json!({"kind": "error", "n": n, "error": error.to_string()}));
                break;
            }
        }
        while self.left() > 0 && self.waited().await {}
        // Until no more of them come.
        while tokio::time::timeout(DOUBLES, self.0.progress.notified()).await.is_ok() {}
        self.summary(began);
        context.stopper().stop();
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
        let timeout = Duration::from_secs_f64(self.0.arguments.timeout);
        tokio::time::timeout(timeout, self.0.progress.notified()).await.is_ok()
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
                let mut expected = HashMap::new();
                for copy in 1..=COPIES {
                    expected.insert(format!("EchoPublished {copy}"), 1);
                }
                if mode == Mode::Reverse {
                    expected.insert("TextReversed".to_owned(), 1);
                }
                state.events.insert(conversation, expected);
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
                Some(_) if call.mode.is_good(&call.sent, status, &seen.payload()) => "good",
                Some(_) => "wrong",
            };
            let (n, mode, ms) = (call.n, call.mode.command(), call.at.elapsed().as_millis());
            *state.tally.of(outcome) += 1;
            Some((outcome, n, mode, ms))
        });
        let Some((outcome, n, command, ms)) = outcome else { return };
        line(&json!({
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
        line(&json!({
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
            if expected.remove(&name).is_some() {
                state.tally.events += 1;
            }
            if expected.is_empty() {
                state.events.remove(&seen.conversation_id);
            }
            Some(())
        });
        if is_ours.is_some() {
            seen.print();
            self.0.progress.notify_one();
        }
    }

    /// What is waited for.
    fn left(&self) -> u64 {
        self.with(|state| {
            let calls = state.calls.values().filter(|call| call.place.is_some()).count();
            let events = state.events.values().map(HashMap::len).sum::<usize>();
            (calls + events) as u64
        })
    }

    fn summary(&self, began: Instant) {
        let sent = self.with(|state| state.calls.len() as u64);
        let (tally, missing_events) = self.with(|state| {
            let events = state.events.values().map(HashMap::len).sum::<usize>();
            (state.tally.clone(), events as u64)
        });
        let Arguments { count, target, .. } = &self.0.arguments;
        let missing = count.saturating_sub(tally.good + tally.wrong + tally.returned);
        line(&json!({
            "kind": "summary",
            "target": target,
            "count": count,
            "sent": sent,
            "good": tally.good,
            "wrong": tally.wrong,
            "doubled": tally.doubled,
            "returned": tally.returned,
            "missing": missing,
            "events": tally.events,
            "missing_events": missing_events,
            "seconds": began.elapsed().as_secs_f64(),
        }));
        let verdict = match tally {
            Tally { wrong, doubled, returned, .. } if wrong + doubled + returned > 0 => 1,
            _ if missing + missing_events > 0 => 2,
            _ => 0,
        };
        self.with(|state| state.verdict = Some(verdict));
    }

    fn verdict(&self) -> Option<u8> {
        self.with(|state| state.verdict)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tally {
    fn of(&mut self, outcome: &str) -> &mut u64 {
        match outcome {
            "good" => &mut self.good,
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
