//! The thread of a session on the table.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use busline_core::receipt::ReceiptSender;
use busline_core::{Clock, Error, ErrorKind, Message, PublishError, Receipt, Result, Timestamp};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::super::config::SqliteConfig;
use super::super::error::{check_process, of_sqlite, session_closed};
use super::super::hub::Seat;
use super::super::publish::Permit;
use super::table::{self, Table, offset_of};

/// The most events of one transaction, so that Hermes is never kept waiting.
const ROUND_EVENTS: usize = 256;
const ROUND_BYTES: usize = 1 << 20;
/// How often it is looked whether another file has taken the place of ours.
const CHECK_FILE: Duration = Duration::from_secs(1);
/// How often what is too old is removed.
const PURGE: Duration = Duration::from_secs(600);

pub(super) enum Job {
    Publish(VecDeque<PublishJob>),
    /// Somebody in this process has written.
    Look,
    Call(Box<dyn FnOnce(&mut Worker) + Send>),
    Close(oneshot::Sender<()>),
}

/// A message to store, which was checked.
pub(super) struct PublishJob {
    pub(super) message: Message,
    pub(super) receipt: ReceiptSender,
    /// Given back with the receipt.
    pub(super) _permit: Permit,
}

/// The session's side of the table.
pub(super) struct Worker {
    pub(super) table: Table,
    pub(super) clock: Arc<dyn Clock>,
    poll: Duration,
    seat: Seat,
    rung: Arc<AtomicBool>,
    publishes: VecDeque<PublishJob>,
    waits: Vec<Wait>,
    version: Option<i64>,
    checked_at: Duration,
    age_max: Option<Duration>,
    purged_at: Duration,
}

/// A reader at the end: it waits for a row from `next` on, or for any while it knows none.
struct Wait {
    next: Option<i64>,
    done: oneshot::Sender<Result<()>>,
}

/// Starts the thread of a session; what is sent to it is done in that order.
pub(super) fn start(
    config: &SqliteConfig,
    path: &Path,
    clock: &Arc<dyn Clock>,
    writes: bool,
) -> Result<(Sender<Job>, oneshot::Receiver<()>)> {
    let table = Table::open(config, path, writes)?;
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
        table,
        clock: Arc::clone(clock),
        poll: config.poll,
        seat: Seat::take(path, bell),
        rung,
        publishes: VecDeque::new(),
        waits: Vec::new(),
        version: None,
        checked_at: Duration::ZERO,
        age_max: None,
        purged_at: Duration::ZERO,
    };
    let (ended, over) = oneshot::channel();
    let run = move || {
        worker.run(&jobs);
        drop(ended);
    };
    let thread = std::thread::Builder::new().name("busline-hermes".to_owned()).spawn(run);
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
            let first = if self.waits.is_empty() {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(self.poll)
            };
            let mut next = match first {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut look = false;
            while let Some(job) = next {
                match job {
                    Job::Publish(mut jobs) => self.publishes.append(&mut jobs),
                    Job::Look => {
                        self.rung.store(false, Ordering::Release);
                        look = true;
                    }
                    Job::Call(call) => {
                        self.write();
                        call(&mut self);
                    }
                    Job::Close(done) => {
                        self.write();
                        self.answer_waits(&Err(session_closed()));
                        drop(self);
                        // Who closed may have given up waiting.
                        let _ = done.send(());
                        return;
                    }
                }
                next =
                    if self.publishes.len() < ROUND_EVENTS { jobs.try_recv().ok() } else { None };
            }
            look |= self.write();
            self.tick(look);
        }
    }

    /// Answers `done` when there is a row from `next` on.
    pub(super) fn wait(&mut self, next: Option<i64>, done: oneshot::Sender<Result<()>>) {
        // What came between the last look and now is seen by the next one.
        self.version = None;
        self.waits.push(Wait { next, done });
    }

    /// From now on rows older than this are removed now and then.
    pub(super) fn keep_for(&mut self, age: Duration) -> Result<()> {
        self.age_max = Some(age);
        self.purge()
    }

    fn purge(&mut self) -> Result<()> {
        let Some(age) = self.age_max else { return Ok(()) };
        self.purged_at = self.clock.monotonic();
        let us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let oldest = Timestamp::from_unix_us(self.clock.now().unix_us().saturating_sub(us));
        table::purge(self.table.writer()?, oldest)
    }

    fn tick(&mut self, look: bool) {
        self.waits.retain(|wait| !wait.done.is_closed());
        if self.waits.is_empty() {
            return;
        }
        let changed =
            self.changed(look).and_then(|changed| if changed { self.look() } else { Ok(()) });
        match changed {
            Ok(()) => {}
            // Somebody has it locked, as for a VACUUM: it is looked again soon.
            Err(error) if error.is_temporary() => {
                tracing::debug!(%error, "the bus cannot be looked at")
            }
            Err(error) => self.answer_waits(&Err(error)),
        }
    }

    fn changed(&mut self, look: bool) -> Result<bool> {
        let now = self.clock.monotonic();
        if now.saturating_sub(self.checked_at) >= CHECK_FILE {
            self.checked_at = now;
            self.table.check_file()?;
        }
        let version = self.table.data_version()?;
        let is_new = version.is_some() && version != self.version;
        self.version = version;
        Ok(is_new || look)
    }

    fn look(&mut self) -> Result<()> {
        let Some(bounds) = self.table.bounds()? else { return Ok(()) };
        for wait in std::mem::take(&mut self.waits) {
            if wait.next.is_none_or(|next| bounds.end > next) {
                // Who waited may have given up.
                let _ = wait.done.send(Ok(()));
            } else {
                self.waits.push(wait);
            }
        }
        Ok(())
    }

    fn answer_waits(&mut self, answer: &Result<()>) {
        for wait in self.waits.drain(..) {
            // Who waited may have given up.
            let _ = wait.done.send(answer.clone());
        }
    }

    /// Writes everything that was taken; says whether that was anything.
    fn write(&mut self) -> bool {
        let some = !self.publishes.is_empty();
        while !self.publishes.is_empty() {
            self.write_once();
        }
        some
    }

    fn write_once(&mut self) {
        if self.age_max.is_some()
            && self.clock.monotonic().saturating_sub(self.purged_at) >= PURGE
            && let Err(error) = self.purge()
        {
            tracing::warn!(%error, "what is too old cannot be removed");
        }
        let mut bytes = 0;
        let fits = |job: &&PublishJob| {
            let is_first = bytes == 0;
            bytes += job.message.payload.len() + 1;
            is_first || bytes <= ROUND_BYTES
        };
        let count = self.publishes.iter().take(ROUND_EVENTS).take_while(fits).count();
        let jobs: Vec<PublishJob> = self.publishes.drain(..count).collect();
        let now = self.clock.now();
        match self.store(&jobs, now) {
            Ok(numbers) => {
                self.seat.ring();
                for (job, number) in jobs.into_iter().zip(numbers) {
                    job.receipt.send(Ok(Receipt::Stored { offset: Some(offset_of(number)) }));
                }
            }
            Err((error, is_uncertain)) => {
                tracing::warn!(%error, "a transaction failed");
                for job in jobs {
                    let why = error.clone();
                    job.receipt.send(Err(match is_uncertain {
                        true => PublishError::Unknown(why),
                        false => PublishError::Nacked(why),
                    }));
                }
            }
        }
    }

    /// One transaction; what it came to, or why it did not and whether that is certain.
    fn store(&mut self, jobs: &[PublishJob], now: Timestamp) -> Result<Vec<i64>, (Error, bool)> {
        let certain = |error: Error| (error, false);
        let connection = self.table.writer().map_err(certain)?;
        let execute = |sql: &str| connection.execute_batch(sql).map_err(of_sqlite);
        execute("BEGIN IMMEDIATE").map_err(certain)?;
        let insert = |job: &PublishJob| {
            let text = std::str::from_utf8(&job.message.payload);
            let text = text.map_err(|_| Error::new(ErrorKind::Limit, "the payload is no text"))?;
            table::insert(connection, text, job.message.properties.timestamp.unwrap_or(now))
        };
        let numbers: Result<Vec<i64>> = jobs.iter().map(insert).collect();
        let committed = numbers.map_err(certain).and_then(|numbers| {
            let committed = execute("COMMIT").map(|()| numbers);
            committed.map_err(|error| {
                let is_certain = matches!(error.kind(), ErrorKind::Full | ErrorKind::Elapsed);
                (error, !is_certain)
            })
        });
        if committed.is_err() && !connection.is_autocommit() {
            // An event that is reported as not sent must not be committed later.
            let _ = execute("ROLLBACK");
        }
        committed
    }
}
