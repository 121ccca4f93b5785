//! The other side: what a process of the fleet does. The test binary runs itself with a task.

use std::io::{BufRead, Write};
use std::time::Duration;

use busline::{Bus, Error};
use tokio::sync::watch;

use super::runtime;
use super::wire::{Event, Task};
use crate::kill::{consuming, publishing};
use crate::processes::{fork, full, workers};
use crate::service::processes as serve;

/// The test that is no test.
pub(crate) const ENTRY: &str = "harness::worker::entry";
/// The variable that holds the task.
pub(crate) const TASK: &str = "BUSLINE_TEST_TASK";

#[test]
#[ignore = "it is how the other tests start processes"]
fn entry() {
    let Ok(task) = std::env::var(TASK) else { return };
    // Also one that is stopped by a signal must not outlive the test.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    // What the test runner printed has no end of line.
    std::io::stdout().write_all(b"\n").unwrap();
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line.as_deref() {
                Ok("stop") => stop.send_replace(true),
                _ => break,
            };
        }
        // The test is gone, or it let go of this worker.
        std::process::exit(3);
    });
    let task: Task = serde_json::from_str(&task).unwrap();
    let result = runtime().block_on(run(task, Stop(stopped)));
    if let Err(error) = result {
        report(&Event::Failed { what: format!("{error:?}") });
    }
}

async fn run(task: Task, stop: Stop) -> Result<(), Error> {
    match task {
        Task::Publish { url, topic, name, seed } => {
            publishing::publish(&Bus::open(&url).await?, &topic, &name, seed, stop).await
        }
        Task::Consume { url, topic, group, seed } => {
            consuming::consume(&Bus::open(&url).await?, &topic, &group, seed, stop).await
        }
        Task::Broadcast { url, topic } => {
            consuming::broadcast(&Bus::open(&url).await?, &topic, stop).await
        }
        Task::Follow { url, topic, from } => {
            consuming::follow(&Bus::open(&url).await?, &topic, from, stop).await
        }
        Task::Churn { url, topic, name, seed } => {
            consuming::churn(&Bus::open(&url).await?, &topic, &name, seed, stop).await
        }
        Task::Hold { url, topic, group, lease_ms, count } => {
            let lease = Duration::from_millis(lease_ms);
            workers::hold(&Bus::open(&url).await?, &topic, &group, lease, count, stop).await
        }
        Task::Fill { url, topic, name, seed } => {
            full::fill(&Bus::open(&url).await?, &topic, &name, seed, stop).await
        }
        Task::Fork { url, topic } => {
            fork::have_a_child(&Bus::open(&url).await?, &topic, stop).await
        }
        Task::Drain { url, topic, group } => {
            full::drain_all(&Bus::open(&url).await?, &topic, &group, stop).await
        }
        Task::FillDisk { directory } => {
            let story = tokio::task::spawn_blocking(move || full::fill_disk(&directory)).await;
            report(&match story {
                Ok(what) => Event::Told { what },
                Err(_) => Event::Failed { what: "it is printed above".to_owned() },
            });
            Ok(())
        }
        Task::Serve { url, service } => serve::serve(Bus::open(&url).await?, &service).await,
        Task::Time { url, topic, group } => {
            workers::time(&Bus::open(&url).await?, &topic, &group, stop).await
        }
    }
}

/// Says something to the test; it is in the pipe when this returns.
pub(crate) fn report(event: &Event) {
    let mut line = serde_json::to_vec(event).unwrap();
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    // Without a test to hear it there is nothing left to do.
    if output.write_all(&line).and_then(|()| output.flush()).is_err() {
        std::process::exit(4);
    }
}

/// Tells a worker to finish.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it is set. Cancel safe.
    pub(crate) async fn wait(&mut self) {
        if self.0.wait_for(|set| *set).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
