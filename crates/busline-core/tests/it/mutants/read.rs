//! Broken readers.

use std::sync::Arc;

use busline_core::transport::Reader;
use busline_core::{Error, ErrorKind, Offset, Position, Record, Result};
use futures_util::future::{BoxFuture, pending};

use super::flaw::Flaw;
use super::rig::Shared;

#[derive(Debug)]
pub(super) struct BrokenReader {
    inner: Box<dyn Reader>,
    shared: Arc<Shared>,
    /// A wait began and did not end.
    waiting: bool,
    last: Option<Offset>,
}

impl BrokenReader {
    pub(super) fn new(inner: Box<dyn Reader>, shared: Arc<Shared>) -> Self {
        Self { inner, shared, waiting: false, last: None }
    }

    fn takes(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Limit
            && self.shared.has_any(&[Flaw::TakesForeignOffsets, Flaw::TakesOffsetsBeyond])
    }
}

impl Reader for BrokenReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(async move {
            let shared = Arc::clone(&self.shared);
            if shared.has(Flaw::ReadersShareAPlace) {
                let place = shared.notes().place.clone();
                if let Some(place) = place {
                    self.inner.seek(Position::Offset(place)).await?;
                }
            }
            let mut records = self.inner.next().await?;
            if shared.has(Flaw::ReadersShareAPlace) {
                shared.notes().place = self.inner.position();
            }
            if shared.has(Flaw::ReadingSettles) {
                shared.purge(|_| true);
            }
            if shared.has(Flaw::OffsetsStandStill) {
                let first = records.first().map(|record| record.offset.clone());
                for (record, first) in records.iter_mut().zip(first.into_iter().cycle()) {
                    record.offset = first;
                }
            }
            if shared.has(Flaw::ReadersOverlookTheEmptyKey) {
                records.retain(|record| !record.message.key.as_str().is_empty());
            }
            if shared.has(Flaw::WaitsTakeARecord) && self.waiting && !records.is_empty() {
                records.remove(0);
                self.waiting = false;
            }
            self.last = records.last().map(|record| record.offset.clone());
            Ok(records)
        })
    }

    fn wait(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.shared.has(Flaw::ReadersSleepOn) {
                pending::<()>().await;
            }
            self.waiting = true;
            let result = self.inner.wait().await;
            if !self.shared.has(Flaw::WaitsTakeARecord) {
                self.waiting = false;
            }
            result
        })
    }

    fn seek(&mut self, to: Position) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.shared.has(Flaw::SeeksNothing) {
                return Ok(());
            }
            match self.inner.seek(to).await {
                Err(error) if self.shared.has(Flaw::FailedSeeksMove) => {
                    self.inner.seek(Position::Latest).await?;
                    Err(error)
                }
                Err(error) if self.takes(&error) => self.inner.seek(Position::Latest).await,
                result => result,
            }
        })
    }

    fn position(&self) -> Option<Offset> {
        if self.shared.has(Flaw::PositionStaysBehind) {
            return self.last.clone();
        }
        self.inner.position()
    }
}
