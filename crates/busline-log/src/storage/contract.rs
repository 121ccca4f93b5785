//! What holds of every storage: the same tests over the file system and over memory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{MemStorage, OpenMode, PAGE_WORDS, Storage};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

/// Runs a check on each storage, in an empty directory of it.
fn on_each(check: impl Fn(Arc<dyn Storage>, &Path)) {
    let memory = MemStorage::new();
    memory.create_dir_all(Path::new("/work")).unwrap();
    check(Arc::new(memory), Path::new("/work"));
    #[cfg(unix)]
    {
        let dir = tempfile::tempdir().unwrap();
        check(Arc::new(super::FsStorage::new()), dir.path());
    }
}

#[test]
fn files_are_read_and_written_by_position() {
    on_each(|storage, dir| {
        let path = dir.join("a");
        assert_eq!(storage.open(&path, OpenMode::Read).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(
            storage.open(&path, OpenMode::ReadWrite).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        let file = storage.open(&path, OpenMode::CreateNew).unwrap();
        let again = storage.open(&path, OpenMode::CreateNew).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        file.write_all_at(b"xyz", 3).unwrap();
        file.write_all_at(b"", 90).unwrap();
        let other = storage.open(&path, OpenMode::Create).unwrap();
        let mut buf = [1; 8];
        assert_eq!(other.read_at(&mut buf, 0).unwrap(), 6);
        assert_eq!(&buf, b"\0\0\0xyz\x01\x01");
        assert_eq!(other.read_at(&mut buf, 6).unwrap(), 0);
        assert_eq!(other.read_at(&mut buf, 1 << 40).unwrap(), 0);
        other.truncate(4).unwrap();
        other.truncate(5).unwrap();
        assert_eq!(file.len().unwrap(), 5);
        assert_eq!(file.read_at(&mut buf, 3).unwrap(), 2);
        assert_eq!(&buf[..2], b"x\0");
        let reader = storage.open(&path, OpenMode::Read).unwrap();
        reader.write_all_at(b"1", 0).unwrap_err();
        reader.truncate(0).unwrap_err();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        storage.sync_dir(dir).unwrap();
    });
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_reserved_can_be_stored_into_and_nothing_else() {
    on_each(|storage, dir| {
        let path = dir.join("room");
        let file = storage.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        assert!(!file.write_reserved(b"x", 4).unwrap(), "nothing is reserved");
        assert!(file.reserve(4, 200_000).unwrap());
        assert_eq!(file.len().unwrap(), 200_000);
        assert!(file.write_reserved(b"stored", 4).unwrap());
        assert!(file.write_reserved(b"end", 199_997).unwrap());
        assert!(!file.write_reserved(b"end", 199_998).unwrap(), "a byte too far");
        assert!(!file.write_reserved(b"x", u64::MAX).unwrap());
        let other = storage.open(&path, OpenMode::ReadWrite).unwrap();
        assert!(!other.write_reserved(b"x", 10).unwrap(), "another handle reserved it");
        let mut buf = [9; 12];
        assert_eq!(other.read_at(&mut buf, 0).unwrap(), 12);
        assert_eq!(&buf, b"headstored\0\0");
        assert_eq!(other.read_at(&mut buf, 199_996).unwrap(), 4);
        assert_eq!(&buf[..4], b"\0end");
        // What another wrote is kept, and the file made no shorter.
        other.write_all_at(b"w", 300_000).unwrap();
        assert!(file.reserve(10, 250_000).unwrap());
        assert_eq!(file.len().unwrap(), 300_001);
        assert!(
            file.write_reserved(b"!", 10).unwrap() && !file.write_reserved(b"!", 250_000).unwrap()
        );
        file.sync_data().unwrap();
        let reader = storage.open(&path, OpenMode::Read).unwrap();
        assert!(reader.reserve(0, 10).is_err() && !reader.write_reserved(b"x", 0).unwrap());
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    on_each(|storage, dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let first = storage.open(&a, OpenMode::Create).unwrap();
        first.write_all_at(b"first", 0).unwrap();
        let second = storage.open(&b, OpenMode::Create).unwrap();
        second.write_all_at(b"second", 0).unwrap();
        storage.rename(&a, &b).unwrap();
        storage.remove(&b).unwrap();
        first.write_all_at(b"F", 0).unwrap();
        let mut buf = [0; 6];
        assert_eq!(first.read_at(&mut buf, 0).unwrap(), 5);
        assert_eq!(&buf[..5], b"First");
        assert_eq!(second.read_at(&mut buf, 0).unwrap(), 6);
        assert_eq!(&buf, b"second");
        assert_eq!(storage.list(dir).unwrap(), [""; 0]);
    });
}

#[test]
fn names_follow_the_rules_of_directories() {
    on_each(|storage, dir| {
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        let (tree, file) = (dir.join("x/y"), dir.join("x/f"));
        storage.create_dir_all(&tree).unwrap();
        storage.create_dir_all(&tree).unwrap();
        storage.open(&file, OpenMode::Create).unwrap();
        assert_eq!(kind(storage.create_dir_all(&file)), ErrorKind::AlreadyExists);
        assert_eq!(kind(storage.create_dir_all(&file.join("z"))), ErrorKind::NotADirectory);
        assert_eq!(kind(storage.remove(&tree)), ErrorKind::IsADirectory);
        assert_eq!(kind(storage.remove(&dir.join("absent"))), ErrorKind::NotFound);
        assert_eq!(kind(storage.rename(&file, &tree)), ErrorKind::IsADirectory);
        assert_eq!(kind(storage.rename(&tree, &file)), ErrorKind::NotADirectory);
        assert_eq!(kind(storage.rename(&dir.join("x"), &tree)), ErrorKind::InvalidInput);
        assert_eq!(kind(storage.rename(&dir.join("absent"), &file)), ErrorKind::NotFound);
        assert_eq!(kind(storage.remove_dir_all(&dir.join("absent"))), ErrorKind::NotFound);
        assert_eq!(kind(storage.remove_dir_all(&file)), ErrorKind::NotADirectory);
        assert_eq!(storage.list(&dir.join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(storage.list(&file).unwrap_err().kind(), ErrorKind::NotADirectory);
        assert_eq!(storage.list(&dir.join("x")).unwrap(), ["f", "y"]);
        storage.rename(&dir.join("x"), &dir.join("w")).unwrap();
        storage.rename(&dir.join("w"), &dir.join("w")).unwrap();
        assert!(storage.exists(&dir.join("w/f")).unwrap());
        assert!(!storage.exists(&file).unwrap());
        storage.open(&dir.join("w/y/g"), OpenMode::Create).unwrap();
        storage.create_dir_all(&dir.join("v/e")).unwrap();
        let onto = storage.rename(&dir.join("v/e"), &dir.join("w/y"));
        assert_eq!(kind(onto), ErrorKind::DirectoryNotEmpty);
        storage.remove_dir_all(&dir.join("w")).unwrap();
        assert_eq!(storage.list(dir).unwrap(), ["v"]);
        assert_eq!(kind(storage.sync_dir(&dir.join("w"))), ErrorKind::NotFound);
    });
}

#[test]
fn locks_are_held_by_objects_and_die_with_them() {
    on_each(|storage, dir| {
        let path = dir.join("lock");
        let open = || storage.lock_file(&path).unwrap();
        let (a, b) = (open(), open());
        assert!(a.try_lock().unwrap() && a.try_lock().unwrap());
        assert!(!b.try_lock().unwrap() && !b.try_lock_shared().unwrap());
        assert!(a.try_lock_shared().unwrap());
        assert!(b.try_lock_shared().unwrap());
        a.unlock().unwrap();
        a.unlock().unwrap();
        assert!(b.try_lock().unwrap());
        drop(b);
        assert!(a.try_lock().unwrap());
    });
}

#[test]
fn a_failed_change_from_shared_to_exclusive_loses_the_lock() {
    on_each(|storage, dir| {
        let path = dir.join("lock");
        let open = || storage.lock_file(&path).unwrap();
        let (a, b, c) = (open(), open(), open());
        assert!(a.try_lock_shared().unwrap() && b.try_lock_shared().unwrap());
        assert!(!a.try_lock().unwrap());
        b.unlock().unwrap();
        assert!(c.try_lock().unwrap());
    });
}

#[test]
fn who_waits_for_a_lock_gets_it_when_it_is_given_back() {
    on_each(|storage, dir| {
        let path = dir.join("lock");
        let held = storage.lock_file(&path).unwrap();
        held.lock().unwrap();
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..2)
                .map(|index| {
                    let lock = storage.lock_file(&path).unwrap();
                    scope.spawn(move || match index {
                        0 => lock.lock(),
                        _ => lock.lock_shared(),
                    })
                })
                .collect();
            held.unlock().unwrap();
            for waiter in waiters {
                waiter.join().unwrap().unwrap();
            }
        });
    });
}

#[test]
fn a_page_is_shared_and_kept() {
    on_each(|storage, dir| {
        let path = dir.join("page");
        let page = storage.shared_page(&path).unwrap();
        assert!(page.words().iter().all(|word| word.load(Ordering::SeqCst) == 0));
        page.words()[PAGE_WORDS - 1].store(0x1_0000_0002, Ordering::SeqCst);
        page.sync().unwrap();
        let again = storage.shared_page(&path).unwrap();
        assert_eq!(again.low(PAGE_WORDS - 1).load(Ordering::SeqCst), 2);
        assert_eq!(again.identity(), page.identity());
        let other = storage.shared_page(&dir.join("other")).unwrap();
        assert_ne!(other.identity(), page.identity());
        drop((page, again));
        let kept = storage.shared_page(&path).unwrap();
        assert_eq!(kept.words()[PAGE_WORDS - 1].load(Ordering::SeqCst), 0x1_0000_0002);
    });
}

#[test]
fn a_waiter_is_woken_by_another_handle_and_not_held_by_an_old_value() {
    on_each(|storage, dir| {
        let path = dir.join("page");
        let page = storage.shared_page(&path).unwrap();
        page.wait(1, 5, LONG);
        page.wait(1, 0, Some(Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let page = storage.shared_page(&path).unwrap();
                while page.low(1).load(Ordering::SeqCst) == 0 {
                    page.wait(1, 0, None);
                }
            });
            page.low(1).store(1, Ordering::SeqCst);
            page.wake(1);
            waiter.join().unwrap();
        });
    });
}

#[test]
fn a_bell_belongs_to_one_owner_who_hears_it() {
    on_each(|storage, dir| {
        let path = dir.join("bell");
        assert!(!storage.ring(&path).unwrap());
        let bell = storage.bell(&path).unwrap();
        assert_eq!(bell.path(), path);
        assert_eq!(storage.bell(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(!bell.drain().unwrap());
        assert!(!bell.wait(Some(Duration::from_millis(1))).unwrap());
        assert!(storage.ring(&path).unwrap() && storage.ring(&path).unwrap());
        assert!(bell.wait(LONG).unwrap() && bell.wait(None).unwrap());
        assert!(bell.drain().unwrap() && !bell.drain().unwrap());
        std::thread::scope(|scope| {
            let listener = scope.spawn(|| bell.wait(LONG));
            assert!(storage.ring(&path).unwrap());
            assert!(listener.join().unwrap().unwrap());
        });
        drop(bell);
        assert_eq!(storage.list(dir).unwrap(), [""; 0]);
        assert!(!storage.ring(&path).unwrap());
        storage.open(&path, OpenMode::Create).unwrap();
        assert_eq!(storage.ring(&path).unwrap_err().kind(), ErrorKind::InvalidData);
        storage.bell(&path).unwrap_err();
    });
}

#[test]
fn the_boot_stays_the_same_and_the_medium_is_here() {
    on_each(|storage, dir| {
        assert_eq!(storage.boot_id().unwrap(), storage.boot_id().unwrap());
        assert!(!storage.is_remote(&PathBuf::from(dir).join("later")).unwrap());
    });
}
