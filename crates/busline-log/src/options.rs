//! How a log is opened, and what opening it found.

use std::time::Duration;

use crate::error::Damage;

/// What [`crate::Log::commit`] waits for. A log may be used with different modes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// Until the records are on the medium: they survive a loss of power.
    #[default]
    Always,
    /// For nothing; the owner of the handle calls [`crate::Log::sync`] this often. Records survive the death
    /// of every process at once, and a loss of power up to the interval.
    Interval(Duration),
    /// For nothing; the operating system writes when it likes, and `close` syncs.
    Os,
}

/// Whether a log may be written through a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Reading and writing, together with other processes.
    #[default]
    ReadWrite,
    /// Reading what is there at the moment of opening, without writing a byte: for read-only media and
    /// directories of others. Records appended later are not seen.
    ReadOnly,
}

/// How a log is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment that would grow beyond this is sealed and a new one begun, in bytes (64 MiB).
    pub segment_bytes: u64,
    /// A segment older than this is sealed at the next append (never).
    pub segment_age: Option<Duration>,
    /// The longest record (key, meta and value together), in bytes (16 MiB; at most 32 MiB).
    pub record_bytes_max: usize,
    /// What `commit` waits for.
    pub sync: SyncMode,
    /// Opens a log on a network file system although its locks and shared memory may not hold there.
    pub allow_remote: bool,
    /// Whether the log may be written.
    pub access: Access,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segment_age: None,
            record_bytes_max: 16 << 20,
            sync: SyncMode::Always,
            allow_remote: false,
            access: Access::ReadWrite,
        }
    }
}

/// What was cut off when a log was opened after a crash: bytes that no receipt was given for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The segment, by its first sequence number.
    pub segment_base: u64,
    /// Where the cut was made, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes were cut, those of later segments included.
    pub bytes: u64,
    /// How many later segments were removed with it.
    pub segments: u64,
    /// The sequence number of the first record that was cut.
    pub seq: u64,
    /// Why the bytes there are no frame.
    pub cause: String,
}

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The log was made by this call.
    pub created: bool,
    /// The control page was believed: others have it open, or had since this machine was started.
    pub trusted: bool,
    /// The last one had closed it cleanly.
    pub clean: bool,
    /// A torn tail was cut.
    pub cut: Option<Cut>,
    /// The middle is damaged: reading works around it knowingly, writing is refused until a repair.
    pub damage: Option<Damage>,
    /// New records begin here, apart from what was lost with the power and may have been seen.
    pub jumped_to: Option<u64>,
}
