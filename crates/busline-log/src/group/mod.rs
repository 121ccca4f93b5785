//! Durable named consumers of a log: who holds which record, how often it was tried, what is settled.
//!
//! A group is a cursor over a log with the state of every record below it that is not settled. Its
//! own log lies in the main log's directory under `groups/`, one record a transaction; whoever
//! changes the group holds that log's append guard, so that members in several processes agree.
//! A [`Member`] claims records under a lease, settles them through its [`Group`], and takes over
//! what dead members held; it is alive as long as it holds its lock file.
//!
//! Records are promised at least once: a record below the cursor is unsettled until a member
//! settles it. After a loss of power a group may stand before where it was, never after.

mod check;
mod claim;
mod directory;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod handle;
mod info;
mod journal;
mod member;
mod names;
mod op;
mod reserve;
mod runs;
mod settle;
mod shared;
mod snapshot;
mod state;
mod time;
mod wire;

#[cfg(test)]
mod tests;

pub use check::verify_group;
pub use claim::{ClaimOutcome, ClaimRequest, Claimed, Filter, OrderBy};
pub use directory::DeleteIf;
pub(crate) use handle::is_journal_label;
pub use handle::{Config, Declared, Group, GroupOptions, GroupSpec};
pub use info::{GroupInfo, MemberInfo, Peeked, Unsettled};
pub use member::Member;
pub use op::Lifetime;
pub use runs::SeqRange;
pub use settle::{ClaimId, Lost, Settle, Settlement};
pub use state::Counters;
pub use time::Now;
