//! `cargo xtask miri` and `cargo xtask sanitize`: what only a nightly compiler can check, apart from `ci`.

use std::path::{Path, PathBuf};
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

/// A sanitizer: its name, what the programs of the tests are told, and tests that it cannot follow, with the reason.
struct Sanitizer {
    name: &'static str,
    variable: &'static str,
    options: &'static str,
    skip: &'static [(&'static str, &'static str)],
}

const SANITIZERS: &[Sanitizer] = &[
    // It finds leaks too, so that these need no program of their own.
    Sanitizer {
        name: "address",
        variable: "ASAN_OPTIONS",
        options: "detect_leaks=1:detect_stack_use_after_return=1",
        skip: &[STACKS, CHILDREN],
    },
    Sanitizer { name: "thread", variable: "TSAN_OPTIONS", options: "", skip: &[STACKS, CHILDREN] },
];

const STACKS: (&str, &str) = (
    "schedules::",
    "a library switches their stacks, one thread after the other: no race can be seen, and the switch is taken for an overflow",
);
const CHILDREN: (&str, &str) = (
    "fork::a_child",
    "a forked child lacks the threads of its parent: what these hold is taken for leaked",
);

/// Runs the tests of `busline-log` under sanitizers; arguments name some of these, and others are filters of tests.
pub(crate) fn sanitize(arguments: &[&str]) -> Result<()> {
    check_component("rustc", "rustc", &["--version"])?;
    let is_named = |sanitizer: &&Sanitizer| arguments.contains(&sanitizer.name);
    let all = !SANITIZERS.iter().any(|sanitizer| is_named(&sanitizer));
    let is_filter =
        |argument: &&&str| !SANITIZERS.iter().any(|sanitizer| sanitizer.name == **argument);
    let filters: Vec<&str> = arguments.iter().filter(is_filter).copied().collect();
    for sanitizer in SANITIZERS.iter().filter(|sanitizer| all || is_named(sanitizer)) {
        sanitize_with(sanitizer, &filters)?;
    }
    Ok(())
}

fn sanitize_with(sanitizer: &Sanitizer, filters: &[&str]) -> Result<()> {
    let Sanitizer { name, variable, options, skip } = sanitizer;
    let target = workspace::read()?.target.join("sanitize").join(name);
    let mut test = nightly("cargo");
    test.args(["test", "--package", "busline-log", "--lib", "--tests", "--target", &host()?]);
    if *name == "thread" {
        // A standard library that is not instrumented hides what its own locks and threads order.
        check_source()?;
        test.arg("-Zbuild-std");
    }
    test.arg("--").args(filters);
    for (tests, why) in *skip {
        println!("skip: {tests} under the {name} sanitizer: {why}");
        test.args(["--skip", tests]);
    }
    // Many processes of the tests are killed, or have nobody who reads what they say.
    let reports = target.join("reports");
    clear(&reports)?;
    test.env(variable, format!("log_path={}:{options}", reports.join(name).display()));
    test.env("RUSTFLAGS", format!("-Zsanitizer={name}"));
    test.env("CARGO_PROFILE_TEST_OPT_LEVEL", "1").env("CARGO_TARGET_DIR", &target);
    let ran = shell::run(&mut test);
    match found(&reports)?.as_slice() {
        [] => ran,
        [first, others @ ..] => Err(format!(
            "the {name} sanitizer found something: {} and {} more beside it",
            first.display(),
            others.len()
        )),
    }
}

fn clear(directory: &Path) -> Result<()> {
    let io = |error| format!("cannot empty {}: {error}", directory.display());
    if directory.exists() {
        std::fs::remove_dir_all(directory).map_err(io)?;
    }
    std::fs::create_dir_all(directory).map_err(io)
}

fn found(reports: &Path) -> Result<Vec<PathBuf>> {
    let io = |error| format!("cannot look into {}: {error}", reports.display());
    let entries = std::fs::read_dir(reports).map_err(io)?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The machine that the nightly compiler is made for.
fn host() -> Result<String> {
    let said = answer(nightly("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(ToOwned::to_owned).ok_or_else(|| "rustc does not say what it is made for".to_owned())
}

fn check_source() -> Result<()> {
    let root = answer(nightly("rustc").args(["--print", "sysroot"]))?;
    let source = Path::new(root.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
    if source.exists() { Ok(()) } else { Err(missing("rust-src")) }
}

fn answer(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("cannot start rustc: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
    let with = match component {
        "rustc" => String::new(),
        _ => format!(" --component {component}"),
    };
    format!(
        "it needs a nightly compiler with {component}: `rustup toolchain install nightly{with}`"
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
