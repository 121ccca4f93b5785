//! What a transport's tests implement: how to make a bus, restart its broker and kill its members.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::transport::{Session, Transport};

/// A profile under test: a transport, a broker and a dialect together.
pub trait Harness: Send + Sync {
    /// The profile's name, for the report.
    fn name(&self) -> String;

    /// A bus for one case, empty or with names of its own; it is cleaned up when it is dropped.
    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>>;
}

/// One bus, and what can be done to it from outside.
pub trait Rig: Send + Sync {
    /// A transport onto this bus, as one more process would open it.
    fn transport(&self) -> Arc<dyn Transport>;

    /// The clock that the transport goes by.
    fn clock(&self) -> Arc<dyn Clock> {
        SystemClock::shared()
    }

    /// Lets time pass, where the clock can be moved. Real time passes by itself while a case
    /// waits for what falls due, so there this does nothing.
    fn advance(&self, by: Duration) {
        let _ = by;
    }

    /// Stops the broker: every session ends, new ones fail with `Disconnected`, and what is stored
    /// stays. `Refused` where there is no broker, or none that can be stopped; the cases about it
    /// are skipped then.
    fn stop_broker(&self) -> BoxFuture<'_, Result<()>> {
        let way_out = "nothing can end its sessions";
        Box::pin(ready(Err(Error::refused("broker to stop", "this harness", way_out))))
    }

    /// Starts the broker after [`Rig::stop_broker`].
    fn start_broker(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    /// Restarts the broker; stops and starts it unless there is a quicker way.
    fn restart_broker(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.stop_broker().await?;
            self.start_broker().await
        })
    }

    /// Ends a session as the death of its process would: nothing is flushed or told.
    fn kill_member(&self, session: Arc<dyn Session>) -> BoxFuture<'_, Result<()>> {
        drop(session);
        Box::pin(ready(Ok(())))
    }

    /// Opens the bus again after every process of it has stopped. The sessions of before are gone.
    fn reopen(&mut self) -> BoxFuture<'_, Result<()>>;

    /// The longest wait for something that must come.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// How long nothing must come before it counts as not coming.
    fn grace(&self) -> Duration {
        Duration::from_millis(20)
    }
}
