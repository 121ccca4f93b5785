//! Records that prove themselves: from its stream and number a record's whole content follows.

use std::collections::BTreeMap;

use busline_log::{Log, Record};

use crate::rng::Rng;

/// The value of a record: mostly short, now and then long, never to be mistaken for another's.
pub(crate) fn value_of(stream: &str, number: u64) -> Vec<u8> {
    let mut rng = Rng(u64::from(crc32(stream.as_bytes())) << 32 ^ number);
    let len = match rng.below(40) {
        0 => rng.below(60_000),
        1..=3 => 0,
        _ => rng.below(400),
    };
    let mut value = Vec::with_capacity(len as usize + 8);
    while (value.len() as u64) < len {
        value.extend_from_slice(&rng.next().to_le_bytes());
    }
    value
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Looks at records in the order of the log: every stream must be there from 0 on, in order, without gaps
/// and as it was written.
#[derive(Debug, Default)]
pub(crate) struct Auditor {
    /// A stream that is met for the first time may be in the middle.
    from_the_middle: bool,
    next: BTreeMap<String, u64>,
    last_seq: Option<u64>,
    pub(crate) count: u64,
}

impl Auditor {
    /// Of one who did not see the beginning.
    pub(crate) fn from_the_middle() -> Self {
        Self { from_the_middle: true, ..Self::default() }
    }

    pub(crate) fn look(&mut self, record: &Record<'_>) -> Result<(), String> {
        if self.last_seq.is_some_and(|last| record.seq <= last) {
            return Err(format!("seq {} came after {:?}", record.seq, self.last_seq));
        }
        self.last_seq = Some(record.seq);
        self.count += 1;
        let stream = std::str::from_utf8(record.key).map_err(|_| "a key is torn".to_owned())?;
        let number = <[u8; 8]>::try_from(record.meta).map_err(|_| "a meta is torn".to_owned())?;
        let number = u64::from_le_bytes(number);
        let first = if self.from_the_middle { number } else { 0 };
        let next = self.next.entry(stream.to_owned()).or_insert(first);
        if number != *next {
            return Err(format!("{stream}: number {number} at seq {}, not {next}", record.seq));
        }
        *next += 1;
        if record.value != value_of(stream, number) {
            return Err(format!("{stream}: number {number} has another value"));
        }
        Ok(())
    }

    /// How many records of a stream there are.
    pub(crate) fn len(&self, stream: &str) -> u64 {
        self.next.get(stream).copied().unwrap_or(0)
    }
}

/// Reads a whole log; the auditor, and the seq of each (stream, number).
pub(crate) fn audit(log: &Log) -> (Auditor, BTreeMap<(String, u64), u64>) {
    let mut auditor = Auditor::default();
    let mut places = BTreeMap::new();
    let mut scanner = log.scanner();
    while let Some(record) = scanner.next().expect("nothing is damaged") {
        auditor.look(&record).unwrap_or_else(|wrong| panic!("{wrong}"));
        let stream = String::from_utf8_lossy(record.key).into_owned();
        let number = auditor.len(&stream) - 1;
        places.insert((stream, number), record.seq);
    }
    (auditor, places)
}
