//! `cargo xtask test`: every test of the workspace, and a plain summary at the end.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::{Result, brokers, python, redis, shell};

/// Set to 1 for tests that have a long form.
const LONG: &str = "BUSLINE_LONG";

/// What a line of a test's output starts with when it says that something was left out.
const SKIP_PREFIX: &str = "skip: ";

/// Conformance cases say so in the line of the case.
const CASE_PREFIX: &str = "case ";
const CASE_SKIPPED: &str = " ... skipped: ";

/// Runs all tests; `--long` at full length, other arguments go to `cargo test`.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let long = arguments.contains(&"--long");
    let rest: Vec<_> = arguments.iter().copied().filter(|argument| *argument != "--long").collect();
    run_with(long, brokers::required(), &rest).map(|_| ())
}

/// Runs all tests and says what was skipped, if anything.
pub(crate) fn run_with(long: bool, required: bool, rest: &[&str]) -> Result<Option<String>> {
    // Somebody without them still runs everything else; what is skipped then is said below.
    let services = brokers::wanted();
    let mut started = match brokers::start(&services) {
        Err(error) if required => return Err(error),
        Err(error) => {
            println!("{error}");
            None
        }
        Ok(started) => Some(started),
    };
    let probes = brokers::probe_all(&services);
    brokers::report(&probes);
    let result =
        brokers::demand(&probes, required).and_then(|()| cargo_test(long, required, rest, &probes));
    let stopped = started.as_mut().map_or(Ok(()), brokers::Started::stop);
    result.and_then(|left_out| stopped.map(|()| left_out))
}

fn cargo_test(
    long: bool,
    required: bool,
    rest: &[&str],
    probes: &[brokers::Probe],
) -> Result<Option<String>> {
    let standard = ["test", "--workspace", "--all-features", "--no-fail-fast"];
    let mut command = shell::cargo(standard.into_iter().chain(rest.iter().copied()));
    if !rest.contains(&"--") {
        // What passing tests print is looked through for cases that were skipped.
        command.args(["--", "--show-output"]);
    }
    if long {
        command.env(LONG, "1");
    }
    if required {
        command.env(brokers::REQUIRE, "1");
    }
    command.envs(brokers::directories());
    match python::ready() {
        Ok(python) => drop(command.env(python::VARIABLE, python)),
        Err(error) if required => return Err(error),
        Err(error) => println!("Python is not ready, what needs it is SKIPPED: {error}"),
    }
    match redis::ready() {
        Ok(server) => drop(command.env(redis::VARIABLE, server)),
        Err(error) if required => return Err(error),
        Err(error) => println!("Redis is not ready, what needs it is SKIPPED: {error}"),
    }
    println!("$ {}", shell::line(&command));
    let start_error = |error| format!("cannot start cargo test: {error}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(start_error)?;
    let mut summary = Summary::default();
    let stdout = child.stdout.take().expect("it is piped");
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.map_err(|error| format!("cannot read what cargo test prints: {error}"))?;
        let line = String::from_utf8_lossy(&line);
        if summary.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait().map_err(|error| format!("cargo test got lost: {error}"))?;
    summary.missing = brokers::missing(probes);
    print!("\n{}", summary.text(long));
    if !status.success() {
        return Err(format!("tests failed ({status})"));
    }
    if summary.passed == 0 && rest.is_empty() {
        return Err("no test ran".to_owned());
    }
    Ok(summary.left_out())
}

/// What the test binaries said about themselves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    binaries: u64,
    failures: Vec<String>,
    skips: Vec<String>,
    /// What running the conformance suite came to, a line a profile.
    contracts: Vec<String>,
    missing: Vec<&'static str>,
    /// Whether the lines are what passing tests have printed.
    in_successes: bool,
    /// The test whose output the lines are.
    test: String,
}

impl Summary {
    /// Takes in one line; whether it is for people to see.
    fn line(&mut self, line: &str) -> bool {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.binaries += 1;
            self.passed += count(result, " passed");
            self.failed += count(result, " failed");
            self.ignored += count(result, " ignored");
            self.in_successes = false;
        } else if line == "successes:" || line == "failures:" {
            self.in_successes = line == "successes:";
        } else if let Some(test) = between(line, "---- ", " stdout ----") {
            test.clone_into(&mut self.test);
        } else if let Some(test) = between(line, "test ", " ... FAILED") {
            self.failures.push(test.to_owned());
        } else if let Some((test, why)) =
            line.strip_prefix("test ").and_then(|test| test.split_once(" ... ignored"))
        {
            self.skips.push(format!("{test}{why}"));
        } else {
            self.printed(line);
        }
        !self.in_successes
    }

    /// Takes in a line that a test has printed.
    fn printed(&mut self, line: &str) {
        let case = line.strip_prefix(CASE_PREFIX).and_then(|case| case.split_once(CASE_SKIPPED));
        if let Some((case, why)) = case {
            let capability = case.split_once(": ").map_or(case, |(capability, _)| capability);
            self.skips.push(format!("{}, {capability}: {why}", self.test));
        } else if let Some(skip) = line.trim_start().strip_prefix(SKIP_PREFIX) {
            self.skips.push(skip.to_owned());
        } else if line.ends_with(" skipped") && line.contains(" passed, ") {
            self.contracts.push(line.to_owned());
        }
    }

    fn left_out(&self) -> Option<String> {
        match (self.skips.len(), self.missing.as_slice()) {
            (0, []) => None,
            (0, missing) => Some(missing.join(", ")),
            (skips, []) => Some(format!("{skips} cases")),
            (skips, missing) => Some(format!("{}, {skips} cases", missing.join(", "))),
        }
    }

    fn text(&self, long: bool) -> String {
        let mut text = format!(
            "tests: {} passed, {} failed, {} ignored, in {} binaries and documents{}\n",
            self.passed,
            self.failed,
            self.ignored,
            self.binaries,
            if long { ", long" } else { "" },
        );
        for failure in &self.failures {
            text += &format!("failed: {failure}\n");
        }
        for contract in &self.contracts {
            text += &format!("contract: {contract}\n");
        }
        // Many cases of one promise are skipped for one reason.
        let mut skips: Vec<(&String, u64)> = Vec::new();
        for skip in &self.skips {
            match skips.iter_mut().find(|(seen, _)| *seen == skip) {
                Some((_, times)) => *times += 1,
                None => skips.push((skip, 1)),
            }
        }
        for (skip, times) in skips {
            let times = if times == 1 { String::new() } else { format!("{times} x ") };
            text += &format!("skipped: {times}{skip}\n");
        }
        for broker in &self.missing {
            text += &format!("skipped: everything that needs {broker}, which was not reached\n");
        }
        text
    }
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix(end)
}

/// The number before `what` in a result line of libtest.
fn count(result: &str, what: &str) -> u64 {
    let before = result.split(';').find_map(|part| part.trim_end().strip_suffix(what));
    let number = before.and_then(|before| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(output: &str) -> Summary {
        let mut summary = Summary::default();
        for line in output.lines() {
            summary.line(line);
        }
        summary
    }

    #[test]
    fn skipped_cases_are_found_in_the_output_of_passing_tests() {
        let output = "running 1 test\ntest toy::keeps ... ok\n\nsuccesses:\n\n\
                      ---- toy::keeps stdout ----\ncase order: a name ... ok\n\
                      case replay: reads ... skipped: replay is refused: use file:\n\
                      case replay: seeks ... skipped: replay is refused: use file:\n\
                      toy: 1 passed, 0 failed, 2 skipped\n\n\nsuccesses:\n    toy::keeps\n\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored\n";
        let mut summary = Summary::default();
        let shown: Vec<_> = output.lines().filter(|line| summary.line(line)).collect();
        let result = "test result: ok. 1 passed; 0 failed; 0 ignored";
        assert_eq!(shown, ["running 1 test", "test toy::keeps ... ok", "", result]);
        assert_eq!(
            summary.text(false),
            "tests: 1 passed, 0 failed, 0 ignored, in 1 binaries and documents\n\
             contract: toy: 1 passed, 0 failed, 2 skipped\n\
             skipped: 2 x toy::keeps, replay: replay is refused: use file:\n"
        );
    }

    #[test]
    fn results_of_all_binaries_add_up() {
        let summary = summary(
            "test a ... ok\ntest b::c ... FAILED\n\
             skip: replay on memory: refused\n\
             test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!(
            summary.text(false),
            "tests: 43 passed, 1 failed, 2 ignored, in 2 binaries and documents\n\
             failed: b::c\nskipped: replay on memory: refused\n"
        );
        assert_eq!(summary.left_out(), Some("1 cases".to_owned()));
    }

    #[test]
    fn missing_brokers_are_named() {
        let summary = Summary { passed: 1, missing: vec!["TestMQ"], ..Summary::default() };
        assert!(
            summary
                .text(true)
                .ends_with("skipped: everything that needs TestMQ, which was not reached\n")
        );
        assert_eq!(summary.left_out(), Some("TestMQ".to_owned()));
    }
}
