//! The dialect of Python services: what is on the wire is what they send, and what they send is understood.
//!
//! `eventail.json` was captured from the library itself, byte by byte.

use std::time::Duration;

use busline_core::link::{Link, LinkOptions, LinkSubscription};
use busline_core::transport::{
    Batch, Dialect, GroupSpec, Membership, OnDifference, Role, Spec, Subscribe, TopicSpec,
    Topology, Transport,
};
use busline_core::{
    Capability, Durability, ErrorKind, GroupName, HeaderValue, Key, KeyPattern, Message, Patterns,
    Receipt, Topic,
};
use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

use super::broker::{Broker, Vhost};

const PATIENCE: Duration = Duration::from_secs(30);
const TOPICS: [&str; 4] = ["events", "commands", "configurations", "logs"];

/// A message as the library put it on the wire.
struct Vector {
    id: String,
    exchange: String,
    key: String,
    mandatory: bool,
    body: Vec<u8>,
    properties: BasicProperties,
    /// The same, as a person reads them.
    read: Value,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn vectors() -> Vec<Vector> {
    let all: Vec<Value> = serde_json::from_str(include_str!("eventail.json")).unwrap();
    let vector = |value: Value| {
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let wire = bytes(&text("content_header_props_hex"));
        let (rest, properties) = lapin::protocol::basic::parse_properties(&wire[..]).unwrap();
        assert!(rest.is_empty(), "{}", text("id"));
        Vector {
            id: text("id"),
            exchange: text("exchange"),
            key: text("routing_key"),
            mandatory: value["mandatory"].as_bool().unwrap(),
            body: bytes(&text("body_hex")),
            properties,
            read: value["properties"].clone(),
        }
    };
    all.into_iter().map(vector).collect()
}

fn topic(name: &str) -> Topic {
    Topic::new(name.to_owned()).unwrap()
}

fn link(vhost: &Vhost) -> Link {
    let url = vhost.url(&vhost.broker.address(), "&dialect=eventail");
    Link::new(vec![busline_transports::open(&url).unwrap()], LinkOptions::default()).unwrap()
}

fn spec(of: &str, group: &str, patterns: &[&str]) -> GroupSpec {
    let patterns = patterns.iter().map(|key| KeyPattern::new((*key).to_owned()).unwrap());
    GroupSpec {
        attempts_max: None,
        patterns: Patterns::new(patterns),
        ..GroupSpec::new(topic(of), GroupName::new(group.to_owned()).unwrap())
    }
}

async fn declare(link: &Link, groups: Vec<GroupSpec>) -> busline_core::Result<()> {
    let topics = TOPICS.map(|name| TopicSpec::new(topic(name))).to_vec();
    link.declare(&Topology { topics, groups, ..Topology::default() }).await
}

async fn join(link: &Link, of: &str, group: &str) -> LinkSubscription {
    let group = Membership::Group(GroupName::new(group.to_owned()).unwrap());
    link.subscribe(Subscribe::new(topic(of), group)).await.unwrap()
}

async fn next(stream: &mut LinkSubscription) -> busline_core::Delivery {
    let chunk = tokio::time::timeout(PATIENCE, stream.next()).await.expect("a delivery in time");
    let mut chunk = chunk.unwrap().unwrap();
    assert_eq!(chunk.len(), 1, "one at a time is published here");
    chunk.remove(0)
}

/// Somebody who knows nothing of us.
async fn raw(vhost: &Vhost) -> (lapin::Connection, lapin::Channel) {
    let url = vhost.url(&vhost.broker.address(), "");
    let url = url.split('?').next().unwrap();
    let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn raw_queue(channel: &lapin::Channel, exchange: &str, key: &str) -> lapin::Consumer {
    let none = FieldTable::default;
    let options = QueueDeclareOptions::exclusive();
    let queue = channel.queue_declare("".into(), options, none()).await.unwrap().name().clone();
    let bind = QueueBindOptions::default();
    channel.queue_bind(queue.clone(), exchange.into(), key.into(), bind, none()).await.unwrap();
    let consume = BasicConsumeOptions::default();
    channel.basic_consume(queue, "".into(), consume, none()).await.unwrap()
}

async fn raw_next(consumer: &mut lapin::Consumer) -> lapin::message::Delivery {
    let came = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("a message in time");
    let came = came.unwrap().unwrap();
    came.ack(BasicAckOptions::default()).await.unwrap();
    came
}

/// What a program says that wants this vector on the wire.
fn said(vector: &Vector) -> Message {
    let mut message = Message::new(
        topic(&vector.exchange),
        Key::new(vector.key.clone()).unwrap(),
        vector.body.clone(),
    );
    let text = |name: &str| {
        let text = vector.read[name].as_str();
        text.filter(|text| !text.is_empty()).map(|text| text.to_owned().into())
    };
    message.properties.content_type = text("content_type");
    message.properties.correlation_id = text("correlation_id");
    message.properties.reply_to = text("reply_to");
    message.properties.content_encoding = text("content_encoding");
    message.properties.priority = vector.read["priority"].as_u64().map(|n| n.try_into().unwrap());
    for (name, value) in vector.read["headers"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap().to_owned();
        match name.as_str() {
            "conversation_id" => message.properties.conversation_id = Some(value.into()),
            _ => message.headers.append(name.as_str(), value),
        }
    }
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_has_exactly_the_properties_of_a_python_program() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&vhost);
    declare(&link, Vec::new()).await.unwrap();
    let (_connection, channel) = raw(&vhost).await;
    let mut kinds = 0;
    for vector in vectors().into_iter().filter(|vector| vector.id != "R1") {
        let mut consumer = raw_queue(&channel, &vector.exchange, &vector.key).await;
        let batch = Batch { messages: vec![said(&vector)], mandatory: vector.mandatory };
        let receipt = link.send(batch).await.unwrap().remove(0).await.unwrap();
        assert!(matches!(receipt, Receipt::Stored { .. }), "{}: {receipt:?}", vector.id);
        let came = raw_next(&mut consumer).await;
        assert_eq!(came.exchange.as_str(), vector.exchange, "{}", vector.id);
        assert_eq!(came.routing_key.as_str(), vector.key, "{}", vector.id);
        assert_eq!(came.data, vector.body, "{}", vector.id);
        assert_eq!(came.properties, vector.properties, "{}", vector.id);
        assert_eq!(came.properties.bitmask(), vector.properties.bitmask(), "{}", vector.id);
        kinds += 1;
    }
    assert_eq!(kinds, 37, "22 of a service, 9 of an endpoint, 6 of command lines");
    // The last, a letter that is put back, must have come before it can be.
    declare(&link, vec![spec("events", "S", &["LabBoom"])]).await.unwrap();
    let mut stream = join(&link, "events", "S").await;
    let mut consumer = raw_queue(&channel, "events", "LabBoom").await;
    let letter = vectors().into_iter().find(|vector| vector.id == "R1").unwrap();
    let (options, properties) = (BasicPublishOptions::default(), letter.properties.clone());
    let (exchange, key) = ("events".into(), "LabBoom".into());
    channel.basic_publish(exchange, key, options, &letter.body, properties).await.unwrap();
    let delivery = next(&mut stream).await;
    link.send(vec![delivery.message.clone()].into()).await.unwrap().remove(0).await.unwrap();
    delivery.ack().await.unwrap();
    for _ in 0..2 {
        let came = raw_next(&mut consumer).await;
        assert_eq!((&came.data, &came.properties), (&letter.body, &letter.properties), "R1");
    }
    // An answer to a command that had no id.
    let mut consumer = raw_queue(&channel, "commands", "S.Return").await;
    let answer = Message::new(topic("commands"), Key::new("S.Return").unwrap(), "x");
    link.send(vec![answer.header("status", "success")].into())
        .await
        .unwrap()
        .remove(0)
        .await
        .unwrap();
    let came = raw_next(&mut consumer).await.properties;
    let ids = (came.correlation_id(), came.reply_to().as_ref().map(|text| text.as_str()));
    assert_eq!(ids, (&None, Some("")));
    // What goes nowhere comes back, and a log is never asked about.
    let lost = Message::new(topic("commands"), Key::new("nobody.Does").unwrap(), "x");
    let batch = Batch { messages: vec![lost], mandatory: true };
    let receipt = link.send(batch).await.unwrap().remove(0).await.unwrap();
    assert!(matches!(receipt, Receipt::Unroutable));
    let session = link.session(Role::Publish).await.unwrap();
    let mut about = Spec::default();
    about.topic = Some(topic("logs"));
    let promised = session.capabilities(&about);
    assert_eq!(promised.durability, Durability::Memory);
    let log = Message::new(topic("logs"), Key::new("s.INFO").unwrap(), "{}");
    let refused = link.send(Batch { messages: vec![log], mandatory: true }).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_of_a_python_program_is_understood() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&vhost);
    declare(&link, TOPICS.map(|of| spec(of, "S", &["#"])).to_vec()).await.unwrap();
    let (_connection, channel) = raw(&vhost).await;
    let all = vectors();
    assert_eq!(all.len(), 38);
    for of in TOPICS {
        let mut stream = join(&link, of, "S").await;
        for vector in all.iter().filter(|vector| vector.exchange == of) {
            let (exchange, key) = (of.into(), vector.key.clone().into());
            let (options, properties) = (BasicPublishOptions::default(), vector.properties.clone());
            channel.basic_publish(exchange, key, options, &vector.body, properties).await.unwrap();
            let delivery = next(&mut stream).await;
            let (came, id) = (&delivery.message, &vector.id);
            assert_eq!((delivery.attempt.number, delivery.attempt.exact), (1, false), "{id}");
            assert_eq!((came.topic.as_str(), came.key.as_str()), (of, &*vector.key), "{id}");
            assert_eq!(came.payload, vector.body, "{id}");
            let properties = &came.properties;
            assert_eq!(properties.message_id, None, "{id}");
            let given = |name: &str| vector.read[name].as_str().filter(|text| !text.is_empty());
            assert_eq!(properties.content_type.as_deref(), given("content_type"), "{id}");
            assert_eq!(properties.correlation_id.as_deref(), given("correlation_id"), "{id}");
            assert_eq!(properties.reply_to.as_deref(), given("reply_to"), "{id}");
            let conversation = vector.read["headers"]["conversation_id"].as_str();
            assert_eq!(properties.conversation_id.as_deref(), conversation, "{id}");
            let headers = vector.read["headers"].as_object().into_iter().flatten();
            let others = headers.filter(|(name, _)| *name != "conversation_id");
            assert_eq!(came.headers.iter().count(), others.clone().count(), "{id}");
            for (name, value) in others.filter(|(_, value)| value.is_string()) {
                let found = came.headers.get(name).and_then(HeaderValue::as_str);
                assert_eq!(found, value.as_str(), "{id}: {name}");
            }
            delivery.ack().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_about_a_message_can_be_seen() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&vhost);
    declare(&link, vec![spec("events", "S", &["#"])]).await.unwrap();
    let mut stream = join(&link, "events", "S").await;
    let (_connection, channel) = raw(&vhost).await;
    let publish = async |properties: BasicProperties| {
        let (options, key) = (BasicPublishOptions::default(), "Odd".into());
        channel.basic_publish("events".into(), key, options, b"", properties).await.unwrap();
    };
    let with = |name: &str, value: AMQPValue| {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        BasicProperties::default().with_headers(headers)
    };
    // No header at all, an id that is a number, an empty one.
    publish(BasicProperties::default()).await;
    let none = next(&mut stream).await;
    assert_eq!(none.message.properties.conversation_id, None);
    assert!(none.message.headers.get("conversation_id").is_none());
    none.ack().await.unwrap();
    publish(with("conversation_id", AMQPValue::LongInt(77))).await;
    let number = next(&mut stream).await;
    assert_eq!(number.message.properties.conversation_id, None);
    assert_eq!(number.message.headers.get("conversation_id"), Some(&HeaderValue::Int(77)));
    number.ack().await.unwrap();
    publish(with("conversation_id", AMQPValue::LongString("".into()))).await;
    let empty = next(&mut stream).await;
    assert_eq!(empty.message.properties.conversation_id.as_deref(), Some(""));
    empty.ack().await.unwrap();
    // Headers that mean something in our own dialect mean nothing here, and the user is shown.
    let meant = with("busline-key", AMQPValue::LongString("Other".into()));
    let meant = meant.with_user_id("guest".into()).with_app_id("app".into());
    publish(meant.with_timestamp(1_700_000_000).with_expiration("60000".into())).await;
    let came = next(&mut stream).await;
    assert_eq!(came.message.key.as_str(), "Odd");
    let header = |name: &str| came.message.headers.get(name).and_then(HeaderValue::as_str);
    assert_eq!((header("busline-key"), header("user_id")), (Some("Other"), Some("guest")));
    let properties = &came.message.properties;
    assert_eq!(properties.app_id.as_deref(), Some("app"));
    assert_eq!(properties.expiration, Some(Duration::from_secs(60)));
    assert_eq!(properties.timestamp.map(|t| t.unix_us()), Some(1_700_000_000_000_000));
    came.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_given_back_and_rejects_go_where_the_policy_says() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let policy = r#"{"pattern":".*\\.events|.*\\.commands","definition":{"dead-letter-exchange":"am-dlx"},"apply-to":"queues"}"#;
    broker.request("PUT", &format!("/api/policies/{}/am-dlx", vhost.name), policy).unwrap();
    let (_connection, channel) = raw(&vhost).await;
    let (fanout, durable) = (lapin::ExchangeKind::Fanout, ExchangeDeclareOptions::default());
    channel
        .exchange_declare("am-dlx".into(), fanout, durable, FieldTable::default())
        .await
        .unwrap();
    let mut dead = raw_queue(&channel, "am-dlx", "").await;
    let link = link(&vhost);
    declare(&link, vec![spec("commands", "S", &["S.Boom"])]).await.unwrap();
    let mut stream = join(&link, "commands", "S").await;
    let boom = vectors().into_iter().find(|vector| vector.id == "S3").unwrap();
    let message = Message { key: Key::new("S.Boom").unwrap(), ..said(&boom) };
    link.send(vec![message].into()).await.unwrap().remove(0).await.unwrap();
    let first = next(&mut stream).await;
    assert_eq!((first.attempt.number, first.attempt.exact), (1, false));
    first.retry(None).await.unwrap();
    let second = next(&mut stream).await;
    assert_eq!((second.attempt.number, second.attempt.exact), (2, false), "at least two");
    // Held here until it is due: nobody sees it meanwhile, and it was not sent anywhere.
    let delay = Duration::from_millis(300);
    let before = tokio::time::Instant::now();
    second.retry(delay).await.unwrap();
    let third = next(&mut stream).await;
    assert!(before.elapsed() >= delay, "{:?}", before.elapsed());
    assert_eq!((third.attempt.number, third.attempt.exact), (2, false));
    third.reject("it cannot be done").await.unwrap();
    let letter = raw_next(&mut dead).await;
    assert_eq!((letter.routing_key.as_str(), &letter.data), ("S.Boom", &boom.body));
    let (came, sent) = (&letter.properties, &boom.properties);
    assert_eq!(came.reply_to(), sent.reply_to());
    assert_eq!(came.correlation_id(), sent.correlation_id());
    assert_eq!(came.content_type(), sent.content_type());
    let header = |name: &str| came.headers().as_ref().unwrap().inner().get(name).cloned();
    let reason = header("x-first-death-reason");
    assert_eq!(reason, Some(AMQPValue::LongString("rejected".into())));
    assert_eq!(header("conversation_id"), Some(AMQPValue::LongString("conv-3".into())));
    assert_eq!(header("busline-dead-reason"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_is_what_python_services_declare() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&vhost);
    let groups = vec![spec("events", "a.S", &["One"]), spec("commands", "a.S", &["S.#"])];
    declare(&link, groups).await.unwrap();
    // Any argument more or less, and the broker would refuse.
    let (_connection, channel) = raw(&vhost).await;
    let none = FieldTable::default;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    for name in TOPICS {
        let kind = lapin::ExchangeKind::Topic;
        channel.exchange_declare(name.into(), kind, durable, none()).await.unwrap();
    }
    for name in ["a.S.events", "a.S.commands"] {
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(name.into(), options, none()).await.unwrap();
    }
    // What was bound once stays bound, whoever declares.
    declare(&link, vec![spec("events", "a.S", &["Two"])]).await.unwrap();
    let replaced = OnDifference::Replace;
    let other = GroupSpec { on_difference: replaced, ..spec("events", "a.S", &["Three"]) };
    let refused = declare(&link, vec![other]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    let everyone = Subscribe::new(topic("configurations"), Membership::Broadcast(Patterns::all()));
    let mut alone = link.subscribe(everyone).await.unwrap();
    let list = broker.request("GET", &format!("/api/bindings/{}", vhost.name), "").unwrap();
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let bound = |source: &str, queue: &str| {
        let of = list.iter().filter(|b| b["source"] == source);
        let of =
            of.filter(|b| b["destination"].as_str().is_some_and(|name| name.starts_with(queue)));
        let mut keys: Vec<_> = of.filter_map(|b| b["routing_key"].as_str()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(bound("events", "a.S.events"), ["One", "Two"]);
    assert_eq!(bound("commands", "a.S.commands"), ["S.#"]);
    assert_eq!(bound("configurations", "amq.gen-"), ["#"]);
    let configuration = said(&vectors().into_iter().find(|vector| vector.id == "S6").unwrap());
    link.send(vec![configuration].into()).await.unwrap().remove(0).await.unwrap();
    next(&mut alone).await.ack().await.unwrap();
    // No shared queue counts attempts, and none has arguments.
    let limited = GroupSpec { attempts_max: Some(3), ..spec("events", "b", &["#"]) };
    let refused = declare(&link, vec![limited]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert!(refused.to_string().contains("declare without a limit"), "{refused}");
    let mut quorum = spec("events", "b", &["#"]);
    quorum.options.insert("amqp.queue".to_owned(), "quorum".to_owned());
    let refused = declare(&link, vec![quorum]).await.unwrap_err();
    assert!(refused.to_string().contains("quorum queues"), "{refused}");
    let session = link.session(Role::Consume).await.unwrap();
    assert!(!session.capabilities(&Spec::default()).get(Capability::Attempt).is_kept());
}

#[tokio::test]
async fn a_dialect_that_is_not_spoken_is_refused_before_anything_is_opened() {
    for url in
        ["amqp://127.0.0.1:1?dialect=pypz", "amqp://127.0.0.1:1?dialect=eventail&queue=quorum"]
    {
        let transport = busline_transports::open(url).unwrap();
        let connect = busline_core::transport::Connect::new(Role::Publish);
        let refused = Transport::connect(&*transport, connect).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    }
    let transport = busline_transports::open("amqp://localhost?dialect=eventail").unwrap();
    assert_eq!(transport.dialect(), Some(Dialect::Eventail));
    assert_eq!(transport.capabilities().profile, "amqp, eventail");
}

/// A service may have any name that its queue has room for, and a conversation is a header.
#[tokio::test(flavor = "multi_thread")]
async fn names_and_conversations_are_as_long_as_with_a_python_service() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&vhost);
    let name = "x".repeat(245);
    declare(&link, vec![spec("commands", &name, &["#"])]).await.unwrap();
    let mut stream = join(&link, "commands", &name).await;
    let mut said = Message::new(topic("commands"), Key::new("x.Do").unwrap(), "1");
    said.properties.conversation_id = Some("c".repeat(60_000).into());
    let batch = Batch { messages: vec![said.clone()], mandatory: true };
    link.send(batch).await.unwrap().remove(0).await.unwrap();
    let came = next(&mut stream).await;
    assert_eq!(came.message.properties.conversation_id, said.properties.conversation_id);
    came.ack().await.unwrap();
    said.properties.correlation_id = Some("c".repeat(256).into());
    let refused = link.send(vec![said].into()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Limit, "{refused}");
    assert!(refused.to_string().contains("correlation_id"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_queue_is_declared_as_by_a_python_service_and_goes_when_it_is_left() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&vhost);
    declare(&link, Vec::new()).await.unwrap();
    let queues = || {
        let path = format!("/api/queues/{}", vhost.name);
        let listed = broker.request("GET", &path, "").unwrap();
        serde_json::from_str::<Vec<Value>>(&listed).unwrap()
    };
    let session = link.session(Role::Consume).await.unwrap();
    let everything = Membership::Broadcast(Patterns::all());
    let mut private =
        session.subscribe(Subscribe::new(topic("configurations"), everything)).await.unwrap();
    let [queue] = &queues()[..] else { panic!("one queue is expected") };
    assert!(queue["name"].as_str().unwrap().starts_with("amq.gen-"), "{queue}");
    for (name, is) in [("exclusive", true), ("durable", false), ("auto_delete", false)] {
        assert_eq!(queue[name], is, "{name}: {queue}");
    }
    private.stop().await.unwrap();
    drop(private);
    let gone = async {
        while !queues().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the queue goes while its session lives");
    assert!(tokio::time::timeout(Duration::ZERO, session.next_event()).await.is_err());
}
