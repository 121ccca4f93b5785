//! The log under measurement, through its public interface.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline_log::storage::{FsStorage, Storage};
use busline_log::{Access, Appended, Log, Options, SyncMode};

use crate::Result;
use crate::measure::{now_us, timed};
use crate::payload::{Count, Payload};

/// A frame is written when it has this many bytes: one write(2).
const FRAME_LEN: usize = busline_log::BATCH_BYTES_TARGET;

/// An error of the log in the words of this program.
pub(crate) fn failed(error: impl fmt::Display) -> String {
    error.to_string()
}

/// The file system.
pub(crate) fn storage() -> Arc<dyn Storage> {
    Arc::new(FsStorage::new())
}

/// Opens or creates a log with the default options but for the synchronisation.
pub(crate) fn open(dir: &Path, sync: SyncMode) -> Result<Log> {
    open_with(dir, &Options { sync, ..Options::default() })
}

/// Opens or creates a log.
pub(crate) fn open_with(dir: &Path, options: &Options) -> Result<Log> {
    Log::open_or_create(storage(), dir, b"bench", options, now_us()).map_err(failed)
}

/// Opens a log that is there, as a process that reads and writes does.
pub(crate) fn open_existing(dir: &Path) -> Result<Log> {
    let options = Options { access: Access::ReadWrite, ..Options::default() };
    Log::open(storage(), dir, &options, now_us()).map_err(failed)
}

/// Publishes messages in frames of the recommended size; visible, not synced, when it returns.
pub(crate) fn publish(log: &Log, numbers: Range<u64>, payload: &mut Payload) -> Result<()> {
    let mut appender = log.appender();
    let mut pending = 0;
    for number in numbers {
        let (key, body) = payload.message(number);
        appender.push(key, b"", body).map_err(failed)?;
        pending += key.len() + body.len();
        if pending >= FRAME_LEN {
            appender.flush(now_us()).map_err(failed)?;
            pending = 0;
        }
    }
    appender.flush(now_us()).map_err(failed)?;
    Ok(())
}

/// Publishes one message, visible when it returns.
pub(crate) fn publish_one(
    appender: &mut busline_log::Appender,
    number: u64,
    payload: &mut Payload,
) -> Result<Appended> {
    let (key, body) = payload.message(number);
    appender.append(now_us(), key, b"", body).map_err(failed)
}

/// Reads everything from the start and checks that each message came once.
pub(crate) fn read_all(log: &Log, messages: u64) -> Result<Duration> {
    let mut scanner = log.scanner();
    let mut count = Count::default();
    let (done, took) = timed(|| {
        while let Some(record) = scanner.next().map_err(failed)? {
            count.add(record.value);
        }
        Ok::<_, String>(())
    });
    done?;
    count.check(messages)?;
    Ok(took)
}
