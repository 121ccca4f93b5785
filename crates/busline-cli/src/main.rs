//! The command line tool of Busline: parses, runs one verb, prints, exits.

#![forbid(unsafe_code)]

mod admin;
mod app;
mod args;
mod bench;
mod bridge;
mod complete;
mod consume;
mod dead;
mod demo;
mod doctor;
mod exit;
mod filter;
mod human;
mod input;
mod line;
mod log;
mod output;
mod progress;
mod publish;
mod read;
mod reference;
mod service;
mod signal;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::app::App;
use crate::args::{Cli, Verb};
use crate::exit::Outcome;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&Err(error.into()), None),
    };
    let (outcome, signal) = runtime.block_on(async {
        let stop = match signal::listen() {
            Ok(stop) => stop,
            Err(error) => return (Err(error.into()), None),
        };
        let app = App::new(cli.global, stop.clone());
        let outcome = run(app, cli.verb, stop.clone()).await;
        (outcome, stop.signal())
    });
    // A thread may be blocked on standard input: it is not waited for.
    runtime.shutdown_timeout(Duration::ZERO);
    exit::report(&outcome, signal)
}

/// Runs a verb; one that does not finish by itself on a signal is dropped.
async fn run(app: App, verb: Verb, mut stop: signal::Stop) -> Outcome {
    if verb.stops_itself() {
        return dispatch(app, verb).await;
    }
    tokio::select! {
        outcome = dispatch(app, verb) => outcome,
        () = stop.requested() => Ok(()),
    }
}

async fn dispatch(mut app: App, verb: Verb) -> Outcome {
    match verb {
        Verb::Publish(args) => publish::run(&mut app, args).await,
        Verb::Read(args) => read::run(&mut app, args).await,
        Verb::Consume(args) => consume::run(&mut app, args).await,
        Verb::Topics => admin::topics(&mut app).await,
        Verb::Groups(args) => admin::groups(&mut app, args).await,
        Verb::Group(verb) => admin::group(&mut app, verb).await,
        Verb::Topic(verb) => admin::topic(&mut app, verb).await,
        Verb::Dead(verb) => dead::run(&mut app, verb).await,
        Verb::Event(verb) => service::event(&mut app, verb).await,
        Verb::Configuration(verb) => service::configuration(&mut app, verb).await,
        Verb::Command(verb) => service::command(&mut app, verb).await,
        Verb::Monitor(args) => service::monitor(&mut app, args).await,
        Verb::Logs(args) => service::logs(&mut app, args).await,
        Verb::Inspect(args) => service::inspect(&mut app, args).await,
        Verb::Log(verb) => log::run(&mut app, verb).await,
        Verb::Bridge(args) => bridge::run(&mut app, args).await,
        Verb::Doctor(args) => doctor::run(&mut app, args).await,
        Verb::Bench(args) => bench::run(&mut app, args).await,
        Verb::Demo(args) => demo::run(&mut app, args).await,
        Verb::DemoWorker(args) => demo::work(&mut app, args).await,
        Verb::Completions(args) => complete::completions(&mut app, &args),
        Verb::Man(args) => complete::man(&mut app, &args),
    }
}
