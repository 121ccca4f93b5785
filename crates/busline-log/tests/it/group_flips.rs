//! Every byte of a group's files changed, every file cut to every length: the group says that it is damaged, by name,
//! or goes on where it was or before; the log that it belongs to is never concerned.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use busline_log::storage::{MemStorage, OpenMode, Storage};
use busline_log::{
    ClaimRequest, Error, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime, Member, Now,
    SeqRange, Settle, Settlement, repair, verify, verify_group,
};

use crate::support::*;

const NAME: &str = "alerts";
const RECORDS: u64 = 12;
const LEASE_US: u64 = 1_000_000;

fn now(storage: &MemStorage, us: u64) -> Now {
    Now { wall_us: us.cast_signed(), boot_us: us, boot_id: storage.boot_id().unwrap() }
}

fn claim(member: &mut Member, max: usize, now: Now) -> Result<(Settle, Vec<u64>), Error> {
    let request = ClaimRequest {
        records_max: max,
        bytes_max: 1 << 20,
        first_may_exceed: true,
        lease_us: LEASE_US,
        filter: &|_, _| true,
        keys: None,
        order_by: None,
    };
    let mut seqs = Vec::new();
    let outcome = member.claim(&request, now, &mut |claimed, record| {
        assert_eq!(number(record.value), record.seq);
        seqs.push(claimed.seq);
    })?;
    let first = seqs.first().copied().unwrap_or(0);
    let how = Settlement::Ack;
    Ok((Settle { claim: outcome.claim, seqs: SeqRange::one(first), how }, seqs))
}

/// A log with a group that has seen some of everything.
struct Sample {
    storage: MemStorage,
    dir: PathBuf,
    /// What must be handed out whatever happens to the group's files.
    owed: BTreeSet<u64>,
}

impl Sample {
    fn new(left: usize, snapshot_bytes: u64) -> Self {
        let storage = MemStorage::new();
        let log = open(&storage);
        for number in 0..RECORDS {
            append(&log, number..number + 1).unwrap();
        }
        log.sync().unwrap();
        let at = now(&storage, 10);
        let spec = GroupSpec { name: NAME, config: b"all", start: 0, lifetime: Lifetime::Durable };
        let options = GroupOptions { snapshot_bytes, ..GroupOptions::default() };
        let group = Group::declare(&log, &spec, &options, at).unwrap().group;
        let (mut one, mut two) = (group.join(at).unwrap(), group.join(at).unwrap());
        let mut owed: BTreeSet<u64> = (0..RECORDS).collect();
        let mut settle = |settle: Settle, seq: u64, how: Settlement| {
            if how == Settlement::Ack {
                owed.remove(&seq);
            }
            let item = Settle { seqs: SeqRange::one(seq), how, ..settle };
            group.settle(&[item], at, &mut Vec::new()).unwrap();
            group.commit().unwrap();
        };
        for round in 0..3 {
            let (mine, seqs) = claim(&mut one, 2, at).unwrap();
            settle(mine, seqs[0], Settlement::Ack);
            let (theirs, others) = claim(&mut two, 1, at).unwrap();
            settle(theirs, others[0], Settlement::Ack);
            if round == 1 {
                settle(mine, seqs[1], Settlement::Park { delay_us: 500 });
            }
            group.set_config(format!("config {round}").as_bytes(), None, at).unwrap();
            one.accept_config().unwrap();
            two.accept_config().unwrap();
        }
        let names = storage.list(&Path::new(DIR).join("groups")).unwrap();
        let name = names.into_iter().find(|name| name.starts_with(NAME)).unwrap();
        let dir = Path::new(DIR).join("groups").join(name);
        match left {
            0 => {
                drop((one, two, group));
                log.close().unwrap();
                storage.crash(&mut |count| count - 1);
            }
            1 => storage.crash(&mut |count| count - 1),
            _ => storage.kill(),
        }
        Self { storage, dir, owed }
    }

    /// The group's files but the control page and what is empty, with their lengths; of the zeros that a segment
    /// has been given in advance only the first few count.
    fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.dir.clone()];
        while let Some(dir) = dirs.pop() {
            for name in self.storage.list(&dir).unwrap() {
                let path = dir.join(&name);
                match self.storage.list(&path) {
                    Ok(_) => dirs.push(path),
                    Err(_) if name == "control" => {}
                    Err(_) => found.push((path.clone(), self.used(&path))),
                }
            }
        }
        found
    }

    fn used(&self, path: &Path) -> u64 {
        let file = self.storage.open(path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 20);
        used.min(bytes.len()) as u64
    }

    /// What a new member is handed out when the claims of the others have ended; settles all of it.
    fn drain(&self, storage: &MemStorage) -> Result<BTreeSet<u64>, Error> {
        let log = open(storage);
        assert_eq!(values(&log), (0..RECORDS).collect::<Vec<_>>(), "the log is not concerned");
        let late = now(storage, 100_000_000);
        let group = Group::open(&log, NAME, &GroupOptions::default(), late)?;
        let mut member = group.join(late)?;
        let mut found = BTreeSet::new();
        loop {
            let (settle, seqs) = claim(&mut member, 100, late)?;
            if seqs.is_empty() {
                return Ok(found);
            }
            let items = seqs.iter().map(|seq| Settle { seqs: SeqRange::one(*seq), ..settle });
            group.settle(&items.collect::<Vec<_>>(), late, &mut Vec::new())?;
            found.extend(seqs);
            assert!(found.len() as u64 <= RECORDS);
        }
    }

    /// With `may_be_unborn` the whole log may look like a tail that was torn before anybody was told of the group.
    fn check(&self, broken: &MemStorage, may_be_unborn: bool, what: &str) {
        let told = |error: &Error| {
            let unborn = may_be_unborn && error.kind() == ErrorKind::NotFound;
            assert!(unborn || error.kind() == ErrorKind::Damaged, "{what}: {error}");
            assert!(error.to_string().contains(NAME), "{what}: {error}");
        };
        let shared: Arc<dyn Storage> = Arc::new(broken.clone());
        let report = verify(broken, &self.dir);
        match self.drain(&broken.snapshot()) {
            Ok(found) => assert!(found.is_superset(&self.owed), "{what}: {found:?}"),
            Err(error) => {
                told(&error);
                let found = report.is_err() || !report.unwrap().is_sound();
                let found = found || error.kind() == ErrorKind::NotFound;
                assert!(found || verify_group(&shared, &self.dir).is_err(), "{what}: {error}");
            }
        }
        if let Err(error) = repair(&shared, &self.dir, true, 9) {
            return told(&error);
        }
        assert!(verify(broken, &self.dir).unwrap().is_sound(), "{what}");
        match self.drain(broken) {
            Ok(found) => {
                assert!(found.is_superset(&self.owed), "{what}, repaired: {found:?}");
                verify_group(&shared, &self.dir).unwrap();
            }
            Err(error) => {
                told(&error);
                let unborn = error.kind() == ErrorKind::NotFound;
                assert_eq!(verify_group(&shared, &self.dir).is_ok(), unborn, "{what}: {error}");
            }
        }
    }
}

#[test]
fn a_group_whose_files_are_damaged_says_so_or_hands_out_all_that_it_owes() {
    let mut count = 0;
    let long = std::env::var_os("BUSLINE_LONG").is_some();
    // With few bytes the group's log is a snapshot and what came after, with many everything that ever happened.
    for (left, snapshot_bytes) in (0..3).flat_map(|left| [(left, 300), (left, 1 << 20)]) {
        let sample = Sample::new(left, snapshot_bytes);
        for (path, len) in sample.files() {
            let step = match path.file_name().and_then(|name| name.to_str()) {
                Some("reserve") => 8_191,
                _ if long => 1,
                _ if snapshot_bytes > 300 => 23,
                _ => 3,
            };
            // Each way of leaving the log begins at another byte.
            for at in (left as u64..len).step_by(step) {
                for cut in [false, true] {
                    let what = format!("{left}, {} byte {at}, cut: {cut}", path.display());
                    let broken = sample.storage.snapshot();
                    let file = broken.open(&path, OpenMode::ReadWrite).unwrap();
                    if cut {
                        file.truncate(at).unwrap();
                    } else {
                        let mut byte = [0];
                        file.read_at(&mut byte, at).unwrap();
                        file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at).unwrap();
                    }
                    file.sync_all().unwrap();
                    drop(file);
                    sample.check(&broken, cut && left == 1, &what);
                    count += 1;
                }
            }
        }
    }
    println!("{count} damaged files of groups");
}
