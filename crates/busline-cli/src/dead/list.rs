//! `dead list` and `dead show`: nothing is touched.

use busline::transport::Peeked;
use busline::{Record, Timestamp};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::queue::Queue;
use super::{Letters, line_of, time_of};
use crate::app::{App, Missing};
use crate::args::DeadArgs;
use crate::exit::Outcome;
use crate::human;
use crate::line::{Letter, payload_text};
use crate::output;

/// How much of a letter is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// One line a letter.
    Summary,
    /// With headers and payload.
    Whole,
}

/// Shows the letters that the arguments choose.
pub(super) async fn run(app: &mut App, args: DeadArgs, detail: Detail) -> Outcome {
    let bus = app.open(Missing::Fail).await?;
    let mut shown = 0;
    let queue = Queue::find(&bus, &args.queue).await?;
    if let Some(queue) = &queue {
        let mut letters = Letters::new(queue);
        'pages: loop {
            let page = letters.next().await?;
            if page.is_empty() {
                break;
            }
            for letter in &page {
                if args.count.is_some_and(|count| shown >= count) {
                    break 'pages;
                }
                let Peeked { record, .. } = letter;
                if queue.chooses(args.filter.as_ref(), &record.message, &line_of(record)) {
                    print(app, queue, record, detail)?;
                    shown += 1;
                }
            }
            app.out.flush()?;
        }
    }
    if shown == 0 && !app.out.is_json() {
        output::note("there are no such dead letters");
    }
    if let Some(queue) = queue {
        queue.close().await?;
    }
    app.close(&bus).await
}

fn print(app: &mut App, queue: &Queue, record: &Record, detail: Detail) -> Outcome {
    match (app.out.is_json(), detail) {
        (true, Detail::Summary) => app.out.line(&Summary(record))?,
        (true, Detail::Whole) => app.out.line(&line_of(record))?,
        (false, Detail::Summary) => {
            let text = summary(record, app.clock.now());
            app.out.text(&text)?;
        }
        (false, Detail::Whole) => {
            let text = whole(queue, record);
            app.out.text(&text)?;
        }
    }
    Ok(())
}

/// The JSON line of `dead list`.
struct Summary<'a>(&'a Record);

impl Serialize for Summary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Record { message, offset, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", &message.topic)?;
        map.serialize_entry("offset", offset)?;
        map.serialize_entry("time", &time_of(self.0))?;
        map.serialize_entry("key", message.key.as_str())?;
        map.serialize_entry("message_id", &message.properties.message_id.as_deref())?;
        map.serialize_entry("payload_bytes", &message.payload.len())?;
        Letter::of(message).entries(&mut map)?;
        map.end()
    }
}

fn summary(record: &Record, now: Timestamp) -> String {
    let letter = Letter::of(&record.message);
    let mut line = format!("{}  {}", record.offset, output::one_line(record.message.key.as_str()));
    let reason = output::one_line(letter.reason.unwrap_or("(no reason)"));
    line.push_str(&format!("  {}", human::shortened(&reason, super::REASON_CHARS_MAX)));
    let attempt = letter.attempt.map_or("unknown".to_owned(), |attempt| attempt.to_string());
    line.push_str(&format!("  (attempt {attempt}, put back {} times, ", letter.redrives));
    match time_of(record) {
        Some(time) => line.push_str(&format!("{} ago)", human::ago(time, now))),
        None => line.push_str("nobody knows when)"),
    }
    line
}

fn whole(queue: &Queue, record: &Record) -> String {
    let message = &record.message;
    let letter = Letter::of(message);
    let none = || "-".to_owned();
    let text = |value: Option<&str>| value.map_or_else(none, str::to_owned);
    let mut rows = vec![
        vec!["offset".to_owned(), record.offset.to_string()],
        vec!["key".to_owned(), message.key.to_string()],
        vec!["reason".to_owned(), text(letter.reason)],
        vec!["from topic".to_owned(), origin(&letter, queue.name())],
        vec!["attempt".to_owned(), letter.attempt.map_or_else(none, |n| n.to_string())],
        vec!["put back".to_owned(), format!("{} times", letter.redrives)],
        vec!["rejected at".to_owned(), letter.rejected_at.map_or_else(none, |t| t.to_string())],
        vec!["message id".to_owned(), text(message.properties.message_id.as_deref())],
        vec!["content type".to_owned(), text(message.properties.content_type.as_deref())],
    ];
    for (name, value) in message.headers.iter() {
        if !name.starts_with(busline::dead::HEADER_PREFIX) {
            rows.push(vec![format!("header {name}"), format!("{value:?}")]);
        }
    }
    rows.push(vec!["payload".to_owned(), payload_text(&message.payload)]);
    human::table(&[], 2, rows) + "\n"
}

fn origin(letter: &Letter<'_>, queue: &str) -> String {
    match (letter.origin_topic, letter.origin_group) {
        (Some(topic), Some(group)) => match letter.origin_offset {
            Some(offset) => format!("{topic} at {offset}, rejected by group {group}"),
            None => format!("{topic}, rejected by group {group}"),
        },
        _ => format!("unknown: {queue} holds a message that is no dead letter"),
    }
}
