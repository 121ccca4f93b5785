//! Running commands and steps, with their time.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;
use crate::workspace;

/// A cargo command in the root of the workspace; the same cargo that runs this tool.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace::root());
    // Set by the `cargo run` that this tool lives in: it would fool build scripts and tests.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let environment = command.get_envs().filter_map(|(name, value)| {
        value
            .map(|value| format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())))
    });
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| quoted(&argument.to_string_lossy()));
    environment.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn quoted(text: &str) -> String {
    if text.contains(' ') { format!("'{text}'") } else { text.to_owned() }
}

/// Says what it runs, runs it, and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    println!("$ {line}");
    let status = command.status().map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// Its standard output; standard error goes to the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{line}` failed: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{line}` did not print UTF-8"))
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It holds.
    Passed,
    /// It holds, but something was left out: this.
    Skipped(String),
    /// It does not hold, because of this.
    Failed(String),
}

/// Steps that all run, whatever happens to those before, and the table of how they ended.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    ended: Vec<(&'static str, Ended, Duration)>,
}

impl Steps {
    /// Runs a step; `Ok(Some(what))` names what it had to leave out.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        run: impl FnOnce() -> Result<Option<String>>,
    ) {
        println!("\n== {name}");
        #[allow(clippy::disallowed_methods, reason = "a person wants to know how long it took")]
        let start = Instant::now();
        let ended = match run() {
            Ok(None) => Ended::Passed,
            Ok(Some(left_out)) => Ended::Skipped(left_out),
            Err(message) => Ended::Failed(message),
        };
        let took = start.elapsed();
        let word = match &ended {
            Ended::Passed => "ok".to_owned(),
            Ended::Skipped(what) => format!("ok, without {what}"),
            Ended::Failed(message) => format!("FAILED: {message}"),
        };
        println!("== {name}: {word} ({})", seconds(took));
        self.ended.push((name, ended, took));
    }

    /// The table at the end.
    pub(crate) fn table(&self) -> String {
        let width = self.ended.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        let mut table = String::new();
        let mut total = Duration::ZERO;
        for (name, ended, took) in &self.ended {
            total += *took;
            let word = match ended {
                Ended::Passed => "ok".to_owned(),
                Ended::Skipped(what) => format!("ok       without {what}"),
                Ended::Failed(message) => {
                    format!("FAILED   {}", message.lines().next().unwrap_or_default())
                }
            };
            table += &format!("{name:width$}  {:>8}  {word}\n", seconds(*took));
        }
        table + &format!("{:width$}  {:>8}\n", "total", seconds(total))
    }

    /// Fails when a step did.
    pub(crate) fn verdict(&self) -> Result<()> {
        let failed: Vec<_> = self
            .ended
            .iter()
            .filter(|(_, ended, _)| matches!(ended, Ended::Failed(_)))
            .map(|(name, ..)| *name)
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_runs_and_the_verdict_names_those_that_failed() {
        let mut steps = Steps::default();
        let mut ran = 0;
        steps.step("one", || {
            ran += 1;
            Err("no\nmore".to_owned())
        });
        steps.step("two", || {
            ran += 1;
            Ok(Some("advisories".to_owned()))
        });
        steps.step("three", || {
            ran += 1;
            Ok(None)
        });
        assert_eq!(ran, 3);
        assert_eq!(steps.verdict(), Err("failed: one".to_owned()));
        let table = steps.table();
        let words: Vec<_> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let words: Vec<Vec<&str>> = words;
        assert_eq!(words[0][0..1], ["one"]);
        assert_eq!(words[0][3..], ["FAILED", "no"]);
        assert_eq!(words[1][3..], ["ok", "without", "advisories"]);
        assert_eq!(words[2][3..], ["ok"]);
        assert_eq!(words[3][0], "total");
    }

    #[test]
    fn a_command_reads_as_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(line(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }

    #[test]
    fn a_command_that_fails_or_is_missing_is_an_error_that_names_it() {
        let error = run(&mut Command::new("no-such-program-of-busline")).unwrap_err();
        assert!(error.contains("cannot start `no-such-program-of-busline`"), "{error}");
        let error = run(cargo(["no-such-verb"]).stderr(std::process::Stdio::null())).unwrap_err();
        assert!(error.contains("cargo no-such-verb` failed"), "{error}");
    }
}
