//! The figures of all repetitions, as tables.

use crate::Result;
use crate::goals::{self, Goal, Verdict};
use crate::measure::Samples;

/// One figure of one repetition, with what it is compared to.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// The table it belongs to.
    pub(crate) table: &'static str,
    /// What was done.
    pub(crate) work: String,
    /// What a message that was published had survived when publishing returned; empty if none was.
    pub(crate) durability: &'static str,
    /// The unit of both figures.
    pub(crate) unit: &'static str,
    /// What Busline came to, in the latest repetition.
    pub(crate) busline: f64,
    /// What it is compared to, measured in the same repetition.
    pub(crate) beside: (&'static str, f64),
}

/// All repetitions of a figure.
#[derive(Debug)]
pub(crate) struct Row {
    /// What it is; its figures are those of one repetition.
    pub(crate) figure: Figure,
    /// What Busline came to.
    pub(crate) busline: Samples,
    /// What it is compared to.
    pub(crate) beside: Samples,
    /// What the row is to come to.
    pub(crate) goal: Option<&'static Goal>,
}

/// All figures.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// In the order in which they came.
    pub(crate) rows: Vec<Row>,
    /// What was not measured, and why; each once.
    pub(crate) left_out: Vec<String>,
}

impl Report {
    /// Adds a figure to the repetitions of its row.
    pub(crate) fn add(&mut self, figure: Figure) {
        let is_work = |row: &Row| {
            row.figure.table == figure.table
                && row.figure.work == figure.work
                && row.figure.durability == figure.durability
                && row.figure.unit == figure.unit
        };
        let is_row = |row: &Row| is_work(row) && row.figure.beside.0 == figure.beside.0;
        let (busline, beside) = (figure.busline, figure.beside.1);
        let found = self.rows.iter().position(is_row);
        // What is compared with one work stands together.
        let last = self.rows.iter().rposition(is_work);
        let at = found.unwrap_or_else(|| {
            let at = last.map_or(self.rows.len(), |last| last + 1);
            let goal = goals::of(&figure.work, figure.durability, figure.unit, figure.beside.0);
            let (busline, beside) = Default::default();
            self.rows.insert(at, Row { figure, busline, beside, goal });
            at
        });
        self.rows[at].figure.busline = busline;
        self.rows[at].busline.add(busline);
        self.rows[at].beside.add(beside);
    }

    /// Adds a row for something else beside a figure that this repetition has added already.
    pub(crate) fn compare(
        &mut self,
        [work, durability, unit]: [&str; 3],
        beside: (&'static str, f64),
    ) -> Result<()> {
        let is_it = |row: &&Row| {
            (row.figure.work.as_str(), row.figure.durability, row.figure.unit)
                == (work, durability, unit)
        };
        let row = self.rows.iter().find(is_it);
        let row =
            row.ok_or_else(|| format!("nothing was measured of {work}, {durability}, {unit}"))?;
        self.add(Figure { beside, ..row.figure.clone() });
        Ok(())
    }

    /// Notes what was not measured.
    pub(crate) fn leave_out(&mut self, what: String) {
        if !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }

    /// The names of the tables, in the order in which they came.
    pub(crate) fn tables(&self) -> Vec<&'static str> {
        let mut tables = Vec::new();
        for row in &self.rows {
            if !tables.contains(&row.figure.table) {
                tables.push(row.figure.table);
            }
        }
        tables
    }

    /// The goals that no row was for.
    pub(crate) fn unmeasured(&self) -> impl Iterator<Item = &'static Goal> {
        let is_measured = |goal: &Goal| {
            self.rows.iter().filter_map(|row| row.goal).any(|of| std::ptr::eq(of, goal))
        };
        goals::all().iter().filter(move |goal| !is_measured(goal))
    }

    /// The tables: medians, in brackets the least and the greatest, and the ratio of the medians.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for table in self.tables() {
            let rows = self.rows.iter().filter(|row| row.figure.table == table);
            let header =
                ["goal", "work", "durability", "unit", "busline", "beside it", "", "ratio"];
            let mut cells = vec![
                [&header[..], &["asked", ""]]
                    .concat()
                    .iter()
                    .map(|cell| (*cell).to_owned())
                    .collect(),
            ];
            cells.extend(rows.map(Row::cells));
            text += &format!("{table}\n{}\n", align(&cells));
        }
        text
    }
}

impl Row {
    /// Busline's median over that of what stands beside it.
    pub(crate) fn ratio(&self) -> f64 {
        self.busline.median() / self.beside.median()
    }

    /// What it is a figure of.
    pub(crate) fn name(&self) -> String {
        let Figure { work, durability, unit, .. } = &self.figure;
        let parts = [work.as_str(), durability, unit];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// Whether the medians are what was asked.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.goal?.bound.judge(self.busline.median(), self.beside.median())
    }

    fn cells(&self) -> Vec<String> {
        let figure = &self.figure;
        let verdict = self.verdict().map(|verdict| verdict.to_string());
        vec![
            self.goal.map(|goal| goal.id.to_owned()).unwrap_or_default(),
            figure.work.clone(),
            figure.durability.to_owned(),
            figure.unit.to_owned(),
            with_spread(&self.busline),
            figure.beside.0.to_owned(),
            with_spread(&self.beside),
            ratio(self.ratio()),
            self.goal.map(|goal| goal.bound.texts().join(", ")).unwrap_or_default(),
            verdict.unwrap_or_default(),
        ]
    }
}

/// A ratio for people.
pub(crate) fn ratio(ratio: f64) -> String {
    if ratio.is_finite() { number(ratio) } else { "-".to_owned() }
}

/// A median, and in brackets the least and the greatest.
pub(crate) fn with_spread(samples: &Samples) -> String {
    let (least, greatest) = samples.spread();
    format!("{} ({}..{})", number(samples.median()), number(least), number(greatest))
}

/// Three digits, with `k` and `M` for thousands and millions.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    let (value, letter) = match value {
        _ if value >= 999_500.0 => (value / 1e6, "M"),
        _ if value >= 9_995.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$}{letter}")
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(table: &'static str, busline: f64, limit: f64) -> Figure {
        Figure {
            table,
            work: "publish".to_owned(),
            durability: "process",
            unit: "msg/s",
            busline,
            beside: ("write(2)", limit),
        }
    }

    #[test]
    fn repetitions_of_a_figure_become_one_row() {
        let mut report = Report::default();
        report.add(figure("one", 50.0, 100.0));
        report.add(figure("two", 1.0, f64::NAN));
        report.add(figure("one", 70.0, 300.0));
        report.add(figure("one", 60.0, 200.0));
        let text = report.text();
        let words: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let header = "goal work durability unit busline beside it ratio asked";
        assert_eq!(
            words,
            [
                "one",
                header,
                "publish process msg/s 60.0 (50.0..70.0) write(2) 200 (100..300) 0.30",
                "",
                "two",
                header,
                "publish process msg/s 1.00 (1.00..1.00) write(2) ? (?..?) -",
                "",
            ]
        );
    }

    #[test]
    fn numbers_are_readable() {
        let cases = [
            (0.5, "0.50"),
            (12.34, "12.3"),
            (999.6, "1000"),
            (45_678.0, "45.7k"),
            (999_600.0, "1.00M"),
            (12_345_678.0, "12.3M"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(123.0), "123");
        assert_eq!(number(f64::NAN), "?");
    }
}
