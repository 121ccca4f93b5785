//! Values in the memory of this process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{StoreBackend, StoreLock};
use crate::clock::Clock;
use crate::error::Result;

/// What is expired is looked for when there are twice as many values as were left the last time.
const SWEEP_MIN: usize = 1024;

type Name = (String, String);

/// Keeps values for this process alone, for tests and for services with one instance.
#[derive(Clone)]
pub struct MemoryStore {
    name: Option<String>,
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    values: Mutex<Values>,
    locks: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct Values {
    /// Each with the time of the clock at which it is gone.
    of: HashMap<Name, (Bytes, Duration)>,
    sweep_at: usize,
}

static NAMED: LazyLock<Mutex<HashMap<String, Weak<Shared>>>> = LazyLock::new(Mutex::default);

impl MemoryStore {
    /// A store of its own.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { name: None, shared: Shared::new(clock) }
    }

    /// The store of this name, shared by the whole process for as long as somebody holds it; the clock is
    /// that of who comes first.
    pub fn named(name: &str, clock: Arc<dyn Clock>) -> Self {
        let mut named = locked(&NAMED);
        named.retain(|_, shared| shared.strong_count() > 0);
        let shared = named.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let shared = Shared::new(clock);
            named.insert(name.to_owned(), Arc::downgrade(&shared));
            shared
        });
        Self { name: Some(name.to_owned()), shared }
    }
}

impl Shared {
    fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, values: Mutex::default(), locks: Mutex::default() })
    }

    fn put(&self, namespace: &str, entries: Vec<(String, Bytes)>, ttl: Duration) {
        let now = self.clock.monotonic();
        let mut values = locked(&self.values);
        for (key, value) in entries {
            values.of.insert((namespace.to_owned(), key), (value, now.saturating_add(ttl)));
        }
        if values.of.len() >= values.sweep_at.max(SWEEP_MIN) {
            values.of.retain(|_, (_, gone)| *gone > now);
            values.sweep_at = values.of.len() * 2;
        }
    }

    fn get(&self, namespace: &str, key: &str) -> Option<Bytes> {
        let now = self.clock.monotonic();
        let values = locked(&self.values);
        let (value, gone) = values.of.get(&(namespace.to_owned(), key.to_owned()))?;
        (*gone > now).then(|| value.clone())
    }

    fn take(&self, namespace: &str, keys: Vec<String>) -> Option<Vec<Bytes>> {
        let now = self.clock.monotonic();
        let mut values = locked(&self.values);
        let names: Vec<Name> = keys.into_iter().map(|key| (namespace.to_owned(), key)).collect();
        let of = |name| values.of.get(name).filter(|(_, gone)| *gone > now);
        let taken = names.iter().map(|name| of(name).map(|(value, _)| value.clone()));
        let taken = taken.collect::<Option<Vec<_>>>()?;
        for name in &names {
            values.of.remove(name);
        }
        Some(taken)
    }

    fn lock(&self, namespace: &str, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = locked(&self.locks);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry((namespace.to_owned(), key.to_owned())).or_default())
    }
}

impl StoreBackend for MemoryStore {
    fn put<'a>(
        &'a self,
        namespace: &'a str,
        entries: Vec<(String, Bytes)>,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.shared.put(namespace, entries, ttl);
            Ok(())
        })
    }

    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>>> {
        Box::pin(async move { Ok(self.shared.get(namespace, key)) })
    }

    fn take<'a>(
        &'a self,
        namespace: &'a str,
        keys: Vec<String>,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>>> {
        Box::pin(async move { Ok(self.shared.take(namespace, keys)) })
    }

    fn lock<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<StoreLock>> {
        Box::pin(async move {
            let lock = self.shared.lock(namespace, key);
            Ok(StoreLock::new(lock.lock_owned().await))
        })
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory:{}", self.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({self})")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
