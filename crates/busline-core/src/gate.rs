//! The confirm gate: a delivery is acked only after everything its handler published is stored.
//!
//! The gate covers exactly what was published through it, and closes when the handler returns. An
//! ack then waits for the receipts and becomes a retry when one of them failed, so that the
//! handler runs again; a message that came back as unroutable goes to whoever asked for it, and
//! the ack stands. Whoever waits at the gate has the delivery's lease renewed meanwhile.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::Notify;

use crate::delivery::Outcome;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::receipt::{PendingReceipt, PublishError, Published, Receipt};
use crate::transport::Batch;

/// The gate of one delivery. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct ConfirmGate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Rings when nobody is on the way in any more.
    quiet: Notify,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Batches whose acceptance is awaited.
    entering: usize,
    tracked: VecDeque<Tracked>,
    /// At this many tracked receipts those that are in are forgotten.
    forget_at: usize,
    failure: Option<PublishError>,
}

#[derive(Debug, Clone)]
struct Tracked {
    receipt: GateReceipt,
    /// What to give back when it is unroutable.
    message: Option<Message>,
}

/// What the gate made of an outcome.
#[derive(Debug)]
pub struct Verdict {
    /// How to settle the delivery.
    pub outcome: Outcome,
    /// The first failure among what was published.
    pub failure: Option<PublishError>,
}

impl ConfirmGate {
    /// An open gate that covers nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Publishes a batch through the gate; `send` is the way to the broker.
    ///
    /// `Closed` after the handler has returned: then nothing is sent. Other errors are those of
    /// `send`, which accepted nothing: they are the handler's to judge and do not fail the gate.
    /// Cancelled before acceptance, nothing is sent and the gate does not wait for it.
    pub async fn send(
        &self,
        batch: Batch,
        send: impl AsyncFnOnce(Batch) -> Result<Vec<PendingReceipt>>,
    ) -> Result<Vec<GateReceipt>> {
        let entry = self.enter()?;
        let returnable = if batch.mandatory { batch.messages.clone() } else { Vec::new() };
        let receipts = send(batch).await?;
        Ok(entry.track(returnable, receipts))
    }

    /// Closes the gate, waits for the receipts of all that passed it, and decides.
    ///
    /// An ack stands when all is stored; a failure turns it into a retry after `retry_after`.
    /// Other outcomes stand in any case. `returned` gets each mandatory message that matched no
    /// group. Cancel safe: called again it goes on where it was, and the gate stays closed.
    pub async fn close(
        &self,
        outcome: Outcome,
        retry_after: Option<Duration>,
        mut returned: impl FnMut(Message),
    ) -> Verdict {
        loop {
            let quiet = self.0.quiet.notified();
            {
                let mut state = self.lock();
                state.closed = true;
                if state.entering == 0 {
                    break;
                }
            }
            quiet.await;
        }
        loop {
            let Some(tracked) = self.lock().tracked.front().cloned() else { break };
            let published = tracked.receipt.await;
            let mut state = self.lock();
            state.tracked.pop_front();
            match published {
                Ok(Receipt::Stored { .. }) => {}
                Err(failure) => {
                    state.failure.get_or_insert(failure);
                }
                Ok(Receipt::Unroutable) => {
                    drop(state);
                    tracked.message.into_iter().for_each(&mut returned);
                }
            }
        }
        let failure = self.lock().failure.clone();
        let outcome = match outcome {
            Outcome::Ack if failure.is_some() => Outcome::Retry { after: retry_after },
            outcome => outcome,
        };
        Verdict { outcome, failure }
    }

    fn enter(&self) -> Result<Entry<'_>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "the handler has returned")
                .during("publish")
                .hint("publish before returning, or through a publisher of your own"));
        }
        state.entering += 1;
        Ok(Entry(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody on the way in; dropped by a cancelled send, it leaves nothing behind.
struct Entry<'a>(&'a ConfirmGate);

impl Entry<'_> {
    fn track(self, returnable: Vec<Message>, receipts: Vec<PendingReceipt>) -> Vec<GateReceipt> {
        let receipts: Vec<_> =
            receipts.into_iter().map(|receipt| GateReceipt(receipt.shared())).collect();
        let mut returnable = returnable.into_iter();
        let mut state = self.0.lock();
        for receipt in &receipts {
            let tracked = Tracked { receipt: receipt.clone(), message: returnable.next() };
            state.tracked.push_back(tracked);
        }
        state.forget();
        drop(state);
        receipts
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.entering -= 1;
        if state.entering == 0 {
            self.0.0.quiet.notify_waiters();
        }
    }
}

impl State {
    /// Forgets what is stored, so that a handler may publish without end.
    fn forget(&mut self) {
        if self.tracked.len() < self.forget_at.max(64) {
            return;
        }
        self.tracked.retain(|tracked| {
            // The budget of a task that polls much is no reason to keep a receipt.
            let receipt = tokio::task::unconstrained(tracked.receipt.0.clone());
            !matches!(receipt.now_or_never(), Some(Ok(Receipt::Stored { .. })))
        });
        self.forget_at = self.tracked.len() * 2;
    }
}

/// The receipt of a message that passed the gate: the handler may wait for it, and the gate does.
#[derive(Debug, Clone)]
pub struct GateReceipt(Shared<PendingReceipt>);

impl Future for GateReceipt {
    type Output = Published;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Published> {
        self.0.poll_unpin(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::ReceiptSender;
    use crate::{Key, Topic};

    const STORED: Published = Ok(Receipt::Stored { offset: None });

    fn batch(payloads: &[&'static str], mandatory: bool) -> Batch {
        let message =
            |payload: &&'static str| Message::new(Topic::new("t").unwrap(), Key::empty(), *payload);
        Batch { messages: payloads.iter().map(message).collect(), mandatory }
    }

    fn nacked() -> Published {
        Err(PublishError::Nacked(Error::new(ErrorKind::Other, "no")))
    }

    /// Publishes one message through the gate; the sender answers it.
    async fn publish(gate: &ConfirmGate, mandatory: bool) -> ReceiptSender {
        let (sender, receipt) = PendingReceipt::channel();
        gate.send(batch(&["body"], mandatory), async |_| Ok(vec![receipt])).await.unwrap();
        sender
    }

    fn ignore(_: Message) {}

    #[tokio::test]
    async fn an_ack_waits_for_every_receipt() {
        let gate = ConfirmGate::new();
        let (one, two) = (publish(&gate, false).await, publish(&gate, false).await);
        let mut closing = Box::pin(gate.close(Outcome::Ack, None, ignore));
        assert!((&mut closing).now_or_never().is_none());
        two.send(STORED);
        assert!((&mut closing).now_or_never().is_none());
        one.send(STORED);
        let verdict = closing.now_or_never().unwrap();
        assert_eq!(verdict.outcome, Outcome::Ack);
        assert!(verdict.failure.is_none());
    }

    #[tokio::test]
    async fn one_failure_turns_an_ack_into_a_retry_and_nothing_else() {
        let after = Some(Duration::from_secs(3));
        for answer in [nacked(), Err(PublishError::Unknown(Error::new(ErrorKind::Elapsed, "?")))] {
            let gate = ConfirmGate::new();
            publish(&gate, false).await.send(STORED);
            publish(&gate, false).await.send(answer);
            let verdict = gate.close(Outcome::Ack, after, ignore).await;
            assert_eq!(verdict.outcome, Outcome::Retry { after });
            assert!(verdict.failure.is_some());
        }
        let gate = ConfirmGate::new();
        // A session that ends without answering is a failure too.
        drop(publish(&gate, false).await);
        let reject = Outcome::Reject { reason: "bad".to_owned() };
        let verdict = gate.close(reject.clone(), after, ignore).await;
        assert_eq!(verdict.outcome, reject);
        assert!(matches!(verdict.failure, Some(PublishError::Unknown(_))));
    }

    #[tokio::test]
    async fn an_unroutable_message_comes_back_and_still_acks() {
        let gate = ConfirmGate::new();
        publish(&gate, true).await.send(Ok(Receipt::Unroutable));
        let mut returned = Vec::new();
        let verdict = gate.close(Outcome::Ack, None, |message| returned.push(message)).await;
        assert_eq!(verdict.outcome, Outcome::Ack);
        assert_eq!(returned.len(), 1);
        assert_eq!(returned[0].payload, "body");
    }

    #[tokio::test]
    async fn nothing_passes_a_closed_gate() {
        let gate = ConfirmGate::new();
        gate.close(Outcome::Ack, None, ignore).await;
        let sent = gate.send(batch(&["late"], false), async |_| panic!("must not be sent")).await;
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Closed);
    }

    #[tokio::test]
    async fn a_batch_on_the_way_in_is_waited_for_unless_it_is_cancelled() {
        let gate = ConfirmGate::new();
        let (accept, accepted) = tokio::sync::oneshot::channel::<()>();
        let slow = async |_| {
            drop(accepted.await);
            Ok(vec![PendingReceipt::ready(nacked())])
        };
        let mut entering = Box::pin(gate.send(batch(&["slow"], false), slow));
        assert!((&mut entering).now_or_never().is_none());
        let stuck = async |_| std::future::pending().await;
        let mut cancelled = Box::pin(gate.send(batch(&["never"], false), stuck));
        assert!((&mut cancelled).now_or_never().is_none());

        let mut closing = Box::pin(gate.close(Outcome::Ack, None, ignore));
        assert!((&mut closing).now_or_never().is_none());
        drop(cancelled);
        accept.send(()).unwrap();
        entering.await.unwrap();
        let verdict = closing.now_or_never().unwrap();
        assert_eq!(verdict.outcome, Outcome::Retry { after: None });
    }

    #[tokio::test]
    async fn a_cancelled_close_can_be_taken_up_again() {
        let gate = ConfirmGate::new();
        publish(&gate, true).await.send(Ok(Receipt::Unroutable));
        publish(&gate, false).await.send(nacked());
        let last = publish(&gate, false).await;
        let mut returned = 0;
        assert!(gate.close(Outcome::Ack, None, |_| returned += 1).now_or_never().is_none());
        last.send(STORED);
        let verdict = gate.close(Outcome::Ack, None, |_| returned += 1).await;
        assert_eq!(verdict.outcome, Outcome::Retry { after: None });
        assert_eq!(returned, 1);
    }

    #[tokio::test]
    async fn an_error_of_send_is_the_handlers_to_judge() {
        let gate = ConfirmGate::new();
        let refuse = async |_| Err(Error::new(ErrorKind::Limit, "too large"));
        let sent = gate.send(batch(&["large"], false), refuse).await;
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(gate.close(Outcome::Ack, None, ignore).await.outcome, Outcome::Ack);
    }

    #[tokio::test]
    async fn what_is_stored_is_forgotten_and_failures_are_not() {
        let gate = ConfirmGate::new();
        publish(&gate, false).await.send(nacked());
        for _ in 0..1000 {
            publish(&gate, false).await.send(STORED);
        }
        assert!(gate.lock().tracked.len() < 200);
        assert!(gate.close(Outcome::Ack, None, ignore).await.failure.is_some());
    }

    #[tokio::test]
    async fn the_handler_may_wait_for_a_receipt_itself() {
        let gate = ConfirmGate::new();
        let ready = async |_| Ok(vec![PendingReceipt::ready(nacked())]);
        let receipts = gate.send(batch(&["body"], false), ready).await.unwrap();
        for receipt in receipts {
            assert!(receipt.await.is_err());
        }
        assert!(gate.close(Outcome::Ack, None, ignore).await.failure.is_some());
    }
}
