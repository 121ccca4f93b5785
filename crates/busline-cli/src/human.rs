//! Figures and tables for people.

use std::time::Duration;

use busline::Timestamp;
use comfy_table::{CellAlignment, Table, presets};

/// A table without borders: the columns after the first `left` ones hold figures.
pub(crate) fn table(header: &[&str], left: usize, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| crate::output::one_line(cell)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A count with groups of three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a figure of at least one.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// How long, in the unit that fits.
pub(crate) fn span(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", us as f64 / 1e6),
        _ => {
            let s = duration.as_secs();
            let (d, h, m, s) = (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60);
            match (d, h) {
                (0, 0) => format!("{m}m {s}s"),
                (0, _) => format!("{h}h {m}m"),
                _ => format!("{d}d {h}h"),
            }
        }
    }
}

/// How long ago, or when it is in the future, that.
pub(crate) fn ago(time: Timestamp, now: Timestamp) -> String {
    let us = now.unix_us().saturating_sub(time.unix_us());
    match u64::try_from(us) {
        Ok(us) => span(Duration::from_micros(us)),
        Err(_) => "in the future".to_owned(),
    }
}

/// `1 message`, `2 messages`, `2 deliveries`.
pub(crate) fn plural(number: u64, one: &str) -> String {
    let number_text = count(number);
    match one.strip_suffix('y') {
        _ if number == 1 => format!("{number_text} {one}"),
        Some(stem) => format!("{number_text} {stem}ies"),
        None => format!("{number_text} {one}s"),
    }
}

/// The beginning of a text, where all of it would spoil a table.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(
            [count(0), count(999), count(1000), count(1_234_567)].join(" "),
            "0 999 1,000 1,234,567"
        );
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(span(Duration::from_micros(1500)), "1.5 ms");
        assert_eq!(span(Duration::from_secs(90)), "1m 30s");
        assert_eq!(plural(1, "message"), "1 message");
        assert_eq!(plural(2000, "message"), "2,000 messages");
        assert_eq!(
            (plural(1, "delivery"), plural(3, "delivery")),
            ("1 delivery".to_owned(), "3 deliveries".to_owned())
        );
        assert_eq!([shortened("üü", 2), shortened("üüü", 2)], ["üü", "üü…"]);
    }

    #[test]
    fn tables_align() {
        let rows =
            vec![vec!["a".to_owned(), "10".to_owned()], vec!["bb".to_owned(), "5".to_owned()]];
        assert_eq!(table(&["name", "n"], 1, rows), "name   n\na     10\nbb     5");
    }
}
