//! Counting: how much there is.

use crate::error::Result;
use crate::log::{Log, retain};

/// The size of a log at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The first record that is there.
    pub first_seq: u64,
    /// What the next record gets.
    pub next_seq: u64,
    /// Every record below this is on the medium.
    pub durable_seq: u64,
    /// How many records are there; gaps are not counted.
    pub records: u64,
    /// The bytes of all segments.
    pub bytes: u64,
    /// How many segments.
    pub segments: u64,
    /// The time of the newest record in unix microseconds; 0 when there never was one.
    pub last_time_us: i64,
}

impl Log {
    /// Counts segments and bytes. Costs one look at each segment's file.
    pub fn stats(&self) -> Result<Stats> {
        self.inner.check_open("count a log")?;
        let table = self.inner.table()?;
        let bytes =
            table.segments.iter().map(|info| retain::size(self, info)).sum::<Result<u64>>()?;
        let (first_seq, next_seq) = (self.first_seq(), self.next_seq());
        Ok(Stats {
            first_seq,
            next_seq,
            durable_seq: self.durable_seq(),
            records: table.count(first_seq, next_seq, next_seq),
            bytes,
            segments: table.segments.len() as u64,
            last_time_us: self.last_time_us(),
        })
    }

    /// How many records there are in `from..to`; gaps and what was removed are not counted.
    pub fn count_between(&self, from: u64, to: u64) -> Result<u64> {
        let tail = self.next_seq();
        let table = self.inner.table()?;
        Ok(table.count(from.max(self.first_seq()), to, tail))
    }
}
