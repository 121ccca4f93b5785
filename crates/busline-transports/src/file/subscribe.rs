//! Subscriptions: claims on a group's log, handed out as deliveries.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use busline_core::delivery::{SettleQueue, Settler};
use busline_core::transport::{ATTEMPTS_MAX_DEFAULT, Membership, Subscribe, Subscription};
use busline_core::{Attempt, Delivery, Error, ErrorKind, GroupName, Outcome, Result, Settled};
use busline_log::{Group, GroupOptions, Lifetime};
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::claim::{Claim, Claimer, Room, give_back};
use super::error::{of_log, worker_gone};
use super::lease::keep_leases;
use super::mapping::{GroupConfig, Raw};
use super::state::{Held, Scope, SubscriptionState};
use super::store::{Store, TopicLog};
use super::wait::Waiter;
use super::worker::Job;

/// The most records claimed at once, and their bytes: they are copied into one block.
const CHUNK_RECORDS_MAX: usize = 1024;
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// How soon a claim is tried again that found the disk full for as long as claims try.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// A member of a group that claims when it is asked for more.
pub(super) struct FileSubscription {
    state: Arc<SubscriptionState>,
    spec: Subscribe,
    /// With the member between two claims.
    claimer: Option<Claimer>,
    /// A claim under way: kept here, so that a cancelled `next` loses nothing.
    claiming: Option<JoinHandle<(Claimer, Result<Claim>)>>,
    /// Claimed and not handed out yet: first the dead letters of the same claim are written.
    ready: Vec<Delivery>,
    exhausted: VecDeque<Settled>,
    /// The next record is larger than a chunk: it is claimed alone, into all the room there is.
    next_is_large: bool,
    /// There was more than the last claim took: that is gone through on a thread, many records at a time.
    is_behind: bool,
    waiter: Waiter,
    stopped: bool,
}

/// Joins a group, or makes a temporary one.
pub(super) fn open(
    store: &Arc<Store>,
    jobs: &Sender<Job>,
    scope: &Arc<Scope>,
    spec: Subscribe,
    topic: &Arc<TopicLog>,
) -> Result<FileSubscription> {
    check_bounds(&spec)?;
    let now = topic.now();
    let (name, group_name, group, member, config) = match &spec.membership {
        Membership::Group(name) => {
            let group = topic.group(name)?;
            let mut member = group.join(now).map_err(|error| topic.group_error(name, error))?;
            let config = member.accept_config().map_err(of_log)?;
            let config = GroupConfig::from_bytes(&config.bytes)?;
            (name.clone(), Some(name.clone()), group, member, config)
        }
        Membership::Broadcast(patterns) => {
            let name = GroupName::new(format!("broadcast-{}", uuid::Uuid::now_v7().simple()))?;
            let config = GroupConfig {
                patterns: patterns.clone(),
                attempts_max: Some(ATTEMPTS_MAX_DEFAULT),
                expires_after_ms: None,
                blocking: false,
                broadcast: true,
            };
            let declaration = busline_log::GroupSpec {
                name: name.as_str(),
                config: &config.to_bytes()?,
                start: topic.log.next_seq(),
                lifetime: Lifetime::Ephemeral,
            };
            let options = GroupOptions::default();
            let joined = Group::declare_and_join(&topic.log, &declaration, &options, now);
            let (declared, member) = joined.map_err(|error| topic.group_error(&name, error))?;
            (name, None, declared.group, member, config)
        }
    };
    let state = SubscriptionState::new(store, jobs, topic, group, group_name, scope);
    let lease = lease_of(&spec);
    let claimer = Claimer::new(&state, member, &config, name, lease);
    tokio::spawn(keep_leases(Arc::downgrade(&state), lease, spec.hold_max));
    let clock = Arc::clone(store.time.clock());
    let waiter = Waiter::new(topic.log.clone(), clock, Arc::clone(&store.bells));
    Ok(FileSubscription {
        state,
        spec,
        claimer: Some(claimer),
        claiming: None,
        ready: Vec::new(),
        exhausted: VecDeque::new(),
        next_is_large: false,
        is_behind: false,
        waiter,
        stopped: false,
    })
}

impl FileSubscription {
    async fn next_chunk(&mut self) -> Result<Option<Vec<Delivery>>> {
        loop {
            while let Some(settled) = self.exhausted.front_mut() {
                // It is logged; the message stays in its group and is looked at again.
                let _ = settled.await;
                self.exhausted.pop_front();
            }
            if !self.ready.is_empty() {
                return Ok(Some(std::mem::take(&mut self.ready)));
            }
            if self.stopped {
                return Ok(None);
            }
            // What need not wait must not keep others from their turn.
            tokio::task::coop::consume_budget().await;
            let claim = match self.claim().await {
                // What is claimed is written down: that waits for room, as a publisher does.
                Err(error) if error.kind() == ErrorKind::Full => {
                    tracing::warn!(%error, "nothing can be delivered");
                    self.state.store.time.clock().sleep(FULL_PAUSE).await;
                    continue;
                }
                claim => claim?,
            };
            if self.is_stale(&claim) {
                give_back(&self.state, claim);
                continue;
            }
            let (mark, wait, more, no_room) = (claim.mark, claim.wait, claim.more, claim.no_room);
            let version = claim.version;
            self.ready = self.hand_out(claim);
            let was_large = std::mem::take(&mut self.next_is_large);
            if !self.ready.is_empty() || !self.exhausted.is_empty() {
                continue;
            }
            if !more {
                let group = &self.state.group;
                self.waiter.wait(mark, wait, || group.version() != version).await?;
            } else if no_room && !was_large {
                self.next_is_large = true;
            } else if no_room && !self.state.in_flight().held.is_empty() {
                // The next record waits for room that a settle makes.
                self.state.room.notified().await;
            }
        }
    }

    /// Claims: at once if nothing has to be waited for, else on a thread that may block.
    async fn claim(&mut self) -> Result<Claim> {
        if self.claiming.is_none() {
            let room = self.room().await;
            let mut claimer = self.claimer.take().ok_or_else(worker_gone)?;
            if !std::mem::take(&mut self.is_behind)
                && let Some(claim) = claimer.try_claim(room)
            {
                self.claimer = Some(claimer);
                self.is_behind = claim.more;
                return Ok(claim);
            }
            self.claiming = Some(tokio::task::spawn_blocking(move || {
                let claim = claimer.claim(room);
                (claimer, claim)
            }));
        }
        let claiming = self.claiming.as_mut().ok_or_else(worker_gone)?;
        let joined = claiming.await;
        self.claiming = None;
        let (claimer, claim) = joined.map_err(|_| worker_gone())?;
        self.claimer = Some(claimer);
        self.is_behind = claim.as_ref().is_ok_and(|claim| claim.more);
        claim
    }

    /// Waits until something may be claimed; how many records and bytes.
    async fn room(&self) -> Room {
        loop {
            if !self.state.is_behind() {
                let in_flight = self.state.in_flight();
                let count =
                    (self.spec.max_in_flight.max(1) as usize).saturating_sub(in_flight.held.len());
                let bytes = self.spec.max_in_flight_bytes.max(1).saturating_sub(in_flight.bytes);
                if count > 0 && bytes > 0 {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let (records_max, bytes_max) = match self.next_is_large {
                        true => (1, usize::MAX),
                        false => (CHUNK_RECORDS_MAX, CHUNK_BYTES_MAX),
                    };
                    return Room {
                        records: count.min(records_max),
                        bytes: bytes.min(bytes_max),
                        is_all: in_flight.held.is_empty(),
                    };
                }
            }
            self.state.room.notified().await;
        }
    }

    /// Whether it lay here for so long that its leases are over: others may have got it by now.
    fn is_stale(&self, claim: &Claim) -> bool {
        let over = claim.at.saturating_add(lease_of(&self.spec));
        claim.chunk.len() > 0 && over <= self.state.store.time.clock().monotonic()
    }

    fn hand_out(&mut self, claim: Claim) -> Vec<Delivery> {
        let state = &self.state;
        let lease = lease_of(&self.spec);
        let mut deliveries = Vec::with_capacity(claim.chunk.len());
        let (limit, id, at) = (state.attempts_max(), claim.id, claim.at);
        // Members died with it, again and again: it is not handed out once more.
        let is_exhausted = |raw: &Raw| limit.is_some_and(|limit| raw.attempts > limit);
        let raws: Vec<Raw> = claim.chunk.into_records().collect();
        let first_tag = state.hold(raws.iter().map(|raw| {
            let mut held = Held::new(id, raw, at, lease);
            held.attempts -= u32::from(is_exhausted(raw));
            held
        }));
        for (tag, raw) in (first_tag..).zip(raws) {
            let (attempts, seq, time) = (raw.attempts, raw.seq, raw.time);
            if let Some(limit) = limit.filter(|_| is_exhausted(&raw)) {
                let reason = format!("attempts exhausted: {} of {limit}", attempts - 1);
                let (sender, settled) = Settled::channel();
                state.settle(tag, Outcome::Reject { reason }, Some(sender));
                self.exhausted.push_back(settled);
                continue;
            }
            match raw.into_message(&state.topic.topic) {
                Ok(message) => {
                    let queue = Arc::clone(state) as Arc<dyn SettleQueue>;
                    let settler = Settler { queue, tag };
                    let mut delivery = Delivery::new(message, Attempt::exact(attempts), settler);
                    delivery.group.clone_from(&state.group_name);
                    delivery.offset = Some(state.topic.offset(seq));
                    delivery.time = Some(time);
                    deliveries.push(delivery);
                }
                Err(error) => {
                    // Another member may be of the version that wrote it; nobody else is held up.
                    tracing::error!(%error, "a record cannot be delivered");
                    if limit.is_some_and(|limit| attempts >= limit) {
                        let (sender, settled) = Settled::channel();
                        let outcome = Outcome::Reject { reason: error.to_string() };
                        state.settle(tag, outcome, Some(sender));
                        self.exhausted.push_back(settled);
                    } else {
                        state.release(tag);
                    }
                }
            }
        }
        deliveries
    }

    /// Cancelled, it goes on when it is called again.
    async fn finish(&mut self) -> Result<()> {
        self.stopped = true;
        if let Some(claiming) = &mut self.claiming {
            let joined = claiming.await;
            self.claiming = None;
            let (claimer, claim) = joined.map_err(|_| worker_gone())?;
            self.claimer = Some(claimer);
            if let Ok(claim) = claim {
                give_back(&self.state, claim);
            }
        }
        self.retire();
        Ok(())
    }

    /// The member stays for as long as one of its deliveries is held.
    fn retire(&mut self) {
        match self.claimer.take() {
            Some(claimer) => claimer.retire(),
            None => self.state.retire(None),
        }
    }
}

impl Subscription for FileSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>> {
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            tokio::select! {
                biased;
                () = state.ended() => {
                    if self.stopped { Ok(None) } else { Err(worker_gone()) }
                }
                chunk = self.next_chunk() => chunk,
            }
        })
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.finish())
    }
}

impl Drop for FileSubscription {
    fn drop(&mut self) {
        self.ready.drain(..).for_each(Delivery::give_back);
        self.retire();
        let Some(claiming) = self.claiming.take() else { return };
        // The claim under way may still get something, which must go back.
        let state = Arc::clone(&self.state);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Ok((claimer, claim)) = claiming.await {
                    if let Ok(claim) = claim {
                        give_back(&state, claim);
                    }
                    claimer.retire();
                }
            });
        }
    }
}

impl fmt::Debug for FileSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSubscription")
            .field("topic", &self.spec.topic)
            .field("membership", &self.spec.membership)
            .finish_non_exhaustive()
    }
}

fn check_bounds(spec: &Subscribe) -> Result<()> {
    let nothing = [
        ("max_in_flight", spec.max_in_flight == 0),
        ("max_in_flight_bytes", spec.max_in_flight_bytes == 0),
        ("lease", spec.lease.is_zero()),
        ("hold_max", spec.hold_max.is_some_and(|hold_max| hold_max.is_zero())),
    ];
    match nothing.into_iter().find(|(_, zero)| *zero) {
        Some((name, _)) => Err(Error::new(
            ErrorKind::Limit,
            format!("{name} is 0: nothing would ever be delivered"),
        )
        .context("topic", &spec.topic)),
        None => Ok(()),
    }
}

/// One lease is no longer than a delivery may be held in all.
fn lease_of(spec: &Subscribe) -> Duration {
    spec.hold_max.map_or(spec.lease, |hold_max| spec.lease.min(hold_max))
}
