//! `monitor`: events, configurations, and commands with their results, as they pass.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use busline::service::wire::{self, Format, Incoming, Kind};
use busline::{Delivery, KeyPattern, Message};
use owo_colors::Style;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::args::MonitorArgs;
use super::{open, payload, quiet, watch};
use crate::app::{App, Missing};
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::output::one_line;

/// How many commands are remembered, to know their results by.
const REMEMBERED_MAX: usize = 10_000;

/// How many messages wait to be shown.
const WAITING_MAX: usize = 1024;

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
    let mut passing = Passing::new();
    passing.watch(&bus, Kind::Event, wanted(&args.events)?).await?;
    passing.watch(&bus, Kind::Configuration, wanted(&args.configurations)?).await?;
    // Results go where the caller wants them, whatever the command was: all are looked at.
    let commands = wanted(&args.commands)?;
    let results = commands.as_ref().map(|_| everything().map(|all| vec![all])).transpose()?;
    passing.watch(&bus, Kind::Command, results).await?;
    let mut asked = Asked { patterns: commands.unwrap_or_default(), ..Asked::default() };
    let mut shown = 0;
    let mut stop = app.stop.clone();
    while args.count.is_none_or(|count| shown < count) {
        let came = tokio::select! {
            () = stop.requested() => break,
            came = passing.came.recv() => came,
            () = quiet(args.timeout) => break,
        };
        let Some((kind, delivery)) = came else { break };
        let delivery = delivery?;
        let message = &delivery.message;
        let decoded = wire::decode(kind, message);
        if asked.wants(kind, message, decoded.as_ref().ok()) {
            let line = line(kind, message, decoded, &app.clock.now().to_string());
            shown += u64::from(show(app, &args, line, message)?);
        }
        delivery.ack().await?;
    }
    drop(passing);
    app.close(&bus).await?;
    match args.count {
        Some(count) if shown < count && !app.stop.is_requested() => Err(Failure::new(
            exit::ELAPSED,
            format!("{} of {} came", human::count(shown), human::plural(count, "message")),
        )),
        _ => Ok(()),
    }
}

/// Everything that passes, in the order in which it came: a task each takes what comes when it comes, so that
/// nothing is overtaken while another thing is shown.
struct Passing {
    came: mpsc::Receiver<(Kind, busline::Result<Delivery>)>,
    comes: mpsc::Sender<(Kind, busline::Result<Delivery>)>,
    taking: JoinSet<()>,
}

impl Passing {
    fn new() -> Self {
        let (comes, came) = mpsc::channel(WAITING_MAX);
        Self { came, comes, taking: JoinSet::new() }
    }

    async fn watch(
        &mut self,
        bus: &busline::Bus,
        kind: Kind,
        patterns: Option<Vec<KeyPattern>>,
    ) -> Outcome {
        let Some(patterns) = patterns else { return Ok(()) };
        let mut consumer = watch(bus, kind, &patterns).await?;
        let comes = self.comes.clone();
        self.taking.spawn(async move {
            while let Some(next) = consumer.next().await.transpose() {
                let is_last = next.is_err();
                if comes.send((kind, next)).await.is_err() || is_last {
                    return;
                }
            }
        });
        Ok(())
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
            line["kind"] = incoming.kind.as_str().into();
            line["conversation_id"] = incoming.conversation().to_string().into();
            line["status"] = json!(incoming.status.as_deref());
            line["meta"] = meta(&incoming);
            line["payload"] = payload::shown(&incoming.body);
        }
        Err(invalid) => {
            line["invalid"] = invalid.to_string().into();
            // It carries what it carries; a configuration needs no more than that.
            let bare = Message { payload: Default::default(), ..message.clone() };
            line["meta"] =
                wire::decode(Kind::Configuration, &bare).map_or(json!({}), |it| meta(&it));
            line["payload"] = match wire::decode(Kind::Configuration, message) {
                Ok(carried) => payload::shown(&carried.body),
                Err(_) => payload::raw(&message.payload),
            };
        }
    }
    line
}

fn meta(incoming: &Incoming) -> Value {
    let text = |name: &str| json!(incoming.meta.text(name).map(String::from));
    incoming.meta.iter().map(|(name, _)| (name.to_string(), text(name))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_invalid_shows_what_it_carries() {
        let shown = |payload: &'static [u8]| {
            let (topic, key) = (wire::topic(Kind::Event), busline::Key::new("E").unwrap());
            let message = Message::new(topic, key, payload).header("custom", "x");
            let line = line(Kind::Event, &message, wire::decode(Kind::Event, &message), "");
            assert_eq!((&line["kind"], &line["meta"]["custom"]), (&json!("event"), &json!("x")));
            assert!(line["invalid"].is_string() && line["conversation_id"].is_null(), "{line}");
            line["payload"].clone()
        };
        assert_eq!(shown(b"{\"a\": 1}"), json!({"a": 1}));
        assert_eq!(shown(b"{bad"), "{bad");
    }
}
