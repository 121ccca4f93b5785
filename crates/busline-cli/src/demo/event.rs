//! What the processes of the demo tell the one that started them, one JSON line each.

use serde::{Deserialize, Serialize};

/// Something that happened in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// It has subscribed: from here on it misses nothing.
    Ready,
    /// So many messages are published, and their receipts are in.
    Published {
        /// All so far.
        stored: u64,
    },
    /// It holds so many deliveries that are not settled.
    Holding {
        /// At this moment.
        deliveries: u64,
    },
    /// So many deliveries are settled, and the settles are committed.
    Settled {
        /// All so far.
        deliveries: u64,
        /// Of these, deliveries that were not the first of their message.
        redelivered: u64,
    },
    /// So many messages went by.
    Seen {
        /// All so far.
        deliveries: u64,
    },
}

/// Tells a process that holds deliveries to settle them.
pub(super) const GO: &str = "go";
