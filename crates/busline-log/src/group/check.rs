//! Reading a group's own log to its end without joining the group: whether it still tells a state.

use std::path::Path;
use std::sync::Arc;

use crate::files::Format;
use crate::storage::Storage;
use crate::{Access, Error, ErrorKind, Log, Options, Result};

use super::handle::is_journal_label;
use super::journal::Core;

/// Reads the log of a group from its newest snapshot on and applies all of it. [`crate::verify`] says whether
/// the frames are sound, this whether they still tell a state: after records were dropped they may not. Changes
/// nothing; the group may be in use. True for the log of a group, false for any other log, which is not read.
///
/// # Errors
/// `Damaged` when no state can be made of it: then only deleting the group helps. `Newer` when it holds what this
/// version does not know. Those of opening a log.
pub fn verify_group(storage: &Arc<dyn Storage>, dir: &Path) -> Result<bool> {
    // Told before it is opened, which may read much of a log that is none.
    match Format::load(storage.as_ref(), dir) {
        Ok(format) if !is_journal_label(&format.label) => return Ok(false),
        _ => {}
    }
    let options = Options { access: Access::ReadOnly, allow_remote: true, ..Options::default() };
    let journal = match Log::open(Arc::clone(storage), dir, &options, 0) {
        // What keeps it from being opened is what `verify` reports.
        Err(error) if error.kind() == ErrorKind::Damaged => return Ok(false),
        opened => opened?,
    };
    if !is_journal_label(journal.label()) {
        return Ok(false);
    }
    let mut core = Core::new(&journal);
    match core.refresh(&journal) {
        // Compacted or deleted meanwhile, by somebody who could read it.
        Err(error) if is_gone(&error) => Ok(true),
        outcome => outcome.map(|()| true).map_err(|error| error.with("log", dir.display())),
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Removed { .. } | ErrorKind::Busy)
}
