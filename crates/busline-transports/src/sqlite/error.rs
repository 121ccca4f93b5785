//! From the errors of SQLite to the errors of the port.

use std::sync::atomic::{AtomicU32, Ordering};

use busline_core::{Error, ErrorKind, Result};
use rusqlite::ErrorCode;

/// What SQLite says, with what to do about it.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub(super) fn of_sqlite(error: rusqlite::Error) -> Error {
    let (kind, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => return locked(),
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::Conflict,
            Some(
                "the file is no SQLite database, or an encrypted one: give the path of another, or of none yet",
            ),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Damaged,
            Some(
                "stop all programs; 'sqlite3 FILE .recover' saves what can be read, unless there is a backup. \
                 A copy made while the database was open looks so too: copy with 'sqlite3 FILE \".backup COPY\"'",
            ),
        ),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::Full, Some("free some space: nothing of this was stored, publish it again"))
        }
        Some(
            ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied,
        ) => (
            ErrorKind::Unauthorized,
            Some("give this user the right to write the file and its folder, or use another file"),
        ),
        Some(ErrorCode::CannotOpen) => (
            ErrorKind::NotFound,
            Some("see that the folder exists and that this user may use the file"),
        ),
        Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => (
            ErrorKind::Other,
            Some(
                "the medium failed, or is a network file system, where SQLite cannot work: use a local disk",
            ),
        ),
        Some(ErrorCode::TooBig) => (ErrorKind::Limit, None),
        Some(ErrorCode::Unknown) => (
            ErrorKind::Conflict,
            Some("another program changed the tables, or made them: use another file"),
        ),
        _ => (ErrorKind::Other, None),
    };
    let mapped = Error::new(kind, "the database fails").source(error);
    match hint {
        Some(hint) => mapped.hint(hint),
        None => mapped,
    }
}

/// Somebody else held the database for too long.
pub(super) fn locked() -> Error {
    Error::new(ErrorKind::Elapsed, "the database is locked by another program").hint(
        "try again when what holds it has ended, as a sqlite3 shell with an open transaction or a backup; \
         ?busy=30s waits for longer",
    )
}

/// The thread of the session has ended.
pub(super) fn session_closed() -> Error {
    Error::new(ErrorKind::Closed, "the session is closed")
}

/// The process that opened a database first; 0 before there is one.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Fails in the child of a process that had forked with a database open: what SQLite knows of locks in its memory is
/// the parent's, and so are the threads of sessions.
pub(super) fn check_process() -> Result<()> {
    let own = std::process::id();
    match PROCESS.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
        Err(found) if found != own => Err(Error::new(
            ErrorKind::Closed,
            "the process was forked from one that had opened a database",
        )
        .hint("open the bus in the parent only, or in a program that the child executes")),
        _ => Ok(()),
    }
}

/// What stands in a table is not what we put there.
pub(super) fn foreign(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Conflict, format!("{what}"))
        .hint("a newer version of Busline, or another program, wrote it")
}
