//! Looking at every byte of a log, and mending what can be mended.

mod repair;
mod survey;
#[cfg(test)]
mod tests;
mod verify;

pub use repair::{RepairReport, repair};
pub use verify::{SegmentReport, SegmentState, VerifyReport, verify};
