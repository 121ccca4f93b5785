//! The tree of directories and files, as processes see it and as the medium holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Process;
use super::content::Content;
use super::handle::BellNode;
use super::life::Life;
use super::record::{Choice, MemOp, Unsynced};

const ROOT: u64 = 0;

/// A file, found by any number of names and handles.
#[derive(Debug)]
pub(super) struct FileNode {
    pub(super) id: u64,
    content: Mutex<Content>,
}

impl FileNode {
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Dir(u64),
    File(Arc<FileNode>),
    Bell(Arc<BellNode>),
}

impl Entry {
    fn id(&self) -> u64 {
        match self {
            Self::Dir(id) => *id,
            Self::File(file) => file.id,
            Self::Bell(bell) => bell.id,
        }
    }
}

type Names = BTreeMap<String, Entry>;

#[derive(Debug, Default)]
struct Dir {
    now: Names,
    durable: Names,
}

/// One name in one directory gets another meaning.
#[derive(Debug)]
struct Change {
    dir: u64,
    name: String,
    old: Option<u64>,
    new: Option<Entry>,
}

/// Changes that the medium makes together: both halves of a rename.
type DirOp = Vec<Change>;

/// A lock that is held on a file.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) holder: u64,
    pub(super) exclusive: bool,
    pub(super) life: Arc<Life>,
}

/// Everything behind the one lock of a [`super::MemStorage`].
#[derive(Debug)]
pub(super) struct Medium {
    dirs: BTreeMap<u64, Dir>,
    /// Changes of directories that are not durable yet, oldest first.
    pending: Vec<DirOp>,
    next_id: u64,
    pub(super) locks: BTreeMap<u64, Vec<Held>>,
    pub(super) boots: u64,
    pub(super) remote: bool,
    pub(super) record: Option<Vec<MemOp>>,
    pub(super) processes: Vec<Weak<Process>>,
}

impl Medium {
    pub(super) fn new() -> Self {
        Self {
            dirs: BTreeMap::from([(ROOT, Dir::default())]),
            pending: Vec::new(),
            next_id: ROOT + 1,
            locks: BTreeMap::new(),
            boots: 1,
            remote: false,
            record: None,
            processes: Vec::new(),
        }
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn note(&mut self, op: impl FnOnce() -> MemOp) {
        if let Some(record) = &mut self.record {
            record.push(op());
        }
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<Option<Entry>> {
        let names = split(path)?;
        let Some((last, parents)) = names.split_last() else { return Ok(Some(Entry::Dir(ROOT))) };
        match self.walk(parents) {
            Ok(dir) => Ok(self.names(dir).get(last).cloned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file at this path.
    pub(super) fn file(&self, path: &Path) -> io::Result<Arc<FileNode>> {
        match self.lookup(path)? {
            Some(Entry::File(file)) => Ok(file),
            Some(Entry::Dir(_)) => Err(ErrorKind::IsADirectory.into()),
            Some(Entry::Bell(_)) => Err(ErrorKind::InvalidInput.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// The file at this path, made when it is missing.
    pub(super) fn file_or_new(&mut self, path: &Path) -> io::Result<Arc<FileNode>> {
        match self.file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        let file = Arc::new(FileNode { id: self.new_id(), content: Mutex::default() });
        self.link(path, Some(Entry::File(Arc::clone(&file))))?;
        self.note(|| MemOp::Create(path.to_owned()));
        Ok(file)
    }

    /// Gives the last name of the path a meaning, or none.
    pub(super) fn link(&mut self, path: &Path, entry: Option<Entry>) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        self.apply(vec![(dir, name, entry)]);
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let dir = self.walk(&split(path)?)?;
        Ok(self.names(dir).keys().cloned().collect())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let names = split(path)?;
        let mut dir = ROOT;
        for (depth, name) in names.iter().enumerate() {
            dir = match self.names(dir).get(name) {
                Some(Entry::Dir(id)) => *id,
                Some(_) if depth + 1 == names.len() => return Err(ErrorKind::AlreadyExists.into()),
                Some(_) => return Err(ErrorKind::NotADirectory.into()),
                None => {
                    let id = self.new_id();
                    self.dirs.insert(id, Dir::default());
                    self.apply(vec![(dir, name.clone(), Some(Entry::Dir(id)))]);
                    self.note(|| MemOp::CreateDir(names.iter().take(depth + 1).collect()));
                    id
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let entry = self.names(from_dir).get(&from_name).cloned().ok_or(ErrorKind::NotFound)?;
        let (above, below) = (split(from)?, split(to)?);
        if above != below && below.starts_with(&above) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if above != below && above.starts_with(&below) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        match (&entry, self.names(to_dir).get(&to_name)) {
            (entry, Some(there)) if entry.id() == there.id() => return Ok(()),
            (Entry::Dir(_), Some(Entry::Dir(id))) if !self.names(*id).is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            (Entry::Dir(_), Some(Entry::File(_) | Entry::Bell(_))) => {
                return Err(ErrorKind::NotADirectory.into());
            }
            (Entry::File(_) | Entry::Bell(_), Some(Entry::Dir(_))) => {
                return Err(ErrorKind::IsADirectory.into());
            }
            _ => {}
        }
        self.apply(vec![(from_dir, from_name, None), (to_dir, to_name, Some(entry))]);
        self.note(|| MemOp::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.lookup(path)? {
            None => return Err(ErrorKind::NotFound.into()),
            Some(Entry::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
            Some(_) => self.link(path, None)?,
        }
        self.note(|| MemOp::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        match self.lookup(path)? {
            None => return Err(ErrorKind::NotFound.into()),
            Some(Entry::Dir(id)) => self.empty(id),
            Some(_) => return Err(ErrorKind::NotADirectory.into()),
        }
        self.link(path, None)?;
        self.note(|| MemOp::RemoveDirAll(path.to_owned()));
        Ok(())
    }

    /// Makes the entries of a directory durable, and with them what they depend on.
    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut covered = BTreeSet::from([self.walk(&split(path)?)?]);
        let (mut done, mut left) = (Vec::new(), Vec::new());
        for op in std::mem::take(&mut self.pending).into_iter().rev() {
            if op.iter().any(|change| covered.contains(&change.dir)) {
                covered.extend(op.iter().map(|change| change.dir));
                done.push(op);
            } else {
                left.push(op);
            }
        }
        left.reverse();
        self.pending = left;
        for op in done.into_iter().rev() {
            self.make_durable(op);
        }
        self.note(|| MemOp::SyncDir(path.to_owned()));
        Ok(())
    }

    /// A loss of power, for names and for contents.
    ///
    /// A change of a name that is lost takes with it all later ones that build on it (of the same name
    /// or the same file), as a file system with a journal guarantees; the others are independent.
    pub(super) fn crash(&mut self, choice: &mut Choice<'_>) {
        let mut lost_names = BTreeSet::new();
        let mut lost_nodes = BTreeSet::new();
        for (at, op) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let depends = op.iter().any(|change| {
                lost_names.contains(&(change.dir, change.name.clone()))
                    || change.ids().any(|id| lost_nodes.contains(&id))
            });
            let name = op.last().map_or("", |change| change.name.as_str());
            if !depends && choice(Unsynced::Name(at, name), 2) > 0 {
                self.make_durable(op);
                continue;
            }
            for change in op {
                lost_nodes.extend(change.ids());
                lost_names.insert((change.dir, change.name));
            }
        }
        self.locks.clear();
        self.boots += 1;
        let mut reached = BTreeMap::new();
        self.settle_dir(ROOT, Path::new("/"), &mut reached, choice);
        self.dirs = reached;
    }

    /// A copy of the medium with all that is pending, for another storage.
    pub(super) fn duplicate(&self) -> Self {
        let mut copies = BTreeMap::new();
        let mut copy_names = |names: &Names| -> Names {
            names
                .iter()
                .map(|(name, entry)| (name.clone(), copy_entry(entry, &mut copies)))
                .collect()
        };
        let dirs = self
            .dirs
            .iter()
            .map(|(id, dir)| {
                (*id, Dir { now: copy_names(&dir.now), durable: copy_names(&dir.durable) })
            })
            .collect();
        let pending = self
            .pending
            .iter()
            .map(|op| op.iter().map(|change| change.copy(&mut copies)).collect())
            .collect();
        Self {
            dirs,
            pending,
            next_id: self.next_id,
            boots: self.boots,
            remote: self.remote,
            ..Self::new()
        }
    }

    /// What was durable is what is there, from this directory down.
    fn settle_dir(
        &mut self,
        id: u64,
        path: &Path,
        reached: &mut BTreeMap<u64, Dir>,
        choice: &mut Choice<'_>,
    ) {
        let Some(dir) = self.dirs.remove(&id) else { return };
        for (name, entry) in &dir.durable {
            let path = path.join(name);
            match entry {
                Entry::Dir(child) => self.settle_dir(*child, &path, reached, choice),
                Entry::File(file) => file.content().crash(&path, choice),
                Entry::Bell(_) => {}
            }
        }
        reached.insert(id, Dir { now: dir.durable.clone(), durable: dir.durable });
    }

    fn make_durable(&mut self, op: DirOp) {
        for change in op {
            let Some(dir) = self.dirs.get_mut(&change.dir) else { continue };
            match change.new {
                Some(entry) => dir.durable.insert(change.name, entry),
                None => dir.durable.remove(&change.name),
            };
        }
    }

    fn empty(&mut self, id: u64) {
        let entries: Vec<_> = self.names(id).clone().into_iter().collect();
        for (name, entry) in entries {
            if let Entry::Dir(child) = entry {
                self.empty(child);
            }
            self.apply(vec![(id, name, None)]);
        }
    }

    fn apply(&mut self, changes: Vec<(u64, String, Option<Entry>)>) {
        let mut op = DirOp::new();
        for (id, name, new) in changes {
            let Some(dir) = self.dirs.get_mut(&id) else { continue };
            let old = match &new {
                Some(entry) => dir.now.insert(name.clone(), entry.clone()),
                None => dir.now.remove(&name),
            };
            op.push(Change { dir: id, name, old: old.as_ref().map(Entry::id), new });
        }
        self.pending.push(op);
    }

    fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let mut names = split(path)?;
        let last = names.pop().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.walk(&names)?, last))
    }

    fn walk(&self, names: &[String]) -> io::Result<u64> {
        let mut dir = ROOT;
        for name in names {
            dir = match self.names(dir).get(name) {
                Some(Entry::Dir(id)) => *id,
                Some(_) => return Err(ErrorKind::NotADirectory.into()),
                None => return Err(ErrorKind::NotFound.into()),
            };
        }
        Ok(dir)
    }

    /// Wakes everyone who waits on a page or a bell, to look whether they are still alive.
    pub(super) fn wake_all(&self) {
        for entry in self.dirs.values().flat_map(|dir| dir.now.values()) {
            match entry {
                Entry::File(file) => file.content().wake_mapped(),
                Entry::Bell(bell) => bell.wake(),
                Entry::Dir(_) => {}
            }
        }
    }

    fn names(&self, id: u64) -> &Names {
        static NONE: Names = Names::new();
        self.dirs.get(&id).map_or(&NONE, |dir| &dir.now)
    }
}

impl Change {
    fn ids(&self) -> impl Iterator<Item = u64> {
        self.old.into_iter().chain(self.new.as_ref().map(Entry::id))
    }

    fn copy(&self, copies: &mut BTreeMap<u64, Entry>) -> Self {
        Self {
            dir: self.dir,
            name: self.name.clone(),
            old: self.old,
            new: self.new.as_ref().map(|entry| copy_entry(entry, copies)),
        }
    }
}

/// The copy of a file is made once, whatever the number of its names.
fn copy_entry(entry: &Entry, copies: &mut BTreeMap<u64, Entry>) -> Entry {
    if let Some(copy) = copies.get(&entry.id()) {
        return copy.clone();
    }
    let copy = match entry {
        Entry::Dir(id) => Entry::Dir(*id),
        Entry::File(file) => Entry::File(Arc::new(FileNode {
            id: file.id,
            content: Mutex::new(file.content().duplicate()),
        })),
        Entry::Bell(bell) => Entry::Bell(Arc::new(BellNode::ownerless(bell.id))),
    };
    copies.insert(entry.id(), copy.clone());
    copy
}

/// The names on the way from the root; the root and the working directory are the same here.
fn split(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Err(ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}
