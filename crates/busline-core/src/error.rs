//! The one error of the crate: a kind for programs, a sentence with context and a way out for people.

use std::fmt;
use std::sync::Arc;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The session is gone; another may be opened.
    Disconnected,
    /// The transport lacks the capability, for good.
    Refused,
    /// Something exists and differs from what was asked, or is not what was expected.
    Conflict,
    /// The broker or the file system does not let this user do it.
    Unauthorized,
    /// The named thing does not exist.
    NotFound,
    /// A bound is exceeded, or an argument cannot be what it claims.
    Limit,
    /// A wait ran out.
    Elapsed,
    /// No room is left; the same call may succeed later.
    Full,
    /// Stored data is not what was written.
    Damaged,
    /// The delivery belongs to somebody else by now.
    Lost,
    /// The object was closed or stopped before the call.
    Closed,
    /// Everything else.
    Other,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Disconnected | Self::Elapsed | Self::Full)
    }

    /// The exit code of the command line tool for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Lost | Self::Other => 1,
            Self::Limit | Self::NotFound => 2,
            Self::Elapsed => 3,
            Self::Disconnected | Self::Unauthorized | Self::Conflict | Self::Closed => 5,
            Self::Refused => 6,
            Self::Damaged => 7,
            Self::Full => 8,
        }
    }

    /// The kind as one lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not found",
            Self::Limit => "limit",
            Self::Elapsed => "elapsed",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::Lost => "lost",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// An error with its kind, the operation that failed, what was wrong, where, and what to do.
///
/// Cheap to clone: one failure may belong to a whole batch of receipts.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// An error of this kind; the message is a fact in the present tense, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            context: Vec::new(),
            hint: None,
            source: None,
        }))
    }

    /// A capability is missing: names it, the transport, and the way out.
    pub fn refused(capability: &str, transport: &str, way_out: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, format!("{transport} has no {capability}")).hint(way_out)
    }

    /// Names the operation that failed, in the words of the port ("publish", "subscribe").
    #[must_use]
    pub fn during(self, operation: &'static str) -> Self {
        self.with(|inner| {
            inner.operation.get_or_insert(operation);
        })
    }

    /// Adds one fact about where it happened. Never pass a secret.
    #[must_use]
    pub fn context(self, name: &'static str, value: impl fmt::Display) -> Self {
        self.with(|inner| inner.context.push((name, value.to_string())))
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        self.with(|inner| inner.hint = Some(hint.into()))
    }

    /// Keeps the cause.
    #[must_use]
    pub fn source(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Arc::new(source)))
    }

    /// The kind, for programs.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later; fixed by the kind.
    pub fn is_temporary(&self) -> bool {
        self.0.kind.is_temporary()
    }

    /// The way out, where there is one.
    pub fn way_out(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// What was wrong, without operation, context and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if let Some(operation) = inner.operation {
            write!(f, "{operation}: ")?;
        }
        f.write_str(&inner.message)?;
        for (index, (name, value)) in inner.context.iter().enumerate() {
            write!(f, "{}{name}: {value}", if index == 0 { " (" } else { ", " })?;
        }
        if !inner.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &inner.source {
            write!(f, ": {source}")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error[{}] {self}", self.0.kind.as_str())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// A value that is already parsed fits wherever one that must be parsed does.
impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_the_way_out() {
        let error = Error::new(ErrorKind::NotFound, "topic 'a' does not exist")
            .context("bus", "file:./bus")
            .hint("publish to it once, or declare it")
            .during("subscribe")
            .during("outer operations do not hide the inner one");
        assert_eq!(
            error.to_string(),
            "subscribe: topic 'a' does not exist (bus: file:./bus); publish to it once, or declare it"
        );
        assert!(!error.is_temporary());
        assert_eq!(error.kind().exit_code(), 2);
    }
}
