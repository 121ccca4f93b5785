//! Licences, bans and sources of the dependencies with cargo-deny; advisories where they can be had.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Result, shell, workspace};

/// Fixed, so that a new release of the tool never fails an old commit.
const VERSION: &str = "0.20.2";

/// Checks the dependencies; says when the advisories were left out.
pub(crate) fn run(target: &Path) -> Result<Option<String>> {
    let deny = installed(target)?;
    shell::run(check(&deny, &[]).args(["licenses", "bans", "sources"]))?;
    if !fetch_advisories(&deny) {
        println!("advisories: the RustSec database cannot be fetched, the check is SKIPPED");
        return Ok(Some("advisories (their database cannot be fetched)".to_owned()));
    }
    shell::run(check(&deny, &["--offline"]).arg("advisories"))?;
    Ok(None)
}

fn check(deny: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(deny);
    command.args(["--all-features", "--log-level", "warn"]).args(more);
    command.args(["check", "--hide-inclusion-graph"]).current_dir(workspace::root());
    command
}

/// The tool, built once into the target directory.
fn installed(target: &Path) -> Result<PathBuf> {
    let root = target.join("tools");
    let deny = root.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    let printed = Command::new(&deny).arg("--version").stderr(Stdio::null()).output();
    let expected = format!("cargo-deny {VERSION}");
    if printed.is_ok_and(|output| output.stdout.trim_ascii() == expected.as_bytes()) {
        return Ok(deny);
    }
    println!("cargo-deny {VERSION} is not in {}: installing it", root.display());
    // Unoptimised: it runs for a second, and is built for minutes.
    let mut install =
        shell::cargo(["install", "cargo-deny", "--locked", "--force", "--quiet", "--debug"]);
    install.args(["--version", VERSION, "--root"]).arg(&root);
    install.arg("--target-dir").arg(root.join("build"));
    shell::run(&mut install)?;
    // Only the binary is worth keeping.
    std::fs::remove_dir_all(root.join("build"))
        .map_err(|error| format!("cannot tidy up after the installation: {error}"))?;
    Ok(deny)
}

fn fetch_advisories(deny: &Path) -> bool {
    let mut fetch = Command::new(deny);
    fetch.args(["--log-level", "error", "fetch", "db"]).current_dir(workspace::root());
    println!("$ {}", shell::line(&fetch));
    fetch.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
