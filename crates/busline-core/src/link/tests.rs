//! The link over a bus in memory whose sessions end on demand. Time is paused: waits cost nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::{Link, LinkOptions};
use crate::clock::SystemClock;
use crate::error::ErrorKind;
use crate::memory::{MemoryBroker, MemoryOptions, MemoryTransport};
use futures_util::future::BoxFuture;

use crate::transport::{
    Admin, Batch, Connect, Dialect, GroupSpec, Membership, OnDifference, Read, Reader,
    ReplyAddress, RetryMode, Session, SessionEvent, Spec, Subscribe, Subscription, TopicSpec,
    Topology, Transport,
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

#[tokio::test(start_paused = true)]
async fn a_send_that_is_given_up_while_the_broker_is_away_sends_nothing() {
    let (link, broker) = link().await;
    futures_util::future::join_all(link.send(batch(&["0"])).await.unwrap()).await;
    broker.refuse_connects(true);
    broker.restart();
    let given_up = tokio::time::timeout(Duration::from_secs(30), link.send(batch(&["never"])));
    given_up.await.unwrap_err();
    broker.refuse_connects(false);
    futures_util::future::join_all(link.send(batch(&["1"])).await.unwrap()).await;
    assert_eq!(texts(&stored(&link).await), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_send_that_is_given_up_while_it_waits_for_room_sends_nothing() {
    let transport =
        MemoryTransport::with_options(MemoryOptions { window: 1, ..Default::default() });
    let broker = transport.broker();
    let link = Link::new(vec![Arc::new(transport)], options()).unwrap();
    let topics = vec![TopicSpec::new(topic())];
    link.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    broker.block("memory alarm");
    let first = link.send(batch(&["1"])).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_secs(30), link.send(batch(&["never"])));
    given_up.await.unwrap_err();
    broker.unblock();
    let last = link.send(batch(&["2"])).await.unwrap();
    futures_util::future::join_all(first.into_iter().chain(last)).await;
    assert_eq!(texts(&stored(&link).await), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn closing_while_the_broker_is_away_leaves_nobody_waiting() {
    let (link, broker) = link().await;
    broker.block("memory alarm");
    let mut unconfirmed = link.send(batch(&["1"])).await.unwrap();
    broker.refuse_connects(true);
    broker.restart();
    let mut sending = Box::pin(link.send(batch(&["2"])));
    assert!((&mut sending).now_or_never().is_none());
    let mut reading = Box::pin(link.read(Read::new(topic(), Position::Earliest)));
    assert!((&mut reading).now_or_never().is_none());
    let error = link.close(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Elapsed);
    let soon = Duration::from_millis(1);
    let sent = tokio::time::timeout(soon, sending).await.unwrap();
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::Closed);
    let read = tokio::time::timeout(soon, reading).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Closed);
    let receipt = tokio::time::timeout(soon, unconfirmed.remove(0)).await.unwrap();
    assert!(matches!(receipt, Err(PublishError::Unknown(_))), "{receipt:?}");
}

#[tokio::test(start_paused = true)]
async fn a_group_that_somebody_changed_keeps_nobody_from_coming_back() {
    let (link, broker) = link().await;
    let mut subscription =
        link.subscribe(Subscribe::new(topic(), Membership::Group(group()))).await.unwrap();
    let transport: Arc<dyn Transport> = Arc::clone(link.transport());
    let other = Link::new(vec![transport], options()).unwrap();
    let patterns = crate::Patterns::new([crate::KeyPattern::new("other").unwrap()]);
    let changed = GroupSpec {
        patterns,
        on_difference: OnDifference::Replace,
        ..GroupSpec::new(topic(), group())
    };
    other.declare(&Topology { groups: vec![changed], ..Topology::default() }).await.unwrap();
    broker.restart();
    // What it gets now is what the group was made to get.
    let mut matching = message("matching");
    matching.key = Key::new("other").unwrap();
    let receipts = link.send(vec![message("not any more"), matching].into()).await.unwrap();
    futures_util::future::join_all(receipts).await.into_iter().for_each(|one| drop(one.unwrap()));
    let coming = tokio::time::timeout(Duration::from_secs(60), subscription.next());
    let came = coming.await.unwrap().unwrap().unwrap();
    assert_eq!(came[0].message.payload, "matching");
    // Who declares it by himself is still told.
    let groups = vec![GroupSpec::new(topic(), group())];
    let error = link.declare(&Topology { groups, ..Topology::default() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

/// A bus in memory to which connecting takes a while.
#[derive(Debug)]
struct Slow(MemoryTransport);

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

impl Transport for Slow {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            SystemClock::shared().sleep(Duration::from_secs(1)).await;
            self.0.connect(connect).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn who_looks_in_for_less_than_a_connect_takes_gets_there_too() {
    let memory = MemoryTransport::new();
    let broker = memory.broker();
    let link = Link::new(vec![Arc::new(Slow(memory))], options()).unwrap();
    let (topics, groups) = (vec![TopicSpec::new(topic())], vec![GroupSpec::new(topic(), group())]);
    link.declare(&Topology { topics, groups, ..Topology::default() }).await.unwrap();
    let subscribe = Subscribe::new(topic(), Membership::Group(group()));
    let mut subscription = link.subscribe(subscribe).await.unwrap();
    futures_util::future::join_all(link.send(batch(&["1"])).await.unwrap()).await;
    broker.restart();
    let mut looks = 0;
    let came = loop {
        looks += 1;
        assert!(looks < 10_000, "it never comes back");
        let looking = tokio::time::timeout(Duration::from_millis(10), subscription.next());
        if let Ok(came) = looking.await {
            break came.unwrap().unwrap();
        }
    };
    assert_eq!(came[0].message.payload, "1");
    assert!(looks > 10, "connecting takes longer than a look: {looks}");
    // A link that everybody dropped is not connected for nobody.
    broker.refuse_connects(true);
    broker.restart();
    let weak = Arc::downgrade(&link.0);
    let asking = tokio::time::timeout(Duration::from_millis(10), subscription.next());
    asking.await.unwrap_err();
    drop((came, subscription, link));
    let gone = async {
        while weak.strong_count() > 0 {
            SystemClock::shared().sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(600), gone).await.unwrap();
}

/// A broker that takes connections and never says a word.
#[derive(Debug)]
struct Silent;

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("silent")
    }
}

impl Transport for Silent {
    fn capabilities(&self) -> Capabilities {
        MemoryTransport::new().capabilities()
    }

    fn connect(&self, _connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_does_not_hold_up_the_first_connect() {
    let role = crate::transport::Role::Consume;
    let alone = Link::new(vec![Arc::new(Silent)], options()).unwrap();
    let in_time = tokio::time::timeout(Duration::from_secs(11), alone.session(role));
    let error = in_time.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(error.to_string().contains("does not answer (bus: silent)"), "{error}");
    let both: Vec<Arc<dyn Transport>> = vec![Arc::new(Silent), Arc::new(MemoryTransport::new())];
    let both = Link::new(both, options()).unwrap();
    tokio::time::timeout(Duration::from_secs(11), both.session(role)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_taken_again_is_given_up_alone() {
    let (link, broker) = link().await;
    let role = crate::transport::Role::Consume;
    let session = link.session(role).await.unwrap();
    let gone = Topic::new("gone").unwrap();
    let topics = vec![TopicSpec::new(gone.clone())];
    // Not through the link, which would declare it again.
    session.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    broker.block("memory alarm");
    let lost = Message::new(gone.clone(), Key::empty(), "lost");
    let receipts = link.send(vec![message("1"), lost, message("2")].into()).await.unwrap();
    session.admin().unwrap().delete_topic(&gone, Default::default()).await.unwrap();
    broker.restart();
    broker.unblock();
    let published = futures_util::future::join_all(receipts).await;
    assert!(published[0].is_ok() && published[2].is_ok(), "{published:?}");
    let Err(PublishError::Unknown(error)) = &published[1] else { panic!("{published:?}") };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(texts(&stored(&link).await), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn only_a_dialect_that_has_message_ids_gets_them() {
    for (dialect, has) in [(Dialect::Busline, true), (Dialect::Eventail, false)] {
        let transport = Arc::new(MemoryTransport::new());
        let link = Link::new(vec![transport], LinkOptions { dialect, ..options() }).unwrap();
        let topics = vec![TopicSpec::new(topic())];
        link.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
        futures_util::future::join_all(link.send(batch(&["1"])).await.unwrap()).await;
        assert_eq!(stored(&link).await[0].message.properties.message_id.is_some(), has);
    }
}

#[tokio::test(start_paused = true)]
async fn a_style_asks_for_a_dialect_and_the_url_has_the_last_word() {
    let plain = MemoryTransport::new();
    let own = Link::new(vec![Arc::new(plain.clone())], options()).unwrap();
    let theirs = own.in_dialect(Dialect::Eventail).unwrap();
    assert_eq!((own.dialect(), theirs.dialect()), (Dialect::Busline, Dialect::Eventail));
    let topics = vec![TopicSpec::new(topic())];
    theirs.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    for link in [&theirs, &own] {
        futures_util::future::join_all(link.send(batch(&["1"])).await.unwrap()).await;
    }
    let ids: Vec<_> =
        stored(&own).await.into_iter().map(|r| r.message.properties.message_id).collect();
    assert!(ids[0].is_none() && ids[1].is_some(), "{ids:?}");

    let fixed: Arc<dyn Transport> = Arc::new(plain.clone().in_dialect(Dialect::Busline));
    let link = Link::new(vec![Arc::clone(&fixed)], options()).unwrap();
    assert_eq!(link.in_dialect(Dialect::Eventail).unwrap().dialect(), Dialect::Busline);
    let other: Arc<dyn Transport> = Arc::new(plain.in_dialect(Dialect::Eventail));
    let error = Link::new(vec![fixed, other], options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("two dialects, 'busline' and 'eventail'"), "{error}");
}

/// A bus in memory that says it lacks some promises; or one whose sessions end with each message, which counts them.
#[derive(Debug)]
struct Lacking(MemoryTransport, Vec<Capability>, Option<Arc<std::sync::atomic::AtomicUsize>>);

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("lacking")
    }
}

#[derive(Debug)]
struct LackingSession(Arc<dyn Session>, Vec<Capability>, bool);

impl Transport for Lacking {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            let session = self.0.connect(connect).await?;
            if let Some(connects) = &self.2 {
                connects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            let loses = self.2.is_some();
            Ok(Arc::new(LackingSession(session, self.1.clone(), loses)) as Arc<dyn Session>)
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
        if self.2 {
            // Accepted, and then it ends.
            let lost = batch.messages.iter().map(|_| PendingReceipt::channel().1).collect();
            return Box::pin(async { Ok(lost) });
        }
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
        Capability::GroupStart,
        Capability::Broadcast,
        Capability::RetryLimit,
        Capability::BlockingRetry,
        Capability::Unroutable,
    ];
    let transport = Lacking(MemoryTransport::new(), lacks.to_vec(), None);
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

#[tokio::test(start_paused = true)]
async fn a_bus_that_was_there_is_waited_for_also_by_who_publishes_for_the_first_time() {
    let (link, broker) = link().await;
    broker.refuse_connects(true);
    broker.restart();
    let mut sending = Box::pin(link.send(batch(&["1"])));
    tokio::time::timeout(Duration::from_secs(60), &mut sending).await.unwrap_err();
    broker.refuse_connects(false);
    for receipt in sending.await.unwrap() {
        receipt.await.unwrap();
    }
    assert_eq!(texts(&stored(&link).await), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_dropped_still_tells_what_became_of_what_it_has_sent() {
    let (link, broker) = link().await;
    broker.block("memory alarm");
    let mut receipts = link.send(batch(&["1", "2"])).await.unwrap();
    let outbox = Arc::downgrade(link.0.outbox.get().unwrap());
    drop(link);
    broker.unblock();
    let last = receipts.pop().unwrap();
    assert!(receipts.pop().unwrap().await.is_ok() && last.await.is_ok());
    // And leaves nothing behind: what watches ends with what is watched.
    let gone = async {
        while outbox.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_while_it_is_about_to_be_watched_is_not_missed() {
    let (link, _broker) = link().await;
    let senders = (0..4).map(|_| {
        let link = link.clone();
        tokio::spawn(async move {
            for number in 0..2_000 {
                let receipts = link.send(batch(&["x"])).await.unwrap();
                if number % 2 == 0 {
                    futures_util::future::join_all(receipts).await;
                }
            }
        })
    });
    futures_util::future::join_all(senders).await.into_iter().for_each(|sent| sent.unwrap());
    // Each has given its permit back: with one missing, this would wait for ever.
    link.close(Duration::from_secs(20)).await.unwrap();
}

async fn two_brokers() -> (Link, [MemoryBroker; 2]) {
    let transports = [MemoryTransport::new(), MemoryTransport::new()];
    let brokers = transports.each_ref().map(MemoryTransport::broker);
    let transports = transports.map(|transport| Arc::new(transport) as Arc<dyn Transport>);
    let link = Link::new(transports.to_vec(), options()).unwrap();
    let topics = vec![TopicSpec::new(topic())];
    link.declare(&Topology { topics, ..Topology::default() }).await.unwrap();
    (link, brokers)
}

#[tokio::test(start_paused = true)]
async fn both_sessions_are_with_the_same_of_several_brokers() {
    let (link, [first, _]) = two_brokers().await;
    // It consumes at the first, which takes no other connection for a while: the second would be no help.
    first.refuse_connects(true);
    let mut sending = Box::pin(link.send(batch(&["1"])));
    tokio::time::timeout(Duration::from_secs(60), &mut sending).await.unwrap_err();
    first.refuse_connects(false);
    for receipt in sending.await.unwrap() {
        receipt.await.unwrap();
    }
    assert_eq!(texts(&stored(&link).await), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_lost_is_left_for_the_next_with_both_sessions() {
    let (link, [first, second]) = two_brokers().await;
    let _ = link.send(batch(&["1"])).await.unwrap().remove(0).await.unwrap();
    first.refuse_connects(true);
    first.restart();
    let _ = link.send(batch(&["2"])).await.unwrap().remove(0).await.unwrap();
    assert_eq!(texts(&stored(&link).await), ["2"], "read where it was published");
    // And back again, as one step in the list is one attempt.
    first.refuse_connects(false);
    second.restart();
    let _ = link.send(batch(&["3"])).await.unwrap().remove(0).await.unwrap();
    assert_eq!(texts(&stored(&link).await), ["1", "3"]);
}

/// Notes when somebody tries to connect, and is not there.
#[derive(Debug)]
struct Away(std::sync::Mutex<Vec<tokio::time::Instant>>);

impl std::fmt::Display for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("away")
    }
}

impl Transport for Away {
    fn capabilities(&self) -> Capabilities {
        MemoryTransport::new().capabilities()
    }

    fn connect(&self, _connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        self.0.lock().unwrap().push(tokio::time::Instant::now());
        Box::pin(async { Err(crate::Error::new(ErrorKind::Disconnected, "nobody is there")) })
    }
}

#[tokio::test(start_paused = true)]
async fn the_law_of_the_python_services_waits_a_second_more_after_each_attempt() {
    let aways = [0, 1].map(|_| Arc::new(Away(std::sync::Mutex::default())));
    let transports = aways.each_ref().map(|away| Arc::clone(away) as Arc<dyn Transport>);
    let options = LinkOptions { dialect: Dialect::Eventail, ..options() };
    let link = Link::new(transports.to_vec(), options).unwrap();
    link.session(crate::transport::Role::Consume).await.unwrap_err();
    let [first, second] = aways.map(|away| away.0.lock().unwrap().clone());
    let start = first[0];
    let since = |times: Vec<tokio::time::Instant>| {
        times.into_iter().map(|at| (at - start).as_secs()).collect::<Vec<_>>()
    };
    assert_eq!((since(first), since(second)), (vec![0, 3, 10], vec![1, 6]));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_every_session_is_not_sent_without_a_pause() {
    let connects = Arc::<std::sync::atomic::AtomicUsize>::default();
    let transport = Lacking(MemoryTransport::new(), Vec::new(), Some(Arc::clone(&connects)));
    let link = Link::new(vec![Arc::new(transport)], options()).unwrap();
    let receipt = link.send(batch(&["poison"])).await.unwrap().remove(0);
    tokio::time::timeout(Duration::from_secs(60), receipt).await.unwrap_err();
    let connects = connects.load(std::sync::atomic::Ordering::Relaxed);
    assert!((4..30).contains(&connects), "{connects} in a minute");
}
