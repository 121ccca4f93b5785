//! A session on a bus in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::admin::MemoryAdmin;
use super::broker::{Broker, Line};
use super::declare::{check_options, declare};
use super::member::MemorySubscription;
use super::reader::MemoryReader;
use super::state::{Live, Queued};
use crate::capability::Capabilities;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Topic;
use crate::receipt::PendingReceipt;
use crate::transport::{
    Admin, Batch, Connect, Read, Reader, ReplyAddress, Retention, Session, SessionEvent, Spec,
    Subscribe, Subscription, Topology,
};

/// The topic of all replies; the key of a reply is the `reply_to` of its request.
const REPLIES: &str = "busline.replies";

/// How long a reply is kept that nobody fetches.
const REPLIES_AGE_MAX: Duration = Duration::from_secs(600);

/// One session. Dropping it ends it, as the death of its process would.
#[derive(Debug)]
pub(super) struct MemorySession {
    broker: Arc<Broker>,
    line: Arc<Line>,
    admin: MemoryAdmin,
    reply_to: String,
}

impl MemorySession {
    pub(super) fn open(broker: &Arc<Broker>, connect: &Connect) -> Result<Arc<dyn Session>> {
        let (mut state, _) = broker.lock();
        if state.faults.refusing {
            return Err(Error::new(ErrorKind::Disconnected, "the broker takes no connections"));
        }
        let line = Arc::new(Line::new(state.fresh(), broker.options.window.max(1)));
        let live = Live { line: Arc::clone(&line), members: Vec::new(), outbox: VecDeque::new() };
        state.sessions.insert(line.epoch, live);
        drop(state);
        let broker = Arc::clone(broker);
        let admin = MemoryAdmin::new(Arc::clone(&broker), Arc::clone(&line));
        let reply_to = connect.instance.clone();
        Ok(Arc::new(Self { broker, line, admin, reply_to }))
    }

    /// Fails with the first thing that is wrong with a batch, before anything of it is accepted.
    fn check(&self, batch: &Batch) -> Result<()> {
        self.line.check()?;
        for message in &batch.messages {
            self.broker.options.limits.check(message)?;
        }
        let (state, _) = self.broker.lock();
        let mut last = None;
        for message in &batch.messages {
            if last != Some(&message.topic) {
                state.topic(&message.topic)?;
                last = Some(&message.topic);
            }
        }
        Ok(())
    }

    /// Room for a batch; one larger than the window takes all of it.
    async fn room(&self, messages: usize) -> Result<OwnedSemaphorePermit> {
        let permits = messages.min(self.broker.options.window.max(1));
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let window = Arc::clone(&self.line.window);
        window.acquire_many_owned(permits).await.map_err(|_| self.line.error())
    }

    fn accept(&self, batch: Batch, mut room: OwnedSemaphorePermit) -> Result<Vec<PendingReceipt>> {
        let (mut state, now) = self.broker.lock();
        self.line.check()?;
        let Batch { messages, mandatory } = batch;
        if state.faults.blocked.is_some() {
            let live = state.sessions.get_mut(&self.line.epoch).ok_or_else(|| self.line.error())?;
            let queue = |message| {
                let (receipt, pending) = PendingReceipt::channel();
                let permit = room.split(1);
                live.outbox.push_back(Queued { message, mandatory, receipt, permit });
                pending
            };
            return Ok(messages.into_iter().map(queue).collect());
        }
        let mut receipts = Vec::with_capacity(messages.len());
        let mut touched: Vec<Topic> = Vec::new();
        for message in messages {
            if touched.last() != Some(&message.topic) {
                touched.push(message.topic.clone());
            }
            receipts.push(PendingReceipt::ready(state.store(message, mandatory, now)));
        }
        touched.sort();
        touched.dedup();
        for topic in touched {
            if let Some(topic) = state.names.get(&topic).copied() {
                state.grown(topic, now);
            }
        }
        Ok(receipts)
    }
}

impl Session for MemorySession {
    fn capabilities(&self, _spec: &Spec) -> Capabilities {
        self.broker.options.capabilities()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (mut state, now) = self.broker.lock();
            self.line.check()?;
            declare(&mut state, topology, now)
        })
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        Box::pin(async move {
            self.check(&batch)?;
            let room = self.room(batch.messages.len()).await?;
            self.accept(batch, room)
        })
    }

    fn subscribe(&self, subscribe: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        Box::pin(async move {
            check_options(&subscribe.options, "topic", &subscribe.topic)?;
            let opened = MemorySubscription::open(&self.broker, &self.line, &subscribe)?;
            Ok(Box::new(opened) as Box<dyn Subscription>)
        })
    }

    fn read(&self, read: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            check_options(&read.options, "topic", &read.topic)?;
            let opened = MemoryReader::open(&self.broker, &self.line, read)?;
            Ok(Box::new(opened) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        Box::pin(async move {
            let topic = Topic::new(REPLIES)?;
            let (mut state, _) = self.broker.lock();
            self.line.check()?;
            let id = state.ensure_topic(&topic);
            if let Some(log) = state.topics.get_mut(&id) {
                log.retention = Retention {
                    age_max: Some(REPLIES_AGE_MAX),
                    bytes_max: None,
                    ignore_groups: true,
                };
            }
            Ok(ReplyAddress { topic, reply_to: self.reply_to.clone() })
        })
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(&self.admin)
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        Box::pin(self.line.next_event())
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let all = u32::try_from(self.broker.options.window.max(1)).unwrap_or(u32::MAX);
            let until = self.broker.now().monotonic.saturating_add(deadline);
            let flushed = tokio::select! {
                biased;
                // It fails when the session has ended already, and then there is nothing to flush.
                _ = self.line.window.acquire_many(all) => Ok(()),
                () = self.broker.sleep_until(Some(until)) => Err(Error::new(
                    ErrorKind::Elapsed,
                    "closing took too long: some messages have no receipt",
                )),
            };
            self.broker.end(&self.line, Error::new(ErrorKind::Closed, "the session was closed"));
            flushed
        })
    }
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        let why = Error::new(ErrorKind::Disconnected, "the session was dropped without closing it");
        self.broker.end(&self.line, why);
    }
}
