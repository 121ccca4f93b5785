//! The ways in which a medium can have kept or dropped what was not synced.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use busline_log::storage::{MemStorage, OpenMode, Storage, Unsynced};

use crate::rng::Rng;

/// How many outcomes of one moment are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    /// All of them, when they are not more than this.
    pub(crate) full: u64,
    /// Else: nothing, everything, each choice alone against both, and so many pairs of choices …
    pub(crate) pairs: usize,
    /// … and so many at random.
    pub(crate) random: usize,
}

/// What a loss of power asks, by itself: comparable over several losses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Name(usize, String),
    Length(PathBuf),
    Sector(PathBuf, usize),
}

impl Question {
    /// Nothing for what has no meaning after a loss of power: locks, pages of another boot, ballast.
    fn of(what: Unsynced<'_>) -> Option<Self> {
        let question = match what {
            Unsynced::Name(at, name) => Self::Name(at, name.to_owned()),
            Unsynced::Length(path) => Self::Length(path.to_owned()),
            Unsynced::Sector(path, index) => Self::Sector(path.to_owned(), index),
            _ => return None,
        };
        let name = match &question {
            Self::Name(_, name) => name.as_str(),
            Self::Length(path) | Self::Sector(path, _) => path.file_name()?.to_str()?,
        };
        (!is_meaningless(name)).then_some(question)
    }
}

fn is_meaningless(name: &str) -> bool {
    name.ends_with(".lock")
        || name.starts_with("holder.")
        || matches!(name, "control" | "reserve" | "members" | "bells")
        || name.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Shows `visit` what the power can leave behind of a medium; the number of outcomes.
pub(crate) fn outcomes<E>(
    medium: &MemStorage,
    bound: Bound,
    rng: &mut Rng,
    visit: &mut dyn FnMut(MemStorage) -> Result<(), E>,
) -> Result<u64, E> {
    let questions = questions(medium);
    let product = questions.values().try_fold(1u64, |all, count| all.checked_mul(*count as u64));
    if product.is_some_and(|product| product <= bound.full) {
        return every(medium, rng, visit);
    }
    let asked: Vec<(&Question, usize)> = questions.iter().map(|(q, count)| (q, *count)).collect();
    let mut plans: Vec<(bool, Vec<(usize, usize)>)> = vec![(false, vec![]), (true, vec![])];
    for (at, (_, count)) in asked.iter().enumerate() {
        for answer in 0..*count {
            plans.extend([(false, vec![(at, answer)]), (true, vec![(at, answer)])]);
        }
    }
    for _ in 0..bound.pairs {
        let mut one = || {
            let at = rng.below(asked.len() as u64) as usize;
            (at, rng.below(asked[at].1 as u64) as usize)
        };
        let pair = vec![one(), one()];
        plans.extend([(false, pair.clone()), (true, pair)]);
    }
    let mut count = 0;
    for (keep, deviations) in plans {
        let copy = medium.snapshot();
        let answers: BTreeMap<_, _> = deviations.iter().map(|(at, a)| (asked[*at].0, *a)).collect();
        copy.crash_by(&mut |what, count| match Question::of(what) {
            None => rng.below(count as u64) as usize,
            Some(question) => {
                answers.get(&question).copied().unwrap_or(if keep { count - 1 } else { 0 })
            }
        });
        visit(copy)?;
        count += 1;
    }
    for _ in 0..bound.random {
        let copy = medium.snapshot();
        copy.crash_seeded(rng.next());
        visit(copy)?;
        count += 1;
    }
    Ok(count)
}

/// What is asked, with the number of answers: when names arrive and when they do not.
fn questions(medium: &MemStorage) -> BTreeMap<Question, usize> {
    let mut asked = BTreeMap::new();
    for keep in [false, true] {
        medium.snapshot().crash_by(&mut |what, count| {
            if let Some(question) = Question::of(what) {
                asked.insert(question, count);
            }
            if keep { count - 1 } else { 0 }
        });
    }
    asked
}

/// Counts through all answers; which questions come depends on the answers before.
fn every<E>(
    medium: &MemStorage,
    rng: &mut Rng,
    visit: &mut dyn FnMut(MemStorage) -> Result<(), E>,
) -> Result<u64, E> {
    let mut answers: Vec<usize> = Vec::new();
    let mut seen = 0;
    loop {
        let copy = medium.snapshot();
        let mut counts = Vec::new();
        copy.crash_by(&mut |what, count| {
            if Question::of(what).is_none() {
                return rng.below(count as u64) as usize;
            }
            counts.push(count);
            answers.get(counts.len() - 1).copied().unwrap_or(0)
        });
        visit(copy)?;
        seen += 1;
        answers.resize(counts.len(), 0);
        loop {
            let Some(last) = answers.pop() else { return Ok(seen) };
            if last + 1 < counts[answers.len()] {
                answers.push(last + 1);
                break;
            }
        }
    }
}

/// Tells apart what is on media, as far as it means something.
pub(crate) fn fingerprint(medium: &MemStorage) -> u64 {
    let mut hasher = DefaultHasher::new();
    look(medium, Path::new("/"), &mut hasher);
    hasher.finish()
}

fn look(medium: &MemStorage, dir: &Path, hasher: &mut DefaultHasher) {
    for name in medium.list(dir).unwrap_or_default() {
        if is_meaningless(&name) {
            continue;
        }
        let path = dir.join(&name);
        path.hash(hasher);
        match medium.open(&path, OpenMode::Read) {
            Ok(file) => {
                let mut bytes = vec![0; file.len().unwrap() as usize];
                file.read_at(&mut bytes, 0).unwrap();
                bytes.hash(hasher);
            }
            Err(_) => look(medium, &path, hasher),
        }
    }
}
