//! The table of the demo, its JSON line, and the commands to look around with.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::count::{Count, GroupCount, Killed};
use super::{ALERTS, STATISTICS, STRONG, TOPIC};
use crate::app::App;
use crate::exit::Outcome;
use crate::human;

/// The JSON line.
#[derive(Serialize)]
struct Line<'a> {
    bus: &'a str,
    durability: &'static str,
    published: u64,
    stored: u64,
    groups: &'a [GroupCount],
    killed: Option<Killed>,
    redelivered: u64,
    dead_lettered: u64,
    reasons: &'a BTreeMap<String, u64>,
    duplicates: u64,
    lost: u64,
    broadcast: u64,
    messages_per_second: f64,
    bytes_on_disk: u64,
    elapsed_ms: u64,
    takeover_ms: Option<f64>,
    ok: bool,
}

/// Prints all figures.
pub(super) fn print(app: &mut App, count: &Count, url: &str, directory: &Path) -> Outcome {
    if app.out.is_json() {
        return Ok(app.out.line(&Line {
            bus: url,
            durability: count.durability.as_str(),
            published: count.observed.published,
            stored: count.stored,
            groups: &count.groups,
            killed: count.observed.killed,
            redelivered: count.redelivered(),
            dead_lettered: count.dead_lettered(),
            reasons: &count.reasons,
            duplicates: count.duplicates(),
            lost: count.lost(),
            broadcast: count.broadcast,
            messages_per_second: count.messages_per_second().round(),
            bytes_on_disk: count.bytes,
            elapsed_ms: u64::try_from(count.elapsed.as_millis()).unwrap_or(u64::MAX),
            takeover_ms: count.observed.takeover.map(|took| took.as_secs_f64() * 1e3),
            ok: count.problems().is_empty(),
        })?);
    }
    app.out.text(&format!("\n{}", table(count)))?;
    for problem in count.problems() {
        app.out.text(&format!("does not add up: {problem}"))?;
    }
    app.out.text(&commands(url, directory))?;
    Ok(())
}

fn table(count: &Count) -> String {
    let mut rows = Vec::new();
    let mut row = |what: &str, value: String, how: &str| {
        rows.push(vec![what.to_owned(), value, how.to_owned()]);
    };
    let number = human::count;
    row("published", number(count.observed.published), "receipts of the publisher");
    row("stored", number(count.stored), "read back from the topic");
    for group in &count.groups {
        let how = format!(
            "{} match {}; {} acked, {} rejected",
            number(group.matched),
            group.patterns,
            number(group.acked),
            number(group.rejected)
        );
        row(&format!("delivered to {}", group.group), number(group.delivered), &how);
    }
    row("delivered to ticker", number(count.broadcast), "a broadcast, alone in its group");
    let killed = match count.observed.killed {
        Some(killed) => format!("held by the member that was killed: {}", number(killed.held)),
        None => "nobody was killed".to_owned(),
    };
    row("redelivered", number(count.redelivered()), &killed);
    let reasons: Vec<_> =
        count.reasons.iter().map(|(reason, n)| format!("{} {reason}", number(*n))).collect();
    row("dead lettered", number(count.dead_lettered()), &reasons.join(", "));
    row("duplicates", number(count.duplicates()), "stored, or settled by a group, twice");
    row("lost", number(count.lost()), "receipted and not stored, or not settled by a group");
    let rate = human::count(count.messages_per_second() as u64);
    row("messages a second", rate, "from the first record to the last settle");
    row("bytes on disk", human::bytes(count.bytes), "all topics");
    row("durability", count.durability.to_string(), "what every receipt survives");
    row("took", human::span(count.elapsed), "from the first process to the last");
    let mut text = String::new();
    for row in align(&rows) {
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Names to the left, figures to the right, where they come from behind.
fn align(rows: &[Vec<String>]) -> impl Iterator<Item = String> + '_ {
    let width = move |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let (names, figures) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    rows.iter().map(move |row| match row.as_slice() {
        [name, figure, how] => format!("{name:names$}  {figure:>figures$}  {how}"),
        _ => String::new(),
    })
}

fn commands(url: &str, directory: &Path) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "busline".to_owned());
    let busline = format!("{} --bus {}", quoted(&program), quoted(url));
    let directory = quoted(&directory.display().to_string());
    let lines = [
        format!("{busline} topics"),
        format!("{busline} groups"),
        format!("{busline} read {TOPIC} --pattern '{STRONG}' --count 3"),
        format!("{busline} consume {TOPIC} --group mine --count 3"),
        format!("{busline} dead list {STATISTICS} --count 3"),
        format!("{busline} dead redrive {STATISTICS} --dry-run"),
        format!("{busline} group reset {TOPIC} {ALERTS} --to earliest --dry-run"),
        format!("{busline} doctor"),
        format!("rm -r {directory}"),
    ];
    format!("Look around in what it left behind:\n  {}", lines.join("\n  "))
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
