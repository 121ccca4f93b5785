//! Reading a topic's log: a consumer without a group, from any place on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Read, Reader};
use busline_core::{
    Capability, Error, ErrorKind, Offset as Place, Patterns, Position, Record, Result,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::assign::is_same;
use super::client::{Context, configure, drop_elsewhere};
use super::consume::LOOK_AGAIN;
use super::error::error;
use super::groups;
use super::mapping::{self, Came};
use super::session::Core;
use super::subscribe::know;
use super::topics::{self, About};

/// What the broker has and does not send for so long is a gap, or a broker in trouble.
const GAP_MAX: Duration = Duration::from_secs(5);

/// The most that is taken in at once.
const TAKE_MAX: usize = 4096;

pub(super) struct KafkaReader {
    core: Arc<Core>,
    about: Arc<About>,
    consumer: Option<StreamConsumer<Context>>,
    patterns: Patterns,
    chunk_max: usize,
    /// The place on each partition that comes next out of the client.
    places: BTreeMap<i32, u64>,
    /// Where the client said that there is nothing more.
    reached: BTreeMap<i32, u64>,
    /// With the place behind each.
    buffer: VecDeque<(Record, BTreeMap<i32, u64>)>,
    /// Of the record that `next` looks at first.
    position: BTreeMap<i32, u64>,
    /// When it was looked whether the topic is still the same.
    looked: Duration,
    /// It was at the end: what comes then may be of another topic of that name.
    was_idle: bool,
}

impl std::fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaReader")
            .field("topic", &self.about.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

pub(super) async fn open(core: &Arc<Core>, read: Read) -> Result<KafkaReader> {
    core.ended.check()?;
    core.capabilities().require(Capability::Replay)?;
    if let Some(name) = read.options.keys().find(|name| name.starts_with("kafka.")) {
        return Err(Error::new(ErrorKind::Limit, format!("kafka: has no option '{name}'")));
    }
    let about = core.look(&read.topic).await?;
    let places = groups::resolve(core, &about, &read.from).await?;
    let mut client = configure(&core.config, &core.name)?;
    client
        .set("group.id", "busline")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "16384");
    let consumer = client.create_with_context(Context(Arc::clone(&core.faults))).map_err(error)?;
    let consumer = know(core, consumer, [Some(about.name.clone()), None]).await?;
    let mut reader = KafkaReader {
        core: Arc::clone(core),
        about,
        consumer: Some(consumer),
        patterns: read.patterns,
        chunk_max: read.chunk_max.max(1),
        places: BTreeMap::new(),
        reached: BTreeMap::new(),
        buffer: VecDeque::new(),
        position: BTreeMap::new(),
        looked: core.clock.monotonic(),
        was_idle: false,
    };
    reader.go(places)?;
    Ok(reader)
}

impl KafkaReader {
    fn consumer(&self) -> &StreamConsumer<Context> {
        self.consumer.as_ref().expect("it is taken by the drop alone")
    }

    fn go(&mut self, places: Vec<(i32, u64)>) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for (partition, place) in &places {
            let place = Offset::Offset(i64::try_from(*place).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.about.name, *partition, place).map_err(error)?;
        }
        self.consumer().assign(&list).map_err(error)?;
        self.places = places.into_iter().collect();
        self.position.clone_from(&self.places);
        self.reached.clear();
        self.buffer.clear();
        Ok(())
    }

    /// Takes in what is there without waiting, then waits for one if there is nothing. Cancel safe.
    async fn fetch(&mut self) -> Result<()> {
        let first = recv(self.consumer()).await;
        self.take_in(first).await?;
        for _ in 0..TAKE_MAX {
            let Some(next) = recv(self.consumer()).now_or_never() else { break };
            self.take_in(next).await?;
        }
        Ok(())
    }

    async fn take_in(&mut self, came: KafkaResult<Came>) -> Result<()> {
        match came {
            Ok(came) => {
                self.push(&came);
                Ok(())
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                let place = self.places.get(&partition).copied().unwrap_or(0);
                let known = self.reached.entry(partition).or_insert(place);
                *known = place.max(*known);
                Ok(())
            }
            Err(said) => self.failed(said).await,
        }
    }

    fn push(&mut self, came: &Came) {
        let place = self.places.entry(came.partition).or_insert(0);
        if came.offset < *place {
            return;
        }
        *place = came.offset + 1;
        if self.buffer.is_empty() && !self.patterns.matches(came.key()) {
            self.position.clone_from(&self.places);
            return;
        }
        if !self.patterns.matches(came.key()) {
            return;
        }
        let message = mapping::decode(self.core.dialect, &self.about.topic, came);
        let mut here = self.places.clone();
        here.insert(came.partition, came.offset);
        let offset = self.offset(&here);
        let record = Record { message, offset, time: came.time };
        self.buffer.push_back((record, self.places.clone()));
    }

    async fn failed(&mut self, said: KafkaError) -> Result<()> {
        match said.rdkafka_error_code() {
            Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => {
                is_same(&self.core, &self.about).await?;
                // Says which of them is gone, and where to go on.
                let position = Position::Offset(self.offset(&self.places));
                groups::resolve(&self.core, &self.about, &position).await.map(drop)?;
                Err(error(said))
            }
            Some(code) if super::publish::is_unknown(code) => {
                is_same(&self.core, &self.about).await
            }
            Some(Code::TopicAuthorizationFailed) => {
                Err(error(said).context("topic", &self.about.topic))
            }
            _ => self.core.ended.check(),
        }
    }

    fn offset(&self, places: &BTreeMap<i32, u64>) -> Place {
        let shards = self.about.shards;
        let pairs = places.iter().map(|(partition, place)| (shards.shard(*partition), *place));
        // A topic has at least one partition, each once, and fewer than an offset can name.
        Place::of(pairs).unwrap_or_else(|_| Place::new(shards.shard(0), 0))
    }

    async fn still_there(&mut self) -> Result<()> {
        self.core.ended.check()?;
        let now = self.core.clock.monotonic();
        if now < self.looked + LOOK_AGAIN && !self.was_idle {
            return Ok(());
        }
        is_same(&self.core, &self.about).await?;
        self.looked = now;
        self.was_idle = false;
        Ok(())
    }

    /// Whether the client has passed everything that there was when it was asked.
    async fn is_at_end(&mut self) -> Result<bool> {
        for (partition, place) in self.places.clone() {
            let (_, end) = topics::extent(&self.core, &self.about.name, partition).await?;
            let reached = self.reached.get(&partition).copied().unwrap_or(0);
            if place.max(reached) < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn next_chunk(&mut self) -> Result<Vec<Record>> {
        while self.buffer.is_empty() {
            if self.is_at_end().await? {
                self.was_idle = true;
                return Ok(Vec::new());
            }
            let before = self.places.clone();
            let limit = self.core.clock.sleep(GAP_MAX);
            let ended = self.core.ended.clone();
            tokio::select! {
                fetched = self.fetch() => fetched?,
                why = ended.wait() => return Err(why),
                () = limit => {
                    // Places without records at the end of the log.
                    if self.places == before {
                        return Ok(Vec::new());
                    }
                }
            }
        }
        self.still_there().await?;
        let count = self.buffer.len().min(self.chunk_max);
        let chunk: Vec<_> = self.buffer.drain(..count).collect();
        if let Some((_, behind)) = chunk.last() {
            self.position.clone_from(behind);
        }
        if self.buffer.is_empty() {
            self.position.clone_from(&self.places);
        }
        Ok(chunk.into_iter().map(|(record, _)| record).collect())
    }

    async fn wait_for_more(&mut self) -> Result<()> {
        self.was_idle |= self.buffer.is_empty();
        while self.buffer.is_empty() {
            let again = self.core.clock.sleep(LOOK_AGAIN);
            let ended = self.core.ended.clone();
            tokio::select! {
                fetched = self.fetch() => fetched?,
                why = ended.wait() => return Err(why),
                () = again => self.still_there().await?,
            }
        }
        Ok(())
    }
}

async fn recv(consumer: &StreamConsumer<Context>) -> KafkaResult<Came> {
    Ok(Came::of(&consumer.recv().await?))
}

impl Reader for KafkaReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(self.next_chunk())
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.wait_for_more())
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let places = groups::resolve(&self.core, &self.about, &to).await;
            places.and_then(|places| self.go(places)).map_err(|error| error.during("seek"))
        })
    }

    fn position(&self) -> Option<Place> {
        Some(self.offset(&self.position))
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        drop_elsewhere(self.consumer.take());
    }
}
