//! Partitions that come and go, and groups that change or go.

use std::sync::Arc;
use std::time::Duration;

use busline_core::transport::SessionEvent;
use busline_core::{Error, ErrorKind, Result};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{Offset, TopicPartitionList};

use super::client::blocking;
use super::consume::{LOOK_AGAIN, Pause, Worker};
use super::directory;
use super::error::error;
use super::groups::{self, Committed};
use super::ledger::Ledger;
use super::member::Told;
use super::part::Part;
use super::session::Core;
use super::topics;

/// A partition, and where the group is on it.
pub(super) struct Located {
    pub(super) name: String,
    pub(super) partition: i32,
    pub(super) is_retry: bool,
    pub(super) ledger: Ledger,
    /// Records are missing that were to come.
    pub(super) has_gap: bool,
}

/// Where a group is on partitions of its topic, and on its retries where it has the first.
async fn locate(
    core: Arc<Core>,
    consumer: Arc<StreamConsumer<Told>>,
    about: Arc<topics::About>,
    retry: Option<String>,
    partitions: Vec<i32>,
    declared: i32,
) -> Result<Vec<Located>> {
    let mut list = TopicPartitionList::new();
    let mut wanted: Vec<_> =
        partitions.iter().map(|partition| (about.name.clone(), *partition, false)).collect();
    // They follow the first partition, so that one member has all of them.
    wanted.extend(retry.filter(|_| partitions.contains(&0)).map(|retry| (retry, 0, true)));
    for (name, partition, _) in &wanted {
        list.add_partition(name, *partition);
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let longest = core.config.connect_timeout;
    let asked = blocking(move || {
        let committed = consumer.committed_offsets(list, longest).map_err(error)?;
        Ok(groups::of_list(&committed))
    });
    let committed = core.unless_ended(asked).await?;
    let mut located = Vec::new();
    for ((name, partition, is_retry), committed) in wanted.into_iter().zip(committed) {
        let extent = topics::extent(&core, &name, partition).await?;
        let known = is_retry || partition >= declared;
        let (ledger, has_gap) = begin(&about, partition, known, &committed, extent)?;
        located.push(Located { name, partition, is_retry, ledger, has_gap });
    }
    Ok(located)
}

fn begin(
    about: &topics::About,
    partition: i32,
    is_new: bool,
    committed: &Committed,
    (first, end): (u64, u64),
) -> Result<(Ledger, bool)> {
    let topic = &about.topic;
    match committed.place {
        // A partition that was added later is read from its start: nothing of it may be missed.
        None if is_new => Ok((Ledger::new(first), false)),
        None => {
            let why = format!("the broker has forgotten where the group is on topic '{topic}'");
            let hint = "the topic was deleted and made again, or the group had no member for longer \
                        than offsets.retention.minutes: move it to where it shall go on";
            Err(Error::new(ErrorKind::Conflict, why).hint(hint).context("partition", partition))
        }
        Some(place) if place > end => {
            let why = format!("the group is at {place}, behind the end of topic '{topic}', {end}");
            let hint =
                "the topic was deleted and made again: move the group to where it shall go on";
            Err(Error::new(ErrorKind::Conflict, why).hint(hint).context("partition", partition))
        }
        Some(place) if place < first => Ok((Ledger::new(first), true)),
        Some(place) => Ok((Ledger::restore(place, &committed.text), false)),
    }
}

impl Worker {
    /// The group gave partitions: it takes them over where the group is on them.
    pub(super) fn locate(&mut self, partitions: Vec<i32>) {
        let Some(group) = &self.plan.group else { return };
        let located = locate(
            Arc::clone(&self.core),
            Arc::clone(self.member.consumer()),
            Arc::clone(&self.plan.about),
            group.retry.clone(),
            partitions,
            group.settings.partitions,
        );
        self.locating.push(Box::pin(located));
    }

    pub(super) fn located(&mut self, located: Result<Vec<Located>>) {
        let assigned = located.and_then(|located| self.assign(located));
        if let Err(why) = assigned {
            let why = match &self.consuming.group {
                Some(group) => why.context("group", group),
                None => why,
            };
            self.consuming.ended.end(why);
        }
    }

    fn assign(&mut self, located: Vec<Located>) -> Result<()> {
        let mut list = TopicPartitionList::new();
        for Located { name, partition, ledger, .. } in &located {
            let place = Offset::Offset(i64::try_from(ledger.base()).unwrap_or(i64::MAX));
            list.add_partition_offset(name, *partition, place).map_err(error)?;
        }
        let consumer = Arc::clone(self.member.consumer());
        consumer.incremental_assign(&list).map_err(error)?;
        for Located { name, partition, is_retry, ledger, has_gap } in located {
            let queue = consumer.split_partition_queue(&name, partition);
            self.next_share += 1;
            let number = self.next_share;
            self.parts.push(Part::new(number, &name, partition, is_retry, ledger, queue));
            if has_gap && !is_retry {
                tracing::warn!(topic = %self.consuming.topic, partition, "retention was quicker than the group");
                self.core.tell(SessionEvent::Gap(self.consuming.topic.clone()));
            }
        }
        self.core.tell(SessionEvent::Assigned(self.consuming.topic.clone()));
        Ok(())
    }

    /// The group takes partitions away: nothing more is handed out of them.
    pub(super) fn revoke(&mut self, partitions: &[i32], lost: bool) {
        self.core.tell(SessionEvent::Revoked(self.consuming.topic.clone()));
        self.is_revoking = true;
        let is_of = |part: &&mut Part| partitions.contains(&part.partition);
        for part in self.parts.iter_mut().filter(is_of) {
            part.is_leaving = true;
            let ready = self.consuming.hands().take_ready(Some(part.share.number));
            part.withdraw(ready);
            if let Some(lanes) = &mut self.lanes {
                lanes.clear(part.partition);
            }
        }
        if lost {
            return self.lose_revoked();
        }
        let sleep = self.core.clock.sleep(self.core.config.revoke_wait);
        self.pauses.push(Box::pin(async move {
            sleep.await;
            Pause::Deadline
        }));
    }

    /// What is settled of them is told first; then they are the next member's.
    pub(super) fn give_up_revoked(&mut self) {
        if !self.is_revoking || !self.locating.is_empty() {
            return;
        }
        let is_open = |part: &Part| {
            part.is_leaving && (part.open > 0 || part.is_dirty() || part.is_telling())
        };
        if !self.parts.iter().any(is_open) {
            self.lose_revoked();
        }
    }

    /// Whatever is still open of them is lost.
    pub(super) fn lose_revoked(&mut self) {
        if !std::mem::replace(&mut self.is_revoking, false) {
            return;
        }
        let (leaving, kept) =
            std::mem::take(&mut self.parts).into_iter().partition(|part: &Part| part.is_leaving);
        self.parts = kept;
        let leaving: Vec<Part> = leaving;
        let mut list = TopicPartitionList::new();
        for part in leaving {
            list.add_partition(&part.name, part.partition);
            self.consuming.hands().lose(part.share.number);
            part.lose();
        }
        if let Err(said) = self.member.consumer().incremental_unassign(&list) {
            tracing::debug!(%said, "partitions are given up anew");
        }
    }

    /// The library waits for an answer to each of its rebalances, also of a member that is about to leave.
    pub(super) fn answer_rebalance(&self) {
        if !self.locating.is_empty() {
            self.answer_rebalance_with(None);
        }
        if self.is_revoking {
            let leaving = self.parts.iter().filter(|part| part.is_leaving && !part.is_retry);
            let leaving: Vec<_> = leaving.map(|part| part.partition).collect();
            self.answer_rebalance_with(Some(&leaving));
        }
    }

    /// Takes nothing, or gives these up.
    pub(super) fn answer_rebalance_with(&self, revoked: Option<&[i32]>) {
        let mut list = TopicPartitionList::new();
        for partition in revoked.unwrap_or_default() {
            list.add_partition(&self.plan.about.name, *partition);
        }
        let consumer = self.member.consumer();
        let answered = match revoked {
            None => consumer.incremental_assign(&list),
            Some(_) => consumer.incremental_unassign(&list),
        };
        if let Err(said) = answered {
            tracing::debug!(%said, "a rebalance is answered by leaving");
        }
    }

    /// The group was declared anew, or deleted.
    pub(super) fn declared_anew(&mut self) {
        let Some(group) = &mut self.plan.group else { return };
        let all = Arc::clone(&group.directory.borrow_and_update().groups);
        match all.get(&group.name) {
            Some(settings) if settings.made == group.settings.made => {
                if *settings != group.settings {
                    group.settings = settings.clone();
                    if let Ok(patterns) = settings.patterns() {
                        self.plan.patterns = patterns;
                    }
                }
            }
            _ => {
                let (topic, name) = (&self.consuming.topic, &self.consuming.group);
                let name = name.as_ref().map_or("", |name| name.as_str());
                let what = format!("the group '{name}' of topic '{topic}' is gone");
                let why = Error::new(ErrorKind::NotFound, what).hint("declare it again");
                self.consuming.ended.end(why);
            }
        }
    }

    pub(super) fn look_later(&mut self) {
        self.look(LOOK_AGAIN);
    }

    pub(super) fn look_now(&mut self) {
        self.look(Duration::ZERO);
    }

    /// Whether the topic is still the one that it was.
    fn look(&mut self, after: Duration) {
        let (core, about) = (Arc::clone(&self.core), Arc::clone(&self.plan.about));
        self.pauses.push(Box::pin(async move {
            core.clock.sleep(after).await;
            Pause::Look(is_same(&core, &about).await)
        }));
    }

    /// Of a group that expires it is kept when a member was there.
    pub(super) fn see(&mut self, after: Duration) {
        let Some(group) = &self.plan.group else { return };
        if group.settings.expires_after().is_none() {
            return;
        }
        let (core, name, mut settings) =
            (Arc::clone(&self.core), group.name.clone(), group.settings.clone());
        self.seeing += usize::from(after.is_zero());
        self.pauses.push(Box::pin(async move {
            core.clock.sleep(after).await;
            settings.seen_us = core.clock.now().unix_us();
            let seen = directory::write(&core, &name, Some(&settings)).await;
            Pause::Seen { at_once: after.is_zero(), seen }
        }));
    }

    pub(super) fn seen(&mut self, at_once: bool, seen: Result<()>) {
        self.seeing -= usize::from(at_once);
        if let Err(why) = seen {
            let topic = &self.consuming.topic;
            tracing::warn!(%topic, error = %why, "nobody sees that the group has members");
        }
        let expires = self.plan.group.as_ref().and_then(|group| group.settings.expires_after());
        if let Some(expires) = expires.filter(|_| !self.is_stopping()) {
            self.see((expires / 4).max(Duration::from_millis(10)));
        }
    }
}

/// Fails when a topic was deleted, or deleted and made again.
pub(super) async fn is_same(core: &Arc<Core>, about: &topics::About) -> Result<()> {
    let now = match topics::look(core, &about.topic).await {
        Ok(now) => now,
        Err(why) if why.kind() == ErrorKind::NotFound => {
            core.forget_topic(&about.topic);
            return Err(why);
        }
        // Whoever cannot look now looks again.
        Err(_) => return Ok(()),
    };
    if now.shards == about.shards {
        return Ok(());
    }
    core.forget_topic(&about.topic);
    let why = format!("the topic '{}' was deleted and made again", about.topic);
    Err(Error::new(ErrorKind::Conflict, why)
        .hint("offsets and groups of before mean nothing in it: start at earliest, or at a time"))
}
