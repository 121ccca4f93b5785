//! Several processes at one store, killed at any moment.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use busline::Error;
use busline::store::TemporaryStore;

/// Set for the processes that the tests start; where the store is.
const CHILD: &str = "BUSLINE_STORE_CHILD";
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

fn start(url: &str, work: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("store::children::{work}"), "--nocapture"]);
    let mut child = command.env(CHILD, url).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("child is at work") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended");
    }
    (child, output)
}

/// Run by [`start`]; a test that does nothing otherwise.
#[tokio::test]
async fn writes() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let store = TemporaryStore::open(&url, "n").await.unwrap();
    println!("child is at work");
    for n in 0_u64.. {
        let value = (std::process::id(), n, "x".repeat(10_000));
        store.set_all(KEYS.map(|key| (key, &value))).await.unwrap();
    }
}

/// Run by [`start`]; a test that does nothing otherwise.
#[tokio::test]
async fn makes() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let store = TemporaryStore::open(&url, "n").await.unwrap();
    let never = async || {
        println!("child is at work");
        std::future::pending::<Result<String, Error>>().await
    };
    store.peek_or_create("made", never).await.unwrap();
}

type Written = (u32, u64, String);

#[tokio::test]
async fn several_values_are_kept_together_whoever_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let store = TemporaryStore::open(&url, "n").await.unwrap();
    let mut last = None;
    for round in 0..25 {
        let mut children = [start(&url, "writes"), start(&url, "writes")];
        // Some work is done before the kill, more in each round.
        for _ in 0..round {
            let all = store.pop_all::<Written>(&KEYS).await.unwrap();
            if let Some(all) = all {
                assert!(all.iter().all(|value| value == &all[0]), "not of one moment");
                last = Some(all[0].0);
            }
        }
        for (child, _) in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let left = [
            store.pop::<Written>(KEYS[0]).await.unwrap(),
            store.pop::<Written>(KEYS[1]).await.unwrap(),
            store.pop::<Written>(KEYS[2]).await.unwrap(),
            store.pop::<Written>(KEYS[3]).await.unwrap(),
        ];
        assert!(left.iter().all(|value| value == &left[0]), "half of it is there");
    }
    assert!(last.is_some(), "nothing was ever written");
}

#[tokio::test]
async fn who_is_killed_holds_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let store = TemporaryStore::open(&url, "n").await.unwrap();
    let (mut child, _output) = start(&url, "makes");
    let waits = {
        let store = store.clone();
        let make = async || Ok::<_, Error>("made".to_owned());
        tokio::spawn(async move { store.peek_or_create("made", make).await })
    };
    store.check().await.unwrap();
    assert!(!waits.is_finished());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(waits.await.unwrap().unwrap(), "made");
}
