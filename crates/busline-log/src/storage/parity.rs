//! A medium in memory behaves as the file system does, for whatever order of calls.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::{FsStorage, MemStorage, OpenMode, Storage, StorageFile, StorageLock};

/// Few names, so that calls meet.
const NAMES: [&str; 6] = ["a", "b", "d", "d/a", "d/b", "d/e/a"];

#[derive(Debug, Clone)]
enum Op {
    Open(usize, OpenMode),
    Close(usize),
    Write(usize, Vec<u8>, u64),
    Read(usize, u64, usize),
    Truncate(usize, u64),
    Sync(usize),
    CreateDir(usize),
    Rename(usize, usize),
    Remove(usize),
    RemoveDir(usize),
    SyncDir(usize),
    List(usize),
    Exists(usize),
    Lock(usize, usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    let at = || prop_oneof![0..600_u64, 0..6000_u64];
    let mode = prop_oneof![
        Just(OpenMode::Read),
        Just(OpenMode::ReadWrite),
        Just(OpenMode::CreateNew),
        Just(OpenMode::Create)
    ];
    prop_oneof![
        4 => (name(), mode).prop_map(|(name, mode)| Op::Open(name, mode)),
        1 => name().prop_map(Op::Close),
        6 => (name(), prop::collection::vec(any::<u8>(), 0..700), at())
            .prop_map(|(name, bytes, at)| Op::Write(name, bytes, at)),
        4 => (name(), at(), 0..900_usize).prop_map(|(name, at, len)| Op::Read(name, at, len)),
        2 => (name(), at()).prop_map(|(name, len)| Op::Truncate(name, len)),
        1 => name().prop_map(Op::Sync),
        2 => name().prop_map(Op::CreateDir),
        3 => (name(), name()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => name().prop_map(Op::Remove),
        1 => name().prop_map(Op::RemoveDir),
        1 => name().prop_map(Op::SyncDir),
        2 => name().prop_map(Op::List),
        2 => name().prop_map(Op::Exists),
        3 => (name(), 0..3_usize, 0..4_u8).prop_map(|(name, who, how)| Op::Lock(name, who, how)),
    ]
}

/// A storage with the handles that a sequence of calls opened.
struct Side {
    storage: Box<dyn Storage>,
    dir: PathBuf,
    files: BTreeMap<usize, Arc<dyn StorageFile>>,
    locks: BTreeMap<(usize, usize), Arc<dyn StorageLock>>,
}

impl Side {
    fn new(storage: Box<dyn Storage>, dir: &Path) -> Self {
        let (files, locks) = (BTreeMap::new(), BTreeMap::new());
        Self { storage, dir: dir.to_owned(), files, locks }
    }

    /// What a call came to, as text; an error as its kind alone.
    fn run(&mut self, op: &Op) -> String {
        match self.call(op) {
            Ok(text) => text,
            // To write through a handle for reading fails with EBADF, which std knows no kind for.
            Err(_) if matches!(op, Op::Write(..) | Op::Truncate(..)) => "refused".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    fn call(&mut self, op: &Op) -> io::Result<String> {
        let path = |name: &usize| self.dir.join(NAMES[*name]);
        let done = |()| "done".to_owned();
        match op {
            Op::Open(name, mode) => {
                // The file system opens directories, and then cannot read them.
                if self.storage.list(&path(name)).is_ok() {
                    return Ok("a directory".to_owned());
                }
                let file = self.storage.open(&path(name), *mode)?;
                self.files.insert(*name, file);
                Ok(done(()))
            }
            Op::Close(name) => Ok(format!("{}", self.files.remove(name).is_some())),
            Op::Write(name, bytes, at) => self.with(*name, |file| {
                file.write_all_at(bytes, *at)?;
                Ok(format!("{}", file.len()?))
            }),
            Op::Read(name, at, len) => self.with(*name, |file| {
                let mut buf = vec![0xee; *len];
                let count = file.read_at(&mut buf, *at)?;
                Ok(format!("{count} {buf:?}"))
            }),
            Op::Truncate(name, len) => self.with(*name, |file| {
                file.truncate(*len)?;
                Ok(format!("{}", file.len()?))
            }),
            Op::Sync(name) => self.with(*name, |file| file.sync_data().map(done)),
            Op::CreateDir(name) => self.storage.create_dir_all(&path(name)).map(done),
            Op::Rename(from, to) => self.storage.rename(&path(from), &path(to)).map(done),
            Op::Remove(name) => self.storage.remove(&path(name)).map(done),
            Op::RemoveDir(name) => self.storage.remove_dir_all(&path(name)).map(done),
            Op::SyncDir(name) => match self.storage.list(&path(name)) {
                Ok(_) => self.storage.sync_dir(&path(name)).map(done),
                Err(error) => Err(error),
            },
            Op::List(name) => Ok(format!("{:?}", self.storage.list(&path(name))?)),
            Op::Exists(name) => Ok(format!("{}", self.storage.exists(&path(name))?)),
            Op::Lock(name, who, how) => self.lock(*name, *who, *how),
        }
    }

    fn with(
        &self,
        name: usize,
        call: impl FnOnce(&dyn StorageFile) -> io::Result<String>,
    ) -> io::Result<String> {
        self.files.get(&name).map_or(Ok("no file".to_owned()), |file| call(&**file))
    }

    fn lock(&mut self, name: usize, who: usize, how: u8) -> io::Result<String> {
        let path = self.dir.join(NAMES[name]);
        if self.storage.list(&path).is_ok() {
            return Ok("a directory".to_owned());
        }
        if how == 3 {
            return Ok(format!("{}", self.locks.remove(&(name, who)).is_some()));
        }
        let lock = match self.locks.get(&(name, who)) {
            Some(lock) => Arc::clone(lock),
            None => self.storage.lock_file(&path)?,
        };
        self.locks.insert((name, who), Arc::clone(&lock));
        Ok(match how {
            0 => format!("{}", lock.try_lock()?),
            1 => format!("{}", lock.try_lock_shared()?),
            _ => format!("{:?}", lock.unlock()?),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn memory_behaves_as_the_file_system(ops in prop::collection::vec(op(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Side::new(Box::new(FsStorage::new()), dir.path());
        let mut memory = Side::new(Box::new(MemStorage::new()), Path::new("/work"));
        memory.storage.create_dir_all(Path::new("/work")).unwrap();
        for op in &ops {
            prop_assert_eq!(disk.run(op), memory.run(op), "{:?}", op);
        }
    }
}
