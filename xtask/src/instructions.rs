//! `cargo xtask instructions`: how many instructions a message takes, held to figures that the tree keeps.
//!
//! Time depends on the machine and on what else it does; the number of instructions does not. It is counted
//! by callgrind, over a small and a large run of the same work: the difference is what the messages take.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::{Result, shell, workspace};

/// Where the figures are, from the root.
const FILE: &str = "xtask/instructions.toml";

const WORKS: &[&str] = &["publish", "publish-one", "read", "settle"];

/// A figure may differ by this part of it, up or down, before somebody has to look.
const TOLERANCE_PERCENT: u64 = 5;

const MESSAGES: u64 = 10_000;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Figures {
    /// Other compilers make other instructions.
    compiler: String,
    /// Instructions of one message, by work.
    instructions: BTreeMap<String, u64>,
}

/// Runs the check, or renews the figures.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let target = workspace::read()?.target;
    match arguments {
        [] => check(&target, false).map(|left_out| {
            if let Some(left_out) = left_out {
                println!("SKIPPED: {left_out}");
            }
        }),
        ["--renew"] => renew(&target),
        other => Err(format!("'{}': only --renew is known", other.join(" "))),
    }
}

/// Counts and compares; says what was left out, which is an error where everything is `required`.
pub(crate) fn check(target: &Path, required: bool) -> Result<Option<String>> {
    let left_out = |what: String| if required { Err(what) } else { Ok(Some(what)) };
    let kept = std::fs::read_to_string(workspace::root().join(FILE));
    let kept = kept.map_err(|error| format!("{FILE}: {error}"))?;
    let kept: Figures = toml::from_str(&kept).map_err(|error| format!("{FILE}: {error}"))?;
    if !has_valgrind() {
        return left_out("counted instructions: valgrind is not installed".to_owned());
    }
    let counted = count(target)?;
    for (work, instructions) in &counted.instructions {
        let kept = kept.instructions.get(work).map_or_else(|| "none".to_owned(), u64::to_string);
        println!("{work}: {instructions} instructions a message, {kept} kept");
    }
    if kept.compiler != counted.compiler {
        let Figures { compiler, .. } = kept;
        return left_out(format!(
            "counted instructions: {FILE} is of {compiler}, this is {}: renew it with \
             `cargo xtask instructions --renew`",
            counted.compiler
        ));
    }
    compare(&kept, &counted).map(|()| None)
}

fn renew(target: &Path) -> Result<()> {
    if !has_valgrind() {
        return Err("valgrind is not installed".to_owned());
    }
    let counted = count(target)?;
    let text = toml::to_string(&counted).map_err(|error| error.to_string())?;
    let text = format!("# Written by `cargo xtask instructions --renew`.\n{text}");
    print!("{text}");
    std::fs::write(workspace::root().join(FILE), text).map_err(|error| format!("{FILE}: {error}"))
}

fn has_valgrind() -> bool {
    let version = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(shell::output(Command::new(rustc).arg("--version"))?.trim().to_owned())
}

fn count(target: &Path) -> Result<Figures> {
    let program = "busline-counted";
    let mut build = shell::cargo(["build", "--release", "--package", "xtask"]);
    shell::run(build.args(["--features", "counted", "--bin", program]))?;
    let program = target.join("release").join(program);
    let dir = target.join("counted");
    let mut instructions = BTreeMap::new();
    for work in WORKS {
        let part = count_one(&program, work, &dir, MESSAGES)?;
        let whole = count_one(&program, work, &dir, 2 * MESSAGES)?;
        let each = whole.checked_sub(part).map(|more| more / MESSAGES);
        let each = each.ok_or_else(|| format!("{work}: {part} and {whole} instructions"))?;
        instructions.insert((*work).to_owned(), each);
    }
    Ok(Figures { compiler: compiler()?, instructions })
}

/// The instructions of one run.
fn count_one(program: &Path, work: &str, dir: &Path, messages: u64) -> Result<u64> {
    let remove = || match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", dir.display()))
        }
        _ => Ok(()),
    };
    remove()?;
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    valgrind.arg(work).arg(dir.join("log"));
    valgrind.args([messages, 2 * MESSAGES].map(|number| number.to_string()));
    let output = valgrind.output().map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{work} under valgrind failed ({}):\n{said}", output.status));
    }
    remove()?;
    collected(&said).ok_or_else(|| format!("valgrind does not say what it counted:\n{said}"))
}

/// The number in callgrind's summary.
fn collected(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

fn compare(kept: &Figures, counted: &Figures) -> Result<()> {
    let mut wrong = Vec::new();
    for (work, now) in &counted.instructions {
        let Some(before) = kept.instructions.get(work) else {
            wrong.push(format!("{work} has no figure"));
            continue;
        };
        if now.abs_diff(*before) * 100 > before * TOLERANCE_PERCENT {
            wrong.push(format!("{work}: {before} instructions a message became {now}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let wrong = wrong.join("; ");
    Err(format!(
        "{wrong}: more than {TOLERANCE_PERCENT} %. If it is meant to be so: `cargo xtask instructions --renew`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(instructions: &[(&str, u64)]) -> Figures {
        let instructions = instructions.iter().map(|(work, count)| ((*work).to_owned(), *count));
        Figures { compiler: "rustc".to_owned(), instructions: instructions.collect() }
    }

    #[test]
    fn five_percent_up_or_down_are_noticed() {
        let kept = figures(&[("read", 1000)]);
        for (now, is_fine) in [(1050, true), (950, true), (1051, false), (949, false)] {
            assert_eq!(compare(&kept, &figures(&[("read", now)])).is_ok(), is_fine, "{now}");
        }
        assert!(compare(&kept, &figures(&[("publish", 1)])).is_err());
    }

    #[test]
    fn what_callgrind_says() {
        let said = "==1== Events    : Ir\n==1== Collected : 4456738\n==1== \n";
        assert_eq!(collected(said), Some(4_456_738));
        assert_eq!(collected("==1== nothing"), None);
    }

    #[test]
    fn every_work_has_a_figure() {
        let kept = std::fs::read_to_string(workspace::root().join(FILE)).unwrap();
        let kept: Figures = toml::from_str(&kept).unwrap();
        assert_eq!(kept.instructions.keys().collect::<Vec<_>>(), WORKS);
    }
}
