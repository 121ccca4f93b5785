//! A service that answers: events that come back, commands that succeed, fail, and take their time.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use busline::service::wire::Body;
use busline::service::{App, Context, Fault, Level, Manual, Payload, Replier};
use clap::Parser;
use serde_json::{Map, Value, json};
use support::{Common, Seen, Signals, line, ready};

/// Answers what it is asked, on the bus of your choice.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Write payloads as JSON instead of CBOR.
    #[arg(long)]
    json: bool,
    /// Get every message, instead of sharing them with other instances.
    #[arg(long)]
    exclusive: bool,
    /// How many events, and as many commands, it holds at most.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    prefetch: Option<u32>,
}

/// The most copies of an event that one request gets.
const COPIES_MAX: u64 = 100_000;

/// The longest that an answer takes.
const LATER_MAX_S: f64 = 86_400.0;

#[tokio::main]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    let mut app = App::new(arguments.common.name("echo"))
        .event("EchoRequested", echo_requested)
        .event("EchoIgnored", echo_ignored)
        .command("Reverse", reverse)
        .command("Identity", identity)
        .command("Meta", meta)
        .command("Later", later)
        .on_ready(async |context: Context| {
            context.log(Level::INFO, "echo is ready");
            ready();
        });
    if arguments.json {
        app = app.json();
    }
    if arguments.exclusive {
        app = app.exclusive();
    }
    if let Some(prefetch) = arguments.prefetch {
        app = app.prefetch(prefetch);
    }
    arguments.common.run(app, signals).await
}

/// Publishes as many copies as asked for, in the conversation of the request.
async fn echo_requested(seen: Seen) -> Result<(), Fault> {
    seen.print();
    let Some(text) = seen.text("text") else {
        return Err(Fault::failure("the payload is no map with a string text"));
    };
    let of = match seen.payload().get("copies") {
        None | Some(Value::Null) => 1,
        Some(copies) => copies
            .as_u64()
            .filter(|copies| *copies <= COPIES_MAX)
            .ok_or_else(|| Fault::failure(format!("copies is no number up to {COPIES_MAX}")))?,
    };
    for n in 1..=of {
        seen.context.event("EchoPublished", &json!({"text": text, "n": n, "of": of})).await?;
    }
    Ok(())
}

async fn echo_ignored(seen: Seen) {
    seen.print();
}

/// Reversed by code points; the event says so to everybody.
async fn reverse(seen: Seen) -> Result<Value, Fault> {
    seen.print();
    let Some(text) = seen.text("text") else {
        return Err(Fault::new("the payload is no map with a string text"));
    };
    let reversed: String = text.chars().rev().collect();
    let event = json!({"text": text, "reversed": reversed});
    seen.context.event("TextReversed", &event).await?;
    Ok(json!({"text": reversed}))
}

/// Whatever came, unchanged.
async fn identity(seen: Seen, Payload(body): Payload<Body>) -> Result<Body, Fault> {
    seen.print();
    Ok(body)
}

async fn meta(seen: Seen) -> Result<Value, Fault> {
    seen.print();
    Ok(json!({"meta": seen.meta}))
}

/// Answers, then settles, after a while; the handler ends at once and holds nobody up. Stopped before
/// that it gives the command back.
async fn later(seen: Seen, replier: Replier, manual: Manual) -> Result<(), Fault> {
    seen.print();
    let payload = seen.payload();
    let seconds = payload.get("seconds").cloned().unwrap_or(Value::Null);
    let wait = seconds.as_f64().filter(|seconds| (0.0..=LATER_MAX_S).contains(seconds));
    let Some(wait) = wait else {
        let reason = format!("seconds is no number from 0 to {LATER_MAX_S}");
        replier.error(&json!({"reason": reason})).await?.await?;
        manual.ack().await?;
        return Ok(());
    };
    seen.context.after(Duration::from_secs_f64(wait), move |_| async move {
        let answered = async {
            replier.success(&Map::from_iter([("waited".to_owned(), seconds)])).await?.await?;
            manual.ack().await
        };
        if let Err(error) = answered.await {
            line(&json!({"kind": "error", "error": error.to_string()}));
        }
    });
    Ok(())
}
