//! Subscriptions and readers that outlive their sessions.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

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
    opening: Opening<dyn Subscription>,
    /// How often it was opened.
    openings: watch::Sender<u64>,
    stopped: bool,
}

/// What is being opened: kept when its caller gives up, and gone on with by the next, so that who looks
/// in often and shortly gets there too.
struct Opening<T: ?Sized>(Option<BoxFuture<'static, Opened<T>>>);

/// On which session, and what.
type Opened<T> = Result<(Arc<dyn Session>, Box<T>)>;

impl<T: ?Sized> Opening<T> {
    async fn done(&mut self, open: impl FnOnce() -> BoxFuture<'static, Opened<T>>) -> Opened<T> {
        let opened = self.0.get_or_insert_with(open).await;
        self.0 = None;
        opened
    }
}

impl<T: ?Sized> fmt::Debug for Opening<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opening").field(&self.0.is_some()).finish()
    }
}

impl LinkSubscription {
    pub(super) async fn open(link: Link, spec: Subscribe) -> Result<Self> {
        let openings = watch::Sender::new(0);
        let mut subscription =
            Self { link, spec, live: None, opening: Opening(None), openings, stopped: false };
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

    /// How often it was opened: the number grows when it went on in a new session. What a broadcast missed in between
    /// does not come.
    pub fn openings(&self) -> watch::Receiver<u64> {
        self.openings.subscribe()
    }

    /// Stops fetching and gives back what was not handed out. Idempotent.
    pub async fn stop(&mut self) -> Result<()> {
        self.stopped = true;
        self.opening = Opening(None);
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
            let (link, spec) = (&self.link, &self.spec);
            let open = || {
                let (link, spec) = (link.clone(), spec.clone());
                let subscribe = move |session: Arc<dyn Session>| {
                    let spec = spec.clone();
                    async move {
                        bind(&*session, &spec)?;
                        session.subscribe(spec).await
                    }
                };
                async move { link.on_session(subscribe).await }.boxed()
            };
            self.live = Some(self.opening.done(open).await?);
            self.openings.send_modify(|openings| *openings += 1);
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
    opening: Opening<dyn Reader>,
}

impl LinkReader {
    pub(super) async fn open(link: Link, spec: Read) -> Result<Self> {
        let mut reader = Self { link, spec, live: None, opening: Opening(None) };
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
            let (link, spec) = (&self.link, &self.spec);
            let open = || {
                let (link, spec) = (link.clone(), spec.clone());
                let read = move |session: Arc<dyn Session>| {
                    let spec = spec.clone();
                    async move {
                        bind(&*session, &spec)?;
                        session.read(spec).await
                    }
                };
                async move { link.on_session(read).await }.boxed()
            };
            self.live = Some(self.opening.done(open).await?);
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
