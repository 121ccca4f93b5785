//! `busline-peers`: the works of the benchmarks on other stores; started by `cargo xtask bench log`.

mod fjall;
mod hermes;
mod lmdb;
#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "../../src/bench/measure.rs"]
mod measure;
#[allow(dead_code, reason = "the benchmarks use the rest")]
#[path = "../../src/bench/payload.rs"]
mod payload;
mod redb;
mod redis;
mod sea;
mod sqlite;
mod store;
mod works;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use store::{Sync, Target};

/// What everything here comes to; the error is a sentence for people.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: busline-peers versions
       busline-peers PEER WORK SYNC DIR NUMBER…

peers: fjall, hermes, lmdb, redb, redis, redis-tcp, sea-streamer, sqlite
SYNC:  process (nothing is synced), end (once, at the end), power (each commit)
works, each prints a line of figures:
  bulk MESSAGES BODY COMMIT   publish in commits of so many, read all: seconds of both
  turns                       publishes, one durable commit each, as many as a line of its input says:
                              nanoseconds of each
  many PUBLISHERS EACH        publishers at once, one durable commit each: seconds
  settle MESSAGES COMMIT      claim and remove all: seconds
  fill MESSAGES BODY          publish and close, for:
  open MESSAGES               open and look at the end: milliseconds, MiB
  wake MESSAGES               from publishing to a consumer that slept: microseconds, p50 and p99
  find MESSAGES               find the one message of a category at the end: seconds
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["versions"] => versions(),
        [peer, work, sync, dir, numbers @ ..] => run(peer, work, sync, Path::new(dir), numbers),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// An error of a store in the words of this program.
fn failed(error: impl fmt::Display) -> String {
    error.to_string()
}

fn versions() -> Result<()> {
    println!("SQLite {}", sqlite::version());
    println!("LMDB {}", lmdb::version());
    // Cargo tells a program nothing of its dependencies but this.
    let lock = include_str!("../Cargo.lock");
    for name in ["fjall", "redb", "sea-streamer-file"] {
        println!("{name} {}", locked(lock, name).ok_or("Cargo.lock names no version")?);
    }
    if let Some(version) = redis::version() {
        println!("Redis {version}");
    }
    Ok(())
}

fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, package) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    package.split_once('"').map(|(version, _)| version)
}

fn run(peer: &str, work: &str, sync: &str, dir: &Path, numbers: &[&str]) -> Result<()> {
    let parse = |text: &&str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    let numbers = numbers.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let sync = Sync::parse(sync)?;
    let target = Target { dir: dir.to_owned(), sync, tcp: peer == "redis-tcp" };
    match peer {
        "fjall" => works::run::<fjall::Fjall>(work, &target, &numbers),
        "hermes" => works::run::<hermes::Hermes>(work, &target, &numbers),
        "lmdb" => works::run::<lmdb::Lmdb>(work, &target, &numbers),
        "redb" => works::run::<redb::Redb>(work, &target, &numbers),
        "redis" | "redis-tcp" => works::run::<redis::Redis>(work, &target, &numbers),
        "sea-streamer" => works::run::<sea::SeaStreamer>(work, &target, &numbers),
        "sqlite" => works::run::<sqlite::Sqlite>(work, &target, &numbers),
        other => Err(format!("'{other}' is no peer\n\n{USAGE}")),
    }
}
