//! Tests of the medium in memory: what is lost with the power, and what dies with a process.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn write(storage: &MemStorage, path: &str, bytes: &[u8]) -> Arc<dyn StorageFile> {
    let file = storage.open(Path::new(path), OpenMode::Create).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn read(storage: &MemStorage, path: &str) -> Option<Vec<u8>> {
    let file = match storage.open(Path::new(path), OpenMode::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        other => other.unwrap(),
    };
    let mut buf = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), buf.len());
    Some(buf)
}

fn sync_root(storage: &MemStorage) {
    storage.sync_dir(Path::new("/")).unwrap();
}

/// Every outcome there is, as the answers that lead to it.
fn all_crashes(storage: &MemStorage, mut check: impl FnMut(&MemStorage)) -> usize {
    let mut answers: Vec<usize> = Vec::new();
    let mut count = 0;
    loop {
        let copy = storage.snapshot();
        let mut counts = Vec::new();
        copy.crash(&mut |outcomes| {
            counts.push(outcomes);
            answers.get(counts.len() - 1).copied().unwrap_or(0)
        });
        check(&copy);
        count += 1;
        answers.resize(counts.len(), 0);
        // The next number, whose digits have different bases.
        loop {
            let Some(last) = answers.pop() else { return count };
            if last + 1 < counts[answers.len()] {
                answers.push(last + 1);
                break;
            }
        }
    }
}

#[test]
fn synced_data_under_a_synced_name_survives_everything() {
    let storage = MemStorage::new();
    write(&storage, "/a", b"one").sync_data().unwrap();
    sync_root(&storage);
    write(&storage, "/a", b"two");
    let mut seen = Vec::new();
    let count = all_crashes(&storage, |crashed| seen.push(read(crashed, "/a").unwrap()));
    assert_eq!(count, 2);
    assert_eq!(seen, [b"one", b"two"]);
}

#[test]
fn a_synced_file_without_a_synced_name_may_vanish() {
    let storage = MemStorage::new();
    write(&storage, "/a", b"one").sync_all().unwrap();
    let mut seen = Vec::new();
    all_crashes(&storage, |crashed| seen.push(read(crashed, "/a")));
    assert_eq!(seen, [None, Some(b"one".to_vec())]);
}

#[test]
fn replacing_a_file_by_a_synced_one_is_atomic() {
    let storage = MemStorage::new();
    write(&storage, "/a", b"old").sync_all().unwrap();
    sync_root(&storage);
    write(&storage, "/tmp", b"new").sync_all().unwrap();
    storage.rename(Path::new("/tmp"), Path::new("/a")).unwrap();
    let mut seen = Vec::new();
    all_crashes(&storage, |crashed| {
        seen.push((read(crashed, "/a").unwrap(), crashed.exists(Path::new("/tmp")).unwrap()));
    });
    seen.sort();
    seen.dedup();
    // Nothing; the new file under its first name; all of it. Never neither of the two.
    assert_eq!(seen, [(b"new".to_vec(), false), (b"old".to_vec(), false), (b"old".to_vec(), true)]);
}

#[test]
fn replacing_a_file_by_an_unsynced_one_may_leave_nothing_of_either() {
    let storage = MemStorage::new();
    write(&storage, "/a", b"old").sync_all().unwrap();
    sync_root(&storage);
    write(&storage, "/tmp", b"new");
    storage.rename(Path::new("/tmp"), Path::new("/a")).unwrap();
    sync_root(&storage);
    let mut seen = Vec::new();
    all_crashes(&storage, |crashed| seen.push(read(crashed, "/a").unwrap()));
    seen.sort();
    assert_eq!(seen, [b"".to_vec(), b"".to_vec(), vec![0; 3], b"new".to_vec()]);
}

#[test]
fn syncing_a_directory_brings_what_its_entries_depend_on() {
    let storage = MemStorage::new();
    let (a, b) = (Path::new("/a"), Path::new("/b"));
    storage.create_dir_all(a).unwrap();
    storage.create_dir_all(b).unwrap();
    sync_root(&storage);
    write(&storage, "/a/x", b"x").sync_all().unwrap();
    storage.rename(Path::new("/a/x"), Path::new("/b/y")).unwrap();
    storage.sync_dir(b).unwrap();
    storage.crash(&mut |_| 0);
    assert_eq!(storage.list(a).unwrap(), [""; 0]);
    assert_eq!(read(&storage, "/b/y").unwrap(), b"x");
}

#[test]
fn a_removed_directory_may_come_back_with_a_part_of_its_files() {
    let storage = MemStorage::new();
    storage.create_dir_all(Path::new("/d")).unwrap();
    for name in ["/d/x", "/d/y"] {
        write(&storage, name, name.as_bytes()).sync_all().unwrap();
    }
    storage.sync_dir(Path::new("/d")).unwrap();
    sync_root(&storage);
    storage.remove_dir_all(Path::new("/d")).unwrap();
    let mut seen = Vec::new();
    all_crashes(&storage, |crashed| seen.push(crashed.list(Path::new("/d")).unwrap_or_default()));
    seen.sort();
    seen.dedup();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(seen, [names(&[]), names(&["x"]), names(&["x", "y"]), names(&["y"])]);
}

#[test]
fn a_crash_is_a_new_boot_that_ends_all_handles() {
    let storage = MemStorage::new();
    let other = storage.process();
    let boot = storage.boot_id().unwrap();
    let file = write(&storage, "/a", b"1");
    let lock = other.lock_file(Path::new("/lock")).unwrap();
    lock.lock().unwrap();
    let bell = other.bell(Path::new("/bell")).unwrap();
    storage.crash(&mut |count| count - 1);
    file.len().unwrap_err();
    file.write_all_at(b"2", 0).unwrap_err();
    lock.try_lock().unwrap_err();
    bell.drain().unwrap_err();
    assert_ne!(storage.boot_id().unwrap(), boot);
    assert_eq!(storage.boot_id().unwrap(), other.boot_id().unwrap());
    assert!(!other.ring(Path::new("/bell")).unwrap());
    assert!(storage.lock_file(Path::new("/lock")).unwrap().try_lock().unwrap());
    assert_eq!(read(&other, "/a").unwrap(), b"1");
}

#[test]
fn a_killed_process_leaves_its_writes_and_frees_its_locks() {
    let storage = MemStorage::new();
    let victim = storage.process();
    let file = write(&victim, "/a", b"1");
    let lock = victim.lock_file(Path::new("/lock")).unwrap();
    lock.lock().unwrap();
    let page = victim.shared_page(Path::new("/page")).unwrap();
    page.words()[3].store(7, Ordering::SeqCst);
    let mine = storage.lock_file(Path::new("/lock")).unwrap();
    assert!(!mine.try_lock().unwrap());
    let bell = victim.bell(Path::new("/bell")).unwrap();

    victim.kill();
    file.write_all_at(b"2", 0).unwrap_err();
    lock.unlock().unwrap_err();
    drop((lock, bell));
    assert!(mine.try_lock().unwrap());
    assert_eq!(read(&storage, "/a").unwrap(), b"1");
    assert!(!storage.ring(Path::new("/bell")).unwrap());
    // Whatever the dead process goes on to store, nobody sees.
    page.words()[3].store(8, Ordering::SeqCst);
    let after = storage.shared_page(Path::new("/page")).unwrap();
    assert_eq!(after.words()[3].load(Ordering::SeqCst), 7);
    assert_eq!(after.identity(), page.identity());
    // It is started anew.
    assert_eq!(read(&victim, "/a").unwrap(), b"1");
}

#[test]
fn a_process_dies_at_the_change_that_was_set() {
    let storage = MemStorage::new();
    let victim = storage.process();
    victim.kill_after(2, 3);
    let file = victim.open(Path::new("/a"), OpenMode::Create).unwrap();
    file.write_all_at(b"12345", 0).unwrap();
    // Looking costs nothing, finding a file neither.
    victim.open(Path::new("/a"), OpenMode::Create).unwrap();
    assert_eq!(file.len().unwrap(), 5);
    file.write_all_at(b"abcde", 5).unwrap_err();
    assert!(!victim.is_alive());
    victim.exists(Path::new("/a")).unwrap_err();
    assert_eq!(read(&storage, "/a").unwrap(), b"12345abc");
    victim.kill();
    assert!(victim.is_alive() && victim.exists(Path::new("/a")).unwrap());
}

#[test]
fn a_death_wakes_those_who_wait_for_what_the_dead_held() {
    let storage = MemStorage::new();
    let victim = storage.process();
    let held = victim.lock_file(Path::new("/lock")).unwrap();
    held.lock().unwrap();
    let page = victim.shared_page(Path::new("/page")).unwrap();
    let bell = victim.bell(Path::new("/bell")).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| storage.lock_file(Path::new("/lock")).unwrap().lock());
        let sleeper = scope.spawn(|| page.wait(0, 0, LONG));
        let listener = scope.spawn(|| bell.wait(LONG));
        victim.kill();
        waiter.join().unwrap().unwrap();
        sleeper.join().unwrap();
        listener.join().unwrap().unwrap_err();
    });
}

#[test]
fn a_page_survives_a_crash_as_it_was_synced_or_later() {
    let storage = MemStorage::new();
    let page = storage.shared_page(Path::new("/page")).unwrap();
    page.words()[0].store(1, Ordering::SeqCst);
    page.sync().unwrap();
    sync_root(&storage);
    page.words()[0].store(2, Ordering::SeqCst);
    page.words()[100].store(9, Ordering::SeqCst);
    let mut seen = Vec::new();
    all_crashes(&storage, |crashed| {
        let page = crashed.shared_page(Path::new("/page")).unwrap();
        seen.push([0, 100].map(|word: usize| page.words()[word].load(Ordering::SeqCst)));
    });
    seen.sort_unstable();
    assert_eq!(seen, [[1, 0], [1, 9], [2, 0], [2, 9]]);
}

#[test]
fn a_page_and_its_file_are_one() {
    let storage = MemStorage::new();
    let file = write(&storage, "/page", &[1, 0, 0, 0, 0, 0, 0, 0]);
    let page = storage.shared_page(Path::new("/page")).unwrap();
    assert_eq!(
        page.words()[0].load(Ordering::SeqCst),
        u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0])
    );
    page.words()[1].store(u64::MAX, Ordering::SeqCst);
    let bytes = read(&storage, "/page").unwrap();
    assert_eq!(bytes[..17], [1, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0]);
    file.write_all_at(&[5; 8], 16).unwrap();
    assert_eq!(page.words()[2].load(Ordering::SeqCst), 0x0505_0505_0505_0505);
    assert_eq!(file.len().unwrap(), 4096);
    write(&storage, "/long", &[1; 4097]);
    assert_eq!(storage.shared_page(Path::new("/long")).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn a_record_names_the_changes_in_their_order() {
    let storage = MemStorage::new();
    storage.start_record();
    let file = write(&storage, "/a", b"12");
    file.truncate(1).unwrap();
    file.sync_data().unwrap();
    storage.rename(Path::new("/a"), Path::new("/b")).unwrap();
    sync_root(&storage);
    storage.remove(Path::new("/b")).unwrap();
    storage.remove(Path::new("/b")).unwrap_err();
    let path = |path: &str| Path::new(path).to_owned();
    assert_eq!(
        storage.take_record(),
        [
            MemOp::Create(path("/a")),
            MemOp::Write { path: path("/a"), at: 0, data: Arc::from(*b"12") },
            MemOp::Truncate { path: path("/a"), len: 1 },
            MemOp::Sync(path("/a")),
            MemOp::Rename { from: path("/a"), to: path("/b") },
            MemOp::SyncDir(path("/")),
            MemOp::Remove(path("/b")),
        ]
    );
    assert_eq!(storage.take_record(), []);
}

#[test]
fn seeded_crashes_repeat_and_differ() {
    let storage = MemStorage::new();
    let file = write(&storage, "/a", &[0; 8192]);
    file.sync_all().unwrap();
    sync_root(&storage);
    for sector in 0..16 {
        file.write_all_at(&[sector + 1; 512], u64::from(sector) * 512).unwrap();
    }
    let after = |seed| {
        let copy = storage.snapshot();
        copy.crash_seeded(seed);
        read(&copy, "/a").unwrap()
    };
    let outcomes: std::collections::BTreeSet<_> = (0..200).map(after).collect();
    assert_eq!(after(17), after(17));
    assert!(outcomes.len() > 50, "{} outcomes of 200 seeds", outcomes.len());
    assert!(outcomes.contains(&vec![0; 8192]), "some seeds keep nothing");
    assert!(outcomes.contains(&read(&storage, "/a").unwrap()), "some seeds keep everything");
}
