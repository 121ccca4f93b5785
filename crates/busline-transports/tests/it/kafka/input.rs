//! What nobody should give it: wrong names, options and topics; what was deleted, and made again.

use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Connect, DeleteIf, GroupSpec, Membership, Read, Role, Session, Subscribe, TopicSpec, Topology,
};
use busline_core::{Error, ErrorKind, GroupName, Key, Message, Offset, Position, Receipt, Topic};

use super::broker::Broker;

pub(super) const PATIENCE: Duration = Duration::from_secs(40);

pub(super) fn topic(name: &str) -> Topic {
    Topic::new(format!("{name}-{}", uuid::Uuid::new_v4().simple())).unwrap()
}

pub(super) async fn connect(url: &str) -> Arc<dyn Session> {
    busline_transports::open(url).unwrap().connect(Connect::new(Role::Consume)).await.unwrap()
}

pub(super) async fn declare(session: &dyn Session, topic: &Topic, partitions: Option<&str>) {
    let mut spec = TopicSpec::new(topic.clone());
    if let Some(partitions) = partitions {
        spec.options.insert("kafka.partitions".to_owned(), partitions.to_owned());
    }
    session.declare(&Topology { topics: vec![spec], ..Topology::default() }).await.unwrap();
}

pub(super) async fn publish(session: &dyn Session, topic: &Topic, texts: &[&str]) -> Vec<Offset> {
    let message = |text: &&str| Message::new(topic.clone(), Key::empty(), (*text).to_owned());
    let batch: Vec<_> = texts.iter().map(message).collect();
    let mut offsets = Vec::new();
    for receipt in session.send(batch.into()).await.unwrap() {
        let Receipt::Stored { offset: Some(offset) } = receipt.await.unwrap() else {
            panic!("it has no offset")
        };
        offsets.push(offset);
    }
    offsets
}

fn fails<T>(result: Result<T, Error>, kind: ErrorKind, words: &[&str]) {
    let error = result.map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "'{word}' is not in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_topics_and_options_are_named() {
    let Some(broker) = Broker::shared() else { return };
    let session = connect(&broker.url("")).await;
    let missing = topic("missing");
    let message = Message::new(missing.clone(), Key::empty(), "x");
    let name = missing.as_str();
    fails(session.send(vec![message].into()).await, ErrorKind::NotFound, &[name]);
    let read = Read::new(missing.clone(), Position::Earliest);
    fails(session.read(read).await, ErrorKind::NotFound, &[name]);
    let mut spec = TopicSpec::new(missing.clone());
    spec.options.insert("kafka.partitons".to_owned(), "3".to_owned());
    let misspelt = Topology { topics: vec![spec], ..Topology::default() };
    fails(session.declare(&misspelt).await, ErrorKind::Limit, &["kafka.partitons"]);
    // Nobody has made it by asking for it.
    let listed = session.admin().unwrap().topics().await.unwrap();
    assert!(listed.iter().all(|info| info.topic != missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_not_silently_of_another_shape() {
    let Some(broker) = Broker::shared() else { return };
    let session = connect(&broker.url("")).await;
    let several = topic("several");
    declare(&*session, &several, Some("3")).await;
    let mut spec = TopicSpec::new(several.clone());
    spec.options.insert("kafka.partitions".to_owned(), "4".to_owned());
    let other = Topology { topics: vec![spec], ..Topology::default() };
    fails(session.declare(&other).await, ErrorKind::Conflict, &["3 partitions", "wanted is 4"]);
    // A message bus has one.
    let hermes = connect(&broker.url("&dialect=hermes")).await;
    let words = [several.as_str(), "3 partitions"];
    let read = Read::new(several.clone(), Position::Earliest);
    fails(hermes.read(read).await, ErrorKind::Conflict, &words);
    let message = Message::new(several.clone(), Key::empty(), "{}");
    fails(hermes.send(vec![message].into()).await, ErrorKind::Conflict, &words);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_and_made_again_is_noticed() {
    let Some(broker) = Broker::shared() else { return };
    let session = connect(&broker.url("")).await;
    let topic = topic("again");
    let group = GroupName::new("g").unwrap();
    let groups = vec![GroupSpec::new(topic.clone(), group.clone())];
    let topics = vec![TopicSpec::new(topic.clone())];
    let both = Topology { topics, groups, ..Topology::default() };
    session.declare(&both).await.unwrap();
    let before = publish(&*session, &topic, &["1", "2", "3"]).await;
    let kept = Position::Offset(before[1].clone());
    let from = Read::new(topic.clone(), kept.clone());
    let mut reader = session.read(from.clone()).await.unwrap();
    assert_eq!(reader.next().await.unwrap()[0].message.payload, "2");
    while !reader.next().await.unwrap().is_empty() {}

    session.admin().unwrap().delete_topic(&topic, DeleteIf::default()).await.unwrap();
    declare(&*session, &topic, None).await;
    publish(&*session, &topic, &["a", "b", "c", "d"]).await;
    let words = [before[1].to_string()];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let other = connect(&broker.url("")).await;
    for session in [&session, &other] {
        fails(session.read(from.clone()).await, ErrorKind::Limit, &words);
        let join = Subscribe::new(topic.clone(), Membership::Group(group.clone()));
        fails(session.subscribe(join).await, ErrorKind::NotFound, &["'g'"]);
    }
    // The reader of before is told, and reads nothing of it.
    let told = async {
        loop {
            match reader.next().await {
                Err(error) => return error,
                Ok(records) => assert!(records.is_empty(), "{records:?}"),
            }
            reader.wait().await.unwrap_or(());
        }
    };
    let error = tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert!(matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound), "{error}");
    assert!(error.to_string().contains(topic.as_str()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_topic_does_not_take_is_not_stored() {
    let Some(broker) = Broker::shared() else { return };
    // Its topics take what this session sends, and no more.
    let small = connect(&broker.url("&message_max=2048")).await;
    let large = connect(&broker.url("&message_max=4194304")).await;
    let topic = topic("small");
    declare(&*small, &topic, None).await;
    let message = Message::new(topic.clone(), Key::empty(), vec![7_u8; 3 << 20]);
    fails(small.send(vec![message.clone()].into()).await, ErrorKind::Limit, &["2048"]);
    let receipt = large.send(vec![message].into()).await.unwrap().remove(0);
    let error = Error::from(receipt.await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("max.message.bytes"), "{error}");
    publish(&*large, &topic, &["fits"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_logs_refuses_groups() {
    let Some(broker) = Broker::shared() else { return };
    let session = connect(&broker.url("&dialect=hermes")).await;
    let topic = topic("logs");
    declare(&*session, &topic, None).await;
    let spec = GroupSpec::new(topic.clone(), GroupName::new("g").unwrap());
    let group = Topology { groups: vec![spec], ..Topology::default() };
    fails(session.declare(&group).await, ErrorKind::Refused, &["groups", "read the log"]);
    let join = Subscribe::new(topic, Membership::Group(GroupName::new("g").unwrap()));
    fails(session.subscribe(join).await, ErrorKind::Refused, &["group"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_several_partitions_share_and_take_over() {
    let Some(broker) = Broker::shared() else { return };
    let (one, two) = (connect(&broker.url("")).await, connect(&broker.url("")).await);
    let topic = topic("shared");
    declare(&*one, &topic, Some("4")).await;
    let group = GroupName::new("g").unwrap();
    let spec = GroupSpec::new(topic.clone(), group.clone());
    one.declare(&Topology { groups: vec![spec], ..Topology::default() }).await.unwrap();
    let join = || Subscribe::new(topic.clone(), Membership::Group(group.clone()));
    let mut first = one.subscribe(join()).await.unwrap();
    let mut second = two.subscribe(join()).await.unwrap();
    let (mut seen, mut by_second) = (std::collections::BTreeSet::new(), 0);
    let mut round = 0;
    // Until both had something: the group moves partitions when it notices the second member.
    let sharing = async {
        while by_second == 0 || round < 3 {
            let texts: Vec<_> = (0..40).map(|number| format!("{round}.{number}")).collect();
            let lane = |text: &String| Message {
                ordering_key: Some(text.clone().into()),
                ..Message::new(topic.clone(), Key::empty(), text.clone())
            };
            let batch: Vec<_> = texts.iter().map(lane).collect();
            for receipt in one.send(batch.into()).await.unwrap() {
                receipt.await.unwrap();
            }
            round += 1;
            while seen.len() < round * 40 {
                let (chunk, is_second) = tokio::select! {
                    chunk = first.next() => (chunk.unwrap().unwrap(), false),
                    chunk = second.next() => (chunk.unwrap().unwrap(), true),
                };
                for delivery in chunk {
                    let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
                    if delivery.ack().await.is_ok() {
                        assert!(seen.insert(text.clone()), "'{text}' came twice");
                        by_second += usize::from(is_second);
                    }
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, sharing).await.unwrap();
    // The first one dies: the second gets everything.
    drop((first, one));
    let texts = ["x", "y", "z", "w", "v", "u"];
    publish(&*two, &topic, &texts).await;
    let mut left: std::collections::BTreeSet<_> = texts.into_iter().map(str::to_owned).collect();
    let taking = async {
        while !left.is_empty() {
            for delivery in second.next().await.unwrap().unwrap() {
                left.remove(&*String::from_utf8_lossy(&delivery.message.payload));
                drop(delivery.ack().await);
            }
        }
    };
    tokio::time::timeout(PATIENCE, taking).await.unwrap();
}
