//! The broker in memory: its state behind one lock, and the sessions that share it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};

use super::state::State;
use super::{MemoryOptions, WAIT_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::time::Timestamp;
use crate::transport::SessionEvent;

/// Everything that the sessions of one bus share.
pub(super) struct Broker {
    pub(super) options: MemoryOptions,
    /// Whether somebody holds the handle that can end sessions.
    pub(super) faults: AtomicBool,
    state: Mutex<State>,
}

/// Both times of one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) monotonic: Duration,
}

impl Broker {
    pub(super) fn new(options: MemoryOptions) -> Self {
        let state = Mutex::new(State::new(&options));
        Self { options, faults: AtomicBool::new(false), state }
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: self.options.clock.now(), monotonic: self.options.clock.monotonic() }
    }

    /// The state at this moment: groups that expired meanwhile are gone.
    pub(super) fn lock(&self) -> (MutexGuard<'_, State>, Now) {
        let now = self.now();
        // A panic between two changes cannot happen: nothing in there calls out.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(now);
        (state, now)
    }

    /// Ends a session; what it holds comes again.
    pub(super) fn end(&self, line: &Line, why: Error) {
        let (mut state, now) = self.lock();
        state.end_session(line.epoch, why, now);
    }

    /// Does what has fallen due in a group.
    pub(super) fn tick(&self, group: u64) {
        let (mut state, now) = self.lock();
        state.tick(group, now);
    }

    /// Sleeps until a moment of the monotonic clock, but no longer than some long time; without
    /// a moment for ever.
    pub(super) async fn sleep_until(&self, due: Option<Duration>) {
        let clock = &self.options.clock;
        match due {
            Some(due) => {
                let bound = clock.monotonic().saturating_add(WAIT_MAX);
                clock.sleep_until(due.min(bound)).await;
            }
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

/// A session as everything that came out of it sees it: alive, or ended and why.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) epoch: u64,
    /// One permit for each message that may be accepted and not receipted.
    pub(super) window: Arc<Semaphore>,
    ended: OnceLock<Error>,
    over: watch::Sender<bool>,
    events: Mutex<VecDeque<SessionEvent>>,
    bell: Notify,
}

/// The most events that wait for somebody who does not ask; the oldest go.
const EVENTS_MAX: usize = 64;

impl Line {
    pub(super) fn new(epoch: u64, window: usize) -> Self {
        Self {
            epoch,
            window: Arc::new(Semaphore::new(window)),
            ended: OnceLock::new(),
            over: watch::Sender::new(false),
            events: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Fails with what ended it.
    pub(super) fn check(&self) -> Result<()> {
        self.ended.get().map_or(Ok(()), |why| Err(why.clone()))
    }

    /// What ended it, for who knows that it has ended.
    pub(super) fn error(&self) -> Error {
        self.ended
            .get()
            .cloned()
            .unwrap_or_else(|| Error::new(ErrorKind::Disconnected, "the session has ended"))
    }

    /// Resolves when it has ended.
    pub(super) async fn over(&self) {
        // The sender lives as long as this does.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    pub(super) fn end(&self, why: Error) {
        // The first reason stays.
        let _ = self.ended.set(why);
        self.window.close();
        self.over.send_replace(true);
        self.bell.notify_one();
    }

    pub(super) fn tell(&self, event: SessionEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
        drop(events);
        self.bell.notify_one();
    }

    /// The next event; once it has ended, that again and again.
    pub(super) async fn next_event(&self) -> SessionEvent {
        loop {
            let told = self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(event) = told {
                return event;
            }
            if let Some(why) = self.ended.get() {
                return SessionEvent::Ended(why.clone());
            }
            self.bell.notified().await;
        }
    }
}
