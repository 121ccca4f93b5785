//! A session on the table of a Hermes bus: it publishes and reads, and refuses the rest.

use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busline_core::transport::{
    Admin, Batch, Connect, DeleteIf, GroupInfo, Peeked, Read, Reader, ReplyAddress, Role, Session,
    SessionEvent, Spec, Subscribe, Subscription, TopicInfo, TopicSpec, Topology, TopologyMode,
};
use busline_core::{
    Capabilities, Capability, Clock, Error, ErrorKind, GroupName, Message, Offset, PendingReceipt,
    Position, Result, Topic,
};
use futures_util::future::{BoxFuture, ready};
use tokio::sync::{Semaphore, oneshot};

use super::super::config::SqliteConfig;
use super::super::database::{absolute, missing};
use super::super::error::{check_process, of_sqlite, session_closed};
use super::super::session::{WINDOW_UNITS, no_options, room};
use super::category::category;
use super::read::HermesReader;
use super::table;
use super::worker::{Job, PublishJob, call, start};

/// One program's use of a bus.
pub(super) struct HermesSession {
    topic: Topic,
    profile: Capabilities,
    clock: Arc<dyn Clock>,
    window: usize,
    room: [Arc<Semaphore>; 2],
    admin: HermesAdmin,
    jobs: Sender<Job>,
    /// `None` once closed.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl HermesSession {
    /// Opens the database, if it is there or is to be made. Blocking.
    pub(super) fn open(
        config: &SqliteConfig,
        profile: Capabilities,
        clock: &Arc<dyn Clock>,
        connect: &Connect,
    ) -> Result<Self> {
        let path = absolute(&config.path);
        let (jobs, ended) = start(config, &path, clock, connect.role == Role::Publish)?;
        Ok(Self {
            topic: config.topic.clone(),
            admin: HermesAdmin {
                topic: config.topic.clone(),
                profile: profile.clone(),
                jobs: jobs.clone(),
            },
            profile,
            clock: Arc::clone(clock),
            window: config.window,
            room: [
                Arc::new(Semaphore::new(config.window)),
                Arc::new(Semaphore::new(WINDOW_UNITS as usize)),
            ],
            jobs,
            ended: Mutex::new(Some(ended)),
        })
    }

    fn check_open(&self) -> Result<()> {
        check_process()?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_some() { Ok(()) } else { Err(session_closed()) }
    }

    async fn send_batch(&self, batch: Batch) -> Result<Vec<PendingReceipt>> {
        self.check_open()?;
        if batch.mandatory {
            self.profile.require(Capability::Unroutable)?;
        }
        for message in &batch.messages {
            check_topic(&self.topic, &message.topic)?;
            self.profile.limits.check(message).map_err(|error| error.during("publish"))?;
            check_event(message).map_err(|error| error.during("publish"))?;
        }
        let permit = room(&self.room, self.window, &batch.messages).await?;
        let mut pending = Vec::with_capacity(batch.messages.len());
        let job = |message| {
            let (receipt, waiting) = PendingReceipt::channel();
            pending.push(waiting);
            PublishJob { message, receipt, _permit: Arc::clone(&permit) }
        };
        let jobs = batch.messages.into_iter().map(job).collect();
        self.jobs.send(Job::Publish(jobs)).map_err(|_| session_closed())?;
        Ok(pending)
    }

    async fn declare_all(&self, topology: Topology) -> Result<()> {
        self.check_open()?;
        if !topology.groups.is_empty() {
            self.profile.require(Capability::Group)?;
        }
        for spec in &topology.topics {
            check_topic(&self.topic, &spec.topic)?;
            no_options(&spec.options)?;
            check_retention(spec)?;
        }
        let Some(spec) = topology.topics.into_iter().next_back() else { return Ok(()) };
        match topology.mode {
            TopologyMode::Assume => Ok(()),
            TopologyMode::Verify => {
                call(&self.jobs, |worker| {
                    let path = worker.table.path.clone();
                    worker.table.connection()?.map(drop).ok_or_else(|| missing(&path))
                })
                .await
            }
            TopologyMode::Create => {
                let age = spec.retention.and_then(|retention| retention.age_max);
                call(&self.jobs, move |worker| {
                    worker.table.writer()?;
                    age.map_or(Ok(()), |age| worker.keep_for(age))
                })
                .await
            }
        }
    }
}

fn check_topic(only: &Topic, topic: &Topic) -> Result<()> {
    if only == topic {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("a Hermes bus has one topic, '{only}', and none named '{topic}'"),
    )
    .hint(format!("use that name, or add topic={topic} to the URL")))
}

fn check_retention(spec: &TopicSpec) -> Result<()> {
    match spec.retention {
        Some(retention) if retention.bytes_max.is_some() => Err(Error::refused(
            "retention by bytes",
            "sqlite, hermes",
            "bound the age of events instead",
        )),
        _ => Ok(()),
    }
}

/// Refuses what the table has no place for, and what would stop every client of the bus.
fn check_event(message: &Message) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::new(ErrorKind::Limit, what).hint(
            "an event of Hermes is a JSON object as text; its category, the key, is the field 'evcategory' of it",
        ))
    };
    if let Some((name, _)) = message.headers.iter().next() {
        return refuse(format!("a Hermes bus has no headers: '{name}' would be lost"));
    }
    let properties = &message.properties;
    let lost = [
        ("ordering_key", message.ordering_key.is_some()),
        ("correlation_id", properties.correlation_id.is_some()),
        ("conversation_id", properties.conversation_id.is_some()),
        ("causation_id", properties.causation_id.is_some()),
        ("reply_to", properties.reply_to.is_some()),
        ("content_encoding", properties.content_encoding.is_some()),
        ("kind", properties.kind.is_some()),
        ("app_id", properties.app_id.is_some()),
        ("expiration", properties.expiration.is_some()),
        ("priority", properties.priority.is_some()),
    ];
    if let Some((name, _)) = lost.iter().find(|(_, is_lost)| *is_lost) {
        return refuse(format!("a Hermes bus has no properties: {name} would be lost"));
    }
    let Ok(text) = std::str::from_utf8(&message.payload) else {
        return refuse("the payload is no text".to_owned());
    };
    let found = match category(text) {
        Ok(found) => found,
        Err(malformed) => return refuse(format!("the payload is no event: {malformed}")),
    };
    let key = message.key.as_str();
    if !key.is_empty() && found.as_deref() != Some(key) {
        let found = found.map_or_else(|| "none".to_owned(), |found| format!("'{found}'"));
        return refuse(format!("the key is '{key}' and the category of the event {found}"));
    }
    Ok(())
}

impl Session for HermesSession {
    fn capabilities(&self, _: &Spec) -> Capabilities {
        self.profile.clone()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.declare_all(topology.clone()))
    }

    fn send(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<PendingReceipt>>> {
        Box::pin(self.send_batch(batch))
    }

    fn subscribe(&self, _: Subscribe) -> BoxFuture<'_, Result<Box<dyn Subscription>>> {
        let refused = self.profile.require(Capability::Group).and(Err(session_closed()));
        Box::pin(ready(refused))
    }

    fn read(&self, spec: Read) -> BoxFuture<'_, Result<Box<dyn Reader>>> {
        Box::pin(async move {
            self.check_open()?;
            check_topic(&self.topic, &spec.topic)?;
            no_options(&spec.options)?;
            Ok(Box::new(HermesReader::open(&self.jobs, spec).await?) as Box<dyn Reader>)
        })
    }

    fn reply_address(&self) -> BoxFuture<'_, Result<ReplyAddress>> {
        let refused = self.profile.require(Capability::Requests).and(Err(session_closed()));
        Box::pin(ready(refused))
    }

    fn admin(&self) -> Option<&dyn Admin> {
        Some(&self.admin)
    }

    fn next_event(&self) -> BoxFuture<'_, SessionEvent> {
        // There is no connection that anything could happen to.
        Box::pin(std::future::pending())
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(ended) = ended else { return Ok(()) };
            self.room.iter().for_each(|room| room.close());
            let (done, flushed) = oneshot::channel();
            if self.jobs.send(Job::Close(done)).is_err() {
                return Ok(());
            }
            let finished = async {
                // Neither says anything but that it is over; behind the second one the file is closed.
                let _ = flushed.await;
                let _ = ended.await;
            };
            tokio::select! {
                biased;
                () = finished => Ok(()),
                () = self.clock.sleep(deadline) => {
                    Err(Error::new(ErrorKind::Elapsed, "the database did not take everything in time"))
                }
            }
        })
    }
}

impl Drop for HermesSession {
    fn drop(&mut self) {
        if self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            // Nobody waits for it.
            let (done, _) = oneshot::channel();
            let _ = self.jobs.send(Job::Close(done));
        }
    }
}

impl fmt::Debug for HermesSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HermesSession").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// The table as an operator sees it.
#[derive(Debug)]
struct HermesAdmin {
    topic: Topic,
    profile: Capabilities,
    jobs: Sender<Job>,
}

impl HermesAdmin {
    fn refused<T: Send + 'static>(&self) -> BoxFuture<'static, Result<T>> {
        let refused = self.profile.require(Capability::Group).and(Err(session_closed()));
        Box::pin(ready(refused))
    }
}

impl Admin for HermesAdmin {
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        let topic = self.topic.clone();
        call(&self.jobs, move |worker| {
            let Some(connection) = worker.table.connection()? else { return Ok(Vec::new()) };
            let bounds = table::bounds(connection)?;
            let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
            let bytes: i64 = connection.query_row(sql, [], |row| row.get(0)).map_err(of_sqlite)?;
            let mut info = TopicInfo::new(topic);
            info.messages = table::count(connection)?;
            info.bytes = bytes.unsigned_abs();
            info.earliest = Some(table::offset_of(bounds.first.unwrap_or(bounds.end)));
            info.end = Some(table::offset_of(bounds.end));
            Ok(vec![info])
        })
    }

    fn groups<'a>(&'a self, topic: Option<&'a Topic>) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        Box::pin(ready(
            topic.map_or(Ok(()), |topic| check_topic(&self.topic, topic)).map(|()| Vec::new()),
        ))
    }

    fn peek<'a>(
        &'a self,
        _: &'a Topic,
        _: &'a GroupName,
        _: Option<&'a Offset>,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<Peeked>>> {
        self.refused()
    }

    fn reset_group<'a>(
        &'a self,
        _: &'a Topic,
        _: &'a GroupName,
        _: &'a Position,
    ) -> BoxFuture<'a, Result<()>> {
        self.refused()
    }

    fn purge<'a>(&'a self, _: &'a Topic, _: &'a GroupName) -> BoxFuture<'a, Result<u64>> {
        self.refused()
    }

    fn delete_group<'a>(
        &'a self,
        _: &'a Topic,
        _: &'a GroupName,
        _: DeleteIf,
    ) -> BoxFuture<'a, Result<()>> {
        self.refused()
    }

    fn delete_topic<'a>(&'a self, topic: &'a Topic, _: DeleteIf) -> BoxFuture<'a, Result<()>> {
        let way_out = "remove the file when neither Hermes nor Busline has it open";
        let refused = || Err(Error::refused("deleting of its topic", "sqlite, hermes", way_out));
        Box::pin(ready(check_topic(&self.topic, topic).and_then(|()| refused())))
    }
}
