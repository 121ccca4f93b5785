//! Ends a recorded history of a bus at each of its points in every way, and looks at what is left.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use busline_log::storage::{MemStorage, OpenMode, Storage};
use tokio::runtime::Runtime;

use super::known::{Known, Verdict};
use super::outcomes::{Bound, fingerprint, outcomes};
use super::stage::{Setting, Stage, Step};
use super::tape::{Lie, Point, Recorded, Recorder};
use crate::rng::Rng;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    points: u64,
    deaths: u64,
    losses: u64,
    /// States that differ from all others, in what is on the medium or in what was promised.
    pub(crate) states: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, deaths, losses, states } = self;
        write!(f, "{points} points, {deaths} deaths and {losses} losses of power, {states} states")
    }
}

/// What to do and where to look.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) setting: Setting,
    /// What is done before anything is recorded.
    pub(crate) before: Vec<Step>,
    pub(crate) steps: Vec<Step>,
    pub(crate) lie: Option<Lie>,
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Runs a workload on an empty medium with two processes; every moment of it.
pub(crate) fn record(runtime: &Runtime, workload: &Workload) -> (Recorded, Verdict) {
    let known = Known { wall_us: 1_700_000_000_000_000, ..workload.setting.known() };
    let recorder = Recorder::prepare(MemStorage::new(), known, workload.lie);
    let mut stage = Stage::new(&recorder, workload.setting, 2);
    let ran = runtime.block_on(async {
        stage.run(&workload.before).await?;
        recorder.begin();
        stage.run(&workload.steps).await
    });
    (recorder.finish(), ran)
}

/// How often some steps can be done, behind others, before files in a directory change.
pub(crate) fn repeats(
    runtime: &Runtime,
    setting: Setting,
    before: &[Step],
    steps: &[Step],
    part_of_path: &str,
) -> Verdict<usize> {
    let recorder = Recorder::silent(MemStorage::new(), setting.known());
    let mut stage = Stage::new(&recorder, setting, 2);
    runtime.block_on(stage.run(before))?;
    let first = segments(recorder.medium(), Path::new("/"), part_of_path);
    for count in 0..10_000 {
        runtime.block_on(stage.run(steps))?;
        if segments(recorder.medium(), Path::new("/"), part_of_path) != first {
            return Ok(count);
        }
    }
    Err("they do not change".to_owned())
}

/// The segments whose paths have a part.
fn segments(medium: &MemStorage, dir: &Path, part_of_path: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in medium.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        if path.to_string_lossy().contains(part_of_path)
            && path.extension().is_some_and(|end| end == "seg")
        {
            found.push(path);
        } else {
            found.extend(segments(medium, &path, part_of_path));
        }
    }
    found
}

/// Ends a history at each of its points, in every way; what was looked at, or the first thing that is wrong.
pub(crate) fn explore(
    runtime: &Runtime,
    setting: Setting,
    points: &[Point],
    bound: Bound,
    seed: u64,
) -> Verdict<Tally> {
    let (rng, seen) = (Rng(seed), HashSet::new());
    let mut explorer = Explorer { runtime, setting, rng, seen, tally: Tally::default() };
    for (at, point) in points.iter().enumerate() {
        explorer.tally.points += 1;
        let ended = explorer.end(point, bound);
        ended.map_err(|wrong| format!("point {at}, {}: {wrong}", point.what))?;
    }
    Ok(explorer.tally)
}

struct Explorer<'a> {
    runtime: &'a Runtime,
    setting: Setting,
    rng: Rng,
    seen: HashSet<(u64, u64, bool)>,
    tally: Tally,
}

impl Explorer<'_> {
    fn end(&mut self, point: &Point, bound: Bound) -> Verdict {
        self.tally.deaths += 1;
        let dead = point.medium.snapshot();
        let mut hasher = DefaultHasher::new();
        hash_pages(&dead, Path::new("/"), &mut hasher);
        let print = fingerprint(&dead) ^ hasher.finish();
        if self.seen.insert((print, point.known.version, false)) {
            self.examine(dead, &point.known, false)
                .map_err(|wrong| format!("every process dies: {wrong}"))?;
        }
        if point.only_death {
            return Ok(());
        }
        let mut rng = Rng(self.rng.next());
        outcomes(&point.medium, bound, &mut rng, &mut |medium| {
            self.tally.losses += 1;
            if !self.seen.insert((fingerprint(&medium), point.known.version, true)) {
                return Ok(());
            }
            let copy = medium.snapshot();
            self.examine(medium, &point.known, true).map_err(|wrong| {
                format!("the power fails: {wrong}\nthe medium: {}", describe(&copy, Path::new("/")))
            })
        })?;
        Ok(())
    }

    /// Opens what is left, compares, uses it; and then once more when all that was not synced is lost.
    fn examine(&mut self, medium: MemStorage, known: &Known, power: bool) -> Verdict {
        self.tally.states += 1;
        let recorder = Recorder::silent(medium, known.clone());
        let mut stage = Stage::new(&recorder, self.setting, 1);
        self.runtime.block_on(async {
            stage.look(power).await?;
            stage.use_it().await.map_err(|wrong| format!("in use again: {wrong}"))?;
            // What its threads still do does not reach the copy.
            let medium = recorder.medium().snapshot();
            medium.crash(&mut |_| 0);
            let recorder = Recorder::silent(medium, recorder.learn(|known| known.clone()));
            let again = Stage::new(&recorder, self.setting, 1).look(true).await;
            again.map_err(|wrong| {
                let left = describe(recorder.medium(), Path::new("/"));
                format!("in use again, and the power fails: {wrong}\nleft: {left}")
            })
        })
    }
}

/// The files of a medium, with their lengths.
fn describe(medium: &MemStorage, dir: &Path) -> String {
    let mut text = String::new();
    for name in medium.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        text += &match medium.open(&path, OpenMode::Read).and_then(|file| file.len()) {
            Ok(bytes) => format!("\n  {} {bytes}", path.display()),
            Err(_) => describe(medium, &path),
        };
    }
    text
}

/// The words that processes share, which outlive them.
fn hash_pages(medium: &MemStorage, dir: &Path, hasher: &mut DefaultHasher) {
    for name in medium.list(dir).unwrap_or_default() {
        let path = dir.join(&name);
        if name != "control" {
            hash_pages(medium, &path, hasher);
        } else if let Ok(page) = medium.shared_page(&path) {
            path.hash(hasher);
            page.words().iter().for_each(|word| word.load(Ordering::SeqCst).hash(hasher));
        }
    }
}
