//! Ends a recorded history at each of its points in every way, and looks at what is left.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use busline_log::storage::{MemStorage, OpenMode, Storage};

use super::known::Known;
use super::outcomes::{Bound, fingerprint, outcomes};
use super::stage::{Setting, Stage, Step, Verdict};
use super::tape::{Lie, Point, Recorded, Recorder};
use crate::rng::Rng;

/// How deep crashes go inside of the recoveries from crashes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Depth {
    /// So many levels of crashes inside of recovery, each with this bound.
    pub(crate) levels: usize,
    /// Of so many states, one is looked at that deep.
    pub(crate) one_of: u64,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Moments in the histories, those in recoveries included.
    pub(crate) points: u64,
    /// Deaths of all processes.
    pub(crate) deaths: u64,
    /// Losses of power, by what they left.
    pub(crate) losses: u64,
    /// States that differ from all others, in what is on the medium or in what was promised.
    pub(crate) states: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, deaths, losses, states } = self;
        write!(f, "{points} points, {deaths} deaths and {losses} losses of power, {states} states")
    }
}

/// Runs a workload on an empty medium; every moment of it.
pub(crate) fn record(
    setting: &Setting,
    processes: usize,
    steps: &[Step],
    lie: Option<Lie>,
) -> (Recorded, Verdict) {
    let recorder = Recorder::start(MemStorage::new(), Known::default(), lie);
    let mut stage = Stage::new(&recorder, setting, processes);
    let ran = stage.run(steps);
    (recorder.finish(), ran)
}

/// Ends a history at each of its points, in every way; what was looked at, or the first thing that is wrong.
pub(crate) fn explore(
    setting: &Setting,
    points: &[Point],
    bound: Bound,
    depth: Depth,
    seed: u64,
) -> Verdict<Tally> {
    let mut explorer =
        Explorer { setting, rng: Rng(seed), seen: HashSet::new(), tally: Tally::default(), depth };
    explorer.points(points, bound, depth.levels)?;
    Ok(explorer.tally)
}

struct Explorer<'a> {
    setting: &'a Setting,
    rng: Rng,
    seen: HashSet<(u64, u64, bool)>,
    tally: Tally,
    depth: Depth,
}

impl Explorer<'_> {
    fn points(&mut self, points: &[Point], bound: Bound, levels: usize) -> Verdict {
        for (at, point) in points.iter().enumerate() {
            self.tally.points += 1;
            self.end(point, bound, levels)
                .map_err(|wrong| format!("point {at}, {}: {wrong}", point.what))?;
        }
        Ok(())
    }

    fn end(&mut self, point: &Point, bound: Bound, levels: usize) -> Verdict {
        self.tally.deaths += 1;
        self.examine(point.medium.snapshot(), &point.known, false, levels)
            .map_err(|wrong| format!("every process dies: {wrong}"))?;
        if point.only_death {
            return Ok(());
        }
        let mut rng = Rng(self.rng.next());
        outcomes(&point.medium, bound, &mut rng, &mut |medium| {
            self.tally.losses += 1;
            let print = fingerprint(&medium);
            if !self.seen.insert((print, point.known.version, levels > 0)) {
                return Ok(());
            }
            let copy = medium.snapshot();
            self.examine(medium, &point.known, true, levels).map_err(|wrong| {
                format!("the power fails: {wrong}\nthe medium: {}", describe(&copy))
            })
        })?;
        Ok(())
    }

    /// Goes on after an end: opens, compares, uses; and then once more when all that was not synced is lost.
    fn examine(
        &mut self,
        medium: MemStorage,
        known: &Known,
        power: bool,
        levels: usize,
    ) -> Verdict {
        self.tally.states += 1;
        let deeper =
            levels > 0 && (self.depth.one_of <= 1 || self.rng.below(self.depth.one_of) == 0);
        let mut known = known.clone();
        if power {
            known.lose_power();
        }
        let recorder = if deeper {
            Recorder::start(medium, known, None)
        } else {
            Recorder::silent(medium, known)
        };
        let mut stage = Stage::new(&recorder, self.setting, 1);
        if power {
            stage.boot()?;
        } else {
            stage.resume(0)?;
        }
        stage.use_it(0).map_err(|wrong| format!("in use again: {wrong}"))?;
        if deeper {
            let points = recorder.finish().points;
            let bound = Bound { full: 16, pairs: 4, random: 2 };
            self.points(&points, bound, levels - 1)?;
        }
        recorder.learn(Known::lose_power);
        stage.medium().crash(&mut |_| 0);
        stage.boot().map_err(|wrong| format!("in use again, and the power fails: {wrong}"))
    }
}

/// The files of a medium, with their lengths.
fn describe(medium: &MemStorage) -> String {
    let mut text = String::new();
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for name in medium.list(&dir).unwrap_or_default() {
            let path = dir.join(name);
            match medium.open(&path, OpenMode::Read) {
                Ok(file) => text += &format!("\n  {} {}", path.display(), file.len().unwrap()),
                Err(_) => dirs.push(path),
            }
        }
    }
    text
}
