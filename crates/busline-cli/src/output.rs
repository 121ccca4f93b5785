//! What goes to standard output and standard error: the only place that prints.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use owo_colors::{OwoColorize, Style};
use serde::Serialize;

/// Standard output: JSON lines, or text for people.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colored: bool,
    stdout: BufWriter<Stdout>,
}

impl Output {
    /// Standard output; coloured only for a terminal, and never against `NO_COLOR`.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let choice = anstream::AutoStream::choice(&stdout);
        let colored = !json && choice != anstream::ColorChoice::Never;
        Self { json, colored, stdout: BufWriter::with_capacity(64 << 10, stdout) }
    }

    /// Whether JSON lines were asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One JSON object on one line.
    pub(crate) fn line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        self.stdout.write_all(b"\n")
    }

    /// Text for people, and a line end.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.write_all(b"\n")
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// Hands everything to who reads: before waiting, and before settling what was shown.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// The text in a style, where colours are shown.
    pub(crate) fn styled(&self, text: &str, style: Style) -> String {
        if self.colored { text.style(style).to_string() } else { text.to_owned() }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Verbs flush and see the error; this is for those that ended with another one.
        drop(self.stdout.flush());
    }
}

/// An error for people, on one line.
pub(crate) fn error(message: &str) {
    to_stderr("error: ", message, Style::new().red().bold());
}

/// Something to know that is no error.
pub(crate) fn note(message: &str) {
    to_stderr("", message, Style::new());
}

/// Something that may go wrong.
pub(crate) fn warning(message: &str) {
    to_stderr("warning: ", message, Style::new().yellow().bold());
}

fn to_stderr(label: &str, message: &str, style: Style) {
    let mut stderr = anstream::stderr().lock();
    let message = one_line(message);
    // When standard error is gone there is nobody left to tell.
    let _ = writeln!(stderr, "{}{message}", label.style(style));
}

/// Asks on a terminal; `None` where there is none to ask on.
pub(crate) fn confirm(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let stderr = io::stderr();
    // Who keeps the errors in a file is still there to be asked.
    let terminal: io::Result<Box<dyn Write>> = match stderr.is_terminal() {
        true => Ok(Box::new(stderr)),
        false => File::options().write(true).open("/dev/tty").map(|tty| Box::new(tty) as _),
    };
    let Ok(mut terminal) = terminal else { return Ok(Some(false)) };
    write!(terminal, "{} [y/N] ", one_line(question))?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
}

/// The text without what would break a line or steer a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_steers_no_terminal() {
        assert_eq!(one_line("a\nb\t\u{1b}[31mü"), "a b \\u{1b}[31mü");
    }
}
