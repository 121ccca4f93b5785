//! What a test can do to a bus in memory: end sessions, refuse, block, nack.

use std::sync::Arc;

use super::broker::Broker;
use crate::error::{Error, ErrorKind};
use crate::transport::SessionEvent;

/// The broker's side of a bus in memory, for tests.
#[derive(Debug, Clone)]
pub struct MemoryBroker(Arc<Broker>);

impl MemoryBroker {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self(broker)
    }

    /// Ends every session as a restart of the broker would; what is stored stays.
    pub fn restart(&self) {
        let (mut state, now) = self.0.lock();
        let epochs: Vec<u64> = state.sessions.keys().copied().collect();
        for epoch in epochs {
            let why = Error::new(ErrorKind::Disconnected, "the broker has restarted");
            state.end_session(epoch, why, now);
        }
    }

    /// Whether new connections are refused.
    pub fn refuse_connects(&self, refuse: bool) {
        self.0.lock().0.faults.refusing = refuse;
    }

    /// Accepts messages up to the window and gives no receipts, until [`MemoryBroker::unblock`].
    pub fn block(&self, reason: &str) {
        let (mut state, _) = self.0.lock();
        state.faults.blocked = Some(reason.to_owned());
        for live in state.sessions.values() {
            live.line.tell(SessionEvent::Blocked(reason.to_owned()));
        }
    }

    /// Takes messages again, first those accepted meanwhile, in their order.
    pub fn unblock(&self) {
        let (mut state, now) = self.0.lock();
        state.faults.blocked = None;
        let epochs: Vec<u64> = state.sessions.keys().copied().collect();
        for epoch in epochs {
            let Some(live) = state.sessions.get_mut(&epoch) else { continue };
            live.line.tell(SessionEvent::Unblocked);
            for queued in std::mem::take(&mut live.outbox) {
                let topic = state.names.get(&queued.message.topic).copied();
                let published = state.store(queued.message, queued.mandatory, now);
                drop(queued.permit);
                queued.receipt.send(published);
                if let Some(topic) = topic {
                    state.grown(topic, now);
                }
            }
        }
    }

    /// Says no to the next so many messages.
    pub fn nack_next(&self, messages: u32, reason: &str) {
        let (mut state, _) = self.0.lock();
        state.faults.nacks = messages;
        reason.clone_into(&mut state.faults.nack_reason);
    }

    /// How many sessions are open.
    pub fn sessions(&self) -> usize {
        self.0.lock().0.sessions.len()
    }
}
