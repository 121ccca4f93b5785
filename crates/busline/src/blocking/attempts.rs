//! When what failed is tried again: at once, then after one second, two, and so on.

use std::time::Duration;

use busline_core::{Clock, Error, ErrorKind, Result};

/// No wait is longer.
const WAIT_S_MAX: u32 = 30;

/// How often something was tried.
#[derive(Debug)]
pub(super) struct Attempts {
    max: Option<u32>,
    failed: u32,
}

impl Attempts {
    /// At most so many in all, or as many as it takes.
    pub(super) fn new(max: Option<u32>) -> Result<Self> {
        if max == Some(0) {
            return Err(Error::new(ErrorKind::Limit, "no attempt at all is allowed")
                .hint("allow one or more, or None for any number"));
        }
        Ok(Self { max, failed: 0 })
    }

    /// After an attempt that failed: waits until the next is due. Fails with the error when it is not one of
    /// those that pass, or when this was the last attempt.
    pub(super) async fn failed(&mut self, clock: &dyn Clock, error: Error) -> Result<()> {
        if !error.is_temporary() {
            return Err(error);
        }
        let wait_s = self.failed.min(WAIT_S_MAX);
        self.failed = self.failed.saturating_add(1);
        if self.max.is_some_and(|max| self.failed >= max) {
            return Err(error.context("attempts", self.failed));
        }
        tracing::warn!(%error, attempt = self.failed, "a blocking publish has failed, trying again");
        clock.sleep(Duration::from_secs(wait_s.into())).await;
        Ok(())
    }
}
