//! More topics than a process may have files open.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use busline_core::transport::{Batch, Connect, Read, Role, TopicSpec, Topology};
use busline_core::{Key, Message, Position, Receipt, Topic};

const PLACE: &str = "BUSLINE_TEST_MANY_TOPICS";
const TOPICS: usize = 40;
const ROUNDS: usize = 2;

fn topic(number: usize) -> Topic {
    Topic::new(format!("topic-{number}")).expect("a name")
}

#[tokio::test]
#[ignore = "started by another test, with few files"]
async fn publish_to_many_topics() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let transport = busline_transports::open(&place).unwrap();
    let session = transport.connect(Connect::new(Role::Publish)).await.unwrap();
    let topics = (0..TOPICS).map(|number| TopicSpec::new(topic(number))).collect();
    session.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    for round in 0..ROUNDS {
        for number in 0..TOPICS {
            let message = Message::new(topic(number), Key::empty(), round.to_string());
            for receipt in session.send(Batch::from(vec![message])).await.unwrap() {
                assert!(matches!(receipt.await.unwrap(), Receipt::Stored { .. }));
            }
        }
    }
    let read: HashSet<String> = {
        let mut read = HashSet::new();
        for number in 0..TOPICS {
            let from = Read::new(topic(number), Position::Earliest);
            for record in session.read(from).await.unwrap().next().await.unwrap() {
                let round = std::str::from_utf8(&record.message.payload).unwrap();
                read.insert(format!("{number} {round}"));
            }
        }
        read
    };
    assert_eq!(read.len(), TOPICS * ROUNDS);
    let depths = session.admin().unwrap().topics().await.unwrap();
    assert_eq!(depths.len(), TOPICS);
    session.close(Duration::from_secs(60)).await.unwrap();
    std::fs::write(Path::new(place.trim_start_matches("file:")).join("../done"), "").unwrap();
}

#[test]
fn a_process_with_few_files_uses_many_topics() {
    let directory = tempfile::tempdir().unwrap();
    let place = format!("file:{}", directory.path().join("bus").display());
    // Without what other tests have open at this moment and leave to children, as C libraries do.
    let few = "ulimit -n 128; \
        for fd in /proc/self/fd/*; do n=${fd##*/}; [ $n -le 2 ] || eval \"exec $n>&-\"; done; \
        exec \"$0\" \"$@\"";
    let done = Command::new("bash")
        .args(["-c", few])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "many::publish_to_many_topics", "--nocapture"])
        .env(PLACE, place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(directory.path().join("done").exists(), "it did not run: {said}");
}

/// More than a log has doorbells, and more than a runtime has threads for waiting.
const WAITERS: usize = 1000;

#[tokio::test]
async fn a_thousand_waiters_of_a_topic_share_a_doorbell_and_are_all_woken() {
    let directory = tempfile::tempdir().unwrap();
    let place = format!("file:{}?sync=os", directory.path().display());
    // As two processes: nothing of the one reaches the other but through the directory.
    let connect = async || {
        let transport = busline_transports::open(&place).unwrap();
        transport.connect(Connect::new(Role::Publish)).await.unwrap()
    };
    let (session, publisher) = (connect().await, connect().await);
    let topics = vec![TopicSpec::new(topic(0))];
    session.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    let (ready, mut all_ready) = tokio::sync::mpsc::channel(WAITERS);
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let mut reader = session.read(Read::new(topic(0), Position::Latest)).await.unwrap();
        let ready = ready.clone();
        waiters.spawn(async move {
            let mut read = Vec::new();
            assert!(reader.next().await.unwrap().is_empty());
            ready.send(()).await.unwrap();
            while read.len() < 2 {
                reader.wait().await.unwrap();
                read.extend(reader.next().await.unwrap());
            }
            read.iter().map(|record| record.message.payload.to_vec()).collect::<Vec<_>>()
        });
    }
    for _ in 0..WAITERS {
        all_ready.recv().await.unwrap();
    }
    let bells = std::fs::read_dir(directory.path().join("topics/topic-0/log/bells")).unwrap();
    assert_eq!(bells.count(), 1, "one for the process, however many wait");
    for text in ["first", "second"] {
        let message = Message::new(topic(0), Key::empty(), text);
        for receipt in publisher.send(Batch::from(vec![message])).await.unwrap() {
            receipt.await.unwrap();
        }
    }
    let woken = tokio::time::timeout(Duration::from_secs(60), waiters.join_all()).await.unwrap();
    assert!(woken.iter().all(|read| *read == [b"first".to_vec(), b"second".to_vec()]));
}
