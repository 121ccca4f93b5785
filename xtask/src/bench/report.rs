//! The figures of all repetitions, as tables.

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
    /// What Busline came to.
    pub(crate) busline: f64,
    /// What it is compared to, measured in the same repetition.
    pub(crate) beside: (&'static str, f64),
}

#[derive(Debug)]
struct Row {
    figure: Figure,
    busline: Samples,
    beside: Samples,
}

/// All figures.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure to the repetitions of its row.
    pub(crate) fn add(&mut self, figure: Figure) {
        let is_row = |row: &Row| {
            row.figure.table == figure.table
                && row.figure.work == figure.work
                && row.figure.durability == figure.durability
                && row.figure.unit == figure.unit
        };
        let (busline, beside) = (figure.busline, figure.beside.1);
        let at = self.rows.iter().position(is_row).unwrap_or_else(|| {
            let (busline, beside) = Default::default();
            self.rows.push(Row { figure, busline, beside });
            self.rows.len() - 1
        });
        self.rows[at].busline.add(busline);
        self.rows[at].beside.add(beside);
    }

    /// The tables: medians, in brackets the least and the greatest, and the ratio of the medians.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut tables: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !tables.contains(&row.figure.table) {
                tables.push(row.figure.table);
            }
        }
        for table in tables {
            let rows = self.rows.iter().filter(|row| row.figure.table == table);
            let header = ["work", "durability", "unit", "busline", "beside it", "", "ratio"];
            let mut cells = vec![header.map(str::to_owned)];
            cells.extend(rows.map(Row::cells));
            text += &format!("{table}\n{}\n", align(&cells));
        }
        text
    }
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let figure = &self.figure;
        let ratio = self.busline.median() / self.beside.median();
        [
            figure.work.clone(),
            figure.durability.to_owned(),
            figure.unit.to_owned(),
            with_spread(&self.busline),
            figure.beside.0.to_owned(),
            with_spread(&self.beside),
            if ratio.is_finite() { format!("{ratio:.2}") } else { "-".to_owned() },
        ]
    }
}

fn with_spread(samples: &Samples) -> String {
    let (least, greatest) = samples.spread();
    format!("{} ({}..{})", number(samples.median()), number(least), number(greatest))
}

/// Three digits, with `k` and `M` for thousands and millions.
fn number(value: f64) -> String {
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

fn align(rows: &[[String; 7]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
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
        let header = "work durability unit busline beside it ratio";
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
