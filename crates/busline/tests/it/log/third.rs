//! A transport of somebody else: registered, configured, and all of the log style over it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busline::log::{Consumer, OnUnreadable, Producer, blocking};
use busline::transport::{
    Admin, Batch, BusUrl, Connect, Read, Reader, Registry, ReplyAddress, Schema, Session,
    SessionEvent, Setting, SettingValue, Settings, Spec, Subscribe, Subscription, Topology,
    Transport, TransportFactory,
};
use busline::{
    Bus, BusConfig, Capabilities, Capability, ErrorKind, Offset, Patterns, PendingReceipt,
    Position, Record, Result, Support,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::{n, rest, send};

/// Opens `texts:` URLs: a bus whose places are texts that nobody else understands.
#[derive(Debug, Clone, Default)]
struct Texts {
    /// What its readers were asked for.
    asked: Arc<Mutex<Vec<Patterns>>>,
}

impl TransportFactory for Texts {
    fn scheme(&self) -> &str {
        "texts"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .with(Setting::text("prefix").required().between(1, 8).about("what places begin with"))
            .with(Setting::int("retention_in_days").between(1, 999_999))
            .with(Setting::bool("log").default(true))
            .with(Setting::bool("tokens").default(true).about("whether places are texts at all"))
    }

    fn open(&self, url: &BusUrl, settings: &Settings) -> Result<Arc<dyn Transport>> {
        let inner = busline::transport::open(&format!("memory:{}", url.address))?;
        let has_tokens = settings.bool("tokens").unwrap_or_default();
        let prefix = settings.text("prefix").filter(|_| has_tokens).unwrap_or_default().to_owned();
        let has_log = settings.bool("log").unwrap_or_default();
        Ok(Arc::new(TextTransport { inner, prefix, has_log, asked: Arc::clone(&self.asked) }))
    }
}

#[derive(Debug)]
struct TextTransport {
    inner: Arc<dyn Transport>,
    prefix: String,
    has_log: bool,
    asked: Arc<Mutex<Vec<Patterns>>>,
}

impl fmt::Display for TextTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("texts:")
    }
}

impl Transport for TextTransport {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            let inner = self.inner.connect(connect).await?;
            let (prefix, asked) = (self.prefix.clone(), Arc::clone(&self.asked));
            let has_log = self.has_log;
            Ok(Arc::new(TextSession { inner, prefix, has_log, asked }) as Arc<dyn Session>)
        })
    }
}

#[derive(Debug)]
struct TextSession {
    inner: Arc<dyn Session>,
    prefix: String,
    has_log: bool,
    asked: Arc<Mutex<Vec<Patterns>>>,
}

/// `prefix` and the place of the bus behind.
fn out(prefix: &str, offset: &Offset) -> Offset {
    if prefix.is_empty() {
        return offset.clone();
    }
    Offset::token(format!("{prefix}@{offset}")).unwrap()
}

fn back(prefix: &str, position: Position) -> Result<Position> {
    let Position::Offset(offset) = &position else { return Ok(position) };
    if prefix.is_empty() {
        return Ok(position);
    }
    let token = offset.as_token().and_then(|token| std::str::from_utf8(token).ok());
    let inner = token.and_then(|text| text.strip_prefix(prefix)?.strip_prefix('@'));
    let wrong = || busline::Error::new(ErrorKind::Limit, format!("{offset} is not of this bus"));
    Ok(Position::Offset(inner.ok_or_else(wrong)?.parse()?))
}

impl Session for TextSession {
    fn capabilities(&self, spec: &Spec) -> Capabilities {
        let all = self.inner.capabilities(spec);
        match self.has_log {
            true => all,
            false => all.set(Capability::Replay, Support::Refused("fly to another loft")),
        }
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        self.inner.declare(topology)
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        self.inner.send(batch)
    }

    fn subscribe(&self, subscribe: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        self.inner.subscribe(subscribe)
    }

    fn read(&self, mut read: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(read.patterns.clone());
            read.from = back(&self.prefix, read.from)?;
            let inner = self.inner.read(read).await?;
            let (prefix, ahead) = (self.prefix.clone(), VecDeque::new());
            Ok(Box::new(TextReader { inner, prefix, ahead }) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        self.inner.reply_address()
    }

    fn admin(&self) -> Option<&dyn Admin> {
        self.inner.admin()
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        self.inner.next_event()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        self.inner.close(deadline)
    }
}

/// It cannot read what says so, tells that once, and goes on behind it.
#[derive(Debug)]
struct TextReader {
    inner: Box<dyn Reader>,
    prefix: String,
    ahead: VecDeque<Record>,
}

impl Reader for TextReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(async move {
            if self.ahead.is_empty() {
                self.ahead = self.inner.next().await?.into();
            }
            let is_good = |record: &&Record| record.message.payload != "damaged";
            let good = self.ahead.iter().take_while(is_good).count();
            if good == 0 && self.ahead.pop_front().is_some() {
                return Err(busline::Error::new(ErrorKind::Damaged, "it is damaged"));
            }
            let mut records: Vec<_> = self.ahead.drain(..good).collect();
            for record in &mut records {
                record.offset = out(&self.prefix, &record.offset);
            }
            Ok(records)
        })
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        self.inner.wait()
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        let to = back(&self.prefix, to);
        self.ahead.clear();
        Box::pin(async move { self.inner.seek(to?).await })
    }

    fn position(&self) -> Option<Offset> {
        let ahead = self.ahead.front().map(|record| record.offset.clone());
        ahead.or_else(|| self.inner.position()).map(|offset| out(&self.prefix, &offset))
    }
}

#[tokio::test]
async fn a_transport_of_somebody_else_has_all_of_the_log_style() {
    let texts = Texts::default();
    let registry = Registry::new().with(texts.clone()).unwrap();
    assert!(registry.schemes().contains(&"texts"));
    let config = BusConfig::new("texts:third?prefix=row");
    let bus = Bus::connect_by(&registry, config).await.unwrap();
    let producer = Producer::on(&bus, "t").await.unwrap();
    send(&producer, 0..30).await;
    let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    for number in 0..3 {
        let record = consumer.next().await.unwrap().unwrap();
        assert_eq!(n(&record), number);
        assert!(record.offset.as_token().unwrap().starts_with(b"row@"), "{}", record.offset);
    }
    // A place that is text there is kept as text here, or as bytes.
    let kept = consumer.position().unwrap();
    let mut other = Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    other.seek(&kept.to_string().parse().unwrap()).await.unwrap();
    assert_eq!(rest(&mut other).await, (3..30).collect::<Vec<_>>());
    other.seek(&Offset::from_bytes(&kept.to_bytes()).unwrap()).await.unwrap();
    assert_eq!(n(&other.next().await.unwrap().unwrap()), 3);
    assert!(kept.to_int().is_err());

    // The category is the bus's to look for.
    texts.asked.lock().unwrap().clear();
    assert_eq!(n(&consumer.find_next("rare.one").await.unwrap().unwrap()), 9);
    let asked = texts.asked.lock().unwrap().clone();
    assert_eq!(asked, [Patterns::new(["rare.one".parse().unwrap()])]);
    assert_eq!(n(&consumer.next().await.unwrap().unwrap()), 10);
}

/// As the reader of files does not: it stays before what is damaged.
#[tokio::test]
async fn a_reader_that_goes_on_behind_damage_is_understood_too() {
    let registry = Registry::new().with(Texts::default()).unwrap();
    let config = BusConfig::new("texts:damage?prefix=x&tokens=false");
    let bus = Bus::connect_by(&registry, config).await.unwrap();
    let producer = Producer::on(&bus, "t").await.unwrap();
    let mut damaged = Vec::new();
    for payload in ["0", "1", "damaged", "damaged", "4", "damaged"] {
        let offset = producer.send("base", payload).await.unwrap().unwrap();
        if payload == "damaged" {
            damaged.push(offset);
        }
    }
    let consumer = || Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    let mut skipping = consumer().on_unreadable(OnUnreadable::Skip);
    let items: Vec<_> = skipping.stream().collect().await;
    let shown: Vec<_> = items.iter().map(|item| item.as_ref().map(n).map_err(drop)).collect();
    assert_eq!(shown, [Ok(0), Ok(1), Err(()), Err(()), Ok(4), Err(())]);
    let errors = items.iter().filter_map(|item| item.as_ref().err());
    for (error, offset) in errors.zip(&damaged) {
        assert!(error.to_string().contains(&format!("offset: {offset}")), "{error}");
    }
    let mut stopping = consumer();
    assert_eq!(stopping.stream().filter(|item| std::future::ready(item.is_ok())).count().await, 2);
    for offset in &damaged[..2] {
        for _ in 0..2 {
            let error = stopping.next().await.unwrap_err();
            assert!(error.to_string().contains(&format!("offset: {offset}")), "{error}");
            assert_eq!(stopping.position().as_ref(), Some(offset));
        }
        stopping.skip_unreadable();
    }
    assert_eq!(n(&stopping.next().await.unwrap().unwrap()), 4);
}

#[test]
fn threads_have_it_too() {
    let registry = Registry::new().with(Texts::default()).unwrap();
    let config = || BusConfig::new("texts:threads?prefix=row");
    let producer = blocking::Producer::connect_by(&registry, config(), "t").unwrap();
    producer.send("base", "5").unwrap();
    let consumer = blocking::Consumer::connect_by(&registry, config(), "t").unwrap();
    let seen: Vec<_> = consumer.timeout(Duration::ZERO).map(|r| n(&r.unwrap())).collect();
    assert_eq!(seen, [5]);
}

#[tokio::test]
async fn a_bus_without_a_log_is_refused_with_its_way_out() {
    let registry = Registry::new().with(Texts::default()).unwrap();
    let config = BusConfig::new("texts:none?prefix=row&log=false");
    let bus = Bus::connect_by(&registry, config).await.unwrap();
    let mut consumer = Consumer::on(&bus, "t").unwrap().timeout(Duration::ZERO);
    for error in [
        Producer::on(&bus, "t").await.unwrap_err(),
        consumer.next().await.unwrap_err(),
        consumer.seek_to_beginning().await.unwrap_err(),
        consumer.find_next("rare.one").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("replay"), "{error}");
        assert!(error.to_string().contains("fly to another loft"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_settings_or_schemes_is_named() {
    let registry = Registry::new().with(Texts::default()).unwrap();
    for (url, expected) in [
        (
            "texts:x",
            "the setting 'prefix' is missing, a text of 1 to 8 characters; it is what places",
        ),
        ("texts:x?prefix=123456789", "prefix='123456789' is not a text of 1 to 8 characters"),
        ("texts:x?prefx=a", "there is no setting 'prefx'; did you mean 'prefix'?"),
        ("texts:x?prefix=a&retention_in_days=0", "is not a whole number from 1 to 999999"),
        ("text:x?prefix=a", "no transport for the scheme 'text:' (registered: texts)"),
    ] {
        let error = registry.open(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
    let taken = Registry::new().with(Texts::default()).unwrap().with(Texts::default());
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Conflict);
    // Those of the build are there as ever, and cannot be replaced.
    assert!(registry.open("memory:").is_ok());
    assert_eq!(SettingValue::from(5).to_string(), "5");
}

#[tokio::test]
async fn settings_may_stand_beside_the_url() {
    let registry = Registry::new().with(Texts::default()).unwrap();
    let of = |text: &str| serde_json::from_str::<BusConfig>(text).unwrap();
    let config =
        of(r#"{"url": "texts:beside", "options": {"prefix": "x", "retention_in_days": 7}}"#);
    let bus = Bus::connect_by(&registry, config).await.unwrap();
    let producer = Producer::on(&bus, "t").await.unwrap();
    send(&producer, 0..1).await;
    for (text, expected) in [
        (r#"{"url": "texts:b?prefix=y", "options": {"prefix": "x"}}"#, "'prefix' is given twice"),
        (
            r#"{"url": "texts:b?prefix=y", "options": {"retention": true}}"#,
            "no setting 'retention'",
        ),
        (r#"{"url": "memory:b", "options": {"dialect": "klingon"}}"#, "'klingon' is not busline"),
    ] {
        let error = Bus::connect_by(&registry, of(text)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
