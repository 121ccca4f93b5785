//! Waiting costs nothing, and being woken is quick.

use std::time::Duration;

use busline::Bus;

use super::workers::machine_us;
use crate::harness::{self, Event, Fleet, Task, is_long, runtime};

const TOPIC: &str = "ticks";

fn timer(url: &str, group: &str) -> Task {
    Task::Time { url: url.to_owned(), topic: TOPIC.to_owned(), group: group.to_owned() }
}

#[test]
fn a_consumer_that_waits_in_another_process_is_woken() {
    let directory = tempfile::tempdir().unwrap();
    let times = if is_long() { 2000 } else { 300 };
    let p50 = woken(&harness::url(directory.path(), "sync=os"), times);
    // Polling, or waiting for the bound of a second, would show in the median.
    assert!(p50 < 200_000, "{p50} us");
}

/// How long it takes from a publish on the bus of this URL to a member in another process that waits: the median, in
/// microseconds.
pub(crate) fn woken(url: &str, times: u64) -> u64 {
    let runtime = runtime();
    let bus = runtime.block_on(Bus::open(url)).unwrap();
    let publisher = runtime.block_on(bus.publisher(TOPIC)).unwrap();
    let mut fleet = Fleet::new();
    let worker = fleet.start(timer(url, "sleeper"));
    fleet.expect("a member", |_, event| matches!(event, Event::Ready { .. }).then_some(()));
    let mut delays_us = Vec::new();
    for _ in 0..times {
        let message = publisher.message("k", machine_us().to_string()).unwrap();
        runtime.block_on(publisher.publish(message)).unwrap();
        // The next one is published when this was received: it sleeps again by then, or nearly.
        delays_us.push(fleet.expect("the message", |id, event| match event {
            Event::Delay { us } if id == worker => Some(us),
            _ => None,
        }));
    }
    delays_us.sort_unstable();
    let at = |percent: usize| delays_us[delays_us.len() * percent / 100];
    let (p50, p99) = (at(50), at(99));
    println!(
        "from publish to a waiting process, {} times: p50 {p50} us, p99 {p99} us",
        delays_us.len()
    );
    fleet.stop(worker);
    fleet.settle(|_, _, _| {});
    p50
}

#[cfg(target_os = "linux")]
#[test]
fn consumers_that_wait_use_no_processor() {
    let directory = tempfile::tempdir().unwrap();
    let used = idle(&harness::url(directory.path(), ""));
    assert!(used.iter().all(|ticks| *ticks <= 20), "{used:?}");
}

/// The processor time of members that wait on the bus of this URL, in hundredths of a second in two seconds.
#[cfg(target_os = "linux")]
pub(crate) fn idle(url: &str) -> Vec<u64> {
    let mut fleet = Fleet::new();
    // Two of one group and one of another: they wait beside each other.
    let workers = ["pair", "pair", "single"].map(|group| fleet.start(timer(url, group)));
    let mut ready = 0;
    fleet.expect("all members", |_, event| {
        ready += usize::from(matches!(event, Event::Ready { .. }));
        (ready == workers.len()).then_some(())
    });
    // Whatever they do at first is done after a while in which they say nothing.
    assert!(fleet.next(Duration::from_millis(500)).is_none());
    let before = workers.map(|id| cpu_ticks(fleet.process_id(id)));
    assert!(fleet.next(Duration::from_secs(2)).is_none());
    let after = workers.map(|id| cpu_ticks(fleet.process_id(id)));
    let used: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    println!("processor time of waiting processes in 2 s: {used:?} ticks of 10 ms");
    used
}

/// Processor time that a process used, in hundredths of a second.
#[cfg(target_os = "linux")]
fn cpu_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // After the name, which may hold anything: state is the first field, utime and stime follow.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
