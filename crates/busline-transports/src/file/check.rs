//! Verifying and repairing the files of a bus, without opening it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use busline_core::{Error, ErrorKind, Result, SystemClock};
use busline_log::storage::{FsStorage, Storage};
use busline_log::{Damage, Log, SegmentState};

use super::error::{of_io, of_log};

/// Directories are not looked into deeper than this.
const DEPTH_MAX: usize = 8;

/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindingKind {
    /// A crash tore the end; no receipt covers it, and opening the log cuts it.
    TornTail,
    /// Records are lost that should be there.
    Damaged,
    /// The medium failed to sync; nothing is written until it is repaired.
    Poisoned,
}

impl FindingKind {
    /// The kind in lower-case words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TornTail => "torn tail",
            Self::Damaged => "damaged",
            Self::Poisoned => "poisoned",
        }
    }
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The file.
    pub path: PathBuf,
    /// The bytes of the file that are concerned, from and to (exclusive).
    pub bytes: Option<(u64, u64)>,
    /// The records that are concerned: the first, and the first readable after them if known.
    pub records: Option<(u64, Option<u64>)>,
    /// What is wrong with the bytes.
    pub cause: String,
}

/// A log as verified: a topic's, or the state of one of its groups.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedLog {
    /// Its directory.
    pub path: PathBuf,
    /// How many segments it has.
    pub segments: u64,
    /// How many sound records it has.
    pub records: u64,
    /// The length of its files, in bytes.
    pub bytes: u64,
    /// What is wrong; empty when it is sound.
    pub findings: Vec<Finding>,
}

impl VerifiedLog {
    /// Whether nothing is damaged and nothing poisoned; a torn tail harms nobody.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.kind == FindingKind::TornTail)
    }
}

/// What repairing a log did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairedLog {
    /// Its directory.
    pub path: PathBuf,
    /// What was mended: torn tails that were cut, damage whose records are lost, a poisoned log
    /// that was written anew. Empty when there was nothing to do.
    pub mended: Vec<Finding>,
    /// Files that could not be read at all and were renamed.
    pub set_aside: Vec<PathBuf>,
}

/// Reads every byte of every log below a directory: of a bus, of a topic, or one log.
///
/// Changes nothing; the bus may be in use. `Conflict` when no log is there. Blocking.
pub fn verify(directory: &Path) -> Result<Vec<VerifiedLog>> {
    let storage = FsStorage::new();
    let verified = logs_below(&storage, directory)?.into_iter().map(|path| {
        let report = busline_log::verify(&storage, &path).map_err(of_log)?;
        let mut findings: Vec<Finding> =
            report.damage().map(|damage| of_damage(damage, FindingKind::Damaged)).collect();
        for segment in &report.segments {
            if let SegmentState::TornTail(cut) = &segment.state {
                findings.push(of_cut(cut, segment.path.clone()));
            }
        }
        findings.extend(report.poisoned.iter().map(|note| poisoned(&path, note)));
        Ok(VerifiedLog {
            segments: report.segments.len() as u64,
            records: report.records(),
            bytes: report.segments.iter().map(|segment| segment.bytes).sum(),
            findings,
            path,
        })
    });
    verified.collect()
}

/// Repairs every log below a directory that nobody has open.
///
/// A torn tail is cut. Damage in the middle is given up only with `allow_drop`; else the error is
/// `Damaged` and that log stays as it is. `Conflict` while somebody uses a log. Blocking.
pub fn repair(directory: &Path, allow_drop: bool) -> Result<Vec<RepairedLog>> {
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let now_us = SystemClock::shared().now().unix_us();
    let repaired = logs_below(&*storage, directory)?.into_iter().map(|path| {
        let report = busline_log::repair(&storage, &path, allow_drop, now_us).map_err(|error| {
            let damaged = error.kind() == busline_log::ErrorKind::Damaged;
            let error = of_log(error).context("log", path.display());
            if damaged {
                return error.hint("--allow-drop gives up the damaged records and keeps the rest");
            }
            error
        })?;
        let mut mended: Vec<Finding> =
            report.dropped.iter().map(|damage| of_damage(damage, FindingKind::Damaged)).collect();
        mended.extend(report.cut.iter().map(|cut| of_cut(cut, path.clone())));
        if report.poison_cleared {
            mended.push(poisoned(&path, "written anew and synced"));
        }
        Ok(RepairedLog { mended, set_aside: report.set_aside, path })
    });
    repaired.collect()
}

fn of_damage(damage: &Damage, kind: FindingKind) -> Finding {
    Finding {
        kind,
        path: damage.path.clone(),
        bytes: Some((damage.offset_start, damage.offset_end)),
        records: Some((damage.seq_start, damage.seq_end)),
        cause: damage.cause.clone(),
    }
}

fn of_cut(cut: &busline_log::Cut, path: PathBuf) -> Finding {
    Finding {
        kind: FindingKind::TornTail,
        path,
        bytes: Some((cut.offset, cut.offset.saturating_add(cut.bytes))),
        records: Some((cut.seq, None)),
        cause: cut.cause.clone(),
    }
}

fn poisoned(path: &Path, note: &str) -> Finding {
    Finding {
        kind: FindingKind::Poisoned,
        path: path.to_owned(),
        bytes: None,
        records: None,
        cause: note.to_owned(),
    }
}

/// The directories of logs at or below this one, sorted.
fn logs_below(storage: &dyn Storage, directory: &Path) -> Result<Vec<PathBuf>> {
    // A missing directory is its own error, not an empty result.
    storage.list(directory).map_err(|error| {
        of_io("verify", directory, error).hint("name the directory of a bus, a topic or a log")
    })?;
    let mut found = Vec::new();
    collect(storage, directory, DEPTH_MAX, &mut found)?;
    let is_bus = storage.exists(&directory.join("BUSLINE")).unwrap_or(false);
    if found.is_empty() && !is_bus {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("there is no log in {}", directory.display()),
        )
        .hint("name the directory of a bus, a topic or a log"));
    }
    Ok(found)
}

fn collect(
    storage: &dyn Storage,
    directory: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<()> {
    let names = match storage.list(directory) {
        Ok(names) => names,
        // A plain file, or removed meanwhile.
        Err(error) if is_no_directory(&error) => return Ok(()),
        Err(error) => return Err(of_io("verify", directory, error)),
    };
    if Log::exists(storage, directory).map_err(of_log)? {
        found.push(directory.to_owned());
    }
    let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
    for name in names {
        collect(storage, &directory.join(name), depth, found)?;
    }
    Ok(())
}

fn is_no_directory(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotADirectory | std::io::ErrorKind::NotFound)
}
