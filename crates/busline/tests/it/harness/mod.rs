//! What the tests share: processes to command, an account of time, seeds, and buses to use.

pub(crate) mod fleet;
pub(crate) mod random;
pub(crate) mod wire;
pub(crate) mod worker;

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use busline::{Clock, Offset, SystemClock};

pub(crate) use fleet::Fleet;
pub(crate) use random::Random;
pub(crate) use wire::{Event, Task};

/// A wait that takes longer has hung. Generous: the machine may be busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Time since some point, of this process alone.
pub(crate) fn now() -> Duration {
    static CLOCK: LazyLock<std::sync::Arc<dyn Clock>> = LazyLock::new(SystemClock::shared);
    CLOCK.monotonic()
}

/// Whether the long form is asked for.
pub(crate) fn is_long() -> bool {
    std::env::var_os("BUSLINE_LONG").is_some_and(|value| value == "1")
}

/// The URL of the bus in a directory.
pub(crate) fn url(directory: &Path, options: &str) -> String {
    format!("file:{}/bus?{options}", directory.display())
}

/// The number of an offset of a topic with one shard.
pub(crate) fn number(offset: &Offset) -> u64 {
    offset.pairs().next().unwrap().1
}

/// A runtime as small as that of a command line tool.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
