//! Things to do later.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::context::Context;
use super::dispatch;

/// Something to be done later. Dropping the handle leaves it to be done; a panic in it is logged and
/// does no other harm.
#[derive(Debug, Clone)]
pub struct Timer(watch::Sender<bool>);

impl Timer {
    pub(crate) fn after<F, Fut>(context: Context, wait: Duration, run: F) -> Self
    where
        F: FnOnce(Context) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (timer, cancelled) = Self::new();
        let core = std::sync::Arc::clone(context.core());
        core.spawn(async move {
            if wait_for(&context, wait, cancelled).await {
                contained(&context, || run(context.clone())).await;
            }
        });
        timer
    }

    pub(crate) fn every<F, Fut>(context: Context, pause: Duration, mut run: F) -> Self
    where
        F: FnMut(Context) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (timer, cancelled) = Self::new();
        let core = std::sync::Arc::clone(context.core());
        core.spawn(async move {
            while wait_for(&context, pause, cancelled.clone()).await {
                contained(&context, || run(context.clone())).await;
            }
        });
        timer
    }

    /// It is not done any more; what has begun goes on.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    fn new() -> (Self, watch::Receiver<bool>) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), receiver)
    }
}

/// Whether the time passed without anybody ending it.
async fn wait_for(context: &Context, wait: Duration, mut cancelled: watch::Receiver<bool>) -> bool {
    let core = context.core();
    let cancelled = async {
        // A handle that was dropped cannot cancel.
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = core.stopper.stopping() => false,
        () = cancelled => false,
        () = core.clock().sleep(wait) => true,
    }
}

async fn contained<Fut: Future<Output = ()>>(context: &Context, run: impl FnOnce() -> Fut) {
    let running = async { run().await };
    let done = tokio::select! {
        done = AssertUnwindSafe(running).catch_unwind() => done,
        () = context.core().stopper.ending() => return,
    };
    if let Err(panic) = done {
        dispatch::failed(context, "a timer", &dispatch::panicked(&*panic));
    }
}
