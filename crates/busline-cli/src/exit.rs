//! Exit codes: the table of the contract, in one place.

use std::io;
use std::process::ExitCode;

use busline::{Error, PublishError};

use crate::signal::Signal;

/// What a verb comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// The remote side answered with a fault, or a check found a problem.
pub(crate) const PROBLEM: u8 = 1;
/// Wrong usage, or a bound exceeded.
pub(crate) const USAGE: u8 = 2;
/// A wait ran out before what was asked for came.
pub(crate) const ELAPSED: u8 = 3;
/// A message came back: no group takes it.
pub(crate) const UNROUTABLE: u8 = 4;
/// Damaged data was found.
pub(crate) const DAMAGED: u8 = 7;
/// No room is left.
pub(crate) const FULL: u8 = 8;
/// As the shell reports a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// As the shell reports a program that SIGPIPE ended.
const PIPE: u8 = 141;

/// The table for the help.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    done; also after SIGTERM, which finishes cleanly
  1    the remote side answered with a fault, or a check found a problem
  2    wrong usage, or a bound exceeded
  3    a wait ran out before what was asked for came
  4    unroutable: no group takes the message
  5    the bus cannot be reached or may not be used
  6    refused: the transport lacks the capability
  7    damaged data found
  8    no room left
  130  SIGINT";

/// Why a verb did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// With an exit code and a sentence for people.
    Error {
        /// The exit code.
        code: u8,
        /// What was wrong, where, and what to do.
        message: String,
    },
    /// Nobody reads the output any more: no reason to say anything.
    Pipe,
    /// A signal came before anything was begun.
    Stopped,
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self::Error { code, message: message.into() }
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Error { code, .. } => *code,
            Self::Pipe => PIPE,
            Self::Stopped => 0,
        }
    }

    /// Says first where it happened or what was done by then.
    #[must_use]
    pub(crate) fn prefixed(self, what: &str) -> Self {
        match self {
            Self::Error { code, message } => Self::new(code, format!("{what}: {message}")),
            other => other,
        }
    }

    /// Adds what else is worth knowing.
    #[must_use]
    pub(crate) fn and(self, what: &str) -> Self {
        match self {
            Self::Error { code, message } => Self::new(code, format!("{message}; {what}")),
            other => other,
        }
    }

    /// An error about a file that the user named.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(code_of_io(error, USAGE), format!("{}: {error}", path.display()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.kind().exit_code(), error.to_string())
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::new(error.error().kind().exit_code(), error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// Of standard output, unless a function says better.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Pipe;
        }
        Self::new(code_of_io(&error, PROBLEM), format!("standard output: {error}"))
    }
}

fn code_of_io(error: &io::Error, otherwise: u8) -> u8 {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            FULL
        }
        _ => otherwise,
    }
}

/// Says what went wrong, on one line, and gives the code to exit with.
pub(crate) fn report(outcome: &Outcome, signal: Option<Signal>) -> ExitCode {
    let code = match outcome {
        Ok(()) => 0,
        Err(failure) => {
            if let Failure::Error { message, .. } = failure {
                crate::output::error(message);
            }
            failure.code()
        }
    };
    ExitCode::from(match signal {
        Some(Signal::Interrupt) => INTERRUPTED,
        // What was asked for need not have come when a clean end was asked for since.
        Some(Signal::Terminate) if code == ELAPSED => 0,
        _ => code,
    })
}

/// Ends at once, when finishing takes too long after a signal.
pub(crate) fn at_once(signal: Signal) -> ! {
    let code = match signal {
        Signal::Interrupt => INTERRUPTED,
        // It did not finish cleanly, which 0 would claim.
        Signal::Terminate => PROBLEM,
    };
    std::process::exit(code.into())
}
