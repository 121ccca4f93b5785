//! A database in our own layout keeps the contract, synced and unsynced.

use std::sync::Arc;
use std::time::Duration;

use busline_core::Result;
use busline_core::conformance::{self, Harness, Rig};
use busline_core::transport::{Session, Transport};
use busline_transports::sqlite::{SqliteConfig, SqliteTransport, Sync};
use futures_util::future::{BoxFuture, ready};

struct OnDisk {
    sync: Sync,
}

struct DiskRig {
    folder: tempfile::TempDir,
    sync: Sync,
}

impl Harness for OnDisk {
    fn name(&self) -> String {
        format!("sqlite, sync {:?}", self.sync)
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let rig: Box<dyn Rig> = Box::new(DiskRig { folder, sync: self.sync });
        Box::pin(ready(Ok(rig)))
    }
}

impl Rig for DiskRig {
    fn transport(&self) -> Arc<dyn Transport> {
        let config = SqliteConfig::new(self.folder.path().join("bus.db"));
        Arc::new(SqliteTransport::new(SqliteConfig { sync: self.sync, ..config }))
    }

    fn kill_member(&self, session: Arc<dyn Session>) -> BoxFuture<'_, Result<()>> {
        // A test cannot kill a part of its own process: the session ends at once instead. Whole
        // processes are killed in tests of their own.
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
async fn sqlite_keeps_the_contract() {
    keeps_the_contract(&OnDisk { sync: Sync::Always }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_the_contract_without_syncing() {
    keeps_the_contract(&OnDisk { sync: Sync::Os }).await;
}
