//! Broken transports: each breaks one promise, and the case that guards it must fail.
//!
//! All of them are the memory transport with something in between. The wrapper without a flaw
//! passes the whole suite, so it is the flaw that is noticed.

mod admin;
mod flaw;
mod read;
mod rig;
mod send;
mod session;
mod settle;
mod subscription;

use std::collections::BTreeSet;

use busline_core::conformance::{self, Verdict};
use flaw::Flaw;
use rig::Broken;

#[tokio::test(flavor = "multi_thread")]
async fn the_wrapper_itself_is_sound() {
    let report = conformance::run(&Broken { flaw: None }, |_| {}).await;
    assert!(report.is_success(), "{report}");
}

#[test]
fn every_case_is_guarded_against_something() {
    let guards: BTreeSet<_> = Flaw::ALL.iter().map(|(_, case)| *case).collect();
    let cases: BTreeSet<_> = conformance::cases().map(|case| case.name).collect();
    assert_eq!(guards, cases, "a case that no flaw can fail shows nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_is_noticed_by_the_case_that_guards_it() {
    let mut unnoticed = Vec::new();
    for (flaw, name) in Flaw::ALL {
        let Some(case) = conformance::cases().find(|case| case.name == *name) else {
            unnoticed.push(format!("{flaw:?}: there is no case {name}"));
            continue;
        };
        let report = conformance::run_case(&Broken { flaw: Some(*flaw) }, case).await;
        println!("{flaw:?}: {report}");
        if !matches!(report.verdict, Verdict::Failed(_)) {
            unnoticed.push(format!("{flaw:?}: {report}"));
        }
    }
    assert!(unnoticed.is_empty(), "flaws that went unnoticed:\n{}", unnoticed.join("\n"));
}
