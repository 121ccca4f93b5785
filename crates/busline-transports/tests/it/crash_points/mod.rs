//! Every crash point of a bus: what users of `file:` do through sessions is recorded change by change, and at each change
//! all processes die, and the power fails in every way that there is. What the transport shows then must be what it had
//! promised, and can be used.
//!
//! The recorder, and the ways of a medium to keep or drop what was not synced, are those of the log's own crash points.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // helpers of tests are test code too

mod explore;
mod known;
mod look;
#[path = "../../../../busline-log/tests/it/crash_points/outcomes.rs"]
mod outcomes;
mod stage;
#[path = "../../../../busline-log/tests/it/crash_points/tape.rs"]
mod tape;
mod workload;

use busline_transports::file::Sync;

use crate::rng::{Rng, seed};
use explore::{Tally, Workload, explore, record, repeats, runtime};
use known::Verdict;
use outcomes::Bound;
use stage::{Setting, Step};
use tape::{Lie, Point};

const DURABLE: Setting = Setting { sync: Sync::Always, attempts_max: None, has_group: true };

/// With a limit, as groups have it.
const LIMITED: Setting = Setting { attempts_max: Some(2), ..DURABLE };

fn is_long() -> bool {
    std::env::var_os("BUSLINE_LONG").is_some()
}

/// How many outcomes of a moment are tried.
fn bound() -> Bound {
    if is_long() {
        Bound { full: 256, pairs: 40, random: 10 }
    } else {
        Bound { full: 8, pairs: 2, random: 2 }
    }
}

fn workload(setting: Setting, steps: Vec<Step>) -> Workload {
    Workload { setting, before: Vec::new(), steps, lie: None }
}

fn attempt(workload: &Workload, seed: u64) -> Verdict<Tally> {
    let runtime = runtime();
    let (recorded, ran) = record(&runtime, workload);
    assert_eq!(recorded.lies > 0, workload.lie.is_some(), "what it would lie about did not happen");
    ran?;
    explore(&runtime, workload.setting, &recorded.points, bound(), seed)
}

/// Records a workload and ends it everywhere; at least so many different states must have been looked at.
fn prove(name: &str, workload: &Workload, states_min: u64) {
    let tally = attempt(workload, 1).unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
    println!("{name}: {tally}");
    assert!(tally.states >= states_min, "{name}: only {} states", tally.states);
}

#[test]
fn publishers_at_every_change() {
    prove("publishers", &workload(DURABLE, workload::publishers()), 480);
}

#[test]
fn topics_without_groups_at_every_change() {
    let setting = Setting { has_group: false, ..DURABLE };
    prove("publishers without groups", &workload(setting, workload::publishers()), 290);
}

#[test]
fn members_at_every_change() {
    prove("members", &workload(DURABLE, workload::members()), 450);
}

#[test]
fn dead_letters_at_every_change() {
    prove("dead letters", &workload(LIMITED, workload::letters()), 680);
}

#[test]
fn retention_at_every_change() {
    prove("retention", &workload(DURABLE, workload::retention()), 650);
}

#[test]
fn deleted_topics_at_every_change() {
    prove("deleted topics", &workload(DURABLE, workload::deletion()), 850);
}

#[test]
fn compaction_at_every_change() {
    let (mut before, settling) = (workload::before_compaction(), workload::settling());
    let repeats = repeats(&runtime(), DURABLE, &before, &settling, "/groups/").unwrap();
    before.extend(std::iter::repeat_n(settling, repeats.saturating_sub(3)).flatten());
    let workload = Workload { before, ..workload(DURABLE, workload::compaction()) };
    let (recorded, _) = record(&runtime(), &workload);
    let is_made =
        |point: &Point| point.what.contains("removing") && point.what.contains("/groups/");
    assert!(recorded.points.iter().any(is_made), "no snapshot was made");
    prove("compaction", &workload, 500);
}

#[test]
fn deaths_among_the_living_at_every_change() {
    prove("deaths", &workload(DURABLE, workload::deaths()), 880);
}

/// What waits for nothing survives the death of every process, and loses no more than the end with the power.
#[test]
fn a_bus_that_waits_for_nothing() {
    let setting = Setting { sync: Sync::Os, ..LIMITED };
    prove("dead letters that do not wait", &workload(setting, workload::letters()), 1500);
}

#[test]
fn anything_by_chance() {
    let mut seed = seed("anything on a bus by chance");
    let rounds = if is_long() { 40 } else { 1 };
    let mut states = 0;
    for round in 0..rounds {
        let mut rng = Rng(seed);
        let steps = workload::anything(&mut rng, 30);
        let sync = [Sync::Always, Sync::Always, Sync::Os][rng.below(3) as usize];
        let attempts_max = [None, Some(2)][rng.below(2) as usize];
        let setting = Setting { sync, attempts_max, ..DURABLE };
        match attempt(&workload(setting, steps.clone()), seed) {
            Ok(tally) => states += tally.states,
            Err(wrong) => panic!(
                "round {round}: {wrong}\nin {steps:?}\nunder {setting:?}\nagain: BUSLINE_SEED={seed}"
            ),
        }
        seed = rng.next();
    }
    println!("anything on a bus by chance: {states} states");
    assert!(states >= rounds * 100, "only {states} states");
}

/// The suite sees what each kind of sync is for: without it, something is wrong somewhere.
#[test]
fn a_medium_that_lies_is_noticed() {
    let cases = [
        ("receipts", Lie::File("/orders/log/0", ".tmp"), workload::publishers()),
        ("the topic's settings", Lie::File("topic.json", "?"), workload::publishers()),
        ("the topic's directory", Lie::Dir("/orders"), workload::publishers()),
        ("the directory of topics", Lie::Dir("/topics"), workload::publishers()),
        ("the marker", Lie::File("/bus/BUSLINE", "?"), workload::publishers()),
        ("settles", Lie::File("/groups/", ".tmp"), workload::members()),
        ("dead letters", Lie::File(".dead/log/0", ".tmp"), workload::letters()),
        ("the topic of dead letters", Lie::Dir("/g"), workload::letters()),
    ];
    for (name, lie, steps) in cases {
        let workload = Workload { lie: Some(lie), ..workload(LIMITED, steps) };
        let wrong = attempt(&workload, 1).expect_err(name);
        println!("{name}: {}", wrong.lines().next().unwrap_or_default());
    }
}
