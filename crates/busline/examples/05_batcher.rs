//! A service that handles events in batches, and settles each batch together.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use busline::service::{App, Context, Fault, Manual, State};
use clap::Parser;
use serde_json::json;
use support::{Common, Seen, line, ready};
use tokio::sync::mpsc;

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

/// An item, and the duty to settle it.
type Item = (Seen, Manual);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Ok(age_max) = Duration::try_from_secs_f64(arguments.timeout) else {
        use clap::CommandFactory;
        let mut command = Arguments::command();
        command.error(clap::error::ErrorKind::InvalidValue, "--timeout is no time").exit()
    };
    let (items, batches) = mpsc::channel(arguments.size as usize);
    let collecting = tokio::spawn(collect(batches, arguments.size as usize, age_max));
    let app = App::new(arguments.common.name("batcher"))
        .state(items)
        .event("BatchItem", item)
        // In the order in which they came.
        .concurrency(1)
        // A batch must fit, and the next one can begin meanwhile.
        .prefetch(arguments.size.saturating_mul(2))
        .on_ready(async |_: Context| ready());
    let ended = arguments.common.run(app).await;
    collecting.abort();
    ended
}

/// Hands it on; it is settled with its batch.
async fn item(
    seen: Seen,
    manual: Manual,
    State(items): State<mpsc::Sender<Item>>,
) -> Result<(), Fault> {
    Ok(items.send((seen, manual)).await?)
}

async fn collect(mut items: mpsc::Receiver<Item>, size: usize, age_max: Duration) {
    while let Some(first) = items.recv().await {
        let mut batch = vec![first];
        // The age is that of the first item: later ones do not lengthen it.
        let full = async {
            while batch.len() < size {
                match items.recv().await {
                    Some(item) => batch.push(item),
                    None => break,
                }
            }
        };
        let _ = tokio::time::timeout(age_max, full).await;
        let payloads: Vec<_> = batch.iter().map(|(seen, _)| seen.payload()).collect();
        line(&json!({"kind": "batch", "size": payloads.len(), "items": payloads}));
        let settling: Vec<_> = batch.into_iter().map(|(_, manual)| manual.ack()).collect();
        for settled in settling {
            if let Err(error) = settled.await {
                line(&json!({"kind": "error", "error": error.to_string()}));
            }
        }
    }
}
