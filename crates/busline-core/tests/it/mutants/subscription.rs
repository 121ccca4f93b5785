//! Broken subscriptions.

use std::collections::VecDeque;
use std::sync::Arc;

use busline_core::dead;
use busline_core::delivery::Settler;
use busline_core::transport::{Membership, Subscribe, Subscription};
use busline_core::{Delivery, ErrorKind, Outcome, Result};
use futures_util::future::{BoxFuture, pending};

use super::flaw::Flaw;
use super::rig::Shared;
use super::settle::{BrokenQueue, Nowhere};

#[derive(Debug)]
pub(super) struct BrokenSubscription {
    /// `None` once it was given away.
    inner: Option<Box<dyn Subscription>>,
    shared: Arc<Shared>,
    asked: Subscribe,
    /// Fetched and not handed out.
    ahead: VecDeque<Delivery>,
}

impl BrokenSubscription {
    pub(super) fn new(inner: Box<dyn Subscription>, shared: Arc<Shared>, asked: Subscribe) -> Self {
        Self { inner: Some(inner), shared, asked, ahead: VecDeque::new() }
    }

    async fn next_flawed(&mut self) -> Result<Option<Vec<Delivery>>> {
        let shared = Arc::clone(&self.shared);
        if shared.has_any(&[Flaw::StopCounts, Flaw::StopKeeps, Flaw::DroppedStreamsTake])
            && let Some(next) = self.ahead.pop_front()
        {
            return Ok(Some(vec![next]));
        }
        loop {
            let room = self.asked.max_in_flight;
            if shared.has(Flaw::LeaksRoom) && shared.notes().counter >= room {
                pending::<()>().await;
            }
            let Some(inner) = &mut self.inner else { return Ok(None) };
            let chunk = match inner.next().await {
                Err(error)
                    if shared.has(Flaw::SubscriptionsEndQuietly)
                        && error.kind() == ErrorKind::Disconnected =>
                {
                    return Ok(None);
                }
                result => result?,
            };
            let Some(chunk) = chunk else { return Ok(None) };
            if shared.has(Flaw::CancellingDrops) {
                // Whoever gives up here drops the chunk.
                tokio::task::yield_now().await;
            }
            let chunk: Vec<_> = chunk.into_iter().map(|delivery| self.wrap(delivery)).collect();
            let chunk = self.alter(chunk);
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Puts the broken queue behind a delivery.
    fn wrap(&self, delivery: Delivery) -> Delivery {
        let (offset, group) = (delivery.offset.clone(), delivery.group.clone());
        let mut broken = delivery.map_settler(|inner| {
            self.shared.notes().settlers.push((offset.clone(), inner.clone()));
            let tag = inner.tag;
            if self.shared.has_any(&[Flaw::AcksEarly, Flaw::AcksAtTheGate]) {
                inner.queue.settle(tag, Outcome::Ack, None);
            }
            let shared = Arc::clone(&self.shared);
            Settler { queue: Arc::new(BrokenQueue { inner, shared, offset, group }), tag }
        });
        let shared = &self.shared;
        let reopened = shared.notes().reopened;
        if shared.has(Flaw::ResetsAttempts) || (shared.has(Flaw::ForgetsAttempts) && reopened) {
            broken.attempt.number = 1;
        }
        if shared.has(Flaw::DroppingDoesNotCount) {
            broken.attempt.number = (broken.attempt.number - shared.notes().counter).max(1);
        }
        if broken.message.topic.as_str().ends_with(".dead") {
            if shared.has(Flaw::DropsDeadHeaders) {
                broken.message.headers.retain(|name, _| name.starts_with(dead::HEADER_PREFIX));
            }
            if shared.has(Flaw::DropsReasons) {
                broken.message.headers.remove(dead::HEADER_REASON);
            }
        }
        if let Membership::Broadcast(_) = self.asked.membership {
            broken.group = None;
        }
        broken
    }

    fn alter(&mut self, mut chunk: Vec<Delivery>) -> Vec<Delivery> {
        let shared = Arc::clone(&self.shared);
        if shared.has(Flaw::ReordersChunks) {
            chunk.reverse();
        }
        if shared.has(Flaw::Duplicates) {
            let copies: Vec<_> = chunk.iter().map(copy).collect();
            chunk.extend(copies);
        }
        if shared.has(Flaw::DeliversByPattern) {
            let specs = shared.notes().specs.clone();
            let matching = |delivery: &Delivery| {
                let key = delivery.message.key.as_str();
                let patterns = specs.iter().flat_map(|spec| spec.patterns.as_slice());
                patterns.filter(|pattern| pattern.matches(key)).count()
            };
            let copies: Vec<_> =
                chunk.iter().filter(|delivery| matching(delivery) > 1).map(copy).collect();
            chunk.extend(copies);
        }
        if shared.has(Flaw::OverlooksTheEmptyKey) {
            let overlooked =
                chunk.extract_if(.., |delivery| delivery.message.key.as_str().is_empty());
            shared.notes().hoard.extend(overlooked);
        }
        if shared.has(Flaw::StarvesTheLarge) {
            let max = self.asked.max_in_flight_bytes;
            let large =
                chunk.extract_if(.., |delivery| delivery.message.payload.len() as u64 > max);
            shared.notes().hoard.extend(large);
        }
        if shared.has(Flaw::HoardsMessages) {
            let room = usize::try_from(self.asked.max_in_flight).unwrap_or(usize::MAX);
            let rest = chunk.split_off(chunk.len().min(room));
            shared.notes().hoard.extend(rest);
        }
        if shared.has_any(&[Flaw::StopCounts, Flaw::StopKeeps, Flaw::DroppedStreamsTake]) {
            self.ahead.extend(chunk.split_off(chunk.len().min(1)));
        }
        chunk
    }
}

/// A second delivery of the same attempt, which nobody settles.
fn copy(delivery: &Delivery) -> Delivery {
    let settler = Settler { queue: Arc::new(Nowhere), tag: 0 };
    Delivery::new(delivery.message.clone(), delivery.attempt, settler)
}

impl Subscription for BrokenSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Delivery>>>> {
        Box::pin(self.next_flawed())
    }

    fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.shared.has_any(&[Flaw::NeverStops, Flaw::BroadcastsStay]) {
                return Ok(());
            }
            if self.shared.has(Flaw::StopKeeps) {
                self.shared.notes().hoard.extend(self.ahead.drain(..));
            }
            self.ahead.clear();
            match &mut self.inner {
                Some(inner) => inner.stop().await,
                None => Ok(()),
            }
        })
    }
}

impl Drop for BrokenSubscription {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if self.shared.has_any(&[Flaw::BroadcastsStay, Flaw::DroppedStreamsTake]) {
            let mut notes = self.shared.notes();
            notes.streams.push(inner);
            notes.hoard.extend(self.ahead.drain(..));
        }
    }
}
