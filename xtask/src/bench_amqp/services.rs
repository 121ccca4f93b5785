//! The service style beside the Python library: commands answered, and events handled, by a process of each.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use busline::Bus;
use busline::service::{App, Context, Fault, Payload};
use futures_util::StreamExt as _;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::mpsc;

use super::figures::{Figures, Meter};
use super::{Result, Setup, figures, messages, text};

/// What both take at a time.
const PREFETCH: u32 = 1000;
/// How many commands wait for their results.
const CALLS: usize = 64;
/// The share of the messages of a run that Python is given, so that it takes no longer than the others.
const SHARE: usize = 5;

/// Handles events and answers commands; says when it has handled so many events, and after how many seconds.
const PYTHON: &str = r"
import sys, time
from eventail.async_service.pika import ReconnectingSupervisor, Service

class Bench(Service):
    PREFETCH_COUNT = 1000
    seen = 0
    def on_ready(self):
        print('ready', flush=True)
    def on_Identity(self, payload, conversation_id, reply_to, correlation_id, meta):
        self.return_success(reply_to, payload, conversation_id, correlation_id)
    def on_BenchItem(self, payload, conversation_id, meta):
        if not self.seen:
            self.start = time.monotonic()
        self.seen += 1
        if self.seen == count:
            print(time.monotonic() - self.start, flush=True)

url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
ReconnectingSupervisor(Bench, [url], ['BenchItem'], [name + '.*'], name).run()
";

/// The same service, as a process of ours.
pub(crate) async fn child(url: String, name: String, count: String) -> Result<()> {
    let count: usize = count.parse().map_err(text)?;
    let (seen, mut sees) = mpsc::unbounded_channel::<()>();
    tokio::spawn(async move {
        if sees.recv().await.is_none() {
            return;
        }
        let Ok(meter) = Meter::start() else { return };
        for _ in 1..count {
            sees.recv().await;
        }
        println!("{}", meter.us() / 1e6);
    });
    let app = App::new(name)
        .prefetch(PREFETCH)
        .command("Identity", async |Payload(any): Payload<serde_json::Value>| Ok::<_, Fault>(any))
        .event("BenchItem", move |Payload(_): Payload<serde_json::Value>| {
            let counted = seen.send(()).map_err(|_| Fault::new("nobody counts"));
            async move { counted }
        })
        .on_ready(async |_: Context| {
            println!("ready");
            Ok::<_, Fault>(())
        });
    app.serve(url).await.map_err(text)
}

/// One repetition with each service.
pub(crate) async fn run(setup: &Setup, figures: &mut Figures) -> Result<()> {
    let driver = Driver::start(&setup.url).await?;
    if let Some(python) = &setup.python {
        let count = (setup.messages / SHARE).max(1);
        let mut command = Command::new(python);
        command.args(["-c", PYTHON, &setup.url, "bench-python", &count.to_string()]);
        driver.measure(setup, "eventail", "bench-python", command, count, figures).await?;
    }
    let mut command = Command::new(std::env::current_exe().map_err(text)?);
    command.args(["child", &setup.url, "bench-rust", &setup.messages.to_string()]);
    driver.measure(setup, "busline", "bench-rust", command, setup.messages, figures).await?;
    driver.stop().await
}

/// A service of ours that calls and publishes.
struct Driver {
    context: Context,
    task: tokio::task::JoinHandle<busline::Result<()>>,
}

impl Driver {
    async fn start(url: &str) -> Result<Self> {
        let (ready, mut readiness) = mpsc::unbounded_channel();
        let app = App::new("bench-driver").on_ready(move |context: Context| {
            drop(ready.send(context));
            async { Ok::<_, Fault>(()) }
        });
        let bus = Bus::open(url).await.map_err(text)?;
        let task = tokio::spawn(app.run_until(bus, std::future::pending()));
        let context = readiness.recv().await.ok_or("the driver has stopped")?;
        Ok(Self { context, task })
    }

    async fn stop(self) -> Result<()> {
        self.context.stopper().stop();
        self.task.await.map_err(text)?.map_err(text)
    }

    async fn measure(
        &self,
        setup: &Setup,
        who: &'static str,
        name: &str,
        mut command: Command,
        count: usize,
        figures: &mut Figures,
    ) -> Result<()> {
        // Its queues are there once it was ready, and keep what is published while it is away.
        let (service, _) = Service::start(&mut command)?;
        let commands = (count / 5).max(1);
        let (meter, cpu) = (Meter::start()?, service.cpu()?);
        self.call(name, commands).await?;
        figures.add("commands answered, 1/s", who, meter.stop(commands)?.0);
        figures.add("commands, 1/s of its own CPU", who, commands as f64 / (service.cpu()? - cpu));
        drop(service);
        let mut sent = Vec::new();
        for number in 0..count {
            sent.push(self.context.event("BenchItem", &number).await.map_err(text)?);
            if sent.len() >= 1000 {
                for sent in sent.drain(..) {
                    sent.await.map_err(text)?;
                }
            }
        }
        for sent in sent {
            sent.await.map_err(text)?;
        }
        let (service, mut output) = Service::start(&mut command)?;
        // It has begun by now, with all that starting takes behind it or not: the count is large.
        let cpu = service.cpu()?;
        let seconds: f64 = tokio::task::spawn_blocking(move || output.line())
            .await
            .map_err(text)??
            .parse()
            .map_err(text)?;
        figures.add("service events, msg/s", who, count as f64 / seconds);
        figures.add("events, 1/s of its own CPU", who, count as f64 / (service.cpu()? - cpu));
        self.remove(setup, name).await
    }

    async fn call(&self, name: &str, count: usize) -> Result<()> {
        let key = format!("{name}.Identity");
        let calls = futures_util::stream::iter(0..count).map(|number| {
            let (key, context) = (&key, &self.context);
            async move {
                let answer = context.call::<_, usize>(key, &number, Duration::from_secs(60)).await;
                match answer.map_err(text)? {
                    same if same == number => Ok(()),
                    other => Err(format!("{number} is answered by {other}")),
                }
            }
        });
        let mut calls = calls.buffer_unordered(CALLS);
        while let Some(call) = calls.next().await {
            call?;
        }
        Ok(())
    }

    /// Removes its queues, so that the next repetition starts from nothing.
    async fn remove(&self, setup: &Setup, name: &str) -> Result<()> {
        let connection = Connection::connect(&setup.url, ConnectionProperties::default());
        let connection = connection.await.map_err(text)?;
        let channel = connection.create_channel().await.map_err(text)?;
        let queues = [format!("{name}.events"), format!("{name}.commands")];
        messages::delete(&channel, &queues.each_ref().map(String::as_str)).await
    }
}

/// A service as a process; killed when it is dropped.
struct Service(Child);

struct Output(BufReader<std::process::ChildStdout>);

impl Service {
    /// Starts it and waits until it is ready.
    fn start(command: &mut Command) -> Result<(Self, Output)> {
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(text)?;
        let output = child.stdout.take().ok_or("its output is not piped")?;
        let (service, mut output) = (Self(child), Output(BufReader::new(output)));
        match output.line()?.as_str() {
            "ready" => Ok((service, output)),
            other => Err(format!("a service says '{other}' instead of being ready")),
        }
    }
}

impl Service {
    /// Seconds of processor time, of all its threads.
    fn cpu(&self) -> Result<f64> {
        figures::cpu(&self.0.id().to_string()).map(|used| used.as_secs_f64())
    }
}

impl Output {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).map_err(text)? {
            0 => Err("a service has ended".to_owned()),
            _ => Ok(line.trim().to_owned()),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
