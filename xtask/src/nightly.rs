//! `cargo xtask miri`: what only a nightly compiler can check, apart from `ci`.

use std::process::Command;

use crate::{Result, shell, workspace};

/// The parts of the log that touch neither files nor other processes, and end in minutes.
const PURE: &[&str] = &["control::", "bytes::", "frame::batch::"];
/// Random tests: an interpreter takes hours for what they do, and they have no atomics.
const RANDOM: &[&str] =
    &["any_", "arbitrary", "proptest", "contract_in_a_file", "processes_on_files"];
/// What is repeated under many schedules and many memories that are weaker than this machine's.
const WEAK: &str = "control::tests::";
const SEEDS: &str = "0..64";

/// Runs what Miri can of `busline-log`; other arguments are filters that replace the usual ones.
pub(crate) fn miri(filters: &[&str]) -> Result<()> {
    check_component("miri", "cargo", &["miri", "--version"])?;
    let miri = |flags: &str, filters: &[&str]| {
        let mut test = nightly("cargo");
        test.args(["miri", "test", "--package", "busline-log", "--lib", "--"]).args(filters);
        test.args(RANDOM.iter().flat_map(|name| ["--skip", name]));
        // Tests name temporary directories and ask for the time.
        test.env("MIRIFLAGS", format!("-Zmiri-disable-isolation {flags}"));
        shell::run(test.env("CARGO_TARGET_DIR", workspace::read()?.target.join("miri")))
    };
    if !filters.is_empty() {
        return miri("", filters);
    }
    miri("", PURE)?;
    miri(&format!("-Zmiri-many-seeds={SEEDS}"), &[WEAK])
}

/// A program of the nightly toolchain, in the root of the workspace.
fn nightly(program: &str) -> Command {
    let mut command = shell::cargo([]);
    let environment: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    command = Command::new(program);
    command.arg("+nightly").current_dir(workspace::root());
    // What the stable cargo told this tool would keep rustup from choosing.
    for name in environment
        .iter()
        .map(AsRef::as_ref)
        .chain(["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"].map(AsRef::as_ref))
    {
        command.env_remove::<&std::ffi::OsStr>(name);
    }
    command
}

fn check_component(component: &str, program: &str, arguments: &[&str]) -> Result<()> {
    let answer = nightly(program).args(arguments).output();
    match answer {
        Ok(answer) if answer.status.success() => Ok(()),
        _ => Err(missing(component)),
    }
}

fn missing(component: &str) -> String {
    format!(
        "it needs a nightly compiler with {component}: \
         `rustup toolchain install nightly --component {component}`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        let error = check_component("miri", "no-such-program-of-busline", &[]).unwrap_err();
        assert!(error.contains("rustup toolchain install nightly --component miri"), "{error}");
    }
}
