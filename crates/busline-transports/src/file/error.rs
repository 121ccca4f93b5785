//! From the errors of the log to the errors of the port.

use busline_core::{Error, ErrorKind};
use busline_log::ErrorKind as LogKind;

/// Keeps what the log says and adds the way out.
#[allow(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub(super) fn of_log(error: busline_log::Error) -> Error {
    let (kind, hint) = match error.kind() {
        LogKind::Full => (ErrorKind::Full, Some("free some space: publishers go on by themselves")),
        LogKind::Damaged => (
            ErrorKind::Damaged,
            Some(
                "'busline log verify DIR' says what is damaged, 'busline log repair DIR' mends it",
            ),
        ),
        LogKind::Poisoned => (
            ErrorKind::Damaged,
            Some("the medium failed to sync: stop all programs, then 'busline log repair DIR'"),
        ),
        LogKind::Removed { .. } => {
            (ErrorKind::NotFound, Some("retention removed it: start from earliest"))
        }
        LogKind::Beyond { .. } => {
            (ErrorKind::Limit, Some("nothing was written there yet: start from latest"))
        }
        LogKind::NotFound => (ErrorKind::NotFound, None),
        LogKind::Newer => {
            (ErrorKind::Conflict, Some("use the version of Busline that wrote it, or a newer one"))
        }
        LogKind::ReadOnly => (
            ErrorKind::Unauthorized,
            Some("give this user the right to write there, or use another directory"),
        ),
        LogKind::Remote => (
            ErrorKind::Refused,
            Some("use a local disk; allow_remote=true accepts the risk that locks do not work"),
        ),
        LogKind::Foreign | LogKind::Conflict | LogKind::Busy => (ErrorKind::Conflict, None),
        LogKind::Forked | LogKind::Closed => (ErrorKind::Closed, None),
        LogKind::Limit => (ErrorKind::Limit, None),
        LogKind::Lost => (ErrorKind::Lost, None),
        _ => (ErrorKind::Other, None),
    };
    let mapped = Error::new(kind, error.to_string());
    match hint {
        Some(hint) => mapped.hint(hint),
        None => mapped,
    }
}

/// An input or output error outside the logs.
pub(super) fn of_io(
    operation: &'static str,
    path: &std::path::Path,
    error: std::io::Error,
) -> Error {
    of_log(busline_log::Error::io(operation, path, error))
}

/// The error of a thread that is gone, which only a panic in it explains.
pub(super) fn worker_gone() -> Error {
    Error::new(ErrorKind::Closed, "the session is closed")
}
