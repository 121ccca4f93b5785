//! Where a consumer stands, and why it cannot stand somewhere.

use std::cmp::Ordering;

use busline_core::{Error, ErrorKind, Offset, Patterns, Position, Record, Result, Topic};

use crate::bus::Bus;
use crate::consume::LogReader;

/// The place behind a record, which the reader gave just now and does not hold anything beyond.
pub(super) fn behind(record: &Record, reader: &LogReader) -> Position {
    // On several shards, or where only the transport understands its places, the reader has to know.
    let known = (record.offset.pairs().count() == 1).then(|| record.offset.next());
    let place = known.or_else(|| reader.position());
    place.map_or(Position::Offset(record.offset.clone()), Position::Offset)
}

/// The place so many behind an offset, or before it; `None` where only the transport knows.
pub(super) fn step(offset: &Offset, by: i64) -> Option<Offset> {
    let mut pairs = offset.pairs();
    match (pairs.next(), pairs.next()) {
        (Some((shard, number)), None) => {
            number.checked_add_signed(by).map(|number| Offset::new(shard, number))
        }
        _ => None,
    }
}

/// Opens a reader there. A topic that is missing is declared, where the bus may be changed.
pub(super) async fn open(
    bus: &Bus,
    topic: &Topic,
    at: &Position,
    patterns: Patterns,
    chunk_max: Option<usize>,
) -> Result<LogReader> {
    let builder = bus.reader(topic.clone(), at.clone())?.patterns(patterns);
    let builder = match chunk_max {
        Some(chunk_max) => builder.chunk_max(chunk_max),
        None => builder,
    };
    match (builder.clone().open().await, at) {
        (Err(error), Position::Offset(offset)) => {
            Err(explain(bus, topic, Some(offset.clone()), error).await)
        }
        (Err(error), _) if error.kind() == ErrorKind::NotFound && bus.creates() => {
            bus.declare_log(topic).await?;
            builder.open().await
        }
        (opened, _) => opened,
    }
}

/// The oldest place that the log of a topic has.
pub(super) async fn earliest(bus: &Bus, topic: &Topic) -> Result<Option<Offset>> {
    let reader = bus.reader(topic.clone(), Position::Earliest)?.open().await?;
    Ok(reader.position())
}

/// Says that retention has removed a place, if that is why it is not found, and which is the earliest there is.
pub(super) async fn explain(bus: &Bus, topic: &Topic, at: Option<Offset>, error: Error) -> Error {
    let (ErrorKind::NotFound, Some(asked)) = (error.kind(), at) else { return error };
    match earliest(bus, topic).await {
        Ok(Some(earliest)) if asked.compare(&earliest) == Some(Ordering::Less) => Error::new(
            ErrorKind::NotFound,
            format!("the messages from {asked} on were removed by retention"),
        )
        .context("topic", topic)
        .context("earliest", &earliest)
        .hint("seek to the earliest, or to the beginning: what was between them is lost to this reader"),
        _ => error,
    }
}
