//! Chance that can be repeated.
#![allow(clippy::print_stdout)] // a seed is said aloud

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A seed of the environment, or a fresh one; printed, so that a failure can be run again.
pub(crate) fn seed(test: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let fresh = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    let given = std::env::var("BUSLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(fresh);
    println!("{test}: BUSLINE_SEED={seed}");
    seed
}
