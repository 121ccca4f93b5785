//! Services that are processes of their own: killed in the middle of their work, and stopped by signals.

use std::collections::BTreeMap;
use std::time::Duration;

use busline::service::{App, Context, Correlation, Fault, Level, Payload, ResultStatus};
use busline::{Bus, Result};
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::harness::{World, soon};
use crate::harness::worker::report;
use crate::harness::{Event, Fleet, Random, Task, is_long, url};

/// The number whose doubling never ends.
const ENDLESS: u64 = u64::MAX / 2;

/// The work of a process: it doubles numbers, and tells of each.
pub(crate) async fn serve(bus: Bus, service: &str) -> Result<()> {
    let double = async |Payload(n): Payload<u64>, context: Context| -> Result<u64, Fault> {
        report(&Event::Trying { first: n, count: 1 });
        if n == ENDLESS {
            std::future::pending::<()>().await;
        }
        context.event("Doubled", &n).await?;
        Ok(2 * n)
    };
    let ready = async |_| report(&Event::Ready { end: 0 });
    // Longer than any test waits.
    let stop_max = Duration::from_secs(3600);
    App::new(service).command("Double", double).on_ready(ready).stop_max(stop_max).run(bus).await?;
    report(&Event::Done);
    Ok(())
}

/// Each command is answered, whoever of the service is killed while it works on it.
#[test]
fn no_command_is_lost_when_processes_of_a_service_are_killed() {
    let mut random = Random::for_test("no_command_is_lost_when_processes_of_a_service_are_killed");
    let commands = if is_long() { 10_000 } else { 1_000_u64 };
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path(), "");
    let mut fleet = Fleet::new();
    let task = Task::Serve { url: url.clone(), service: "double".to_owned() };
    let is_ready = |_: usize, event| matches!(event, Event::Ready { .. }).then_some(());
    for _ in 0..2 {
        fleet.start(task.clone());
        fleet.expect("a service", is_ready);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let (seen, mut results) = mpsc::unbounded_channel();
    let got = move |Payload(n): Payload<u64>, id: Correlation, status: ResultStatus| {
        seen.send((id.0.parse::<u64>().unwrap(), n, status.is_success())).unwrap();
        async {}
    };
    let probe = runtime.block_on(async {
        let world = World::at(url.clone()).await;
        let probe = world.probe_of(App::new("caller").result("Done", got)).await;
        for n in 0..commands {
            let id = n.to_string();
            probe.context.send_command("double.Double", &n, "caller.Done", &id).await.unwrap();
        }
        probe
    });
    let mut answers = BTreeMap::new();
    let mut kills = 0;
    while (answers.len() as u64) < commands {
        if kills < 5 && answers.len() as u64 > commands * kills / 6 {
            kills += 1;
            let victim = *random.pick(&fleet.running());
            fleet.kill(victim);
            fleet.start(task.clone());
        }
        let result = runtime.block_on(soon("a result", results.recv()));
        let (id, doubled, is_success) = result.unwrap();
        assert_eq!((doubled, is_success), (2 * id, true));
        *answers.entry(id).or_insert(0) += 1;
        // What they say is heard, so that their pipes do not fill up.
        while fleet.next(Duration::ZERO).is_some() {}
    }
    assert_eq!(kills, 5, "too quick to be killed");
    let again: u64 = answers.values().map(|times| times - 1).sum();
    println!("{commands} commands, {kills} kills, {again} answers came again");
    runtime.block_on(probe.stop());
}

/// With handlers in progress too: the signal ends the process with success.
#[test]
fn a_signal_stops_a_service_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let directory = tempfile::tempdir().unwrap();
        let url = url(directory.path(), "");
        let mut fleet = Fleet::new();
        let id = fleet.start(Task::Serve { url, service: "double".to_owned() });
        fleet.expect("a service", |_, event| matches!(event, Event::Ready { .. }).then_some(()));
        fleet.signal(id, signal);
        fleet.expect("its end", |_, event| matches!(event, Event::Done).then_some(()));
    }
}

/// A handler that hangs holds up the first signal and not the second; what it worked on comes again.
#[test]
fn a_second_signal_waits_for_no_handler() {
    let directory = tempfile::tempdir().unwrap();
    let url = url(directory.path(), "");
    let mut fleet = Fleet::new();
    let task = Task::Serve { url: url.clone(), service: "double".to_owned() };
    let tried =
        |_: usize, event| matches!(event, Event::Trying { first: ENDLESS, .. }).then_some(());
    let id = fleet.start(task.clone());
    fleet.expect("a service", |_, event| matches!(event, Event::Ready { .. }).then_some(()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (probe, mut logs) = runtime.block_on(async {
        let world = World::at(url).await;
        let logs = world.tap("logs").await;
        let probe = world.probe("caller").await;
        let sent = probe.context.send_command("double.Double", &ENDLESS, "caller.Done", "1").await;
        sent.unwrap();
        (probe, logs)
    });
    fleet.expect("a handler", tried);
    fleet.signal(id, Signal::TERM);
    let (_, line) = runtime.block_on(logs.log(Level::WARNING));
    assert_eq!(line, "Shutting down…");
    fleet.signal(id, Signal::TERM);
    fleet.expect("its end", |_, event| matches!(event, Event::Done).then_some(()));
    fleet.stop(id);
    let id = fleet.start(task);
    fleet.expect("the command once more", tried);
    fleet.kill(id);
    runtime.block_on(probe.stop());
}
