//! A real disk that fills up and is freed again, under several processes: publishers are refused in time, settles and
//! readers go on, and afterwards everything does, without anything being opened anew.
//!
//! The disk is a small tmpfs in a mount namespace, which needs root; where that is not to be had the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use busline::transport::GroupInfo;
use busline::{Bus, ErrorKind, Position, PublishError, Receipt, Result, Topic};

use super::takeover::cannot_run;
use crate::harness::wire::{Decision, Got, Settle};
use crate::harness::worker::{Stop, report};
use crate::harness::{self, DEADLINE, Event, Fleet, Random, Task, now, number, runtime};
use crate::kill::publishing::{content, origin};
use crate::kill::{read, verify};

const TOPIC: &str = "filling";
const GROUP: &str = "drain";
const DISK: &str = "4m";
const BALLAST_BYTES: usize = 1_500_000;
/// How long publishers wait for room.
const FULL_WAIT_MS: u64 = 200;
const MOUNTING: &[&str] = &["unshare", "--mount"];

#[test]
fn a_disk_that_is_full_and_freed_again_costs_nothing_but_time() {
    let probe = [MOUNTING, &["mount", "-t", "tmpfs", "tmpfs", "/mnt"]].concat();
    if let Some(why) = cannot_run(&probe) {
        println!("skip: a full disk, which takes a mount of its own: {why}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new();
    let path = directory.path().to_str().unwrap().to_owned();
    let told = fleet.start_by(MOUNTING, Task::FillDisk { directory: path });
    let story = fleet.expect("the story", |id, event| match event {
        Event::Told { what } if id == told => Some(what),
        _ => None,
    });
    println!("{story}");
    fleet.stop(told);
    fleet.settle(|_, _, _| {});
}

/// What was reported while the disk filled up and after.
#[derive(Default)]
struct Account {
    /// By publisher and number.
    stored: BTreeMap<(String, u64), u64>,
    refused: BTreeSet<(String, u64)>,
    acked: BTreeMap<u64, u32>,
    /// Acks that were refused for want of room.
    put_off: u64,
    followed: Vec<u64>,
    /// How often each worker was refused, or stored something, since that was last asked.
    news: BTreeMap<usize, (u64, u64)>,
    refusal_us_max: u64,
}

impl Account {
    fn hear(&mut self, id: usize, task: &Task, event: Event) {
        let news = self.news.entry(id).or_default();
        match (task, event) {
            (Task::Fill { name, .. }, Event::Stored { first, offsets }) => {
                news.1 += 1;
                let names = (first..).map(|index| (name.clone(), index));
                self.stored.extend(names.zip(offsets));
            }
            (Task::Fill { name, .. }, Event::Refused { index, us }) => {
                news.0 += 1;
                self.refusal_us_max = self.refusal_us_max.max(us);
                self.refused.insert((name.clone(), index));
            }
            (Task::Drain { .. }, Event::Settled { settles }) => {
                for Settle { offset, attempt, error, .. } in settles {
                    match error.as_deref() {
                        None => assert_eq!(self.acked.insert(offset, attempt), None, "{offset}"),
                        Some("full") => self.put_off += 1,
                        Some(error) => panic!("{offset}: {error}"),
                    }
                }
            }
            (Task::Follow { .. }, Event::Saw { records }) => {
                self.followed.extend(records.iter().map(|record| record.offset));
            }
            _ => {}
        }
    }

    /// Hears until each of these has been refused, or has stored, so often from now on.
    fn until(
        &mut self,
        fleet: &mut Fleet,
        workers: &[usize],
        what: &str,
        pick: fn(&(u64, u64)) -> u64,
    ) {
        self.news.clear();
        let give_up = now() + DEADLINE;
        while !workers.iter().all(|id| self.news.get(id).map_or(0, pick) >= 5) {
            assert!(now() < give_up, "{what}: {:?}", self.news);
            self.listen(fleet, Duration::from_millis(50));
        }
    }

    fn listen(&mut self, fleet: &mut Fleet, at_most: Duration) {
        if let Some((id, event)) = fleet.next(at_most) {
            self.hear(id, fleet.task(id), event);
        }
    }
}

/// The whole story, in a process with mounts of its own.
pub(crate) fn fill_disk(directory: &str) -> String {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "tmpfs", directory])
        .status();
    assert!(status.unwrap().success());
    let directory = Path::new(directory);
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let url = harness::url(directory, &format!("segment_bytes=262144&full_wait={FULL_WAIT_MS}ms"));
    let (mut fleet, mut account, mut random) =
        (Fleet::new(), Account::default(), Random::for_test("full"));
    let fillers = ["f1", "f2"].map(|name| {
        let (url, topic, seed) = (url.clone(), TOPIC.to_owned(), random.next());
        fleet.start(Task::Fill { url, topic, name: name.to_owned(), seed })
    });
    for _ in 0..2 {
        let (url, topic, group) = (url.clone(), TOPIC.to_owned(), GROUP.to_owned());
        fleet.start(Task::Drain { url, topic, group });
    }
    fleet.start(Task::Follow { url: url.clone(), topic: TOPIC.to_owned(), from: None });
    let runtime = runtime();
    let mut rounds = Vec::new();
    for round in 0..2 {
        account.until(&mut fleet, &fillers, "refusals", |(refused, _)| *refused);
        // Also who comes now finds everything in order.
        let bus = runtime.block_on(Bus::open(&url)).unwrap();
        let drained = drain(&mut fleet, &mut account, &runtime, &bus);
        rounds.push(format!("{} stored and settled on the full disk", drained.acked));
        account.until(&mut fleet, &fillers, "refusals", |(refused, _)| *refused);
        match round {
            0 => std::fs::remove_file(&ballast).unwrap(),
            _ => grow(directory),
        }
        account.until(&mut fleet, &fillers, "receipts", |(_, stored)| *stored);
    }
    for id in fillers {
        fleet.stop(id);
    }
    let bus = runtime.block_on(Bus::open(&url)).unwrap();
    let give_up = now() + DEADLINE;
    while fillers.iter().any(|id| fleet.exists(*id)) {
        assert!(now() < give_up, "publishers do not end");
        account.listen(&mut fleet, Duration::from_millis(20));
    }
    let info = drain(&mut fleet, &mut account, &runtime, &bus);
    for id in fleet.running() {
        fleet.stop(id);
    }
    fleet.settle(|id, task, event| account.hear(id, task, event));
    check(&account, &runtime.block_on(read(&bus, TOPIC)), &info);
    drop(runtime.block_on(bus.close(Duration::from_secs(10))));
    drop(bus);
    let logs = verify(directory);
    let (stored, refused) = (account.stored.len(), account.refused.len());
    format!(
        "{rounds:?}; in all {stored} stored, {refused} refused within {} ms, {} deliveries again, \
         {logs} logs sound",
        account.refusal_us_max / 1000,
        info.redelivered
    )
}

/// Makes room as an operator does who has no file to delete.
fn grow(directory: &Path) {
    let mut mount = Command::new("mount");
    assert!(mount.args(["-o", "remount,size=6m"]).arg(directory).status().unwrap().success());
}

/// Waits until the group has settled everything that there is.
fn drain(
    fleet: &mut Fleet,
    account: &mut Account,
    runtime: &tokio::runtime::Runtime,
    bus: &Bus,
) -> GroupInfo {
    let give_up = now() + DEADLINE;
    loop {
        let info = runtime.block_on(async {
            let topic = Topic::new(TOPIC).unwrap();
            bus.admin().await.unwrap().groups(Some(&topic)).await.unwrap().remove(0)
        });
        if info.lag + info.in_flight + info.waiting == 0 {
            return info;
        }
        assert!(now() < give_up, "settles do not go on: {info:?}, {} put off", account.put_off);
        account.listen(fleet, Duration::from_millis(20));
    }
}

/// Every receipt is there once, in order; what was refused is not; everything was settled once, and followed.
fn check(account: &Account, log: &[busline::Record], info: &GroupInfo) {
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for record in log {
        let payload = std::str::from_utf8(&record.message.payload).unwrap();
        let (name, index) = origin(payload);
        let (key, text) = content(&name, index);
        assert_eq!((record.message.key.as_str(), payload), (key, text.as_str()));
        let before = newest.insert(name.clone(), index);
        assert!(before.is_none_or(|before| before < index), "{name}:{index} is out of order");
        assert!(!account.refused.contains(&(name.clone(), index)), "{name}:{index} was refused");
        found.insert((name, index), number(&record.offset));
    }
    assert_eq!(found, account.stored, "what has a receipt is there, and nothing else");
    let offsets: Vec<u64> = log.iter().map(|record| number(&record.offset)).collect();
    assert_eq!(account.followed, offsets, "the reader saw all of it, in order");
    assert!(account.acked.keys().eq(offsets.iter()), "every record was acked");
    let count = offsets.len() as u64;
    assert_eq!((info.acked, info.rejected, info.delivered - info.redelivered), (count, 0, count));
    // Publishers leave to the group what it needs.
    assert_eq!(account.put_off, 0, "acks were refused for want of room");
    let limit_us = (FULL_WAIT_MS + 2_000) * 1000;
    assert!(account.refusal_us_max < limit_us, "a refusal took {} us", account.refusal_us_max);
}

/// Publishes until it is stopped; a full disk is no end.
pub(crate) async fn fill(bus: &Bus, topic: &str, name: &str, seed: u64, stop: Stop) -> Result<()> {
    let mut random = Random::new(seed);
    let publisher = bus.publisher(topic).await?;
    report(&Event::Ready { end: 0 });
    let mut next = 0;
    while !stop.is_set() {
        let count = 1 + random.below(8);
        let batch: Result<Vec<_>> = (next..next + count)
            .map(|index| {
                let (key, text) = content(name, index);
                publisher.message(key, text)
            })
            .collect();
        let sent = now();
        let receipts = publisher.send(batch?).await?;
        for (index, receipt) in (next..).zip(receipts) {
            match receipt.await {
                Ok(Receipt::Stored { offset: Some(offset) }) => {
                    report(&Event::Stored { first: index, offsets: vec![number(&offset)] });
                }
                Err(PublishError::Nacked(error)) if error.kind() == ErrorKind::Full => {
                    let us = u64::try_from((now() - sent).as_micros()).unwrap();
                    report(&Event::Refused { index, us });
                }
                other => report(&Event::Failed { what: format!("{other:?}") }),
            }
        }
        next += count;
    }
    bus.close(Duration::from_secs(30)).await?;
    report(&Event::Done);
    Ok(())
}

/// Acks all that comes, each with its answer.
pub(crate) async fn drain_all(bus: &Bus, topic: &str, group: &str, mut stop: Stop) -> Result<()> {
    bus.publisher(topic).await?;
    let builder = bus.group(topic, group)?.start(Position::Earliest).max_in_flight(20);
    let mut consumer = builder.attempts_max(None).lease(Duration::from_secs(2)).subscribe().await?;
    report(&Event::Ready { end: 0 });
    loop {
        let chunk = tokio::select! {
            chunk = consumer.next_chunk() => chunk?.unwrap_or_default(),
            () = stop.wait() => break,
        };
        let mut answers = Vec::new();
        for delivery in chunk {
            let (offset, attempt) =
                (number(delivery.offset.as_ref().unwrap()), delivery.attempt.number);
            answers.push((Got { offset, attempt, decision: Decision::Ack }, delivery.ack()));
        }
        let mut settles = Vec::new();
        for (Got { offset, attempt, decision }, settled) in answers {
            let error = settled.await.err().map(|error| error.kind().as_str().to_owned());
            settles.push(Settle { offset, attempt, decision, error });
        }
        report(&Event::Settled { settles });
    }
    report(&Event::Done);
    Ok(())
}
