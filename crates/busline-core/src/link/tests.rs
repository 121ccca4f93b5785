//! The link over a bus in memory whose sessions end on demand. Time is paused: waits cost nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::{Link, LinkOptions};
use crate::clock::SystemClock;
use crate::error::ErrorKind;
use crate::memory::{MemoryBroker, MemoryTransport};
use futures_util::future::BoxFuture;

use crate::transport::{
    Admin, Batch, Connect, GroupSpec, Membership, Read, Reader, ReplyAddress, RetryMode, Session,
    SessionEvent, Spec, Subscribe, Subscription, TopicSpec, Topology, Transport,
};
use crate::{
    Capabilities, Capability, GroupName, Key, Message, PendingReceipt, Position, PublishError,
    Receipt, Record, Result, Support, Topic,
};

fn topic() -> Topic {
    Topic::new("t").unwrap()
}

fn message(text: &str) -> Message {
    Message::new(topic(), Key::empty(), text.to_owned())
}

fn batch(texts: &[&str]) -> Batch {
    texts.iter().map(|text| message(text)).collect::<Vec<_>>().into()
}

fn options() -> LinkOptions {
    LinkOptions { clock: SystemClock::shared(), ..LinkOptions::default() }
}

async fn link() -> (Link, MemoryBroker) {
    let transport = MemoryTransport::new();
    let broker = transport.broker();
    let link = Link::new(vec![Arc::new(transport)], options()).unwrap();
    let topology = Topology {
        topics: vec![TopicSpec::new(topic())],
        groups: vec![GroupSpec::new(topic(), group())],
        ..Topology::default()
    };
    link.declare(&topology).await.unwrap();
    (link, broker)
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

async fn stored(link: &Link) -> Vec<Record> {
    let mut reader = link.read(Read::new(topic(), Position::Earliest)).await.unwrap();
    reader.next().await.unwrap()
}

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| std::str::from_utf8(&record.message.payload).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_is_sent_again_in_order_before_anything_newer() {
    let (link, broker) = link().await;
    broker.block("memory alarm");
    let first = link.send(batch(&["1", "2"])).await.unwrap();
    let second = link.send(batch(&["3"])).await.unwrap();
    broker.restart();
    let newer = link.send(batch(&["4"])).await.unwrap();
    broker.unblock();
    for receipt in first.into_iter().chain(second).chain(newer) {
        assert!(matches!(receipt.await, Ok(Receipt::Stored { .. })));
    }
    let records = stored(&link).await;
    assert_eq!(texts(&records), ["1", "2", "3", "4"]);
    let ids: std::collections::HashSet<_> =
        records.iter().map(|record| record.message.properties.message_id.clone()).collect();
    assert!(ids.len() == 4 && !ids.contains(&None));
}

#[tokio::test(start_paused = true)]
async fn a_message_sent_again_keeps_its_id() {
    let (link, broker) = link().await;
    broker.block("memory alarm");
    let mut sent = batch(&["x"]);
    sent.messages[0].properties.message_id = Some("mine".into());
    let receipts = link.send(sent).await.unwrap();
    broker.restart();
    broker.unblock();
    futures_util::future::join_all(receipts).await;
    assert_eq!(stored(&link).await[0].message.properties.message_id.as_deref(), Some("mine"));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_receipt_cancels_nothing_not_even_the_sending_again() {
    let (link, broker) = link().await;
    broker.block("memory alarm");
    drop(link.send(batch(&["1"])).await.unwrap());
    broker.restart();
    broker.unblock();
    for receipt in link.send(batch(&["2"])).await.unwrap() {
        receipt.await.unwrap();
    }
    assert_eq!(texts(&stored(&link).await), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_nack_goes_to_the_caller_and_never_round_again() {
    let (link, broker) = link().await;
    broker.nack_next(1, "queue full");
    let receipts = link.send(batch(&["1", "2"])).await.unwrap();
    let published = futures_util::future::join_all(receipts).await;
    assert!(matches!(published[0], Err(PublishError::Nacked(_))), "{published:?}");
    assert!(published[1].is_ok());
    assert_eq!(texts(&stored(&link).await), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_outlives_its_session_and_old_deliveries_are_lost() {
    let (link, broker) = link().await;
    let subscribe = Subscribe::new(topic(), Membership::Group(group()));
    let mut subscription = link.subscribe(subscribe).await.unwrap();
    link.send(batch(&["1"])).await.unwrap();
    let old = subscription.next().await.unwrap().unwrap().remove(0);
    broker.restart();
    let again = subscription.next().await.unwrap().unwrap().remove(0);
    assert_eq!((again.attempt.number, again.attempt.exact), (2, true));
    assert_eq!(old.ack().await.unwrap_err().kind(), ErrorKind::Lost);
    again.ack().await.unwrap();
    subscription.stop().await.unwrap();
    assert!(subscription.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_goes_on_where_it_was() {
    let (link, broker) = link().await;
    futures_util::future::join_all(link.send(batch(&["1", "2", "3"])).await.unwrap()).await;
    let read = Read { chunk_max: 2, ..Read::new(topic(), Position::Earliest) };
    let mut reader = link.read(read).await.unwrap();
    assert_eq!(texts(&reader.next().await.unwrap()), ["1", "2"]);
    broker.restart();
    assert_eq!(texts(&reader.next().await.unwrap()), ["3"]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_refuses_for_a_minute_is_waited_for_once_it_was_there() {
    let (link, broker) = link().await;
    futures_util::future::join_all(link.send(batch(&["0"])).await.unwrap()).await;
    broker.refuse_connects(true);
    broker.restart();
    let mut sending = Box::pin(link.send(batch(&["1"])));
    assert!((&mut sending).now_or_never().is_none());
    tokio::time::timeout(Duration::from_secs(60), &mut sending).await.unwrap_err();
    broker.refuse_connects(false);
    for receipt in sending.await.unwrap() {
        receipt.await.unwrap();
    }
    assert_eq!(texts(&stored(&link).await), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_connect_gives_up_in_time_and_the_next_transport_is_tried() {
    let away = MemoryTransport::new();
    away.broker().refuse_connects(true);
    let there = MemoryTransport::new();
    let alone = Link::new(vec![Arc::new(away.clone())], options()).unwrap();
    let error = alone.session(crate::transport::Role::Publish).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    let both: Vec<Arc<dyn Transport>> = vec![Arc::new(away), Arc::new(there)];
    assert!(
        Link::new(both, options()).unwrap().session(crate::transport::Role::Publish).await.is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_receipts_and_says_when_the_time_is_over() {
    let (link, broker) = link().await;
    broker.block("memory alarm");
    let stuck = link.send(batch(&["1"])).await.unwrap();
    let error = link.close(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Elapsed);
    assert_eq!(link.send(batch(&["2"])).await.unwrap_err().kind(), ErrorKind::Closed);
    drop(stuck);

    let (link, _broker) = self::link().await;
    let receipts = link.send(batch(&["1"])).await.unwrap();
    link.close(Duration::from_secs(5)).await.unwrap();
    for receipt in receipts {
        assert!(receipt.now_or_never().unwrap().is_ok(), "it was confirmed before the close");
    }
}

/// A bus in memory that says it lacks some promises.
#[derive(Debug)]
struct Lacking(MemoryTransport, Vec<Capability>);

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lacking")
    }
}

#[derive(Debug)]
struct LackingSession(Arc<dyn Session>, Vec<Capability>);

impl Transport for Lacking {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            let session = self.0.connect(connect).await?;
            Ok(Arc::new(LackingSession(session, self.1.clone())) as Arc<dyn Session>)
        })
    }
}

impl Session for LackingSession {
    fn capabilities(&self, spec: &Spec) -> Capabilities {
        let all = self.0.capabilities(spec);
        let refuse = |all: Capabilities, lacks: &Capability| {
            all.set(*lacks, Support::Refused("choose file:"))
        };
        self.1.iter().fold(all, refuse)
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        self.0.declare(topology)
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        self.0.send(batch)
    }

    fn subscribe(&self, spec: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        self.0.subscribe(spec)
    }

    fn read(&self, spec: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        self.0.read(spec)
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        self.0.reply_address()
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.0.admin()
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        self.0.next_event()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        self.0.close(deadline)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_fails_when_it_binds_and_names_the_way_out() {
    let lacks = [
        Capability::Replay,
        Capability::Broadcast,
        Capability::RetryLimit,
        Capability::BlockingRetry,
        Capability::Unroutable,
    ];
    let transport = Lacking(MemoryTransport::new(), lacks.to_vec());
    let link = Link::new(vec![Arc::new(transport)], options()).unwrap();
    let plain = GroupSpec { attempts_max: None, ..GroupSpec::new(topic(), group()) };
    let declare = async |topic_spec: TopicSpec, group_spec: GroupSpec| {
        let topology =
            Topology { topics: vec![topic_spec], groups: vec![group_spec], ..Topology::default() };
        link.declare(&topology).await
    };
    declare(TopicSpec::new(topic()), plain.clone()).await.unwrap();

    let mandatory = Batch { mandatory: true, ..batch(&["1"]) };
    let broadcast = Membership::Broadcast(crate::Patterns::all());
    let refused = [
        declare(TopicSpec { replay: true, ..TopicSpec::new(topic()) }, plain.clone()).await.err(),
        declare(TopicSpec::new(topic()), GroupSpec { start: Position::Earliest, ..plain.clone() })
            .await
            .err(),
        declare(TopicSpec::new(topic()), GroupSpec::new(topic(), group())).await.err(),
        declare(
            TopicSpec::new(topic()),
            GroupSpec { retry_mode: RetryMode::Block, ..plain.clone() },
        )
        .await
        .err(),
        link.read(Read::new(topic(), Position::Earliest)).await.err(),
        link.subscribe(Subscribe::new(topic(), broadcast)).await.err(),
        link.send(mandatory).await.err(),
    ];
    for (index, error) in refused.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("number {index} must be refused"));
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("memory has no "), "{error}");
        assert!(error.to_string().contains("choose file:"), "{error}");
    }
}
