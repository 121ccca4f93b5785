//! The conformance suite: the contract as named cases, for our transports and those of others.
//!
//! A transport implements [`Harness`] and [`Rig`] in its tests and calls [`run`], which runs every
//! case of the registry: one that needs a promise which the profile refuses is skipped and says
//! so, and none can be forgotten. A transport is done when it passes.
//!
//! Cases wait for events, each at most [`Rig::patience`] long, and never sleep. That something
//! does *not* happen is shown by something else that comes after it, or by [`Rig::grace`] passing
//! without it: a broken transport may slip through there, a sound one never fails.
//!
//! The whole test file of a transport, its rig being whatever makes a bus of its own for each case
//! (a directory, a virtual host, a prefix of names):
//!
//! ```
//! use std::sync::Arc;
//! use busline_core::Result;
//! use busline_core::conformance::{self, Harness, Rig};
//! use busline_core::memory::MemoryTransport;
//! use busline_core::transport::Transport;
//! use futures_util::future::{BoxFuture, ready};
//!
//! struct Mine;
//!
//! struct MyRig(MemoryTransport);
//!
//! impl Harness for Mine {
//!     fn name(&self) -> String {
//!         "mine".to_owned()
//!     }
//!
//!     fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
//!         let rig: Box<dyn Rig> = Box::new(MyRig(MemoryTransport::new()));
//!         Box::pin(ready(Ok(rig)))
//!     }
//! }
//!
//! impl Rig for MyRig {
//!     fn transport(&self) -> Arc<dyn Transport> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     // What can be done to a broker is overridden here too: stop it, start it, kill a member.
//!
//!     fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
//!         Box::pin(ready(Ok(())))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let report = conformance::run(&Mine, |case| println!("{case}")).await;
//! assert!(report.is_success(), "{report}");
//! # })
//! ```
//!
//! What the cases hold a transport to beyond the words of its port:
//!
//! - a killed session's deliveries are ready for others at once, in their order;
//! - `stop` gives back what was not handed out without counting it, `release` counts;
//! - a settle that was answered is not undone by the death of the member right after it;
//! - operations that fail leave nothing half done: a batch with a bad message is not sent in part,
//!   a group whose start is refused is not there;
//! - errors name the thing that was wrong: the bound, the offset, the group and both its patterns.

mod case;
mod cases;
mod harness;
mod report;
mod world;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

pub use case::{Case, Failure};
pub use cases::cases;
pub use harness::{Harness, Rig};
pub use report::{CaseReport, Report, Verdict};
pub use world::{Stream, World};

/// No case takes longer, whatever it waits for.
const CASE_MAX: Duration = Duration::from_secs(120);

/// Runs every case; `told` hears of each as it ends, so that somebody can print it.
pub async fn run(harness: &dyn Harness, mut told: impl FnMut(&CaseReport)) -> Report {
    let mut reports = Vec::new();
    for case in cases() {
        let report = run_case(harness, case).await;
        told(&report);
        reports.push(report);
    }
    Report::new(harness.name(), reports)
}

/// Runs one case on a bus of its own.
pub async fn run_case(harness: &dyn Harness, case: &'static Case) -> CaseReport {
    let running = async {
        let world = World::open(harness, case).await?;
        world.check_needs(case)?;
        (case.run)(world).await
    };
    // A panic is a failure of this case, not of those after it.
    let guarded = AssertUnwindSafe(running).catch_unwind();
    let result = match tokio::time::timeout(CASE_MAX, guarded).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Failure::new(format!("it panicked: {}", text_of(&*panic)))),
        Err(_) => Err(Failure::new(format!("it did not end within {CASE_MAX:?}"))),
    };
    CaseReport { case, verdict: Verdict::of(result) }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}
