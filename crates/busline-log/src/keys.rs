//! A set of keys to look for: whole keys, byte for byte.

use crate::frame::{Filter, KeyHash};

/// Keys to look for with [`crate::Scanner::next_of`]: whole keys, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    /// In the order of their hashes.
    keys: Vec<(KeyHash, Box<[u8]>)>,
    /// For each key a bit by its hash: most other keys are told by it at once.
    bits: u64,
}

impl KeySet {
    /// A set of these keys; the empty key stands for records without one.
    pub fn new(keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let hashed = |key: &[u8]| (KeyHash::of(key), Box::from(key));
        let mut keys: Vec<_> = keys.into_iter().map(|key| hashed(key.as_ref())).collect();
        keys.sort_unstable();
        keys.dedup();
        let bits = keys.iter().fold(0, |bits, (hash, _)| bits | bit(*hash));
        Self { keys, bits }
    }

    /// Whether a key is one of them.
    #[inline]
    pub fn contains(&self, key: &[u8]) -> bool {
        if let [(_, only)] = self.keys.as_slice() {
            // Another key differs in its length or its first bytes mostly: that is cheaper than a hash.
            return **only == *key;
        }
        let hash = KeyHash::of(key);
        if self.bits & bit(hash) == 0 {
            return false;
        }
        let from = self.keys.partition_point(|(other, _)| *other < hash);
        let same = self.keys.iter().skip(from).take_while(|(other, _)| *other == hash);
        same.into_iter().any(|(_, other)| **other == *key)
    }

    /// Whether a frame with this filter may hold a record with one of them.
    pub(crate) fn may_be_in(&self, filter: Filter<'_>) -> bool {
        self.keys.iter().any(|(hash, _)| filter.may_hold(*hash))
    }
}

fn bit(hash: KeyHash) -> u64 {
    1 << (hash.0 >> 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_byte_for_byte() {
        let names: Vec<_> = (0..300).map(|n| format!("key.{n}")).collect();
        let set = KeySet::new(names.iter().chain(&names));
        assert_eq!(set.keys.len(), 300);
        assert!(names.iter().all(|name| set.contains(name.as_bytes())));
        for other in ["", "key", "key.", "key.300", "key.1 ", "KEY.1"] {
            assert!(!set.contains(other.as_bytes()), "{other}");
        }
        let none = KeySet::new([""; 0]);
        assert!(!none.contains(b""));
        assert!(KeySet::new([""]).contains(b""));
    }
}
