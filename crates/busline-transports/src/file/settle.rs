//! Settling: what consumers decided, joined into few appends to the groups' own logs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

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
use super::wait::with_room;
use super::worker::{Unsynced, Writer, writer_of};

/// The wait before a message whose dead letter cannot be written comes again.
const DEAD_RETRY_US: u64 = 1_000_000;
/// How long a rejected delivery is held on to while its dead letter is written.
const LETTER_LEASE_US: u64 = 30_000_000;

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
        self.renew_rejected();
        let mut letters = HashSet::new();
        for job in self.jobs.iter_mut().filter(|job| !job.held.lost) {
            let Decision::Outcome(Outcome::Reject { reason }) = &job.decision else { continue };
            let (sender, pending) = PendingReceipt::channel();
            match job.dead_letter(store, reason) {
                Ok(Some((topic, key, meta, value))) => {
                    let writer = writer_of(writers, &topic);
                    writer.push(store, Duration::ZERO, (&key, &meta, &value), sender);
                    job.held.letter = Some(pending);
                    letters.insert(topic.topic.clone());
                }
                Ok(None) => {}
                Err(error) => job.held.failed = Some(error),
            }
        }
        for topic in letters {
            if let Some(writer) = writers.get_mut(&topic) {
                // On a full disk the letters wait in their groups, and nobody for them.
                writer.write(store, Duration::ZERO);
            }
        }
    }

    /// Finds out which rejected deliveries are lost, so that these leave no dead letter, and holds on
    /// to the others while their letters are written.
    fn renew_rejected(&mut self) {
        let mut groups: HashMap<usize, Vec<&mut SettleJob>> = HashMap::new();
        for job in &mut self.jobs {
            if matches!(job.decision, Decision::Outcome(Outcome::Reject { .. })) {
                groups.entry(Arc::as_ptr(&job.subscription) as usize).or_default().push(job);
            }
        }
        for mut jobs in groups.into_values() {
            let how = Settlement::Renew { lease_us: LETTER_LEASE_US };
            let renewal = |job: &&mut SettleJob| {
                let seqs = SeqRange::one(job.held.seq);
                Settle { claim: job.held.claim, seqs, how }
            };
            let items: Vec<Settle> = jobs.iter().map(renewal).collect();
            let Some(subscription) = jobs.first().map(|job| Arc::clone(&job.subscription)) else {
                continue;
            };
            let mut gone = Vec::new();
            // An error shows again, and is answered, when they are settled.
            let _ = subscription.group.settle(&items, subscription.topic.now(), &mut gone);
            for lost in gone {
                if let Some(job) = jobs.get_mut(lost.item) {
                    job.held.lost = true;
                }
            }
        }
    }

    /// Appends the settles, a group at a time, syncs where somebody waits, and answers. Groups that
    /// were not synced are noted.
    pub(super) fn settle(self, always: bool, unsynced: &mut Unsynced) {
        let mut groups: HashMap<usize, Vec<SettleJob>> = HashMap::new();
        for job in self.jobs {
            groups.entry(Arc::as_ptr(&job.subscription) as usize).or_default().push(job);
        }
        for jobs in groups.into_values() {
            settle_group(jobs, always, unsynced);
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

fn settle_group(mut jobs: Vec<SettleJob>, always: bool, unsynced: &mut Unsynced) {
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
    let mut gone = Vec::new();
    let mut result = with_room(&subscription.topic.log, || {
        gone.clear();
        subscription.group.settle(&items, subscription.topic.now(), &mut gone)
    })
    .map_err(of_log);
    let waits = jobs.iter().any(|job| job.done.as_ref().is_some_and(SettledSender::is_awaited));
    let place = (subscription.topic.log.id(), subscription.group.name().to_owned());
    if result.is_ok() && always && waits {
        result = subscription.group.commit().map_err(of_log);
        unsynced.remove(&place);
    } else if result.is_ok() {
        unsynced.insert(place, subscription.group.clone());
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
    let gone: HashSet<usize> = gone.iter().map(|lost| lost.item).collect();
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
