//! `cargo xtask ci`: everything that must hold before a change lands, each step run whatever failed before.

use crate::shell::{Steps, cargo};
use crate::workspace::Workspace;
use crate::{Result, deny, examples, features, shell, test, tidy, workspace};

/// Runs every step, prints the table, fails when one failed.
pub(crate) fn run() -> Result<()> {
    let workspace = workspace::read()?;
    let mut steps = Steps::default();
    cheap(&mut steps);
    steps.step("test", || test::run_with(false, true, &[]));
    lints(&mut steps, &workspace);
    documents(&mut steps);
    steps.step("examples", || examples::run(&workspace).map(|()| None));
    steps.step("dependencies", || deny::run(&workspace.target));
    steps.step("demo", demo);
    steps.step("bench runs", || {
        let quick = ["--quick", "--repetitions", "1"];
        crate::program("bench", true, &quick).map(|()| None)
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

/// The README's first command.
fn demo() -> Result<Option<String>> {
    shell::run(&mut cargo(["run", "--release", "--", "demo"])).map(|()| None)
}
