//! The goals of the embedded log: which figure, beside which, is to be how large.

use std::fmt;

/// A goal for one row of the report, found by what the row says.
#[derive(Debug)]
pub(crate) struct Goal {
    /// Its name; several rows may serve one goal.
    pub(crate) id: &'static str,
    /// The work of the row.
    work: &'static str,
    /// The durability of the row.
    durability: &'static str,
    /// The unit of the row.
    unit: &'static str,
    /// What the row compares with.
    beside: &'static str,
    /// What is asked.
    pub(crate) bound: Bound,
}

/// What is asked of a row: first what is owed, then what is aimed at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// This many times what stands beside it, or more.
    RatioAtLeast(f64, f64),
    /// This many times what stands beside it, or less.
    RatioAtMost(f64, f64),
    /// This much, whatever stands beside it.
    AtMost(f64, f64),
}

/// What a row came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What was aimed at.
    Goal,
    /// What was owed.
    Target,
    /// Less.
    Missed,
}

impl Bound {
    /// Judges two figures; none of a figure that is not a number.
    pub(crate) fn judge(self, busline: f64, beside: f64) -> Option<Verdict> {
        let (value, target, goal) = match self {
            // Turned round, so that less is better everywhere.
            Self::RatioAtLeast(target, goal) => (-busline / beside, -target, -goal),
            Self::RatioAtMost(target, goal) => (busline / beside, target, goal),
            Self::AtMost(target, goal) => (busline, target, goal),
        };
        value.is_finite().then_some(match value {
            _ if value <= goal => Verdict::Goal,
            _ if value <= target => Verdict::Target,
            _ => Verdict::Missed,
        })
    }

    /// What is owed and what is aimed at, for a table.
    pub(crate) fn texts(self) -> [String; 2] {
        match self {
            Self::RatioAtLeast(target, goal) => [target, goal].map(|bound| format!(">= {bound} x")),
            Self::RatioAtMost(target, goal) => [target, goal].map(|bound| format!("<= {bound} x")),
            Self::AtMost(target, goal) => [target, goal].map(|bound| format!("<= {bound}")),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Goal => "goal met",
            Self::Target => "target met",
            Self::Missed => "MISSED",
        })
    }
}

/// The goal of the row that says this.
pub(crate) fn of(work: &str, durability: &str, unit: &str, beside: &str) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| {
        (goal.work, goal.durability, goal.unit, goal.beside) == (work, durability, unit, beside)
    })
}

impl Goal {
    /// The row that it is for, in a few words.
    pub(crate) fn row(&self) -> String {
        format!("{}, {}, beside {}", self.work, self.unit, self.beside)
    }
}

/// Every goal, in the order of their names.
pub(crate) fn all() -> &'static [Goal] {
    GOALS
}

const fn goal(
    id: &'static str,
    [work, durability, unit, beside]: [&'static str; 4],
    bound: Bound,
) -> Goal {
    Goal { id, work, durability, unit, beside, bound }
}

/// Survives a crash of the process that published.
pub(crate) const PROCESS: &str = "crash of the process";
/// Survives loss of power, synced once at the end.
pub(crate) const POWER_AT_END: &str = "loss of power, one fdatasync at the end";
/// Survives loss of power, each message when its publisher goes on.
pub(crate) const POWER_EACH: &str = "loss of power, each";

const RATE: &str = "msg/s";
const SMALL: &str = "publish 1,000,000 x 100 B";
const LARGE: &str = "publish 200,000 x 1 KiB";
const SINGLE: &str = "publish 100 B, one a call";
const READ_SMALL: &str = "read 1,000,000 x 100 B";
const READ_LARGE: &str = "read 200,000 x 1 KiB";
const ONE: &str = "1 publisher";
const TASKS: &str = "64 publishers, 64 tasks";
const SETTLE: &str = "claim and ack 100 B";
const THREAD: &str = "a thread that waits";
const READER: &str = "a reader, one thread in the runtime";
const P50: &str = "us, p50";
const P99: &str = "us, p99";
const RARE: &str = "ten messages of a key in 1000000 x 100 B";
const CATEGORY: &str = "find_next, ten among 1000000 of another category, 100 B";
const FILTERS: &str = "filters in a log of 1000000 x 100 B";
const FILTERED: &str = "publish 1000000 x 100 B with filters";
const IDLE: &str = "added by consumers that do not wait";
const HERMES: &str = "stand-in for Hermes' bus";
const LIBRARY: &str = "the library by itself";
const CLEAN: &str = "after a clean close";
const KILLED: &str = "after kill -9";

use Bound::{AtMost, RatioAtLeast, RatioAtMost};

static GOALS: &[Goal] = &[
    goal("G1", [SMALL, PROCESS, RATE, "write(2) 64 KiB"], RatioAtLeast(0.40, 0.55)),
    goal("G2", [SMALL, PROCESS, RATE, "LMDB NOSYNC, 10,000 a commit"], RatioAtLeast(2.5, 3.5)),
    goal("G2", [SMALL, PROCESS, RATE, "SQLite NORMAL, 10,000 a commit"], RatioAtLeast(15.0, 20.0)),
    goal("G2", [SMALL, PROCESS, RATE, "Iggy, batches of 1,000"], RatioAtLeast(14.0, 20.0)),
    goal("G3", [SINGLE, PROCESS, RATE, "write(2) each"], RatioAtLeast(0.60, 0.75)),
    goal("G3", [SINGLE, PROCESS, RATE, "LMDB NOSYNC, one a commit"], RatioAtLeast(5.0, 6.5)),
    goal("G3", [SINGLE, PROCESS, RATE, "SQLite NORMAL, one a commit"], RatioAtLeast(20.0, 28.0)),
    goal("G4", [LARGE, PROCESS, RATE, "write(2) 64 KiB"], RatioAtLeast(0.55, 0.70)),
    goal("G4", [LARGE, PROCESS, RATE, "LMDB NOSYNC, 100 a commit"], RatioAtLeast(1.5, 2.0)),
    goal("G4", [LARGE, PROCESS, RATE, "Iggy, batches of 1,000"], RatioAtLeast(6.0, 8.0)),
    goal("G5", [SMALL, POWER_AT_END, RATE, "write(2) 64 KiB, fdatasync"], RatioAtLeast(0.50, 0.75)),
    goal("G6", [READ_SMALL, "", RATE, "LMDB, unchecked"], RatioAtLeast(0.80, 1.1)),
    goal("G6", [READ_SMALL, "", RATE, "read(2) 256 KiB, cached"], RatioAtLeast(0.35, 0.48)),
    goal("G6", [READ_SMALL, "", RATE, "SQLite"], RatioAtLeast(4.0, 5.0)),
    goal("G6", [READ_SMALL, "", RATE, "Iggy"], RatioAtLeast(20.0, 26.0)),
    goal("G7", [READ_LARGE, "", RATE, "read(2) 256 KiB, cached"], RatioAtLeast(0.60, 0.75)),
    goal("G8", [ONE, POWER_EACH, RATE, "write(2) over zeros, fdatasync"], RatioAtLeast(0.90, 0.97)),
    goal("G8", [ONE, POWER_EACH, P99, "write(2) over zeros, fdatasync"], RatioAtMost(1.3, 1.1)),
    goal("G8", [ONE, POWER_EACH, RATE, "fjall"], RatioAtLeast(0.95, 1.1)),
    goal("G8", [ONE, POWER_EACH, RATE, "SQLite FULL"], RatioAtLeast(1.3, 1.6)),
    goal("G9", [TASKS, POWER_EACH, RATE, "1 publisher"], RatioAtLeast(10.0, 18.0)),
    goal("G9", [TASKS, POWER_EACH, RATE, "Redis always, 64 connections"], RatioAtLeast(1.5, 2.5)),
    goal("G9", [TASKS, POWER_EACH, RATE, "the best embedded peer"], RatioAtLeast(10.0, 15.0)),
    goal(
        "G10",
        ["64 publishers, 8 processes", POWER_EACH, RATE, "1 publisher"],
        RatioAtLeast(6.0, 10.0),
    ),
    goal("G11", [THREAD, PROCESS, P50, "a futex"], RatioAtMost(1.5, 1.2)),
    goal("G11", [THREAD, PROCESS, P99, "a futex"], RatioAtMost(1.5, 1.2)),
    goal("G11", [READER, PROCESS, P50, "a pipe in the runtime"], RatioAtMost(1.5, 1.2)),
    goal("G11", [READER, PROCESS, P99, "a pipe in the runtime"], RatioAtMost(1.5, 1.2)),
    goal("G11", [READER, PROCESS, P50, "Redis XREAD BLOCK, TCP"], RatioAtMost(0.066, 0.033)),
    goal("G12", [IDLE, PROCESS, "ns", "such a publish, nobody there"], AtMost(10.0, 10.0)),
    goal("G13", [SETTLE, PROCESS, RATE, "fjall, remove each"], RatioAtLeast(3.0, 10.0)),
    goal("G13", [SETTLE, PROCESS, RATE, "SQLite NORMAL, 100 a commit"], RatioAtLeast(12.0, 50.0)),
    goal("G13", [SETTLE, PROCESS, RATE, "Redis everysec, pipelined"], RatioAtLeast(20.0, 80.0)),
    goal(
        "G14",
        [SETTLE, "loss of power, each 1,000", RATE, "crash of the process"],
        RatioAtLeast(0.10, 0.3),
    ),
    goal("G15", [CLEAN, "", "ms", "read(2) of all of it"], AtMost(5.0, 1.0)),
    goal("G15", [CLEAN, "", "MiB", "nothing opened"], AtMost(8.0, 3.0)),
    goal("G15", [KILLED, "", "ms", "read(2) of all of it"], AtMost(50.0, 12.0)),
    goal("G15", [KILLED, "", "MiB", "nothing opened"], AtMost(8.0, 3.0)),
    goal("G16", [RARE, "", "ms", "read all, compare"], RatioAtMost(0.05, 0.01)),
    goal("G16", [CATEGORY, "", "ms", "a consumer that reads all"], RatioAtMost(0.05, 0.01)),
    goal("G16", [FILTERS, "", "%", "the log, MiB"], AtMost(0.5, 0.3)),
    goal("G16", [FILTERED, PROCESS, "ns/msg", "without filters"], RatioAtMost(1.05, 1.02)),
    goal("G19", [ONE, POWER_EACH, RATE, HERMES], RatioAtLeast(4.0, 8.0)),
    goal("G19", [READER, PROCESS, P50, HERMES], RatioAtMost(0.001, 0.0005)),
    goal("G19", [RARE, "", "ms", HERMES], RatioAtMost(0.001, 0.0005)),
    goal("G19", [CATEGORY, "", "ms", HERMES], RatioAtMost(0.001, 0.0005)),
    goal("typed", ["encode JSON", "", "ns/msg", LIBRARY], RatioAtMost(1.2, 1.1)),
    goal("typed", ["decode JSON", "", "ns/msg", LIBRARY], RatioAtMost(1.2, 1.1)),
    goal("typed", ["encode CBOR", "", "ns/msg", LIBRARY], RatioAtMost(1.2, 1.1)),
    goal("typed", ["decode CBOR", "", "ns/msg", LIBRARY], RatioAtMost(1.2, 1.1)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_goal() {
        for goal in GOALS {
            let found = of(goal.work, goal.durability, goal.unit, goal.beside);
            assert!(found.is_some_and(|found| std::ptr::eq(found, goal)), "{goal:?}");
        }
        assert!(of("publish", PROCESS, RATE, "write(2) 64 KiB").is_none());
    }

    #[test]
    fn what_is_aimed_at_is_no_less_than_what_is_owed() {
        for goal in GOALS {
            let (target, aim) = match goal.bound {
                RatioAtLeast(target, goal) => (-target, -goal),
                RatioAtMost(target, goal) | AtMost(target, goal) => (target, goal),
            };
            assert!(aim <= target, "{goal:?}");
        }
    }

    #[test]
    fn verdicts() {
        let least = RatioAtLeast(0.5, 0.75);
        assert_eq!(least.judge(75.0, 100.0), Some(Verdict::Goal));
        assert_eq!(least.judge(50.0, 100.0), Some(Verdict::Target));
        assert_eq!(least.judge(49.0, 100.0), Some(Verdict::Missed));
        assert_eq!(least.judge(1.0, f64::NAN), None);
        assert_eq!(RatioAtMost(1.5, 1.2).judge(13.0, 10.0), Some(Verdict::Target));
        assert_eq!(RatioAtMost(1.5, 1.2).judge(16.0, 10.0), Some(Verdict::Missed));
        assert_eq!(AtMost(5.0, 1.0).judge(1.0, 0.0), Some(Verdict::Goal));
        assert_eq!(least.texts(), [">= 0.5 x", ">= 0.75 x"]);
    }
}
