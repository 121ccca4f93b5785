//! The only tool of the workspace: `cargo xtask ci`, `test`, `tidy`, `matrix`, `bench`, `instructions`, `brokers`,
//! `miri`, `sanitize`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

mod brokers;
mod ci;
mod deny;
mod examples;
mod features;
mod instructions;
mod nightly;
mod python;
mod redis;
mod shell;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

/// What everything here comes to; the error is a sentence for people.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask VERB

  test [--long] [ARG…]   run all tests; --long runs the long ones at full length;
                         other arguments go to cargo test
  ci                     everything that must hold before a change lands
  tidy                   the house rules that no compiler checks
  bench [log] [OPTION…]  figures of the embedded log beside the machine's own limits;
                         with log, beside other stores too; --help says more
  bench amqp [OPTION…]   figures of RabbitMQ through Busline, beside its raw client and Python
  bench kafka [OPTION…]  figures of Kafka through Busline, beside its raw client
  bench sqlite [OPTION…] figures of SQLite through Busline, both layouts, beside its raw client
  instructions [--renew] how many instructions a message takes, by callgrind, held to
                         figures that the tree keeps; --renew writes them
  miri [FILTER…]         what Miri can run of the log, the weak memory of its words included
  sanitize [NAME…] [FILTER…]
                         the log's tests under the sanitizers address (with leaks) and thread
  matrix [--check]       write the capability matrix of the README
  brokers [DO] [NAME…]   the brokers of the tests: status, install, start or stop them
  python                 install the Python library that tests stand beside
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["test", rest @ ..] => test::run(rest),
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run(),
        ["bench", "log", rest @ ..] => bench_log(rest),
        ["bench", "amqp", rest @ ..] => bench_amqp(rest),
        ["bench", "kafka", rest @ ..] => bench_kafka(rest),
        ["bench", "sqlite", rest @ ..] => program("bench-sqlite", true, rest),
        ["bench", rest @ ..] => program("bench", true, rest),
        ["instructions", rest @ ..] => instructions::run(rest),
        ["miri", rest @ ..] => nightly::miri(rest),
        ["sanitize", rest @ ..] => nightly::sanitize(rest),
        ["matrix", rest @ ..] => program("matrix", false, rest),
        ["brokers", rest @ ..] => brokers::run(rest),
        ["python"] => python::ready().map(|python| println!("{}", python.display())),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("'{}' is no task\n\n{USAGE}", other.join(" "))),
    }
}

/// The benchmarks beside other stores, which are compiled into a program of their own.
fn bench_log(arguments: &[&str]) -> Result<()> {
    let target = workspace::read()?.target.join("peers");
    let mut build =
        shell::cargo(["build", "--release", "--manifest-path", "xtask/peers/Cargo.toml"]);
    shell::run(build.arg("--target-dir").arg(&target))?;
    let peers = target.join(format!("release/busline-peers{}", std::env::consts::EXE_SUFFIX));
    let peers = peers.to_str().ok_or("the target directory has no name in UTF-8")?;
    program("bench", true, &[&["--peers", peers], arguments].concat())
}

/// The benchmarks on RabbitMQ, on the node of the tests; starts it where it is not there.
fn bench_amqp(arguments: &[&str]) -> Result<()> {
    let node: Vec<_> =
        brokers::SERVICES.iter().filter(|node| node.name == "rabbitmq").copied().collect();
    let mut started = brokers::start(&node)?;
    let mut run = shell::cargo(["run", "--quiet", "--release", "--package", "xtask"]);
    run.args(["--features", "bench-amqp", "--bin", "busline-bench-amqp", "--"]).args(arguments);
    let done = python::ready().and_then(|python| shell::run(run.env(python::VARIABLE, python)));
    started.stop().and(done)
}

/// The benchmarks on Kafka, on the node of the tests; starts it where it is not there.
fn bench_kafka(arguments: &[&str]) -> Result<()> {
    let node: Vec<_> =
        brokers::SERVICES.iter().filter(|node| node.name == "kafka").copied().collect();
    let mut started = brokers::start(&node)?;
    let mut run = shell::cargo(["run", "--quiet", "--release", "--package", "xtask"]);
    run.args(["--features", "bench-kafka", "--bin", "busline-bench-kafka", "--"]).args(arguments);
    let done = shell::run(&mut run);
    started.stop().and(done)
}

/// Runs a program of this package that needs the crates of the product.
fn program(name: &str, release: bool, arguments: &[&str]) -> Result<()> {
    let binary = format!("busline-{name}");
    let mut run = shell::cargo(["run", "--quiet", "--package", "xtask", "--features", name]);
    if release {
        run.arg("--release");
    }
    shell::run(run.args(["--bin", &binary, "--"]).args(arguments))
}
