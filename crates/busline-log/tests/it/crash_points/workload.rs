//! What processes do while their history is recorded.

use busline_log::Settlement::{Ack, Park, Release, Renew};

use super::stage::Step;
use super::stage::Step::*;
use crate::rng::Rng;

/// Two writers, rolling, retention, closing.
pub(crate) fn writers() -> Vec<Step> {
    vec![
        Append(0, 1, 8),
        Append(1, 2, 8),
        Commit(0),
        Append(1, 1, 40),
        Roll(0),
        Append(0, 1, 8),
        Append(1, 1, 300),
        Commit(1),
        KeepLast(0, 2),
        Append(0, 2, 8),
        Reopen(0),
        Append(1, 1, 8),
        Shutdown,
        Append(1, 1, 8),
    ]
}

/// Frames over several sectors, in several segments that nobody synced.
pub(crate) fn long_frames() -> Vec<Step> {
    vec![
        Append(0, 2, 700),
        Append(1, 1, 1_300),
        Sync(0),
        Append(0, 1, 1_100),
        Append(1, 3, 200),
        Roll(1),
        Append(1, 1, 900),
        Commit(0),
    ]
}

/// Two members of one group, and another group.
pub(crate) fn members() -> Vec<Step> {
    vec![
        Declare(0, "all", ""),
        Append(0, 3, 8),
        Join(0, "all"),
        Join(1, "all"),
        Claim(0, "all", 2),
        Settle(0, "all", 1, Ack),
        GroupCommit(0, "all"),
        Claim(1, "all", 1),
        Settle(1, "all", 1, Park { delay_us: 500 }),
        Declare(1, "odd", "odd"),
        Settle(0, "all", 1, Release { counted: true }),
        Append(1, 2, 8),
        Commit(1),
        Pass(600),
        Claim(1, "all", 4),
        Settle(1, "all", 2, Renew { lease_us: 5_000 }),
        Kill(1),
        Claim(0, "all", 3),
        Settle(0, "all", 9, Ack),
        Join(0, "odd"),
        Claim(0, "odd", 9),
        Reset(0, "all"),
        Configure(0, "all", "even"),
        Leave(0, "odd"),
        Delete(0, "odd"),
        Reopen(0),
    ]
}

/// Enough settling for a group to write snapshots and to drop what came before them.
pub(crate) fn compaction() -> Vec<Step> {
    let mut steps = vec![Declare(0, "all", ""), Join(0, "all")];
    for at in 0..5 {
        steps.extend([
            Append(0, 3, 8),
            Claim(0, "all", 2),
            Settle(0, "all", 1, Ack),
            Settle(0, "all", 1, Release { counted: at % 2 == 0 }),
        ]);
    }
    steps.push(GroupCommit(0, "all"));
    steps
}

/// Writers and members that die in the middle of what they do, while others go on.
pub(crate) fn deaths() -> Vec<Step> {
    vec![
        Append(0, 1, 8),
        Commit(0),
        // A whole frame that nobody sees.
        die(0, 4096, Append(1, 1, 30)),
        Append(0, 1, 30),
        die(0, 40, Append(1, 2, 30)),
        Append(0, 2, 600),
        Commit(0),
        Declare(0, "all", ""),
        Join(0, "all"),
        Join(1, "all"),
        Claim(1, "all", 1),
        die(0, 4096, Settle(1, "all", 1, Ack)),
        Claim(0, "all", 1),
        Settle(0, "all", 1, Park { delay_us: 5 }),
        Roll(0),
        die(2, 0, Roll(1)),
        Append(0, 1, 8),
        die(3, 0, KeepLast(1, 1)),
        Append(0, 1, 8),
        KeepLast(0, 1),
        die(3, 0, Reopen(1)),
        Append(0, 1, 8),
    ]
}

/// Power that fails again and again, with recoveries and what comes between them.
pub(crate) fn recoveries() -> Vec<Step> {
    let mut steps = vec![Declare(0, "all", ""), Join(0, "all")];
    for seed in 0..4 {
        steps.extend([
            Append(0, 1, 100),
            Commit(0),
            Append(1, 2, 100),
            Roll(0),
            Append(0, 1, 200),
            Join(0, "all"),
            Claim(0, "all", 2),
            Settle(0, "all", 1, Ack),
            Power(seed * 3),
        ]);
    }
    steps
}

/// A sync that fails, with what it should have written in two segments, and the repair.
pub(crate) fn poisoned() -> Vec<Step> {
    vec![
        Append(0, 1, 8),
        Commit(0),
        Append(1, 2, 100),
        Roll(0),
        Append(0, 1, 700),
        FailedCommit(1),
        Repair,
        Append(1, 1, 8),
        Commit(0),
    ]
}

/// Anything, by chance.
pub(crate) fn anything(rng: &mut Rng, steps: usize) -> Vec<Step> {
    (0..steps)
        .map(|_| {
            let step = one(rng);
            match rng.below(20) {
                0 => die(rng.below(9), rng.below(300) as usize, step),
                1 if rng.below(3) == 0 => Power(rng.next()),
                _ => step,
            }
        })
        .collect()
}

fn one(rng: &mut Rng) -> Step {
    let p = rng.below(2) as usize;
    let group = if rng.below(4) == 0 { ("odd", "odd") } else { ("all", "") };
    let some = 1 + rng.below(3) as usize;
    match rng.below(40) {
        0..10 => Append(p, some, [8, 8, 40, 300, 700][rng.below(5) as usize]),
        10..13 => Commit(p),
        13 => Sync(p),
        14 => Roll(p),
        15..17 => KeepLast(p, rng.below(8) as usize),
        17..19 => Declare(p, group.0, group.1),
        19 => Configure(p, group.0, ["", "odd", "even"][rng.below(3) as usize]),
        20..23 => Join(p, group.0),
        23 => Leave(p, group.0),
        24..29 => Claim(p, group.0, some),
        29..35 => {
            let delay_us = rng.below(900);
            let how = match rng.below(6) {
                0..3 => Ack,
                3 => Park { delay_us },
                4 => Release { counted: rng.below(2) == 0 },
                _ => Renew { lease_us: delay_us },
            };
            Settle(p, group.0, some, how)
        }
        35 => GroupCommit(p, group.0),
        36 if rng.below(3) == 0 => Reset(p, group.0),
        36 if rng.below(2) == 0 => Delete(p, group.0),
        36 | 37 => Pass(rng.below(2_000)),
        38 if rng.below(4) == 0 => Shutdown,
        38 => Reopen(p),
        _ => Kill(p),
    }
}

fn die(changes: u64, bytes: usize, step: Step) -> Step {
    Die(changes, bytes, Box::new(step))
}
