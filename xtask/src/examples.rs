//! Examples are promises: each is built and run to its end.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::workspace::Workspace;
use crate::{Result, shell, workspace};

/// An example that takes longer is broken.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Builds all examples, then runs each of them in the root of the workspace.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    shell::run(&mut shell::cargo(["build", "--workspace", "--all-features", "--examples"]))?;
    let names: Vec<_> = workspace.packages.iter().flat_map(|package| &package.examples).collect();
    if names.is_empty() {
        println!("there are no examples");
    }
    let mut failed = Vec::new();
    for name in names {
        if is_service(name) {
            println!("example {name}: a service, run by the tests of its package");
            continue;
        }
        let program = format!("debug/examples/{name}{}", std::env::consts::EXE_SUFFIX);
        match run_one(&workspace.target.join(program), TIMEOUT) {
            Ok(printed) => println!("example {name}: ok, {} lines", printed.lines().count()),
            Err(why) => {
                println!("example {name}: {why}");
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("examples failed: {}", failed.join(", "))) }
}

/// Whether it runs until it is stopped: those are numbered, and tests start them, speak to them and stop them.
fn is_service(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_digit())
}

/// What it printed; the error says why it did not end well and what it had printed.
fn run_one(program: &Path, timeout: Duration) -> Result<String> {
    let mut child = Command::new(program)
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    // Ends when the program does: that closes the pipe.
    std::thread::spawn(move || {
        let mut printed = Vec::new();
        let read = stdout.read_to_end(&mut printed);
        // Nobody listens any more when the time is over.
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&printed).into_owned()));
    });
    let Ok(printed) = receiver.recv_timeout(timeout) else {
        let stopped = child.kill().and_then(|()| child.wait());
        return Err(match stopped {
            Ok(_) => format!("did not end within {} s", timeout.as_secs()),
            Err(error) => format!("did not end within {} s, nor die: {error}", timeout.as_secs()),
        });
    };
    let printed = printed.map_err(|error| format!("cannot read what it prints: {error}"))?;
    let status = child.wait().map_err(|error| format!("got lost: {error}"))?;
    if status.success() {
        Ok(printed)
    } else {
        Err(format!("{status}, after it printed:\n{printed}"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_example_that_ends_is_fine() {
        assert_eq!(run_one(Path::new("/bin/true"), TIMEOUT), Ok(String::new()));
    }

    #[test]
    fn one_that_fails_or_is_missing_is_not() {
        assert!(run_one(Path::new("/bin/false"), TIMEOUT).unwrap_err().contains("exit status: 1"));
        let error = run_one(Path::new("/no/such/example"), TIMEOUT).unwrap_err();
        assert!(error.starts_with("cannot be started"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_stopped() {
        // `yes` never ends, and is not asked to: its pipe is read all the time.
        let error = run_one(Path::new("/usr/bin/yes"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error, "did not end within 0 s");
    }
}
