//! The append lock alone: between threads and processes, and over the death of its holder.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::storage::{Call, FaultyStorage, MemStorage, SharedPage};

const PAGE: &str = "/control";
/// A word that nothing else in these tests uses.
const COUNTER: usize = 63;
/// Longer than anything here takes; whoever waits this long waits for ever.
const LONG: Duration = Duration::from_secs(30);

fn page(storage: &dyn Storage) -> Arc<dyn SharedPage> {
    storage.shared_page(Path::new(PAGE)).unwrap()
}

/// A handle of the lock, as another process has it.
fn handle(storage: impl Storage) -> AppendLock {
    let storage: Arc<dyn Storage> = Arc::new(storage);
    AppendLock::new(&Control::new(page(storage.as_ref())), &storage, Path::new("/"))
}

fn held(storage: impl Storage) -> AppendLock {
    let mut lock = handle(storage);
    lock.lock().unwrap();
    lock
}

fn word(medium: &MemStorage) -> u32 {
    Control::new(page(medium)).append_word().load(Ordering::SeqCst)
}

fn files(medium: &MemStorage) -> Vec<String> {
    let names = medium.list(Path::new("/")).unwrap();
    names.into_iter().filter(|name| name.starts_with(HOLDER)).collect()
}

/// Takes the lock in a thread, and says when it has it.
fn wait_in_a_thread(mut lock: AppendLock) -> Receiver<AppendLock> {
    let (to, taken) = channel();
    std::thread::spawn(move || {
        lock.lock().unwrap();
        to.send(lock).unwrap();
    });
    taken
}

/// Processes that count up in turns of two accesses each, which no lock-free counter survives.
fn count_up(storages: Vec<Arc<dyn Storage>>, path: &Path, dir: &Path, rounds: u64) {
    let first = storages.first().unwrap().shared_page(path).unwrap();
    let all = storages.len() as u64 * rounds;
    std::thread::scope(|scope| {
        for storage in storages {
            scope.spawn(move || {
                let page = storage.shared_page(path).unwrap();
                let mut lock = AppendLock::new(&Control::new(Arc::clone(&page)), &storage, dir);
                for round in 0..rounds {
                    while round % 3 == 0 && !lock.try_lock().unwrap() {
                        std::thread::yield_now();
                    }
                    if round % 3 != 0 {
                        lock.lock().unwrap();
                    }
                    let seen = page.words()[COUNTER].load(Ordering::Relaxed);
                    if round % 16 == 0 {
                        std::thread::yield_now();
                    }
                    page.words()[COUNTER].store(seen + 1, Ordering::Relaxed);
                    lock.unlock();
                }
            });
        }
    });
    assert_eq!(first.words()[COUNTER].load(Ordering::SeqCst), all);
}

#[test]
fn it_excludes_everybody_else_in_memory() {
    let medium = MemStorage::new();
    let processes = (0..4).map(|_| Arc::new(medium.process()) as Arc<dyn Storage>).collect();
    count_up(processes, Path::new(PAGE), Path::new("/"), 2000);
    assert_eq!((word(&medium), files(&medium).len()), (0, 0), "all of them are gone");
}

#[cfg(unix)]
#[test]
fn it_excludes_everybody_else_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let handles =
        (0..4).map(|_| Arc::new(crate::storage::FsStorage::new()) as Arc<dyn Storage>).collect();
    count_up(handles, &dir.path().join("page"), dir.path(), 5000);
}

#[test]
fn a_dead_holder_is_succeeded_and_its_file_goes() {
    let medium = MemStorage::new();
    let victim = medium.process();
    let dead = held(victim.clone());
    victim.kill();
    assert_ne!(word(&medium), 0);
    let next = held(medium.process());
    dead.unlock();
    assert_eq!(word(&medium) & !CONTENDED, next.holder.as_ref().unwrap().token);
    next.unlock();
    assert_eq!(word(&medium), 0);
    assert_eq!(files(&medium).len(), 2);
    drop((dead, next));
    drop(held(medium.process()));
    assert_eq!(files(&medium).len(), 0, "the next one swept the left-over of the dead");
}

#[test]
fn a_dead_holder_keeps_its_token_until_it_is_succeeded() {
    let medium = MemStorage::new();
    let victim = medium.process();
    let dead = held(victim.clone());
    victim.kill();
    let mut other = handle(medium.process());
    // Makes a holder's file of its own, and sweeps.
    assert!(!other.try_lock().unwrap());
    let token = dead.holder.as_ref().unwrap().token;
    assert!(files(&medium).contains(&format!("holder.{token:08x}")));
    assert!(other.try_lock().unwrap(), "the second try looks");
}

#[test]
fn trying_never_takes_it_from_the_living() {
    let medium = MemStorage::new();
    let holder = held(medium.process());
    let mut other = handle(medium.process());
    for _ in 0..5 {
        assert!(!other.try_lock().unwrap());
    }
    holder.unlock();
    assert!(other.try_lock().unwrap());
}

/// A holder that is stopped, or slow, is looked at and left alone.
#[test]
fn waiting_takes_it_from_the_living_never() {
    let medium = MemStorage::new();
    let holder = held(medium.process());
    let probed = FaultyStorage::new(Arc::new(medium.process()));
    let taken = wait_in_a_thread(handle(probed.clone()));
    // Its own file once, then that of the holder, once a look.
    while probed.plan().calls(Call::Lock) < 8 {
        std::thread::yield_now();
    }
    assert!(taken.try_recv().is_err());
    let token = holder.holder.as_ref().unwrap().token;
    assert_eq!(word(&medium), token | CONTENDED);
    holder.unlock();
    taken.recv_timeout(LONG).unwrap().unlock();
    assert_eq!(word(&medium), 0);
}

/// Two who wait find the holder dead at the same time: one is first, the other waits for it.
#[test]
fn of_two_successors_one_is_first() {
    for _ in 0..20 {
        let medium = MemStorage::new();
        let victim = medium.process();
        let dead = held(victim.clone());
        let waiting = [(); 2].map(|()| wait_in_a_thread(handle(medium.process())));
        victim.kill();
        let inside = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for taken in waiting {
                let inside = &inside;
                scope.spawn(move || {
                    let lock = taken.recv_timeout(LONG).unwrap();
                    assert!(!inside.swap(true, Ordering::SeqCst), "both are in");
                    std::thread::yield_now();
                    inside.store(false, Ordering::SeqCst);
                    lock.unlock();
                });
            }
        });
        assert_eq!(word(&medium), 0);
        drop(dead);
    }
}

/// Dies at every change that taking the lock for the first time makes; others always get in.
#[test]
fn a_death_at_any_step_of_the_first_taking_keeps_nobody_out() {
    for changes in 0.. {
        let medium = MemStorage::new();
        // Something to sweep: its owner died without the lock.
        let victim = medium.process();
        let idle = held(victim.clone());
        idle.unlock();
        victim.kill();
        let process = medium.process();
        let mut lock = handle(process.clone());
        process.kill_after(changes, 0);
        let taken = lock.lock().is_ok();
        process.kill();
        held(medium.process()).unlock();
        assert_eq!(word(&medium), 0, "after {changes} changes");
        drop((lock, idle));
        drop(held(medium.process()));
        let left: Vec<_> = files(&medium);
        assert!(left.is_empty(), "after {changes} changes: {left:?}");
        if taken {
            assert!(changes >= 2, "sweeping and making the file are changes");
            break;
        }
    }
}

/// A swept directory is no reason to wait for ever, and whoever was robbed takes nothing away.
#[test]
fn a_holder_without_its_file_counts_as_dead_and_gives_nothing_back() {
    let medium = MemStorage::new();
    let robbed = held(medium.process());
    medium.remove(&robbed.holder.as_ref().unwrap().path).unwrap();
    let next = held(medium.process());
    robbed.unlock();
    assert_eq!(word(&medium) & !CONTENDED, next.holder.as_ref().unwrap().token);
    next.unlock();
    assert_eq!(word(&medium), 0);
}

#[test]
fn a_forked_child_gives_nothing_back_and_removes_nothing() {
    let medium = MemStorage::new();
    let mut inherited = held(medium.process());
    inherited.holder.as_mut().unwrap().guard = ForkGuard::of_another_process();
    inherited.unlock();
    assert_ne!(word(&medium), 0);
    drop(inherited);
    assert_eq!(files(&medium).len(), 1);
}

#[test]
fn a_new_holder_does_not_take_the_token_of_another() {
    let medium = MemStorage::new();
    let locks: Vec<_> = (0..50).map(|_| held_and_given(&medium)).collect();
    let mut tokens: Vec<_> = locks.iter().map(|l| l.holder.as_ref().unwrap().token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!((tokens.len(), files(&medium).len()), (50, 50));
    assert!(tokens.iter().all(|&token| token != 0 && token & CONTENDED == 0));
}

fn held_and_given(medium: &MemStorage) -> AppendLock {
    let lock = held(medium.process());
    lock.unlock();
    lock
}
