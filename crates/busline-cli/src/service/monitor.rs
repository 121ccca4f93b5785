//! `monitor`: events, configurations, and commands with their results, as they pass.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use busline::service::wire::{self, Format, Incoming, Kind};
use busline::{Consumer, Delivery, KeyPattern, Message};
use owo_colors::Style;
use serde_json::{Value, json};

use super::args::MonitorArgs;
use super::{open, payload, quiet, watch};
use crate::app::{App, Missing};
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::output::one_line;

/// How many commands are remembered, to know their results by.
const REMEMBERED_MAX: usize = 10_000;

/// Shows what passes until the count, the quiet or a signal.
pub(crate) async fn run(app: &mut App, args: MonitorArgs) -> Outcome {
    if let Some(directory) = &args.save {
        std::fs::create_dir_all(directory).map_err(|error| Failure::file(directory, &error))?;
    }
    let bus = open(app, Missing::Create).await?;
    let all = args.events.is_empty() && args.commands.is_empty() && args.configurations.is_empty();
    let everything = || KeyPattern::new("#");
    let wanted = |patterns: &Vec<KeyPattern>| match (all, patterns.is_empty()) {
        (true, _) => Ok::<_, busline::Error>(Some(vec![everything()?])),
        (false, true) => Ok(None),
        (false, false) => Ok(Some(patterns.clone())),
    };
    let mut events = watched(&bus, Kind::Event, wanted(&args.events)?).await?;
    let mut configurations =
        watched(&bus, Kind::Configuration, wanted(&args.configurations)?).await?;
    // Results go where the caller wants them, whatever the command was: all are looked at.
    let commands = wanted(&args.commands)?;
    let results = commands.as_ref().map(|_| everything().map(|all| vec![all])).transpose()?;
    let mut passing = watched(&bus, Kind::Command, results).await?;
    let mut asked = Asked { patterns: commands.unwrap_or_default(), ..Asked::default() };
    let mut shown = 0;
    let mut stop = app.stop.clone();
    while args.count.is_none_or(|count| shown < count) {
        let (kind, delivery) = tokio::select! {
            () = stop.requested() => break,
            next = next(&mut events) => (Kind::Event, next?),
            next = next(&mut configurations) => (Kind::Configuration, next?),
            next = next(&mut passing) => (Kind::Command, next?),
            () = quiet(args.timeout) => break,
        };
        let Some(delivery) = delivery else { break };
        let message = &delivery.message;
        let decoded = wire::decode(kind, message);
        if asked.wants(kind, message, decoded.as_ref().ok()) {
            let line = line(kind, message, decoded, &app.clock.now().to_string());
            shown += u64::from(show(app, &args, line, message)?);
        }
        delivery.ack().await?;
    }
    for consumer in [&mut events, &mut configurations, &mut passing].into_iter().flatten() {
        consumer.stop().await?;
    }
    app.close(&bus).await?;
    match args.count {
        Some(count) if shown < count && !app.stop.is_requested() => Err(Failure::new(
            exit::ELAPSED,
            format!("{} of {} came", human::count(shown), human::plural(count, "message")),
        )),
        _ => Ok(()),
    }
}

async fn watched(
    bus: &busline::Bus,
    kind: Kind,
    patterns: Option<Vec<KeyPattern>>,
) -> Outcome<Option<Consumer>> {
    match patterns {
        None => Ok(None),
        Some(patterns) => Ok(Some(watch(bus, kind, &patterns).await?)),
    }
}

async fn next(consumer: &mut Option<Consumer>) -> Outcome<Option<Delivery>> {
    match consumer {
        Some(consumer) => Ok(consumer.next().await?),
        None => std::future::pending().await,
    }
}

/// Which commands are shown, and so which results.
#[derive(Debug, Default)]
struct Asked {
    patterns: Vec<KeyPattern>,
    waiting: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

impl Asked {
    fn wants(&mut self, kind: Kind, message: &Message, incoming: Option<&Incoming>) -> bool {
        if kind != Kind::Command {
            return true;
        }
        let matches = self.patterns.iter().any(|pattern| pattern.matches(message.key.as_str()));
        let Some(incoming) = incoming else { return matches };
        let id = incoming.correlation_id.as_deref().unwrap_or_default().to_owned();
        if incoming.kind == Kind::Result {
            return self.waiting.remove(&(message.key.to_string(), id)) || matches;
        }
        if let (true, Some(reply_to)) = (matches, &incoming.reply_to) {
            let call = (reply_to.to_string(), id);
            if self.waiting.insert(call.clone()) {
                self.order.push_back(call);
            }
            if self.order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.waiting.remove(&oldest);
            }
        }
        matches
    }
}

/// The JSON line; what cannot be decoded is shown too, and why.
pub(super) fn line(
    kind: Kind,
    message: &Message,
    decoded: Result<Incoming, wire::Invalid>,
    time: &str,
) -> Value {
    let properties = &message.properties;
    let mut line = json!({
        "kind": kind.as_str(),
        "time": time,
        "key": message.key.as_str(),
        "conversation_id": properties.conversation_id.as_deref(),
        "correlation_id": properties.correlation_id.as_deref(),
        "reply_to": properties.reply_to.as_deref(),
        "status": null,
        "content_type": properties.content_type.as_deref(),
        "meta": {},
        "payload": null,
        "invalid": null,
        "saved": null,
    });
    match decoded {
        Ok(incoming) => {
            let meta = incoming.meta.iter().map(|(name, _)| {
                (name.to_string(), json!(incoming.meta.text(name).map(String::from)))
            });
            line["kind"] = incoming.kind.as_str().into();
            line["conversation_id"] = incoming.conversation().to_string().into();
            line["status"] = json!(incoming.status.as_deref());
            line["meta"] = meta.collect();
            line["payload"] = payload::shown(&incoming.body);
        }
        Err(invalid) => line["invalid"] = invalid.to_string().into(),
    }
    line
}

/// Shows it unless the filter leaves it out; whether it did.
fn show(app: &mut App, args: &MonitorArgs, mut line: Value, message: &Message) -> Outcome<bool> {
    if args.filter.as_ref().is_some_and(|filter| !filter.holds(&line)) {
        return Ok(false);
    }
    if let Some(directory) = &args.save {
        let path = save(directory, &line, message)?;
        line["saved"] = path.display().to_string().into();
    }
    if app.out.is_json() {
        app.out.line(&line)?;
    } else {
        let text = human(app, &line);
        app.out.text(&text)?;
    }
    app.out.flush()?;
    Ok(true)
}

pub(super) fn save(directory: &Path, line: &Value, message: &Message) -> Outcome<PathBuf> {
    let text = |name: &str| line[name].as_str().filter(|text| !text.is_empty());
    let result = if text("kind") == Some("result") { "-result" } else { "" };
    let conversation = text("conversation_id").unwrap_or("na");
    let name = format!("{}{result}.{conversation}", message.key);
    let format = Format::of_content_type(message.properties.content_type.as_deref());
    payload::save(directory, &name, format, &message.payload)
}

pub(super) fn human(app: &App, line: &Value) -> String {
    let text = |name: &str| one_line(line[name].as_str().unwrap_or_default());
    let dim = |text: String| app.out.styled(&text, Style::new().dimmed());
    let mut shown = format!(
        "{} {} {}",
        dim(text("time")),
        text("kind"),
        app.out.styled(&text("key"), Style::new().cyan()),
    );
    for (name, says) in [
        ("status", "status"),
        ("conversation_id", "conversation"),
        ("correlation_id", "correlation"),
        ("reply_to", "answer to"),
        ("invalid", "INVALID"),
        ("saved", "saved as"),
    ] {
        if !text(name).is_empty() {
            shown.push_str(&dim(format!(" {says} ")));
            shown.push_str(&text(name));
        }
    }
    if line["saved"].is_null() {
        shown.push_str("\n    ");
        shown.push_str(&one_line(&line["payload"].to_string()));
    }
    shown
}
