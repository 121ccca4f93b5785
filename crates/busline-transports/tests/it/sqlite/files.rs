//! Files that are not what they should be, databases that others hold, and who gets to write.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use busline_core::transport::{
    Connect, GroupSpec, Membership, Role, Session, Subscribe, TopicSpec, Topology,
};
use busline_core::{Durability, Error, ErrorKind, GroupName, Position, Result};

use super::support::{
    HERMES, PATIENCE, Place, declare, follow, message, reader, rest, send, texts, topic,
};

async fn open(path: &Path, options: &str) -> Result<Arc<dyn Session>> {
    let url = format!("sqlite:{}?{options}", path.display());
    busline_transports::open(&url)?.connect(Connect::new(Role::Publish)).await
}

/// It must fail with this kind, say these words, and what to do.
async fn refuses(path: &Path, options: &str, kind: ErrorKind, words: &[&str]) {
    let error: Error = match open(path, options).await {
        Ok(_) => panic!("{} was opened with '{options}'", path.display()),
        Err(error) => error,
    };
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.way_out().is_some(), "it does not say what to do: {error}");
    for word in words {
        assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_alone() {
    let place = Place::new();
    for content in [
        "hello, this is no database\n".to_owned(),
        "SQLite format 4\0".to_owned() + &"x".repeat(5000),
    ] {
        std::fs::write(place.path(), &content).unwrap();
        for layout in ["", "layout=hermes"] {
            let words = ["no SQLite database", "give the path of another"];
            refuses(&place.path(), layout, ErrorKind::Conflict, &words).await;
        }
        assert_eq!(std::fs::read(place.path()).unwrap(), content.as_bytes());
    }
}

#[tokio::test]
async fn what_is_no_file_says_so() {
    let place = Place::new();
    let folder = place.path();
    std::fs::create_dir(&folder).unwrap();
    refuses(&folder, "", ErrorKind::Conflict, &["is a folder", "file:FOLDER"]).await;
    let lost = folder.join("not").join("there.db");
    for layout in ["", "layout=hermes"] {
        refuses(&lost, layout, ErrorKind::NotFound, &["folder exists"]).await;
    }
    let missing = folder.join("missing.db");
    for options in ["create=false", "create=false&layout=hermes"] {
        refuses(&missing, options, ErrorKind::NotFound, &["there is no bus at"]).await;
    }
    assert!(!missing.exists());
}

#[tokio::test]
async fn the_tables_of_others_are_left_alone() {
    let place = Place::new();
    let other = place.sqlite();
    other
        .execute_batch("CREATE TABLE people (id INTEGER); CREATE TABLE places (id INTEGER)")
        .unwrap();
    let words = ["another program's", "people, places", "give another path"];
    refuses(&place.path(), "", ErrorKind::Conflict, &words).await;
    let words = ["no table 'hermesmessages'", "people, places", "'uri'"];
    refuses(&place.path(), "layout=hermes", ErrorKind::Conflict, &words).await;
    other
        .execute_batch("CREATE TABLE hermesmessages (msgid INTEGER PRIMARY KEY, body TEXT)")
        .unwrap();
    refuses(
        &place.path(),
        "layout=hermes",
        ErrorKind::Conflict,
        &["no column 'data'", "msgid, body"],
    )
    .await;
    refuses(&place.path(), "", ErrorKind::Conflict, &["add layout=hermes"]).await;
    let mode: String = other.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

#[tokio::test]
async fn our_own_tables_are_known_by_name_and_version() {
    let place = Place::new();
    let session = place.session(Role::Publish, "").await.unwrap();
    session.close(PATIENCE).await.unwrap();
    refuses(&place.path(), "layout=hermes", ErrorKind::Conflict, &["leave layout=hermes out"])
        .await;
    place.sqlite().pragma_update(None, "user_version", 99).unwrap();
    let words = ["version 99", "knows 1", "newer one"];
    refuses(&place.path(), "", ErrorKind::Conflict, &words).await;
}

#[tokio::test]
async fn damage_is_said_with_what_can_be_saved() {
    let place = Place::new();
    let session = place.session(Role::Publish, "").await.unwrap();
    declare(&*session, "t").await.unwrap();
    let batch = (0..200).map(|_| message("t", "k", vec![7; 1000])).collect();
    send(&*session, batch).await.unwrap();
    session.close(PATIENCE).await.unwrap();
    let mut bytes = std::fs::read(place.path()).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0xa5);
    std::fs::write(place.path(), bytes).unwrap();
    let session = place.session(Role::Consume, "").await.unwrap();
    let mut from = reader(&*session, "t", Position::Earliest).await.unwrap();
    let error = rest(&mut *from).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains(".recover"), "{error}");
}

#[tokio::test]
async fn a_locked_database_is_a_temporary_error_and_nothing_is_stored_later() {
    let place = Place::new();
    let session = place.session(Role::Publish, "busy=30ms").await.unwrap();
    declare(&*session, "t").await.unwrap();
    let other = place.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let receipt = send(&*session, vec![message("t", "k", "lost")]).await.unwrap().remove(0);
    let error = receipt.unwrap_err();
    assert!(error.error().is_temporary() && error.to_string().starts_with("not stored"), "{error}");
    assert!(error.to_string().contains("locked by another program"), "{error}");
    assert!(error.error().way_out().unwrap().contains("?busy=30s"), "{error}");
    // Reading goes on.
    let mut from = reader(&*session, "t", Position::Earliest).await.unwrap();
    assert_eq!(rest(&mut *from).await.unwrap().len(), 0);
    other.execute_batch("ROLLBACK").unwrap();
    send(&*session, vec![message("t", "k", "stored")]).await.unwrap().remove(0).unwrap();
    assert_eq!(texts(&rest(&mut *from).await.unwrap()), ["stored"]);
}

#[tokio::test]
async fn what_could_not_be_settled_because_of_a_lock_comes_again() {
    let place = Place::new();
    let session = place.session(Role::Consume, "busy=30ms").await.unwrap();
    let group = GroupName::new("g").unwrap();
    let groups = vec![GroupSpec::new(topic("t"), group.clone())];
    let topology =
        Topology { topics: vec![TopicSpec::new(topic("t"))], groups, ..Topology::default() };
    session.declare(&topology).await.unwrap();
    send(&*session, vec![message("t", "k", "it")]).await.unwrap();
    let mut stream =
        session.subscribe(Subscribe::new(topic("t"), Membership::Group(group))).await.unwrap();
    let delivery = stream.next().await.unwrap().unwrap().remove(0);
    let other = place.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = delivery.ack().await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    // Who was told that it is not settled gets it again.
    let again =
        tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap().remove(0);
    assert_eq!((again.message.payload.as_ref(), again.attempt.number), (&b"it"[..], 2));
    again.ack().await.unwrap();
}

/// By another process: a file that is closed here takes SQLite's locks with it.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

async fn stored(path: &Path, options: &str) -> Vec<String> {
    let session = open(path, options).await.unwrap();
    let mut from = reader(&*session, "t", Position::Earliest).await.unwrap();
    let found = texts(&rest(&mut *from).await.unwrap());
    session.close(PATIENCE).await.unwrap();
    found
}

#[tokio::test]
async fn a_copy_of_an_open_database_without_its_log_is_refused() {
    let place = Place::new();
    let session = place.session(Role::Publish, "").await.unwrap();
    declare(&*session, "t").await.unwrap();
    // So much that the log was taken into the file more than once, and then some that are in the log alone.
    for _ in 0..12 {
        send(&*session, vec![message("t", "k", vec![b'x'; 1 << 20])])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
    }
    for text in ["1", "2", "3"] {
        send(&*session, vec![message("t", "k", text)]).await.unwrap().remove(0).unwrap();
    }
    let alone = place.path().with_file_name("alone.db");
    copy(&place.path(), &alone);
    let words = ["copied while it was in use", "FILE-wal", ".backup", "copied=accept"];
    refuses(&alone, "", ErrorKind::Conflict, &words).await;
    let found = stored(&alone, "copied=accept").await;
    assert!(found.len() < 15, "a copy of the file alone has everything: {}", found.len());
    // Once accepted it is a bus as any other.
    assert_eq!(stored(&alone, "").await, found);

    let both = place.path().with_file_name("both.db");
    copy(&place.path(), &both);
    copy(&beside(&place.path(), "-wal"), &beside(&both, "-wal"));
    assert_eq!(stored(&both, "").await.len(), 15);

    let backup = place.path().with_file_name("backup.db");
    place.sqlite().execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    assert_eq!(stored(&backup, "").await.len(), 15);

    // Closed, the file is all there is.
    session.close(PATIENCE).await.unwrap();
    assert!(!beside(&place.path(), "-wal").exists());
    let closed = place.path().with_file_name("closed.db");
    copy(&place.path(), &closed);
    assert_eq!(stored(&closed, "").await.len(), 15);
}

#[tokio::test]
async fn durability_is_what_is_configured() {
    let place = Place::new();
    for (options, durability) in [("", Durability::Power), ("sync=os", Durability::Process)] {
        for layout in ["", "&layout=hermes&topic=t"] {
            let file = if layout.is_empty() {
                place.path()
            } else {
                place.path().with_file_name("hermes.db")
            };
            let session = open(&file, &format!("{options}{layout}")).await.unwrap();
            assert_eq!(session.capabilities(&Default::default()).durability, durability);
        }
    }
}

#[tokio::test]
async fn who_waits_in_the_same_process_is_woken_without_looking() {
    let place = Place::new();
    // Nobody looks by himself within the time of this test.
    let slow = "poll=1d";
    let (publisher, session) = (
        place.session(Role::Publish, slow).await.unwrap(),
        place.session(Role::Consume, slow).await.unwrap(),
    );
    declare(&*publisher, "t").await.unwrap();
    let mut from = reader(&*session, "t", Position::Latest).await.unwrap();
    let subscribe = Subscribe::new(topic("t"), Membership::Broadcast(Default::default()));
    let mut stream = session.subscribe(subscribe).await.unwrap();
    for number in 0..20 {
        let text = number.to_string();
        let waiting = async {
            let chunk =
                tokio::time::timeout(PATIENCE, stream.next()).await.expect("a delivery in time");
            for delivery in chunk.unwrap().unwrap() {
                assert_eq!(delivery.message.payload, text);
                delivery.ack().await.unwrap();
            }
            assert_eq!(texts(&follow(&mut *from, 1).await.unwrap()), std::slice::from_ref(&text));
        };
        let sending = send(&*publisher, vec![message("t", "k", text.clone())]);
        futures_util::future::join(waiting, sending).await.1.unwrap().remove(0).unwrap();
    }
}

/// A writer that never pauses commits a few times at most while another waits for its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_writer_keeps_nobody_from_writing() {
    let place = Place::new();
    let (busy, rare) = (
        place.session(Role::Publish, "").await.unwrap(),
        place.session(Role::Publish, "").await.unwrap(),
    );
    declare(&*busy, "busy").await.unwrap();
    declare(&*rare, "rare").await.unwrap();
    // Four under way: whenever one is committed there are others to go on with at once.
    let batches = Arc::new(AtomicU64::new(0));
    let writing: Vec<_> = (0..4)
        .map(|_| {
            let (busy, counting) = (Arc::clone(&busy), Arc::clone(&batches));
            tokio::spawn(async move {
                loop {
                    let batch = (0..50).map(|_| message("busy", "k", vec![7; 100])).collect();
                    assert!(send(&*busy, batch).await.unwrap().iter().all(Result::is_ok));
                    counting.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut overtaken = Vec::new();
    for number in 0..60 {
        let before = batches.load(Ordering::Relaxed);
        let sent = send(&*rare, vec![message("rare", "k", number.to_string())]).await.unwrap();
        assert!(sent.into_iter().all(|receipt| receipt.is_ok()));
        overtaken.push(batches.load(Ordering::Relaxed) - before);
    }
    writing.iter().for_each(tokio::task::JoinHandle::abort);
    overtaken.sort_unstable();
    let median = overtaken[overtaken.len() / 2];
    println!("batches of a busy writer while another waited for its turn: {overtaken:?}");
    assert!(batches.load(Ordering::Relaxed) > 10, "the busy writer was not busy");
    // What is being committed when it comes, and perhaps what was taken together after that.
    assert!(median <= 8, "{overtaken:?}");
}

/// What many publish at the same time is written together.
#[tokio::test(flavor = "multi_thread")]
async fn many_publishers_share_a_commit() {
    let place = Place::new();
    let session = place.session(Role::Publish, "").await.unwrap();
    declare(&*session, "t").await.unwrap();
    let other = place.sqlite();
    let version =
        || other.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = version();
    // They come while the database is held, and are written when it is let go.
    let mut pending = Vec::new();
    for number in 0..200 {
        pending.extend(
            session.send(vec![message("t", "k", number.to_string())].into()).await.unwrap(),
        );
    }
    other.execute_batch("ROLLBACK").unwrap();
    for receipt in pending {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    assert_ne!(version(), before);
    let mut from = reader(&*session, "t", Position::Earliest).await.unwrap();
    let times: std::collections::BTreeSet<_> =
        rest(&mut *from).await.unwrap().iter().map(|record| record.time).collect();
    // A transaction has one time.
    assert!(times.len() <= 20, "200 messages took {} transactions", times.len());
}

#[tokio::test]
async fn both_layouts_may_be_asked_for_by_the_dialect() {
    let place = Place::new();
    let url = place.url("");
    let transport = busline_transports::open(&url).unwrap();
    let connect = Connect {
        dialect: busline_core::transport::Dialect::Hermes,
        ..Connect::new(Role::Publish)
    };
    let session = transport.connect(connect).await.unwrap();
    declare(&*session, HERMES).await.unwrap();
    assert_eq!(session.capabilities(&Default::default()).profile, "sqlite, hermes");
    session.close(Duration::from_secs(10)).await.unwrap();
    let error = transport.connect(Connect::new(Role::Publish)).await.unwrap_err();
    assert!(error.to_string().contains("add layout=hermes"), "{error}");
}
