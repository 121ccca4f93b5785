//! A consumer as the library calls it back: told of partitions that come and go, it decides later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, watch};

use super::client::{Context, drop_elsewhere};

/// What the library tells a member.
#[derive(Debug)]
pub(super) enum Event {
    /// The group gave it these partitions of its topic.
    Assign(Vec<i32>),
    /// The group takes these from it; lost ones are another's already.
    Revoke { partitions: Vec<i32>, lost: bool },
}

/// What a member is called back with.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) context: Context,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// On its way out it gives everything up at once.
    leaving: AtomicBool,
}

impl Told {
    pub(super) fn new(context: Context) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, told) = mpsc::unbounded_channel();
        (Self { context, events, leaving: AtomicBool::new(false) }, told)
    }
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ConsumerContext for Told {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let is_assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.leaving.load(Ordering::Acquire) {
            let answered = match is_assign {
                true => consumer.incremental_assign(&TopicPartitionList::new()),
                false => consumer.incremental_unassign(list),
            };
            if let Err(said) = answered.or_else(|_| consumer.unassign()) {
                tracing::debug!(%said, "a member that leaves holds on to its partitions");
            }
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let event = match is_assign {
            true => Event::Assign(partitions),
            false => Event::Revoke { partitions, lost: consumer.assignment_lost() },
        };
        // A task that is gone is about to leave.
        drop(self.events.send(event));
    }
}

/// A consumer that leaves its group as it is dropped.
pub(super) struct Member {
    consumer: Option<Arc<StreamConsumer<Told>>>,
    /// Who waits for it to have left sees this go.
    here: watch::Receiver<()>,
}

impl Member {
    pub(super) fn new(consumer: StreamConsumer<Told>, here: watch::Receiver<()>) -> Self {
        Self { consumer: Some(Arc::new(consumer)), here }
    }

    pub(super) fn consumer(&self) -> &Arc<StreamConsumer<Told>> {
        self.consumer.as_ref().expect("it is taken by the drop alone")
    }

    /// From now on it gives up everything at once.
    pub(super) fn leaves(&self) {
        self.consumer().context().leaving.store(true, Ordering::Release);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // In this order: it has left before it is said so.
        drop_elsewhere((self.consumer.take(), self.here.clone()));
    }
}
