//! A service that handles events in batches, and settles each batch together.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use busline::service::wire::Value;
use busline::service::{App, Context, Entry};
use clap::Parser;
use serde_json::json;
use support::{Common, Signals, line, ready, shown};

/// Collects the events `BatchItem`.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// A batch is complete with this many.
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    size: u32,
    /// Or when its first item is this old, in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    timeout: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let signals = Signals::listen();
    let arguments = Arguments::parse();
    let Ok(age_max) = Duration::try_from_secs_f64(arguments.timeout) else {
        use clap::CommandFactory;
        let mut command = Arguments::command();
        command.error(clap::error::ErrorKind::InvalidValue, "--timeout is no time").exit()
    };
    let app = App::new(arguments.common.name("batcher"))
        .batch_event("BatchItem", arguments.size, age_max, batch)
        // A batch must fit, and the next one can begin meanwhile.
        .prefetch(arguments.size.saturating_mul(2))
        .on_ready(async |_: Context| ready());
    arguments.common.run(app, signals).await
}

/// When this succeeds all of them are settled.
async fn batch(entries: Vec<Entry<Value>>, _: Context) {
    let items: Vec<_> = entries.iter().map(|entry| shown(&entry.payload)).collect();
    line(&json!({"kind": "batch", "size": items.len(), "items": items}));
}
