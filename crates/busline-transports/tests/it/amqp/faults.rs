//! What goes wrong with a broker: refusals that say what is wrong, and ends that the link recovers from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busline_core::link::{Link, LinkOptions, LinkSubscription};
use busline_core::transport::{
    Connect, GroupSpec, Membership, Role, SessionEvent, Subscribe, TopicSpec, Topology,
};
use busline_core::{ErrorKind, GroupName, Key, Message, Receipt, Topic};

use super::broker::{Broker, Vhost};
use super::proxy::Proxy;

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn topic() -> Topic {
    Topic::new("things").unwrap()
}

pub(super) fn group() -> GroupName {
    GroupName::new("workers").unwrap()
}

pub(super) fn message(text: &str) -> Message {
    Message::new(topic(), Key::empty(), text.to_owned())
}

pub(super) fn link(urls: &[String]) -> Link {
    let transports = urls.iter().map(|url| busline_transports::open(url).unwrap()).collect();
    let mut options = LinkOptions::default();
    options.backoff.first = Duration::from_millis(5);
    options.backoff.max = Duration::from_millis(200);
    Link::new(transports, options).unwrap()
}

pub(super) async fn declare(link: &Link) {
    let topics = vec![TopicSpec::new(topic())];
    let groups = vec![GroupSpec::new(topic(), group())];
    link.declare(&Topology { topics, groups, ..Topology::default() }).await.unwrap();
}

pub(super) async fn join(link: &Link) -> LinkSubscription {
    link.subscribe(Subscribe::new(topic(), Membership::Group(group()))).await.unwrap()
}

/// Acks until each of these has come, however often.
async fn until_all(stream: &mut LinkSubscription, texts: &[String]) {
    let mut missing: BTreeSet<String> = texts.iter().cloned().collect();
    let coming = async {
        while !missing.is_empty() {
            let mut acks = Vec::new();
            for delivery in stream.next().await.unwrap().unwrap() {
                missing.remove(&String::from_utf8_lossy(&delivery.message.payload).into_owned());
                acks.push(delivery.ack());
            }
            // Those of a lost session are lost; their messages come again.
            let _ = futures_util::future::join_all(acks).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, coming).await;
    assert!(came.is_ok(), "did not come: {missing:?}");
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}")).collect()
}

async fn refused(url: &str) -> busline_core::Error {
    let transport = busline_transports::open(url).unwrap();
    transport.connect(Connect::new(Role::Publish)).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn wrong_credentials_and_hosts_are_told_apart_and_tell_no_secret() {
    let Some(broker) = Broker::shared() else { return };
    let address = broker.address();
    for (url, kind) in [
        (format!("amqp://guest:hush@{address}"), ErrorKind::Unauthorized),
        (format!("amqp://nobody:hush@{address}"), ErrorKind::Unauthorized),
        (format!("amqp://guest:guest@{address}/no-such-host"), ErrorKind::Unauthorized),
    ] {
        let error = refused(&url).await;
        assert_eq!(error.kind(), kind, "{error}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains("hush") && said.contains(&address), "{said}");
    }
}

#[tokio::test]
async fn what_exists_with_other_arguments_is_a_conflict_that_names_it() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let path = format!("/api/queues/{}/workers.things", vhost.name);
    let body = r#"{"durable":true,"arguments":{"x-max-length":7}}"#;
    broker.request("PUT", &path, body).unwrap();
    let link = link(&[vhost.url(&broker.address(), "")]);
    let topology = Topology {
        topics: vec![TopicSpec::new(topic())],
        groups: vec![GroupSpec::new(topic(), group())],
        ..Topology::default()
    };
    let error = link.declare(&topology).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    for word in ["x-max-length", "workers.things"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_cut_in_the_middle_of_publishing() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let proxy = Proxy::start(&broker.address()).await.unwrap();
    let link = link(&[vhost.url(&proxy.address.to_string(), "")]);
    declare(&link).await;
    let texts = numbered(2000);
    let mut receipts = Vec::new();
    for (index, texts) in texts.chunks(50).enumerate() {
        if index == 20 {
            proxy.cut().await;
            proxy.mend(&broker.address()).await.unwrap();
        }
        let batch: Vec<_> = texts.iter().map(|text| message(text)).collect();
        receipts.extend(link.send(batch.into()).await.unwrap());
    }
    for receipt in receipts {
        let receipt = tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
        assert!(matches!(receipt, Receipt::Stored { .. }));
    }
    until_all(&mut join(&link).await, &texts).await;
}

#[tokio::test]
async fn a_node_that_refuses_for_a_minute_is_waited_for() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let proxy = Proxy::start(&broker.address()).await.unwrap();
    let url = vhost.url(&proxy.address.to_string(), "");
    let transports = vec![busline_transports::open(&url).unwrap()];
    // With the pauses that programs have.
    let link = Link::new(transports, LinkOptions::default()).unwrap();
    declare(&link).await;
    let mut stream = join(&link).await;
    let texts = numbered(100);
    let batch: Vec<_> = texts.iter().map(|text| message(text)).collect();
    proxy.cut().await;
    tokio::time::pause();
    let sending = {
        let link = link.clone();
        tokio::spawn(async move { link.send(batch.into()).await })
    };
    let minute = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
    assert!(minute.is_err(), "something came from nowhere: {minute:?}");
    tokio::time::resume();
    proxy.mend(&broker.address()).await.unwrap();
    let receipts = tokio::time::timeout(PATIENCE, sending).await.unwrap().unwrap().unwrap();
    for receipt in receipts {
        let receipt = tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
        assert!(matches!(receipt, Receipt::Stored { .. }));
    }
    until_all(&mut stream, &texts).await;
}

/// The names of all connections into a virtual host, as the management API has them by now.
async fn connections(broker: &Broker, vhost: &Vhost) -> Vec<String> {
    let path = format!("/api/vhosts/{}/connections", vhost.name);
    let listing = async {
        loop {
            let listed = broker.request("GET", &path, "").unwrap();
            let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
            let names = listed.as_array().unwrap().iter();
            let names: Vec<_> =
                names.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect();
            if !names.is_empty() {
                return names;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, listing).await.unwrap()
}

async fn kill_connections(broker: &Broker, vhost: &Vhost) {
    for name in connections(broker, vhost).await {
        let name = name.replace(' ', "%20").replace('>', "%3E");
        // One may be gone by itself by now.
        let _ = broker.request("DELETE", &format!("/api/connections/{name}"), "");
    }
}

/// Each look is shorter than what connecting, declaring and subscribing take.
#[tokio::test(flavor = "multi_thread")]
async fn who_looks_in_shortly_and_often_comes_back_after_a_lost_connection() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let url = vhost.url(&broker.address(), "");
    let (consuming, publishing) =
        (link(std::slice::from_ref(&url)), link(std::slice::from_ref(&url)));
    declare(&consuming).await;
    let mut stream = join(&consuming).await;
    kill_connections(&broker, &vhost).await;
    let looking = async {
        loop {
            let look = tokio::time::timeout(Duration::from_millis(1), stream.next());
            if let Ok(came) = look.await {
                break came.unwrap().unwrap().remove(0);
            }
        }
    };
    let (came, receipts) = tokio::time::timeout(PATIENCE, async {
        let sending = publishing.send(vec![message("after")].into());
        tokio::join!(looking, sending)
    })
    .await
    .unwrap();
    assert_eq!(came.message.payload, "after");
    came.ack().await.unwrap();
    receipts.unwrap().remove(0).await.unwrap();
}

#[tokio::test]
async fn the_broker_is_told_who_connects() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let mut connect = Connect::new(Role::Publish);
    connect.client_name = "invoices".to_owned();
    let transport = busline_transports::open(&vhost.url(&broker.address(), "")).unwrap();
    let _session = transport.connect(connect).await.unwrap();
    let path = format!("/api/vhosts/{}/connections", vhost.name);
    let told = async {
        loop {
            let listed = broker.request("GET", &path, "").unwrap();
            if [r#""product":"busline""#, r#""connection_name":"invoices""#]
                .iter()
                .all(|told| listed.contains(told))
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_killed_through_the_management_api() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&[vhost.url(&broker.address(), "&queue=quorum")]);
    declare(&link).await;
    let mut stream = join(&link).await;
    for round in 0..2 {
        let texts: Vec<_> = numbered(5).iter().map(|text| format!("{round} {text}")).collect();
        for text in &texts {
            for receipt in link.send(vec![message(text)].into()).await.unwrap() {
                tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
            }
        }
        until_all(&mut stream, &texts).await;
        if round == 0 {
            kill_connections(&broker, &vhost).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_deleted_under_its_consumer() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let link = link(&[vhost.url(&broker.address(), "")]);
    declare(&link).await;
    let mut stream = join(&link).await;
    broker.request("DELETE", &format!("/api/queues/{}/workers.things", vhost.name), "").unwrap();
    let next = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap();
    let error = next.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("workers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_urls_are_tried_in_turn() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let nobody = vhost.url("127.0.0.1:1", "");
    let link = link(&[nobody, vhost.url(&broker.address(), "")]);
    declare(&link).await;
}

/// The node that may be broken; tests that do take turns.
pub(super) struct Breakable {
    pub(super) broker: Broker,
    directory: std::path::PathBuf,
}

pub(super) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

impl Breakable {
    pub(super) fn find() -> Option<Self> {
        let broker = Broker::find("BUSLINE_TEST_RABBITMQ_FAULTS", "127.0.0.1:35682")?;
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let ours = || here.join("../../target/brokers/busline-faults");
        let given = std::env::var_os("BUSLINE_TEST_RABBITMQ_FAULTS_DIR");
        let directory = given.map_or_else(ours, Into::into);
        if directory.join("ctl").exists() {
            return Some(Self { broker, directory });
        }
        let required = std::env::var("BUSLINE_REQUIRE_BROKERS").is_ok_and(|set| set != "0");
        assert!(!required, "nothing can break the broker: {} is not there", directory.display());
        println!("skip: nothing can break the broker: {} is not there", directory.display());
        None
    }

    pub(super) async fn ctl(&self, arguments: &[&str]) {
        let mut tool = std::process::Command::new(self.directory.join("ctl"));
        tool.args(arguments);
        let output = tokio::task::spawn_blocking(move || tool.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_stopped_and_started() {
    // First: another test may have stopped the broker at this moment.
    let _turn = TURN.lock().await;
    let Some(breakable) = Breakable::find() else { return };
    let vhost = breakable.broker.vhost();
    let link = Arc::new(link(&[vhost.url(&breakable.broker.address(), "&queue=quorum")]));
    declare(&link).await;
    let mut stream = join(&link).await;
    let first = numbered(5);
    for text in &first {
        drop(link.send(vec![message(text)].into()).await.unwrap());
    }
    until_all(&mut stream, &first).await;
    breakable.ctl(&["stop_app"]).await;
    let publishing = {
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            let later = link.send(vec![message("while it was away")].into()).await.unwrap();
            futures_util::future::join_all(later).await
        })
    };
    breakable.ctl(&["start_app"]).await;
    let published = tokio::time::timeout(PATIENCE, publishing).await.unwrap().unwrap();
    assert!(published.iter().all(Result::is_ok), "{published:?}");
    until_all(&mut stream, &["while it was away".to_owned()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_blocks_publishers_and_nobody_else() {
    // First: another test may have stopped the broker at this moment.
    let _turn = TURN.lock().await;
    let Some(breakable) = Breakable::find() else { return };
    let vhost = breakable.broker.vhost();
    let url = vhost.url(&breakable.broker.address(), "");
    let link = link(std::slice::from_ref(&url));
    declare(&link).await;
    let mut stream = join(&link).await;
    let first = numbered(3);
    for text in &first {
        for receipt in link.send(vec![message(text)].into()).await.unwrap() {
            receipt.await.unwrap();
        }
    }
    let session = link.session(Role::Publish).await.unwrap();
    breakable.ctl(&["set_vm_memory_high_watermark", "0.000001"]).await;
    let blocked = link.send(vec![message("blocked")].into()).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, session.next_event()).await.unwrap();
    assert!(matches!(event, SessionEvent::Blocked(_)), "{event:?}");
    // What consumes goes on, acks too.
    until_all(&mut stream, &first).await;
    breakable.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
    let event = tokio::time::timeout(PATIENCE, session.next_event()).await.unwrap();
    assert!(matches!(event, SessionEvent::Unblocked), "{event:?}");
    for receipt in blocked {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    until_all(&mut stream, &["blocked".to_owned()]).await;
}
