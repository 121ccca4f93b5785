//! `cargo xtask bench sqlite`: both layouts of a database through Busline, beside raw rusqlite doing the same.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

mod figures;
mod ours;
mod raw;

use std::path::PathBuf;
use std::process::ExitCode;

use figures::Figures;

/// What everything here comes to; the error is a sentence for people.
type Result<T> = std::result::Result<T, String>;

/// What the works are done with.
#[derive(Debug, Clone)]
struct Setup {
    /// How many messages each work takes.
    messages: usize,
    /// The bytes of a payload, at least.
    size: usize,
    repetitions: usize,
    json: bool,
}

/// Which tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layout {
    Busline,
    Hermes,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::Busline => "own layout",
            Self::Hermes => "layout=hermes",
        }
    }

    /// The only topic.
    fn topic(self) -> &'static str {
        match self {
            Self::Busline => "t",
            Self::Hermes => "hermesmessages",
        }
    }
}

/// A database of a layout, in a folder that is used once.
#[derive(Debug, Clone)]
struct Place {
    layout: Layout,
    file: PathBuf,
}

impl Place {
    fn url(&self) -> String {
        let options = if self.layout == Layout::Hermes { "?layout=hermes" } else { "" };
        format!("sqlite:{}{options}", self.file.display())
    }
}

const USAGE: &str = "\
usage: cargo xtask bench sqlite [OPTION…]

  --messages N     how many messages each work takes (100000)
  --size BYTES     how large a payload is (200)
  --repetitions N  how often each work is done, interleaved (5)
  --json           one JSON object a line instead of a table
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["--help" | "-h" | "help"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => parse(&arguments).and_then(|setup| run(&setup)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[&str]) -> Result<Setup> {
    let mut setup = Setup { messages: 100_000, size: 200, repetitions: 5, json: false };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut count = || {
            let value = rest.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))?;
            match value.parse() {
                Ok(0) | Err(_) => Err(format!("'{value}' is no number of them\n{USAGE}")),
                Ok(count) => Ok(count),
            }
        };
        match *argument {
            "--messages" => setup.messages = count()?,
            "--size" => setup.size = count()?,
            "--repetitions" => setup.repetitions = count()?,
            "--json" => setup.json = true,
            other => return Err(format!("'{other}' is no option\n{USAGE}")),
        }
    }
    Ok(setup)
}

fn run(setup: &Setup) -> Result<()> {
    // Beside the build, which is on a disk: a folder for temporary files may be memory.
    let folder = std::env::current_exe().map_err(text)?.with_file_name("bench-sqlite");
    let mut figures = Figures::default();
    for repetition in 0..setup.repetitions {
        for layout in [Layout::Busline, Layout::Hermes] {
            // What an earlier run left behind.
            drop(std::fs::remove_dir_all(&folder));
            std::fs::create_dir_all(&folder).map_err(text)?;
            let place = |name: &str| Place { layout, file: folder.join(name) };
            let (mine, theirs) = (place("ours.db"), place("raw.db"));
            let transactions = block_on(ours::publish(setup, &mine, &mut figures))?;
            block_on(ours::prepare(&theirs))?;
            raw::publish(setup, &theirs, transactions, &mut figures)?;
            // Who is first changes: the second one finds a quieter disk, and warm caches.
            for turn in repetition..repetition + TURNS {
                if turn % 2 == 0 {
                    block_on(ours::read(setup, &mine, &mut figures))?;
                    block_on(ours::one_by_one(&theirs, &mut figures))?;
                }
                raw::read(setup, &mine, &mut figures)?;
                raw::one_by_one(&theirs, &mut figures)?;
                if turn % 2 == 1 {
                    block_on(ours::read(setup, &mine, &mut figures))?;
                    block_on(ours::one_by_one(&theirs, &mut figures))?;
                }
            }
        }
    }
    drop(std::fs::remove_dir_all(&folder));
    figures.print(setup);
    Ok(())
}

fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(text)?.block_on(future)
}

/// The payload of a message: what Hermes could have sent.
fn payload(setup: &Setup, number: usize) -> String {
    let head = format!(
        "{{\n    \"evcategory\": \"base\",\n    \"eventtype\": \"added\",\n    \"objpkey\": {number},\n    \"pad\": \""
    );
    let pad = setup.size.saturating_sub(head.len() + 3);
    format!("{head}{}\"\n}}", "x".repeat(pad))
}

/// How many are published one by one, each waited for.
const ONE_BY_ONE: usize = 100;

/// How often each reads, and publishes one by one, in a repetition.
const TURNS: usize = 4;

/// Any error as a sentence.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
