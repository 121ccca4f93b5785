//! Instances of ours and of theirs as one service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busline::service::{App, Correlation, Payload, ResultStatus};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::ground::Ground;
use super::witness::Witness;
use crate::harness::{Event, Fleet, Task};
use crate::service::harness::{World, soon};

/// Whose process is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Ours,
    Theirs,
}

#[test]
fn no_command_is_lost_when_ours_is_killed_beside_theirs() {
    share(Victim::Ours);
}

#[test]
fn no_command_is_lost_when_theirs_is_killed_beside_ours() {
    share(Victim::Theirs);
}

/// Both take commands from one queue. One is killed in the middle: what it held comes to the other.
fn share(victim: Victim) {
    const COMMANDS: u64 = 1_000;
    let Some(ground) = Ground::find() else { return };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let mut theirs = ground.start("echo.py", &["double"]);
    runtime.block_on(theirs.expect("ready"));
    let mut fleet = Fleet::new();
    let task = Task::Serve { url: ground.url(), service: "double".to_owned() };
    let ours = fleet.start(task);
    fleet.expect("a service", |_, event| matches!(event, Event::Ready { .. }).then_some(()));
    let (seen, mut results) = mpsc::unbounded_channel();
    let got = move |Payload(payload): Payload<Value>, id: Correlation, status: ResultStatus| {
        seen.send((id.0.parse::<u64>().unwrap(), payload, status.is_success())).unwrap();
        async {}
    };
    let probe = runtime.block_on(async {
        let world = World::at(ground.url()).await;
        let probe = world.probe_of(App::new("caller").result("Done", got)).await;
        for n in 0..COMMANDS {
            let id = n.to_string();
            probe.context.send_command("double.Double", &n, "caller.Done", &id).await.unwrap();
        }
        probe
    });
    let (mut answers, mut killed) = (BTreeMap::new(), false);
    let (mut by_ours, mut by_theirs) = (0, 0);
    while (answers.len() as u64) < COMMANDS {
        let result = runtime.block_on(soon("a result", results.recv()));
        let (id, payload, is_success) = result.unwrap();
        // Who answers says so by the shape of the answer.
        let doubled = match &payload["doubled"] {
            Value::Null => (&payload, by_ours += 1).0,
            doubled => (doubled, by_theirs += 1).0,
        };
        assert_eq!((doubled, is_success), (&json!(2 * id), true));
        *answers.entry(id).or_insert(0) += 1;
        if !killed && by_ours > 0 && by_theirs > 0 && answers.len() >= 100 {
            assert!(answers.len() < COMMANDS as usize, "too quick to be killed");
            killed = true;
            match victim {
                Victim::Ours => fleet.kill(ours),
                Victim::Theirs => theirs.kill(),
            }
        }
        // What it says is heard, so that its pipe does not fill up.
        while fleet.next(Duration::ZERO).is_some() {}
    }
    assert!(killed, "both worked: {by_ours} and {by_theirs}");
    let again: u64 = answers.values().map(|times| times - 1).sum();
    println!("{victim:?} killed: {by_ours} by ours, {by_theirs} by theirs, {again} came again");
    runtime.block_on(probe.stop());
}

/// What the broker has after one of them was there, but for what goes with its connection.
fn declared(ground: &Ground) -> Value {
    let all = |kind: &str| ground.ask("GET", kind, "", &Value::Null);
    let pick = |kind: &str, names: &[&str]| -> Vec<String> {
        let all = all(kind);
        let lasting = all.as_array().unwrap().iter().filter(|thing| {
            let is_theirs = |name: &&str| {
                thing[*name]
                    .as_str()
                    .is_none_or(|name| !name.is_empty() && !name.starts_with("amq."))
            };
            ["name", "source", "destination"].iter().all(is_theirs)
        });
        let picked = lasting.map(|thing| {
            names.iter().map(|name| format!("{name}={} ", thing[*name])).collect::<String>()
        });
        let mut picked: Vec<_> = picked.collect();
        picked.sort();
        picked
    };
    json!({
        "exchanges": pick("exchanges", &["name", "type", "durable", "auto_delete", "internal", "arguments"]),
        "queues": pick("queues", &["name", "durable", "auto_delete", "exclusive", "arguments"]),
        "bindings": pick("bindings", &["source", "destination", "routing_key", "arguments"]),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_declares_first_the_other_finds_what_it_would_declare() {
    let (Some(first), Some(second)) = (Ground::find(), Ground::find()) else { return };
    let options = json!({ "events": ["One", "a.#"], "commands": ["S.Do", "S.Return"] });
    let mut ours = Witness::start(&first, "S", &options).await;
    ours.expect("ready").await;
    let by_ours = declared(&first);
    let mut theirs = second.probe("S", &options);
    theirs.expect("ready").await;
    let by_theirs = declared(&second);
    assert_eq!(by_ours, by_theirs);
    assert_eq!(by_ours["queues"].as_array().unwrap().len(), 2, "{by_ours}");
    // Each beside the other: nobody is refused, and nothing changes.
    let mut theirs_later = first.probe("S", &options);
    theirs_later.expect("ready").await;
    let mut ours_later = Witness::start(&second, "S", &options).await;
    ours_later.expect("ready").await;
    assert_eq!((declared(&first), declared(&second)), (by_ours, by_theirs));
    ours.stop().await;
    ours_later.stop().await;
}

/// Those with queues of their own get everything, and take nothing from the others.
#[tokio::test(flavor = "multi_thread")]
async fn exclusive_instances_of_either_get_everything_beside_those_that_share() {
    const COUNT: usize = 10;
    let Some(ground) = Ground::find() else { return };
    let shared = json!({ "events": ["Happened"], "commands": ["S.#"] });
    let mut exclusive = shared.clone();
    exclusive["exclusive"] = json!(true);
    let mut ours = [
        Witness::start(&ground, "S", &shared).await,
        Witness::start(&ground, "S", &exclusive).await,
    ];
    let mut theirs = [ground.probe("S", &shared), ground.probe("S", &exclusive)];
    for (ours, theirs) in ours.iter_mut().zip(&mut theirs) {
        ours.expect("ready").await;
        theirs.expect("ready").await;
    }
    let before = declared(&ground);
    let context = ours[0].context();
    for n in 0..COUNT {
        context.event("Happened", &n).await.unwrap().await.unwrap();
    }
    for _ in 0..COUNT {
        ours[1].expect("event").await;
        theirs[1].expect("event").await;
    }
    // Those that share get as many together.
    let [mut shared_ours, exclusive_ours] = ours;
    let [mut shared_theirs, exclusive_theirs] = theirs;
    for _ in 0..COUNT {
        tokio::select! {
            said = shared_ours.expect("event") => drop(said),
            said = shared_theirs.expect("event") => drop(said),
        }
    }
    exclusive_ours.stop().await;
    drop(exclusive_theirs);
    assert_eq!(declared(&ground), before, "they left nothing behind");
    shared_ours.stop().await;
}

/// Whoever stops gives back what it did not begin: the other does it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_that_stops_has_not_begun_is_done_by_the_other() {
    const COUNT: usize = 300;
    let Some(ground) = Ground::find() else { return };
    let options = json!({ "events": ["Happened"] });
    let publisher = World::at(ground.url()).await.probe("publisher").await;
    for stops_ours in [true, false] {
        let mut ours = Witness::start(&ground, "S", &options).await;
        let mut theirs = ground.probe("S", &options);
        ours.expect("ready").await;
        theirs.expect("ready").await;
        for n in 0..COUNT {
            publisher.context.event("Happened", &n).await.unwrap();
        }
        let mut seen = BTreeSet::new();
        let payload = |line: &Value| line["payload"].as_str().unwrap().to_owned();
        // Both are in the middle of it.
        seen.insert(payload(&ours.expect("event").await));
        seen.insert(payload(&theirs.expect("event").await));
        if stops_ours {
            seen.extend(ours.finish().await.iter().map(payload));
            while seen.len() < COUNT {
                seen.insert(payload(&theirs.expect("event").await));
            }
        } else {
            theirs.tell(&json!(["stop"]));
            let rest = theirs.rest().await;
            seen.extend(rest.iter().map(|line| payload(&serde_json::from_str(line).unwrap())));
            theirs.ends().await;
            while seen.len() < COUNT {
                seen.insert(payload(&ours.expect("event").await));
            }
            ours.stop().await;
        }
    }
    publisher.stop().await;
}
