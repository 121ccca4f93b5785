//! The report for other programs, and as the page and the picture that the repository keeps.

use std::path::Path;

use serde_json::{Value, json};

use crate::measure::Samples;
use crate::plot::Kind;
use crate::report::{Report, Row, number, ratio, with_spread};
use crate::{Result, plot, problem};

/// What a report was made with: one line each, for people.
#[derive(Debug, Default)]
pub(crate) struct Context {
    /// Machine, medium, repetitions.
    pub(crate) lines: Vec<String>,
    /// Whether the figures are worth something.
    pub(crate) is_quick: bool,
    /// Whether others used the machine meanwhile.
    pub(crate) is_busy: bool,
}

/// One JSON object a line: first what it was made with, then the rows.
pub(crate) fn json_lines(context: &Context, report: &Report) -> String {
    let goals: Vec<_> = report.unmeasured().map(|goal| json!([goal.id, goal.row()])).collect();
    let head = json!({
        "context": context.lines, "left_out": report.left_out, "goals_not_measured": goals,
        "quick": context.is_quick,
    });
    let rows = report.rows.iter().map(|row| format!("{}\n", row_json(row)));
    std::iter::once(format!("{head}\n")).chain(rows).collect()
}

fn row_json(row: &Row) -> Value {
    let samples = |samples: &Samples| {
        let (least, greatest) = samples.spread();
        json!({ "median": samples.median(), "least": least, "greatest": greatest })
    };
    let figure = &row.figure;
    let mut object = json!({
        "table": figure.table, "work": figure.work, "durability": figure.durability,
        "unit": figure.unit, "busline": samples(&row.busline), "beside": figure.beside.0,
        "beside_it": samples(&row.beside), "ratio": row.ratio(),
    });
    if let Some(goal) = row.goal {
        let [target, aim] = goal.bound.texts();
        object["goal"] = json!({
            "id": goal.id, "target": target, "goal": aim,
            "verdict": row.verdict().map(|verdict| verdict.to_string()),
        });
    }
    object
}

/// How many goals are met, and which are not.
pub(crate) fn verdicts(report: &Report) -> Vec<String> {
    let judged = || report.rows.iter().filter_map(|row| Some((row, row.goal?, row.verdict()?)));
    let count = |verdict| judged().filter(|(.., found)| *found == verdict).count();
    use crate::goals::Verdict::{Goal, Missed, Target};
    let mut lines = vec![format!(
        "{} rows have a goal: {} reach it, {} reach the target that is owed, {} miss it",
        judged().count(),
        count(Goal),
        count(Target),
        count(Missed),
    )];
    lines.extend(judged().filter(|(.., verdict)| *verdict == Missed).map(|(row, goal, _)| {
        let [target, _] = goal.bound.texts();
        let (busline, beside) = (number(row.busline.median()), number(row.beside.median()));
        let name = row.figure.beside.0;
        let limit = limit_below(report, row).map_or_else(String::new, |(name, ratio)| {
            format!("; bare {name} comes to {} x itself", self::ratio(ratio))
        });
        let row = row.name();
        format!("missed: {} {row}: {busline}, {name} {beside}; owed {target}{limit}", goal.id)
    }));
    lines.extend(report.left_out.iter().map(|what| format!("not measured: {what}")));
    let goals = report.unmeasured().map(|goal| format!("not measured: {} {}", goal.id, goal.row()));
    lines.extend(goals);
    lines
}

/// The bare system calls of the work of a row, if even they are too slow for what is owed, and their ratio.
fn limit_below(report: &Report, row: &Row) -> Option<(&'static str, f64)> {
    use crate::goals::{Bound, Verdict};
    let about = |row: &Row| (row.figure.work.clone(), row.figure.durability, row.figure.unit);
    let bound = row.goal?.bound;
    // What takes longer the more there is of it has no such limit.
    let is_rate = matches!(bound, Bound::RatioAtLeast(..));
    let limits = report.rows.iter().filter(|limit| {
        is_rate && about(limit) == about(row) && limit.figure.beside.0.contains("(2)")
    });
    let limit = limits.max_by(|a, b| a.beside.median().total_cmp(&b.beside.median()))?;
    let (bare, beside) = (limit.beside.median(), row.beside.median());
    let is_below = bound.judge(bare, beside) == Some(Verdict::Missed);
    is_below.then(|| (limit.figure.beside.0, bare / beside))
}

const INTRODUCTION: &str = "\
Written by `cargo xtask bench log --write`, which measures everything here in one run; do not edit.

Each row has the durability that its figures were measured with. Figures of different durability are
never compared: *crash of the process* means that a message is in the page cache, visible to every other
process, when publishing returns; *loss of power* means that it was synced. A figure is the median of the
repetitions, which are interleaved, with the least and the greatest in brackets; a ratio is one of medians.
*asked* is what is owed, and what is aimed at. `write(2)`, `read(2)` and `fdatasync` are bare loops of those
system calls over the same bytes: the limit of the machine. Every reader counts what it reads and sums the
numbers in it.

Peers run in a process of their own, as their manuals say to be fast: SQLite with a write-ahead log, prepared
statements, 64 MiB of cache and its file mapped; LMDB appending to one database, read without a copy or a
checksum; fjall with its defaults; redb with each commit synced, which is what it promises; sea-streamer's file
backend, which never syncs; a Redis server of the run's own over a Unix socket, pipelined, its file never rewritten
meanwhile. The stand-in for Hermes' bus does what that does, without Python: one commit a message, a rollback
journal, a look every half a second; no registry has the bus itself. Iggy has no row: crates.io, PyPI and npm have no server
of it. SQLite's and Redis' claims have an owner; with LMDB and fjall settling is removing.

";

/// Writes the page and the picture.
pub(crate) fn write(root: &Path, context: &Context, report: &Report) -> Result<()> {
    let dir = root.join("docs/bench");
    std::fs::create_dir_all(&dir).map_err(|error| problem(&dir, &error))?;
    let picture = plot::svg(report);
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|error| problem(&path, &error))
    };
    write("log.md", &markdown(context, report, picture.is_some()))?;
    if let Some(picture) = picture {
        write("log.svg", &picture)?;
    }
    let readme = root.join("README.md");
    let text = std::fs::read_to_string(&readme).map_err(|error| problem(&readme, &error))?;
    let text = with_essence(&text, &essence(context, report))?;
    std::fs::write(&readme, text).map_err(|error| problem(&readme, &error))
}

const START: &str = "<!-- bench: written by `cargo xtask bench log --write`, do not edit -->\n";
const END: &str = "<!-- end of the bench -->\n";

/// The README with another table between its marks.
fn with_essence(readme: &str, table: &str) -> Result<String> {
    let parts = readme.split_once(START).and_then(|(before, rest)| {
        rest.split_once(END).map(|(_, after)| format!("{before}{START}\n{table}\n{END}{after}"))
    });
    parts.ok_or_else(|| "README.md has no marks for the table of the benchmarks".to_owned())
}

const BUSY: &str = "\nThe machine was busy with other work while this was measured: the figures are low, and \
                    their ratios rough.\n";

/// A row for each work that the picture shows: the log, the limit of the machine, the best of the others.
fn essence(context: &Context, report: &Report) -> String {
    let mut text =
        "| messages a second | survives | Busline | bare system calls | best of the others |\n\
                    |---|---|---|---|---|\n"
            .to_owned();
    for group in plot::groups(report) {
        let Some(busline) = group.best(Kind::Busline) else { continue };
        let cell = |kind| match group.best(kind) {
            Some(bar) => {
                let times = ratio(busline.value / bar.value);
                format!("{} ({}): {times} x", number(bar.value), bar.label)
            }
            None => "-".to_owned(),
        };
        text += &format!(
            "| {} | {} | **{}** | {} | {} |\n",
            group.work,
            if group.durability.is_empty() { "-" } else { group.durability },
            number(busline.value),
            cell(Kind::Limit),
            cell(Kind::Peer),
        );
    }
    if context.is_busy {
        text += BUSY;
    }
    text
}

fn markdown(context: &Context, report: &Report, has_picture: bool) -> String {
    let mut text = format!("# The embedded log, measured\n\n{INTRODUCTION}");
    for line in &context.lines {
        text += &format!("- {line}\n");
    }
    text += "\n";
    if has_picture {
        text += "![Busline beside the limit of the machine and other stores](log.svg)\n\n";
    }
    text += "## Goals\n\n";
    for line in verdicts(report) {
        text += &format!("- {line}\n");
    }
    for table in report.tables() {
        text += &format!("\n## {table}\n\n");
        text += "| goal | work | durability | unit | Busline | beside it | | ratio | asked | |\n";
        text += "|---|---|---|---|---|---|---|---|---|---|\n";
        for row in report.rows.iter().filter(|row| row.figure.table == table) {
            text += &markdown_row(row);
        }
    }
    text
}

fn markdown_row(row: &Row) -> String {
    let (id, asked) =
        row.goal.map_or(("", String::new()), |goal| (goal.id, goal.bound.texts().join(", ")));
    let verdict = row.verdict().map(|verdict| verdict.to_string()).unwrap_or_default();
    let figure = &row.figure;
    let (busline, beside) = (with_spread(&row.busline), with_spread(&row.beside));
    let cells = [
        id,
        &figure.work,
        figure.durability,
        figure.unit,
        &busline,
        figure.beside.0,
        &beside,
        &ratio(row.ratio()),
        &asked,
        &verdict,
    ];
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goals;
    use crate::report::Figure;

    fn report() -> Report {
        let mut report = Report::default();
        for (beside, figure) in [("write(2) each", 4.0), ("fjall, one a call", 0.5)] {
            report.add(Figure {
                table: "Throughput",
                work: "publish 100 B, one a call".to_owned(),
                durability: goals::PROCESS,
                unit: "msg/s",
                busline: 1.0,
                beside: (beside, figure),
            });
        }
        report.leave_out("Redis: it is not installed".to_owned());
        report
    }

    #[test]
    fn what_is_missed_and_what_was_not_measured_is_said() {
        let lines = verdicts(&report());
        assert_eq!(
            lines[..3],
            [
                "1 rows have a goal: 0 reach it, 0 reach the target that is owed, 1 miss it",
                "missed: G3 publish 100 B, one a call, crash of the process, msg/s: 1.00, \
                 write(2) each 4.00; owed >= 0.6 x",
                "not measured: Redis: it is not installed",
            ]
        );
        assert_eq!(lines.len(), 3 + goals::all().len() - 1);
    }

    #[test]
    fn what_the_machine_cannot_is_said() {
        let mut report = report();
        report
            .compare(
                ["publish 100 B, one a call", goals::PROCESS, "msg/s"],
                ("SQLite NORMAL, one a commit", 0.4),
            )
            .expect("the work was measured");
        let lines = verdicts(&report);
        let missed = "missed: G3 publish 100 B, one a call, crash of the process, msg/s: 1.00, SQLite NORMAL, one a \
                      commit 0.40; owed >= 20 x; bare write(2) each comes to 10.0 x itself";
        assert!(lines.iter().any(|line| line == missed), "{lines:?}");
    }

    #[test]
    fn a_row_is_a_line_of_json() {
        let context = Context { lines: vec!["machine".to_owned()], ..Context::default() };
        let text = json_lines(&context, &report());
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["context"][0], "machine");
        assert_eq!(lines[1]["goal"]["verdict"], "MISSED");
        assert_eq!(lines[2]["beside_it"]["median"], 0.5);
    }

    #[test]
    fn the_readme_gets_the_essence() {
        let readme = format!("# A\n{START}old\n{END}end\n");
        let context = Context::default();
        let text = with_essence(&readme, &essence(&context, &report())).expect("it has marks");
        let row = "| publish 100 B, one a call | crash of the process | **1.00** | \
                   4.00 (write(2) each): 0.25 x | 0.50 (fjall, one a call): 2.00 x |\n";
        assert!(text.starts_with("# A\n") && text.ends_with("end\n"), "{text}");
        assert!(text.contains(row) && !text.contains("old"), "{text}");
        assert!(with_essence("# A\n", "").is_err());
        let busy = Context { is_busy: true, ..context };
        assert!(!text.contains("was busy") && essence(&busy, &report()).contains("was busy"));
    }

    #[test]
    fn the_page_has_every_row() {
        let page = markdown(&Context::default(), &report(), true);
        assert!(page.contains("| G3 | publish 100 B, one a call | crash of the process | msg/s | 1.00 (1.00..1.00) | write(2) each |"), "{page}");
        assert!(page.contains("| 2.00 |  |  |\n"), "{page}");
    }
}
