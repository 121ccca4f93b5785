//! `cargo xtask bench`: figures of the embedded log, each beside the machine's limit of the same run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

mod child;
mod durable;
mod limits;
mod log;
mod measure;
mod memory;
mod open;
mod payload;
mod port;
mod report;
mod scaling;
mod settle;
mod throughput;
mod wake;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use report::Report;

/// What everything here comes to; the error is a sentence for people.
type Result<T> = std::result::Result<T, String>;

/// What a work measures with.
#[derive(Debug)]
struct Setup {
    /// Where it may write; on the disk that is measured.
    dir: PathBuf,
    /// A smaller run, to see that it works.
    quick: bool,
}

impl Setup {
    /// The full number, or a part of it in a quick run.
    fn scaled(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// An empty folder.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        remove(&dir)?;
        std::fs::create_dir_all(&dir).map_err(|error| problem(&dir, &error))?;
        Ok(dir)
    }
}

/// Removes a folder, if it is there.
fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(problem(dir, &error)),
        _ => Ok(()),
    }
}

fn problem(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// A work runs once a repetition, so that the works of one run meet the same weather.
type Work = fn(&Setup, &mut Report) -> Result<()>;

const WORKS: &[(&str, Work, &str)] = &[
    ("throughput", throughput::run, "publish and read messages of 100 B and of 1 KiB"),
    ("durable", durable::run, "one message, on the medium before publishing returns"),
    ("wake", wake::run, "how soon a sleeping consumer in another process has a message"),
    ("settle", settle::run, "claim and acknowledge messages one by one"),
    ("port", port::run, "publish, read and consume through a session of the transport"),
    ("open", open::run, "open a log of 1 GiB, after a clean close, kill -9 and loss of power"),
    ("memory", memory::run, "memory while a log grows and is read"),
    ("scaling", scaling::run, "the cost of a message beside many logs, groups and segments"),
];

const USAGE: &str = "\
usage: cargo xtask bench [--quick] [--repetitions N] [--dir DIR] [WORK…]

  --quick          smaller works, two repetitions: to see that it runs
  --repetitions N  how often each work is done, interleaved (5)
  --dir DIR        where it writes; the disk that is measured (target/bench)

works, all unless named:
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["child", rest @ ..] => child::run(rest),
        ["--help" | "-h" | "help"] => {
            usage();
            Ok(())
        }
        _ => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn usage() {
    print!("{USAGE}");
    for (name, _, about) in WORKS {
        println!("  {name:15}  {about}");
    }
}

/// What the arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    quick: bool,
    repetitions: Option<u32>,
    dir: Option<PathBuf>,
    works: Vec<String>,
}

fn parse(arguments: &[&str]) -> Result<Asked> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match *argument {
            "--quick" => asked.quick = true,
            "--dir" => asked.dir = Some(value()?.into()),
            "--repetitions" => {
                let number = value()?;
                let parsed = number.parse().ok().filter(|count| *count > 0);
                let wrong = || format!("'{number}' is no number of repetitions");
                asked.repetitions = Some(parsed.ok_or_else(wrong)?);
            }
            work if WORKS.iter().any(|(name, ..)| *name == work) => {
                asked.works.push(work.to_owned());
            }
            other => return Err(format!("'{other}' is no work and no option; see --help")),
        }
    }
    Ok(asked)
}

fn run(arguments: &[&str]) -> Result<()> {
    let asked = parse(arguments)?;
    let dir = asked.dir.unwrap_or_else(|| "target/bench".into());
    // One folder a run, removed at its end.
    let dir = dir.join(format!("run-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| problem(&dir, &error))?;
    let dir = dir.canonicalize().map_err(|error| problem(&dir, &error))?;
    let setup = Setup { dir, quick: asked.quick };
    let repetitions = asked.repetitions.unwrap_or(if asked.quick { 2 } else { 5 });

    println!("{}", measure::machine(&setup.dir));
    let quick = if setup.quick { "; quick: a tenth of each work, figures of no worth" } else { "" };
    let debug = if cfg!(debug_assertions) { "; NOT OPTIMISED, figures of no worth" } else { "" };
    println!("repetitions: {repetitions}, interleaved; median (least..greatest){quick}{debug}\n");
    let mut report = Report::default();
    let done = repeat(&setup, repetitions, &asked.works, &mut report);
    remove(&setup.dir)?;
    print!("{}", report.text());
    done
}

fn repeat(setup: &Setup, repetitions: u32, chosen: &[String], report: &mut Report) -> Result<()> {
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|work| work == name);
    for repetition in 1..=repetitions {
        for (name, work, _) in WORKS.iter().filter(|(name, ..)| is_chosen(name)) {
            let (done, took) = measure::timed(|| work(setup, report));
            eprintln!(
                "repetition {repetition} of {repetitions}: {name} {:.1} s",
                took.as_secs_f64()
            );
            done.map_err(|error| format!("{name}: {error}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let asked = parse(&["--quick", "open", "--repetitions", "3", "--dir", "x"]);
        let works = vec!["open".to_owned()];
        let dir = Some("x".into());
        assert_eq!(asked, Ok(Asked { quick: true, repetitions: Some(3), dir, works }));
        assert!(parse(&["--dir"]).is_err());
        assert!(parse(&["--repetitions", "0"]).is_err());
        assert!(parse(&["nothing"]).is_err());
    }
}
