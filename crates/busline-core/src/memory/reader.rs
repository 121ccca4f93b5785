//! Reading a topic in memory from any position.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::broker::{Broker, Line};
use super::log::TopicLog;
use super::state::State;
use crate::delivery::Record;
use crate::error::{Error, ErrorKind, Result};
use crate::offset::{Offset, Position};
use crate::transport::{Read, Reader};

/// A reader: a number, and what it looks for.
#[derive(Debug)]
pub(super) struct MemoryReader {
    broker: Arc<Broker>,
    line: Arc<Line>,
    topic: u64,
    read: Read,
    next: u64,
}

impl MemoryReader {
    pub(super) fn open(broker: &Arc<Broker>, line: &Arc<Line>, read: Read) -> Result<Self> {
        let (mut state, now) = broker.lock();
        line.check()?;
        let topic = state.topic(&read.topic)?;
        state.trim(topic, now);
        let next = log_of(&state, topic, &read)?.resolve(&read.from)?;
        drop(state);
        Ok(Self { broker: Arc::clone(broker), line: Arc::clone(line), topic, read, next })
    }

    fn look(&mut self) -> Result<Vec<Record>> {
        let (mut state, now) = self.broker.lock();
        self.line.check()?;
        state.trim(self.topic, now);
        let log = log_of(&state, self.topic, &self.read)?;
        if self.next < log.first() {
            return Err(log.removed(self.next));
        }
        let mut chunk = Vec::new();
        while chunk.len() < self.read.chunk_max.max(1)
            && let Some(stored) = log.get(self.next)
        {
            if self.read.patterns.matches(stored.message.key.as_str()) {
                let offset = log.offset(self.next);
                let (message, time) = (stored.message.clone(), stored.time);
                chunk.push(Record { message, offset, time });
            }
            self.next += 1;
        }
        Ok(chunk)
    }
}

impl Reader for MemoryReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(async move { self.look() })
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let changed = {
                let (state, _) = self.broker.lock();
                self.line.check()?;
                let log = log_of(&state, self.topic, &self.read)?;
                if self.next != log.tail() {
                    return Ok(());
                }
                // Made under the lock, so that it sees whatever comes after this look.
                Arc::clone(&log.changed).notified_owned()
            };
            tokio::select! {
                () = changed => Ok(()),
                () = self.line.over() => Err(self.line.error()),
            }
        })
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (state, _) = self.broker.lock();
            self.line.check()?;
            self.next = log_of(&state, self.topic, &self.read)?.resolve(&to)?;
            Ok(())
        })
    }

    fn position(&self) -> Option<Offset> {
        Some(Offset::new(self.topic, self.next))
    }
}

fn log_of<'a>(state: &'a State, topic: u64, read: &Read) -> Result<&'a TopicLog> {
    state.topics.get(&topic).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("topic '{}' was deleted", read.topic))
    })
}
