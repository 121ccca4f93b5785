//! A value as a file, and several changes as one.
//!
//! ```text
//! record   "BLV1"  crc u32  expires i64  key length u32  key  value        little endian; the crc is of all after it
//! changes  crc u32  { length u32  record }*                                expires of the smallest number: gone
//! ```

use busline_core::Timestamp;
use bytes::Bytes;

const MAGIC: &[u8; 4] = b"BLV1";
const HEADER: usize = 20;

/// One value with its key and the time at which it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) value: Bytes,
    /// `None` says that the key is to be removed.
    pub(super) expires: Option<Timestamp>,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let expires = self.expires.map_or(i64::MIN, Timestamp::unix_us);
        // Nobody can give a key of four gigabytes to a command line or a broker; it would not be read back.
        let key_length = u32::try_from(self.key.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + self.key.len() + self.value.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&expires.to_le_bytes());
        bytes.extend_from_slice(&key_length.to_le_bytes());
        bytes.extend_from_slice(self.key.as_bytes());
        bytes.extend_from_slice(&self.value);
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when it is not whole, as after a loss of power.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (crc, checked) = rest.split_first_chunk::<4>()?;
        if magic != MAGIC || u32::from_le_bytes(*crc) != crc32fast::hash(checked) {
            return None;
        }
        let (expires, rest) = checked.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let expires = i64::from_le_bytes(*expires);
        Some(Self {
            key: String::from_utf8(key.to_vec()).ok()?,
            value: bytes.slice_ref(value),
            expires: (expires != i64::MIN).then(|| Timestamp::from_unix_us(expires)),
        })
    }
}

pub(super) fn encode_all(records: &[Record]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for record in records {
        let record = record.encode();
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&record);
    }
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `None` when they are not whole: then none of them happened.
pub(super) fn decode_all(bytes: &Bytes) -> Option<Vec<Record>> {
    let (crc, mut rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != crc32fast::hash(rest) {
        return None;
    }
    let mut records = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        records.push(Record::decode(&bytes.slice_ref(record))?);
        rest = after;
    }
    rest.is_empty().then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, expires: Option<i64>) -> Record {
        let expires = expires.map(Timestamp::from_unix_us);
        Record { key: key.to_owned(), value: Bytes::from_static(b"value"), expires }
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let records = vec![record("", Some(-1)), record("schlüssel", Some(7)), record("k", None)];
        for whole in &records {
            let bytes = Bytes::from(whole.encode());
            assert_eq!(Record::decode(&bytes).as_ref(), Some(whole));
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes.slice(..cut)), None, "cut at {cut}");
            }
        }
        let bytes = encode_all(&records);
        assert_eq!(decode_all(&bytes.clone().into()), Some(records));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode_all(&damaged.into()), None, "flipped at {at}");
            assert_eq!(decode_all(&Bytes::copy_from_slice(&bytes[..at])), None, "cut at {at}");
        }
        assert_eq!(decode_all(&encode_all(&[]).into()), Some(Vec::new()));
    }
}
