//! Tests of the file system storage that only a file system can answer; the rest is in `contract`.

use std::fs;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::storage::PAGE_WORDS;

const LONG: Option<Duration> = Some(Duration::from_secs(20));

#[test]
fn a_page_file_of_another_size_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page");
    fs::write(&path, vec![7; 5000]).unwrap();
    let error = FsStorage::new().shared_page(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(fs::read(&path).unwrap(), vec![7; 5000]);
}

#[test]
fn a_page_file_that_a_dead_process_left_short_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page");
    fs::write(&path, [1, 0, 0, 0, 0, 0, 0, 0, 2]).unwrap();
    let page = FsStorage::new().shared_page(&path).unwrap();
    assert_eq!(page.words()[0].load(Ordering::SeqCst), 1);
    assert_eq!(page.words()[1].load(Ordering::SeqCst), 2);
    assert_eq!(page.words()[PAGE_WORDS - 1].load(Ordering::SeqCst), 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
}

#[test]
fn a_copied_and_a_restored_page_have_another_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("page"), dir.path().join("copy"));
    let first = FsStorage::new().shared_page(&path).unwrap().identity();
    assert_eq!(FsStorage::new().shared_page(&path).unwrap().identity(), first);
    fs::copy(&path, &copy).unwrap();
    assert_ne!(FsStorage::new().shared_page(&copy).unwrap().identity(), first);
    fs::remove_file(&path).unwrap();
    fs::copy(&copy, &path).unwrap();
    assert_ne!(FsStorage::new().shared_page(&path).unwrap().identity(), first);
}

#[test]
fn a_bell_is_readable_only_while_it_was_rung() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bell");
    let bell = FsStorage::new().bell(&path).unwrap();
    let fd = || bell.fd().unwrap();
    assert!(!wait::readable(fd(), Some(Duration::ZERO)).unwrap());
    for _ in 0..3 {
        assert!(FsStorage::new().ring(&path).unwrap());
        // The one who rang has closed his end: no hang-up may stay behind.
        assert!(wait::readable(fd().as_fd(), LONG).unwrap());
        assert!(bell.drain().unwrap());
        assert!(!wait::readable(fd(), Some(Duration::ZERO)).unwrap());
        assert!(!bell.drain().unwrap());
    }
}

#[test]
fn a_bell_that_is_full_still_rings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bell");
    let bell = FsStorage::new().bell(&path).unwrap();
    for _ in 0..70_000 {
        assert!(FsStorage::new().ring(&path).unwrap());
    }
    assert!(bell.drain().unwrap());
    assert!(!bell.wait(Some(Duration::ZERO)).unwrap());
}

#[test]
fn a_rope_rings_as_long_as_somebody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bell");
    let bell = FsStorage::new().bell(&path).unwrap();
    let rope = bell::FsRope::open(&path).unwrap().unwrap();
    let guarded = || rope.write_guarded();
    for _ in 0..3 {
        assert!(rope.ring().unwrap() && bell.drain().unwrap());
        assert_eq!(guarded().unwrap(), 1);
        assert!(bell.drain().unwrap() && !bell.drain().unwrap());
    }
    drop(bell);
    assert!(!rope.ring().unwrap());
    assert_eq!(guarded().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let next = FsStorage::new().bell(&path).unwrap();
    assert!(!rope.ring().unwrap() && !next.drain().unwrap(), "another bell in its place");
}

#[test]
fn a_bell_left_by_a_dead_owner_is_replaced_and_a_file_in_its_place_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bell");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
    assert!(!FsStorage::new().ring(&path).unwrap());
    let bell = FsStorage::new().bell(&path).unwrap();
    assert!(FsStorage::new().ring(&path).unwrap());
    drop(bell);

    fs::write(&path, b"precious").unwrap();
    assert_eq!(FsStorage::new().ring(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    FsStorage::new().bell(&path).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let _bell = FsStorage.bell(&path).unwrap();
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create] {
        let error = FsStorage.open(&path, mode).unwrap_err();
        assert!(error.to_string().contains("a pipe"), "{error}");
    }
    drop(_bell);
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skip: a pipe without a reader: there is no mkfifo");
        return;
    }
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert!(FsStorage.open(&path, mode).is_err());
    }
}
