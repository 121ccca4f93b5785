//! An embedded durable log that many processes share: segments, groups, recovery.

pub mod storage;
