//! A service that asks for its settings and takes nothing before it has them.

mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use busline::service::{App, Context, Fault, State};
use clap::Parser;
use serde_json::{Value, json};
use support::{Common, Seen, Signals, line, ready};

/// Waits for its settings, then answers with them.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
}

/// What it knows.
#[derive(Debug, Clone, Default)]
struct Known(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    settings: Mutex<Value>,
    pings: AtomicU64,
}

impl Known {
    fn settings(&self) -> Value {
        self.0.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    let app = App::new(arguments.common.name("configured"))
        .state(Known::default())
        .configuration("ConfiguredSettings", settings)
        .event("ConfiguredPing", ping)
        .command("GetSettings", get_settings)
        .on_unconfigured(async |context: Context| -> Result<(), Fault> {
            let who = json!({"who": context.service()});
            context.configuration("ConfiguredSettingsRequested", &who).await?;
            Ok(())
        })
        .on_ready(async |_: Context| ready());
    arguments.common.run(app, signals).await
}

/// Complete settings make it ready, and later ones replace them; others change nothing.
async fn settings(seen: Seen, State(known): State<Known>) -> bool {
    let settings = seen.payload();
    let is_complete = settings.get("complete") == Some(&Value::Bool(true));
    if is_complete {
        *known.0.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }
    is_complete
}

/// Its number is that of the ping, or else how many came.
async fn ping(seen: Seen, State(known): State<Known>) -> Result<(), Fault> {
    let count = 1 + known.0.pings.fetch_add(1, Ordering::Relaxed);
    let n = seen.payload().get("n").filter(|n| n.is_number()).cloned().unwrap_or(count.into());
    let pong = json!({"settings": known.settings(), "n": n});
    seen.context.event("ConfiguredPong", &pong).await?;
    line(&json!({"kind": "pong", "n": n, "conversation_id": seen.conversation_id}));
    Ok(())
}

async fn get_settings(State(known): State<Known>) -> Result<Value, Fault> {
    Ok(known.settings())
}
