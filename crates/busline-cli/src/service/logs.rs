//! `logs`: the lines that services log on the bus.

use busline::service::wire::{Body, Format, Kind, Level};
use busline::{KeyPattern, Message};
use owo_colors::Style;
use serde::Serialize;
use serde_json::{Map, Value};

use super::args::LogsArgs;
use super::{open, payload, quiet, watch};
use crate::app::{App, Missing};
use crate::exit::{self, Failure, Outcome};
use crate::human;
use crate::output::one_line;

/// A line of a log, and its JSON line.
#[derive(Debug, Serialize)]
struct Line {
    key: String,
    level: Option<i64>,
    level_name: Option<String>,
    timestamp: Option<f64>,
    host: Option<String>,
    service: Option<String>,
    conversation_id: Option<String>,
    short_message: Option<String>,
    full_message: Option<String>,
    /// Additional ones, without their underscores.
    fields: Map<String, Value>,
}

/// Shows lines until the count, the quiet or a signal.
pub(crate) async fn run(app: &mut App, args: LogsArgs) -> Outcome {
    let bus = open(app, Missing::Create).await?;
    let mut wanted = args.filter.clone();
    for service in &args.service {
        wanted.push(KeyPattern::new(format!("{service}.*"))?);
    }
    let mut lines = watch(&bus, Kind::Log, &wanted).await?;
    let mut shown = 0;
    let mut stop = app.stop.clone();
    while args.count.is_none_or(|count| shown < count) {
        let delivery = tokio::select! {
            biased;
            () = stop.requested() => break,
            next = lines.next() => next?,
            () = quiet(args.timeout) => break,
        };
        let Some(delivery) = delivery else { break };
        let line = Line::of(&delivery.message);
        // What does not say how bad it is may be very bad.
        if args.level.is_none_or(|most| line.level.is_none_or(|level| level <= most.0)) {
            line.print(app)?;
            app.out.flush()?;
            shown += 1;
        }
        delivery.ack().await?;
    }
    lines.stop().await?;
    app.close(&bus).await?;
    match args.count {
        Some(count) if shown < count && !app.stop.is_requested() => Err(Failure::new(
            exit::ELAPSED,
            format!("{} of {} came", human::count(shown), human::plural(count, "line")),
        )),
        _ => Ok(()),
    }
}

impl Line {
    fn of(message: &Message) -> Self {
        let body = Body::new(Format::Json, message.payload.clone());
        let gelf = body.map_or(Value::Null, |body| payload::shown(&body));
        let Value::Object(mut gelf) = gelf else {
            return Self { short_message: Some(text_of(message)), ..Self::empty(message) };
        };
        let mut text = |name: &str| match gelf.remove(name) {
            Some(Value::String(text)) => Some(text),
            Some(Value::Null) | None => None,
            Some(other) => Some(other.to_string()),
        };
        let (short_message, full_message) = (text("short_message"), text("full_message"));
        let (host, level_name) = (text("host"), text("_levelname"));
        let (service, conversation_id) = (text("_logical_service"), text("_conversation_id"));
        text("version");
        let level = gelf.remove("level").and_then(|level| level.as_i64());
        let timestamp = gelf.remove("timestamp").and_then(|time| time.as_f64());
        let bare = |(name, value): (String, Value)| match name.strip_prefix('_') {
            Some(bare) => (bare.to_owned(), value),
            None => (name, value),
        };
        let fields = gelf.into_iter().map(bare).collect();
        Self {
            level,
            level_name,
            timestamp,
            host,
            service,
            conversation_id,
            short_message,
            full_message,
            fields,
            ..Self::empty(message)
        }
    }

    fn empty(message: &Message) -> Self {
        Self {
            key: message.key.to_string(),
            level: None,
            level_name: None,
            timestamp: None,
            host: None,
            service: None,
            conversation_id: None,
            short_message: None,
            full_message: None,
            fields: Map::new(),
        }
    }

    fn print(&self, app: &mut App) -> Outcome {
        if app.out.is_json() {
            return Ok(app.out.line(self)?);
        }
        let style = match self.level {
            Some(..=2) => Style::new().red().bold(),
            Some(3) => Style::new().red(),
            Some(4) => Style::new().yellow(),
            Some(5) => Style::new().green(),
            Some(6) => Style::new(),
            _ => Style::new().dimmed(),
        };
        let time = self.timestamp.map_or(String::new(), |seconds| {
            format!("{} ", busline::Timestamp::from_unix_us((seconds * 1e6) as i64))
        });
        let mut text = format!(
            "{time}{} {}",
            app.out.styled(&one_line(&self.key), style),
            app.out.styled(&one_line(self.short_message.as_deref().unwrap_or_default()), style),
        );
        for (name, value) in &self.fields {
            if name != "worker_pid" {
                text.push_str(&one_line(&format!(" {name}={value}")));
            }
        }
        for line in self.full_message.iter().flat_map(|full| full.lines()) {
            text.push_str(&format!("\n    {}", one_line(line)));
        }
        Ok(app.out.text(&text)?)
    }
}

fn text_of(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// A level by its name or its number.
pub(crate) fn level(text: &str) -> Result<Level, String> {
    let named = (0..8).map(Level).find(|level| level.name().eq_ignore_ascii_case(text));
    let numbered = || text.parse().ok().filter(|number| (0..8).contains(number)).map(Level);
    named.or_else(numbered).ok_or_else(|| {
        let names: Vec<_> = (0..8).map(|number| Level(number).name()).collect();
        format!("a level is one of {}, or its number from 0 to 7", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_by_name_and_number() {
        assert_eq!(level("error"), Ok(Level::ERROR));
        assert_eq!(level("7"), Ok(Level::DEBUG));
        assert!(level("8").unwrap_err().contains("EMERGENCY, ALERT"));
        assert!(level("loud").is_err());
    }
}
