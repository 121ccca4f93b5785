//! Connecting: one transport after the other, with pauses, as long as it may help.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use futures_util::FutureExt;

use super::{Link, closed};
use crate::backoff::Backoff;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{Connect, Dialect, Role, Session, SessionEvent, Topology};

impl Link {
    /// One step in the list of transports for each attempt, whether the one before failed or worked; while the other
    /// session lives, none, or one would publish where nobody hears of it.
    pub(super) async fn connect(&self, role: Role) -> Result<Arc<dyn Session>> {
        let options = &self.0.options;
        let transports = self.0.transports.len();
        let one_by_one = match transports {
            1 => None,
            _ => Some(self.0.connecting.lock().await),
        };
        let started = self.clock().monotonic();
        // Peers of that dialect expect its law.
        let law = match options.dialect {
            Dialect::Eventail => Backoff::SECONDS,
            _ => options.backoff,
        };
        let (mut waits, mut tried) = (law.waits(), 0);
        loop {
            let first = !self.0.connected_before.load(Ordering::Relaxed);
            let moves = transports > 1 && !self.other_lives(role);
            if moves {
                let next = self.0.next.fetch_add(1, Ordering::Relaxed);
                self.0.current.store(next % transports, Ordering::Relaxed);
            }
            let error = match self.connect_in_time(role, first).await {
                Ok(session) => {
                    self.opened()[role as usize] = Some(Arc::downgrade(&session));
                    drop(one_by_one);
                    return Ok(session);
                }
                Err(error) => error.during("connect"),
            };
            if !error.is_temporary() {
                return Err(error);
            }
            let is_over = self.clock().monotonic() - started >= options.first_connect_max;
            if first && (options.first_connect_once || is_over) {
                return Err(error);
            }
            // The task that connects is the last to have the link.
            if self.is_closed() || Arc::strong_count(&self.0) == 1 {
                return Err(closed());
            }
            tracing::warn!(%error, "cannot connect, trying again");
            tried += 1;
            // Every transport once, then a wait; in that dialect one after each.
            if !moves || options.dialect == Dialect::Eventail || tried % transports == 0 {
                self.pause(&mut waits).await;
            }
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, [Option<Weak<dyn Session>>; 2]> {
        self.0.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the session of the other role is there, and has not ended, as far as is known.
    fn other_lives(&self, role: Role) -> bool {
        let other = match role {
            Role::Publish => Role::Consume,
            Role::Consume => Role::Publish,
        };
        let other = self.opened()[other as usize].as_ref().and_then(Weak::upgrade);
        other.is_some_and(|other| {
            !matches!(other.next_event().now_or_never(), Some(SessionEvent::Ended(_)))
        })
    }

    /// One attempt. Of the first connect each transport gets its share of the time, so that one
    /// that never answers does not keep the others from being tried.
    async fn connect_in_time(&self, role: Role, first: bool) -> Result<Arc<dyn Session>> {
        if !first {
            return self.connect_once(role).await;
        }
        let transports = u32::try_from(self.0.transports.len()).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            session = self.connect_once(role) => session,
            () = self.clock().sleep(self.0.options.first_connect_max / transports) => {
                Err(Error::new(ErrorKind::Disconnected, "the bus does not answer")
                    .context("bus", self.transport()))
            }
        }
    }

    async fn connect_once(&self, role: Role) -> Result<Arc<dyn Session>> {
        let options = &self.0.options;
        let connect = Connect {
            role,
            dialect: options.dialect,
            client_name: options.client_name.clone(),
            instance: self.0.instance.clone(),
        };
        let session = self.transport().connect(connect).await?;
        let known = self.known().topologies();
        for topology in &known {
            match session.declare(topology).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    declare_again(&*session, topology).await?;
                }
                declared => declared?,
            }
        }
        Ok(session)
    }
}

/// Declares again one by one. What somebody has changed since is left as it is, or one group would keep
/// everybody else from coming back; who cannot work with it is told when they bind to it.
async fn declare_again(session: &dyn Session, topology: &Topology) -> Result<()> {
    let mode = topology.mode;
    let topics = topology.topics.iter().map(|spec| Topology {
        mode,
        topics: vec![spec.clone()],
        groups: Vec::new(),
    });
    let groups = topology.groups.iter().map(|spec| Topology {
        mode,
        topics: Vec::new(),
        groups: vec![spec.clone()],
    });
    for one in topics.chain(groups) {
        match session.declare(&one).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tracing::warn!(%error, "what was declared has changed, it is left as it is");
            }
            declared => declared?,
        }
    }
    Ok(())
}
