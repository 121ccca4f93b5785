//! The fuzz targets in small: the seeds that are checked in, and a bounded number of mutations of them.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/");
    let files = std::fs::read_dir(format!("{dir}{target}")).unwrap();
    let mut seeds: Vec<_> =
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    seeds.sort();
    assert!(seeds.len() > 2, "{target}");
    seeds
}

#[test]
fn seeds_do_no_harm() {
    for (target, run) in TARGETS {
        seeds(target).iter().for_each(|seed| run(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutations_of_seeds_do_no_harm(
        seed in any::<Index>(),
        other in any::<Index>(),
        edits in vec((any::<Index>(), 0..5_u8, any::<u8>()), 0..6),
    ) {
        for (target, run) in TARGETS {
            let seeds = seeds(target);
            let mut data = seed.get(&seeds).clone();
            for (at, edit, byte) in &edits {
                let at = at.index(data.len() + 1);
                match edit {
                    0 if at < data.len() => data[at] = *byte,
                    1 if at < data.len() => drop(data.remove(at)),
                    2 => data.insert(at, b".*#+-:@/?%=\n\"' 09a"[usize::from(*byte) % 18]),
                    3 => {
                        let part: Vec<u8> = other.get(&seeds).iter().copied().take(12).collect();
                        drop(data.splice(at..at, part));
                    }
                    _ => data.insert(at, *byte),
                }
            }
            run(&data);
        }
    }
}
