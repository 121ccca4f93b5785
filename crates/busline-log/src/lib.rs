//! An embedded durable log that many processes share: segments, groups, recovery.
//!
//! A [`Log`] is a directory. Every process that opens it may append ([`Appender`]) and read
//! ([`Scanner`]); records are key, meta and value bytes with a time, numbered one by one. Records are
//! visible to all when they are appended and durable after [`Log::commit`]. A process that dies at any
//! instruction leaves nothing that the next cannot repair.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use busline_log::{KeySet, Log, Options, storage::MemStorage};
//!
//! # fn main() -> busline_log::Result<()> {
//! let storage = Arc::new(MemStorage::new()); // `FsStorage` for a directory on disk
//! let log = Log::open_or_create(storage, Path::new("/orders"), b"", &Options::default(), 1_000)?;
//!
//! let mut appender = log.appender();
//! appender.push(b"order.created", b"", b"17")?;
//! appender.push(b"order.paid", b"", b"17")?;
//! let appended = appender.flush(2_000)?.expect("something was pushed");
//! log.commit(appended.next)?; // on the medium
//!
//! let mut scanner = log.scanner();
//! let paid = scanner.next_of(&KeySet::new(["order.paid"]), u64::MAX)?;
//! assert_eq!(paid.map(|record| record.seq), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! The crate starts no thread and no timer, reads no clock and knows nothing of messaging: no topics, no
//! patterns, no headers. `FORMAT.md` beside it gives the bytes on disk, the crash model and what is
//! assumed of the medium. It is no network service and no database: there is no update, and no index
//! by key but a filter in each large frame.

// Bytes of a medium are not trusted: nothing that they say may index, or lose bits, unchecked.
#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod bytes;
mod check;
#[cfg(test)]
mod compat;
mod control;
mod error;
mod files;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod group;
mod keys;
mod log;
mod options;
mod page;
mod scan;
mod segment;
pub mod storage;

pub use check::{RepairReport, SegmentReport, SegmentState, VerifyReport, repair, verify};
pub use error::{Damage, Error, ErrorKind, Result};
pub use files::LABEL_BYTES_MAX;
pub use frame::{BATCH_BYTES_TARGET, Batch, FRAME_BODY_MAX, KEY_BYTES_MAX};
pub use group::{
    ClaimId, ClaimOutcome, ClaimRequest, Claimed, Config, Counters, Declared, DeleteIf, Filter,
    Group, GroupInfo, GroupOptions, GroupSpec, Lifetime, Lost, Member, MemberInfo, Now, OrderBy,
    Peeked, SeqRange, Settle, Settlement, Unsettled, verify_group,
};
pub use keys::KeySet;
pub use log::{AppendGuard, Appended, Appender, Doorbell, Log, Mark, Removed, RetainPolicy, Stats};
pub use options::{Access, Cut, OpenReport, Options, SyncMode};
pub use scan::{Record, Scanner};
