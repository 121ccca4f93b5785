//! The temporary store: values that the instances of a service share for a while.
//!
//! Every operation is atomic, and reading can take the value out, so that one instance alone gets it. Values expire,
//! so that none is forgotten for ever.
//!
//! ```
//! use busline::store::TemporaryStore;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let store = TemporaryStore::open("memory:", "orders:").await?;
//! store.set("4711", &("apples", 3)).await?;
//! assert_eq!(store.pop("4711").await?, Some(("apples".to_owned(), 3)));
//! assert_eq!(store.pop::<(String, u32)>("4711").await?, None);
//! # Ok::<(), busline::Error>(()) }).unwrap();
//! ```
//!
//! | URL | the values are |
//! |---|---|
//! | `file:./bus` | in the directory of the bus, shared by every process on the machine; they survive the end of all of them, and may be gone after a loss of power |
//! | `redis://HOST/0`, `rediss://…`, `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/0` | in Redis, with the keys and values of the Python library eventail, whose services share them (feature `redis`) |
//! | `memory:NAME` | in this process |
//!
//! A service takes it as a state of the app: `App::new("orders").state(store)`, and `State<TemporaryStore>` in its handlers.

use std::sync::Arc;
use std::time::Duration;

use busline_core::{Clock, Error, ErrorKind, Result, SystemClock};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::service::wire::{Body, Format, encode};

pub use busline_core::store::{MemoryStore, StoreBackend, StoreLock};

/// How long values are kept unless told otherwise: 75 hours.
pub const TTL: Duration = Duration::from_secs(270_000);

/// A temporary store, seen through a namespace. All clones are the same store.
#[derive(Debug, Clone)]
pub struct TemporaryStore {
    backend: Arc<dyn StoreBackend>,
    namespace: Arc<str>,
    ttl: Duration,
}

impl TemporaryStore {
    /// Opens the store of a URL and tries it out. The same keys can be used in two namespaces; in Redis namespace and
    /// key are simply put together, so a namespace had better end in a sign that keys do not have.
    ///
    /// Errors: `Limit` for a malformed URL, an unknown scheme or option; `Disconnected`, `Elapsed`, `Unauthorized`,
    /// `Conflict` when the store cannot be used.
    pub async fn open(url: &str, namespace: &str) -> Result<Self> {
        Self::open_with_clock(url, namespace, SystemClock::shared()).await
    }

    /// As [`TemporaryStore::open`], with the clock that waiting and, outside of Redis, expiry go by.
    pub async fn open_with_clock(
        url: &str,
        namespace: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let store = Self::over(busline_transports::registry::store(url, clock)?, namespace);
        store.check().await?;
        Ok(store)
    }

    /// The store that somebody keeps.
    pub fn over(backend: Arc<dyn StoreBackend>, namespace: &str) -> Self {
        Self { backend, namespace: namespace.into(), ttl: TTL }
    }

    /// Keeps values for this long unless told otherwise ([`TTL`]); zero changes nothing.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if !ttl.is_zero() {
            self.ttl = ttl;
        }
        self
    }

    /// Keeps a value, in place of what was there.
    ///
    /// Dropped before it is ready, or failed with `Disconnected` or `Elapsed`, it has happened or has not. It is not tried
    /// again by itself: somebody may have taken the value meanwhile, and would get it twice. `Limit` when CBOR cannot hold
    /// it; errors of the backend.
    pub async fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<()> {
        self.set_for(key, value, self.ttl).await
    }

    /// Keeps a value for this long; zero means as long as any other.
    pub async fn set_for<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        ttl: Duration,
    ) -> Result<()> {
        let entries = vec![(key.to_owned(), self.encoded(key, value)?)];
        self.backend.put(&self.namespace, entries, self.ttl_of(ttl)).await
    }

    /// Keeps several values, all or none of them.
    pub async fn set_all<K: AsRef<str>, T: Serialize>(
        &self,
        values: impl IntoIterator<Item = (K, T)>,
    ) -> Result<()> {
        self.set_all_for(values, self.ttl).await
    }

    /// Keeps several values, all or none of them, for this long; zero means as long as any other.
    pub async fn set_all_for<K: AsRef<str>, T: Serialize>(
        &self,
        values: impl IntoIterator<Item = (K, T)>,
        ttl: Duration,
    ) -> Result<()> {
        let encoded = |(key, value): (K, T)| {
            let key = key.as_ref();
            Ok((key.to_owned(), self.encoded(key, &value)?))
        };
        let entries = values.into_iter().map(encoded).collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Ok(());
        }
        self.backend.put(&self.namespace, entries, self.ttl_of(ttl)).await
    }

    /// The value of a key, which stays; `None` when there is none, or null is kept there. Cancel safe.
    ///
    /// `Damaged` when what is kept is not of this type; errors of the backend.
    pub async fn peek<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.backend.get(&self.namespace, key).await? {
            Some(value) => self.decoded(key, value),
            None => Ok(None),
        }
    }

    /// Takes the value of a key out: of all who call this one alone gets it. `None` when there is none, or null was
    /// kept there.
    ///
    /// Dropped before it is ready, or failed with `Disconnected` or `Elapsed`, it may have taken the value, which is
    /// lost then.
    pub async fn pop<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let taken = self.backend.take(&self.namespace, vec![key.to_owned()]).await?;
        match taken.and_then(|mut values| values.pop()) {
            Some(value) => self.decoded(key, value),
            None => Ok(None),
        }
    }

    /// Takes the values of all these keys out, in their order; `None`, and none is taken, when one is missing. As
    /// [`TemporaryStore::pop`] otherwise; what was null makes it fail unless the type takes it.
    pub async fn pop_all<T: DeserializeOwned>(&self, keys: &[&str]) -> Result<Option<Vec<T>>> {
        let wanted = keys.iter().map(|key| (*key).to_owned()).collect();
        let Some(values) = self.backend.take(&self.namespace, wanted).await? else {
            return Ok(None);
        };
        let values = keys.iter().zip(values).map(|(key, value)| self.decoded(key, value));
        values.collect::<Result<Vec<T>>>().map(Some)
    }

    /// The value of a key; when there is none, `create` makes it while everybody else who asks for it waits.
    ///
    /// When `create` fails, nothing is kept and the next who waits makes it. Cancel safe: what was not kept yet is
    /// made by the next. In Redis, a Python instance that waits for the same key waits too.
    pub async fn peek_or_create<T, E>(
        &self,
        key: &str,
        create: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<Error>,
    {
        let _lock = self.backend.lock(&self.namespace, key).await?;
        if let Some(value) = self.peek(key).await? {
            return Ok(value);
        }
        let value = create().await?;
        self.set(key, &value).await?;
        Ok(value)
    }

    /// Keeps a value and takes it out again; the error says why the store cannot be used.
    pub async fn check(&self) -> Result<()> {
        // The namespace is there twice, as on the Python side.
        let key = format!("{}health {}", self.namespace, busline_core::new_message_id());
        self.set(&key, "health").await?;
        match self.pop::<String>(&key).await?.as_deref() {
            Some("health") => Ok(()),
            found => {
                Err(Error::new(ErrorKind::Damaged, "the store gives back what it was not given")
                    .context("store", &self.backend)
                    .context("value", found.unwrap_or("none")))
            }
        }
    }

    fn ttl_of(&self, ttl: Duration) -> Duration {
        if ttl.is_zero() { self.ttl } else { ttl }
    }

    fn encoded<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<Bytes> {
        encode(Format::Cbor, value).map_err(|error| self.about(error, key))
    }

    fn decoded<T: DeserializeOwned>(&self, key: &str, value: Bytes) -> Result<T> {
        let decoded = Body::new(Format::Cbor, value).and_then(|body| body.decode());
        decoded.map_err(|error| {
            let what = "the value in the store is not of the type that is asked for";
            self.about(Error::new(ErrorKind::Damaged, what).source(error), key)
        })
    }

    fn about(&self, error: Error, key: &str) -> Error {
        error.context("store", &self.backend).context("key", key)
    }
}
