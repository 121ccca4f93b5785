//! Verifying and repairing the files of a bus, without opening it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use busline_core::{Error, ErrorKind, Result, SystemClock};
use busline_log::storage::{FsStorage, OpenMode, PAGE_WORDS, Storage};
use busline_log::{Damage, SegmentState};

use super::error::{of_io, of_log};
use super::layout::{SETTINGS, escape, read_settings};

/// Directories are not looked into deeper than this.
const DEPTH_MAX: usize = 8;
/// The length of a control page.
const CONTROL_BYTES: u64 = 8 * PAGE_WORDS as u64;

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
    /// Bytes are wrong that a repair sets right; no record is lost by them.
    Mendable,
    /// It cannot be looked at, or used as it is: something else stands in its place, this user may not read
    /// it, or a newer version wrote it. It tells nothing about the records.
    Unusable,
}

impl FindingKind {
    /// The kind in lower-case words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TornTail => "torn tail",
            Self::Damaged => "damaged",
            Self::Poisoned => "poisoned",
            Self::Mendable => "mendable",
            Self::Unusable => "unusable",
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
/// Changes nothing; the bus may be in use. What is wrong with one log keeps none of the others from being checked:
/// it is a finding. `Conflict` when no log is there. Blocking.
pub fn verify(directory: &Path) -> Result<Vec<VerifiedLog>> {
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let verified = logs_below(&*storage, directory)?.into_iter().map(|place| match place {
        Place::Log(path) => verify_log(&storage, path),
        Place::Wrong(path, finding) => of_finding(path, finding),
    });
    Ok(verified.collect())
}

fn verify_log(storage: &Arc<dyn Storage>, path: PathBuf) -> VerifiedLog {
    let report = match busline_log::verify(&**storage, &path) {
        Ok(report) => report,
        Err(error) => {
            let finding = of_error(&path, &error);
            return of_finding(path, finding);
        }
    };
    let mut findings: Vec<Finding> =
        report.damage().map(|damage| of_damage(damage, FindingKind::Damaged)).collect();
    for segment in &report.segments {
        if let SegmentState::TornTail(cut) = &segment.state {
            findings.push(of_cut(cut, segment.path.clone()));
        }
    }
    findings.extend(
        report
            .format
            .iter()
            .map(|flip| Finding { records: None, ..of_damage(flip, FindingKind::Mendable) }),
    );
    findings.extend(report.poisoned.iter().map(|note| poisoned(&path, note)));
    if findings.is_empty() {
        findings.extend(verify_state(storage, &path));
    }
    findings.extend(obstacles(&**storage, &path));
    VerifiedLog {
        segments: report.segments.len() as u64,
        records: report.records(),
        bytes: report.segments.iter().map(|segment| segment.bytes).sum(),
        findings,
        path,
    }
}

/// Whether the sound records of a group still come to a state.
fn verify_state(storage: &Arc<dyn Storage>, path: &Path) -> Option<Finding> {
    let error = busline_log::verify_group(storage, path).err()?;
    let mut finding = of_error(path, &error);
    if error.kind() == busline_log::ErrorKind::Damaged {
        finding.cause.push_str("; only deleting the group helps, and declaring it anew");
    }
    Some(finding)
}

/// What stands where the files of an open log should be, and would keep it from being opened.
fn obstacles(storage: &dyn Storage, log: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut note = |path: PathBuf, cause: String| found.push(unusable(path, cause));
    for name in ["control", "open.lock", "sync.lock", "recovery.lock"] {
        let path = log.join(name);
        if storage.list(&path).is_ok() {
            note(path, "a directory stands where a file should; remove it".to_owned());
        }
    }
    let control = log.join("control");
    let bytes = storage.open(&control, OpenMode::Read).and_then(|file| file.len());
    if bytes.is_ok_and(|bytes| bytes > CONTROL_BYTES) {
        let cause = "the file is too long; stop all programs that use the bus, and remove it";
        note(control, cause.to_owned());
    }
    let groups = log.join("groups");
    match storage.list(&groups) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            note(groups, "a file stands where a directory should; remove it".to_owned());
        }
        _ => {}
    }
    found
}

/// Repairs every log below a directory that nobody has open.
///
/// A torn tail is cut. Damage in the middle is given up only with `allow_drop`; else the error is
/// `Damaged` and that log stays as it is. `Conflict` while somebody uses a log. Of several errors the first is
/// returned, when all that can be repaired is. Blocking.
pub fn repair(directory: &Path, allow_drop: bool) -> Result<Vec<RepairedLog>> {
    let storage: Arc<dyn Storage> = Arc::new(FsStorage::new());
    let now_us = SystemClock::shared().now().unix_us();
    let logs = logs_below(&*storage, directory)?.into_iter().filter_map(Place::log);
    let repaired: Vec<_> = logs
        .map(|path| {
            let report =
                busline_log::repair(&storage, &path, allow_drop, now_us).map_err(|error| {
                    let can_drop = error.damage().is_some();
                    let is_damaged = error.kind() == busline_log::ErrorKind::Damaged;
                    let error = of_log(error).context("log", path.display());
                    match (is_damaged, can_drop) {
                        (true, true) => error
                            .hint("--allow-drop gives up the damaged records and keeps the rest"),
                        (true, false) => error.hint("no repair can make up for it"),
                        _ => error,
                    }
                })?;
            let mut mended: Vec<Finding> = report
                .dropped
                .iter()
                .map(|damage| of_damage(damage, FindingKind::Damaged))
                .collect();
            mended.extend(report.cut.iter().map(|cut| of_cut(cut, path.clone())));
            if report.poison_cleared {
                mended.push(poisoned(&path, "written anew and synced"));
            }
            mended.extend(report.format.iter().map(|flip| Finding {
                records: None,
                cause: "one bit was flipped".to_owned(),
                ..of_damage(flip, FindingKind::Mendable)
            }));
            Ok(RepairedLog { mended, set_aside: report.set_aside, path })
        })
        .collect();
    repaired.into_iter().collect()
}

/// A log that could not be checked.
fn of_finding(path: PathBuf, finding: Finding) -> VerifiedLog {
    VerifiedLog { path, segments: 0, records: 0, bytes: 0, findings: vec![finding] }
}

fn of_error(path: &Path, error: &busline_log::Error) -> Finding {
    if let Some(damage) = error.damage() {
        return of_damage(damage, FindingKind::Damaged);
    }
    let is_damaged = error.kind() == busline_log::ErrorKind::Damaged;
    let kind = if is_damaged { FindingKind::Damaged } else { FindingKind::Unusable };
    Finding { kind, ..unusable(path.to_owned(), error.to_string()) }
}

fn unusable(path: PathBuf, cause: String) -> Finding {
    Finding { kind: FindingKind::Unusable, path, bytes: None, records: None, cause }
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

/// What was found below a directory.
#[derive(Debug)]
enum Place {
    /// The directory of a log, or what is left of it.
    Log(PathBuf),
    /// Something where a log should be, or may be.
    Wrong(PathBuf, Finding),
}

impl Place {
    fn log(self) -> Option<PathBuf> {
        match self {
            Self::Log(path) => Some(path),
            Self::Wrong(..) => None,
        }
    }
}

/// The directories of logs at or below this one, sorted.
fn logs_below(storage: &dyn Storage, directory: &Path) -> Result<Vec<Place>> {
    // A missing directory is its own error, not an empty result.
    storage.list(directory).map_err(|error| {
        of_io("verify", directory, error).hint("name the directory of a bus, a topic or a log")
    })?;
    let mut found = Vec::new();
    collect(storage, directory, DEPTH_MAX, &mut found);
    let is_bus = storage.exists(&directory.join("BUSLINE")).unwrap_or(false);
    if is_bus && let Err(error) = storage.list(&directory.join("topics")) {
        let topics = directory.join("topics");
        let cause = format!("the directory of all topics cannot be listed: {error}");
        found.push(Place::Wrong(topics.clone(), unusable(topics, cause)));
    }
    if found.is_empty() && !is_bus {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("there is no log in {}", directory.display()),
        )
        .hint("name the directory of a bus, a topic or a log"));
    }
    Ok(found)
}

fn collect(storage: &dyn Storage, directory: &Path, depth: usize, found: &mut Vec<Place>) {
    let here = || directory.to_owned();
    let names = match storage.list(directory) {
        Ok(names) => names,
        // A plain file, or removed meanwhile.
        Err(error) if is_no_directory(&error) => return,
        Err(error) => {
            let cause = format!("it cannot be looked into: {error}");
            return found.push(Place::Wrong(here(), unusable(here(), cause)));
        }
    };
    // One that is being made has its first segment before its FORMAT, and nothing in it.
    let is_headless = || {
        busline_log::verify(storage, directory)
            .is_err_and(|error| error.kind() == busline_log::ErrorKind::Damaged)
    };
    if names.iter().any(|name| name == "FORMAT")
        || (names.iter().any(|name| name.ends_with(".seg")) && is_headless())
    {
        found.push(Place::Log(here()));
    }
    if names.iter().any(|name| name == SETTINGS) {
        found.extend(wrong_topic(storage, directory).map(|finding| Place::Wrong(here(), finding)));
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    for name in names {
        collect(storage, &directory.join(name), depth, found);
    }
}

/// What is wrong with the directory of a topic beside its log.
fn wrong_topic(storage: &dyn Storage, directory: &Path) -> Option<Finding> {
    let damaged = |path: PathBuf, cause: String| Finding {
        kind: FindingKind::Damaged,
        ..unusable(path, cause)
    };
    let settings = match read_settings(storage, directory) {
        Ok(settings) => settings,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) if error.kind() == ErrorKind::Damaged => {
            return Some(damaged(directory.join(SETTINGS), error.to_string()));
        }
        Err(error) => return Some(unusable(directory.join(SETTINGS), error.to_string())),
    };
    let name = directory.file_name().unwrap_or_default();
    if name != escape(settings.name.as_str()).as_str() {
        let cause = format!(
            "it says that it is topic '{}', whose directory has another name; move away the copy, or give it \
             back its name",
            settings.name
        );
        return Some(unusable(directory.join(SETTINGS), cause));
    }
    let log = directory.join("log");
    match storage.list(&log) {
        // A topic that is being deleted loses its settings first, one that is being made gets them last.
        Err(error) if is_no_directory(&error) && read_settings(storage, directory).is_ok() => {
            let cause = "the topic has settings and no log: its records are gone; restore them from a backup, \
                         or remove the topic's directory";
            Some(damaged(log, cause.to_owned()))
        }
        _ => None,
    }
}

fn is_no_directory(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotADirectory | std::io::ErrorKind::NotFound)
}
