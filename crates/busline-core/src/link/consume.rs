//! Subscriptions and readers that outlive their sessions.

use std::sync::Arc;

use super::{Link, bind};
use crate::delivery::{Delivery, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::offset::{Offset, Position};
use crate::transport::{Read, Reader, Role, Session, Subscribe, Subscription};

/// A subscription that subscribes again when its session is lost.
///
/// Deliveries of the lost session resolve to `Lost` when settled; their messages come again.
#[derive(Debug)]
pub struct LinkSubscription {
    link: Link,
    spec: Subscribe,
    live: Option<(Arc<dyn Session>, Box<dyn Subscription>)>,
    stopped: bool,
}

impl LinkSubscription {
    pub(super) async fn open(link: Link, spec: Subscribe) -> Result<Self> {
        let mut subscription = Self { link, spec, live: None, stopped: false };
        subscription.ensure().await?;
        Ok(subscription)
    }

    /// The next chunk, never empty; `None` after [`LinkSubscription::stop`]. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Vec<Delivery>>> {
        loop {
            if self.live.is_none() && self.stopped {
                return Ok(None);
            }
            let (_, subscription) = self.ensure().await?;
            match subscription.next().await {
                Err(error) if error.kind() == ErrorKind::Disconnected => self.lose().await,
                result => return result,
            }
        }
    }

    /// Stops fetching and gives back what was not handed out. Idempotent.
    pub async fn stop(&mut self) -> Result<()> {
        self.stopped = true;
        let Some((_, subscription)) = &mut self.live else { return Ok(()) };
        match subscription.stop().await {
            Err(error) if error.kind() == ErrorKind::Disconnected => {
                self.live = None;
                Ok(())
            }
            result => result,
        }
    }

    async fn ensure(&mut self) -> Result<&mut (Arc<dyn Session>, Box<dyn Subscription>)> {
        if self.live.is_none() {
            let spec = &self.spec;
            let subscribe = |session: Arc<dyn Session>| async move {
                bind(&*session, spec)?;
                session.subscribe(spec.clone()).await
            };
            self.live = Some(self.link.on_session(subscribe).await?);
        }
        self.live.as_mut().ok_or_else(not_there)
    }

    async fn lose(&mut self) {
        if let Some((session, _)) = self.live.take() {
            self.link.forget(Role::Consume, &session).await;
        }
    }
}

/// A reader that opens again where it was when its session is lost.
#[derive(Debug)]
pub struct LinkReader {
    link: Link,
    spec: Read,
    live: Option<(Arc<dyn Session>, Box<dyn Reader>)>,
}

impl LinkReader {
    pub(super) async fn open(link: Link, spec: Read) -> Result<Self> {
        let mut reader = Self { link, spec, live: None };
        reader.ensure().await?;
        Ok(reader)
    }

    /// What is there now, at most a chunk; empty at the end of the log. Cancel safe.
    pub async fn next(&mut self) -> Result<Vec<Record>> {
        loop {
            let (_, reader) = self.ensure().await?;
            match reader.next().await {
                Err(error) if error.kind() == ErrorKind::Disconnected => self.lose().await,
                result => return result,
            }
        }
    }

    /// Waits until there may be more. Cancel safe.
    pub async fn wait(&mut self) -> Result<()> {
        let (_, reader) = self.ensure().await?;
        match reader.wait().await {
            Err(error) if error.kind() == ErrorKind::Disconnected => {
                self.lose().await;
                Ok(())
            }
            result => result,
        }
    }

    /// Goes elsewhere.
    pub async fn seek(&mut self, to: Position) -> Result<()> {
        loop {
            let (_, reader) = self.ensure().await?;
            match reader.seek(to.clone()).await {
                Err(error) if error.kind() == ErrorKind::Disconnected => self.lose().await,
                result => return result,
            }
        }
    }

    /// The place of the record that `next` looks at first.
    pub fn position(&self) -> Option<Offset> {
        self.live.as_ref().and_then(|(_, reader)| reader.position())
    }

    async fn ensure(&mut self) -> Result<&mut (Arc<dyn Session>, Box<dyn Reader>)> {
        if self.live.is_none() {
            let spec = &self.spec;
            let read = |session: Arc<dyn Session>| async move {
                bind(&*session, spec)?;
                session.read(spec.clone()).await
            };
            self.live = Some(self.link.on_session(read).await?);
        }
        self.live.as_mut().ok_or_else(not_there)
    }

    async fn lose(&mut self) {
        if let Some(position) = self.position() {
            self.spec.from = Position::Offset(position);
        }
        if let Some((session, _)) = self.live.take() {
            self.link.forget(Role::Consume, &session).await;
        }
    }
}

fn not_there() -> Error {
    Error::new(ErrorKind::Disconnected, "there is no session")
}
