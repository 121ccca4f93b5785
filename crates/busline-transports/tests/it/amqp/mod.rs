//! RabbitMQ keeps the contract: a real broker, through a network that tests can cut.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "these are tests, and one that is skipped says so"
)]

mod broker;
mod counts;
mod eventail;
mod faults;
mod input;
mod letters;
mod proxy;
mod steps;
mod tls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Broker, Vhost};
use busline_core::conformance::{self, Harness, Rig, Verdict};
use busline_core::transport::{Connect, Dialect, Session, Transport};
use busline_core::{Capabilities, Error, ErrorKind, Result};
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt, StreamExt};
use proxy::Proxy;

/// A profile of the broker: what its URLs ask for.
struct RabbitMq {
    vhost: Arc<Vhost>,
    options: &'static str,
}

/// A bus of its own for each case, by the names in it; each session reaches it through a proxy.
struct CutRig(Arc<Cut>);

#[derive(Debug)]
struct Cut {
    vhost: Arc<Vhost>,
    options: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    away: bool,
    /// How often all were cut.
    cuts: u64,
    sessions: Vec<(Arc<dyn Session>, Arc<Proxy>)>,
}

impl Cut {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn cut_all(&self) {
        let sessions = self.with(|state| {
            state.cuts += 1;
            std::mem::take(&mut state.sessions)
        });
        for (_, proxy) in sessions {
            proxy.cut().await;
        }
    }
}

/// A transport whose sessions can be cut off one by one.
#[derive(Debug)]
struct Cuttable(Arc<Cut>);

impl std::fmt::Display for Cuttable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RabbitMQ behind a proxy")
    }
}

impl Transport for Cuttable {
    fn capabilities(&self) -> Capabilities {
        let url = self.0.vhost.url("localhost", self.0.options);
        busline_transports::open(&url).unwrap().capabilities()
    }

    fn dialect(&self) -> Option<Dialect> {
        let url = self.0.vhost.url("localhost", self.0.options);
        busline_transports::open(&url).unwrap().dialect()
    }

    fn connect(&self, connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            let proxy = Proxy::start(&self.0.vhost.broker.address()).await.unwrap();
            let (away, cuts) = self.0.with(|state| (state.away, state.cuts));
            if away {
                proxy.cut().await;
            }
            let url = self.0.vhost.url(&proxy.address.to_string(), self.0.options);
            let session = busline_transports::open(&url)?.connect(connect).await?;
            let cut_since = self.0.with(|state| {
                state.sessions.push((Arc::clone(&session), Arc::clone(&proxy)));
                state.cuts != cuts
            });
            if cut_since {
                proxy.cut().await;
            }
            Ok(session)
        })
    }
}

impl Harness for RabbitMq {
    fn name(&self) -> String {
        format!("RabbitMQ, options '{}'", self.options)
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let (vhost, options, state) = (Arc::clone(&self.vhost), self.options, Mutex::default());
        let rig: Box<dyn Rig> = Box::new(CutRig(Arc::new(Cut { vhost, options, state })));
        Box::pin(ready(Ok(rig)))
    }
}

impl Rig for CutRig {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(Cuttable(Arc::clone(&self.0)))
    }

    fn stop_broker(&self) -> BoxFuture<'_, Result<()>> {
        self.0.with(|state| state.away = true);
        Box::pin(self.0.cut_all().map(Ok))
    }

    fn start_broker(&self) -> BoxFuture<'_, Result<()>> {
        self.0.with(|state| state.away = false);
        Box::pin(ready(Ok(())))
    }

    fn kill_member(&self, session: Arc<dyn Session>) -> BoxFuture<'_, Result<()>> {
        let found = self.0.with(|state| {
            let is_it = |(of, _): &(Arc<dyn Session>, Arc<Proxy>)| Arc::ptr_eq(of, &session);
            let index = state.sessions.iter().position(is_it);
            index.map(|index| state.sessions.swap_remove(index))
        });
        Box::pin(async move {
            if let Some((_, proxy)) = found {
                proxy.cut().await;
            }
            Ok(())
        })
    }

    fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.cut_all().map(Ok))
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(60)
    }
}

/// Writes until retention lets something go: at the sizes of a stream's segments that takes minutes.
const TOO_LARGE: &str = "what_retention_removed_is_refused";

/// Cases that are run at the same time: they wait more than they work.
const AT_ONCE: usize = 4;

async fn keeps_the_contract(options: &'static str) {
    let Some(broker) = Broker::shared() else { return };
    let harness = RabbitMq { vhost: Arc::new(broker.vhost()), options };
    let only = std::env::var("BUSLINE_TEST_CASE").unwrap_or_default();
    let cases =
        conformance::cases().filter(|case| case.name.contains(&only) && case.name != TOO_LARGE);
    println!(
        "skip: {TOO_LARGE} on RabbitMQ: what its streams let go is not shown, it takes minutes"
    );
    let running = cases.map(|case| conformance::run_case(&harness, case));
    let mut running = futures_util::stream::iter(running).buffer_unordered(AT_ONCE);
    let (mut passed, mut failed, mut skipped) = (0, Vec::new(), 0);
    while let Some(report) = running.next().await {
        println!("{report}");
        match report.verdict {
            Verdict::Passed => passed += 1,
            Verdict::Skipped(_) => skipped += 1,
            Verdict::Failed(_) => failed.push(report.to_string()),
        }
    }
    println!("{}: {passed} passed, {} failed, {skipped} skipped", harness.name(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_with_classic_queues() {
    keeps_the_contract("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_with_quorum_queues() {
    keeps_the_contract("&queue=quorum").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_with_logs() {
    keeps_the_contract("&replay=true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_in_the_dialect_of_python_services() {
    keeps_the_contract("&dialect=eventail").await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_disconnected() {
    let connecting = busline_transports::open("amqp://127.0.0.1:1").unwrap();
    let error = connecting.connect(Connect::new(busline_core::transport::Role::Publish)).await;
    let error: Error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains("amqp://127.0.0.1:1"), "{error}");
}
