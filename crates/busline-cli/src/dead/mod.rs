//! `dead list`, `dead show`, `dead redrive`, `dead purge`: the letters that a group rejected.

mod list;
mod purge;
mod queue;
mod redrive;
mod sweep;

use std::collections::BTreeMap;

use busline::transport::Peeked;
use busline::{Message, Offset, Record, Timestamp};
use serde::Serialize;
use serde_json::Value;

use self::queue::Queue;

use crate::app::App;
use crate::args::DeadVerb;
use crate::exit::Outcome;
use crate::filter::Filter;
use crate::human;
use crate::line::{Letter, Line};
use crate::output;

/// How many letters are looked at at once, at first; a page is twice as long as the one before, up to
/// the other: a queue without places is gone through from its head for each.
const PAGE: usize = 256;
const PAGE_MAX: usize = 4096;

/// Sees, looks into, puts back or drops dead letters.
pub(crate) async fn run(app: &mut App, verb: DeadVerb) -> Outcome {
    match verb {
        DeadVerb::List(args) => list::run(app, args, list::Detail::Summary).await,
        DeadVerb::Show(args) => list::run(app, args, list::Detail::Whole).await,
        DeadVerb::Redrive(args) => redrive::run(app, args).await,
        DeadVerb::Purge(args) => purge::run(app, args).await,
    }
}

/// The unsettled letters of a queue, page by page, oldest first.
struct Letters<'a> {
    queue: &'a Queue,
    from: Option<Offset>,
    limit: usize,
    ended: bool,
}

impl<'a> Letters<'a> {
    fn new(queue: &'a Queue) -> Self {
        Self { queue, from: None, limit: PAGE, ended: false }
    }

    /// The next ones; empty at the end.
    async fn next(&mut self) -> Outcome<Vec<Peeked>> {
        if self.ended {
            return Ok(Vec::new());
        }
        let Queue { admin, topic, group, .. } = self.queue;
        let page = admin.peek(topic, group, self.from.as_ref(), self.limit).await?;
        self.ended = page.len() < self.limit;
        self.limit = (self.limit * 2).min(PAGE_MAX);
        if let Some(last) = page.last() {
            self.from = Some(last.record.offset.next());
        }
        Ok(page)
    }
}

/// Whether the filter, where there is one, chooses the letter.
fn chosen(filter: Option<&Filter>, line: &Line<'_>) -> bool {
    let Some(filter) = filter else { return true };
    // A payload too deep to be looked into is no reason to hide the letter's other fields.
    let value =
        serde_json::to_value(line).or_else(|_| serde_json::to_value(line.without_payload()));
    value.is_ok_and(|mut value| {
        if let Value::Object(fields) = &mut value {
            // `dead list` shows it in the place of the payload.
            fields.insert("payload_bytes".to_owned(), line.payload_bytes().into());
        }
        filter.holds(&value)
    })
}

fn line_of(record: &Record) -> Line<'_> {
    Line::letter(&record.message, Some(&record.offset), time_of(record))
}

/// When the letter got there; a queue does not keep that, then it is when it was rejected.
fn time_of(record: &Record) -> Option<Timestamp> {
    let kept = Some(record.time).filter(|time| *time != Timestamp::default());
    kept.or_else(|| Letter::of(&record.message).rejected_at)
}

fn reason_of(message: &Message) -> &str {
    Letter::of(message).reason.unwrap_or("(no reason)")
}

/// How many of which reason; of very many different ones the rest is joined.
#[derive(Debug, Default)]
struct Reasons(BTreeMap<String, u64>);

/// The most that is shown of a reason where there are many; `dead show` and JSON have all of it.
const REASON_CHARS_MAX: usize = 120;

/// The most reasons that are told apart.
const REASONS_MAX: usize = 1000;

impl Reasons {
    fn add(&mut self, reason: &str) {
        let is_told_apart = self.0.len() < REASONS_MAX || self.0.contains_key(reason);
        let reason = if is_told_apart { reason } else { "(other reasons)" };
        *self.0.entry(reason.to_owned()).or_default() += 1;
    }

    /// The most frequent first.
    fn table(&self) -> String {
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let reason = |reason| human::shortened(&output::one_line(reason), REASON_CHARS_MAX);
        let rows = rows.into_iter().map(|(text, n)| vec![reason(text), human::count(*n)]);
        human::table(&["reason", "letters"], 1, rows.collect())
    }
}

/// What a redrive or a purge came to.
#[derive(Debug, Default)]
struct Tally {
    matched: u64,
    done: u64,
    refused: u64,
    remaining: u64,
    reasons: Reasons,
}

impl Tally {
    /// Prints it: `would` is a dry run. Without a queue there is nothing that could be done.
    fn print(&self, app: &mut App, queue: Option<&Queue>, status: &str, done: &str) -> Outcome {
        #[derive(Serialize)]
        struct Line<'a> {
            queue: Option<&'a str>,
            status: &'a str,
            matched: u64,
            done: u64,
            refused: u64,
            remaining: u64,
            reasons: &'a BTreeMap<String, u64>,
        }
        let Self { matched, done: count, refused, remaining, reasons } = self;
        if app.out.is_json() {
            return Ok(app.out.line(&Line {
                queue: queue.map(Queue::name),
                status,
                matched: *matched,
                done: *count,
                refused: *refused,
                remaining: *remaining,
                reasons: &reasons.0,
            })?);
        }
        let Some(queue) = queue else {
            output::note("there are no dead letters");
            return Ok(());
        };
        if *matched > 0 {
            app.out.text(&reasons.table())?;
            app.out.text("")?;
        }
        let mut text = format!("{} of {} {done}", human::count(*count), human::count(*matched));
        if *refused > 0 {
            text.push_str(&format!(", {} refused", human::count(*refused)));
        }
        text.push_str(&format!(
            "; {} left in {}",
            human::plural(*remaining, queue.holds()),
            queue.name()
        ));
        Ok(app.out.text(&text)?)
    }
}
