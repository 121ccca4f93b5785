//! Where a bridge keeps how far it has come: in a group of the source, or in a file.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use busline::{Admin, Bus, Capabilities, Capability, GroupName, Offset, Position, Topic};
use serde::{Deserialize, Serialize};

use super::args::Plan;
use crate::exit::{self, Failure, Outcome};

/// What a source must promise so that one of its groups can keep a place.
const GROUP_NEEDS: [Capability; 5] = [
    Capability::Replay,
    Capability::Group,
    Capability::GroupStart,
    Capability::Reset,
    Capability::Admin,
];

/// Where the place of the next message to copy is kept.
#[derive(Debug)]
pub(super) enum Progress {
    /// In a group of the source, which nobody joins. It also keeps what was not copied from being removed.
    Group { admin: Admin, topic: Topic, group: GroupName },
    /// In a file, beside what it belongs to.
    File(StateFile),
}

impl Progress {
    /// Opens what is there, or begins; the place to go on from, if there is one.
    pub(super) async fn open(
        bus: &Bus,
        capabilities: &Capabilities,
        plan: &Plan,
    ) -> Outcome<(Self, Option<Offset>)> {
        let can = GROUP_NEEDS.iter().all(|need| capabilities.get(*need).is_kept());
        if plan.group.is_some() {
            GROUP_NEEDS.iter().try_for_each(|need| capabilities.require(*need))?;
        }
        match &plan.state {
            None if can => Self::in_group(bus, plan).await,
            Some(path) => Self::in_file(path.clone(), plan),
            None => Self::in_file(default_path(&plan.name()), plan),
        }
    }

    async fn in_group(bus: &Bus, plan: &Plan) -> Outcome<(Self, Option<Offset>)> {
        let topic = plan.from.topic.clone();
        let group = match &plan.group {
            Some(group) => group.clone(),
            None => plan.name().parse()?,
        };
        let admin = bus.admin().await?;
        let place = async |admin: &Admin| {
            let groups = admin.groups(Some(&topic)).await?;
            let found = groups.into_iter().find(|info| info.group == group);
            Ok::<_, Failure>(found.map(|info| info.floor))
        };
        let before = place(&admin).await?;
        let declared = bus.group(topic.clone(), group.clone())?.patterns(plan.patterns.clone());
        // Nobody is ever delivered anything of it: there are no attempts to count.
        declared.start(Position::Earliest).attempts_max(None).declare().await?;
        let progress = Self::Group { admin, topic, group };
        Ok((progress, before.flatten()))
    }

    fn in_file(path: PathBuf, plan: &Plan) -> Outcome<(Self, Option<Offset>)> {
        let (file, offset) = StateFile::open(path, plan)?;
        Ok((Self::File(file), offset))
    }

    /// Says durably that everything before this place is copied.
    pub(super) async fn save(&mut self, next: &Offset) -> Outcome {
        match self {
            Self::Group { admin, topic, group } => {
                Ok(admin.reset_group(topic, group, &Position::Offset(next.clone())).await?)
            }
            Self::File(file) => file.save(next),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { group, .. } => write!(f, "group {group}"),
            Self::File(file) => write!(f, "file {}", file.path.display()),
        }
    }
}

/// A file with a place, which only one bridge uses at a time.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    content: Content,
    /// Locked for as long as it is open.
    _lock: File,
}

/// What stands in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Content {
    bridge: u32,
    from: String,
    from_topic: String,
    to: String,
    to_topic: String,
    patterns: String,
    next: Option<Offset>,
}

impl StateFile {
    fn open(path: PathBuf, plan: &Plan) -> Outcome<(Self, Option<Offset>)> {
        let failed = |error: &io::Error| Failure::file(&path, error);
        if let Some(directory) = directory_of(&path) {
            std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        }
        let beside = with_suffix(&path, ".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&beside);
        let lock = lock.map_err(|error| Failure::file(&beside, &error))?;
        if let Err(error) = lock.try_lock() {
            let why = format!("{}: another bridge uses it: {error}", path.display());
            return Err(Failure::usage(format!("{why}; stop that one, or give another --state")));
        }
        let mut content = Content {
            bridge: 1,
            from: plan.from.identity.clone(),
            from_topic: plan.from.topic.to_string(),
            to: plan.to.identity.clone(),
            to_topic: plan.to.topic.to_string(),
            patterns: plan.patterns.to_string(),
            next: None,
        };
        match std::fs::read(&path) {
            Ok(bytes) => content.next = read(&path, &bytes, &content)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&error)),
        }
        let next = content.next.clone();
        Ok((Self { path, content, _lock: lock }, next))
    }

    /// Replaces the file as a whole: whoever is killed meanwhile leaves the old one or the new one.
    fn save(&mut self, next: &Offset) -> Outcome {
        self.content.next = Some(next.clone());
        let replace = || -> io::Result<()> {
            let new = with_suffix(&self.path, ".new");
            let mut file = File::create(&new)?;
            serde_json::to_writer(&mut file, &self.content)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            let directory = directory_of(&self.path).unwrap_or(Path::new("."));
            File::open(directory)?.sync_all()
        };
        replace().map_err(|error| Failure::file(&self.path, &error))
    }
}

/// The place that a file holds; a file of something else is not written over.
fn read(path: &Path, bytes: &[u8], expected: &Content) -> Outcome<Option<Offset>> {
    let about = |why: String| format!("{}: {why}", path.display());
    let found: Content = serde_json::from_slice(bytes).map_err(|error| {
        let why = about(format!("is no progress of a bridge: {error}"));
        Failure::new(exit::DAMAGED, format!("{why}; without it everything is copied again"))
    })?;
    let next = found.next.clone();
    if (Content { next: None, ..found.clone() }) != *expected {
        let of = format!("{} {} to {} {}", found.from, found.from_topic, found.to, found.to_topic);
        let why = about(format!("is the progress of another bridge, from {of}"));
        return Err(Failure::usage(format!("{why} ({}); give another --state", found.patterns)));
    }
    Ok(next)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|directory| !directory.as_os_str().is_empty())
}

/// Where programs keep what they must not lose and nobody edits, or else here.
fn default_path(name: &str) -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let file = format!("{name}.json");
    match state.filter(|path| path.is_absolute()).or_else(home) {
        Some(directory) => directory.join("busline").join(file),
        None => format!("busline-{file}").into(),
    }
}
