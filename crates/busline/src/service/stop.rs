//! Stopping: from code, by a signal, and the second time for good.

use busline_core::Result;
use tokio::sync::watch;

/// Stops a service, from anywhere and in every state. Clones stop the same one.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<Phase>);

/// How far stopping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// What is in progress is finished.
    Stopping,
    /// It is finished: the bus is closed.
    Finished,
    /// Nothing is waited for any more.
    Ending,
}

impl Stopper {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    /// Asks for a clean stop: no new message is taken, handlers finish, everything is settled. Asked
    /// again it waits for nothing any more: what is not settled comes again.
    pub fn stop(&self) {
        self.0.send_modify(|phase| {
            *phase = if *phase == Phase::Running { Phase::Stopping } else { Phase::Ending };
        });
    }

    /// Whether it was asked.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() >= Phase::Stopping
    }

    /// Resolves when it is asked. Cancel safe.
    pub async fn stopping(&self) {
        self.reach(Phase::Stopping).await;
    }

    /// Asks for it when the future is ready; never resolves.
    pub(super) async fn stop_after(&self, until: impl Future<Output = ()>) {
        until.await;
        self.stop();
        std::future::pending().await
    }

    /// Everything in progress has ended.
    pub(crate) fn finish(&self) {
        self.0.send_modify(|phase| *phase = Phase::Finished.max(*phase));
    }

    /// Resolves when everything in progress has ended. Cancel safe.
    pub(crate) async fn finished(&self) {
        self.reach(Phase::Finished).await;
    }

    /// As if it was asked once more after that: nothing is waited for.
    pub(crate) fn end(&self) {
        self.0.send_replace(Phase::Ending);
    }

    /// Resolves when nothing is to be waited for any more. Cancel safe.
    pub(crate) async fn ending(&self) {
        self.reach(Phase::Ending).await;
    }

    async fn reach(&self, least: Phase) {
        // The sender is here: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|phase| *phase >= least).await;
    }
}

/// The signals that end a program: SIGHUP, SIGTERM and SIGINT.
#[cfg(unix)]
pub(crate) struct Signals([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Signals {
    /// From here on they no longer kill the process.
    pub(crate) fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind).map_err(|cause| {
                busline_core::Error::new(
                    busline_core::ErrorKind::Other,
                    "the signals cannot be listened to",
                )
                .source(cause)
            })
        };
        Ok(Self([
            listen(SignalKind::hangup())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
        ]))
    }

    /// Stops the service at each signal; never resolves.
    pub(crate) async fn stop(mut self, stopper: &Stopper) {
        loop {
            let [hangup, terminate, interrupt] = &mut self.0;
            tokio::select! {
                _ = hangup.recv() => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopper.stop();
        }
    }
}

/// Where there are no such signals, only code stops a service.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn stop(self, _: &Stopper) {
        std::future::pending::<()>().await;
    }
}
