//! Publishing: acknowledged by all replicas in sync, idempotent, many on the way at once, receipts with offsets.

use std::sync::Arc;
use std::time::Duration;

use busline_core::receipt::ReceiptSender;
use busline_core::{ErrorKind, Offset, PendingReceipt, PublishError, Published, Receipt, Result};
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::Semaphore;

use super::client::{Context, Faults, configure};
use super::config::KafkaConfig;
use super::error::{error, of_code};
use super::mapping::Wire;
use super::topics::Shards;
use crate::ended::{Ended, gone};

/// Room for headers and what a record takes besides its payload.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 10;

/// The one producer of a session; its client also answers questions about the cluster.
pub(super) struct Publisher {
    producer: ThreadedProducer<Receipts>,
    ended: Ended,
    window: Arc<Semaphore>,
    window_size: usize,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher")
    }
}

/// What waits for a receipt.
pub(super) struct Waiting {
    receipt: ReceiptSender,
    shards: Shards,
    has_permit: bool,
}

/// What the producer calls back.
pub(super) struct Receipts {
    context: Context,
    ended: Ended,
    window: Arc<Semaphore>,
}

impl ClientContext for Receipts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Receipts {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        if waiting.has_permit {
            self.window.add_permits(1);
        }
        let published = match delivered {
            Ok(message) => Ok(Receipt::Stored {
                offset: u64::try_from(message.offset())
                    .ok()
                    .map(|number| Offset::new(waiting.shards.shard(message.partition()), number)),
            }),
            Err((said, _)) => self.failed(said.clone()),
        };
        waiting.receipt.send(published);
    }
}

impl Receipts {
    /// Nobody knows what became of a message whose brokers went away.
    fn failed(&self, said: KafkaError) -> Published {
        let why = self.ended.get();
        let said = error(said);
        Err(match (said.kind(), why) {
            (ErrorKind::Disconnected, Some(why)) => PublishError::Unknown(why),
            (ErrorKind::Disconnected, None) => {
                // Whoever waits would wait for ever: a session that cannot send is over.
                self.ended.end(said.clone());
                PublishError::Unknown(said)
            }
            (ErrorKind::Limit, _) => PublishError::TooLarge(said),
            _ => PublishError::Nacked(said),
        })
    }
}

impl Publisher {
    /// A client that connects by itself; nothing is awaited.
    pub(super) fn start(
        config: &KafkaConfig,
        name: &str,
        faults: &Arc<Faults>,
        ended: &Ended,
    ) -> Result<Self> {
        let ms = |wait: Duration| wait.as_millis().to_string();
        let window = Arc::new(Semaphore::new(config.window));
        let mut client = configure(config, name)?;
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", ms(config.delivery_timeout))
            .set("request.timeout.ms", ms(config.delivery_timeout.min(Duration::from_secs(30))))
            .set("linger.ms", ms(config.linger))
            .set("compression.type", &config.compression)
            .set("message.max.bytes", (config.message_max + RECORD_BYTES_MAX).to_string())
            .set("queue.buffering.max.messages", "1000000")
            // As the other clients spread keys.
            .set("partitioner", "murmur2_random");
        let receipts = Receipts {
            context: Context(Arc::clone(faults)),
            ended: ended.clone(),
            window: Arc::clone(&window),
        };
        let producer = ThreadedProducer::from_config_and_context(&client, receipts);
        let producer = producer.map_err(error)?;
        Ok(Self { producer, ended: ended.clone(), window, window_size: config.window })
    }

    /// The client, for questions.
    pub(super) fn client(&self) -> &Client<Receipts> {
        self.producer.client()
    }

    /// Accepts a batch when there is room. Cancelled before, nothing is sent.
    pub(super) async fn send(&self, batch: Vec<(Wire, Shards)>) -> Result<Vec<PendingReceipt>> {
        // A batch larger than the window takes all of it.
        let room = batch.len().min(self.window_size);
        let permits = u32::try_from(room).unwrap_or(u32::MAX);
        let entry = self.window.acquire_many(permits).await.map_err(|_| gone())?;
        self.ended.check()?;
        entry.forget();
        let send = |(index, (wire, shards)): (usize, (Wire, Shards))| {
            let (receipt, pending) = PendingReceipt::channel();
            let waiting = Waiting { receipt, shards, has_permit: index < room };
            self.produce(wire, Box::new(waiting));
            pending
        };
        Ok(batch.into_iter().enumerate().map(send).collect())
    }

    fn produce(&self, wire: Wire, waiting: Box<Waiting>) {
        let key = wire.key.as_deref();
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&wire.topic, waiting)
            .payload(&wire.payload[..]);
        record.key = key;
        record.partition = wire.partition;
        record.headers = wire.headers;
        if let Err((said, record)) = self.producer.send(record) {
            let waiting = record.delivery_opaque;
            if waiting.has_permit {
                self.window.add_permits(1);
            }
            let said = match said.rdkafka_error_code() {
                Some(code) => of_code(code),
                None => error(said),
            };
            waiting.receipt.send(Err(PublishError::from_send(said)));
        }
    }

    /// Resolves when everything accepted before has its receipt.
    pub(super) async fn drain(&self) {
        let all = u32::try_from(self.window_size).unwrap_or(u32::MAX);
        drop(self.window.acquire_many(all).await);
    }

    /// Gives up what is on its way: its receipts say that nobody knows.
    pub(super) fn give_up(&self) {
        self.window.close();
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

/// Codes by which a broker says that there is no such topic.
pub(super) fn is_unknown(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}
