//! A runtime on a thread of its own, for callers without async.

use std::future::Future;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use busline_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// Runs futures for threads that wait for them. Dropping it ends its thread.
pub(crate) struct Worker {
    /// What it works for, in messages.
    what: &'static str,
    runtime: tokio::runtime::Handle,
    thread: Mutex<Option<Thread>>,
    /// The process that has the thread.
    process: u32,
}

struct Thread {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread; `Refused` inside of async code.
    pub(crate) fn start(what: &'static str) -> Result<Self> {
        not_async(what)?;
        let (runtime, thread) = start()?;
        let (thread, process) = (Mutex::new(Some(thread)), std::process::id());
        Ok(Self { what, runtime, thread, process })
    }

    /// Runs something on the thread and waits for it; `Refused` in async code, `Closed` in a forked
    /// process and after [`Worker::stop`].
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        not_async(self.what)?;
        if self.process != std::process::id() {
            let why = format!("the {} belongs to the parent process", self.what);
            return Err(Error::new(ErrorKind::Closed, why).hint("open another one after the fork"));
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            // Who waits does not go away.
            let _ = sender.send(work.await);
        });
        receiver.recv().map_err(|_| self.is_closed())
    }

    /// Ends the thread; `Closed` when it has ended before.
    pub(crate) fn stop(&self) -> Result<()> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Thread { stop, ended }) = thread else { return Err(self.is_closed()) };
        // It listens until it is told.
        let _ = stop.send(());
        let panicked = format!("the {}'s thread has panicked", self.what);
        ended.join().map_err(|_| Error::new(ErrorKind::Other, panicked))
    }

    fn is_closed(&self) -> Error {
        Error::new(ErrorKind::Closed, format!("the {} is closed", self.what))
    }
}

/// A runtime on a thread of its own, which ends when its sender is dropped or used.
fn start() -> Result<(tokio::runtime::Handle, Thread)> {
    let failed = |cause| Error::new(ErrorKind::Other, "a runtime cannot be started").source(cause);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = std::thread::Builder::new()
        .name("busline-blocking".to_owned())
        .spawn(move || {
            // Told or dropped, it ends.
            let _ = runtime.block_on(stopped);
        })
        .map_err(failed)?;
    Ok((handle, Thread { stop, ended }))
}

fn not_async(what: &str) -> Result<()> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Ok(());
    }
    Err(Error::refused(
        &format!("blocking {what}"),
        "async code",
        "use what is async and await, or a thread of your own",
    ))
}
