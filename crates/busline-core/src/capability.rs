//! What a transport promises, row by row: native, emulated or refused, never silently weakened.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::limits::Limits;

macro_rules! capabilities {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        /// One promise of the contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Capability {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Capability {
            /// Every promise, in the order of the matrix.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The promise in the words of the matrix.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// What it promises, in a sentence.
            pub fn statement(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

capabilities! {
    /// A receipt comes only after the durability configured holds.
    DurableReceipt = "durable receipt";
    /// One publisher's first copies reach a one-member group in order, within the order scope.
    Order = "order";
    /// Every group sees every matching message, one member of it gets each.
    Group = "group";
    /// A group that exists and differs from what is declared is a conflict, or made as declared when asked.
    Differences = "group differences";
    /// A subscription alone in its own temporary group: every instance gets every message.
    Broadcast = "broadcast";
    /// A member that dies has its unsettled deliveries given to others.
    Takeover = "takeover";
    /// What one member of a group has no room for goes to another, message by message.
    Sharing = "sharing";
    /// Key patterns select, with the same grammar everywhere.
    Filter = "filter";
    /// What was fetched and not handed out is given back without counting an attempt.
    GiveBack = "uncounted give back";
    /// Every property and header of a message, and its ordering key, arrive as they were sent.
    AllFields = "every field";
    /// Each delivery is settled by itself: acked, retried or rejected.
    Settle = "settle";
    /// A retry may wait for a given time.
    DelayedRetry = "delayed retry";
    /// A rejected message is kept unchanged with its origin, reason, attempts and time.
    DeadLetter = "dead letter";
    /// The number of the attempt is exact across restarts of any process.
    Attempt = "attempt";
    /// A member that holds a delivery too long loses it knowingly.
    Lease = "lease";
    /// Attempts are bounded; then the message is dead lettered.
    RetryLimit = "retry limit";
    /// Later messages of an ordering key wait for an earlier one that is retried.
    BlockingRetry = "blocking retry";
    /// Unsettled deliveries are bounded by count and bytes; a slow consumer costs no memory beyond.
    Flow = "flow";
    /// An incoming delivery is acked only after everything its handler published has its receipt.
    ConfirmGate = "confirm-gated ack";
    /// A mandatory message that matches no group declared at that moment comes back.
    Unroutable = "unroutable";
    /// A reader starts at any position, filters, follows, and waits at most the given time.
    Replay = "replay";
    /// A receipt names the place of its message in the log.
    ReceiptOffset = "offset in receipts";
    /// A new group starts at an earlier place of the log.
    GroupStart = "earlier start";
    /// A group continues where it was after every process of it has stopped.
    Resume = "resume";
    /// Publishers and consumers go on by themselves after the broker was away.
    Reconnect = "reconnect";
    /// Closing stops fetching, drains, flushes settles and receipts, then detaches.
    Close = "close";
    /// What exceeds a bound is a clear error before anything is sent.
    Limits = "limits";
    /// A message sent again with the same message id is stored once.
    Deduplication = "deduplication";
    /// Replies reach the very instance that asked.
    Requests = "requests";
    /// Topics and groups can be listed, purged and deleted.
    Admin = "admin";
    /// Unsettled messages, held ones too, can be looked at without anybody noticing.
    Peek = "unnoticed peek";
    /// A group can be moved to another place of the log.
    Reset = "reset";
    /// A group counts what it delivered, acked and rejected, and what waits.
    Counters = "counters";
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a promise is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The broker keeps it.
    Native,
    /// Library code keeps it; the text says how, and at what cost.
    Emulated(&'static str),
    /// It is not to be had here; the text is the way out.
    Refused(&'static str),
}

impl Support {
    /// Whether the promise is kept, one way or the other.
    pub fn is_kept(self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// One word for a table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Emulated(_) => "emulated",
            Self::Refused(_) => "refused",
        }
    }

    /// How it is emulated, or the way out when it is refused.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::Emulated(note) | Self::Refused(note) => Some(note),
        }
    }
}

/// What a receipt survives, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Memory,
    /// The death of every process of ours (the page cache holds it).
    Process,
    /// Loss of power (it is on the medium).
    Power,
    /// Loss of a machine.
    Replicated,
}

impl Durability {
    /// One lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Power => "power",
            Self::Replicated => "replicated",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far order reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderScope {
    /// The whole topic.
    Topic,
    /// Messages with the same ordering key.
    Key,
}

/// How long a member may hold a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// As long as its session lives.
    None,
    /// For this long unless renewed.
    Renewable(Duration),
    /// For this long, and no longer.
    Fixed(Duration),
}

/// The promises of one profile: a transport, a broker and a dialect together.
///
/// The same value decides what binds, which conformance cases run, and what the matrix shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// The profile's name, as the matrix heads its column.
    pub profile: String,
    /// What a receipt survives.
    pub durability: Durability,
    /// How far order reaches.
    pub order_scope: OrderScope,
    /// How long a member may hold a delivery.
    pub lease: Lease,
    /// The bounds on messages.
    pub limits: Limits,
    rows: Vec<Support>,
}

impl Capabilities {
    /// A profile that refuses everything; [`Capabilities::set`] adds what it keeps.
    pub fn none(profile: impl Into<String>, durability: Durability, limits: Limits) -> Self {
        Self {
            profile: profile.into(),
            durability,
            order_scope: OrderScope::Topic,
            lease: Lease::None,
            limits,
            rows: vec![Support::Refused("choose another transport"); Capability::ALL.len()],
        }
    }

    /// A profile that keeps every promise natively; [`Capabilities::set`] takes back.
    pub fn all(profile: impl Into<String>, durability: Durability, limits: Limits) -> Self {
        let mut all = Self::none(profile, durability, limits);
        all.rows.fill(Support::Native);
        all
    }

    /// Says how one promise is kept.
    #[must_use]
    pub fn set(mut self, capability: Capability, support: Support) -> Self {
        if let Some(row) = self.rows.get_mut(capability as usize) {
            *row = support;
        }
        self
    }

    /// How one promise is kept.
    pub fn get(&self, capability: Capability) -> Support {
        self.rows.get(capability as usize).copied().unwrap_or(Support::Refused("unknown promise"))
    }

    /// Fails with `Refused` unless the promise is kept; the error names the way out.
    pub fn require(&self, capability: Capability) -> Result<()> {
        match self.get(capability) {
            Support::Refused(way_out) => {
                Err(Error::refused(capability.as_str(), &self.profile, way_out))
            }
            _ => Ok(()),
        }
    }

    /// Fails with `Refused` unless receipts survive at least this.
    pub fn require_durability(&self, least: Durability) -> Result<()> {
        if self.durability >= least {
            return Ok(());
        }
        Err(Error::refused(
            &format!("durability '{least}'"),
            &self.profile,
            format!(
                "its receipts have durability '{}': configure or choose another",
                self.durability
            ),
        ))
    }

    /// Every promise with how it is kept, in the order of the matrix.
    pub fn iter(&self) -> impl Iterator<Item = (Capability, Support)> + '_ {
        Capability::ALL.iter().map(|capability| (*capability, self.get(*capability)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_capability_transport_and_way_out() {
        let profile = Capabilities::all("toy", Durability::Memory, Limits::default())
            .set(Capability::Replay, Support::Refused("use file:"));
        assert!(profile.require(Capability::Order).is_ok());
        let error = profile.require(Capability::Replay).unwrap_err();
        assert_eq!(error.to_string(), "toy has no replay; use file:");
        assert!(profile.require_durability(Durability::Power).is_err());
        assert_eq!(Capability::Order.statement().chars().last(), Some('.'));
    }
}
