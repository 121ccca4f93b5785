//! Brokers that go away, or say nothing more, at each step of the protocol.

use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{
    Connect, GroupSpec, Membership, Role, Session, SessionEvent, Subscribe, TopicSpec, Topology,
};
use busline_core::{Error, ErrorKind, Key, Message, Result, Topic};

use super::broker::Broker;
use super::faults::{PATIENCE, group};
use super::proxy::{Proxy, Then};

async fn connect(url: &str) -> Result<Arc<dyn Session>> {
    busline_transports::open(url)?.connect(Connect::new(Role::Consume)).await
}

/// From connecting to an ack that the broker has taken.
async fn everything(url: &str, topic: &Topic) -> Result<()> {
    let session = connect(url).await?;
    let message = Message::new(topic.clone(), Key::empty(), "it");
    let topics = vec![TopicSpec::new(topic.clone())];
    let groups = vec![GroupSpec::new(topic.clone(), group())];
    session.declare(&Topology { topics, groups, ..Topology::default() }).await?;
    for receipt in session.send(vec![message].into()).await? {
        receipt.await.map_err(Error::from)?;
    }
    let mut stream =
        session.subscribe(Subscribe::new(topic.clone(), Membership::Group(group()))).await?;
    let ended = || Error::new(ErrorKind::Other, "the stream ended by itself");
    for delivery in stream.next().await?.ok_or_else(ended)? {
        delivery.ack().await?;
    }
    session.close(Duration::from_secs(5)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_drops_the_connection_at_each_step_is_disconnected() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let mut frames = 0;
    loop {
        let proxy = Proxy::start_with(&broker.address(), frames, Then::Cut).await.unwrap();
        let url = vhost.url(&proxy.address.to_string(), "");
        // Of its own each time: what was left behind would come again.
        let topic = Topic::new(format!("things-{frames}")).unwrap();
        let done = tokio::time::timeout(PATIENCE, everything(&url, &topic)).await;
        match done.unwrap_or_else(|_| panic!("cut after {frames} frames it never ended")) {
            Ok(()) => break,
            Err(error) => {
                let kind = error.kind();
                let gone = matches!(kind, ErrorKind::Disconnected | ErrorKind::Lost);
                assert!(gone, "cut after {frames} frames: {kind:?} {error}");
            }
        }
        // All of connecting; of the rest all in the long run.
        let all = frames < 8 || std::env::var_os("BUSLINE_LONG").is_some();
        frames += if all { 1 } else { 3 };
        assert!(frames < 500, "it never gets through");
    }
    // Start, tune, open, and more than that again.
    assert!(frames > 10, "only {frames} frames were needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_nothing_while_connecting_is_given_up() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    for frames in 0..3 {
        let proxy = Proxy::start_with(&broker.address(), frames, Then::Stall).await.unwrap();
        let url = vhost.url(&proxy.address.to_string(), "&connect_timeout=200ms");
        let connecting = tokio::time::timeout(PATIENCE, connect(&url)).await.unwrap();
        let error = connecting.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
        assert!(error.to_string().contains(&proxy.address.to_string()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_falls_silent_is_noticed_by_its_heartbeats() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    // Enough to connect, and for a while of heartbeats.
    let proxy = Proxy::start_with(&broker.address(), 4, Then::Stall).await.unwrap();
    let url = vhost.url(&proxy.address.to_string(), "&heartbeat=1s");
    let session = connect(&url).await.unwrap();
    let event = tokio::time::timeout(PATIENCE, session.next_event()).await.unwrap();
    let SessionEvent::Ended(why) = event else { panic!("{event:?}") };
    assert_eq!(why.kind(), ErrorKind::Disconnected, "{why}");
    assert!(why.to_string().contains("heartbeat"), "{why}");
}
