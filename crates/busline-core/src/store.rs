//! What keeps temporary values that the instances of a service share, and the keeper in memory.

mod memory;

use std::any::Any;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::Result;

pub use memory::MemoryStore;

/// Keeps values by namespace and key for a while. Every operation is atomic among all processes that
/// share what is behind it, and is tried once.
///
/// Programs use `busline::store`, which puts types on top; this is for those who bring another keeper.
pub trait StoreBackend: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Keeps all of them or none, for this long, in place of what was there. The time is not zero; of a key that
    /// is there twice the last counts.
    ///
    /// Dropped before it is ready, it has happened or has not.
    fn put<'a>(
        &'a self,
        namespace: &'a str,
        entries: Vec<(String, Bytes)>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<()>>;

    /// The value of a key, which stays and does not stay longer for it. Cancel safe.
    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>>;

    /// Takes the values of all these keys out, in this order, or none of them when one is missing.
    ///
    /// Dropped before it is ready, it has happened or has not: what it took is lost then.
    fn take<'a>(
        &'a self,
        namespace: &'a str,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>>>;

    /// Waits, without limit, until nobody else holds the lock of this key, and holds it. Cancel safe.
    ///
    /// What it locks is up to who calls; the other operations do not look at it.
    fn lock<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<StoreLock>>;
}

/// The lock of a key; given back when it is dropped.
pub struct StoreLock(#[allow(dead_code, reason = "it is here to be dropped")] Box<dyn Any + Send>);

impl StoreLock {
    /// A lock that dropping this gives back.
    pub fn new(held: impl Any + Send) -> Self {
        Self(Box::new(held))
    }
}

impl fmt::Debug for StoreLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreLock")
    }
}
