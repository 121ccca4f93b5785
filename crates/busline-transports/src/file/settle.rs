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

use super::config::Sync;
use super::error::of_log;
use super::groups;
use super::mapping::Chunk;
use super::meta;
use super::state::{Held, SubscriptionState, UnderWay};
use super::store::{Store, TopicLog};
use super::worker::{Unsynced, Writers, writer_of};

/// The wait before a message whose dead letter cannot be written comes again.
const DEAD_RETRY_US: u64 = 1_000_000;
/// How long a rejected delivery is held on to while its dead letter is written.
const LETTER_LEASE_US: u64 = 30_000_000;

/// One delivery to settle.
pub(super) struct SettleJob {
    subscription: UnderWay,
    held: Held,
    decision: Decision,
    done: Option<SettledSender>,
    /// Its dead letter is written.
    is_buried: bool,
    /// Since when there is no room on the disk for it.
    full_since: Option<Duration>,
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

/// Settles that were taken, and those that found the disk full.
#[derive(Default)]
pub(super) struct Settling {
    jobs: Vec<SettleJob>,
}

impl Settling {
    pub(super) fn add(&mut self, mut job: SettleJob) {
        job.limit_attempts();
        self.jobs.push(job);
    }

    /// Whether nothing is left to settle.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Puts the dead letters of this round into the writers of their topics.
    ///
    /// They are written and synced with everything else of the round, before the settles. On a full
    /// disk they are not waited for: the messages wait in their groups.
    pub(super) fn write_dead_letters(&mut self, store: &Arc<Store>, letters: &mut Writers) {
        self.renew_rejected();
        for job in self.jobs.iter_mut().filter(|job| job.is_to_be_buried()) {
            let Decision::Outcome(Outcome::Reject { reason }) = &job.decision else { continue };
            let (sender, pending) = PendingReceipt::channel();
            match job.dead_letter(store, reason) {
                Ok(Some((topic, key, meta, value))) => {
                    let writer = writer_of(letters, &topic, Duration::ZERO);
                    writer.push(store, (&key, &meta, &value), sender);
                    job.held.letter = Some(pending);
                }
                Ok(None) => {}
                Err(error) => job.held.failed = Some(error),
            }
        }
    }

    /// Finds out which rejected deliveries are lost, so that these leave no dead letter, and holds on
    /// to the others while their letters are written.
    fn renew_rejected(&mut self) {
        let mut groups: HashMap<usize, Vec<&mut SettleJob>> = HashMap::new();
        for job in self.jobs.iter_mut().filter(|job| job.is_to_be_buried()) {
            groups.entry(Arc::as_ptr(&job.subscription) as usize).or_default().push(job);
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
    /// were not synced are noted; settles that found the disk full stay.
    pub(super) fn settle(&mut self, store: &Store, unsynced: &mut Unsynced) {
        let mut groups: HashMap<usize, Vec<SettleJob>> = HashMap::new();
        for job in self.jobs.drain(..) {
            groups.entry(Arc::as_ptr(&job.subscription) as usize).or_default().push(job);
        }
        for jobs in groups.into_values() {
            self.jobs.extend(settle_group(jobs, store, unsynced));
        }
    }
}

type Letter = (Arc<TopicLog>, Vec<u8>, Vec<u8>, Vec<u8>);

impl SettleJob {
    pub(super) fn new(
        subscription: UnderWay,
        held: Held,
        decision: Decision,
        done: Option<SettledSender>,
    ) -> Self {
        Self { subscription, held, decision, done, is_buried: false, full_since: None }
    }

    /// Whether it needs a dead letter that is not written yet.
    fn is_to_be_buried(&self) -> bool {
        let is_rejected = matches!(self.decision, Decision::Outcome(Outcome::Reject { .. }));
        is_rejected && !self.is_buried && !self.held.lost && self.held.failed.is_none()
    }

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
        // What no message can be made of is kept as it is, so that it does not come for ever.
        let message = raw.clone().into_message(&origin.topic);
        let message = message.unwrap_or_else(|_| raw.into_opaque(&origin.topic));
        let letter = dead::dead_letter(message, &rejection)?;
        let topic = dead_topic(store, &letter.topic)?;
        let mut meta_bytes = Vec::new();
        meta::encode(&letter, &mut meta_bytes);
        Ok(Some((topic, letter.key.as_str().into(), meta_bytes, letter.payload.into())))
    }

    /// What became of its dead letter, which was answered in this round.
    fn read_letter(&mut self) {
        let Some(letter) = self.held.letter.take() else { return };
        let answer = futures_util::FutureExt::now_or_never(letter).unwrap_or_else(|| {
            let error = Error::new(ErrorKind::Other, "the dead letter was not written");
            Err(busline_core::PublishError::Unknown(error))
        });
        match answer {
            Ok(_) => self.is_buried = true,
            Err(error) => self.held.failed = Some(error.into()),
        }
        if let Some(error) = &self.held.failed {
            let topic = &self.subscription.topic.topic;
            tracing::error!(%error, %topic, seq = self.held.seq, "no dead letter can be written");
        }
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

/// Settles of one subscription; those come back that found the disk full and may still wait.
fn settle_group(
    mut jobs: Vec<SettleJob>,
    store: &Store,
    unsynced: &mut Unsynced,
) -> Vec<SettleJob> {
    jobs.iter_mut().for_each(SettleJob::read_letter);
    let Some(subscription) = jobs.first().map(|job| Arc::clone(&job.subscription)) else {
        return jobs;
    };
    let settle = |job: &SettleJob| {
        let (claim, seqs) = (job.held.claim, SeqRange::one(job.held.seq));
        Settle { claim, seqs, how: job.settlement() }
    };
    let items: Vec<Settle> = jobs.iter().map(settle).collect();
    let mut gone = Vec::new();
    let now = subscription.topic.now();
    let mut result = subscription.group.settle(&items, now, &mut gone).map_err(of_log);
    let mut put_off = Vec::new();
    match &result {
        Ok(()) => result = make_durable(&jobs, &subscription, store, unsynced),
        Err(error) if error.kind() == ErrorKind::Full => {
            let now = store.time.clock().monotonic();
            let may_wait = |job: &mut SettleJob| {
                let since = *job.full_since.get_or_insert(now);
                now.saturating_sub(since) < store.config.full_wait
            };
            put_off = jobs.extract_if(.., may_wait).collect();
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            result = Err(lost("its group was deleted"));
        }
        Err(_) => {}
    }
    if let Err(error) = &result
        && error.kind() != ErrorKind::Lost
        && !jobs.is_empty()
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
    put_off
}

/// Syncs where somebody waits for an answer; else it is noted for later.
fn make_durable(
    jobs: &[SettleJob],
    subscription: &SubscriptionState,
    store: &Store,
    unsynced: &mut Unsynced,
) -> Result<()> {
    let waits = jobs.iter().any(|job| job.done.as_ref().is_some_and(SettledSender::is_awaited));
    let place = (subscription.topic.log.id(), subscription.group.name().to_owned());
    if store.config.sync == Sync::Always && waits {
        subscription.group.commit().map_err(of_log)?;
        unsynced.remove(&place);
    } else {
        unsynced.insert(place, subscription.group.clone());
    }
    Ok(())
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
