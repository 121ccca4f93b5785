//! The embedded durable log as a bus: `file:./bus`, shared by every process on the machine.
//!
//! | port | here |
//! |---|---|
//! | topic | a directory with one log of `busline-log` |
//! | group | a group of that log; its patterns are its configuration there |
//! | broadcast | a group that lives as long as its only member |
//! | offset | the id of the log as shard, the record's sequence number |
//! | dead letters | a topic of their own, see `busline_core::dead` |
//!
//! Publishing and settling happen on one thread a session, which joins what waits into one frame
//! and one `fdatasync`; what may wait of claiming and reading, on the runtime's threads for blocking work. There is
//! no connection, so a session is never lost.
//!
//! A process that forks keeps what it has open for itself: its child is told so (`Closed`) and opens the bus anew. On a
//! full disk publishers wait, then are refused (`Full`), and leave the last 256 KiB to what consumers settle.

mod admin;
mod check;
mod claim;
mod config;
mod error;
mod groups;
mod layout;
mod lease;
mod mapping;
mod read;
mod remove;
mod room;
mod session;
mod settle;
mod state;
mod store;
mod subscribe;
pub(crate) mod temporary;
mod time;
mod wait;
mod worker;
mod writer;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use busline_core::transport::{Connect, Dialect, Session, Transport};
use busline_core::{Capabilities, Capability, Clock, Lease, Limits, Result, Support};
use busline_log::storage::{FsStorage, Storage};
use futures_util::future::BoxFuture;

pub use crate::meta;
pub use check::{Finding, FindingKind, RepairedLog, VerifiedLog, repair, verify};
pub use config::{FileConfig, Sync};
pub use temporary::FileStore;

use crate::url::BusUrl;
use session::FileSession;
use store::Store;
use time::Time;

/// A bus in a directory.
pub struct FileTransport {
    config: FileConfig,
    storage: Arc<dyn Storage>,
    time: Time,
    /// Shared by the sessions of this transport, and closed with the last of them.
    store: Arc<Mutex<Weak<Store>>>,
}

/// The transport of a `file:` URL.
pub(crate) fn open(url: BusUrl) -> Result<Arc<dyn Transport>> {
    Ok(Arc::new(FileTransport::new(FileConfig::from_url(url)?)))
}

impl FileTransport {
    /// A bus on the file system; nothing is opened yet.
    pub fn new(config: FileConfig) -> Self {
        Self::on(config, Arc::new(FsStorage::new()))
    }

    /// A bus on another storage, for tests of faults.
    pub fn on(config: FileConfig, storage: Arc<dyn Storage>) -> Self {
        Self { config, storage, time: Time::system(), store: Arc::default() }
    }

    /// Goes by this clock; all processes of the bus must share it, so this is for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.time = Time::manual(clock);
        self
    }

    fn profile(&self) -> Capabilities {
        let refused = Support::Refused;
        let mut profile = Capabilities::all("file", self.config.durability(), Limits::default())
            .set(
                Capability::Deduplication,
                refused("make handlers idempotent: a message may come twice after a crash"),
            )
            .set(
                Capability::Reconnect,
                Support::Emulated("there is no connection that could be lost"),
            )
            .set(Capability::ConfirmGate, Support::Emulated("in the port, the same everywhere"));
        profile.lease = Lease::Renewable(Duration::from_secs(30));
        profile
    }
}

/// What opens a session, taken to a thread that may block.
struct Opener {
    config: FileConfig,
    storage: Arc<dyn Storage>,
    time: Time,
    store: Arc<Mutex<Weak<Store>>>,
    profile: Capabilities,
}

impl Opener {
    fn open(self, connect: &Connect) -> Result<FileSession> {
        // One mapping serves every dialect: no other program's conventions reach these files.
        let mut open = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let store = match open.upgrade() {
            Some(store) => store,
            None => Arc::new(Store::open(self.config, self.storage, self.time)?),
        };
        *open = Arc::downgrade(&store);
        drop(open);
        FileSession::start(store, self.profile, connect)
    }
}

impl Transport for FileTransport {
    fn capabilities(&self) -> Capabilities {
        self.profile()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        let opener = Opener {
            config: self.config.clone(),
            storage: Arc::clone(&self.storage),
            time: self.time.clone(),
            store: Arc::clone(&self.store),
            profile: self.profile(),
        };
        Box::pin(async move {
            let session = blocking(move || opener.open(&connect)).await?;
            Ok(Arc::new(session) as Arc<dyn Session>)
        })
    }

    fn may_disconnect(&self) -> bool {
        false
    }

    fn dialect(&self) -> Option<Dialect> {
        self.config.dialect
    }
}

impl fmt::Display for FileTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file:{}", self.config.path.display())
    }
}

impl fmt::Debug for FileTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTransport").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Runs what may wait for a disk or a lock on a thread for such things.
async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(operation).await;
    joined.unwrap_or_else(|_| Err(error::worker_gone()))
}
