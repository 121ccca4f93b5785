//! Temporary values of a service in the directory of a bus, shared by every process on the machine.
//!
//! ```text
//! bus/store/NAMESPACE/    names are UUIDs made of namespace and key, which may hold anything
//!   lock                  who works here holds it, for the time of one operation
//!   v-KEY                 a value; the file's time is that at which it is gone
//!   k-KEY                 the lock of a key, while somebody holds it
//!   changes               several changes that are one; who comes next does what its author did not get done
//!   new                   a file that is being written
//! ```
//!
//! Values survive the end of every process. Nothing is synced: after a loss of power a value may be gone, and is
//! never another one.

mod record;

use std::fs::{self, File};
use std::io::{ErrorKind as IoKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use busline_core::store::{StoreBackend, StoreLock};
use busline_core::{Clock, Error, ErrorKind, Result, Timestamp};
use busline_log::storage::FsStorage;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::config::FileConfig;
use super::error::of_io;
use super::layout;
use super::store::locked;
use crate::url::BusUrl;
use record::Record;

/// The directory in that of the bus.
pub(super) const DIRECTORY: &str = "store";

/// How often what is expired is looked for, at most.
const SWEEP: Duration = Duration::from_secs(60);
/// Looking for it takes this part of the time at most, however many values there are.
const SWEEP_SHARE: u32 = 100;
/// How often a held lock is looked at.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// Temporary values in the directory of a bus.
#[derive(Clone)]
pub struct FileStore {
    config: FileConfig,
    clock: Arc<dyn Clock>,
    /// When to look for what is expired next, on the monotonic clock.
    sweep_at: Arc<Mutex<Duration>>,
}

/// The store of a `file:` URL, with the options of the bus.
pub(crate) fn open(url: BusUrl, clock: Arc<dyn Clock>) -> Result<Arc<dyn StoreBackend>> {
    Ok(Arc::new(FileStore::new(FileConfig::from_url(url)?, clock)))
}

impl FileStore {
    /// The store of the bus in a directory; nothing is opened yet.
    ///
    /// All processes must agree about the clock's wall time.
    pub fn new(config: FileConfig, clock: Arc<dyn Clock>) -> Self {
        let sweep_at = Arc::new(Mutex::new(clock.monotonic() + SWEEP));
        Self { config, clock, sweep_at }
    }

    /// Works on a namespace, alone among all processes, on a thread that may block.
    async fn work<T: Send + 'static>(
        &self,
        namespace: &str,
        work: impl FnOnce(&Shelf) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (store, namespace) = (self.clone(), namespace.to_owned());
        blocking(move || work(&store.enter(&namespace)?)).await
    }

    fn directory(&self, namespace: &str) -> Result<PathBuf> {
        let directory = self.config.path.join(DIRECTORY).join(hashed(namespace));
        if !directory.is_dir() {
            layout::check_marker(&FsStorage::new(), &self.config)?;
            fs::create_dir_all(&directory).map_err(|error| problem(&directory, error))?;
        }
        Ok(directory)
    }

    fn enter(&self, namespace: &str) -> Result<Shelf> {
        let directory = self.directory(namespace)?;
        let path = directory.join("lock");
        let lock = open_lock(&path).and_then(|lock| lock.lock().map(|()| lock));
        let lock = lock.map_err(|error| problem(&path, error))?;
        let shelf = Shelf { directory, now: self.clock.now(), _lock: lock };
        shelf.finish_changes()?;
        Ok(shelf)
    }

    fn sweep(&self, shelf: &Shelf) -> Result<()> {
        let start = self.clock.monotonic();
        if start < *locked(&self.sweep_at) {
            return Ok(());
        }
        shelf.sweep()?;
        let end = self.clock.monotonic();
        *locked(&self.sweep_at) = end + SWEEP.max((end - start) * SWEEP_SHARE);
        Ok(())
    }
}

/// A namespace, while its lock is held.
struct Shelf {
    directory: PathBuf,
    now: Timestamp,
    _lock: File,
}

impl Shelf {
    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("v-{}", hashed(key)))
    }

    /// What is kept of a key. What is expired or not whole is not there.
    fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let Some(record) = Record::decode(&bytes) else {
            tracing::warn!(path = %path.display(), "a temporary value is damaged and left out");
            return Ok(None);
        };
        let lives = record.key == key && record.expires.is_some_and(|expires| expires > self.now);
        Ok(lives.then_some(record.value))
    }

    /// Makes changes, all or none, whatever becomes of this process.
    fn change(&self, records: &[Record]) -> Result<()> {
        if let [record] = records {
            return self.apply(record);
        }
        let changes = self.directory.join("changes");
        self.write(&changes, &record::encode_all(records), None)?;
        self.finish_changes()
    }

    fn finish_changes(&self) -> Result<()> {
        let path = self.directory.join("changes");
        let Some(bytes) = read(&path)? else { return Ok(()) };
        match record::decode_all(&bytes) {
            Some(records) => records.iter().try_for_each(|record| self.apply(record))?,
            None => tracing::warn!(path = %path.display(), "changes are damaged and left out"),
        }
        remove(&path)
    }

    fn apply(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.key);
        match record.expires {
            Some(expires) => self.write(&path, &record.encode(), Some(expires)),
            None => remove(&path),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8], expires: Option<Timestamp>) -> Result<()> {
        let new = self.directory.join("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            match expires.and_then(time_of) {
                Some(time) => file.set_modified(time),
                None => Ok(()),
            }
        });
        written.and_then(|()| fs::rename(&new, path)).map_err(|error| problem(path, error))
    }

    fn sweep(&self) -> Result<()> {
        let Some(now) = time_of(self.now) else { return Ok(()) };
        let of_directory = |error| problem(&self.directory, error);
        for entry in fs::read_dir(&self.directory).map_err(of_directory)? {
            let entry = entry.map_err(of_directory)?;
            let is_value = entry.file_name().as_encoded_bytes().starts_with(b"v-");
            let gone =
                || entry.metadata().and_then(|found| found.modified()).is_ok_and(|t| t <= now);
            if is_value && gone() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

impl StoreBackend for FileStore {
    fn put<'a>(
        &'a self,
        namespace: &'a str,
        entries: Vec<(String, Bytes)>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<()>> {
        let store = self.clone();
        Box::pin(self.work(namespace, move |shelf| {
            let ttl_us = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
            let expires = shelf.now.unix_us().saturating_add(ttl_us);
            let expires = Some(Timestamp::from_unix_us(expires));
            let record = |(key, value)| Record { key, value, expires };
            shelf.change(&entries.into_iter().map(record).collect::<Vec<_>>())?;
            store.sweep(shelf)
        }))
    }

    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
        let key = key.to_owned();
        Box::pin(self.work(namespace, move |shelf| shelf.read(&key)))
    }

    fn take<'a>(
        &'a self,
        namespace: &'a str,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>>> {
        Box::pin(self.work(namespace, move |shelf| {
            let mut taken = Vec::with_capacity(keys.len());
            for key in &keys {
                let Some(value) = shelf.read(key)? else { return Ok(None) };
                taken.push(value);
            }
            let gone = |key| Record { key, value: Bytes::new(), expires: None };
            shelf.change(&keys.into_iter().map(gone).collect::<Vec<_>>())?;
            Ok(Some(taken))
        }))
    }

    fn lock<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<StoreLock>> {
        Box::pin(async move {
            loop {
                let (store, namespace) = (self.clone(), namespace.to_owned());
                let name = format!("k-{}", hashed(key));
                let tried =
                    blocking(move || KeyLock::take(store.directory(&namespace)?.join(name)));
                if let Some(lock) = tried.await? {
                    return Ok(StoreLock::new(lock));
                }
                self.clock.sleep(LOCK_POLL).await;
            }
        })
    }
}

/// The lock of a key. The system gives it back when the process ends, in whatever way.
struct KeyLock {
    path: PathBuf,
    _file: File,
}

impl KeyLock {
    /// `None` while somebody holds it.
    fn take(path: PathBuf) -> Result<Option<Self>> {
        let file = open_lock(&path).map_err(|error| problem(&path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(problem(&path, error)),
        }
        // Who held it removes the file as it goes: then this is the lock of nothing.
        let same = file.metadata().and_then(|own| Ok(own.ino() == fs::metadata(&path)?.ino()));
        Ok(same.unwrap_or(false).then_some(Self { path, _file: file }))
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Still locked: nobody can hold another file of this name. If it stays it is in nobody's way.
        let _ = fs::remove_file(&self.path);
    }
}

impl fmt::Display for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file:{}", self.config.path.display())
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStore({self})")
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|cause| {
        Error::new(ErrorKind::Other, "the work of the store got lost").source(cause)
    })?
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

fn read(path: &Path) -> Result<Option<Bytes>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == IoKind::NotFound => Ok(None),
        Err(error) => Err(problem(path, error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != IoKind::NotFound => Err(problem(path, error)),
        _ => Ok(()),
    }
}

fn problem(path: &Path, error: io::Error) -> Error {
    of_io("use the store", path, error)
}

/// A name that is one file's on every file system.
fn hashed(name: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).simple().to_string()
}

fn time_of(time: Timestamp) -> Option<SystemTime> {
    let us = u64::try_from(time.unix_us()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(us))
}
