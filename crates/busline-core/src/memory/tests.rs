//! What is particular to the memory transport; the contract itself is tested by the suite.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::{MemoryOptions, MemoryTransport};
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::transport::{
    Connect, GroupSpec, Membership, Retention, Role, Session, Subscribe, Subscription, TopicSpec,
    Topology, Transport,
};
use crate::{Delivery, GroupName, Key, Message, PublishError, Receipt, Timestamp, Topic};

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn message(payload: &str) -> Message {
    Message::new(topic(), Key::empty(), payload.to_owned())
}

async fn session(transport: &MemoryTransport) -> Arc<dyn Session> {
    transport.connect(Connect::new(Role::Consume)).await.unwrap()
}

async fn declare(session: &dyn Session, retention: Option<Retention>) -> Box<dyn Subscription> {
    let group = GroupName::new("g").unwrap();
    let topology = Topology {
        topics: vec![TopicSpec { retention, ..TopicSpec::new(topic()) }],
        groups: vec![GroupSpec::new(topic(), group.clone())],
        ..Topology::default()
    };
    session.declare(&topology).await.unwrap();
    session.subscribe(Subscribe::new(topic(), Membership::Group(group))).await.unwrap()
}

async fn next(subscription: &mut dyn Subscription) -> Vec<Delivery> {
    subscription.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_name_is_shared_while_somebody_holds_it() {
    let (one, two) = (MemoryTransport::named("shared"), MemoryTransport::named("shared"));
    let declared = session(&one).await;
    drop(declare(&*declared, None).await);
    let sent = session(&two).await.send(vec![message("x")].into()).await;
    assert!(sent.is_ok());
    drop((one, two, declared));
    let again = MemoryTransport::named("shared");
    let sent = session(&again).await.send(vec![message("x")].into()).await;
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_blocked_broker_accepts_a_window_and_keeps_the_order() {
    let options = MemoryOptions { window: 3, ..MemoryOptions::default() };
    let transport = MemoryTransport::with_options(options);
    assert!(!transport.may_disconnect());
    let broker = transport.broker();
    assert!(transport.may_disconnect());
    let session = session(&transport).await;
    let mut subscription = declare(&*session, None).await;
    broker.block("no room");
    let batch: Vec<_> = ["1", "2", "3", "4"].map(message).into();
    // A batch above the window takes all of it, and is not split.
    let receipts = session.send(batch.into()).await.unwrap();
    let mut later = Box::pin(session.send(vec![message("5")].into()));
    assert!((&mut later).now_or_never().is_none());
    broker.unblock();
    for receipt in later.await.unwrap().into_iter().chain(receipts) {
        assert!(matches!(receipt.await, Ok(Receipt::Stored { .. })));
    }
    let payloads: Vec<_> = next(&mut *subscription)
        .await
        .into_iter()
        .map(|delivery| {
            let payload = delivery.message.payload.clone();
            drop(delivery.ack());
            payload
        })
        .collect();
    assert_eq!(payloads, ["1", "2", "3", "4", "5"]);

    broker.block("again");
    let receipts = session.send(vec![message("6")].into()).await.unwrap();
    broker.restart();
    for receipt in receipts {
        assert!(matches!(receipt.await, Err(PublishError::Unknown(_))));
    }
    assert_eq!(subscription.next().await.unwrap_err().kind(), ErrorKind::Disconnected);
}

#[tokio::test]
async fn a_broker_may_say_no_and_may_not_be_there() {
    let transport = MemoryTransport::new();
    let broker = transport.broker();
    let session = session(&transport).await;
    drop(declare(&*session, None).await);
    broker.nack_next(1, "the disk is on fire");
    let receipts = session.send(vec![message("1"), message("2")].into()).await.unwrap();
    let mut published = Vec::new();
    for receipt in receipts {
        published.push(receipt.await);
    }
    let [Err(PublishError::Nacked(why)), Ok(Receipt::Stored { .. })] = &published[..] else {
        panic!("{published:?}")
    };
    assert!(why.to_string().contains("on fire"));

    broker.block("low on memory");
    broker.unblock();
    for wanted in ["Blocked(\"low on memory\")", "Unblocked"] {
        assert_eq!(format!("{:?}", session.next_event().await), wanted);
    }
    assert_eq!(broker.sessions(), 1);
    broker.refuse_connects(true);
    let refused = transport.connect(Connect::new(Role::Publish)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Disconnected);
    // Sessions that are there stay.
    assert!(session.send(vec![message("3")].into()).await.is_ok());
    broker.refuse_connects(false);
    assert!(transport.connect(Connect::new(Role::Publish)).await.is_ok());
}

#[tokio::test]
async fn a_misspelt_option_of_ours_is_refused_and_others_are_not_looked_at() {
    let transport = MemoryTransport::new();
    let session = session(&transport).await;
    for (option, good) in [("memory.windwo", false), ("amqp.queue_type", true)] {
        let mut spec = TopicSpec::new(topic());
        spec.options.insert(option.to_owned(), "1".to_owned());
        let topology = Topology { topics: vec![spec], ..Topology::default() };
        assert_eq!(session.declare(&topology).await.is_ok(), good, "{option}");
    }
}

#[tokio::test]
async fn a_group_whose_dead_letters_could_have_no_name_is_refused() {
    let transport = MemoryTransport::new();
    let session = session(&transport).await;
    let long = Topic::new("t".repeat(250)).unwrap();
    let topology = Topology {
        topics: vec![TopicSpec::new(long.clone())],
        groups: vec![GroupSpec::new(long, GroupName::new("g").unwrap())],
        ..Topology::default()
    };
    assert_eq!(session.declare(&topology).await.unwrap_err().kind(), ErrorKind::Limit);
    assert!(session.admin().unwrap().topics().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_of_a_broadcast_can_be_rejected_and_leaves_no_dead_letters() {
    let transport = MemoryTransport::new();
    let session = session(&transport).await;
    drop(declare(&*session, None).await);
    let all = Membership::Broadcast(crate::Patterns::all());
    let mut stream = session.subscribe(Subscribe::new(topic(), all)).await.unwrap();
    drop(session.send(vec![message("1")].into()).await.unwrap());
    for delivery in next(&mut *stream).await {
        delivery.reject("no").await.unwrap();
    }
    assert_eq!(session.admin().unwrap().topics().await.unwrap().len(), 1);
}

#[tokio::test]
async fn retention_bounds_what_is_held() {
    let clock = ManualClock::new(Timestamp::from_unix_ms(0));
    let transport = MemoryTransport::with_clock(Arc::new(clock.clone()));
    let session = session(&transport).await;
    let second = Duration::from_secs(1);
    let age = Retention { age_max: Some(second), bytes_max: None, ignore_groups: false };
    let mut subscription = declare(&*session, Some(age)).await;
    let kept = async || session.admin().unwrap().topics().await.unwrap()[0].messages;
    drop(session.send(vec![message("1"), message("2")].into()).await.unwrap());
    clock.advance(2 * second);
    assert_eq!(kept().await, 2, "the group needs them");
    for delivery in next(&mut *subscription).await {
        delivery.ack().await.unwrap();
    }
    assert_eq!(kept().await, 0);
}

#[tokio::test]
async fn a_group_expires_when_nobody_is_there() {
    let clock = ManualClock::new(Timestamp::from_unix_ms(0));
    let transport = MemoryTransport::with_clock(Arc::new(clock.clone()));
    let session = session(&transport).await;
    let group = GroupName::new("g").unwrap();
    let hour = Duration::from_secs(3600);
    clock.advance(hour);
    let spec = GroupSpec { expires_after: Some(hour), ..GroupSpec::new(topic(), group.clone()) };
    let topology = Topology {
        topics: vec![TopicSpec::new(topic())],
        groups: vec![spec],
        ..Topology::default()
    };
    session.declare(&topology).await.unwrap();
    let join = Subscribe::new(topic(), Membership::Group(group));
    let mut member = session.subscribe(join.clone()).await.unwrap();
    clock.advance(2 * hour);
    member.stop().await.unwrap();
    clock.advance(hour / 2);
    assert!(session.subscribe(join.clone()).await.is_ok());
    clock.advance(hour);
    let error = session.subscribe(join).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
