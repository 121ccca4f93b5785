//! Why a session or a subscription is over, for all who wait on it.

use busline_core::{Error, ErrorKind, Result};
use tokio::sync::watch;

/// Why a session is over; the first reason stays.
#[derive(Debug, Clone)]
pub(crate) struct Ended(watch::Sender<Option<Error>>);

impl Ended {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Ends it, unless it has ended.
    pub(crate) fn end(&self, why: Error) {
        self.0.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why);
            }
            first
        });
    }

    pub(crate) fn get(&self) -> Option<Error> {
        self.0.borrow().clone()
    }

    /// Fails when it has ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.get().map_or(Ok(()), Err)
    }

    /// Resolves when it has ended. Cancel safe.
    pub(crate) async fn wait(&self) -> Error {
        let mut ended = self.0.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }
}

/// The error of a session that is over.
pub(crate) fn gone() -> Error {
    Error::new(ErrorKind::Disconnected, "the session has ended")
}
