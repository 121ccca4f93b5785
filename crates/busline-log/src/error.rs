//! The one error of the crate: a kind for programs, an operation, context and a source for people.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What every fallible call of the crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The medium is full, or a quota or file size limit was met; nothing became visible.
    Full,
    /// Bytes below the tail are not what was written; [`Error::damage`] says where.
    Damaged,
    /// An fsync failed earlier; writes are refused until the log is repaired.
    Poisoned,
    /// The position was removed by retention.
    Removed {
        /// The first sequence number that is still there.
        first: u64,
    },
    /// The position is beyond the tail.
    Beyond {
        /// The sequence number that the next record will get.
        tail: u64,
    },
    /// There is no log at this place.
    NotFound,
    /// The log was written in a newer format than this program knows.
    Newer,
    /// The log, or the medium, may only be read.
    ReadOnly,
    /// The handle was made by the parent of this forked process.
    Forked,
    /// A bound was passed: record, key, frame, or number of doorbells.
    Limit,
    /// There is already something else here.
    Conflict,
    /// Others use the log, so it cannot be had alone.
    Busy,
    /// The handle was closed.
    Closed,
    /// A claim is no longer owned by this member.
    Lost,
    /// The directory holds something that is no log.
    Foreign,
    /// The directory is on a network file system, where locks and shared memory do not hold.
    Remote,
    /// Any other error of the medium.
    Io,
}

/// Where a log is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file of the segment.
    pub path: PathBuf,
    /// The sequence number with which the segment begins.
    pub segment_base: u64,
    /// The first damaged byte of the file.
    pub offset_start: u64,
    /// The end of the damaged bytes; the length of the file when nothing valid follows.
    pub offset_end: u64,
    /// The first sequence number that cannot be read.
    pub seq_start: u64,
    /// The first sequence number that can be read again, where it is known.
    pub seq_end: Option<u64>,
    /// What is wrong with the bytes.
    pub cause: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is damaged from byte {} to {} (records {} to ",
            self.path.display(),
            self.offset_start,
            self.offset_end,
            self.seq_start
        )?;
        match self.seq_end {
            Some(end) => write!(f, "{}", end.saturating_sub(1))?,
            None => f.write_str("the end")?,
        }
        write!(f, "): {}", self.cause)
    }
}

/// The error of the crate.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    context: Vec<(&'static str, String)>,
    damage: Option<Damage>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, in an operation; the message says what was wrong and what to do.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        let inner = Inner {
            kind,
            operation,
            message: message.into(),
            context: Vec::new(),
            damage: None,
            source: None,
        };
        Self { inner: Box::new(inner) }
    }

    /// An error of the medium at a path; its kind follows from the system's error.
    pub fn io(operation: &'static str, path: &Path, error: io::Error) -> Self {
        let kind = io_kind(&error);
        let message = match kind {
            ErrorKind::Full => {
                "there is no space left; free some or raise the limit, then try again"
            }
            ErrorKind::ReadOnly => {
                "the place may not be written; check its mount and the permissions, or open it read-only"
            }
            ErrorKind::NotFound => "there is nothing here",
            _ if is_out_of_files(&error) => {
                "as many files are open as may be; raise the limit ('ulimit -n', LimitNOFILE of systemd), \
                 or use fewer logs at once"
            }
            _ if is_other_kind(&error) => {
                "a file stands where a directory should, or the other way round; move it away, or restore it"
            }
            _ => "the medium reported an error",
        };
        Self::new(kind, operation, message).with("path", path.display()).caused_by(error)
    }

    pub(crate) fn damaged(operation: &'static str, damage: Damage) -> Self {
        let mut error = Self::new(ErrorKind::Damaged, operation, damage.to_string());
        error.inner.damage = Some(damage);
        error
    }

    /// Adds a fact about where it happened.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.inner.context.push((name, value.to_string()));
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What went wrong, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.inner.operation
    }

    /// Where the log is damaged, when it is.
    pub fn damage(&self) -> Option<&Damage> {
        self.inner.damage.as_ref()
    }

    /// Whether it failed because no more files may be open; closing other logs makes room.
    pub fn is_out_of_files(&self) -> bool {
        let source = self.inner.source.as_ref().and_then(|source| source.downcast_ref());
        source.is_some_and(is_out_of_files)
    }

    /// Whether the same call may succeed later without anybody mending the log.
    pub fn is_temporary(&self) -> bool {
        matches!(self.inner.kind, ErrorKind::Full | ErrorKind::Busy)
    }
}

/// This process has all the files open that it may, or the system has.
fn is_out_of_files(error: &io::Error) -> bool {
    /// EMFILE and ENFILE, the same on every system that has files by number.
    const CODES: [i32; 2] = [24, 23];
    cfg!(unix) && error.raw_os_error().is_some_and(|code| CODES.contains(&code))
}

fn is_other_kind(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::IsADirectory | K::NotADirectory | K::AlreadyExists)
}

fn io_kind(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge => ErrorKind::Full,
        K::ReadOnlyFilesystem | K::PermissionDenied => ErrorKind::ReadOnly,
        K::NotFound => ErrorKind::NotFound,
        K::AlreadyExists => ErrorKind::Conflict,
        _ => ErrorKind::Io,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.inner.operation, self.inner.message)?;
        for (i, (name, value)) in self.inner.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.inner.context.is_empty() {
            f.write_str(")")?;
        }
        match &self.inner.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}] {self}", self.inner.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_medium_gets_the_kind_a_caller_can_act_on() {
        let check = |raw: io::ErrorKind, kind: ErrorKind, temporary: bool| {
            let e = Error::io("append", Path::new("x/y"), io::Error::from(raw));
            assert_eq!((e.kind(), e.is_temporary()), (kind, temporary));
        };
        check(io::ErrorKind::StorageFull, ErrorKind::Full, true);
        check(io::ErrorKind::QuotaExceeded, ErrorKind::Full, true);
        check(io::ErrorKind::FileTooLarge, ErrorKind::Full, true);
        check(io::ErrorKind::ReadOnlyFilesystem, ErrorKind::ReadOnly, false);
        check(io::ErrorKind::NotFound, ErrorKind::NotFound, false);
        check(io::ErrorKind::TimedOut, ErrorKind::Io, false);
    }

    #[test]
    fn the_text_names_operation_place_and_cause() {
        let e = Error::io("append", Path::new("bus/x.seg"), io::Error::other("boom"));
        assert_eq!(e.to_string(), "append: the medium reported an error (path=bus/x.seg): boom");
        assert!(e.source().is_some());
    }
}
