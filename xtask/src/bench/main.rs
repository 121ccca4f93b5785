//! `cargo xtask bench`: figures of the embedded log, each beside the machine's limit of the same run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

mod category;
mod child;
mod document;
mod durable;
mod goals;
mod idle;
mod limits;
mod log;
mod machine;
mod many;
mod measure;
mod memory;
mod open;
mod payload;
mod peers;
mod plot;
mod port;
mod rare;
mod report;
mod scaling;
mod settle;
mod tasks;
mod throughput;
mod typed;
mod wake;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use document::Context;
use measure::Samples;
use peers::Peers;
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
    /// What the same works are done with beside Busline.
    peers: Option<Peers>,
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
    ("rare", rare::run, "find the messages of rare keys"),
    ("durable", durable::run, "one message, on the medium before publishing returns"),
    ("wake", wake::run, "how soon a sleeping consumer in another process has a message"),
    ("idle", idle::run, "what a publish costs more when consumers are there, and none waits"),
    ("settle", settle::run, "claim and acknowledge messages one by one"),
    ("port", port::run, "publish, read and consume through a session of the transport"),
    ("typed", typed::run, "values as payloads, through codecs"),
    ("open", open::run, "open a log of 1 GiB, after a clean close, kill -9 and loss of power"),
    ("memory", memory::run, "memory while a log grows and is read"),
    ("scaling", scaling::run, "the cost of a message beside many logs, groups and segments"),
    ("many", many::run, "many topics, and many groups that wait, of one process"),
];

const USAGE: &str = "\
usage: cargo xtask bench [log] [OPTION…] [WORK…]

  log              beside other stores too, which are compiled first
  --quick          smaller works, two repetitions: to see that it runs
  --repetitions N  how often each work is done, interleaved (5)
  --dir DIR        where it writes; the disk that is measured (target/bench)
  --json           one JSON object a line instead of tables
  --write          writes docs/bench/log.md and log.svg
  --peers PROGRAM  beside other stores, by this program (what `log` compiles)

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
    json: bool,
    write: bool,
    repetitions: Option<u32>,
    dir: Option<PathBuf>,
    peers: Option<PathBuf>,
    works: Vec<String>,
}

fn parse(arguments: &[&str]) -> Result<Asked> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match *argument {
            "--quick" => asked.quick = true,
            "--json" => asked.json = true,
            "--write" => asked.write = true,
            "--dir" => asked.dir = Some(value()?.into()),
            "--peers" => asked.peers = Some(value()?.into()),
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
    if asked.write && (asked.quick || !asked.works.is_empty() || cfg!(debug_assertions)) {
        return Err("--write needs every work at full size, optimised".to_owned());
    }
    let dir = asked.dir.clone().unwrap_or_else(|| "target/bench".into());
    // One folder a run, removed at its end.
    let dir = dir.join(format!("run-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| problem(&dir, &error))?;
    let dir = dir.canonicalize().map_err(|error| problem(&dir, &error))?;
    let peers = asked.peers.as_deref().map(Peers::new).transpose()?;
    let setup = Setup { dir, quick: asked.quick, peers };
    let mut report = Report::default();
    let done = measure_all(&setup, &asked, &mut report);
    let removed = remove(&setup.dir);
    // What a work says comes first: what it left behind may be why removing failed.
    let context = done?;
    removed?;
    if asked.json {
        print!("{}", document::json_lines(&context, &report));
    } else {
        context.lines.iter().for_each(|line| println!("{line}"));
        print!("\n{}", report.text());
        // A part of the works, or a small form of them, says nothing about goals.
        if asked.works.is_empty() && !asked.quick {
            document::verdicts(&report).iter().for_each(|line| println!("{line}"));
        }
    }
    if asked.write { document::write(Path::new("."), &context, &report) } else { Ok(()) }
}

/// Runs the works, and a probe of the disk before, between and after them.
fn measure_all(setup: &Setup, asked: &Asked, report: &mut Report) -> Result<Context> {
    let repetitions = asked.repetitions.unwrap_or(if asked.quick { 2 } else { 5 });
    let mut lines = machine::lines(&setup.dir)?;
    match &setup.peers {
        Some(peers) => lines.push(format!("beside: {}", peers.versions.join(", "))),
        None => report.leave_out("other stores: `cargo xtask bench log` does".to_owned()),
    }
    lines.push(format!("repetitions: {repetitions}, interleaved; median (least..greatest)"));
    if asked.quick {
        lines.push("quick: a tenth of each work, figures of no worth".to_owned());
    }
    if cfg!(debug_assertions) {
        lines.push("NOT OPTIMISED, figures of no worth".to_owned());
    }
    let before = limits::syncs_per_second(&setup.dir)?;
    let (during, others) = repeat(setup, repetitions, &asked.works, report)?;
    let after = limits::syncs_per_second(&setup.dir)?;
    let [before, after] = [before, after].map(report::number);
    let during = report::with_spread(&during);
    lines.push(format!(
        "raw fdatasync after each append of 168 B: {before}/s before, {during}/s during, {after}/s after"
    ));
    let (is_busy, busy) = machine::busy(&others);
    lines.push(busy);
    Ok(Context { lines, is_quick: asked.quick, is_busy })
}

/// What the disk was worth, and what others used, before each repetition.
fn repeat(
    setup: &Setup,
    repetitions: u32,
    chosen: &[String],
    report: &mut Report,
) -> Result<(Samples, Samples)> {
    let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|work| work == name);
    let (mut probes, mut others) = (Samples::default(), Samples::default());
    for repetition in 1..=repetitions {
        probes.add(limits::syncs_per_second(&setup.dir)?);
        others.add(machine::used_by_others());
        for (name, work, _) in WORKS.iter().filter(|(name, ..)| is_chosen(name)) {
            let (done, took) = measure::timed(|| work(setup, report));
            eprintln!(
                "repetition {repetition} of {repetitions}: {name} {:.1} s",
                took.as_secs_f64()
            );
            done.map_err(|error| format!("{name}: {error}"))?;
        }
    }
    Ok((probes, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let asked = parse(&["--quick", "open", "--repetitions", "3", "--dir", "x", "--json"]);
        let works = vec!["open".to_owned()];
        let dir = Some("x".into());
        let more = Asked::default();
        assert_eq!(
            asked,
            Ok(Asked { quick: true, json: true, repetitions: Some(3), dir, works, ..more })
        );
        assert!(run(&["--write", "open"]).is_err());
        assert!(parse(&["--dir"]).is_err());
        assert!(parse(&["--repetitions", "0"]).is_err());
        assert!(parse(&["nothing"]).is_err());
    }
}
