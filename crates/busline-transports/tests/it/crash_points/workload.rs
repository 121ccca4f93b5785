//! What processes do with a bus while their history is recorded.

use std::time::Duration;

use busline_core::Outcome::{self, Ack, Retry};

use super::stage::Step;
use super::stage::Step::*;
use crate::rng::Rng;

fn reject() -> Outcome {
    Outcome::Reject { reason: "it is broken".to_owned() }
}

fn later() -> Outcome {
    Retry { after: Some(Duration::from_secs(60)) }
}

/// Two publishers, one of whom closes its session and comes back.
pub(crate) fn publishers() -> Vec<Step> {
    vec![
        Declare(0, "orders"),
        Publish(0, "orders", 1, 40),
        Publish(1, "orders", 3, 40),
        Publish(0, "orders", 2, 1_800),
        Declare(1, "prices"),
        Publish(1, "prices", 1, 40),
        Close(0),
        Publish(0, "orders", 1, 40),
        Close(1),
        Close(0),
        Publish(1, "orders", 1, 1_800),
    ]
}

/// Two members who settle in all ways.
pub(crate) fn members() -> Vec<Step> {
    vec![
        Declare(0, "orders"),
        Publish(0, "orders", 6, 40),
        Take(0, "orders"),
        Settle(0, "orders", 1, Ack),
        Take(1, "orders"),
        Settle(1, "orders", 1, Retry { after: None }),
        Settle(0, "orders", 1, later()),
        Take(0, "orders"),
        SettleQuietly(0, "orders", 1, Ack),
        Drop(0, "orders", 1),
        Kill(1),
        Take(0, "orders"),
        Settle(0, "orders", 9, Ack),
        Close(0),
        Pass,
        Take(1, "orders"),
        Settle(1, "orders", 1, Ack),
        Pass,
        Take(0, "orders"),
        Settle(0, "orders", 2, Ack),
        Close(0),
    ]
}

/// Dead letters, asked for and by themselves.
pub(crate) fn letters() -> Vec<Step> {
    vec![
        Declare(0, "orders"),
        Publish(0, "orders", 5, 40),
        Take(0, "orders"),
        Settle(0, "orders", 1, reject()),
        SettleQuietly(0, "orders", 1, reject()),
        Take(0, "orders"),
        // The limit is two.
        Settle(0, "orders", 2, Retry { after: None }),
        Take(0, "orders"),
        Settle(0, "orders", 2, Retry { after: None }),
        Take(0, "orders"),
        Pass,
        Take(1, "orders"),
        Kill(1),
        // It was delivered twice, and nobody settled it.
        Publish(0, "orders", 1, 40),
        Take(0, "orders"),
        Settle(0, "orders", 1, reject()),
        Close(0),
    ]
}

/// What is done with goes, what is not stays.
pub(crate) fn retention() -> Vec<Step> {
    let mut steps = vec![Declare(0, "orders"), Keep(0, "orders", 5_000)];
    for _ in 0..2 {
        steps.extend([
            Publish(0, "orders", 4, 1_800),
            Take(0, "orders"),
            Settle(0, "orders", 2, Ack),
            Take(0, "orders"),
            Settle(0, "orders", 1, reject()),
            Settle(0, "orders", 1, Ack),
            RetentionIsDue,
            Publish(1, "orders", 1, 40),
            Close(1),
        ]);
    }
    steps.push(Keep(1, "orders", 6_000));
    steps
}

/// A topic that is deleted and declared anew.
pub(crate) fn deletion() -> Vec<Step> {
    vec![
        Declare(0, "orders"),
        Publish(0, "orders", 2, 40),
        Take(0, "orders"),
        Settle(0, "orders", 1, reject()),
        Delete(0, "orders"),
        Declare(1, "orders"),
        Publish(1, "orders", 1, 40),
        Take(0, "orders"),
        Settle(0, "orders", 1, Ack),
        Delete(1, "orders"),
        Close(1),
    ]
}

/// A group whose own log will soon be replaced by a snapshot.
pub(crate) fn before_compaction() -> Vec<Step> {
    let mut steps = vec![Declare(0, "orders"), Publish(0, "orders", 2, 40)];
    steps.extend([
        Fill(0, "orders"),
        Fill(0, "orders"),
        Fill(0, "orders"),
        Fill(0, "orders"),
        Fill(0, "orders"),
    ]);
    steps
}

/// Something that adds a little to a group's own log.
pub(crate) fn settling() -> Vec<Step> {
    vec![Take(0, "orders"), Settle(0, "orders", 9, Retry { after: None })]
}

/// With what the snapshot has to tell: what is acknowledged, rejected, put off and held.
pub(crate) fn compaction() -> Vec<Step> {
    let mut steps = vec![
        Publish(0, "orders", 3, 40),
        Take(0, "orders"),
        Settle(0, "orders", 1, Ack),
        Settle(0, "orders", 1, later()),
        Take(0, "orders"),
        Settle(0, "orders", 1, reject()),
    ];
    for _ in 0..8 {
        steps.extend([Publish(1, "orders", 1, 40), Take(0, "orders")]);
        steps.push(Settle(0, "orders", 1, Ack));
    }
    steps
}

/// Processes that die in the middle of what they do, while others go on.
pub(crate) fn deaths() -> Vec<Step> {
    vec![
        die(20, 0, Declare(1, "orders")),
        Declare(0, "orders"),
        Publish(0, "orders", 3, 40),
        die(0, 60, Publish(1, "orders", 2, 300)),
        Publish(0, "orders", 1, 40),
        die(0, 4_096, Publish(1, "orders", 2, 300)),
        Publish(0, "orders", 1, 40),
        Take(1, "orders"),
        die(0, 4_096, Settle(1, "orders", 1, Ack)),
        Take(1, "orders"),
        // In the middle of a dead letter, behind it, behind its settle.
        die(9, 30, Settle(1, "orders", 1, reject())),
        Take(1, "orders"),
        die(60, 0, Settle(1, "orders", 1, reject())),
        Take(0, "orders"),
        Settle(0, "orders", 1, reject()),
        Take(1, "orders"),
        die(1, 4_096, Settle(1, "orders", 1, reject())),
        Publish(0, "orders", 1, 40),
    ]
}

/// Anything, by chance.
pub(crate) fn anything(rng: &mut Rng, steps: usize) -> Vec<Step> {
    let mut all = vec![Declare(0, "orders"), Declare(1, "prices")];
    all.extend((0..steps).map(|_| {
        let step = one(rng);
        let may_die = matches!(step, Publish(..) | Settle(..) | TakeIfAny(..) | Close(_));
        if may_die && rng.below(12) == 0 {
            return die(rng.below(12), rng.below(300) as usize, step);
        }
        step
    }));
    all
}

fn one(rng: &mut Rng) -> Step {
    let p = rng.below(2) as usize;
    let name = if rng.below(4) == 0 { "prices" } else { "orders" };
    let some = 1 + rng.below(3) as usize;
    let outcome = match rng.below(8) {
        0..4 => Ack,
        4 => Retry { after: None },
        5 => later(),
        _ => reject(),
    };
    match rng.below(30) {
        0..8 => Publish(p, name, some, [40, 40, 300, 1_800][rng.below(4) as usize]),
        8..15 => TakeIfAny(p, name),
        15..23 => Settle(p, name, some, outcome),
        23 => SettleQuietly(p, name, some, outcome),
        24 => Drop(p, name, some),
        25 => Pass,
        26 => Keep(p, name, 5_000),
        27 => RetentionIsDue,
        28 => Close(p),
        _ => Kill(p),
    }
}

fn die(changes: u64, bytes: usize, step: Step) -> Step {
    Die(changes, bytes, Box::new(step))
}
