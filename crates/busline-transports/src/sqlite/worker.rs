//! The thread of a session: it alone uses the session's connection, joins what waits, and looks for those who wait.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use busline_core::{Clock, Error, ErrorKind, Result, Timestamp};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::claims::{self, Outlook};
use super::config::SqliteConfig;
use super::database::{Database, Durable};
use super::error::{check_process, session_closed};
use super::groups::{self, GroupRow};
use super::hub::Seat;
use super::life::After;
use super::member::{MemberState, SettleJob};
use super::presence::Presence;
use super::publish::PublishJob;
use super::settle::take_over;
use super::topics::TopicRow;

/// The most jobs that are taken before they are done.
const ROUND_JOBS: usize = 1024;

/// What the thread is asked for.
pub(super) enum Job {
    Publish(VecDeque<PublishJob>),
    Settle(SettleJob),
    /// A member waits for deliveries.
    Want(i64),
    /// Somebody in this process has written.
    Look,
    /// Something that takes its turn behind everything before it.
    Call(Box<dyn FnOnce(&mut Worker) + Send>),
    /// The last job: everything before it is written.
    Close(oneshot::Sender<()>),
}

/// The session's side of the database.
pub(super) struct Worker {
    pub(super) database: Database,
    pub(super) clock: Arc<dyn Clock>,
    /// The name of this session in the database.
    pub(super) name: String,
    poll: Duration,
    seat: Seat,
    rung: Arc<AtomicBool>,
    presence: Option<Presence>,
    pub(super) publishes: VecDeque<PublishJob>,
    pub(super) settles: Vec<SettleJob>,
    pub(super) members: BTreeMap<i64, Member>,
    waits: Vec<Wait>,
    version: i64,
    /// Something may have changed for those who wait.
    changed: bool,
    pub(super) after: After,
}

/// A member of this session.
pub(super) struct Member {
    pub(super) state: Arc<MemberState>,
    pub(super) epoch: i64,
    wants: bool,
    /// When something falls due for it.
    due: Option<i64>,
    stopped: bool,
}

/// A reader at the end of its topic.
struct Wait {
    slot: i64,
    next: i64,
    done: oneshot::Sender<Result<()>>,
}

/// Starts the thread of a session; what is sent to it is done in that order.
pub(super) fn start(
    config: &SqliteConfig,
    path: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<(Sender<Job>, oneshot::Receiver<()>)> {
    let database = Database::open(config, path)?;
    let (sender, jobs) = channel();
    let rung = Arc::new(AtomicBool::new(false));
    let bell = {
        let (rung, sender) = (Arc::clone(&rung), sender.clone());
        move || {
            if !rung.swap(true, Ordering::AcqRel) {
                // A session that has ended needs no waking.
                let _ = sender.send(Job::Look);
            }
        }
    };
    let worker = Worker {
        version: database.data_version()?,
        database,
        clock: Arc::clone(clock),
        name: uuid::Uuid::new_v4().simple().to_string(),
        poll: config.poll,
        seat: Seat::take(path, bell),
        rung,
        presence: None,
        publishes: VecDeque::new(),
        settles: Vec::new(),
        members: BTreeMap::new(),
        waits: Vec::new(),
        changed: false,
        after: After::default(),
    };
    let (ended, over) = oneshot::channel();
    let run = move || {
        worker.run(&jobs);
        drop(ended);
    };
    let thread = std::thread::Builder::new().name("busline-sqlite".to_owned()).spawn(run);
    thread
        .map_err(|cause| Error::new(ErrorKind::Other, "no thread can be started").source(cause))?;
    Ok((sender, over))
}

/// Does something on the thread of a session, behind everything that was asked for before.
pub(super) fn call<T: Send + 'static>(
    jobs: &Sender<Job>,
    operation: impl FnOnce(&mut Worker) -> Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T>> {
    let jobs = jobs.clone();
    Box::pin(async move {
        check_process()?;
        let (done, result) = oneshot::channel();
        let job = move |worker: &mut Worker| {
            // Who asked may have gone.
            let _ = done.send(operation(worker));
        };
        jobs.send(Job::Call(Box::new(job))).map_err(|_| session_closed())?;
        result.await.unwrap_or_else(|_| Err(session_closed()))
    })
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match self.timeout() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(timeout) => jobs.recv_timeout(timeout),
            };
            let mut next = match first {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            };
            let mut taken = 0;
            while let Some(job) = next {
                if let Job::Close(done) = job {
                    self.write();
                    self.end();
                    // Who closed may have given up waiting.
                    let _ = done.send(());
                    return;
                }
                self.take(job);
                taken += 1;
                next = if taken < ROUND_JOBS { jobs.try_recv().ok() } else { None };
            }
            self.write();
            self.tick();
        }
    }

    /// How long it may sleep; `None` is until there is a job.
    fn timeout(&self) -> Option<Duration> {
        if self.changed || !self.publishes.is_empty() {
            return Some(Duration::ZERO);
        }
        let waits = !self.members.is_empty() || !self.waits.is_empty() || !self.settles.is_empty();
        waits.then_some(self.poll)
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Publish(mut jobs) => self.publishes.append(&mut jobs),
            Job::Settle(job) => self.settles.push(job),
            Job::Want(member) => {
                if let Some(member) = self.members.get_mut(&member) {
                    (member.wants, member.due) = (true, None);
                    self.changed = true;
                }
            }
            Job::Look => {
                self.rung.store(false, Ordering::Release);
                self.changed = true;
            }
            Job::Call(call) => {
                self.write();
                call(self);
            }
            Job::Close(_) => {}
        }
    }

    /// Wakes everybody who may wait for what was just committed.
    pub(super) fn committed(&mut self) {
        self.changed = true;
        self.seat.ring();
    }

    /// The wall clock.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Writes something that somebody waits for, and wakes others behind it.
    pub(super) fn change<T>(
        &mut self,
        operation: impl FnOnce(&rusqlite::Connection, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let now = self.now();
        let done = self.database.write(Durable::Yes, |connection| operation(connection, now))?;
        self.committed();
        Ok(done)
    }

    /// What is done without being asked.
    fn tick(&mut self) {
        match self.database.data_version() {
            Ok(version) if version != self.version => {
                self.version = version;
                self.changed = true;
            }
            Ok(_) => {}
            Err(error) => self.fail_all(&error),
        }
        self.look_after();
        let due_now = self.now().unix_us();
        let due = self.members.values().any(|m| m.wants && m.due.is_some_and(|due| due <= due_now));
        if std::mem::take(&mut self.changed) || due {
            self.look();
        }
    }

    /// Looks for those who wait.
    fn look(&mut self) {
        let mut waits = std::mem::take(&mut self.waits);
        waits.retain(|wait| !wait.done.is_closed());
        for wait in waits {
            match self.is_over(&wait) {
                Ok(false) => self.waits.push(wait),
                Ok(true) => drop(wait.done.send(Ok(()))),
                Err(error) => drop(wait.done.send(Err(error))),
            }
        }
        let wanting = self.members.iter().filter(|(_, member)| member.wants && !member.stopped);
        let wanting: Vec<i64> = wanting.map(|(id, _)| *id).collect();
        for id in wanting {
            match self.claim(id) {
                Ok(()) => {}
                // Somebody holds the lock for long: it is looked again soon.
                Err(error) if error.is_temporary() => {
                    tracing::debug!(%error, "nothing can be claimed at the moment");
                    if let Some(member) = self.members.get_mut(&id) {
                        member.due = Some(0);
                    }
                }
                Err(error) => self.fail(id, &error),
            }
        }
    }

    /// Whether there is more for a reader, or its topic is gone.
    fn is_over(&self, wait: &Wait) -> Result<bool> {
        let topic = TopicRow::at(self.database.connection(), wait.slot)?;
        Ok(topic.is_none_or(|topic| topic.next > wait.next))
    }

    /// Answers `done` when the topic has more than `next`.
    pub(super) fn wait(&mut self, slot: i64, next: i64, done: oneshot::Sender<Result<()>>) {
        self.waits.push(Wait { slot, next, done });
        self.changed = true;
    }

    /// Hands a member what there is for it.
    fn claim(&mut self, id: i64) -> Result<()> {
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        let state = Arc::clone(&member.state);
        let Some(group) = GroupRow::at(self.database.connection(), state.group)? else {
            self.fail(id, &state.deleted());
            return Ok(());
        };
        if group.epoch != member.epoch {
            member.epoch = group.epoch;
            state.lose_all();
        }
        let now = self.clock.now();
        let Some(room) = state.room() else { return Ok(()) };
        match claims::outlook(self.database.connection(), &group, now)? {
            Outlook::Something => {}
            Outlook::Nothing { due } => {
                member.due = due;
                return Ok(());
            }
        }
        let claimed = self.database.write(Durable::No, |connection| {
            let Some(mut group) = GroupRow::at(connection, state.group)? else { return Ok(None) };
            let topic = claims::topic_of(connection, &group)?;
            let before = group.cursor;
            let claimed = claims::claim(connection, &mut group, &topic, id, room, now)?;
            Ok(Some((topic, group.epoch, claimed, group.cursor != before)))
        })?;
        let Some((topic, epoch, claimed, moved)) = claimed else {
            self.fail(id, &state.deleted());
            return Ok(());
        };
        if claimed.is_empty() {
            // Nothing among many: there may be more behind them.
            self.changed |= moved;
            return Ok(());
        }
        if epoch != member.epoch {
            member.epoch = epoch;
            state.lose_all();
        }
        member.wants = false;
        state.deliver(claimed, &topic, epoch, self.clock.monotonic());
        Ok(())
    }

    /// The name of this session among the members of groups, which is announced first.
    pub(super) fn announced(&mut self) -> Result<String> {
        if self.presence.is_none() {
            self.presence = Some(Presence::announce(&self.database.folder, &self.name)?);
        }
        Ok(self.name.clone())
    }

    /// Takes a new member in.
    pub(super) fn admit(&mut self, state: &Arc<MemberState>, id: i64, epoch: i64) {
        // What a lease is counted from.
        self.after.beaten_at(self.clock.monotonic());
        let state = Arc::clone(state);
        self.members.insert(id, Member { state, epoch, wants: false, due: None, stopped: false });
    }

    /// A member fetches no more.
    pub(super) fn stop(&mut self, id: i64) -> Result<()> {
        let Some(member) = self.members.get_mut(&id).filter(|member| !member.stopped) else {
            return Ok(());
        };
        (member.stopped, member.wants) = (true, false);
        let group = member.state.group;
        if member.state.is_busy() {
            return self.change(|connection, now| groups::stop(connection, group, id, now));
        }
        self.members.remove(&id);
        self.change(|connection, now| groups::leave(connection, group, id, now))
    }

    /// Lets those go that have stopped and hold nothing any more.
    pub(super) fn let_go(&mut self) {
        let done =
            self.members.iter().filter(|(_, member)| member.stopped && !member.state.is_busy());
        let done: Vec<(i64, i64)> = done.map(|(id, member)| (*id, member.state.group)).collect();
        for (id, group) in done {
            self.members.remove(&id);
            if let Err(error) =
                self.change(|connection, now| groups::leave(connection, group, id, now))
            {
                // The others find its session dead once it is.
                tracing::warn!(%error, "a member could not leave its group");
            }
        }
    }

    fn fail(&mut self, id: i64, error: &Error) {
        if let Some(member) = self.members.remove(&id) {
            member.state.fail(error.clone());
        }
    }

    fn fail_all(&mut self, error: &Error) {
        if error.is_temporary() {
            return;
        }
        let ids: Vec<i64> = self.members.keys().copied().collect();
        ids.into_iter().for_each(|id| self.fail(id, error));
        self.waits.drain(..).for_each(|wait| drop(wait.done.send(Err(error.clone()))));
    }

    /// The end of the session: what it holds goes to others at once.
    fn end(&mut self) {
        let members: Vec<(i64, i64)> =
            self.members.iter().map(|(id, m)| (*id, m.state.group)).collect();
        if !members.is_empty() {
            let left = self.change(|connection, now| {
                members
                    .iter()
                    .try_for_each(|(id, group)| take_over(connection, *group, *id, true, now))
            });
            if let Err(error) = left {
                // The others find it dead.
                tracing::warn!(%error, "a session could not give back what it holds");
            }
        }
        for member in std::mem::take(&mut self.members).into_values() {
            member.state.fail(session_closed());
        }
        self.waits.drain(..).for_each(|wait| drop(wait.done.send(Err(session_closed()))));
    }
}
