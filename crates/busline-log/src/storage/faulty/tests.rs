//! Tests that each fault does what it says, once, and where it should.

use std::io::ErrorKind;

use super::*;

fn over_memory() -> (MemStorage, FaultyStorage) {
    let memory = MemStorage::new();
    let faulty = FaultyStorage::over_memory(&memory);
    (memory, faulty)
}

fn create(storage: &dyn Storage, path: &str) -> Arc<dyn StorageFile> {
    storage.open(Path::new(path), OpenMode::Create).unwrap()
}

fn text(file: &dyn StorageFile) -> String {
    let mut buf = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut buf, 0).unwrap();
    String::from_utf8(buf).unwrap()
}

#[test]
fn a_short_write_stores_its_part_and_fails_at_its_turn_alone() {
    let (_, storage) = over_memory();
    let plan = storage.plan();
    plan.add(Fault::new(Call::Write, ErrorKind::Other).on("a").after(1).times(2).storing(2));
    let (a, b) = (create(&storage, "/a"), create(&storage, "/b"));
    b.write_all_at(b"bbb", 0).unwrap();
    a.write_all_at(b"000", 0).unwrap();
    a.write_all_at(b"111", 3).unwrap_err();
    a.write_all_at(b"222", 6).unwrap_err();
    a.write_all_at(b"333", 9).unwrap();
    assert_eq!(text(&*a), "00011\x0022\x00333");
    assert_eq!((plan.hits(), plan.calls(Call::Write)), (2, 5));
}

#[test]
fn a_full_disk_takes_what_fits_and_gives_back_what_is_cut() {
    let (_, storage) = over_memory();
    let plan = storage.plan();
    let (a, b) = (create(&storage, "/a"), create(&storage, "/b"));
    a.write_all_at(b"12345", 0).unwrap();
    plan.set_space(Some(6));
    b.write_all_at(b"1234", 0).unwrap();
    let full = a.write_all_at(b"abcdef", 3).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(text(&*a), "123abcd");
    b.write_all_at(b"4321", 0).unwrap();
    b.write_all_at(b"5", 4).unwrap_err();
    a.truncate(6).unwrap();
    b.write_all_at(b"5", 4).unwrap();
    storage.remove(Path::new("/a")).unwrap();
    assert_eq!(plan.space(), Some(6));
    plan.clear();
    b.write_all_at(&[0; 100], 0).unwrap();
}

#[test]
fn a_failed_sync_loses_its_data_for_ever_over_memory() {
    for path in ["/a", "/renamed"] {
        let (memory, storage) = over_memory();
        let file = create(&storage, "/a");
        storage.rename(Path::new("/a"), Path::new(path)).unwrap();
        storage.sync_dir(Path::new("/")).unwrap();
        storage.plan().add(Fault::new(Call::Sync, ErrorKind::Other));
        file.write_all_at(b"lost", 0).unwrap();
        file.sync_data().unwrap_err();
        assert_eq!(text(&*file), "lost");
        file.sync_data().unwrap();
        memory.crash(&mut |count| count - 1);
        assert_eq!(text(&*memory.open(Path::new(path), OpenMode::Read).unwrap()), "\0\0\0\0");
    }
}

#[test]
fn every_kind_of_call_can_fail() {
    let (_, storage) = over_memory();
    let (file, path) = (create(&storage, "/f"), Path::new("/f"));
    let lock = storage.lock_file(Path::new("/lock")).unwrap();
    let page = storage.shared_page(Path::new("/page")).unwrap();
    let calls: [(Call, &dyn Fn() -> io::Result<()>); 18] = [
        (Call::Open, &|| storage.open(path, OpenMode::Read).map(drop)),
        (Call::Read, &|| file.read_at(&mut [0], 0).map(drop)),
        (Call::Write, &|| file.write_all_at(b"1", 0)),
        (Call::Truncate, &|| file.truncate(1)),
        (Call::Sync, &|| file.sync_data()),
        (Call::Sync, &|| file.sync_all()),
        (Call::SyncDir, &|| storage.sync_dir(Path::new("/"))),
        (Call::Rename, &|| storage.rename(path, path)),
        (Call::CreateDir, &|| storage.create_dir_all(Path::new("/d"))),
        (Call::List, &|| storage.list(Path::new("/")).map(drop)),
        (Call::List, &|| storage.exists(path).map(drop)),
        (Call::Lock, &|| lock.lock()),
        (Call::Lock, &|| lock.try_lock_shared().map(drop)),
        (Call::Page, &|| storage.shared_page(Path::new("/page")).map(drop)),
        (Call::PageSync, &|| page.sync()),
        (Call::Bell, &|| storage.ring(Path::new("/bell")).map(drop)),
        (Call::Remove, &|| storage.remove(path)),
        (Call::Remove, &|| storage.remove_dir_all(Path::new("/d"))),
    ];
    for (kind, call) in calls {
        for kind in [kind, Call::Any] {
            storage.plan().add(Fault::new(kind, ErrorKind::Other).always());
            call().expect_err(&format!("{kind:?}"));
            call().expect_err(&format!("{kind:?}"));
            storage.plan().clear();
        }
        call().unwrap();
    }
}

#[test]
fn a_call_waits_at_a_gate_and_then_succeeds() {
    let (memory, storage) = over_memory();
    let file = create(&storage, "/f");
    let gate = Gate::new();
    storage.plan().add(Fault::hold(Call::Write, &gate));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| file.write_all_at(b"1", 0));
        gate.wait_for_arrival();
        assert_eq!(text(&*memory.open(Path::new("/f"), OpenMode::Read).unwrap()), "");
        gate.open();
        writer.join().unwrap().unwrap();
    });
    file.write_all_at(b"2", 1).unwrap();
    assert_eq!((text(&*file), storage.plan().hits()), ("12".to_owned(), 0));
}
