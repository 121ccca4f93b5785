//! The table of a Hermes message bus, for log work: `sqlite:./bus.sqlite?layout=hermes`.
//!
//! | port | here |
//! |---|---|
//! | topic | the table `hermesmessages`, the only one; `?topic=` gives it another name for this program |
//! | offset | 0 as shard, `msgid` as number |
//! | key | the `evcategory` of the event's JSON; null is no key |
//! | payload | the JSON text as it is, neither decoded nor changed |
//! | time | `timestamp`, seconds as REAL; a message with a `timestamp` of its own brings it along |
//! | headers, properties, groups | refused: the table has no place for them |
//!
//! The table has the very form that Hermes' producer makes. Nothing is asked of the file: no write-ahead log, no
//! index, no pragma that stays. Transactions are short: a look reads at most a chunk, and nothing is kept open while
//! anybody waits; one INSERT transaction takes what waits, at most 256 events. While Hermes' producer purges and
//! VACUUMs, others are waited for up to `busy` (5 s, as Hermes' own plugins do), then it is a temporary error.
//!
//! What was written in the same process is seen at once, what another process wrote within `poll` (20 ms). A consumer
//! may be there before the file is. A row that is no event of a bus (a BLOB, a number, a time in milliseconds) is an
//! error that names its offset, and reading goes on behind it. Where retention removed what a reader had not read,
//! that is an error which names the oldest row there is.
//!
//! A topic declared with an age keeps its rows for that long: older ones are removed when it is declared and every ten
//! minutes while something is published. The file is never VACUUMed: its free room is used again.

mod category;
mod log;
mod read;
mod table;
mod worker;

use std::sync::Arc;

use busline_core::transport::{Connect, Session};
use busline_core::{Capabilities, Capability, Clock, Limits, Result, Support};

use super::config::SqliteConfig;

pub use category::{Malformed, category};

/// The name of the only table.
pub const TABLE: &str = "hermesmessages";

const WAY_OUT: &str = "leave layout=hermes out for a bus of our own, or use file:";

/// What a session on the table promises.
pub(super) fn profile(config: &SqliteConfig) -> Capabilities {
    let limits = Limits::default();
    let mut profile = Capabilities::none("sqlite, hermes", config.durability(), limits);
    for capability in Capability::ALL {
        profile = profile.set(*capability, Support::Refused(WAY_OUT));
    }
    let emulated = Support::Emulated;
    let native = [
        Capability::DurableReceipt,
        Capability::Order,
        Capability::Replay,
        Capability::ReceiptOffset,
        Capability::Close,
        Capability::Limits,
    ];
    for capability in native {
        profile = profile.set(capability, Support::Native);
    }
    profile
        .set(
            Capability::Filter,
            emulated("the category is read out of each event, there is no index"),
        )
        .set(Capability::Reconnect, emulated("there is no connection that could be lost"))
        .set(Capability::ConfirmGate, emulated("in the port, the same everywhere"))
        .set(Capability::Admin, emulated("the table is listed; it has no groups, and stays"))
}

/// Opens a session. Blocking.
pub(super) fn open(
    config: &SqliteConfig,
    clock: &Arc<dyn Clock>,
    connect: &Connect,
) -> Result<Arc<dyn Session>> {
    Ok(Arc::new(log::HermesSession::open(config, profile(config), clock, connect)?))
}
