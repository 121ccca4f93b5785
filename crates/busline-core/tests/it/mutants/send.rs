//! Broken sending.

use std::sync::atomic::Ordering;

use busline_core::dead;
use busline_core::transport::Batch;
use busline_core::{
    Error, ErrorKind, Headers, Key, Message, PendingReceipt, PublishError, Published, Receipt,
    Result,
};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::flaw::Flaw;
use super::rig::{Shared, now};
use super::session::BrokenSession;

const STORED: Published = Ok(Receipt::Stored { offset: None });

/// Sends with what is wrong with it.
pub(super) fn send(
    session: &BrokenSession,
    batch: Batch,
) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
    if session.shared.has(Flaw::SendsWhenCancelled) {
        // At once, and not when somebody polls.
        return Box::pin(ready(now(session.inner.send(batch))));
    }
    Box::pin(async move {
        if let Some(done) = instead(session, &batch) {
            return done;
        }
        let batch = alter(&session.shared, batch);
        let mandatory = batch.mandatory;
        match session.inner.send(batch).await {
            Ok(receipts) => Ok(answer(&session.shared, receipts, mandatory)),
            Err(error)
                if session.shared.has(Flaw::EndsAsOther)
                    && error.kind() == ErrorKind::Disconnected =>
            {
                Err(Error::new(ErrorKind::Other, "something is wrong"))
            }
            Err(error)
                if session.shared.has(Flaw::ReceiptsForDeletedTopics)
                    && error.kind() == ErrorKind::NotFound =>
            {
                Ok(vec![PendingReceipt::ready(STORED)])
            }
            Err(error) => Err(error),
        }
    })
}

/// What is done in place of sending.
fn instead(session: &BrokenSession, batch: &Batch) -> Option<Result<Vec<PendingReceipt>>> {
    let shared = &session.shared;
    let stored = |count: usize| -> Vec<PendingReceipt> {
        (0..count).map(|_| PendingReceipt::ready(STORED)).collect()
    };
    let count = batch.messages.len();
    let max = session.inner.capabilities(&busline_core::transport::Spec::default()).limits;
    if shared.has(Flaw::RefusesTheEmptyBatch) && batch.messages.is_empty() {
        return Some(Err(Error::new(ErrorKind::Limit, "the batch is empty")));
    }
    if shared.has(Flaw::ReceiptsEarly) {
        let before = std::mem::replace(&mut shared.notes().held_back, batch.messages.clone());
        return Some(now(session.inner.send(before.into())).map(|_| stored(count)));
    }
    if shared.has_any(&[Flaw::ReordersSends, Flaw::ReordersSessions]) {
        let mut messages = batch.messages.clone();
        let before = std::mem::take(&mut shared.notes().held_back);
        if before.is_empty() {
            shared.notes().held_back = messages;
            return Some(Ok(stored(count)));
        }
        messages.extend(before);
        return Some(now(session.inner.send(messages.into())).map(|_| stored(count)));
    }
    if shared.has_any(&[Flaw::DropsWithTheReceipt, Flaw::CloseDropsMessages]) {
        let mut receipts = Vec::new();
        for message in &batch.messages {
            let (sender, receipt) = PendingReceipt::channel();
            shared.notes().unanswered.push((sender, message.clone()));
            receipts.push(receipt);
        }
        return Some(Ok(receipts));
    }
    if shared.has(Flaw::LosesWhatHandlersPublish)
        && batch.messages.iter().all(|message| message.topic.as_str().ends_with("-out"))
    {
        return Some(Ok(stored(count)));
    }
    let only_broadcasts = || shared.groups().iter().all(|group| group.broadcast);
    if shared.has(Flaw::BroadcastsDoNotRoute) && batch.mandatory && only_broadcasts() {
        let unroutable = |_: &Message| PendingReceipt::ready(Ok(Receipt::Unroutable));
        return Some(Ok(batch.messages.iter().map(unroutable).collect()));
    }
    if shared.has(Flaw::ClosedSessionsSend) && session.closed.load(Ordering::Acquire) {
        return Some(shared.backdoor().and_then(|sound| now(sound.send(batch.clone()))));
    }
    if shared.has(Flaw::RefusesTheLargest)
        && batch.messages.iter().any(|message| message.payload.len() == max.payload_bytes_max)
    {
        return Some(Err(Error::new(ErrorKind::Limit, "the payload is too large")));
    }
    if shared.has(Flaw::SendsHalfBatches) {
        let good = batch.messages.iter().take_while(|message| max.check(message).is_ok());
        let good: Vec<_> = good.cloned().collect();
        if good.len() < count {
            drop(now(session.inner.send(good.into())));
        }
    }
    None
}

/// What becomes of a batch before it is sent.
fn alter(shared: &Shared, mut batch: Batch) -> Batch {
    if shared.has_any(&[Flaw::ReordersBatches, Flaw::ReordersUnderLoad]) {
        batch.messages.reverse();
    }
    if shared.has_any(&[Flaw::Loses, Flaw::LosesUnderLoad]) {
        let last = batch.messages.last().cloned();
        let mut messages = std::mem::take(&mut batch.messages);
        // Another one in its place, so that the receipts are as many.
        for message in messages.iter_mut().skip(4).step_by(5) {
            if let Some(last) = &last {
                message.clone_from(last);
            }
        }
        batch.messages = messages;
    }
    if shared.has(Flaw::MixesTopics) {
        let other = |message: &Message| {
            let groups = shared.groups();
            groups.into_iter().find(|group| group.topic != message.topic).map(|group| group.topic)
        };
        let copies: Vec<_> = batch
            .messages
            .iter()
            .filter_map(|message| Some(Message { topic: other(message)?, ..message.clone() }))
            .collect();
        if let Ok(session) = shared.backdoor() {
            drop(now(session.send(copies.into())));
        }
    }
    if shared.has_any(&[Flaw::IgnoresMandatory]) || shared.notes().deleted {
        batch.mandatory = false;
    }
    if shared.has(Flaw::AlwaysMandatory) {
        batch.mandatory = true;
    }
    for message in &mut batch.messages {
        alter_message(shared, message);
    }
    batch
}

fn alter_message(shared: &Shared, message: &mut Message) {
    let limits = shared.memory_limits();
    if shared.has(Flaw::StoresCopies) {
        message.properties.message_id = None;
    }
    if shared.has(Flaw::DropsOthersAsCopies) {
        message.properties.message_id = Some("the only one".into());
    }
    if shared.has(Flaw::ManglesKeys) {
        let folded = message.key.as_str().to_lowercase();
        message.key = Key::new(folded.trim().to_owned()).unwrap_or_default();
    }
    if shared.has(Flaw::ManglesHeaders) {
        let mut once = Headers::new();
        for (name, value) in message.headers.iter() {
            once.insert(name.clone(), value.clone());
        }
        message.headers = once;
    }
    if shared.has(Flaw::OrdersNothingWithoutKey) {
        let mut notes = shared.notes();
        notes.counter += 1;
        message.ordering_key = Some(notes.counter.to_string().into());
    }
    if shared.has(Flaw::DropsOrderingKeys) {
        message.ordering_key = None;
    }
    if shared.has(Flaw::RedrivesToAll) {
        message.headers.remove(dead::HEADER_ONLY_GROUP);
    }
    if shared.has(Flaw::ForgetsRedrives) {
        message.headers.remove(dead::HEADER_REDRIVES);
    }
    if limits.check(message).is_ok() {
        return;
    }
    if shared.has(Flaw::CutsPayloads) {
        message.payload.truncate(limits.payload_bytes_max);
    }
    if shared.has(Flaw::DropsLargeHeaders) {
        message.headers = Headers::new();
    }
    if shared.has(Flaw::DropsLargeProperties) {
        message.properties = busline_core::Properties::default();
        message.ordering_key = None;
    }
}

/// What becomes of the receipts. Those of a bus in memory are there already.
fn answer(shared: &Shared, receipts: Vec<PendingReceipt>, mandatory: bool) -> Vec<PendingReceipt> {
    if !shared.has_any(&[
        Flaw::NamesAnotherPlace,
        Flaw::MixesUpReceipts,
        Flaw::NacksUnroutable,
        Flaw::RoutesWholeBatches,
    ]) {
        return receipts;
    }
    let mut published: Vec<Published> =
        receipts.into_iter().filter_map(FutureExt::now_or_never).collect();
    if shared.has(Flaw::MixesUpReceipts) {
        published.reverse();
    }
    if shared.has(Flaw::NamesAnotherPlace) {
        let first = published.first().cloned();
        published.fill(first.unwrap_or(STORED));
    }
    let routed = published.iter().any(|published| matches!(published, Ok(Receipt::Stored { .. })));
    for published in &mut published {
        if !matches!(published, Ok(Receipt::Unroutable)) || !mandatory {
            continue;
        }
        if shared.has(Flaw::RoutesWholeBatches) && routed {
            *published = STORED;
        }
        if shared.has(Flaw::NacksUnroutable) {
            let nack = Error::new(ErrorKind::Other, "nobody wants it");
            *published = Err(PublishError::Nacked(nack));
        }
    }
    published.into_iter().map(PendingReceipt::ready).collect()
}
