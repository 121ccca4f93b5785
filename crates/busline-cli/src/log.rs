//! `log verify` and `log repair`: the files of an embedded log, without opening the bus.

use crate::app::App;
use crate::args::LogVerb;
use crate::exit::Outcome;

/// Checks or repairs the logs below a directory.
pub(crate) async fn run(app: &mut App, verb: LogVerb) -> Outcome {
    #[cfg(unix)]
    match verb {
        LogVerb::Verify(args) => files::verify(app, args).await,
        LogVerb::Repair(args) => files::repair(app, args).await,
    }
    #[cfg(not(unix))]
    {
        let _ = (app, verb);
        let way_out = "use it on a Unix system";
        Err(busline::Error::refused("embedded log", "this system", way_out).into())
    }
}

#[cfg(unix)]
mod files {
    use std::path::{Path, PathBuf};

    use busline::file::{Finding, FindingKind, RepairedLog, VerifiedLog};
    use serde::Serialize;

    use crate::admin::ask;
    use crate::app::App;
    use crate::args::{Caution, RepairArgs, VerifyArgs};
    use crate::exit::{self, Failure, Outcome};
    use crate::human;
    use crate::progress::Progress;

    pub(super) async fn verify(app: &mut App, args: VerifyArgs) -> Outcome {
        let logs = verified(app, args.dir).await?;
        for log in &logs {
            if app.out.is_json() {
                app.out.line(&VerifiedLine::of(log))?;
            } else {
                let text = format!(
                    "{}  {}: {}, {}, {}",
                    status(&log.findings),
                    log.path.display(),
                    human::plural(log.records, "record"),
                    human::plural(log.segments, "segment"),
                    human::bytes(log.bytes)
                );
                app.out.text(&text)?;
                for finding in &log.findings {
                    app.out.text(&format!("    {}", describe(finding)))?;
                }
            }
        }
        app.out.flush()?;
        let unsound = logs.iter().filter(|log| !log.is_sound()).count() as u64;
        match unsound {
            0 => Ok(()),
            _ => Err(Failure::new(
                // What cannot be looked at need not be damaged.
                if logs.iter().any(is_damaged) { exit::DAMAGED } else { exit::PROBLEM },
                format!(
                    "{} of {} not sound; 'busline log repair' says what can be done",
                    human::count(unsound),
                    human::plural(logs.len() as u64, "log")
                ),
            )),
        }
    }

    /// Looks at everything first: without leave to drop what is damaged, nothing is changed at all.
    pub(super) async fn repair(app: &mut App, args: RepairArgs) -> Outcome {
        let logs = verified(app, args.dir.clone()).await?;
        let damaged: Vec<_> = logs
            .iter()
            .flat_map(|log| &log.findings)
            .filter(|finding| finding.kind == FindingKind::Damaged)
            .collect();
        if let (Some(first), false) = (damaged.first(), args.allow_drop) {
            let places = human::plural(damaged.len() as u64, "place");
            return Err(Failure::new(
                exit::DAMAGED,
                format!(
                    "{places} in the middle of the log damaged, nothing was changed: {}; \
                     --allow-drop gives up the damaged records and keeps the rest",
                    describe(first)
                ),
            ));
        }
        if !damaged.is_empty() {
            let places = human::plural(damaged.len() as u64, "place");
            let caution = Caution { dry_run: false, yes: args.yes };
            ask(&format!("give up the damaged records at {places}"), caution, "")?;
        }
        let (directory, allow_drop) = (args.dir, args.allow_drop);
        let work = move || busline::file::repair(&directory, allow_drop);
        let repaired = blocking(app, "repairing", work).await?;
        for log in &repaired {
            if app.out.is_json() {
                app.out.line(&RepairedLine::of(log))?;
                continue;
            }
            let word = if is_nothing(log) { "sound" } else { "repaired" };
            app.out.text(&format!("{word}  {}", log.path.display()))?;
            for finding in &log.mended {
                app.out.text(&format!("    {}", describe(finding)))?;
            }
            for path in &log.set_aside {
                app.out.text(&format!("    set aside: {}", path.display()))?;
            }
        }
        Ok(app.out.flush()?)
    }

    async fn verified(app: &App, directory: PathBuf) -> Outcome<Vec<VerifiedLog>> {
        blocking(app, "checking", move || busline::file::verify(&directory)).await
    }

    /// On a thread that may block, so that signals are heard meanwhile.
    async fn blocking<T: Send + 'static>(
        app: &App,
        what: &'static str,
        work: impl FnOnce() -> busline::Result<T> + Send + 'static,
    ) -> Outcome<T> {
        let work = tokio::task::spawn_blocking(work);
        match Progress::spin(app, what, work).await {
            Ok(done) => Ok(done?),
            Err(error) => Err(Failure::new(exit::PROBLEM, error.to_string())),
        }
    }

    fn is_damaged(log: &VerifiedLog) -> bool {
        let mut kinds = log.findings.iter().map(|finding| finding.kind);
        kinds.any(|kind| !matches!(kind, FindingKind::TornTail | FindingKind::Unusable))
    }

    fn is_nothing(log: &RepairedLog) -> bool {
        log.mended.is_empty() && log.set_aside.is_empty()
    }

    /// The worst of them.
    fn status(findings: &[Finding]) -> &'static str {
        let has = |kind| findings.iter().any(|finding| finding.kind == kind);
        if has(FindingKind::Damaged) || has(FindingKind::Mendable) {
            "damaged"
        } else if has(FindingKind::Unusable) {
            "unusable"
        } else if has(FindingKind::Poisoned) {
            "poisoned"
        } else if findings.is_empty() {
            "sound"
        } else {
            "torn tail"
        }
    }

    fn describe(finding: &Finding) -> String {
        let mut text = format!("{}: {}", finding.kind.as_str(), finding.path.display());
        if let Some((from, to)) = finding.bytes {
            text.push_str(&format!(", bytes {from} to {to}"));
        }
        match finding.records {
            Some((from, Some(to))) => text.push_str(&format!(", records {from} to {to}")),
            Some((from, None)) => text.push_str(&format!(", records from {from} on")),
            None => {}
        }
        format!("{text}: {}", finding.cause)
    }

    /// The JSON line of `log verify`.
    #[derive(Serialize)]
    struct VerifiedLine<'a> {
        directory: &'a Path,
        status: &'static str,
        segments: u64,
        records: u64,
        bytes: u64,
        findings: Vec<FindingLine<'a>>,
    }

    impl<'a> VerifiedLine<'a> {
        fn of(log: &'a VerifiedLog) -> Self {
            Self {
                directory: &log.path,
                status: status(&log.findings),
                segments: log.segments,
                records: log.records,
                bytes: log.bytes,
                findings: log.findings.iter().map(FindingLine::of).collect(),
            }
        }
    }

    /// The JSON line of `log repair`.
    #[derive(Serialize)]
    struct RepairedLine<'a> {
        directory: &'a Path,
        status: &'static str,
        mended: Vec<FindingLine<'a>>,
        set_aside: &'a [PathBuf],
    }

    impl<'a> RepairedLine<'a> {
        fn of(log: &'a RepairedLog) -> Self {
            Self {
                directory: &log.path,
                status: if is_nothing(log) { "sound" } else { "repaired" },
                mended: log.mended.iter().map(FindingLine::of).collect(),
                set_aside: &log.set_aside,
            }
        }
    }

    #[derive(Serialize)]
    struct FindingLine<'a> {
        kind: &'static str,
        path: &'a Path,
        bytes: Option<(u64, u64)>,
        records: Option<(u64, Option<u64>)>,
        cause: &'a str,
    }

    impl<'a> FindingLine<'a> {
        fn of(finding: &'a Finding) -> Self {
            Self {
                kind: finding.kind.as_str(),
                path: &finding.path,
                bytes: finding.bytes,
                records: finding.records,
                cause: &finding.cause,
            }
        }
    }
}
