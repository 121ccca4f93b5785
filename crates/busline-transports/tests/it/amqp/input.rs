//! What nobody should send, and what is not ours: names, arguments, headers.

use std::collections::BTreeSet;
use std::time::Duration;

use busline_core::dead;
use busline_core::link::Link;
use busline_core::transport::{GroupSpec, Membership, Subscribe, TopicSpec, Topology};
use busline_core::{ErrorKind, GroupName, HeaderValue, Key, Topic};
use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, DecimalValue, FieldTable};
use lapin::{BasicProperties, ConnectionProperties};

use super::broker::{Broker, Vhost};
use super::faults::{PATIENCE, declare, group, join, link, message, topic};

/// Another program, which goes by no rules of ours.
async fn stranger(vhost: &Vhost) -> (lapin::Connection, lapin::Channel) {
    let url = format!("amqp://guest:guest@{}/{}", vhost.broker.address(), vhost.name);
    let connection = lapin::Connection::connect(&url, ConnectionProperties::default()).await;
    let connection = connection.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

fn nested(depth: usize) -> AMQPValue {
    (0..depth).fold(AMQPValue::Void, |inner, depth| {
        if depth % 2 == 0 {
            return AMQPValue::FieldArray(vec![inner].into());
        }
        let mut table = FieldTable::default();
        table.insert("in".into(), inner);
        AMQPValue::FieldTable(table)
    })
}

/// Values of every type that the wire has, and some that are at its edges.
fn values() -> Vec<AMQPValue> {
    vec![
        AMQPValue::Boolean(true),
        AMQPValue::ShortShortInt(-1),
        AMQPValue::ShortShortUInt(255),
        AMQPValue::ShortInt(i16::MIN),
        AMQPValue::ShortUInt(u16::MAX),
        AMQPValue::LongInt(i32::MIN),
        AMQPValue::LongUInt(u32::MAX),
        AMQPValue::LongLongInt(-5),
        AMQPValue::Float(f32::MAX),
        AMQPValue::Double(f64::MIN),
        AMQPValue::DecimalValue(DecimalValue { scale: 255, value: u32::MAX }),
        AMQPValue::LongString("[[".into()),
        AMQPValue::LongString(vec![0xff, 0xfe].into()),
        AMQPValue::LongString("x".repeat(70_000).into()),
        AMQPValue::Timestamp(u64::MAX),
        AMQPValue::ByteArray(vec![0, 255].into()),
        AMQPValue::Void,
        nested(60),
    ]
}

/// Names that mean something to us, or to the broker, and one that does not.
const NAMES: &[&str] = &[
    "busline-conversation-id",
    "busline-causation-id",
    "busline-ordering-key",
    "busline-timestamp-us",
    "busline-headers",
    "busline-sent-us",
    "busline-key",
    "busline-attempts",
    "busline-attempts-least",
    "busline-expiration-ms",
    "x-delivery-count",
    "x-death",
    "x-stream-offset",
    "anything",
];

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_any_type_are_delivered_retried_and_rejected() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&[vhost.url(&broker.address(), "")]);
    declare(&link).await;
    let (_connection, channel) = stranger(&vhost).await;
    let values = values();
    for (index, value) in values.iter().enumerate() {
        let mut headers = FieldTable::default();
        for name in NAMES {
            // A large one everywhere would not fit into a frame.
            let large = matches!(value, AMQPValue::LongString(text) if text.len() > 1000);
            if !large || *name == "anything" {
                headers.insert((*name).into(), value.clone());
            }
        }
        let properties = BasicProperties::default().with_headers(headers).with_timestamp(u64::MAX);
        let (options, payload) = (BasicPublishOptions::default(), index.to_string());
        let publish = channel.basic_publish(
            "things".into(),
            "a.key".into(),
            options,
            payload.as_bytes(),
            properties,
        );
        publish.await.unwrap();
    }
    let mut stream = join(&link).await;
    // Those that claim many attempts are rejected before anybody sees them.
    let settling = tokio::spawn(async move {
        let mut retried = BTreeSet::new();
        while let Ok(Some(chunk)) = stream.next().await {
            for delivery in chunk {
                if retried.insert(delivery.message.payload.clone()) {
                    delivery.retry(None).await.unwrap();
                } else {
                    delivery.reject("not ours").await.unwrap();
                }
            }
        }
    });
    let dead = dead::dead_topic(&group(), &topic()).unwrap();
    let letters = Subscribe::new(dead.clone(), Membership::Group(dead::dead_group()));
    declare_dead(&link, dead).await;
    let mut letters = link.subscribe(letters).await.unwrap();
    let mut missing: BTreeSet<_> = (0..values.len()).map(|index| index.to_string()).collect();
    let reading = async {
        while !missing.is_empty() {
            for letter in letters.next().await.unwrap().unwrap() {
                missing.remove(std::str::from_utf8(&letter.message.payload).unwrap());
                letter.ack().await.unwrap();
            }
        }
    };
    let came = tokio::time::timeout(PATIENCE, reading).await;
    assert!(came.is_ok() && !settling.is_finished(), "no dead letter: {missing:?}");
    settling.abort();
}

/// The dead letters of a group, as they are declared with the first of them.
async fn declare_dead(link: &Link, dead: Topic) {
    let spec = GroupSpec::new(dead.clone(), dead::dead_group());
    let groups = vec![GroupSpec { attempts_max: None, ..spec }];
    let topology = Topology { topics: vec![TopicSpec::new(dead)], groups, ..Topology::default() };
    link.declare(&topology).await.unwrap();
}

#[tokio::test]
async fn an_exchange_of_another_kind_is_a_conflict_that_says_what_differs() {
    let Some(broker) = Broker::shared() else { return };
    for (body, words) in [
        (r#"{"type":"fanout","durable":true}"#, ["'things'", "type", "fanout"]),
        (r#"{"type":"topic","durable":false}"#, ["'things'", "durable", "false"]),
        (
            r#"{"type":"topic","durable":true,"auto_delete":true}"#,
            ["'things'", "auto_delete", "true"],
        ),
    ] {
        let vhost = broker.vhost();
        let path = format!("/api/exchanges/{}/things", vhost.name);
        broker.request("PUT", &path, body).unwrap();
        let link = link(&[vhost.url(&broker.address(), "")]);
        let topics = vec![TopicSpec::new(topic())];
        let error = link.declare(&Topology { topics, ..Topology::default() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}

#[tokio::test]
async fn names_over_255_bytes_are_refused_before_anything_is_sent() {
    let key = Key::new("k".repeat(256)).unwrap_err();
    assert_eq!(key.kind(), ErrorKind::Limit, "{key}");
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&[vhost.url(&broker.address(), "")]);
    let topic = Topic::new("t".repeat(150)).unwrap();
    let group = GroupName::new("g".repeat(150)).unwrap();
    let topology = Topology {
        topics: vec![TopicSpec::new(topic.clone())],
        groups: vec![GroupSpec::new(topic, group)],
        ..Topology::default()
    };
    let error = link.declare(&topology).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("255"), "{error}");
    let exchanges = broker.request("GET", &format!("/api/exchanges/{}", vhost.name), "").unwrap();
    assert!(!exchanges.contains("ttt"), "the topic was made: {exchanges}");
}

/// Each look ends a consumer and its channel, while others go on with the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_that_many_declare_and_join_at_once() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&[vhost.url(&broker.address(), "")]);
    declare(&link).await;
    let session = link.session(busline_core::transport::Role::Consume).await.unwrap();
    let rounds = (0..8).map(|_| async {
        for _ in 0..25 {
            let groups = vec![GroupSpec::new(topic(), group())];
            session.declare(&Topology { groups, ..Topology::default() }).await.unwrap();
            let membership = Membership::Group(group());
            drop(session.subscribe(Subscribe::new(topic(), membership)).await.unwrap());
        }
    });
    let all = tokio::time::timeout(2 * PATIENCE, join_all(rounds)).await;
    assert!(all.is_ok(), "declaring and joining did not end");
    let over = tokio::time::timeout(Duration::ZERO, session.next_event()).await;
    assert!(over.is_err(), "{over:?}");
}

/// The broker itself cannot read them.
#[tokio::test(flavor = "multi_thread")]
async fn floats_that_are_no_numbers_travel_too() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&[vhost.url(&broker.address(), "")]);
    declare(&link).await;
    let mut sent = message("one");
    sent.headers.append("float", f64::INFINITY);
    let mut more = message("more");
    for value in [f64::NEG_INFINITY, 0.5] {
        more.headers.append("float", value);
    }
    more.headers.append("list", HeaderValue::List(vec![f64::INFINITY.into()]));
    let sent = [sent, more];
    for receipt in link.send(sent.to_vec().into()).await.unwrap() {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    let mut stream = join(&link).await;
    let mut left = sent.iter();
    while !left.as_slice().is_empty() {
        let came = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap();
        for delivery in came.unwrap().unwrap() {
            assert_eq!(delivery.message.headers, left.next().unwrap().headers);
            delivery.ack().await.unwrap();
        }
    }
}
