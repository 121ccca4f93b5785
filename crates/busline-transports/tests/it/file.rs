//! The embedded log keeps the contract: on a medium in memory, whose processes can be killed and
//! whose power can fail between two sentences of a case, and on the file system.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busline_core::conformance::{self, Harness, Rig};
use busline_core::transport::{Connect, Session, Transport};
use busline_core::{Capabilities, Result};
use busline_log::storage::{MemStorage, Storage};
use busline_transports::file::{FileConfig, FileTransport, Sync};
use futures_util::future::{BoxFuture, ready};

/// A medium in memory; every transport onto it is a process of its own.
struct OnMemory {
    sync: Sync,
}

struct MemoryRig {
    medium: MemStorage,
    sync: Sync,
    processes: Arc<Processes>,
}

/// A process, and the session that stands for it.
type Process = (MemStorage, Arc<dyn Session>);

/// The processes that are running.
#[derive(Debug, Default)]
struct Processes(Mutex<Vec<Process>>);

impl Processes {
    fn lock(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport in a process that can be killed.
#[derive(Debug)]
struct Killable {
    inner: FileTransport,
    process: MemStorage,
    processes: Arc<Processes>,
}

impl Harness for OnMemory {
    fn name(&self) -> String {
        format!("file on a medium in memory, sync {:?}", self.sync)
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let rig: Box<dyn Rig> = Box::new(MemoryRig {
            medium: MemStorage::new(),
            sync: self.sync,
            processes: Arc::default(),
        });
        Box::pin(ready(Ok(rig)))
    }
}

/// With segments so small that retention has something to remove.
fn config(path: impl Into<std::path::PathBuf>) -> FileConfig {
    FileConfig { segment_bytes: 64 << 10, ..FileConfig::new(path) }
}

/// As by SIGKILL; its threads, which a test cannot kill, reach nothing any more.
fn die(process: &MemStorage) {
    process.kill();
    process.kill_after(0, 0);
}

impl Rig for MemoryRig {
    fn transport(&self) -> Arc<dyn Transport> {
        let process = self.medium.process();
        let config = FileConfig { sync: self.sync, ..config("/bus") };
        let storage: Arc<dyn Storage> = Arc::new(process.clone());
        let inner = FileTransport::on(config, storage);
        Arc::new(Killable { inner, process, processes: Arc::clone(&self.processes) })
    }

    fn kill_member(&self, session: Arc<dyn Session>) -> BoxFuture<'_, Result<()>> {
        let is_it = |of: &Arc<dyn Session>| Arc::ptr_eq(of, &session);
        let mut processes = self.processes.lock();
        processes.iter().filter(|(_, of)| is_it(of)).for_each(|(process, _)| die(process));
        processes.retain(|(_, of)| !is_it(of));
        Box::pin(async move {
            // Nothing of it reaches the medium any more; only its own threads still hear of it.
            let _ = session.close(Duration::ZERO).await;
            Ok(())
        })
    }

    fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
        self.processes.lock().drain(..).for_each(|(process, _)| die(&process));
        Box::pin(ready(Ok(())))
    }
}

impl std::fmt::Display for Killable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Transport for Killable {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            let session = self.inner.connect(connect).await?;
            self.processes.lock().push((self.process.clone(), Arc::clone(&session)));
            Ok(session)
        })
    }

    fn may_disconnect(&self) -> bool {
        self.inner.may_disconnect()
    }
}

/// A directory of the file system.
struct OnDisk;

struct DiskRig {
    directory: tempfile::TempDir,
}

impl Harness for OnDisk {
    fn name(&self) -> String {
        "file on the file system".to_owned()
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let rig: Box<dyn Rig> = Box::new(DiskRig { directory });
        Box::pin(ready(Ok(rig)))
    }
}

impl Rig for DiskRig {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(FileTransport::new(config(self.directory.path())))
    }

    fn kill_member(&self, session: Arc<dyn Session>) -> BoxFuture<'_, Result<()>> {
        // A test cannot kill a part of its own process: the session ends at once instead. The
        // medium in memory really kills, and so do the tests of whole processes.
        Box::pin(async move {
            let _ = session.close(Duration::from_secs(20)).await;
            Ok(())
        })
    }

    fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }
}

#[allow(clippy::print_stdout, reason = "a skipped case says so")]
async fn keeps_the_contract(harness: &dyn Harness) {
    let report = conformance::run(harness, |case| println!("{case}")).await;
    println!("{report}");
    assert!(report.is_success(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_keeps_the_contract_while_processes_are_killed() {
    keeps_the_contract(&OnMemory { sync: Sync::Always }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_keeps_the_contract_without_syncing() {
    keeps_the_contract(&OnMemory { sync: Sync::Os }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_keeps_the_contract_on_the_file_system() {
    keeps_the_contract(&OnDisk).await;
}
