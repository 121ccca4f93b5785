//! Settling: what consumers decided, joined into few appends to the groups' own logs.

use std::collections::HashMap;
use std::sync::Arc;

use busline_core::delivery::{SettledSender, lost};
use busline_core::transport::{GroupSpec, TopicSpec, TopologyMode};
use busline_core::{
    Backoff, Error, ErrorKind, GroupName, Outcome, PendingReceipt, Position, Result, Topic, dead,
};
use busline_log::{SeqRange, Settle, Settlement};

use super::error::of_log;
use super::groups;
use super::mapping::Chunk;
use super::meta;
use super::state::{Held, SubscriptionState};
use super::store::{Store, TopicLog};
use super::worker::{Writer, writer_of};

/// The wait before a message whose dead letter cannot be written comes again.
const DEAD_RETRY_US: u64 = 1_000_000;

/// One delivery to settle.
pub(super) struct SettleJob {
    pub(super) subscription: Arc<SubscriptionState>,
    pub(super) held: Held,
    pub(super) decision: Decision,
    pub(super) done: Option<SettledSender>,
}

/// What is to become of a delivery.
#[derive(Debug)]
pub(super) enum Decision {
    Outcome(Outcome),
    /// Given back: it counts as an attempt and backs off from the second on.
    Release,
    /// Given back without having been handed out: it does not count.
    Return,
}

/// The settles of one round, by subscription.
#[derive(Default)]
pub(super) struct Settling {
    jobs: Vec<SettleJob>,
}

impl Settling {
    pub(super) fn add(&mut self, mut job: SettleJob) {
        job.limit_attempts();
        self.jobs.push(job);
    }

    /// Puts the dead letters of this round into the writers of their topics.
    ///
    /// They are written and synced with everything else of the round, before the settles.
    pub(super) fn write_dead_letters(
        &mut self,
        store: &Arc<Store>,
        writers: &mut HashMap<Topic, Writer>,
    ) {
        for job in &mut self.jobs {
            let Decision::Outcome(Outcome::Reject { reason }) = &job.decision else { continue };
            let (sender, pending) = PendingReceipt::channel();
            match job.dead_letter(store, reason) {
                Ok(Some((topic, key, meta, value))) => {
                    writer_of(writers, &topic).push(store, &key, &meta, &value, sender);
                    job.held.letter = Some(pending);
                }
                Ok(None) => {}
                Err(error) => job.held.failed = Some(error),
            }
        }
    }

    /// Appends the settles, a group at a time, syncs where somebody waits, and answers.
    pub(super) fn settle(self, always: bool) {
        let mut groups: HashMap<usize, Vec<SettleJob>> = HashMap::new();
        for job in self.jobs {
            groups.entry(Arc::as_ptr(&job.subscription) as usize).or_default().push(job);
        }
        for jobs in groups.into_values() {
            settle_group(jobs, always);
        }
    }
}

type Letter = (Arc<TopicLog>, Vec<u8>, Vec<u8>, Vec<u8>);

impl SettleJob {
    /// A retry beyond the limit of attempts becomes a rejection.
    fn limit_attempts(&mut self) {
        let again =
            matches!(self.decision, Decision::Release | Decision::Outcome(Outcome::Retry { .. }));
        let Some(limit) = self.subscription.attempts_max().filter(|_| again) else { return };
        if self.held.attempts >= limit {
            let reason = format!("attempts exhausted: {} of {limit}", self.held.attempts);
            self.decision = Decision::Outcome(Outcome::Reject { reason });
        }
    }

    /// Topic, key, meta and value of the dead letter; `None` for a broadcast, which has none.
    fn dead_letter(&self, store: &Store, reason: &str) -> Result<Option<Letter>> {
        let Some(group) = &self.subscription.group_name else { return Ok(None) };
        let origin = &self.subscription.topic;
        let mut chunk = Chunk::default();
        let mut scanner = origin.log.scanner();
        match scanner.read(self.held.seq).map_err(of_log)? {
            Some(record) => chunk.push(&record, self.held.attempts),
            None => return Ok(None),
        }
        let Some(raw) = chunk.into_records().next() else { return Ok(None) };
        let offset = origin.offset(self.held.seq);
        let rejection = dead::Rejection {
            group,
            offset: Some(&offset),
            reason,
            attempts: self.held.attempts,
            time: store.time.clock().now(),
        };
        let letter = dead::dead_letter(raw.into_message(&origin.topic)?, &rejection)?;
        let topic = dead_topic(store, &letter.topic)?;
        let mut meta_bytes = Vec::new();
        meta::encode(&letter, &mut meta_bytes);
        Ok(Some((topic, letter.key.as_str().into(), meta_bytes, letter.payload.into())))
    }

    fn settlement(&self) -> Settlement {
        match &self.decision {
            _ if self.held.failed.is_some() => Settlement::Park { delay_us: DEAD_RETRY_US },
            Decision::Outcome(Outcome::Ack) => Settlement::Ack,
            Decision::Outcome(Outcome::Reject { .. }) => Settlement::Reject,
            Decision::Outcome(Outcome::Retry { after: None }) => {
                Settlement::Release { counted: true }
            }
            Decision::Outcome(Outcome::Retry { after: Some(after) }) => {
                Settlement::Park { delay_us: u64::try_from(after.as_micros()).unwrap_or(u64::MAX) }
            }
            Decision::Release => {
                let wait = Backoff::default().before_attempt(self.held.attempts);
                Settlement::Park { delay_us: u64::try_from(wait.as_micros()).unwrap_or(u64::MAX) }
            }
            Decision::Return => Settlement::Release { counted: false },
        }
    }
}

fn settle_group(mut jobs: Vec<SettleJob>, always: bool) {
    for job in &mut jobs {
        let Some(letter) = job.held.letter.take() else { continue };
        // It was answered in this round already: this does not wait.
        if let Err(error) = futures_util::FutureExt::now_or_never(letter).unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Other, "the dead letter was not written");
            Err(busline_core::PublishError::Unknown(error))
        }) {
            job.held.failed = Some(error.into());
        }
    }
    let Some(subscription) = jobs.first().map(|job| Arc::clone(&job.subscription)) else { return };
    let items: Vec<Settle> = jobs
        .iter()
        .map(|job| Settle {
            claim: job.held.claim,
            seqs: SeqRange::one(job.held.seq),
            how: job.settlement(),
        })
        .collect();
    let now = subscription.topic.now();
    let mut gone = Vec::new();
    let mut result = subscription.group.settle(&items, now, &mut gone).map_err(of_log);
    let waits = jobs.iter().any(|job| job.done.as_ref().is_some_and(SettledSender::is_awaited));
    if result.is_ok() && always && waits {
        result = subscription.group.commit().map_err(of_log);
    }
    if let Err(error) = &result
        && error.kind() == ErrorKind::NotFound
    {
        result = Err(lost("its group was deleted"));
    }
    if let Err(error) = &result
        && error.kind() != ErrorKind::Lost
    {
        tracing::error!(%error, topic = %subscription.topic.topic, "deliveries cannot be settled");
    }
    let gone: std::collections::HashSet<usize> = gone.iter().map(|lost| lost.item).collect();
    for (index, job) in jobs.into_iter().enumerate() {
        let Some(done) = job.done else { continue };
        done.send(match (&result, job.held.failed) {
            (Err(error), _) => Err(error.clone()),
            _ if gone.contains(&index) => Err(lost("its lease ran out, or the group was reset")),
            (Ok(()), Some(error)) => Err(error),
            (Ok(()), None) => Ok(()),
        });
    }
}

/// The topic of dead letters, with the group that holds them.
fn dead_topic(store: &Store, topic: &Topic) -> Result<Arc<TopicLog>> {
    if let Ok(open) = store.topic(topic)
        && open.group(&dead::dead_group()).is_ok()
    {
        return Ok(open);
    }
    let open = store.declare_topic(&TopicSpec::new(topic.clone()), TopologyMode::Create)?;
    let spec = GroupSpec {
        start: Position::Earliest,
        attempts_max: None,
        ..GroupSpec::new(topic.clone(), GroupName::clone(&dead::dead_group()))
    };
    groups::declare(store, &spec, TopologyMode::Create)?;
    Ok(open)
}
