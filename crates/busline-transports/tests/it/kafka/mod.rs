//! Kafka keeps the contract: a real broker, which is stopped, killed and started.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "these are tests, and one that is skipped says so"
)]

mod broker;
mod hermes;
mod input;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use broker::{Breakable, Broker, TURN};
use busline_core::conformance::{self, Case, Harness, Rig, Verdict};
use busline_core::transport::{Connect, Role, Transport};
use busline_core::{Capability, Error, ErrorKind, Result};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, ready};

/// A profile of the broker: what its URLs ask for.
struct Kafka {
    url: String,
    breakable: Option<Breakable>,
}

/// A bus of its own for each case, by the names in it. A session that nobody has any more leaves.
struct KafkaRig {
    url: String,
    breakable: Option<Breakable>,
}

impl Harness for Kafka {
    fn name(&self) -> String {
        format!("Kafka, {}", self.url)
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let (url, breakable) = (self.url.clone(), self.breakable.clone());
        let rig: Box<dyn Rig> = Box::new(KafkaRig { url, breakable });
        Box::pin(ready(Ok(rig)))
    }
}

impl Rig for KafkaRig {
    fn transport(&self) -> Arc<dyn Transport> {
        busline_transports::open(&self.url).unwrap()
    }

    fn stop_broker(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let way_out = "others use it: the cases of restarts run on a node of their own";
            let refused = || Error::refused("broker to stop", "this harness", way_out);
            self.breakable.as_ref().ok_or_else(refused)?.ctl("kill").await;
            Ok(())
        })
    }

    fn start_broker(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if let Some(breakable) = &self.breakable {
                breakable.ctl("start").await;
            }
            Ok(())
        })
    }

    fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(40)
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(60)
    }
}

async fn keeps_the_contract(harness: Kafka, at_once: usize, which: impl Fn(&Case) -> bool) {
    let only = std::env::var("BUSLINE_TEST_CASE").unwrap_or_default();
    let cases = conformance::cases().filter(|case| case.name.contains(&only) && which(case));
    let running = cases.map(|case| conformance::run_case(&harness, case));
    let mut running = futures_util::stream::iter(running).buffer_unordered(at_once);
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

/// Those that stop the broker run on the node that is there for it.
fn leaves_the_broker_alone(case: &Case) -> bool {
    case.capability != Capability::Reconnect
}

/// Cases that are run at the same time: they wait more than they work.
const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract() {
    let Some(broker) = Broker::shared() else { return };
    let harness = Kafka { url: broker.url(""), breakable: None };
    keeps_the_contract(harness, AT_ONCE, leaves_the_broker_alone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract_with_several_partitions() {
    let Some(broker) = Broker::shared() else { return };
    let harness = Kafka { url: broker.url("&partitions=3"), breakable: None };
    println!(
        "skip: cases that count on the order of a whole topic, on topics with several partitions"
    );
    keeps_the_contract(harness, AT_ONCE, counts_on_no_order).await;
}

/// Most cases compare what comes with what was sent, in its order.
fn counts_on_no_order(case: &Case) -> bool {
    let names = [
        "many_publishers_and_members_at_once",
        "members_share_without_duplicates",
        "a_different_group_is_a_conflict",
        "verify_creates_nothing",
        "joining_what_is_not_declared_fails",
        "attempts_count_up",
        "attempts_count_over_members_and_reopens",
        "later_ones_of_an_ordering_key_wait",
        "the_first_of_a_key_goes_on_after_any_settle",
        "a_rejected_message_is_kept_unchanged",
        "a_delayed_retry_survives_its_member",
        "an_unsettled_message_does_not_come_twice",
        "a_message_arrives_as_it_was_sent",
        "closing_twice_is_no_error",
        "a_deleted_group_is_gone",
        "groups_are_listed",
        "topics_are_listed",
    ];
    names.contains(&case.name) || case.capability == Capability::Order
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract_in_the_dialect_of_message_buses() {
    let Some(broker) = Broker::shared() else { return };
    let harness = Kafka { url: broker.url("&dialect=hermes"), breakable: None };
    keeps_the_contract(harness, AT_ONCE, leaves_the_broker_alone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract_over_restarts() {
    let _turn = TURN.lock().await;
    let Some(breakable) = Breakable::find() else { return };
    let url = breakable.broker.url("");
    let harness = Kafka { url, breakable: Some(breakable) };
    keeps_the_contract(harness, 1, |case| case.capability == Capability::Reconnect).await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_disconnected() {
    let connecting = busline_transports::open("kafka://127.0.0.1:1").unwrap();
    let error = connecting.connect(Connect::new(Role::Publish)).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains("kafka://127.0.0.1:1"), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}
