//! Reading a topic's log: a stream queue, over AMQP 0-9-1.
//!
//! Offsets have gaps, so nobody counts with them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::{Dialect, Read, Reader};
use busline_core::{
    Capability, Error, ErrorKind, Offset, Patterns, Position, Record, Result, Timestamp, Topic,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ChannelFlowOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::capabilities::{NO_LOG, NO_LOGS};
use super::channel::ConsumerChannel;
use super::declare;
use super::error::error;
use super::mapping::{self, Came};
use super::names;
use super::session::Core;

/// The most that is fetched ahead.
const AHEAD: u16 = 1024;

/// What the broker has and does not send for so long is a gap, or a broker in trouble.
const GAP_MAX: Duration = Duration::from_secs(5);

/// A log that was never seen to hold anything, and sends nothing for so long, is empty.
const EMPTY_MAX: Duration = Duration::from_millis(500);

/// The clocks of publishers and broker may differ by this much.
const SKEW_S: u64 = 60;

pub(super) struct AmqpReader {
    core: Arc<Core>,
    topic: Topic,
    queue: ShortString,
    patterns: Patterns,
    chunk_max: usize,
    shard: u64,
    /// What `next` looks at first.
    position: u64,
    /// Records before this are passed over until the first that is not.
    since: Option<Timestamp>,
    /// The time of the last record, for those that bear none.
    time: Timestamp,
    buffer: VecDeque<Record>,
    following: Option<ConsumerChannel>,
}

impl std::fmt::Debug for AmqpReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpReader")
            .field("topic", &self.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Where a log begins, and the place behind its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) end: u64,
}

pub(super) async fn open(core: &Arc<Core>, read: Read) -> Result<AmqpReader> {
    core.ended.check()?;
    declare::check_topic(core, &read.topic).await?;
    if !declare::has_log(core, &read.topic).await? {
        let way_out = if core.dialect == Dialect::Busline { NO_LOG } else { NO_LOGS };
        let refused = Error::refused(Capability::Replay.as_str(), "amqp", way_out);
        return Err(refused.context("topic", &read.topic));
    }
    let mut reader = AmqpReader {
        core: Arc::clone(core),
        queue: names::log(&read.topic)?,
        shard: shard(&read.topic),
        topic: read.topic,
        patterns: read.patterns,
        chunk_max: read.chunk_max.max(1),
        position: 0,
        since: None,
        time: Timestamp::default(),
        buffer: VecDeque::new(),
        following: None,
    };
    reader.go(&read.from).await?;
    Ok(reader)
}

/// The shard of a topic's offsets: another topic's are recognised by it.
pub(super) fn shard(topic: &Topic) -> u64 {
    // FNV-1a.
    topic.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where the log of this queue begins and ends now.
///
/// The broker does not say. But a chunk comes as a whole: behind its first message, and before the answer
/// to what is asked then, come all the others.
pub(super) async fn extent(core: &Core, queue: &ShortString) -> Result<Extent> {
    let Some((_, last)) = chunk(core, queue, "last", u16::MAX).await? else {
        return Ok(Extent { first: 0, end: 0 });
    };
    let first = chunk(core, queue, "first", 1).await?.map_or(0, |(first, _)| first);
    // Retention may have removed that chunk in between.
    Ok(Extent { first, end: first.max(last + 1) })
}

/// The place behind the newest message.
async fn end(core: &Core, queue: &ShortString) -> Result<u64> {
    Ok(chunk(core, queue, "last", u16::MAX).await?.map_or(0, |(_, last)| last + 1))
}

/// The first and the last place of what comes at once from there; `None` when the log is empty.
async fn chunk(
    core: &Core,
    queue: &ShortString,
    from: &str,
    ahead: u16,
) -> Result<Option<(u64, u64)>> {
    let mut following = follow(core, queue, names::text(from), ahead).await?;
    let looked = look(core, queue, &mut following).await;
    following.close().await;
    looked
}

async fn look(
    core: &Core,
    queue: &ShortString,
    following: &mut ConsumerChannel,
) -> Result<Option<(u64, u64)>> {
    let (channel, consumer) = following.get().map_err(error)?;
    let longest = if core.has_seen_log(queue) { GAP_MAX } else { EMPTY_MAX };
    let Ok(came) = tokio::time::timeout(longest, consumer.next()).await else { return Ok(None) };
    core.see_log(queue);
    let mut found: Option<(u64, u64)> = None;
    let mut take_in = |came: lapin::Result<lapin::message::Delivery>| {
        let delivery = came.map_err(|said| core.why(error(said)))?;
        if let Some(number) = mapping::stream_offset(&delivery.properties) {
            found = Some(found.map_or((number, number), |(first, _)| (first, number)));
        }
        Ok::<_, Error>(())
    };
    let gone = || Error::new(ErrorKind::NotFound, format!("the log '{queue}' is gone"));
    take_in(came.ok_or_else(gone)?)?;
    channel.channel_flow(ChannelFlowOptions { active: true }).await.map_err(error)?;
    while let Some(Some(came)) = consumer.next().now_or_never() {
        take_in(came)?;
    }
    Ok(found)
}

async fn follow(
    core: &Core,
    queue: &ShortString,
    from: AMQPValue,
    ahead: u16,
) -> Result<ConsumerChannel> {
    let channel = core.channel().await?;
    channel.basic_qos(ahead, BasicQosOptions::default()).await.map_err(error)?;
    let mut arguments = FieldTable::default();
    arguments.insert(mapping::STREAM_OFFSET.into(), from);
    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
    let consumer = channel.basic_consume(queue.clone(), tag, options, arguments).await;
    let consumer = consumer.map_err(|said| core.why(error(said)))?;
    Ok(ConsumerChannel::new(channel, consumer))
}

impl AmqpReader {
    async fn go(&mut self, to: &Position) -> Result<()> {
        let extent = extent(&self.core, &self.queue).await?;
        let (position, since) = match to {
            Position::Earliest => (extent.first, None),
            Position::Latest => (extent.end, None),
            Position::Offset(offset) => (self.number(offset, extent)?, None),
            Position::Time(time) => (extent.first, Some(*time)),
        };
        self.position = position;
        self.since = since;
        self.buffer.clear();
        self.following = None;
        Ok(())
    }

    fn number(&self, offset: &Offset, extent: Extent) -> Result<u64> {
        let wrong = |kind, why: String| {
            Err(Error::new(kind, why).context("topic", &self.topic).context("offset", offset))
        };
        let place = |number| Offset::new(self.shard, number);
        match offset.number(self.shard) {
            Some(number) if offset.pairs().count() == 1 => {
                if number > extent.end {
                    let end = place(extent.end);
                    return wrong(ErrorKind::Limit, format!("{offset} is behind the end, {end}"));
                }
                if number < extent.first {
                    let first = place(extent.first);
                    let why =
                        format!("{offset} was removed by retention, the log begins at {first}");
                    return wrong(ErrorKind::NotFound, why);
                }
                Ok(number)
            }
            _ => wrong(ErrorKind::Limit, format!("{offset} is of another topic")),
        }
    }

    async fn following(&mut self) -> Result<&mut ConsumerChannel> {
        if self.following.is_none() {
            let from = match self.since {
                Some(time) => {
                    let seconds = u64::try_from(time.unix_us() / 1_000_000).unwrap_or(0);
                    AMQPValue::Timestamp(seconds.saturating_sub(SKEW_S))
                }
                None => AMQPValue::LongLongInt(i64::try_from(self.position).unwrap_or(i64::MAX)),
            };
            self.following = Some(follow(&self.core, &self.queue, from, AHEAD).await?);
        }
        self.following.as_mut().ok_or_else(super::connection::gone)
    }

    /// Takes in what is there without waiting, then waits for one if there is nothing. Cancel safe.
    async fn fetch(&mut self) -> Result<()> {
        let mut first = true;
        loop {
            let core = Arc::clone(&self.core);
            let (channel, consumer) = self.following().await?.get().map_err(error)?;
            let came =
                if first { Some(consumer.next().await) } else { consumer.next().now_or_never() };
            let Some(came) = came else { return Ok(()) };
            first = false;
            let delivery = match came {
                Some(Ok(delivery)) => delivery,
                Some(Err(said)) => return Err(core.why(error(said))),
                None => {
                    let why = format!("the log of topic '{}' is gone", self.topic);
                    return Err(core.ended.get().unwrap_or(Error::new(ErrorKind::NotFound, why)));
                }
            };
            // Acks only make room here; they are on their way with the next step.
            let channel = channel.clone();
            let acking = channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default());
            drop(Box::pin(acking).now_or_never());
            self.take_in(delivery);
            if self.buffer.len() >= usize::from(AHEAD) {
                return Ok(());
            }
        }
    }

    fn take_in(&mut self, delivery: lapin::message::Delivery) {
        let Some(number) = mapping::stream_offset(&delivery.properties) else { return };
        // A chunk comes as a whole, also what is before the place in it.
        if number < self.position {
            return;
        }
        let came = Came {
            key: delivery.routing_key,
            properties: delivery.properties,
            payload: delivery.data.into(),
            redelivered: false,
        };
        self.position = number + 1;
        self.time = mapping::sent_at(&came).unwrap_or(self.time);
        if self.since.is_some_and(|since| self.time < since) {
            return;
        }
        self.since = None;
        let message = mapping::decode(self.core.dialect, &self.topic, &came);
        if self.patterns.matches(message.key.as_str()) {
            let offset = Offset::new(self.shard, number);
            self.buffer.push_back(Record { message, offset, time: self.time });
        }
    }

    async fn next_chunk(&mut self) -> Result<Vec<Record>> {
        while self.buffer.is_empty() {
            if self.position >= end(&self.core, &self.queue).await? {
                return Ok(Vec::new());
            }
            let before = self.position;
            let fetched = tokio::time::timeout(GAP_MAX, self.fetch()).await;
            match fetched {
                Ok(fetched) => fetched?,
                // Offsets without messages at the end of the log.
                Err(_) if self.position == before => return Ok(Vec::new()),
                Err(_) => {}
            }
        }
        let count = self.buffer.len().min(self.chunk_max);
        Ok(self.buffer.drain(..count).collect())
    }
}

impl Reader for AmqpReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(self.next_chunk())
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while self.buffer.is_empty() {
                self.fetch().await?;
            }
            Ok(())
        })
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.go(&to).await.map_err(|error| error.during("seek")) })
    }

    fn position(&self) -> Option<Offset> {
        let first = self.buffer.front().map(|record| record.offset.clone());
        Some(first.unwrap_or_else(|| Offset::new(self.shard, self.position)))
    }
}
