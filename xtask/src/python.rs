//! The Python library whose services ours stand beside in tests: installed from the package index.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Result, shell, workspace};

/// Tells tests where the interpreter is that has the packages.
pub(crate) const VARIABLE: &str = "BUSLINE_TEST_PYTHON";

/// All of them, with those that they need, at exact versions.
const PACKAGES: &[&str] = &[
    "eventail==2.3.6",
    "amqp==5.4.2",
    "cbor2==6.3.0",
    "kafka-python==2.3.0",
    "kombu==5.6.2",
    "packaging==26.3",
    "pika==1.4.4",
    "redis==8.1.0",
    "tzdata==2026.6",
    "vine==5.1.0",
];

/// The interpreter of an environment that has the packages; makes it where it is missing or old.
pub(crate) fn ready() -> Result<PathBuf> {
    let directory = workspace::root().join("target/python");
    let (python, list) = (directory.join("bin/python"), directory.join("packages"));
    let wanted = PACKAGES.join("\n");
    if python.exists() && fs::read_to_string(&list).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    make(&directory)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    shell::run(pip.args(PACKAGES))?;
    // Last, so that it says that everything before was done.
    fs::write(&list, wanted).map_err(|error| format!("{}: {error}", list.display()))?;
    Ok(python)
}

fn make(directory: &std::path::Path) -> Result<()> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(directory);
    // Debian keeps the module apart from the interpreter, or has neither installed.
    let quiet = venv.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if quiet.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends", "python3-venv"]);
    shell::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
        .map_err(|error| format!("{error}; install Python 3 with its module venv"))?;
    shell::run(&mut venv)
}
