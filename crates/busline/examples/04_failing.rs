//! A service that fails: each message is tried twice, then it goes to the dead letters.

mod support;

use std::process::ExitCode;

use busline::service::{App, Context, Fault};
use clap::Parser;
use serde_json::{Value, json};
use support::{Common, Seen, Signals, line, ready};

/// Fails in every way that a handler can.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
}

#[tokio::main]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    let app = App::new(arguments.common.name("failing"))
        .event("FailAlways", fail_always)
        .event("FailLate", fail_late)
        .event("FailOnce", fail_once)
        .event("FailNever", fail_never)
        // Bound, and nobody handles it.
        .bind_event("FailUnhandled")
        .command("Boom", boom)
        .command("Fine", fine)
        .on_ready(async |_: Context| ready());
    arguments.common.run(app, signals).await
}

/// Each try; the number is exact where the queue counts, and else at least that.
fn attempt(seen: &Seen) {
    line(&json!({
        "kind": "attempt",
        "key": seen.key,
        "attempt": seen.attempt.number,
        "exact": seen.attempt.exact,
        "payload": seen.payload(),
        "conversation_id": seen.conversation_id,
    }));
}

async fn fail_always(seen: Seen) -> Result<(), Fault> {
    attempt(&seen);
    Err(Fault::failure("it always fails"))
}

/// What it publishes before it fails stays published, and is published again.
async fn fail_late(seen: Seen) -> Result<(), Fault> {
    attempt(&seen);
    seen.context.event("FailLateSideEffect", &seen.payload()).await?;
    Err(Fault::failure("it fails late"))
}

async fn fail_once(seen: Seen) -> Result<(), Fault> {
    attempt(&seen);
    if seen.attempt.number < 2 {
        return Err(Fault::failure("it fails the first time"));
    }
    seen.context.event("FailRecovered", &seen.payload()).await?;
    Ok(())
}

async fn fail_never(seen: Seen) {
    attempt(&seen);
}

/// A failure answers nobody.
async fn boom(seen: Seen) -> Result<Value, Fault> {
    attempt(&seen);
    Err(Fault::failure("boom"))
}

async fn fine(seen: Seen) -> Result<Value, Fault> {
    attempt(&seen);
    Ok(json!({"fine": true}))
}
