//! A storage that keeps a copy of the medium at every change, with what callers had been promised by then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busline_log::storage::{
    Bell, Call, Fault, FaultyStorage, MemStorage, OpenMode, PAGE_WORDS, Rope, SharedPage, Storage,
    StorageFile, StorageLock,
};

use super::known::Known;

/// A moment at which everything may end.
#[derive(Debug)]
pub(crate) struct Point {
    /// The medium with all that is not synced, and the page as it was.
    pub(crate) medium: MemStorage,
    /// What was promised to callers until then.
    pub(crate) known: Known,
    /// Only processes die here: for the medium it is the same moment as the one before.
    pub(crate) only_death: bool,
    /// The change before which, in which or after which it is.
    pub(crate) what: String,
}

/// What a medium lies about: it says that something is durable and does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Syncs of files whose paths contain a text and do not contain another.
    File(&'static str, &'static str),
    /// Syncs of directories whose paths end with a text.
    Dir(&'static str),
}

/// What all processes of a medium are recorded on.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    points: Vec<Point>,
    pub(crate) known: Known,
    running: bool,
    lie: Option<Lie>,
    lies: usize,
}

/// A history.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// Its moments.
    pub(crate) points: Vec<Point>,
    /// How many syncs were lied about.
    pub(crate) lies: usize,
}

/// One process on a recorded medium.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    inner: MemStorage,
    /// The way to it.
    seam: FaultyStorage,
    tape: Arc<Mutex<Tape>>,
}

#[allow(dead_code)] // the crash points of a bus use some of it
impl Recorder {
    /// Begins to record; the first point is the medium as it is.
    pub(crate) fn start(medium: MemStorage, known: Known, lie: Option<Lie>) -> Self {
        let recorder = Self::prepare(medium, known, lie);
        recorder.begin();
        recorder
    }

    /// Records nothing until it is told to begin.
    pub(crate) fn prepare(medium: MemStorage, known: Known, lie: Option<Lie>) -> Self {
        let tape = Tape { known, lie, ..Tape::default() };
        Self::over(medium, Arc::new(Mutex::new(tape)))
    }

    /// From now on it is recorded.
    pub(crate) fn begin(&self) {
        self.tape().running = true;
        self.moment(|| "the start".to_owned());
    }

    /// Between two changes is a moment too: something more may have been promised.
    pub(crate) fn moment(&self, what: impl FnOnce() -> String) {
        self.point(what, false);
    }

    /// Does as a recorder and records nothing.
    pub(crate) fn silent(medium: MemStorage, known: Known) -> Self {
        let tape = Tape { known, ..Tape::default() };
        Self::over(medium, Arc::new(Mutex::new(tape)))
    }

    fn over(inner: MemStorage, tape: Arc<Mutex<Tape>>) -> Self {
        let seam = FaultyStorage::over_memory(&inner);
        Self { inner, seam, tape }
    }

    /// Another process on the same medium.
    pub(crate) fn process(&self) -> Self {
        Self::over(self.inner.process(), Arc::clone(&self.tape))
    }

    pub(crate) fn medium(&self) -> &MemStorage {
        &self.inner
    }

    /// The next sync of a file fails whose path contains a text, and what it should have written is lost
    /// with the power.
    pub(crate) fn fail_sync(&self, part_of_path: &str) {
        self.seam.plan().add(Fault::new(Call::Sync, io::ErrorKind::Other).on(part_of_path));
    }

    pub(crate) fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was promised is noted here.
    pub(crate) fn learn<R>(&self, note: impl FnOnce(&mut Known) -> R) -> R {
        note(&mut self.tape().known)
    }

    /// Stops; what was recorded.
    pub(crate) fn finish(&self) -> Recorded {
        self.point(|| "the end".to_owned(), false);
        let mut tape = self.tape();
        tape.running = false;
        Recorded { points: std::mem::take(&mut tape.points), lies: tape.lies }
    }

    fn point(&self, what: impl FnOnce() -> String, only_death: bool) {
        self.keep(what, only_death, |medium| medium);
    }

    fn keep(
        &self,
        what: impl FnOnce() -> String,
        only_death: bool,
        alter: impl FnOnce(MemStorage) -> MemStorage,
    ) {
        let mut tape = self.tape();
        if tape.running {
            let medium = alter(self.inner.snapshot());
            // The thread of a process that was killed still runs into its next call, which does nothing any more: by then
            // others may have done what it was about to do.
            if only_death && !self.inner.is_alive() {
                return;
            }
            let known = tape.known.clone();
            tape.points.push(Point { medium, known, only_death, what: what() });
        }
    }

    fn change<R>(
        &self,
        what: impl Fn() -> String,
        change: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        // Words of the page may have changed since the last point.
        self.point(|| format!("before {}", what()), true);
        let changed = change()?;
        self.point(|| format!("after {}", what()), false);
        Ok(changed)
    }

    fn sync(
        &self,
        path: &Path,
        is_dir: bool,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let what = format!("{} of {}", if is_dir { "sync_dir" } else { "sync" }, path.display());
        if self.tape().lies_about(path, is_dir) {
            return Ok(());
        }
        self.change(|| what.clone(), sync)
    }
}

impl Tape {
    fn lies_about(&mut self, path: &Path, is_dir: bool) -> bool {
        if !self.running {
            return false;
        }
        let text = path.to_string_lossy();
        let lies = match self.lie {
            None => false,
            Some(Lie::File(part, other)) => !is_dir && text.contains(part) && !text.contains(other),
            Some(Lie::Dir(end)) => {
                // What follows the dot tells incarnations of a group apart.
                is_dir && text.split('.').next().is_some_and(|text| text.ends_with(end))
            }
        };
        self.lies += usize::from(lies);
        lies
    }
}

impl Storage for Recorder {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let creates = matches!(mode, OpenMode::Create | OpenMode::CreateNew);
        let open = || self.seam.open(path, mode);
        let inner = if creates && !self.seam.exists(path)? {
            self.change(|| format!("creating {}", path.display()), open)?
        } else {
            open()?
        };
        Ok(Arc::new(RecordedFile { inner, recorder: self.clone(), path: path.to_owned() }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.seam.exists(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let what = || format!("making {}", path.display());
        self.change(what, || self.seam.create_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.seam.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let what = || format!("renaming to {}", to.display());
        self.change(what, || self.seam.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|| format!("removing {}", path.display()), || self.seam.remove(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(|| format!("removing {}", path.display()), || self.seam.remove_dir_all(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.sync(path, true, || self.seam.sync_dir(path))
    }

    fn lock_file(&self, path: &Path) -> io::Result<Arc<dyn StorageLock>> {
        if self.seam.exists(path)? {
            return self.seam.lock_file(path);
        }
        self.change(|| format!("creating {}", path.display()), || self.seam.lock_file(path))
    }

    fn shared_page(&self, path: &Path) -> io::Result<Arc<dyn SharedPage>> {
        let page = || self.seam.shared_page(path);
        let inner = if self.seam.exists(path)? {
            page()?
        } else {
            self.change(|| format!("creating {}", path.display()), page)?
        };
        Ok(Arc::new(RecordedPage { inner, recorder: self.clone(), path: path.to_owned() }))
    }

    fn bell(&self, path: &Path) -> io::Result<Arc<dyn Bell>> {
        self.seam.bell(path)
    }

    fn rope(&self, path: &Path) -> io::Result<Option<Arc<dyn Rope>>> {
        self.seam.rope(path)
    }

    fn is_remote(&self, path: &Path) -> io::Result<bool> {
        self.seam.is_remote(path)
    }

    fn boot_id(&self) -> io::Result<u128> {
        self.seam.boot_id()
    }
}

#[derive(Debug)]
struct RecordedFile {
    inner: Arc<dyn StorageFile>,
    recorder: Recorder,
    path: PathBuf,
}

impl RecordedFile {
    /// The moments inside of a write at which its process may die: it is torn anywhere, not only between
    /// sectors.
    fn torn(&self, buf: &[u8], at: u64) {
        let mut cuts = vec![1, 8, buf.len() / 2, buf.len().saturating_sub(1)];
        let first = 512 - (at % 512) as usize;
        cuts.extend((first..buf.len()).step_by(512).take(4));
        cuts.sort_unstable();
        cuts.dedup();
        for cut in cuts.into_iter().filter(|cut| (1..buf.len()).contains(cut)) {
            let what = || format!("in the write of {} at {at}, {cut} bytes", self.path.display());
            self.recorder.keep(what, true, |medium| {
                let file = medium.open(&self.path, OpenMode::ReadWrite).unwrap();
                file.write_all_at(&buf[..cut], at).unwrap();
                medium
            });
        }
    }
}

impl StorageFile for RecordedFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buf, at)
    }

    fn try_read_at(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        self.inner.try_read_at(buf, at)
    }

    fn write_all_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let what = || format!("writing {} bytes to {} at {at}", buf.len(), self.path.display());
        self.recorder.point(|| format!("before {}", what()), true);
        if !self.path.ends_with("reserve") {
            self.torn(buf, at);
        }
        self.inner.write_all_at(buf, at)?;
        self.recorder.point(|| format!("after {}", what()), false);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let what = || format!("cutting {} at {len}", self.path.display());
        self.recorder.change(what, || self.inner.truncate(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.recorder.sync(&self.path, false, || self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.recorder.sync(&self.path, false, || self.inner.sync_all())
    }
}

#[derive(Debug)]
struct RecordedPage {
    inner: Arc<dyn SharedPage>,
    recorder: Recorder,
    path: PathBuf,
}

impl SharedPage for RecordedPage {
    fn words(&self) -> &[AtomicU64; PAGE_WORDS] {
        self.inner.words()
    }

    fn identity(&self) -> u128 {
        self.inner.identity()
    }

    fn wait(&self, word: usize, expected: u32, timeout: Option<Duration>) {
        self.inner.wait(word, expected, timeout);
    }

    fn wake(&self, word: usize) {
        self.inner.wake(word);
    }

    fn low(&self, word: usize) -> &AtomicU32 {
        self.inner.low(word)
    }

    fn sync(&self) -> io::Result<()> {
        self.recorder.sync(&self.path, false, || self.inner.sync())
    }
}
