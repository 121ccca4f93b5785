//! Sessions of `file:` beyond the contract: what they refuse, and what they let go of.

use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Batch, Connect, DeleteIf, GroupSpec, Membership, OnDifference, Retention, Role, Session,
    Subscribe, TopicSpec, Topology, Transport,
};
use busline_core::{
    ErrorKind, GroupName, Key, ManualClock, Message, Outcome, Result, Timestamp, Topic,
};
use busline_log::Log;
use busline_log::storage::MemStorage;
use busline_transports::file::{FileConfig, FileTransport};

const PATIENCE: Duration = Duration::from_secs(20);

fn topic() -> Topic {
    Topic::new("t").expect("a topic")
}

fn group() -> GroupName {
    GroupName::new("g").expect("a group")
}

fn transport(process: &MemStorage) -> FileTransport {
    FileTransport::on(FileConfig::new("/bus"), Arc::new(process.clone()))
}

async fn connect(transport: &FileTransport) -> Arc<dyn Session> {
    transport.connect(Connect::new(Role::Consume)).await.expect("a session")
}

async fn declare(session: &dyn Session, spec: GroupSpec) -> Result<()> {
    let topics = vec![TopicSpec::new(topic())];
    session.declare(&Topology { topics, groups: vec![spec], ..Topology::default() }).await
}

#[tokio::test]
async fn how_long_a_group_lives_is_said_once() {
    let session = connect(&transport(&MemStorage::new())).await;
    let hour = Some(Duration::from_secs(3600));
    let lives = |expires_after| GroupSpec { expires_after, ..GroupSpec::new(topic(), group()) };
    declare(&*session, lives(hour)).await.unwrap();
    declare(&*session, lives(hour)).await.unwrap();
    for on_difference in [OnDifference::Refuse, OnDifference::Replace, OnDifference::Add] {
        let error = declare(&*session, GroupSpec { on_difference, ..lives(None) }).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let text = error.to_string();
        assert!(text.contains("expires_after, found: 3600000 ms, wanted: never"), "{text}");
    }
}

#[tokio::test]
async fn a_group_that_another_process_declared_anew_can_be_joined_at_once() {
    let medium = MemStorage::new();
    let here = connect(&transport(&medium)).await;
    let there = connect(&transport(&medium.process())).await;
    let spec = || GroupSpec::new(topic(), group());
    declare(&*here, spec()).await.unwrap();
    let admin = there.admin().unwrap();
    admin.delete_group(&topic(), &group(), DeleteIf::default()).await.unwrap();
    declare(&*there, spec()).await.unwrap();
    here.subscribe(Subscribe::new(topic(), Membership::Group(group()))).await.unwrap();
}

/// Also of what it published and consumed, many times over: its thread is done when closing returns.
#[tokio::test]
async fn after_a_close_nothing_is_held_open_though_the_transport_lives() {
    for _ in 0..50 {
        let medium = MemStorage::new();
        let transport = transport(&medium);
        let session = connect(&transport).await;
        declare(&*session, GroupSpec::new(topic(), group())).await.unwrap();
        let subscribe = Subscribe::new(topic(), Membership::Group(group()));
        let mut subscription = session.subscribe(subscribe).await.unwrap();
        let message = Message::new(topic(), Key::empty(), "one");
        for receipt in session.send(Batch::from(vec![message])).await.unwrap() {
            receipt.await.unwrap();
        }
        let next = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap();
        for delivery in next.unwrap().unwrap() {
            delivery.settle_quietly(Outcome::Ack);
        }
        drop(subscription);
        session.close(PATIENCE).await.unwrap();
        drop(session);
        Log::delete(&medium.process(), std::path::Path::new("/bus/topics/t/log")).unwrap();
    }
}

/// What is still held keeps the thread that settles it, and closing does not wait for that.
#[tokio::test]
async fn a_close_does_not_wait_for_a_subscription_that_is_kept() {
    let session = connect(&transport(&MemStorage::new())).await;
    declare(&*session, GroupSpec::new(topic(), group())).await.unwrap();
    let subscribe = Subscribe::new(topic(), Membership::Group(group()));
    let mut subscription = session.subscribe(subscribe).await.unwrap();
    session.close(PATIENCE).await.unwrap();
    assert_eq!(subscription.next().await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn misspelt_options_of_ours_are_refused() {
    let session = connect(&transport(&MemStorage::new())).await;
    declare(&*session, GroupSpec::new(topic(), group())).await.unwrap();
    let mut subscribe = Subscribe::new(topic(), Membership::Group(group()));
    subscribe.options.insert("amqp.priority".to_owned(), "5".to_owned());
    session.subscribe(subscribe.clone()).await.unwrap();
    subscribe.options.insert("file.oops".to_owned(), "5".to_owned());
    let error = session.subscribe(subscribe).await.unwrap_err();
    assert!(error.to_string().contains("no option 'file.oops'"), "{error}");
}

/// Retention that asks no group takes a message that a member holds; a loss of power can do the same.
#[tokio::test]
async fn what_a_group_holds_and_the_topic_lost_is_no_obstacle_to_a_look() {
    let clock = ManualClock::new(Timestamp::from_unix_ms(0));
    let config = FileConfig { segment_bytes: 4096, ..FileConfig::new("/bus") };
    let transport = FileTransport::on(config, Arc::new(MemStorage::new()));
    let session = connect(&transport.with_clock(Arc::new(clock.clone()))).await;
    let retention =
        Retention { bytes_max: Some(4096), ignore_groups: true, ..Retention::default() };
    let topics = vec![TopicSpec { retention: Some(retention), ..TopicSpec::new(topic()) }];
    let groups = vec![GroupSpec::new(topic(), group())];
    session.declare(&Topology { topics, groups, ..Topology::default() }).await.unwrap();
    let publish = async |count: usize| {
        let message = |_| Message::new(topic(), Key::empty(), vec![7; 1_800]);
        let batch: Vec<Message> = (0..count).map(message).collect();
        for receipt in session.send(Batch::from(batch)).await.unwrap() {
            receipt.await.unwrap();
        }
    };
    for _ in 0..8 {
        publish(1).await;
    }
    let subscribe =
        Subscribe { max_in_flight: 1, ..Subscribe::new(topic(), Membership::Group(group())) };
    let mut subscription = session.subscribe(subscribe).await.unwrap();
    let held = tokio::time::timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
    let admin = session.admin().unwrap();
    let first = admin.topics().await.unwrap()[0].earliest.clone();
    clock.advance(Duration::from_secs(11));
    let removed = async {
        while admin.topics().await.unwrap()[0].earliest == first {
            publish(1).await;
            clock.advance(Duration::from_secs(2));
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.unwrap();
    let peeked = admin.peek(&topic(), &group(), None, 100).await.unwrap();
    assert!(!peeked.is_empty() && peeked.iter().all(|peeked| peeked.attempts == 0), "{peeked:?}");
    drop(held);
}
