//! The filter of a frame: which keys its records may have, in about ten bits a key.
//!
//! It is a Bloom filter in which all bits of a key lie in one small block, so that adding or asking for a
//! key touches one cache line (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom
//! Filters", WEA 2007; the block of two sectors is from Lang et al., "Performance-Optimal Filtering",
//! VLDB 2019). A key sets three bits in each of the two words of its block. `FORMAT.md` has the arithmetic.

use crate::bytes::{put, u32_at, u64_at};

/// The most blocks of a filter.
pub(crate) const BLOCKS_MAX: usize = 80;
/// The fewest that a batch makes: [`BLOCKS_MAX`] halved as often as that goes.
const BLOCKS_MIN: usize = BLOCKS_MAX >> BLOCKS_MAX.trailing_zeros();
/// A frame has no more than one block for this many bytes of its body: half a percent.
pub(crate) const BODY_BYTES_PER_BLOCK: usize = 3200;
/// The bytes before the blocks: their checksum.
const CRC_LEN: usize = 4;
const BLOCK_LEN: usize = 16;
/// The longest filter with its checksum, in bytes.
pub(crate) const FILTER_LEN_MAX: usize = filter_len(BLOCKS_MAX);

/// The length of a filter of so many blocks with its checksum, in bytes; 0 when there is none.
pub(crate) const fn filter_len(blocks: usize) -> usize {
    if blocks == 0 { 0 } else { CRC_LEN + blocks * BLOCK_LEN }
}

/// The most blocks that the filter of such a body may have.
pub(crate) fn blocks_max(body_len: usize) -> usize {
    BLOCKS_MAX.min(body_len / BODY_BYTES_PER_BLOCK)
}

/// What a filter knows of a key: its XXH3 hash of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of(key: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(key))
    }

    /// The block of the key among so many: a fraction of them, by the 28 highest bits.
    #[inline]
    fn block(self, blocks: usize) -> usize {
        // Below `blocks`, because the fraction is below 1.
        usize::try_from(((self.0 >> 36) * blocks as u64) >> 28).unwrap_or(0)
    }

    /// The bits of the key in each word of its block, by the 36 lowest bits.
    #[inline]
    fn bits(self) -> [u64; 2] {
        let bit = |shift: u32| 1u64 << ((self.0 >> shift) & 63);
        [bit(0) | bit(6) | bit(12), bit(18) | bit(24) | bit(30)]
    }
}

/// A filter as it lies in a frame, its checksum verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    blocks: &'a [[u8; BLOCK_LEN]],
}

impl<'a> Filter<'a> {
    /// That of a frame without one: every key may be there.
    pub(crate) const NONE: Filter<'static> = Filter { blocks: &[] };

    /// Reads a filter with its checksum, for the body with this checksum; `None` when it is damaged.
    pub(crate) fn decode(bytes: &'a [u8], body_crc: u32) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::NONE);
        }
        let blocks = bytes.get(CRC_LEN..)?;
        if u32_at(bytes, 0) != Some(crc_of(blocks, body_crc)) {
            return None;
        }
        let (blocks, rest) = blocks.as_chunks();
        rest.is_empty().then_some(Self { blocks })
    }

    /// Whether the frame has none.
    pub(crate) fn is_none(self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether a record with this key may be in the frame; false is certain.
    #[inline]
    pub(crate) fn may_hold(self, key: KeyHash) -> bool {
        let Some(block) = self.blocks.get(key.block(self.blocks.len())) else {
            return true;
        };
        let [low, high] = key.bits();
        let word = |at| u64_at(block, at).unwrap_or(u64::MAX);
        word(0) & low == low && word(8) & high == high
    }
}

/// Collects the keys of a batch.
#[derive(Debug)]
pub(super) struct FilterBuilder {
    blocks: Box<[[u64; 2]; BLOCKS_MAX]>,
}

impl FilterBuilder {
    pub(super) fn new() -> Self {
        Self { blocks: Box::new([[0; 2]; BLOCKS_MAX]) }
    }

    #[inline]
    pub(super) fn add(&mut self, key: KeyHash) {
        if let Some([low, high]) = self.blocks.get_mut(key.block(BLOCKS_MAX)) {
            let bits = key.bits();
            *low |= bits[0];
            *high |= bits[1];
        }
    }

    pub(super) fn clear(&mut self) {
        self.blocks.fill([0; 2]);
    }

    /// Writes the filter for a body, with its checksum, at the end of `room`; returns how many blocks it has.
    /// None when the body is too short for one, or has so many keys that it would tell little.
    pub(super) fn encode(&self, body_len: usize, body_crc: u32, room: &mut [u8]) -> u16 {
        let max = blocks_max(body_len);
        if max < BLOCKS_MIN {
            return 0;
        }
        let mut blocks = self.blocks.to_vec();
        let mut set = bits_of(&blocks);
        // Each two blocks joined are the filter of half as many: a key's block is a fraction of them all.
        while blocks.len() > max || (blocks.len() > BLOCKS_MIN && set <= bits_in(&blocks) / 8) {
            let joined = |[[a, b], [c, d]]: &[[u64; 2]; 2]| [a | c, b | d];
            blocks = blocks.as_chunks().0.iter().map(joined).collect();
            set = bits_of(&blocks);
        }
        if set > bits_in(&blocks) * 2 / 3 {
            return 0;
        }
        let len = filter_len(blocks.len());
        let Some(out) = room.len().checked_sub(len).and_then(|at| room.get_mut(at..)) else {
            return 0;
        };
        let (crc, out) = out.split_at_mut(CRC_LEN);
        for (word, out) in blocks.as_flattened().iter().zip(out.as_chunks_mut().0) {
            *out = word.to_le_bytes();
        }
        put(crc, 0, crc_of(out, body_crc).to_le_bytes());
        u16::try_from(blocks.len()).unwrap_or(0)
    }
}

fn bits_in(blocks: &[[u64; 2]]) -> usize {
    8 * BLOCK_LEN * blocks.len()
}

fn bits_of(blocks: &[[u64; 2]]) -> usize {
    blocks.as_flattened().iter().map(|word| word.count_ones() as usize).sum()
}

fn crc_of(blocks: &[u8], body_crc: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(body_crc);
    crc.update(blocks);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> KeyHash {
        KeyHash::of(format!("category.{number:07}").as_bytes())
    }

    /// The filter of so many keys beside a body of this length.
    fn encoded(keys: u64, body_len: usize) -> Vec<u8> {
        let mut builder = FilterBuilder::new();
        (0..keys).for_each(|number| builder.add(key(number)));
        let mut room = vec![0xee; FILTER_LEN_MAX + 9];
        let blocks = usize::from(builder.encode(body_len, 7, &mut room));
        room.split_off(room.len() - filter_len(blocks))
    }

    #[test]
    fn no_key_is_ever_missed_and_few_others_are_held_for_there() {
        // Keys, bytes of the body, blocks that come of it, and how many of 10,000 other keys may seem to be there.
        for (keys, body_len, blocks, wrong_max) in [
            (0, 100_000, 5, 0),
            (1, 16_000, 5, 1),
            (40, 1 << 20, 10, 10),
            (200, 256 << 10, 40, 10),
            (500, 256 << 10, 80, 30),
            (1000, 256 << 10, 80, 130),
            (1500, 256 << 10, 80, 600),
            (80, 32 << 10, 10, 40),
        ] {
            let bytes = encoded(keys, body_len);
            assert_eq!(bytes.len(), filter_len(blocks), "{keys} keys in {body_len} bytes");
            let filter = Filter::decode(&bytes, 7).unwrap();
            assert!((0..keys).all(|number| filter.may_hold(key(number))));
            let wrong = (1 << 20..).take(10_000).filter(|number| filter.may_hold(key(*number)));
            let wrong = wrong.count();
            assert!(wrong <= wrong_max, "{keys} keys in {body_len} bytes: {wrong}");
        }
    }

    #[test]
    fn where_a_filter_would_tell_little_there_is_none() {
        for (keys, body_len) in [(1, 15_999), (0, 0), (2200, 256 << 10), (200, 20_000)] {
            let bytes = encoded(keys, body_len);
            assert_eq!(bytes.len(), 0, "{keys} keys in {body_len} bytes");
            assert!(Filter::decode(&bytes, 7).unwrap().may_hold(key(5)));
        }
    }

    /// The bytes on disk, which other programs may read.
    #[test]
    fn a_known_answer() {
        // XXH3 of nothing and of "a", as its reference implementation has them.
        assert_eq!(KeyHash::of(b"").0, 0x2d06_8005_38d3_94c2);
        assert_eq!(KeyHash::of(b"a").0, 0xe6c6_32b6_1e96_4e1f);
        let mut builder = FilterBuilder::new();
        builder.add(KeyHash::of(b"a"));
        let mut room = vec![0; filter_len(BLOCKS_MIN)];
        assert_eq!(builder.encode(16_000, 7, &mut room), 5);
        // 0xe6c632b of 2^28 is in the last of five blocks; six bits each of 0x…b61e964e1f, from the lowest on,
        // are 31, 56, 37 and 37, 24, 30.
        let mut words = [0u64; 10];
        words[8] = 1 << 31 | 1 << 56 | 1 << 36;
        words[9] = 1 << 37 | 1 << 30 | 1 << 24;
        let blocks: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(room[CRC_LEN..], blocks);
        assert_eq!(room[..CRC_LEN], crc_of(&blocks, 7).to_le_bytes());
    }

    #[test]
    fn a_filter_that_is_not_whole_or_of_another_body_is_none() {
        let bytes = encoded(40, 30_000);
        assert!(Filter::decode(&bytes, 8).is_none());
        for at in 0..bytes.len() {
            assert!(Filter::decode(&bytes[..at], 7).is_none() || at == 0);
            let mut torn = bytes.clone();
            torn[at] ^= 0x10;
            assert!(Filter::decode(&torn, 7).is_none(), "byte {at}");
        }
    }
}
