//! The rig of a broken transport, and what its parts share.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busline_core::conformance::{Harness, Rig};
use busline_core::delivery::Settler;
use busline_core::memory::{MemoryOptions, MemoryTransport};
use busline_core::receipt::ReceiptSender;
use busline_core::transport::{
    Connect, DeleteIf, GroupInfo, GroupSpec, OnDifference, Retention, Role, Session, Subscription,
    TopicSpec, Topology, Transport,
};
use busline_core::{
    Capabilities, Capability, Clock, Delivery, Durability, Error, ErrorKind, Limits, ManualClock,
    Message, Offset, Outcome, Patterns, Position, Result, Support, Timestamp,
};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::flaw::Flaw;
use super::session::BrokenSession;

/// The memory transport with a flaw, or with none.
pub(crate) struct Broken {
    pub(crate) flaw: Option<Flaw>,
}

/// What all sessions on a broken bus share.
pub(super) struct Shared {
    flaw: Option<Flaw>,
    pub(super) memory: MemoryTransport,
    pub(super) clock: ManualClock,
    notes: Mutex<Notes>,
}

/// What flaws keep in mind.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) counter: u32,
    pub(super) reopened: bool,
    pub(super) stopped: bool,
    pub(super) deleted: bool,
    pub(super) held_back: Vec<Message>,
    pub(super) unanswered: Vec<(ReceiptSender, Message)>,
    pub(super) graveyard: Vec<Arc<dyn Session>>,
    pub(super) streams: Vec<Box<dyn Subscription>>,
    pub(super) hoard: Vec<Delivery>,
    pub(super) settlers: Vec<(Option<Offset>, Settler)>,
    pub(super) specs: Vec<GroupSpec>,
    pub(super) place: Option<Offset>,
}

impl Shared {
    pub(super) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub(super) fn has_any(&self, flaws: &[Flaw]) -> bool {
        self.flaw.is_some_and(|flaw| flaws.contains(&flaw))
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sound session, for what a flaw does behind everybody's back. Nothing of it ever waits.
    pub(super) fn backdoor(&self) -> Result<Arc<dyn Session>> {
        now(self.memory.connect(Connect::new(Role::Consume)))
    }

    pub(super) fn groups(&self) -> Vec<GroupInfo> {
        let Ok(session) = self.backdoor() else { return Vec::new() };
        session.admin().and_then(|admin| now(admin.groups(None)).ok()).unwrap_or_default()
    }

    pub(super) fn purge(&self, which: impl Fn(&GroupInfo) -> bool) {
        self.each_group(which, |_| Some(Position::Latest));
    }

    /// Moves groups behind everybody's back.
    pub(super) fn each_group(
        &self,
        which: impl Fn(&GroupInfo) -> bool,
        to: impl Fn(&GroupInfo) -> Option<Position>,
    ) {
        let Ok(session) = self.backdoor() else { return };
        let Some(admin) = session.admin() else { return };
        for group in self.groups().iter().filter(|group| which(group)) {
            if let Some(to) = to(group) {
                drop(now(admin.reset_group(&group.topic, &group.group, &to)));
            }
        }
    }

    fn delete_groups(&self) -> Result<()> {
        let session = self.backdoor()?;
        let Some(admin) = session.admin() else { return Ok(()) };
        for group in self.groups() {
            now(admin.delete_group(&group.topic, &group.group, DeleteIf::default()))?;
        }
        Ok(())
    }

    pub(super) fn memory_limits(&self) -> Limits {
        self.memory.capabilities().limits
    }

    pub(super) fn capabilities(&self, mut sound: Capabilities) -> Capabilities {
        match self.flaw {
            Some(Flaw::WorksThoughRefused) => {
                sound.set(Capability::Replay, Support::Refused("it works all the same"))
            }
            Some(Flaw::ForgetsEverything) => {
                sound.durability = Durability::Process;
                sound
            }
            _ => sound,
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("flaw", &self.flaw).finish_non_exhaustive()
    }
}

/// The result of something on the memory transport that never waits.
pub(super) fn now<T>(future: BoxFuture<'_, Result<T>>) -> Result<T> {
    let waited = || Err(Error::new(ErrorKind::Other, "it waited"));
    future.now_or_never().unwrap_or_else(waited)
}

impl Harness for Broken {
    fn name(&self) -> String {
        format!("memory with the flaw {:?}", self.flaw)
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let rig: Box<dyn Rig> = Box::new(BrokenRig(fresh(self.flaw)));
        Box::pin(ready(Ok(rig)))
    }
}

fn fresh(flaw: Option<Flaw>) -> Arc<Shared> {
    let clock = ManualClock::new(Timestamp::from_unix_ms(1_517_963_499_650));
    let memory = MemoryTransport::with_options(MemoryOptions {
        clock: Arc::new(clock.clone()),
        deduplicate_max: 1000,
        ..MemoryOptions::default()
    });
    // From here on it may disconnect.
    let _ = memory.broker();
    Arc::new(Shared { flaw, memory, clock, notes: Mutex::default() })
}

struct BrokenRig(Arc<Shared>);

impl Rig for BrokenRig {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(BrokenTransport(Arc::clone(&self.0)))
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.0.clock.clone())
    }

    fn advance(&self, by: Duration) {
        self.0.clock.advance(by);
        if self.0.has(Flaw::ExpiresInUse) {
            drop(self.0.delete_groups());
        }
    }

    fn stop_broker(&self) -> BoxFuture<'_, Result<()>> {
        self.0.notes().stopped = true;
        self.0.memory.broker().refuse_connects(true);
        self.0.memory.broker().restart();
        Box::pin(ready(Ok(())))
    }

    fn start_broker(&self) -> BoxFuture<'_, Result<()>> {
        self.0.memory.broker().refuse_connects(false);
        Box::pin(ready(Ok(())))
    }

    fn restart_broker(&self) -> BoxFuture<'_, Result<()>> {
        if self.0.has(Flaw::RestartSettles) {
            let settlers = std::mem::take(&mut self.0.notes().settlers);
            for (_, settler) in settlers {
                settler.queue.settle(settler.tag, Outcome::Ack, None);
            }
        }
        self.0.memory.broker().restart();
        if self.0.has(Flaw::RestartReplays) {
            self.0.each_group(|_| true, |_| Some(Position::Earliest));
        }
        Box::pin(ready(Ok(())))
    }

    fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
        self.0.memory.broker().restart();
        self.0.notes().reopened = true;
        Box::pin(ready(self.reopen_with_flaw()))
    }

    fn patience(&self) -> Duration {
        // A flaw may be noticed by waiting in vain; without one nothing is waited for in vain.
        if self.0.flaw.is_some() { Duration::from_millis(300) } else { Duration::from_secs(20) }
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(3)
    }
}

impl BrokenRig {
    fn reopen_with_flaw(&mut self) -> Result<()> {
        let shared = &self.0;
        match shared.flaw {
            Some(Flaw::ForgetsEverything) => self.0 = fresh(shared.flaw),
            Some(Flaw::ForgetsGroups) => shared.delete_groups()?,
            Some(Flaw::SettlesAtReopen) => shared.purge(|_| true),
            Some(Flaw::RemembersOneNumber) => {
                shared.each_group(|_| true, |group| group.floor.clone().map(Position::Offset));
            }
            Some(Flaw::ReopensAtEarliest) => {
                shared.each_group(|_| true, |_| Some(Position::Earliest));
            }
            Some(Flaw::ForgetsPatterns) => {
                let (patterns, on_difference) = (Patterns::all(), OnDifference::Replace);
                let all = |spec| GroupSpec { patterns: patterns.clone(), on_difference, ..spec };
                let groups = std::mem::take(&mut shared.notes().specs);
                let groups = groups.into_iter().map(all).collect();
                let topology = Topology { groups, ..Topology::default() };
                now(shared.backdoor()?.declare(&topology))?;
            }
            Some(Flaw::ForgetsHistory) => {
                let bytes_max = Some(0);
                let none = Retention { bytes_max, ignore_groups: true, age_max: None };
                let spec = |group: GroupInfo| TopicSpec {
                    retention: Some(none),
                    ..TopicSpec::new(group.topic)
                };
                let topics = shared.groups().into_iter().map(spec).collect();
                let topology = Topology { topics, ..Topology::default() };
                now(shared.backdoor()?.declare(&topology))?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[derive(Debug)]
struct BrokenTransport(Arc<Shared>);

impl Transport for BrokenTransport {
    fn capabilities(&self) -> Capabilities {
        let sound = self.0.capabilities(self.0.memory.capabilities());
        if self.0.has(Flaw::PromisesMore) {
            return Capabilities::none("none", sound.durability, sound.limits);
        }
        sound
    }

    fn connect(&self, mut connect: Connect) -> BoxFuture<'_, Result<Arc<dyn Session>>> {
        Box::pin(async move {
            if self.0.has(Flaw::ForgetsWhoConnects) {
                connect.instance = Connect::new(connect.role).instance;
            }
            let given_up = match connect.role {
                Role::Publish => self.0.has(Flaw::PublishersGiveUp),
                Role::Consume => self.0.has(Flaw::ConsumersGiveUp),
            };
            if given_up && self.0.notes().stopped {
                return Err(Error::new(ErrorKind::Other, "it did not answer"));
            }
            let inner = self.0.memory.connect(connect).await?;
            let session: Arc<dyn Session> =
                Arc::new(BrokenSession::new(inner, Arc::clone(&self.0)));
            Ok(session)
        })
    }
}

impl fmt::Display for BrokenTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken:{:?}", self.0.flaw)
    }
}
