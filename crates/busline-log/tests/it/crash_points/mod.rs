//! Every crash point: a workload is recorded change by change, and at each change its processes die, and the
//! power fails in every way that there is. What is found must be what was promised, and can be used.
//!
//! What a medium may keep of what was not synced: each changed name, each length that a file had, each image
//! that a write left of a sector of 512 bytes, independently. Where these are too many to try all: nothing,
//! everything, each of them alone against both, pairs of them, and some at random.

mod explore;
mod known;
mod outcomes;
mod stage;
mod tape;
mod workload;

use std::time::Duration;

use busline_log::SyncMode;

use crate::rng::{Rng, seed};
use explore::{Depth, Tally, explore, record};
use outcomes::Bound;
use stage::{Setting, Step, Verdict};
use tape::Lie;
use workload::{anything, compaction, deaths, long_frames, members, poisoned, recoveries, writers};

const FLAT: Depth = Depth { levels: 0, one_of: 1 };

fn is_long() -> bool {
    std::env::var_os("BUSLINE_LONG").is_some()
}

/// How many outcomes of a moment are tried.
fn bound() -> Bound {
    if is_long() {
        Bound { full: 512, pairs: 60, random: 10 }
    } else {
        Bound { full: 32, pairs: 6, random: 3 }
    }
}

/// Records a workload and ends it everywhere; at least so many different states must have been looked at.
fn prove(name: &str, setting: &Setting, steps: &[Step], depth: Depth, states_min: u64) {
    let tally = attempt(setting, steps, depth, 1, None).unwrap_or_else(|wrong| {
        panic!("{name}: {wrong}");
    });
    println!("{name}: {tally}");
    assert!(tally.states >= states_min, "{name}: only {} states", tally.states);
}

fn attempt(
    setting: &Setting,
    steps: &[Step],
    depth: Depth,
    seed: u64,
    lie: Option<Lie>,
) -> Verdict<Tally> {
    let (recorded, ran) = record(setting, 2, steps, lie);
    assert_eq!(recorded.lies > 0, lie.is_some(), "what it would lie about did not happen");
    ran?;
    explore(setting, &recorded.points, bound(), depth, seed)
}

fn tiny(sync: SyncMode) -> Setting {
    Setting::new(400, sync)
}

#[test]
fn writers_at_every_change() {
    prove("writers", &tiny(SyncMode::Always), &writers(), FLAT, 320);
}

#[test]
fn long_frames_at_every_change() {
    prove("long frames", &Setting::new(4_096, SyncMode::Always), &long_frames(), FLAT, 300);
}

#[test]
fn members_at_every_change() {
    prove("members", &tiny(SyncMode::Always), &members(), FLAT, 1200);
}

#[test]
fn compaction_at_every_change() {
    prove("compaction", &tiny(SyncMode::Always), &compaction(), FLAT, 1200);
}

#[test]
fn deaths_among_the_living_at_every_change() {
    prove("deaths", &tiny(SyncMode::Always), &deaths(), FLAT, 650);
}

#[test]
fn recoveries_at_every_change() {
    prove("recoveries", &tiny(SyncMode::Always), &recoveries(), FLAT, 1400);
}

#[test]
fn a_failed_sync_and_its_repair_at_every_change() {
    prove("poisoned", &tiny(SyncMode::Always), &poisoned(), FLAT, 400);
}

#[test]
fn crashes_inside_of_recovery() {
    let depth = Depth { levels: 1, one_of: if is_long() { 4 } else { 60 } };
    prove("inside of recovery", &tiny(SyncMode::Always), &writers(), depth, 900);
}

/// What waits for nothing promises nothing over a loss of power but order, and that no number comes again.
#[test]
fn modes_that_wait_for_nothing() {
    for sync in [SyncMode::Os, SyncMode::Interval(Duration::from_millis(5))] {
        prove("writers that do not wait", &tiny(sync), &writers(), FLAT, 420);
    }
    prove("members that do not wait", &tiny(SyncMode::Os), &members(), FLAT, 1_700);
}

#[test]
fn anything_by_chance() {
    let mut seed = seed("anything by chance");
    let rounds = if is_long() { 40 } else { 3 };
    let mut states = 0;
    for round in 0..rounds {
        let mut rng = Rng(seed);
        let steps = anything(&mut rng, 40);
        let sync = [SyncMode::Always, SyncMode::Always, SyncMode::Os][rng.below(3) as usize];
        let setting = Setting::new([400, 1_000, 4_096][rng.below(3) as usize], sync);
        match attempt(&setting, &steps, FLAT, seed, None) {
            Ok(tally) => states += tally.states,
            Err(wrong) => panic!(
                "round {round}: {wrong}\nin {steps:?}\nunder {setting:?}\nagain: BUSLINE_SEED={seed}"
            ),
        }
        seed = rng.next();
    }
    println!("anything by chance: {states} states");
    assert!(states >= rounds * 300, "only {states} states");
}

/// The suite sees what each kind of sync is for: without it, something is wrong somewhere.
#[test]
fn a_medium_that_lies_is_noticed() {
    let cases = [
        ("commits", Lie::File("/bus/log/0", ".tmp"), writers()),
        ("new segments", Lie::File(".seg.tmp", "?"), writers()),
        ("FORMAT", Lie::File("FORMAT.tmp", "?"), writers()),
        ("the log's directory", Lie::Dir("/bus/log"), writers()),
        ("the directory above", Lie::Dir("/bus"), writers()),
        ("the root", Lie::Dir("/"), writers()),
        ("what a dead writer left", Lie::File("/bus/log/0", ".tmp"), deaths()),
        ("the segments of a group", Lie::File("/groups/", ".tmp"), members()),
        ("the groups' directory", Lie::Dir("/groups"), members()),
        ("a group's directory", Lie::Dir("/all"), members()),
        ("what a recovery keeps", Lie::File("/bus/log/0", ".tmp"), recoveries()),
    ];
    for (name, lie, steps) in cases {
        let noticed = attempt(&tiny(SyncMode::Always), &steps, FLAT, 1, Some(lie));
        let wrong = noticed.expect_err(name);
        println!("{name}: {}", wrong.lines().next().unwrap_or_default());
    }
    // A mark that is torn is not believed, so its sync protects nothing but the time of a recovery.
    let marks = Lie::File("CLEAN.tmp", "?");
    attempt(&tiny(SyncMode::Always), &writers(), FLAT, 1, Some(marks)).unwrap();
}
