//! The fuzz targets in small: the seeds that are checked in, and a bounded number of mutations of them.

use std::path::PathBuf;

use super::*;

/// How many mutations of seeds each target gets; the targets on whole directories cost far more.
fn rounds(target: &str) -> u64 {
    let long = if std::env::var_os("BUSLINE_LONG").is_some() { 50 } else { 1 };
    long * match target {
        "log_directory" | "log_control_page" | "log_group_journal" => 150,
        _ => 5_000,
    }
}

fn seed_files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut found = Vec::new();
    for entry in
        std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
        let path = entry.unwrap().path();
        found.push((path.clone(), std::fs::read(path).unwrap()));
    }
    found.sort();
    found
}

#[test]
fn every_target_has_its_seeds_checked_in() {
    for (target, _) in TARGETS {
        let mut expected = seeds(target);
        expected.sort();
        expected.dedup();
        let mut found: Vec<_> = seed_files(target).into_iter().map(|(_, bytes)| bytes).collect();
        found.sort();
        assert!(!expected.is_empty(), "{target}");
        for seed in expected {
            assert!(
                found.contains(&seed),
                "{target}: a seed is missing; run `cargo test -p busline-log -- --ignored write_seeds`"
            );
        }
    }
}

#[test]
#[ignore = "writes the seeds anew after a change of the format"]
fn write_seeds() {
    for (target, _) in TARGETS {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        std::fs::create_dir_all(&dir).unwrap();
        for (index, seed) in seeds(target).into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{index:03}")), seed).unwrap();
        }
    }
}

#[test]
fn seeds_and_their_mutations_do_no_harm() {
    // The same every time: what is found must be found again. The fuzzer is for finding new things.
    let mut random = Random(std::env::var("BUSLINE_SEED").map_or(7, |seed| seed.parse().unwrap()));
    for (target, run) in TARGETS {
        let seeds = seed_files(target);
        for (_, seed) in &seeds {
            run(seed);
        }
        for _ in 0..rounds(target) {
            let mut data = seeds[random.below(seeds.len())].1.clone();
            for _ in 0..=random.below(4) {
                random.mutate(&mut data);
            }
            let shown = data.clone();
            if std::panic::catch_unwind(|| run(&data)).is_err() {
                panic!("{target} fails on {shown:?}");
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn mutate(&mut self, data: &mut Vec<u8>) {
        let at = self.below(data.len() + 1);
        match self.below(7) {
            0 if at < data.len() => data[at] ^= 1 << self.below(8),
            1 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            2 => data.truncate(at),
            3 => data.insert(at, self.next() as u8),
            4 if at < data.len() => drop(data.remove(at)),
            5 => {
                let from = self.below(data.len() + 1);
                let part: Vec<u8> = data[from..].iter().take(12).copied().collect();
                data.splice(at..at, part);
            }
            _ => data.extend((0..self.below(12)).map(|_| self.0 as u8).collect::<Vec<_>>()),
        }
    }
}
