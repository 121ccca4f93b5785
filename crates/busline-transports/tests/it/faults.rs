//! `file:` on media that are full or slow, with records that are no messages, and with calls that
//! are given up half-way.

use std::io::ErrorKind::StorageFull;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Batch, Connect, GroupSpec, Membership, Read, Role, Session, Subscribe, Subscription, TopicSpec,
    Topology, Transport,
};
use busline_core::{
    Delivery, ErrorKind, GroupName, HeaderValue, Key, Message, Outcome, PendingReceipt, Position,
    Receipt, Record, Topic, dead,
};
use busline_log::storage::{Call, Fault, FaultyStorage, Gate, MemStorage, Storage};
use busline_log::{Log, Options};
use busline_transports::file::{FileConfig, FileTransport};
use futures_util::FutureExt;
use futures_util::future::join_all;

/// The longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not come, mostly; nothing fails when it is not.
const A_WHILE: Duration = Duration::from_millis(150);
const HOUR: Duration = Duration::from_secs(3600);

fn topic(name: &str) -> Topic {
    Topic::new(name.to_owned()).expect("a topic")
}

fn group() -> GroupName {
    GroupName::new("g").expect("a group")
}

fn spec(name: &str) -> GroupSpec {
    GroupSpec { start: Position::Earliest, ..GroupSpec::new(topic(name), group()) }
}

/// A session on a bus with these topics, each with the group `g`.
async fn session_on(
    storage: &Arc<dyn Storage>,
    full_wait: Duration,
    groups: &[GroupSpec],
) -> Arc<dyn Session> {
    let config = FileConfig { full_wait, ..FileConfig::new("/bus") };
    let transport = FileTransport::on(config, Arc::clone(storage));
    let session = transport.connect(Connect::new(Role::Consume)).await.expect("a session");
    let topics = groups.iter().map(|spec| TopicSpec::new(spec.topic.clone())).collect();
    let topology = Topology { topics, groups: groups.to_vec(), ..Topology::default() };
    session.declare(&topology).await.expect("the topology is declared");
    session
}

fn faulty() -> (FaultyStorage, Arc<dyn Storage>) {
    let storage = FaultyStorage::over_memory(&MemStorage::new());
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    (storage, shared)
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn stays_pending<T>(what: &str, future: impl Future<Output = T>) {
    assert!(tokio::time::timeout(A_WHILE, future).await.is_err(), "{what} does not wait");
}

async fn send(session: &dyn Session, to: &str, texts: &[&str]) -> Vec<PendingReceipt> {
    let message = |text: &&str| Message::new(topic(to), Key::empty(), (*text).to_owned());
    let batch: Batch = texts.iter().map(message).collect::<Vec<_>>().into();
    soon("acceptance", session.send(batch)).await.expect("it is accepted")
}

async fn publish(session: &dyn Session, to: &str, texts: &[&str]) {
    for receipt in send(session, to, texts).await {
        let stored = soon("a receipt", receipt).await;
        assert!(matches!(stored, Ok(Receipt::Stored { .. })), "{stored:?}");
    }
}

async fn join(session: &dyn Session, to: &str) -> Box<dyn Subscription> {
    let subscribe = Subscribe::new(topic(to), Membership::Group(group()));
    session.subscribe(subscribe).await.expect("a subscription")
}

async fn next(subscription: &mut Box<dyn Subscription>) -> Vec<Delivery> {
    let chunk = soon("the next delivery", subscription.next()).await;
    chunk.expect("no error").expect("no end")
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.payload).expect("UTF-8")
}

async fn read(session: &dyn Session, from: &str) -> Vec<Record> {
    let opened = session.read(Read::new(topic(from), Position::Earliest)).await;
    opened.expect("a reader").next().await.expect("records")
}

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| text(&record.message)).collect()
}

#[tokio::test]
async fn a_topic_without_room_holds_up_neither_others_nor_settles() {
    let (storage, shared) = faulty();
    let session = session_on(&shared, HOUR, &[spec("full"), spec("free")]).await;
    let full = Fault::new(Call::Write, StorageFull).on("topics/full/log/0").always();
    storage.plan().add(full);
    let mut waiting = send(&*session, "full", &["1", "2"]).await;
    waiting.extend(send(&*session, "full", &["3"]).await);
    let mut all = Box::pin(join_all(waiting));
    stays_pending("a publish to a full topic", &mut all).await;
    publish(&*session, "free", &["a"]).await;
    let mut subscription = join(&*session, "free").await;
    let delivery = next(&mut subscription).await.remove(0);
    soon("a settle", delivery.ack()).await.unwrap();
    stays_pending("a publish to a full topic", &mut all).await;
    storage.plan().clear();
    let receipts = soon("the receipts", all).await;
    assert!(receipts.iter().all(Result::is_ok), "{receipts:?}");
    assert_eq!(texts(&read(&*session, "full").await), ["1", "2", "3"]);
}

#[tokio::test]
async fn settles_wait_for_room_and_their_member_for_them() {
    let (storage, shared) = faulty();
    let session = session_on(&shared, HOUR, &[spec("t")]).await;
    publish(&*session, "t", &["acked", "later"]).await;
    let mut subscription = join(&*session, "t").await;
    let mut chunk = next(&mut subscription).await;
    let (later, acked) = (chunk.remove(1), chunk.remove(0));
    storage.plan().add(Fault::new(Call::Write, StorageFull).on("/groups/").always());
    let mut settled = Box::pin(acked.ack());
    later.settle_quietly(Outcome::Retry { after: None });
    stays_pending("an ack on a full disk", &mut settled).await;
    // The member is gone; it must not leave before its settles, or they would be lost.
    drop(subscription);
    stays_pending("an ack on a full disk", &mut settled).await;
    storage.plan().clear();
    soon("the ack", settled).await.unwrap();
    let mut other = join(&*session, "t").await;
    let delivery = next(&mut other).await.remove(0);
    assert_eq!((text(&delivery.message), delivery.attempt.number), ("later", 2));
}

#[tokio::test]
async fn a_settle_that_waits_for_too_long_says_that_the_disk_is_full() {
    let (storage, shared) = faulty();
    let session = session_on(&shared, Duration::from_millis(50), &[spec("t")]).await;
    publish(&*session, "t", &["a"]).await;
    let mut subscription = join(&*session, "t").await;
    let delivery = next(&mut subscription).await.remove(0);
    storage.plan().add(Fault::new(Call::Write, StorageFull).on("/groups/").always());
    let error = soon("the answer", delivery.ack()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
}

#[tokio::test]
async fn what_waits_for_the_disk_is_bounded_by_bytes() {
    let (storage, shared) = faulty();
    let session = session_on(&shared, HOUR, &[spec("full")]).await;
    let full = Fault::new(Call::Write, StorageFull).on("topics/full/log/0").always();
    storage.plan().add(full);
    let large = bytes::Bytes::from(vec![0; 15 << 20]);
    let batch = || Batch::from(vec![Message::new(topic("full"), Key::empty(), large.clone())]);
    let mut receipts = Vec::new();
    for _ in 0..4 {
        receipts.extend(soon("acceptance", session.send(batch())).await.unwrap());
    }
    let mut fifth = Box::pin(session.send(batch()));
    stays_pending("a fifth message of 15 MiB", &mut fifth).await;
    storage.plan().clear();
    receipts.extend(soon("acceptance", fifth).await.unwrap());
    for receipt in receipts {
        soon("a receipt", receipt).await.unwrap();
    }
}

#[tokio::test]
async fn who_settles_faster_than_the_disk_gets_only_so_much_more() {
    let (storage, shared) = faulty();
    let session = session_on(&shared, HOUR, &[spec("t")]).await;
    let texts = vec!["x"; 20_000];
    publish(&*session, "t", &texts).await;
    let mut subscription = join(&*session, "t").await;
    let mut first = next(&mut subscription).await;
    let gate = Gate::new();
    storage.plan().add(Fault::hold(Call::Sync, &gate).on("/groups/"));
    let settled = first.remove(0).ack();
    gate.wait_for_arrival();
    let mut got = 1 + first.len();
    first.into_iter().for_each(|delivery| delivery.settle_quietly(Outcome::Ack));
    while let Ok(chunk) = tokio::time::timeout(A_WHILE, subscription.next()).await {
        let chunk = chunk.unwrap().unwrap();
        got += chunk.len();
        chunk.into_iter().for_each(|delivery| delivery.settle_quietly(Outcome::Ack));
        if got == texts.len() {
            break;
        }
    }
    assert!((10_000..18_000).contains(&got), "{got} deliveries while the disk stands still");
    gate.open();
    soon("the first settle", settled).await.unwrap();
    while got < texts.len() {
        let chunk = next(&mut subscription).await;
        got += chunk.len();
        chunk.into_iter().for_each(|delivery| delivery.settle_quietly(Outcome::Ack));
    }
}

#[tokio::test]
async fn a_settle_that_nobody_waits_for_becomes_durable_by_itself() {
    let memory = MemStorage::new();
    let shared: Arc<dyn Storage> = Arc::new(memory.clone());
    let session = session_on(&shared, HOUR, &[spec("t")]).await;
    publish(&*session, "t", &["a"]).await;
    let mut subscription = join(&*session, "t").await;
    next(&mut subscription).await.remove(0).settle_quietly(Outcome::Ack);
    let survives = async {
        loop {
            let after = memory.snapshot();
            after.crash(&mut |_| 0);
            let after: Arc<dyn Storage> = Arc::new(after);
            let session = session_on(&after, HOUR, &[spec("t")]).await;
            let groups = session.admin().expect("an admin").groups(None).await.unwrap();
            if groups[0].acked == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("the settle to become durable", survives).await;
}

#[tokio::test]
async fn a_record_that_is_no_message_ends_in_the_dead_letters_and_stops_nobody() {
    let memory = MemStorage::new();
    let shared: Arc<dyn Storage> = Arc::new(memory.clone());
    let limited = GroupSpec { attempts_max: Some(2), ..spec("t") };
    let session = session_on(&shared, HOUR, &[limited]).await;
    publish(&*session, "t", &["before"]).await;
    let log = Log::open(shared, Path::new("/bus/topics/t/log"), &Options::default(), 0).unwrap();
    // Flags that only a newer version knows.
    let appended = log.appender().append(0, b"key", &[0, 0x80], b"value").unwrap();
    log.commit(appended.next).unwrap();
    publish(&*session, "t", &["behind"]).await;
    let mut subscription = join(&*session, "t").await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for delivery in next(&mut subscription).await {
            seen.push(text(&delivery.message).to_owned());
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(seen, ["before", "behind"]);
    let buried = async {
        loop {
            // Whoever waits for more meets it again.
            stays_pending("the next delivery", subscription.next()).await;
            let dead = dead::dead_topic(&group(), &topic("t")).expect("a topic");
            let read = session.read(Read::new(dead, Position::Earliest)).await;
            if let Ok(mut reader) = read
                && let Some(letter) = reader.next().await.expect("records").pop()
            {
                return letter;
            }
        }
    };
    let letter = soon("the dead letter", buried).await.message;
    assert_eq!((letter.key.as_str(), text(&letter)), ("key", "value"));
    let reason = letter.headers.get(dead::HEADER_REASON).and_then(HeaderValue::as_str);
    assert!(reason.is_some_and(|reason| reason.contains("record 1 is no message")), "{letter:?}");
    let meta = letter.headers.get("busline-raw-meta");
    assert_eq!(meta, Some(&HeaderValue::Bytes(bytes::Bytes::from_static(&[0, 0x80]))));
}

#[tokio::test]
async fn calls_that_are_given_up_leave_readers_and_subscriptions_whole() {
    let shared: Arc<dyn Storage> = Arc::new(MemStorage::new());
    let session = session_on(&shared, HOUR, &[spec("t")]).await;
    publish(&*session, "t", &["1", "2", "3"]).await;
    let mut reader = session.read(Read::new(topic("t"), Position::Earliest)).await.unwrap();
    let third = reader.next().await.unwrap().pop().unwrap().offset;
    drop(reader.seek(Position::Offset(third)).now_or_never());
    assert_eq!(texts(&soon("a read", reader.next()).await.unwrap()), ["3"]);
    drop(reader.seek(Position::Earliest).now_or_never());
    reader.seek(Position::Latest).await.unwrap();
    assert!(reader.next().await.unwrap().is_empty());
    drop(reader.seek(Position::Earliest).now_or_never());
    if let Some(read) = reader.next().now_or_never() {
        // It was quick enough not to be given up.
        assert_eq!(texts(&read.unwrap()), ["1", "2", "3"]);
        reader.seek(Position::Earliest).await.unwrap();
    }
    let elsewhere = busline_core::Offset::new(1, 1);
    assert!(reader.seek(Position::Offset(elsewhere)).await.is_err());
    assert_eq!(texts(&soon("a read", reader.next()).await.unwrap()), ["1", "2", "3"]);

    let mut subscription = join(&*session, "t").await;
    // If it was quick enough, they were handed out, and dropping them counts.
    let attempts = if subscription.next().now_or_never().is_some() { 2 } else { 1 };
    drop(subscription.stop().now_or_never());
    subscription.stop().await.unwrap();
    assert!(subscription.next().await.unwrap().is_none());
    let mut other = join(&*session, "t").await;
    for delivery in next(&mut other).await {
        assert_eq!(delivery.attempt.number, attempts, "{delivery:?}");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_without_end_is_no_reason_to_panic() {
    let shared: Arc<dyn Storage> = Arc::new(MemStorage::new());
    let session = session_on(&shared, Duration::MAX, &[spec("t")]).await;
    publish(&*session, "t", &["a"]).await;
    let membership = Membership::Group(group());
    let endless = Subscribe {
        lease: Duration::MAX,
        hold_max: Some(Duration::MAX),
        ..Subscribe::new(topic("t"), membership)
    };
    let mut subscription = session.subscribe(endless).await.unwrap();
    let delivery = next(&mut subscription).await.remove(0);
    assert!(!delivery.is_lost());
    stays_pending("losing it", delivery.lost()).await;
    delivery.ack().await.unwrap();
}

#[tokio::test]
async fn a_claim_that_was_left_lying_is_not_handed_out_late() {
    let shared: Arc<dyn Storage> = Arc::new(MemStorage::new());
    let session = session_on(&shared, HOUR, &[spec("t")]).await;
    let short = Subscribe {
        lease: Duration::from_millis(20),
        ..Subscribe::new(topic("t"), Membership::Group(group()))
    };
    let mut slow = session.subscribe(short).await.unwrap();
    publish(&*session, "t", &["a"]).await;
    // A claim under way that nobody waits for any more.
    drop(slow.next().now_or_never());
    let mut other = join(&*session, "t").await;
    let theirs = next(&mut other).await.remove(0);
    stays_pending("what the other has", slow.next()).await;
    theirs.ack().await.unwrap();
    stays_pending("what is settled", slow.next()).await;
}

/// Also when it is the topic of the dead letters that cannot be made: a rejection without its letter would be a loss.
#[tokio::test]
async fn a_message_whose_dead_letter_cannot_be_written_is_kept_and_comes_again() {
    for call in [Call::Open, Call::Write, Call::Sync] {
        let (storage, shared) = faulty();
        let session = session_on(&shared, HOUR, &[spec("t")]).await;
        publish(&*session, "t", &["a"]).await;
        let mut subscription = join(&*session, "t").await;
        let delivery = next(&mut subscription).await.remove(0);
        storage.plan().add(Fault::new(call, std::io::ErrorKind::Other).on("t.dead").always());
        let error = soon("the answer", delivery.reject("it is broken")).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Lost, "{call:?}: {error}");
        storage.plan().clear();
        let admin = session.admin().expect("an admin");
        let groups = admin.groups(Some(&topic("t"))).await.unwrap();
        assert_eq!((groups[0].rejected, groups[0].waiting), (0, 1), "{call:?}");
        let again = next(&mut subscription).await.remove(0);
        assert_eq!((text(&again.message), again.attempt.number), ("a", 2), "{call:?}");
    }
}
