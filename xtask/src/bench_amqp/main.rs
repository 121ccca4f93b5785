//! `cargo xtask bench amqp`: RabbitMQ through Busline, beside its raw client and a Python service, in one run.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool talks to people")]

mod figures;
mod messages;
mod services;

use std::path::PathBuf;
use std::process::ExitCode;

use figures::Figures;

/// What everything here comes to; the error is a sentence for people.
type Result<T> = std::result::Result<T, String>;

/// What the works are done with.
#[derive(Debug, Clone)]
struct Setup {
    /// The broker, as `amqp://guest:guest@127.0.0.1:35672`.
    url: String,
    /// How many messages each work takes.
    messages: usize,
    repetitions: usize,
    json: bool,
    /// The interpreter that has the Python library.
    python: Option<PathBuf>,
}

const USAGE: &str = "\
usage: cargo xtask bench amqp [OPTION…]

  --url URL        the broker (the node of `cargo xtask brokers start rabbitmq`)
  --messages N     how many messages each work takes (100000)
  --repetitions N  how often each work is done, interleaved (5)
  --json           one JSON object a line instead of a table
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["child", url, name, count] => {
            block_on(services::child((*url).to_owned(), (*name).to_owned(), (*count).to_owned()))
        }
        ["--help" | "-h" | "help"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => parse(&arguments).and_then(|setup| block_on(run(setup))),
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
    let mut setup = Setup {
        url: "amqp://guest:guest@127.0.0.1:35672".to_owned(),
        messages: 100_000,
        repetitions: 5,
        json: false,
        python: std::env::var_os("BUSLINE_TEST_PYTHON").map(PathBuf::from),
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"));
        let count = |value: &&str| match value.parse() {
            Ok(0) | Err(_) => Err(format!("'{value}' is no number of them\n{USAGE}")),
            Ok(count) => Ok(count),
        };
        match *argument {
            "--url" => setup.url = (*value()?).to_owned(),
            "--messages" => setup.messages = count(value()?)?,
            "--repetitions" => setup.repetitions = count(value()?)?,
            "--json" => setup.json = true,
            other => return Err(format!("'{other}' is no option\n{USAGE}")),
        }
    }
    Ok(setup)
}

async fn run(setup: Setup) -> Result<()> {
    let mut figures = Figures::default();
    for repetition in 0..setup.repetitions {
        // Who is first changes: a broker has more to do just after a work.
        messages::run(&setup, repetition % 2 == 1, &mut figures).await?;
        services::run(&setup, &mut figures).await?;
    }
    figures.print(&setup);
    Ok(())
}

/// As a task among others, as programs do their work: both clients are woken by a thread of their own, which wakes a
/// task of the runtime in one step and the thread that started it in another.
fn block_on<T: Send + 'static>(
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(text)?;
    runtime.block_on(async { tokio::spawn(future).await.map_err(text)? })
}

/// Any error as a sentence.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
