//! Writing: what many have published and settled, joined into one transaction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use busline_core::delivery::SettledSender;
use busline_core::receipt::ReceiptSender;
use busline_core::{
    Error, ErrorKind, Message, Outcome, PublishError, Published, Receipt, Result, Timestamp, Topic,
};
use rusqlite::Connection;
use tokio::sync::OwnedSemaphorePermit;

use super::database::{Durable, Failed};
use super::groups::GroupRow;
use super::settle::{Decision, Settling};
use super::topics::TopicRow;
use super::worker::Worker;

/// The most messages of one transaction, so that others get their turn.
const ROUND_MESSAGES: usize = 8192;
/// The most bytes of one transaction, but for a single large message.
const ROUND_BYTES: usize = 16 << 20;

/// Room in the window, given back when every message of a batch has its receipt.
pub(super) type Permit = Arc<[OwnedSemaphorePermit; 2]>;

/// A message to store.
pub(super) struct PublishJob {
    pub(super) message: Message,
    pub(super) mandatory: bool,
    pub(super) receipt: ReceiptSender,
    /// Given back with the receipt.
    pub(super) _permit: Permit,
}

impl Worker {
    /// Writes everything that was taken; what does not fit into one transaction waits for the next.
    pub(super) fn write(&mut self) {
        while !self.publishes.is_empty() || !self.settles.is_empty() {
            if !self.write_once() {
                return;
            }
        }
    }

    fn write_once(&mut self) -> bool {
        let mut bytes = 0;
        let fits = |job: &&PublishJob| {
            let is_first = bytes == 0;
            bytes += job.message.size_bytes();
            is_first || bytes <= ROUND_BYTES
        };
        let count = self.publishes.iter().take(ROUND_MESSAGES).take_while(fits).count();
        let jobs: Vec<PublishJob> = self.publishes.drain(..count).collect();
        let settles = std::mem::take(&mut self.settles);
        let is_awaited =
            settles.iter().any(|job| job.done.as_ref().is_some_and(SettledSender::is_awaited));
        let durable = if is_awaited || !jobs.is_empty() { Durable::Yes } else { Durable::No };
        let now = self.now();
        let written = self.database.write(durable, |connection| {
            let receipts = store(connection, &jobs, now)?;
            let mut settling = Settling::default();
            let settled: Result<Vec<Result<()>>> = settles
                .iter()
                .map(|job| settling.settle(connection, job.held, &job.decision, now))
                .collect();
            settling.finish(connection, now)?;
            Ok((receipts, settled?))
        });
        match written {
            Ok((receipts, settled)) => {
                self.committed();
                for (job, published) in jobs.into_iter().zip(receipts) {
                    job.receipt.send(published);
                }
                for (job, result) in settles.into_iter().zip(settled) {
                    job.finish(result);
                }
                self.let_go();
                true
            }
            Err(failed) => {
                self.not_written(jobs, settles, &failed);
                false
            }
        }
    }

    /// Tells everybody why, and has what was to be settled come again when the database takes it.
    fn not_written(
        &mut self,
        jobs: Vec<PublishJob>,
        settles: Vec<super::member::SettleJob>,
        failed: &Failed,
    ) {
        let error = &failed.error;
        if !jobs.is_empty() || settles.iter().any(|job| job.done.is_some()) {
            tracing::warn!(%error, "a transaction failed");
        }
        for job in jobs {
            let why = error.clone();
            job.receipt.send(Err(match failed.is_uncertain {
                true => PublishError::Unknown(why),
                false => PublishError::Nacked(why),
            }));
        }
        for mut job in settles {
            if let Some(done) = job.done.take() {
                done.send(Err(error.clone()));
                // Who was told so must get it again.
                job.decision = Decision::Outcome(Outcome::Retry { after: None });
            }
            self.settles.push(job);
        }
    }
}

/// Stores messages; a receipt each, in their order.
fn store(connection: &Connection, jobs: &[PublishJob], now: Timestamp) -> Result<Vec<Published>> {
    let mut topics: HashMap<&Topic, Option<TopicRow>> = HashMap::new();
    let mut groups: HashMap<i64, Vec<GroupRow>> = HashMap::new();
    let mut receipts = Vec::with_capacity(jobs.len());
    for PublishJob { message, mandatory, .. } in jobs {
        if !topics.contains_key(&message.topic) {
            topics.insert(&message.topic, TopicRow::find(connection, &message.topic)?);
        }
        let Some(Some(topic)) = topics.get_mut(&message.topic) else {
            let gone =
                Error::new(ErrorKind::NotFound, format!("topic '{}' was deleted", message.topic))
                    .hint("declare it again");
            receipts.push(Err(PublishError::Nacked(gone)));
            continue;
        };
        if *mandatory && !is_routable(connection, topic, message, &mut groups)? {
            receipts.push(Ok(Receipt::Unroutable));
            continue;
        }
        let number = topic.append(connection, message, now)?;
        receipts.push(Ok(Receipt::Stored { offset: Some(topic.offset(number)) }));
    }
    for topic in topics.values_mut().flatten() {
        if !topic.trim(connection, now)? {
            topic.save(connection)?;
        }
    }
    Ok(receipts)
}

/// Whether a group declared at this moment gets the message.
fn is_routable(
    connection: &Connection,
    topic: &TopicRow,
    message: &Message,
    groups: &mut HashMap<i64, Vec<GroupRow>>,
) -> Result<bool> {
    let groups = match groups.entry(topic.slot) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(GroupRow::of_topic(connection, topic.slot)?),
    };
    let meta = super::mapping::meta_of(message);
    for group in groups {
        let wants = group.wants(message.key.as_str(), &meta);
        if wants && (!group.config.broadcast || group.living(connection)? > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}
