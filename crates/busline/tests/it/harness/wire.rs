//! What workers are told to do, and what they report: one line of JSON each.

use serde::{Deserialize, Serialize};

/// The work of one process. `name` is its own, in messages and reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Publishes numbered messages until it is stopped, and reports the receipts.
    Publish { url: String, topic: String, name: String, seed: u64 },
    /// Consumes as a member of a group, settling at random.
    Consume { url: String, topic: String, group: String, seed: u64 },
    /// Consumes alone.
    Broadcast { url: String, topic: String },
    /// Reads the log from an offset on, and follows it.
    Follow { url: String, topic: String, from: Option<String> },
    /// Makes and deletes groups and topics.
    Churn { url: String, topic: String, name: String, seed: u64 },
    /// Takes deliveries, holds them until they are lost or it is told, then acks them.
    Hold { url: String, topic: String, group: String, lease_ms: u64, count: usize },
    /// Acks what comes, and says when: the payload is the time at which it was published.
    Time { url: String, topic: String, group: String },
    /// Publishes until it is stopped, also on a full disk.
    Fill { url: String, topic: String, name: String, seed: u64 },
    /// Acks what comes.
    Drain { url: String, topic: String, group: String },
    /// Forks with a bus in hand.
    Fork { url: String, topic: String },
    /// Runs a service until a signal stops it.
    Serve { url: String, service: String },
    /// Mounts a small disk on a directory, and commands the processes that fill it.
    FillDisk { directory: String },
}

/// What a member does with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Decision {
    Ack,
    /// Without an answer.
    Quiet,
    /// At the earliest after so many milliseconds; 0 is at once.
    Retry(u64),
    Drop,
    Reject,
}

/// A delivery as its member saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Got {
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    pub(crate) decision: Decision,
}

/// What an awaited settle came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settle {
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    pub(crate) decision: Decision,
    /// The kind of the error, where there was one.
    pub(crate) error: Option<String>,
}

/// A record as a reader or a broadcast saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saw {
    pub(crate) offset: u64,
    pub(crate) attempt: u32,
    /// The offset as text, to go on from.
    pub(crate) text: String,
    pub(crate) payload: String,
}

/// What a worker reports, flushed before it goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    /// It has opened everything; a broadcast gets what comes from this offset on at the latest.
    Ready {
        end: u64,
    },
    /// It is about to publish messages `first..first + count`.
    Trying {
        first: u64,
        count: u64,
    },
    /// Messages from `first` on have receipts, at these offsets.
    Stored {
        first: u64,
        offsets: Vec<u64>,
    },
    /// It got deliveries, and will settle them so.
    Took {
        got: Vec<Got>,
    },
    /// What it settled.
    Settled {
        settles: Vec<Settle>,
    },
    Saw {
        records: Vec<Saw>,
    },
    /// It was told that deliveries are lost: how many, and what acking them came to.
    Lost {
        told: usize,
        settles: Vec<Settle>,
    },
    /// A message was refused for want of room, after so long.
    Refused {
        index: u64,
        us: u64,
    },
    /// How a story that it commanded went.
    Told {
        what: String,
    },
    /// From publishing to receiving.
    Delay {
        us: u64,
    },
    /// Something failed that must not fail.
    Failed {
        what: String,
    },
    /// It is through with its work.
    Done,
}
