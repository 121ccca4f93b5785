//! `cargo xtask ci`: everything that must hold before a change lands, each step run whatever failed before.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::shell::{Steps, cargo};
use crate::workspace::Workspace;
use crate::{Result, deny, examples, features, instructions, shell, test, tidy, workspace};

/// Runs every step, prints the table, fails when one failed.
pub(crate) fn run() -> Result<()> {
    let workspace = workspace::read()?;
    let mut steps = Steps::default();
    cheap(&mut steps);
    steps.step("test", || test::run_with(false, true, &[]));
    lints(&mut steps, &workspace);
    documents(&mut steps);
    steps.step("fuzz targets", || fuzz_targets(&workspace.target).map(|()| None));
    steps.step("peers of the benchmarks", || peers(&workspace.target).map(|()| None));
    steps.step("examples", || examples::run(&workspace).map(|()| None));
    steps.step("dependencies", || deny::run(&workspace.target));
    steps.step("demo", || demo(&workspace.target).map(|()| None));
    steps.step("bench runs", || bench(&workspace.target).map(|()| None));
    steps.step("instructions", || {
        let is_build_machine = std::env::var_os("CI").is_some_and(|value| value == "true");
        instructions::check(&workspace.target, is_build_machine)
    });
    print!("\n{}", steps.table());
    steps.verdict()
}

/// What takes seconds comes first.
fn cheap(steps: &mut Steps) {
    steps.step("tidy", || tidy::run().map(|()| None));
    steps.step("format", || {
        shell::run(&mut cargo(["fmt", "--all", "--", "--check"])).map(|()| None)
    });
}

fn lints(steps: &mut Steps, workspace: &Workspace) {
    steps.step("clippy", || {
        let mut clippy = cargo(["clippy", "--workspace", "--all-targets", "--all-features"]);
        shell::run(clippy.args(["--", "-D", "warnings"])).map(|()| None)
    });
    steps.step("each feature", || features::run(workspace).map(|()| None));
}

fn documents(steps: &mut Steps) {
    let doc = |more: &[&str]| {
        let mut doc = cargo(["doc", "--all-features", "--no-deps"]);
        shell::run(doc.args(more).env("RUSTDOCFLAGS", "-D warnings"))
    };
    // The tool has the name of the library: their pages would fall into one folder.
    let libraries = ["--workspace", "--exclude", "busline-cli"];
    steps.step("docs", || doc(&libraries).map(|()| None));
    steps.step("docs of private items", || {
        doc(&["--package", "busline-cli", "--document-private-items"])?;
        doc(&[&libraries[..], &["--document-private-items"]].concat()).map(|()| None)
    });
}

/// They are run with a nightly compiler; that they compile, every compiler can tell.
fn fuzz_targets(target: &Path) -> Result<()> {
    let mut check = cargo(["check", "--manifest-path", "fuzz/Cargo.toml", "--bins"]);
    // Nothing is linked here. Told of another library, it does not ask for a C++ compiler.
    check.env("CUSTOM_LIBFUZZER_PATH", workspace::root().join("fuzz/Cargo.toml"));
    shell::run(check.arg("--target-dir").arg(target.join("fuzz")))
}

/// What the benchmarks compare with is run by who measures; here, that it compiles and is clean.
fn peers(target: &Path) -> Result<()> {
    let manifest = ["--manifest-path", "xtask/peers/Cargo.toml"];
    shell::run(cargo(["fmt"]).args(manifest).args(["--", "--check"]))?;
    let mut clippy = cargo(["clippy", "--quiet"]);
    clippy.args(manifest).arg("--target-dir").arg(target.join("peers"));
    shell::run(clippy.args(["--", "-D", "warnings"]))
}

/// Small and unoptimised, with what the tests have built: that it runs, not how fast.
fn bench(target: &Path) -> Result<()> {
    shell::run(&mut cargo(["build", "--workspace", "--all-features", "--bins"]))?;
    let program = target.join(format!("debug/busline-bench{}", std::env::consts::EXE_SUFFIX));
    let mut bench = Command::new(program);
    bench.args(["--quick", "--repetitions", "1", "--dir"]).arg(target.join("bench"));
    shell::run(bench.current_dir(workspace::root()))
}

/// The README's first command, with figures that a program can check.
fn demo(target: &Path) -> Result<()> {
    let keep = target.join("ci-demo");
    let remove = || match std::fs::remove_dir_all(&keep) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", keep.display()))
        }
        _ => Ok(()),
    };
    remove()?;
    let mut run = cargo(["run", "--release", "--", "--json", "demo", "--keep"]);
    let printed = shell::output(run.arg(&keep))?;
    print!("{printed}");
    check_demo(&printed)?;
    remove()
}

/// The demo judges itself by its exit code; these are what it must not be wrong about.
fn check_demo(printed: &str) -> Result<()> {
    let demo: Value = serde_json::from_str(printed.trim())
        .map_err(|error| format!("the demo printed something else than one JSON line: {error}"))?;
    let figure = |name: &str| demo[name].as_u64().ok_or_else(|| format!("the demo has no {name}"));
    let (published, stored) = (figure("published")?, figure("stored")?);
    if demo["ok"] != true || figure("lost")? != 0 || published == 0 || stored != published {
        return Err("the figures of the demo do not add up".to_owned());
    }
    if figure("redelivered")? == 0 || figure("dead_lettered")? == 0 {
        return Err("the demo showed no takeover or no dead letter".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_must_add_up() {
        let good =
            r#"{"published":5,"stored":5,"lost":0,"redelivered":1,"dead_lettered":1,"ok":true}"#;
        assert_eq!(check_demo(good), Ok(()));
        for (right, wrong) in [
            (r#""lost":0"#, r#""lost":1"#),
            (r#""stored":5"#, r#""stored":4"#),
            (r#""redelivered":1"#, r#""redelivered":0"#),
            ("true", "false"),
            (r#""published":5,"#, ""),
        ] {
            assert!(check_demo(&good.replace(right, wrong)).is_err(), "{wrong}");
        }
        assert!(check_demo("").is_err());
    }
}
