//! The signals that end a program: the first asks a service to stop, the second to wait for nothing.

use busline::service::Stopper;
use tokio::sync::watch;

use super::output;

/// How often it was asked to end. Hears from the moment it is made, on a thread of its own: whatever the
/// program does, the signal is seen.
#[derive(Debug, Clone)]
pub(crate) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// From here on the signals no longer kill the process; the first thing that a program does.
    #[cfg(unix)]
    pub(crate) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        let [mut terminate, mut interrupt, mut hangup] = {
            let _inside = runtime.enter();
            kinds.map(|kind| signal(kind).expect("signals can be listened to"))
        };
        let (asked, count) = watch::channel(0);
        let hearing = async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hangup.recv() => {}
                }
                output::give_up();
                asked.send_modify(|count| *count += 1);
            }
        };
        std::thread::spawn(move || runtime.block_on(hearing));
        Self(count)
    }

    #[cfg(not(unix))]
    pub(crate) fn listen() -> Self {
        let (asked, count) = watch::channel(0);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                output::give_up();
                asked.send_modify(|count| *count += 1);
            }
        });
        Self(count)
    }

    /// Whether it was asked to end.
    pub(crate) fn came(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Resolves when it is asked to end.
    pub(crate) async fn asked(mut self) {
        self.reach(1).await;
    }

    /// Stops a service at each of them; before the first stop it does this, unless another one comes.
    pub(crate) async fn stop(mut self, stopper: Stopper, first: impl Future<Output = ()>) {
        self.reach(1).await;
        let is_urgent = tokio::select! {
            () = first => false,
            () = self.reach(2) => true,
        };
        stopper.stop();
        if !is_urgent {
            self.reach(2).await;
        }
        stopper.stop();
    }

    async fn reach(&mut self, least: u32) {
        if self.0.wait_for(|count| *count >= least).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
