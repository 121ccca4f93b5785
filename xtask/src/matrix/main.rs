//! `cargo xtask matrix`: the capability matrix of the README, generated from what transports report.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use busline_core::{Capabilities, Capability, Lease, OrderScope, Support};

const START: &str = "<!-- matrix: written by `cargo xtask matrix`, do not edit -->\n";
const END: &str = "<!-- end of the matrix -->\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => write(&readme()),
        ["--check"] => check(&readme()),
        _ => Err("usage: cargo xtask matrix [--check]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

fn write(path: &Path) -> Result<(), String> {
    let text = read(path)?;
    let wanted = replaced(&text, &matrix(&busline_transports::registry::profiles()))?;
    if wanted == text {
        println!("the matrix in README.md is up to date");
        return Ok(());
    }
    println!("the matrix in README.md is written anew");
    std::fs::write(path, wanted).map_err(|error| format!("{}: {error}", path.display()))
}

fn check(path: &Path) -> Result<(), String> {
    let text = read(path)?;
    if replaced(&text, &matrix(&busline_transports::registry::profiles()))? == text {
        return Ok(());
    }
    Err("the matrix in README.md is not what the transports report: run `cargo xtask matrix`"
        .into())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The document with what stands between the markers replaced.
fn replaced(document: &str, matrix: &str) -> Result<String, String> {
    let parts = document.split_once(START).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or("README.md has lost the markers of the matrix")?;
    Ok(format!("{before}{START}\n{matrix}\n{END}{after}"))
}

/// A column for each profile, a row for each promise, and the notes below.
fn matrix(profiles: &[Capabilities]) -> String {
    let row = |name: &str, cell: &dyn Fn(&Capabilities) -> String| {
        let cells: Vec<_> = profiles.iter().map(cell).collect();
        format!("| {name} | {} |\n", cells.join(" | "))
    };
    let mut text = row("promise", &|profile| format!("`{}`", profile.profile));
    text += &format!("|---|{}\n", "---|".repeat(profiles.len()));
    text += &row("a receipt survives", &|profile| survives(profile).to_owned());
    text += &row("order reaches", &|profile| match profile.order_scope {
        OrderScope::Topic => "the whole topic".to_owned(),
        OrderScope::Key => "the ordering key".to_owned(),
    });
    text += &row("a delivery is held", &held);
    for capability in Capability::ALL {
        text += &row(capability.as_str(), &|profile| profile.get(*capability).as_str().to_owned());
    }
    let notes: String = profiles.iter().map(notes).collect();
    if notes.is_empty() { text } else { format!("{text}\n{notes}") }
}

fn survives(profile: &Capabilities) -> &'static str {
    match profile.durability.as_str() {
        "memory" => "nothing",
        "process" => "the death of every process",
        "power" => "loss of power",
        "replicated" => "loss of a machine",
        other => other,
    }
}

fn held(profile: &Capabilities) -> String {
    match profile.lease {
        Lease::None => "while its session lives".to_owned(),
        Lease::Renewable(lease) => format!("{} s, renewed", lease.as_secs_f64()),
        Lease::Fixed(lease) => format!("{} s at most", lease.as_secs_f64()),
    }
}

/// How promises are emulated, and the way out where they are refused.
fn notes(profile: &Capabilities) -> String {
    let note = |(capability, support): (Capability, Support)| {
        let note = support.note()?;
        Some(format!("- `{}`, {capability}: {}; {note}.\n", profile.profile, support.as_str()))
    };
    profile.iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use busline_core::{Durability, Limits};

    use super::*;

    #[test]
    fn the_readme_shows_what_the_transports_report() {
        assert_eq!(check(&readme()), Ok(()));
    }

    #[test]
    fn profiles_become_columns_and_notes() {
        let mut toy = Capabilities::all("toy:", Durability::Power, Limits::default())
            .set(Capability::Replay, Support::Refused("use file:"));
        toy.lease = Lease::Renewable(Duration::from_secs(30));
        let memory = Capabilities::all("memory:", Durability::Memory, Limits::default());
        let text = matrix(&[memory, toy]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "| promise | `memory:` | `toy:` |",
                "|---|---|---|",
                "| a receipt survives | nothing | loss of power |",
                "| order reaches | the whole topic | the whole topic |",
                "| a delivery is held | while its session lives | 30 s, renewed |",
            ]
        );
        assert!(lines.contains(&"| replay | native | refused |"));
        assert_eq!(lines.last(), Some(&"- `toy:`, replay: refused; use file:."));
    }

    #[test]
    fn an_old_matrix_is_found_and_replaced() {
        let document = format!("a\n{START}old\n{END}b\n");
        let new = replaced(&document, "| new |\n").unwrap();
        assert_eq!(new, format!("a\n{START}\n| new |\n\n{END}b\n"));
        assert_eq!(replaced(&new, "| new |\n"), Ok(new.clone()));
        assert!(replaced("a\n", "").is_err());
    }
}
