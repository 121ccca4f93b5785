//! Signals: the first asks to finish, the second or a wait too long ends the program.

use std::io;
use std::time::Duration;

use tokio::sync::watch;

/// How long finishing may take before the program ends without it.
const GRACE: Duration = Duration::from_secs(15);

/// What asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// Whether a signal asked to stop. Clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Signal>>);

impl Stop {
    /// Resolves when a signal came. Cancel safe.
    pub(crate) async fn requested(&mut self) {
        if self.0.wait_for(Option::is_some).await.is_err() {
            // Nobody listens for signals any more: none will come.
            std::future::pending::<()>().await;
        }
    }

    /// The signal that came.
    pub(crate) fn signal(&self) -> Option<Signal> {
        *self.0.borrow()
    }

    /// Whether a signal came.
    pub(crate) fn is_requested(&self) -> bool {
        self.signal().is_some()
    }
}

/// Starts to listen. A file size limit becomes an error of the write instead of a signal.
pub(crate) fn listen() -> io::Result<Stop> {
    let (sender, receiver) = watch::channel(None);
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        let first = signals.next().await;
        sender.send_replace(Some(first));
        // Also when the main thread is blocked, as on a pipe that nobody reads.
        tokio::select! {
            second = signals.next() => crate::exit::at_once(second),
            () = tokio::time::sleep(GRACE) => crate::exit::at_once(first),
        }
    });
    Ok(Stop(receiver))
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    _file_size: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        /// SIGXFSZ: once it is handled, a write beyond the limit fails with EFBIG.
        const FILE_SIZE_EXCEEDED: i32 = 25;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE_EXCEEDED))?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.terminate.recv() => Signal::Terminate,
            else => std::future::pending().await,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[allow(clippy::unnecessary_wraps, reason = "as on Unix")]
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::Interrupt,
            Err(_) => std::future::pending().await,
        }
    }
}
