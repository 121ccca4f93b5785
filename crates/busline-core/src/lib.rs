//! The port of Busline: messages, deliveries, transports and what they promise.
//!
//! This crate opens no socket and no file. It is for those who write a transport; programs use the
//! crate `busline`, which re-exports what they need of it.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod capability;
pub mod clock;
pub mod codec;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dead;
pub mod delivery;
pub mod error;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod gate;
pub mod headers;
pub mod key;
pub mod limits;
pub mod link;
pub mod memory;
pub mod message;
pub mod name;
pub mod offset;
pub mod receipt;
pub mod store;
pub mod time;
pub mod transport;

pub use backoff::Backoff;
pub use capability::{Capabilities, Capability, Durability, Lease, OrderScope, Support};
pub use clock::{Clock, ManualClock, SystemClock};
pub use codec::Codec;
pub use delivery::{Attempt, Delivery, Outcome, Record, Settled};
pub use error::{Error, ErrorKind, Result};
pub use headers::{HeaderValue, Headers};
pub use key::{Key, KeyPattern, Patterns};
pub use limits::Limits;
pub use message::{Message, Native, Properties, RareProperties, new_message_id};
pub use name::{GroupName, Topic};
pub use offset::{Offset, Position};
pub use receipt::{PendingReceipt, PublishError, Published, Receipt};
pub use time::Timestamp;
