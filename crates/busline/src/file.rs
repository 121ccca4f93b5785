//! Tools for the files of the embedded log.

pub use busline_transports::file::{
    FileConfig, Finding, FindingKind, RepairedLog, Sync, VerifiedLog, repair, verify,
};
