//! What running the suite came to.

use std::fmt;

use super::case::{Case, Failure};

/// What became of one case.
#[derive(Debug, Clone)]
pub struct CaseReport {
    /// The case.
    pub case: &'static Case,
    /// What became of it.
    pub verdict: Verdict,
}

/// Passed, failed or skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The promise held.
    Passed,
    /// It did not, and how.
    Failed(String),
    /// The profile does not give the promise, and why.
    Skipped(String),
}

impl Verdict {
    pub(super) fn of(result: Result<(), Failure>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(Failure { why, skipped: true }) => Self::Skipped(why),
            Err(Failure { why, skipped: false }) => Self::Failed(why),
        }
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { name, capability, .. } = self.case;
        write!(f, "case {capability}: {name} ... ")?;
        match &self.verdict {
            Verdict::Passed => f.write_str("ok"),
            Verdict::Failed(why) => write!(f, "FAILED {why}"),
            Verdict::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// What became of every case.
#[derive(Debug, Clone)]
pub struct Report {
    profile: String,
    cases: Vec<CaseReport>,
}

impl Report {
    pub(super) fn new(profile: String, cases: Vec<CaseReport>) -> Self {
        Self { profile, cases }
    }

    /// Every case, in the order of the registry.
    pub fn cases(&self) -> &[CaseReport] {
        &self.cases
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| matches!(case.verdict, Verdict::Failed(_)))
    }

    /// Those that were skipped.
    pub fn skipped(&self) -> impl Iterator<Item = &CaseReport> {
        self.cases.iter().filter(|case| matches!(case.verdict, Verdict::Skipped(_)))
    }

    /// Whether no promise was broken.
    pub fn is_success(&self) -> bool {
        self.failed().next().is_none()
    }
}

impl fmt::Display for Report {
    /// The failures, and a line with the counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.failed() {
            writeln!(f, "{case}\n    it must hold that: {}", case.case.statement)?;
        }
        let (failed, skipped) = (self.failed().count(), self.skipped().count());
        let passed = self.cases.len() - failed - skipped;
        write!(f, "{}: {passed} passed, {failed} failed, {skipped} skipped", self.profile)
    }
}
