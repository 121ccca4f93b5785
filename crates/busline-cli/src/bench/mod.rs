//! `bench`: throughput and latency through the public interface, beside the machine's own limit.

mod bus;
mod machine;

use busline::{Bus, Capabilities, Topic};
use serde::Serialize;

use crate::app::{App, Missing, directory_of, url_of};
use crate::args::BenchArgs;
use crate::exit::{Failure, Outcome};
use crate::human;

/// Measures and prints.
pub(crate) async fn run(app: &mut App, args: BenchArgs) -> Outcome {
    // A bus of its own, that goes with the directory, where none was named.
    let mut own = None;
    if let Some(url) = &args.url {
        app.global.bus = vec![url.clone()];
    } else if !app.names_bus() {
        let directory = tempfile::Builder::new().prefix("busline-bench-").tempdir_in(".");
        let directory = directory.map_err(|error| Failure::file(".".as_ref(), &error))?;
        app.global.bus = url_of(directory.path()).into_iter().collect();
        own = Some(directory);
    }
    let directory = app.config(Missing::Create)?.urls.iter().find_map(|url| directory_of(url));
    let bus = app.open(Missing::Create).await?;
    let capabilities = bus.capabilities().await?;
    let topic = Topic::new(format!("busline-bench-{}", busline::new_message_id()))?;
    let mut report = Report::new(&bus, &capabilities, &args);
    let measured = measure(app, &args, &bus, &topic, &mut report).await;
    if let Ok(admin) = bus.admin().await {
        // The topic is of no use to anybody: the figures matter more than an error here.
        let deleted = admin.delete_topic(&topic, busline::transport::DeleteIf::default()).await;
        if let Err(error) = deleted {
            crate::output::warning(&format!("the topic {topic} is left behind: {error}"));
        }
    }
    measured?;
    if let Some(directory) = directory {
        machine::measure(app, &args, &directory, &mut report)?;
    }
    report.print(app)?;
    app.close(&bus).await?;
    drop(own);
    Ok(())
}

async fn measure(
    app: &App,
    args: &BenchArgs,
    bus: &Bus,
    topic: &Topic,
    report: &mut Report,
) -> Outcome {
    bus::declare(bus, topic).await?;
    bus::publish(app, args, bus, topic, report).await?;
    bus::read(app, args, bus, topic, report).await?;
    bus::consume(app, args, bus, topic, report).await?;
    bus::latencies(app, args, bus, topic, report).await
}

/// Whose figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Bus,
    Machine,
}

#[derive(Debug, Serialize)]
struct Row {
    figure: String,
    value: f64,
    unit: &'static str,
    of: Of,
}

/// The JSON line.
#[derive(Debug, Serialize)]
struct Report {
    bus: String,
    durability: &'static str,
    messages: u64,
    payload_bytes: u32,
    batch_size: u32,
    rows: Vec<Row>,
}

impl Report {
    fn new(bus: &Bus, capabilities: &Capabilities, args: &BenchArgs) -> Self {
        Self {
            bus: bus.to_string(),
            durability: capabilities.durability.as_str(),
            messages: args.messages,
            payload_bytes: args.size,
            batch_size: args.batch_size,
            rows: Vec::new(),
        }
    }

    fn add(&mut self, of: Of, figure: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { figure: figure.into(), value, unit, of });
    }

    /// Messages a second, and payload bytes a second.
    fn add_rate(&mut self, of: Of, figure: &str, messages: u64, took: std::time::Duration) {
        let seconds = took.as_secs_f64().max(1e-9);
        let bytes = messages as f64 * f64::from(self.payload_bytes);
        self.add(of, figure, messages as f64 / seconds, "messages/s");
        self.add(of, figure, bytes / seconds / f64::from(1 << 20), "MiB/s");
    }

    /// The median and the 99th percentile.
    fn add_latency(&mut self, of: Of, figure: &str, mut samples: Vec<std::time::Duration>) {
        samples.sort_unstable();
        for (name, share) in [("p50", 0.50), ("p99", 0.99)] {
            let index =
                ((samples.len() as f64 * share) as usize).min(samples.len().saturating_sub(1));
            let Some(sample) = samples.get(index) else { continue };
            self.add(of, format!("{figure}, {name}"), sample.as_secs_f64() * 1e6, "us");
        }
    }

    fn print(&self, app: &mut App) -> Outcome {
        if app.out.is_json() {
            return Ok(app.out.line(self)?);
        }
        let head = format!(
            "{}: a receipt survives '{}' ({} of {} bytes, {} at a time)\n",
            self.bus,
            self.durability,
            human::plural(self.messages, "message"),
            human::count(self.payload_bytes.into()),
            human::count(self.batch_size.into()),
        );
        app.out.text(&head)?;
        let row = |row: &Row| {
            let of = if row.of == Of::Bus { "bus" } else { "machine" };
            let value = if row.value < 100.0 {
                format!("{:.1}", row.value)
            } else {
                human::count(row.value as u64)
            };
            vec![of.to_owned(), row.figure.clone(), value, row.unit.to_owned()]
        };
        let rows = self.rows.iter().map(row).collect();
        Ok(app.out.text(&human::table(&["of", "figure", "value", "unit"], 2, rows))?)
    }
}
