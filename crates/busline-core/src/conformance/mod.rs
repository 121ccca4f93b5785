//! The conformance suite: the contract as named cases, for our transports and those of others.
//!
//! A transport implements [`Harness`] and [`Rig`] in its tests and calls [`run`], which runs every
//! case of the registry: one that needs a promise which the profile refuses is skipped and says
//! so, and none can be forgotten. A transport is done when it passes.
//!
//! Cases wait for events, each at most [`Rig::patience`] long, and never sleep. That something
//! does *not* happen is shown by something else that comes after it, or by [`Rig::grace`] passing
//! without it: a broken transport may slip through there, a sound one never fails.

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
